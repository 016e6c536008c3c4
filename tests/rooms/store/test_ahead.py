"""Bytes that are written ahead of the contiguous beginning of a blob."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError

from appliance.errors import NotHeld
from appliance.interfaces import IIngest, Origin
from appliance.oci.digest import Digest
from appliance.store.files import SharedFile
from tests.doubles.deferreds import result
from tests.doubles.threads import HeldThreads
from tests.rooms.store.partials import DATA, DIGEST, descriptors, opened, refuse


def test_bytes_ahead_have_no_name_and_the_file_no_hole(tmp_path: Path) -> None:
    """Whatever kills the process or the power, there is nothing to be mistaken for the blob, or to sweep."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write([DATA[:10]]))
    result(ingest.write_ahead(5000, [DATA[5000:6000]]))
    assert os.listdir(tmp_path / "partial") == [DIGEST.file_name]
    assert (tmp_path / "partial" / DIGEST.file_name).stat().st_size == 10
    ingest.close()


def test_a_kill_before_the_name_is_gone_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the bytes ahead has a name for a moment: the next start removes it, and no flight begins of it."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path: None)
        result(ingest.write_ahead(5000, [DATA[5000:6000]]))
    ingest.close()
    assert len(os.listdir(tmp_path / "partial")) == 2
    store = opened(tmp_path)
    assert os.listdir(tmp_path / "partial") == [DIGEST.file_name]
    assert store.unfinished() == [DIGEST]


@pytest.mark.parametrize("end", ["commit", "discard", "close"])
def test_no_file_stays_open(tmp_path: Path, end: str) -> None:
    """However an ingest ends, with bytes ahead that were absorbed and some that were not."""
    before = descriptors()
    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write_ahead(0, [DATA]))
    for offset in (12_000, 13_000, 14_000):
        result(ingest.write_ahead(offset, [b"more"]))
    result(ingest.absorb(len(DATA)))
    outcome = getattr(ingest, end)()
    if outcome is not None:
        result(outcome)
    assert descriptors() == before


def test_a_long_blob_needs_few_files_for_what_is_ahead(tmp_path: Path) -> None:
    """What was absorbed makes room for the next: neither files nor their bytes add up."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    before = descriptors()
    for offset in range(0, len(DATA), 100):
        result(ingest.write_ahead(offset + 50, [DATA[offset + 50 : offset + 100]]))
        result(ingest.write([DATA[offset : offset + 50]]))
        result(ingest.absorb(offset + 100))
    assert descriptors() == before + 1
    result(ingest.commit())


def test_bytes_ahead_may_be_written_while_others_are(slow: tuple[HeldThreads, IIngest]) -> None:
    """Several connections do not wait for each other, nor for the front; neighbours neither."""
    threads, ingest = slow
    under_way = [ingest.write_ahead(at, [DATA[at : at + 1000]]) for at in (3000, 1000, 2000)]
    under_way.append(ingest.write([DATA[:1000]]))
    threads.waiting.reverse()
    threads.work()
    for each in under_way:
        result(each)
    absorbing = ingest.absorb(4000)
    more = ingest.write_ahead(4000, [DATA[4000:]])
    threads.waiting.reverse()
    threads.work()
    result(absorbing)
    result(more)
    assert ingest.size == 4000
    absorbing = ingest.absorb(len(DATA))
    threads.work()
    result(absorbing)
    committing = ingest.commit()
    threads.work()
    result(committing)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_close_waits_for_what_is_written_ahead(slow: tuple[HeldThreads, IIngest], cancelled: bool) -> None:
    """Else its bytes would go into whatever file is opened next under the same number, or be read from there."""
    threads, ingest = slow
    before = descriptors() - 2  # the writer's and the readers'
    first = ingest.write_ahead(0, [DATA[:100]])
    threads.work()
    result(first)
    second, absorbing = ingest.write_ahead(100, [DATA[100:200]]), ingest.absorb(100)
    if cancelled:
        for each in (second, absorbing):
            each.cancel()
            with pytest.raises(CancelledError):
                result(each)
    ingest.close()
    assert descriptors() > before
    threads.work()
    assert ingest.size == 100
    assert descriptors() == before


def test_nothing_is_written_ahead_of_a_closed_file(tmp_path: Path) -> None:
    """A connection whose last bytes come after the end leaves nothing open."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    ingest.close()
    before = descriptors()
    with pytest.raises(OSError, match="closed"):
        result(ingest.write_ahead(100, [b"late"]))
    assert descriptors() == before


