"""What of a blob is in memory while the disk is full: as much as its readers are behind, and no more than its limit."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from appliance.interfaces import IIngest
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryReader
from appliance.store.window import LEAST, LIMIT, PACE, TOGETHER, Memory, Window
from tests.doubles.deferreds import result
from tests.rooms.store.partials import DATA, DIGEST, descriptors, opened

PIECE = bytes(range(256)) * 4096


def full() -> Window:
    """A window that has as much as it may, and one byte more."""
    window = Window(Memory())
    window.open(0)
    for _ in range(LIMIT // len(PIECE)):
        window.put(PIECE)
    window.put(b"!")
    return window


def test_what_all_readers_have_read_is_dropped() -> None:
    """Memory holds what the last of them has still to read."""
    window = Window(Memory())
    window.open(100)
    fast, slow = window.reader(MemoryReader(bytes(100)), 0), window.reader(MemoryReader(bytes(100)), 0)
    window.put(PIECE)
    assert result(fast.read(100, 5000)) == PIECE[:4900]
    assert (window.start, window.stop) == (100, 100 + len(PIECE))
    assert result(slow.read(0, 200)) == bytes(100)
    result(slow.read(100, 1100))
    assert window.start == 1100
    slow.close()
    assert window.start == 5000
    with pytest.raises(OSError):
        result(window.reader(None, 0).read(0, 10))


def test_the_upstream_waits_until_the_readers_have_left_room() -> None:
    """And no longer: a reader that leaves makes room as well."""
    window = full()
    first, last = window.reader(None, 0), window.reader(None, 0)
    waiting = window.room()
    result(first.read(0, LIMIT))
    assert not waiting.called
    result(last.read(0, 10))
    result(waiting)
    window = full()
    reader = window.reader(None, 0)
    waiting = window.room()
    assert not waiting.called
    result(window.reader(None, 0).read(0, LIMIT))
    reader.close()
    assert not waiting.called or window.stop - window.start <= LIMIT


def test_who_stands_still_while_others_wait_is_given_up() -> None:
    """Its reads fail; who goes on at a pace, however far behind, is not, nor is one for whom no other waits."""
    window = full()
    still, steady, first = (window.reader(None, 0) for _ in range(3))
    assert [window.shed(), window.shed()] == [0, 0], "no other waits"
    while window.stop > first.position:  # type: ignore[attr-defined]
        result(first.read(first.position, window.stop))  # type: ignore[attr-defined]
    result(steady.read(0, PACE))
    assert window.shed() == 1
    assert window.readers == 2
    with pytest.raises(OSError) as refused:
        result(still.read(0, 1))
    assert refused.value.errno == errno.ESTALE
    assert window.start == PACE


def test_many_blobs_together_take_no_more_than_all_may() -> None:
    """Beyond that each has a little, with which it goes on."""
    memory = Memory()
    windows = []
    while memory.octets <= TOGETHER:
        windows.append(Window(memory))
        windows[-1].open(0)
        while windows[-1].room().called and memory.octets <= TOGETHER:
            windows[-1].put(PIECE)
    late = Window(memory)
    late.open(0)
    late.put(bytes(LEAST))
    assert late.room().called
    late.put(b"!")
    assert not late.room().called
    for window in windows:
        window.close()
    assert memory.octets == LEAST + 1


def test_an_unstored_one_leaves_no_file_and_no_descriptor(tmp_path: Path) -> None:
    """Its file has no name from the beginning, and goes with its last reader."""
    before = descriptors()
    store = opened(tmp_path)
    ingest = result(store.ingest(DIGEST, keep=False))
    result(ingest.write([DATA]))
    assert os.listdir(tmp_path / "partial") == []
    reader = ingest.reader()
    ingest.close()
    assert result(reader.read(0, len(DATA))) == DATA
    reader.close()
    assert descriptors() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_no_refusal_of_the_disk_fails_an_unstored_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Neither where its file is to be made, nor half way through a write."""
    store = opened(tmp_path)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    def half(fd: int, pieces: list[bytes], offset: int) -> int:
        if offset:
            refuse()
        return os.pwrite(fd, b"".join(pieces)[:100], offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        unmade: IIngest = result(store.ingest(DIGEST, keep=False))
    begun: IIngest = result(store.ingest(DIGEST, keep=False))
    result(begun.write([DATA[:10]]))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", half)
        patched.setattr(os, "pwrite", refuse)
        for ingest in (unmade, begun):
            reader = ingest.reader()
            result(ingest.write([DATA[ingest.size :]]))
            read = result(reader.read(0, 10)) + result(reader.read(10, len(DATA)))
            assert read == DATA and ingest.verify() and reader.size == len(DATA)
            reader.close()
            ingest.close()
    assert os.listdir(tmp_path / "partial") == []


def test_a_commit_that_cannot_be_made_durable_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync failed for is read from memory once more, and may be gone then: it is fetched again."""
    store = opened(tmp_path)
    ingest = result(store.ingest(DIGEST))
    result(ingest.write([DATA]))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
        with pytest.raises(OSError):
            result(ingest.commit())
    assert store.size(DIGEST) is None and store.unfinished() == []


def test_a_disk_that_is_read_only_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is told from one that is full."""
    store, real = opened(tmp_path), os.statvfs(tmp_path)
    read_only = os.statvfs_result((*real[:8], real.f_flag | os.ST_RDONLY, real.f_namemax))
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    with pytest.raises(OSError) as error:
        store.free()
    assert error.value.errno == errno.EROFS and store.capacity() == real.f_blocks * real.f_frsize


def test_a_look_at_the_disk_is_taken_every_few_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow stream, which is written as it comes, does not pay for one with each piece."""
    store, looks = opened(tmp_path), []
    store.floor, real = 1, os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: looks.append(path) or real(path))
    data = bytes(1000)
    ingest = result(store.ingest(Digest.of(data * 1000)))
    for _ in range(1000):
        result(ingest.write([data]))
    assert 3 <= len(looks) <= 5
    result(ingest.commit())
