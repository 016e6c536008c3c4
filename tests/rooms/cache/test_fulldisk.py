"""
A real store on a disk that refuses: whatever is written on the way of a pull, by whichever call and with whichever
error, clients get what their upstream has; and when the disk takes things again, all is as if nothing had been.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.cache.manifests import ManifestAnswer
from appliance.flow.disk import InlineThreads
from appliance.index.documents import FilesystemDocuments
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.settings import PrefetchSettings
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership
from tests.doubles.deferreds import begin, result
from tests.doubles.disk import CALLS, Disk
from tests.doubles.manifests import CONFIG, image, index
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream

HUB = "docker.io"
LAYER = bytes(range(256)) * 3000
IMAGE = image(LAYER)
LIST = index(IMAGE)
REFUSALS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)


class Site:
    """An appliance's cache over a folder, before an upstream with one image of one platform."""

    def __init__(self, root: Path, **more: Any) -> None:
        Ownership.claim(root).release()
        self.root = root
        self.upstream = ScriptedUpstream()
        self.upstream.by_hand = True
        self.upstream.add_manifest("app", LIST, OCI_INDEX, "latest")
        self.upstream.add_manifest("app", IMAGE, OCI_MANIFEST)
        self.upstream.add_referrers("app", Digest.of(IMAGE))
        for blob in (CONFIG, LAYER):
            self.upstream.add_blob("app", blob)
        self.cache = self.restart(**more)

    def restart(self, **more: Any) -> Cache:
        """The process that comes next."""
        threads = InlineThreads()
        store, documents = FilesystemBlobStore(self.root, threads), FilesystemDocuments(self.root, threads)
        return Cache(self.upstream, store=store, documents=documents, **more)

    def manifest(self, reference: str | Digest, data: bytes) -> ManifestAnswer:
        """As a client, which looks at the bytes."""
        cache = self.cache
        asked = cache.through.manifest(cache.at(HUB, "app"), reference, pulled=True)
        answer: ManifestAnswer = result(asked)
        assert (answer.data, answer.digest) == (data, Digest.of(data))
        return answer

    def blob(self, data: bytes) -> str:
        """As a client, which reads all of it; what its C{Cache-Status} says."""
        digest = Digest.of(data)
        size = result(self.cache.through.blob_size(self.cache.at(HUB, "app"), digest)).size
        answer: Any = result(self.cache.through.blob(self.cache.at(HUB, "app"), digest))
        if answer.growth is not None:
            self.upstream.bodies[-1].complete()
        assert size == answer.size == len(data)
        read = b""
        while len(read) < len(data):
            assert answer.growth is None or answer.growth.available == len(data)
            read += result(answer.reader.read(len(read), len(data)))
        answer.close()
        assert read == data
        return str(answer.status)

    def pull(self) -> None:
        """All of it, as a client does: tag, digests, blobs; and the lists."""
        self.manifest("latest", LIST)
        self.manifest(Digest.of(LIST), LIST)
        self.manifest(Digest.of(IMAGE), IMAGE)
        for blob in (CONFIG, LAYER):
            self.blob(blob)
        remote = self.cache.at(HUB, "app")
        assert result(self.cache.through.tags(remote)).tags == ["latest"]
        assert result(self.cache.through.referrers(remote, Digest.of(IMAGE))).referrers == []
        self.cache.clock.advance(1.0)
        services = self.cache.services
        result(services.repositories.flush())
        for kept in (services.wants, services.usage, services.prefetch):
            begin(kept.flush()).addErrback(lambda failure: failure.trap(OSError))

    def is_whole(self) -> bool:
        """Whether a new process, which asks no upstream, serves all of it."""
        after = self.restart(offline=True)
        remote = after.at(HUB, "app")
        held = result(after.through.manifest(remote, "latest")).data, result(
            after.through.manifest(remote, Digest.of(IMAGE))
        ).data
        blobs = [result(after.through.blob(remote, Digest.of(each))) for each in (CONFIG, LAYER)]
        for each in blobs:
            each.close()
        return held == (LIST, IMAGE) and [each.size for each in blobs] == [len(CONFIG), len(LAYER)]


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", [*CALLS, "everything"])
def test_no_write_that_is_refused_fails_a_pull(
    tmp_path: Path, number: int, call: str, logged_errors: list[Any]
) -> None:
    """Cold, twice, with one kind of call refused or all of them; afterwards all of it is stored."""
    site, disk = Site(tmp_path), Disk(tmp_path)
    with disk.mounted():
        disk.refuse_all(number, *(CALLS if call == "everything" else (call,)))
        site.pull()
        site.pull()
        disk.refuse = None
        site.cache.clock.advance(120.0)
        site.pull()
    assert site.is_whole()
    Ownership.claim(tmp_path).release()
    assert list((tmp_path / "partial").iterdir()) == []
    assert logged_errors == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_no_single_write_on_the_way_matters(tmp_path: Path, number: int, logged_errors: list[Any]) -> None:
    """Each call of a pull is refused once; the pull is right, and the next one stores what is missing."""
    count = 0
    while True:
        root = tmp_path / str(count)
        root.mkdir()
        site, disk = Site(root), Disk(root)
        with disk.mounted():
            disk.refuse = lambda call, at=count, calls=disk.calls: number if len(calls) == at + 1 else None
            site.pull()
            made = len(disk.calls)
            disk.refuse = None
            site.cache.clock.advance(120.0)
            site.pull()
        assert site.is_whole(), count
        if made <= count:
            break
        count += 1
    assert count > 20
    assert logged_errors == []


