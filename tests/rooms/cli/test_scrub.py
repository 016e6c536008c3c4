"""C{pullcache scrub}: what it prints and how it ends, over an appliance and in the store of a stopped one."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.flow.disk import InlineThreads
from appliance.index.documents import FilesystemDocuments, StateFile
from appliance.index.repositories import Repositories
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership
from tests.doubles.deferreds import result
from tests.doubles.manifests import CONFIG, image
from tests.rooms.cli.runs import Answer, Appliance, ask, run

LAYER = b"a layer" * 1000
IMAGE = image(LAYER)
DIGEST = Digest.of(LAYER)
REPORT = {"checked": 3, "bytes": 1000, "unread": 0, "damaged": [], "began": "2026-11-21T10:00:00Z", "finished": None}


def answer(*damaged: dict[str, object], unread: int = 0) -> Answer:
    report = {**REPORT, "damaged": damaged, "unread": unread}
    lines = ({"stage": "checking", "done": 0, "total": 1000, "damaged": 0}, {"report": report})
    return Answer(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [("fetched", 0, "fetched again"), ("unreferenced", 0, "no image needs it"), ("wanted", 1, "among the wants")],
)
def test_each_damaged_digest_is_printed_and_the_status_says_whether_one_is_lacking(
    outcome: str, code: int, said: str
) -> None:
    """0 when nothing is damaged any more, 1 when something is."""
    appliance = Appliance({"POST scrubs": answer({"digest": str(DIGEST), "bytes": 7000, "outcome": outcome})})
    ended = ask(appliance, "scrub", "--rate", "50MB/s")
    assert ended.code == code and str(DIGEST) in ended.out and said in ended.out
    assert appliance.asked[-1].json() == {"rate": 50_000_000}
    document = json.loads(ask(appliance, "--json", "scrub").out)
    assert document["damaged"] == [{"digest": str(DIGEST), "bytes": 7000, "outcome": outcome}]
    assert appliance.asked[-1].json() == {"rate": None}


def test_what_could_not_be_read_is_no_success() -> None:
    """Of that nothing is known."""
    assert ask(Appliance({"POST scrubs": answer(unread=1)}), "scrub").code == 1
    assert ask(Appliance({"POST scrubs": answer()}), "scrub").code == 0


def test_a_rate_without_a_unit_is_wrong_usage() -> None:
    """As in the configuration."""
    ended = run("scrub", "--rate", "50")
    assert ended.code == 2 and "no rate" in ended.err


# -- in the store of a stopped appliance ------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that holds an image that a bundle brought."""
    root = tmp_path / "store"
    Ownership.claim(root).release()
    blobs = FilesystemBlobStore(root, InlineThreads())
    for data in (CONFIG, LAYER, IMAGE):
        result(blobs.put(Digest.of(data), data))
    repositories = Repositories(FilesystemDocuments(root, InlineThreads()))
    repository = result(repositories.get("docker.io", "library/app"))
    repository.hold(Digest.of(IMAGE), OCI_MANIFEST, len(IMAGE))
    repository.tag("latest", Digest.of(IMAGE), 1.0, "a-bundle")
    result(repositories.save(repository))
    return root


def flip(store: Path, digest: Digest) -> Path:
    path = store / "blobs" / "sha256" / digest.encoded
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_a_store_without_damage_is_as_it_was(store: Path) -> None:
    """Exit 0, and nothing is among the wants."""
    ended = run("scrub", "--store", str(store))
    assert ended.code == 0 and "3 blobs" in ended.out and "0 damaged" in ended.out
    assert not (store / "state" / "wants.json").exists()
    assert run("scrub", "--rate", "10MB/s", "--store", str(store)).code == 0


@pytest.mark.parametrize("data", [LAYER, IMAGE], ids=["layer", "manifest"])
def test_what_is_damaged_is_set_aside_and_among_the_wants(
    store: Path, data: bytes, logged_errors: list[Any]
) -> None:
    """Exit 1, with the digest, also the second time; the next start knows what is lacking."""
    digest = Digest.of(data)
    path = flip(store, digest)
    for _ in range(2):
        ended = run("--json", "scrub", "--store", str(store))
        document = json.loads(ended.out)
        assert ended.code == 1
        assert document["damaged"] == [{"digest": str(digest), "bytes": len(data), "outcome": "wanted"}]
        assert not path.exists() and (store / "damaged" / digest.file_name).exists()
        [want] = json.loads((store / "state" / "wants.json").read_bytes())
        assert (want["upstream"], want["repository"], want["reference"], want["reason"], want["count"]) == (
            "docker.io",
            "library/app",
            str(digest),
            "damaged",
            1,
        )
    result(FilesystemBlobStore(store, InlineThreads()).put(digest, data))
    assert run("scrub", "--store", str(store)).code == 0
    logged_errors.clear()


def test_what_no_image_needs_is_set_aside_and_that_is_all(store: Path, logged_errors: list[Any]) -> None:
    """Nothing is damaged any more."""
    (store / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"what is left of an image")
    ended = run("scrub", "--store", str(store))
    assert ended.code == 0 and "no image needs it" in ended.out
    assert (store / "damaged" / f"sha256-{'0' * 64}").exists()
    ended = run("scrub", "--store", str(store))
    assert ended.code == 0 and "0 damaged" in ended.out
    logged_errors.clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_writes_belongs_to_the_service(store: Path, logged_errors: list[Any]) -> None:
    """It runs as a user of its own, and would else find what it cannot change."""
    service = 65534
    for path in (store, *store.rglob("*")):
        os.chown(path, service, service, follow_symlinks=False)
    (store / "damaged").rmdir()
    flip(store, Digest.of(IMAGE))
    assert run("scrub", "--store", str(store)).code == 1
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in store.rglob("*")} == {(service, service)}
    assert (store / "damaged").exists() and (store / "state" / "wants.json").exists()
    logged_errors.clear()


def test_a_store_that_cannot_be_written_is_hashed_all_the_same(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is worth more than the note of it."""

    async def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(StateFile, "flush", refused)
    ended = run("scrub", "--store", str(store))
    assert ended.code == 1 and "3 blobs" in ended.out
    assert f"could not be noted in {store} (Read-only file system)" in ended.err


def test_a_store_in_use_is_left_alone(store: Path) -> None:
    """One process owns a store; the running appliance scrubs it itself."""
    owner = Ownership.claim(store)
    ended = run("scrub", "--store", str(store))
    assert ended.code == 1 and "owned by another process" in ended.err
    owner.release()


def test_what_is_no_store_does_not_become_one(tmp_path: Path) -> None:
    """A path that was mistyped is said to be so."""
    ended = run("scrub", "--store", str(tmp_path / "typo"))
    assert ended.code == 1 and "is no store of pullcache" in ended.err
    assert not (tmp_path / "typo").exists()
