"""A blob under way on the disk: its file, its threads, its note, and what a full disk does to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.errors import NotHeld
from appliance.flow.threads import InlineThreads
from appliance.interfaces import IIngest, IThreads, Origin
from appliance.oci.digest import Digest
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership

DATA = b"0123456789" * 1000
DIGEST = Digest.of(DATA)


@implementer(IThreads)
class SlowThreads:
    """Work waits until it is let go."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """See L{IThreads.call}."""
        deferred: Deferred[Any] = Deferred()
        self.waiting.append((deferred, lambda: function(*args)))
        return deferred

    def work(self) -> None:
        """Do what waits, and deliver it."""
        waiting, self.waiting = self.waiting, []
        for deferred, function in waiting:
            execute(function).addBoth(deferred.callback)


def result(deferred: Deferred[Any]) -> Any:
    outcome: list[Any] = []
    deferred.addBoth(outcome.append)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]


def opened(root: Path, threads: Any = None) -> FilesystemBlobStore:
    Ownership.claim(root).release()
    return FilesystemBlobStore(root, threads or InlineThreads())


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def slow(tmp_path: Path) -> tuple[SlowThreads, IIngest]:
    """An ingest whose next work waits."""
    threads = SlowThreads()
    loading = opened(tmp_path, threads).ingest(DIGEST)
    threads.work()
    return threads, result(loading)


def test_a_close_waits_for_the_write_under_way(slow: tuple[SlowThreads, IIngest], tmp_path: Path) -> None:
    """Else its bytes would go into whatever file is opened next under the same number."""
    threads, ingest = slow
    fd = ingest.file.fd
    writing = ingest.write([DATA])
    ingest.close()
    assert is_open(fd)
    threads.work()
    result(writing)
    assert not is_open(fd)
    assert (tmp_path / "partial" / DIGEST.file_name).read_bytes() == DATA


def test_a_cancelled_write_keeps_its_file_open_until_it_ends(slow: tuple[SlowThreads, IIngest]) -> None:
    """Cancelling does not stop the thread, so it must not take the file away from it."""
    threads, ingest = slow
    fd = ingest.file.fd
    writing = ingest.write([DATA])
    writing.cancel()
    with pytest.raises(CancelledError):
        result(writing)
    ingest.close()
    assert is_open(fd)
    threads.work()
    assert not is_open(fd)
    assert ingest.size == len(DATA)


def test_a_commit_cut_off_by_a_stop_still_commits(slow: tuple[SlowThreads, IIngest], tmp_path: Path) -> None:
    """A stop that comes while the blob is being made durable loses nothing."""
    threads, ingest = slow
    writing = ingest.write([DATA])
    threads.work()
    result(writing)
    fd = ingest.file.fd
    committing = ingest.commit()
    committing.cancel()
    with pytest.raises(CancelledError):
        result(committing)
    ingest.close()
    threads.work()
    assert not is_open(fd)
    assert result(opened(tmp_path).read(DIGEST, len(DATA))) == DATA


def test_many_small_pieces_are_written_in_order(tmp_path: Path) -> None:
    """More pieces than one system call takes."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write([DATA[i : i + 3] for i in range(0, len(DATA), 3)]))
    result(ingest.commit())


def test_a_disk_that_takes_a_part_at_a_time_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short writes are normal on a disk that is nearly full."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    pwrite, pwritev = os.pwrite, os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, at: pwritev(fd, [pieces[0][:7]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:999], at))
    result(ingest.write([DATA[:5000], DATA[5000:]]))
    monkeypatch.undo()
    assert ingest.size == len(DATA)
    result(ingest.commit())


def test_a_write_that_failed_half_way_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk took before it refused is neither counted nor hashed twice."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    pwritev = os.pwritev

    def refuse(*_: object) -> int:
        raise OSError(28, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda fd, pieces, at: pwritev(fd, [pieces[0][:7]], at))
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(OSError, match="no room"):
            result(ingest.write([DATA]))
    assert ingest.size == 0
    result(ingest.write([DATA]))
    result(ingest.commit())


@pytest.mark.parametrize(
    "note", [b"", b"\0" * 60, b"[]", b'{"upstream": 1}', b'{"upstream":"\xff","repository":""}', b"["]
)
def test_a_note_that_cannot_be_read_costs_only_the_resumption(tmp_path: Path, note: bytes) -> None:
    """It is not synced, so a power cut may leave anything in it."""
    store = opened(tmp_path)
    ingest = result(store.ingest(DIGEST))
    result(ingest.note(Origin("docker.io", "library/nginx", 5)))
    ingest.close()
    (tmp_path / "partial" / f"{DIGEST.file_name}.json").write_bytes(note)
    again = result(store.ingest(DIGEST))
    assert again.origin is None
    result(again.discard())


def test_a_beginning_that_cannot_be_read_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector under a beginning does not use up the process's files, one an attempt."""
    store = opened(tmp_path)

    def refuse(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "pread", refuse)
    with pytest.raises(OSError, match="Input/output"):
        result(store.ingest(DIGEST))
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_foreign_files_are_no_blobs_under_way(tmp_path: Path) -> None:
    """Notes, temporary files and what somebody put there are not taken for beginnings."""
    store = opened(tmp_path)
    result(store.ingest(DIGEST)).close()
    for name in ("README", "sha256-short", "sha256-" + "z" * 64, "md5-" + "a" * 32, f"{DIGEST.file_name}.json", "-"):
        (tmp_path / "partial" / name).write_bytes(b"")
    assert store.unfinished() == [DIGEST]


def test_the_size_of_the_store_is_what_was_there_and_what_came(tmp_path: Path) -> None:
    """The number an operator sees survives a restart, and a blob fetched twice counts once."""
    store = opened(tmp_path)
    result(store.put(Digest.of(b"abc"), b"abc"))
    store = opened(tmp_path)
    result(store.measure())
    for _ in range(2):
        ingest = result(store.ingest(DIGEST))
        result(ingest.write([DATA]))
        result(ingest.commit())
    result(store.put(Digest.of(b"abc", "sha512"), b"abc"))
    assert store.total() == len(DATA) + 6


def test_the_probe_says_why_the_store_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a lost mount is told, and asking every second leaves nothing behind."""
    store = opened(tmp_path)
    result(store.probe())

    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            result(store.probe())
    assert os.listdir(tmp_path / "partial") == []
    (tmp_path / "partial").rmdir()
    with pytest.raises(OSError, match="partial"):
        result(store.probe())


def test_a_blob_that_vanished_is_not_held(tmp_path: Path) -> None:
    """What somebody deleted by hand is fetched again, not an internal error."""
    store = opened(tmp_path)
    result(store.put(DIGEST, DATA))
    (tmp_path / "blobs" / "sha256" / DIGEST.encoded).unlink()
    assert store.size(DIGEST) is None
    with pytest.raises(NotHeld):
        store.open(DIGEST)
