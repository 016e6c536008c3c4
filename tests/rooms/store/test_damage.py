"""Damaged blobs on a disk: what it says of them, and what verifying them costs those that are served meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError

from appliance.oci.digest import Digest
from appliance.store.partial import READ
from tests.doubles.deferreds import failing, pending, result
from tests.doubles.threads import HeldThreads
from tests.rooms.store.partials import opened

DATA = bytes(range(256)) * (READ // 256) * 2 + b"the end"
DIGEST = Digest.of(DATA)


def held(root: Path) -> Path:
    """The file of the blob, held in a store at C{root}."""
    result(opened(root).put(DIGEST, DATA))
    return root / "blobs" / "sha256" / DIGEST.encoded


@pytest.mark.parametrize(("error", "is_damage"), [(errno.EIO, True), (errno.EUCLEAN, True), (errno.EACCES, False)])
def test_what_the_disk_has_lost_is_damaged_and_what_it_refuses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, is_damage: bool
) -> None:
    """A blob that may not be read is not moved away: it may be whole."""
    held(tmp_path)
    pread = os.pread

    def lossy(fd: int, count: int, offset: int) -> bytes:
        if offset:
            raise OSError(error, os.strerror(error))
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", lossy)
    verifying = opened(tmp_path).verify(DIGEST)
    if is_damage:
        assert result(verifying) is False
    else:
        assert getattr(failing(verifying, OSError), "errno", 0) == error


def test_a_large_blob_is_read_in_pieces_and_can_be_left(tmp_path: Path) -> None:
    """A scrub of terabytes ends when it is told to, after the piece in hand."""
    held(tmp_path)
    threads = HeldThreads()
    verifying = opened(tmp_path, threads).verify(DIGEST)
    threads.step()
    assert pending(verifying)
    verifying.cancel()
    threads.work()
    assert not threads.waiting
    failing(verifying, CancelledError)


def test_foreign_files_are_no_damaged_blobs(tmp_path: Path) -> None:
    """What a person put there is theirs."""
    blob = held(tmp_path)
    store = opened(tmp_path)
    (tmp_path / "damaged" / "notes.txt").write_text("looked at on Monday")
    assert result(store.damaged()) == []
    result(store.set_aside(DIGEST))
    assert [each.digest for each in result(store.damaged())] == [DIGEST]
    assert not blob.exists()
    assert (tmp_path / "damaged" / DIGEST.file_name).read_bytes() == DATA