def test_a_full_disk_ahead_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it took before it refused is no part of what is ahead."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    pwritev = os.pwritev
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda fd, pieces, at: pwritev(fd, [b"garbage"], at))
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(OSError, match="no room"):
            result(ingest.write_ahead(100, [DATA[100:200]]))
    result(ingest.write([DATA[:100]]))
    with pytest.raises(ValueError, match="ahead"):
        result(ingest.absorb(107))
    result(ingest.write_ahead(100, [DATA[100:]]))
    result(ingest.absorb(len(DATA)))
    result(ingest.commit())


def test_a_disk_without_room_for_another_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the Deferred, as every refusal of a disk."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", refuse)
        with pytest.raises(OSError, match="no room"):
            result(ingest.write_ahead(100, [b"x"]))
    result(ingest.write([DATA]))
    result(ingest.commit())


def test_an_absorption_that_a_full_disk_cut_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte is counted or hashed twice."""
    monkeypatch.setattr("appliance.store.partial.ABSORBED", 1000)
    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write_ahead(0, [DATA]))
    pwritev = os.pwritev
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda fd, pieces, at: pwritev(fd, pieces, at) if at < 3000 else refuse())
        with pytest.raises(OSError, match="no room"):
            result(ingest.absorb(len(DATA)))
    assert ingest.size == 3000
    result(ingest.absorb(len(DATA)))
    result(ingest.commit())


def test_bytes_ahead_that_cannot_be_read_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not waited for, and not taken for nought."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write_ahead(0, [DATA]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lambda *_: 0)
        with pytest.raises(OSError, match="cannot be read"):
            result(ingest.absorb(len(DATA)))
    assert ingest.size == 0
    ingest.close()


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
    """Notes, temporary files and what a user put there are not taken for beginnings."""
    store = opened(tmp_path)
    result(store.ingest(DIGEST)).close()
    for name in ("README", "sha256-short", "sha256-" + "z" * 64, "md5-" + "a" * 32, f"{DIGEST.file_name}.json", "-"):
        (tmp_path / "partial" / name).write_bytes(b"")
    assert store.unfinished() == [DIGEST]


def test_a_file_that_is_being_removed_is_not_gone_on_with(tmp_path: Path) -> None:
    """Another fetch of the blob meanwhile has a file of its own."""
    result(result(opened(tmp_path).ingest(DIGEST)).write([DATA[:10]]))
    threads = HeldThreads()
    store = opened(tmp_path, threads)
    forgetting = store.forget(DIGEST)
    ingest = result(store.ingest(DIGEST))
    threads.work()
    assert result(forgetting) is True
    writing = ingest.write([DATA])
    threads.work()
    result(writing)
    committing = ingest.commit()
    threads.work()
    result(committing)
    assert result(opened(tmp_path).read(DIGEST, len(DATA))) == DATA


def test_notes_without_bytes_are_gone_after_a_start_and_other_files_stay(tmp_path: Path) -> None:
    """A kill between a blob's name and the end of its note; and what a user put there is not ours to remove."""
    store = opened(tmp_path)
    ingest = result(store.ingest(DIGEST))
    result(ingest.note(Origin("docker.io", "library/nginx", 5)))
    ingest.close()
    kept = {DIGEST.file_name, f"{DIGEST.file_name}.json", "README", "notes.json", "sha256-" + "a" * 64}
    for name in (f"sha256-{'b' * 64}.json", "README", "notes.json"):
        (tmp_path / "partial" / name).write_bytes(b"{}")
    (tmp_path / "partial" / ("sha256-" + "a" * 64)).mkdir()
    store = opened(tmp_path)
    assert set(os.listdir(tmp_path / "partial")) == kept
    assert result(store.inspect(Digest.parse("sha256:" + "a" * 64))) is None
    left = result(store.inspect(DIGEST))
    assert left.written == (tmp_path / "partial" / DIGEST.file_name).stat().st_mtime


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


