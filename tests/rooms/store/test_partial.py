"""A blob under way on the disk: its file, its threads, its note, and what a full disk does to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError

from appliance.errors import BlobDamaged
from appliance.interfaces import IIngest, Origin
from appliance.oci.digest import Digest
from appliance.store.partial import BESIDE
from tests.doubles.deferreds import result
from tests.doubles.threads import HeldThreads
from tests.rooms.store.partials import DATA, DIGEST, descriptors, opened, refuse


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


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
    """Not for a moment, also while a reader has what it was received into."""
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


def test_no_ingest_goes_on_in_a_file_that_a_thread_still_writes(tmp_path: Path) -> None:
    """A fetch was cut in the middle of a write; another fetch meanwhile has a file of its own."""
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
    """Also one shortened by hand: zeros in its place would have the right size."""
    ingest = result(opened(tmp_path).ingest(DIGEST))
    result(ingest.write([DATA]))
    os.truncate(tmp_path / "partial" / DIGEST.file_name, 100)
    with pytest.raises(BlobDamaged, match="100 are in its file"):
        result(ingest.commit())
    assert os.listdir(tmp_path / "partial") == []


def test_a_second_file_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    """It is not resumed; after a kill it is swept at start."""
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


def test_much_is_hashed_and_written_at_the_same_time_and_counts_when_both_are_done(
    slow: tuple[HeldThreads, IIngest], tmp_path: Path
) -> None:
    """A close meanwhile waits for both; what a restart finds is all that was written."""
    threads, ingest = slow
    fd = ingest._file.fd
    writing = ingest.write([b"a" * BESIDE, b"b"])
    assert len(threads.waiting) == 2
    threads.step()
    ingest.close()
    assert (ingest.size, is_open(fd)) == (0, True)
    threads.work()
    result(writing)
    assert (ingest.size, is_open(fd)) == (BESIDE + 1, False)
    assert (tmp_path / "partial" / DIGEST.file_name).read_bytes() == b"a" * BESIDE + b"b"


def test_bytes_that_a_disk_refused_are_not_hashed_though_others_come_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is in the file would not be what was judged: it is asked for again, and may come otherwise."""
    data = DATA * (BESIDE // len(DATA) + 1)
    digest = Digest.of(data)
    ingest = result(opened(tmp_path).ingest(digest))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", refuse)
        with pytest.raises(OSError, match="no room"):
            result(ingest.write([data]))
    result(ingest.write([b"!" * len(data)]))
    assert not ingest.verify()
    again = result(opened(tmp_path / "again").ingest(digest))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", refuse)
        with pytest.raises(OSError, match="no room"):
            result(again.write([b"!" * len(data)]))
    result(again.write([data]))
    result(again.commit())
    assert result(opened(tmp_path / "again").read(digest, len(data))) == data