def test_a_manifest_that_is_not_stored_is_passed_on(tmp_path: Path) -> None:
    """It says so; the client's next request for it causes no second GET, and nothing is noted of it."""
    site, disk = Site(tmp_path), Disk(tmp_path)
    with disk.mounted():
        disk.refuse_all(errno.ENOSPC)
        first = site.manifest("latest", LIST)
        assert str(first.status) == "pullcache; fwd=uri-miss; detail=no-space"
        assert first.fresh_until == 0.0
        again = site.manifest(Digest.of(LIST), LIST)
        assert str(again.status) == "pullcache; fwd=uri-miss; detail=no-space"
        assert len(site.upstream.asked("manifest")) == 1
        repository = result(site.cache.repositories.get(HUB, "app"))
        assert not repository.tags and not repository.manifests
        assert site.blob(LAYER) == "pullcache; fwd=uri-miss; detail=no-space"
        assert site.cache.services.space.unstored == 2 * len(LIST) + len(LAYER)
        disk.refuse = None
        assert str(site.manifest(Digest.of(LIST), LIST).status) == "pullcache; fwd=uri-miss; stored"
        assert len(site.upstream.asked("manifest")) == 1


def test_what_a_manifest_that_is_not_stored_names_has_a_size(tmp_path: Path) -> None:
    """An upstream that sends blobs without a length: the response is promised by the descriptor."""
    site, disk = Site(tmp_path), Disk(tmp_path)
    site.upstream.tells_size = False
    with disk.mounted():
        disk.refuse_all(errno.ENOSPC)
        site.manifest("latest", LIST)
        site.manifest(Digest.of(IMAGE), IMAGE)
        assert site.blob(LAYER) == "pullcache; fwd=uri-miss; detail=no-space"
        answer: Any = result(site.cache.through.blob(site.cache.at(HUB, "app"), Digest.of(LAYER)))
        assert answer.size == len(LAYER) and answer.growth.available == 0
        answer.close()
        result(site.cache.flights.stop())


def test_a_tag_that_moved_to_what_cannot_be_stored_says_what_it_means_now(tmp_path: Path) -> None:
    """The new manifest is passed on; what is held stays, for when the upstream is gone."""
    site, disk = Site(tmp_path), Disk(tmp_path)
    site.pull()
    moved = index(IMAGE, image(b"more"))
    site.upstream.add_manifest("app", moved, OCI_INDEX, "latest")
    site.cache.clock.advance(120.0)
    with disk.mounted():
        disk.refuse_all(errno.EDQUOT)
        answer = site.manifest("latest", moved)
        assert str(answer.status) == "pullcache; fwd=stale; fwd-status=200; detail=no-space"
        site.manifest("latest", moved)
    assert site.is_whole()


def test_what_the_index_cannot_be_told_is_told_later(tmp_path: Path) -> None:
    """The blobs have room, the documents have none: all is served as held, and saved when there is room."""
    site, disk = Site(tmp_path), Disk(tmp_path)
    with disk.mounted():
        disk.refuse_all(errno.ENOSPC, within="repositories")
        assert site.manifest("latest", LIST).status.stored
        assert str(site.manifest("latest", LIST).status) == "pullcache; hit"
        disk.refuse = None
        result(site.cache.repositories.flush())
    assert result(site.restart(offline=True).through.manifest(site.cache.at(HUB, "app"), "latest")).data == LIST


def test_nothing_is_fetched_ahead_while_space_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no client waits for is left alone, and made up for when there is room."""
    site = Site(tmp_path, prefetch=PrefetchSettings())
    real, short = os.statvfs(tmp_path), [True]

    def statvfs(path: Any) -> os.statvfs_result:
        free = 3 if short[0] else real.f_blocks
        return os.statvfs_result((*real[:3], free, free, *real[5:10]))

    monkeypatch.setattr(os, "statvfs", statvfs)
    site.cache.services.space.look()
    short[0] = False
    site.manifest("latest", LIST)
    site.manifest(Digest.of(IMAGE), IMAGE)
    short[0] = True
    for _ in range(10):
        site.cache.clock.advance(5.0)
    assert site.upstream.asked("blob") == []
    short[0] = False
    site.upstream.by_hand = False
    for _ in range(20):
        site.cache.clock.advance(5.0)
    assert len(site.upstream.asked("blob")) == 2


def test_a_disk_that_is_full_or_read_only_is_ready(tmp_path: Path) -> None:
    """What is held is served, what is pulled is passed on; a store that cannot be read, or a broken disk, is not."""
    site, disk = Site(tmp_path), Disk(tmp_path)
    store: Any = site.cache.store
    with disk.mounted():
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            disk.refuse_all(number)
            result(store.probe())
        disk.refuse_all(errno.EIO)
        with pytest.raises(OSError):
            result(store.probe())


def test_a_start_on_a_full_or_read_only_disk_needs_no_room(tmp_path: Path) -> None:
    """Whatever an earlier process left; also of a version that knew one folder less."""
    site, disk = Site(tmp_path), Disk(tmp_path)
    site.pull()
    (tmp_path / "damaged").rmdir()
    (tmp_path / "partial" / "left.tmp").write_bytes(b"of an earlier process")
    for number in (errno.ENOSPC, errno.EROFS):
        with disk.mounted():
            disk.refuse_all(number)
            Ownership.claim(tmp_path).release()
            assert site.is_whole()
            assert result(site.cache.store.damaged()) == []