def test_a_blob_that_comes_while_the_store_is_measured_counts_once(tmp_path: Path) -> None:
    """A pull right after the start, in a store of a hundred thousand blobs."""
    result(opened(tmp_path).put(DIGEST, DATA))
    threads = HeldThreads()
    store = opened(tmp_path, threads)
    measuring, putting = store.measure(), store.put(Digest.of(b"abc"), b"abc")
    threads.waiting.reverse()
    while threads.waiting:
        threads.work()
    result(putting)
    result(measuring)
    assert store.total() == len(DATA) + 3


def test_a_blob_that_is_deleted_while_the_store_is_measured_counts_no_more(tmp_path: Path) -> None:
    """An eviction right after the start: whether it was here before or has just come, and was counted yet or not."""
    for position in range(4):
        (tmp_path / "blobs" / "sha256" / DIGEST.encoded).unlink(missing_ok=True)
        result(opened(tmp_path).put(DIGEST, DATA))
        threads = HeldThreads()
        store = opened(tmp_path, threads)
        steps = [store.delete(DIGEST), store.put(Digest.of(b"abc"), b"abc"), store.delete(Digest.of(b"abc"))]
        steps.append(store.measure())
        threads.waiting.insert(position, threads.waiting.pop())
        while threads.waiting:
            threads.work()
        for step in steps:
            result(step)
        assert store.total() == 0, position


def test_the_last_reader_closes_the_file() -> None:
    """And only the last; afterwards it cannot be acquired, nor released twice."""
    file = SharedFile(os.memfd_create("shared"))
    file.acquire()
    file.acquire()
    for _ in range(2):
        file.release()
        os.fstat(file.fd)
    file.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.fd)
    for late in (file.release, file.acquire, file.release):
        with pytest.raises(ValueError, match="closed already"):
            late()


def test_a_reader_that_is_closed_during_a_read_keeps_its_file_until_the_end(tmp_path: Path) -> None:
    """Else the thread would read from whatever is opened next under the same number."""
    data = DATA * 100
    digest = Digest.of(data)
    result(opened(tmp_path).put(digest, data))
    before, threads = descriptors(), HeldThreads()
    reader = opened(tmp_path, threads).open(digest)
    small, large = reader.read(0, 100), reader.read(0, len(data))
    assert result(small) == data[:100]
    reader.close()
    assert descriptors() != before
    threads.work()
    assert result(large) == data
    assert descriptors() == before


def test_the_probe_says_why_the_store_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken disk or a lost mount is reported, and asking every second leaves nothing behind."""
    store = opened(tmp_path)
    result(store.probe())

    def broken(fd: int, data: bytes) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", broken)
        with pytest.raises(OSError, match="Input/output error"):
            result(store.probe())
    assert os.listdir(tmp_path / "partial") == []
    (tmp_path / "partial").rmdir()
    with pytest.raises(OSError, match="partial"):
        result(store.probe())


def test_a_blob_that_vanished_is_not_held(tmp_path: Path) -> None:
    """What was deleted by hand is fetched again, not an internal error."""
    store = opened(tmp_path)
    result(store.put(DIGEST, DATA))
    (tmp_path / "blobs" / "sha256" / DIGEST.encoded).unlink()
    assert store.size(DIGEST) is None
    with pytest.raises(NotHeld):
        store.open(DIGEST)
