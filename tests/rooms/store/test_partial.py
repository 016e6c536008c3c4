"""A blob under way on the disk: its file, its threads, its note, and what a full disk does to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from appliance.errors import BlobDamaged, NotHeld
from appliance.flow.disk import InlineThreads
from appliance.interfaces import IIngest, Origin
from appliance.oci.digest import Digest
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.files import SharedFile
from appliance.store.ownership import Ownership
from tests.doubles.deferreds import result
from tests.doubles.threads import HeldThreads

DATA = b"0123456789" * 1000
DIGEST = Digest.of(DATA)


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
def slow(tmp_path: Path) -> tuple[HeldThreads, IIngest]:
    """An ingest whose next work waits."""
    threads = HeldThreads()
    loading = opened(tmp_path, threads).ingest(DIGEST)
    threads.work()
    return threads, result(loading)


def test_a_close_waits_for_the_write_under_way(slow: tuple[HeldThreads, IIngest], tmp_path: Path) -> None:
    """Else its bytes would go into whatever file is opened next under the same number."""
    threads, ingest = slow
    fd = ingest._file.fd
    writing = ingest.write([DATA])
    ingest.close()
    assert is_open(fd)
    threads.work()
    result(writing)
    assert not is_open(fd)
    assert (tmp_path / "partial" / DIGEST.file_name).read_bytes() == DATA


def test_a_cancelled_write_keeps_its_file_open_until_it_ends(slow: tuple[HeldThreads, IIngest]) -> None:
    """Cancelling does not stop the thread, so it must not take the file away from it."""
    threads, ingest = slow
    fd = ingest._file.fd
    writing = ingest.write([DATA])
    writing.cancel()
    with pytest.raises(CancelledError):
        result(writing)
    ingest.close()
    assert is_open(fd)
    threads.work()
    assert not is_open(fd)
    assert ingest.size == len(DATA)


def test_a_commit_cut_off_by_a_stop_still_commits(slow: tuple[HeldThreads, IIngest], tmp_path: Path) -> None:
    """A stop that comes while the blob is being made durable loses nothing."""
    threads, ingest = slow
    writing = ingest.write([DATA])
    threads.work()
    result(writing)
    fd = ingest._file.fd
    committing = ingest.commit()
    committing.cancel()
    with pytest.raises(CancelledError):
        result(committing)
    ingest.close()
    threads.work()
    assert not is_open(fd)
    assert result(opened(tmp_path).read(DIGEST, len(DATA))) == DATA


def writable(path: Path) -> list[str]:
    """The descriptors of this process that can write to the file."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            [flags] = [line for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines() if "flags" in line]
            if os.path.samefile(f"/proc/self/fd/{fd}", path) and int(flags.split()[1], 8) & os.O_ACCMODE:
                found.append(fd)
        except FileNotFoundError:
            continue
    return found


