"""Which blobs are in use, and what was while somebody watched; a blob that is about to go is looked for."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import NotHeld
from appliance.flow.disk import InlineThreads
from appliance.interfaces import IThreads
from appliance.oci.digest import Digest
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.leases import Lease, Leases, Watch
from appliance.store.ownership import FOLDERS
from tests.doubles.deferreds import result
from tests.doubles.threads import HeldThreads

DATA = b"a layer"
DIGESTS = [Digest.of(bytes([number])) for number in range(4)]
DIGEST = Digest.of(DATA)


@given(st.lists(st.tuples(st.sampled_from(["take", "add", "close", "watch", "unwatch"]), st.integers(0, 3))))
def test_in_use_is_what_some_lease_is_open_on(steps: list[tuple[str, int]]) -> None:
    """And seen is all that was at any moment since the watch began, however leases and watches overlap."""
    leases = Leases()
    open_leases: list[tuple[Lease, set[Digest]]] = []
    watches: list[tuple[Watch, set[Digest]]] = []
    for what, number in steps:
        digest = DIGESTS[number]
        if what == "take":
            wanted = DIGESTS[: number + 1]
            open_leases.append((leases.take(wanted), set(wanted)))
        elif what == "add" and open_leases:
            open_leases[-1][0].add(digest)
            open_leases[-1][1].add(digest)
        elif what == "close" and open_leases:
            lease, _ = open_leases.pop(number % len(open_leases))
            lease.close()
            lease.close()
        elif what == "watch":
            watches.append((leases.watch(), set()))
        elif what == "unwatch" and watches:
            watch, _ = watches.pop(number % len(watches))
            watch.close()
            watch.close()
        used = set().union(*(digests for _, digests in open_leases))
        assert {each for each in DIGESTS if each in leases} == used
        assert len(leases) == len(used)
        for watch, seen in watches:
            seen |= used
            assert {each for each in DIGESTS if each in watch} == seen


def opened(folder: Path, threads: IThreads) -> FilesystemBlobStore:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return FilesystemBlobStore(folder, threads)


def test_what_is_about_to_go_is_not_found(tmp_path: Path) -> None:
    """From the moment that this was decided, although its file is still there: nothing refers to it any more."""
    result(opened(tmp_path, InlineThreads()).put(DIGEST, DATA))
    threads = HeldThreads()
    store = opened(tmp_path, threads)
    deleting = store.delete(DIGEST)
    assert store.size(DIGEST) is None
    with pytest.raises(NotHeld):
        store.open(DIGEST)
    threads.work()
    result(deleting)
    assert store.size(DIGEST) is None


def test_what_comes_while_it_goes_stays(tmp_path: Path) -> None:
    """A blob that is put or received at just that moment is not removed with the file that was there before."""
    for way in ("put", "ingest"):
        result(opened(tmp_path, InlineThreads()).put(DIGEST, DATA))
        threads = HeldThreads()
        store = opened(tmp_path, threads)
        measuring = store.measure()
        while threads.waiting:
            threads.work()
        result(measuring)
        deleting = store.delete(DIGEST)
        coming = store.put(DIGEST, DATA) if way == "put" else store.ingest(DIGEST)
        # The threads are free to take the newer work first.
        threads.waiting.reverse()
        while threads.waiting:
            threads.work()
        result(deleting)
        if way == "ingest":
            ingest = result(coming)
            steps = [ingest.write([DATA]), ingest.commit()]
            while threads.waiting:
                threads.work()
            for step in steps:
                result(step)
        else:
            result(coming)
        assert store.size(DIGEST) == store.total() == len(DATA)


def test_a_blob_that_the_disk_does_not_remove_keeps_no_other(tmp_path: Path) -> None:
    """The others go, and it is said."""
    store = opened(tmp_path, InlineThreads())
    for data in (b"a", b"b"):
        result(store.put(Digest.of(data), data))
    stubborn = tmp_path / "blobs" / "sha256" / DIGEST.encoded
    (stubborn / "below").mkdir(parents=True)
    with pytest.raises(OSError):
        result(store.delete(Digest.of(b"a"), DIGEST, Digest.of(b"b")))
    assert store.size(Digest.of(b"a")) is store.size(Digest.of(b"b")) is None
    assert store.total() == 0


def test_a_walk_corrects_the_sum_when_files_were_removed_by_hand(tmp_path: Path) -> None:
    """An operator who removes files with rm sees the right size after the next look."""
    store = opened(tmp_path, InlineThreads())
    for data in (b"a", b"bb"):
        result(store.put(Digest.of(data), data))
    (tmp_path / "blobs" / "sha256" / Digest.of(b"bb").encoded).unlink()
    (tmp_path / "blobs" / "sha256" / "README").write_bytes(b"not ours")
    assert store.total() == 3
    result(store.measure())
    assert store.total() == 1


@given(st.data())
def test_the_sum_is_right_whatever_comes_and_goes_during_a_walk(data: st.DataObject) -> None:
    """Counted already or not, removed and back again."""
    with TemporaryDirectory() as folder:
        blobs = {Digest.of(bytes([number])): bytes([number]) for number in range(6)}
        seeded = opened(Path(folder), InlineThreads())
        for digest in list(blobs)[:4]:
            result(seeded.put(digest, blobs[digest]))
        threads = HeldThreads()
        store = opened(Path(folder), threads)
        measuring = store.measure()
        for _ in range(data.draw(st.integers(0, 8))):
            digest = data.draw(st.sampled_from(sorted(blobs)))
            change = store.delete(digest) if data.draw(st.booleans()) else store.put(digest, blobs[digest])
            if data.draw(st.booleans()):
                threads.waiting.reverse()
            while not change.called:
                threads.step()
        while threads.waiting:
            threads.work()
        result(measuring)
        assert store.total() == sum(len(each) for digest, each in blobs.items() if store.size(digest) is not None)