def test_a_blob_has_no_writer_from_when_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a moment, whoever still reads what it was received into."""
    seen = []
    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        seen.append(writable(source))
        rename(source, target)

    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write_ahead(0, [DATA]))
    result(ingest.absorb(len(DATA)))
    assert writable(tmp_path / "partial" / DIGEST.file_name)
    reader = ingest.reader()
    monkeypatch.setattr(os, "rename", renamed)
    result(ingest.commit())
    assert seen == [[]]
    reader.close()


@pytest.mark.parametrize("late", [DATA[-10:], b"wrong"])
def test_a_commit_waits_for_a_write_that_was_cancelled(
    slow: tuple[HeldThreads, IIngest], tmp_path: Path, late: bytes
) -> None:
    """Its thread goes on: what it writes is part of what is judged, and nothing of it comes into the blob later."""
    threads, ingest = slow
    first = ingest.write([DATA[:-10]])
    threads.work()
    result(first)
    second = ingest.write([late])
    second.cancel()
    with pytest.raises(CancelledError):
        result(second)
    committing = ingest.commit()
    assert len(threads.waiting) == 1
    threads.work()
    threads.work()
    store = opened(tmp_path)
    if late == b"wrong":
        with pytest.raises(BlobDamaged):
            result(committing)
        assert store.size(DIGEST) is None
    else:
        result(committing)
        assert result(store.read(DIGEST, len(DATA))) == DATA
    assert store.unfinished() == []


def test_nobody_goes_on_in_a_file_that_a_thread_still_writes(tmp_path: Path) -> None:
    """A fetch was cut in the middle of a write; whoever comes meanwhile has a file of its own."""
    threads = HeldThreads()
    store = opened(tmp_path, threads)
    first = result(store.ingest(DIGEST))
    late = first.write([b"wrong"])
    late.cancel()
    with pytest.raises(CancelledError):
        result(late)
    first.close()
    second = result(store.ingest(DIGEST))
    assert second.size == 0
    writing = second.write([DATA])
    threads.work()
    result(writing)
    committing = second.commit()
    threads.work()
    result(committing)
    assert result(opened(tmp_path).read(DIGEST, len(DATA))) == DATA


def test_an_opening_that_was_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    """A stop while a beginning is hashed: the next one goes on in it."""
    result(opened(tmp_path).ingest(DIGEST)).close()
    threads, before = HeldThreads(), descriptors()
    store = opened(tmp_path, threads)
    opening = store.ingest(DIGEST)
    opening.cancel()
    with pytest.raises(CancelledError):
        result(opening)
    threads.work()
    assert descriptors() == before
    opening = store.ingest(DIGEST)
    threads.work()
    ingest = result(opening)
    assert Path(f"/proc/self/fd/{ingest._file.fd}").readlink() == tmp_path / "partial" / DIGEST.file_name
    ingest.close()


def test_what_is_behind_the_bytes_that_were_hashed_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk took some of a piece that was too much; the blob ends where its bytes do."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write([DATA]))
    with monkeypatch.context() as patch:
        pwritev = os.pwritev
        patch.setattr(os, "pwritev", lambda fd, pieces, at: pwritev(fd, [pieces[0][:7]], at))
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(OSError, match="no room"):
            result(ingest.write([b"more than there is"]))
    result(ingest.commit())
    assert (tmp_path / "blobs" / "sha256" / DIGEST.encoded).read_bytes() == DATA


def test_a_file_that_has_lost_its_end_becomes_no_blob(tmp_path: Path) -> None:
    """Whoever shortened it: zeros in its place would have the right size."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write([DATA]))
    os.truncate(tmp_path / "partial" / DIGEST.file_name, 100)
    with pytest.raises(BlobDamaged, match="100 are in its file"):
        result(ingest.commit())
    assert os.listdir(tmp_path / "partial") == []


def test_a_second_file_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    """Nobody resumes it; after a kill it is swept at start."""
    store = opened(tmp_path)
    first, second, third = (result(store.ingest(DIGEST)) for _ in range(3))
    for ingest in (second, third):
        result(ingest.write([DATA[:10]]))
        result(ingest.note(Origin("docker.io", "library/nginx")))
    second.close()
    result(third.discard())
    assert os.listdir(tmp_path / "partial") == [DIGEST.file_name]
    result(result(store.ingest(DIGEST)).write([DATA]))
    first.close()
    assert len(os.listdir(tmp_path / "partial")) == 2
    assert opened(tmp_path).unfinished() == [DIGEST]
    assert os.listdir(tmp_path / "partial") == [DIGEST.file_name]


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


# -- bytes ahead ----------------------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


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


def refuse(*_: object) -> int:
    raise OSError(28, "no room")


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


def test_a_disk_without_room_for_another_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_bytes_ahead_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Notes, temporary files and what somebody put there are not taken for beginnings."""
    store = opened(tmp_path)
    result(store.ingest(DIGEST)).close()
    for name in ("README", "sha256-short", "sha256-" + "z" * 64, "md5-" + "a" * 32, f"{DIGEST.file_name}.json", "-"):
        (tmp_path / "partial" / name).write_bytes(b"")
    assert store.unfinished() == [DIGEST]


def test_a_file_that_is_being_removed_is_not_gone_on_with(tmp_path: Path) -> None:
    """Whoever comes for the blob meanwhile has a file of their own."""
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
    """A kill between a blob's name and the end of its note; and what somebody put there is not ours to remove."""
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
        threads.work()
        for step in steps:
            result(step)
        assert store.total() == 0, position


def test_the_last_reader_closes_the_file() -> None:
    """And only the last; nobody gets hold of it afterwards, and nobody can let go of it twice."""
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
