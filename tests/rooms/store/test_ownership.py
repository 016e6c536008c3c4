"""One process owns a store, and only one that knows its layout."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import StoreError, StoreLocked, StoreTooNew
from appliance.store import ownership
from appliance.store.ownership import FOLDERS, Ownership


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


def claim(root: Path) -> None:
    Ownership.claim(root).release()


def test_a_new_store_is_made(root: Path) -> None:
    """The first start makes the folder and all that belongs into it."""
    claim(root)
    assert (root / "VERSION").read_text() == "1\n"
    assert all((root / name).is_dir() for name in FOLDERS)
    assert not list(root.glob("*.tmp"))


def test_claiming_again_changes_nothing(root: Path) -> None:
    """A restart finds what was there."""
    claim(root)
    blob = root / "blobs" / "sha256" / ("a" * 64)
    blob.write_bytes(b"kept")
    claim(root)
    assert blob.read_bytes() == b"kept"


def test_two_processes_do_not_share_a_store(root: Path) -> None:
    """The second learns who owns it, and the first is not disturbed."""
    owner = Ownership.claim(root)
    with pytest.raises(StoreLocked, match=re.escape(str(root)) + rf".*pid {os.getpid()}\)"):
        Ownership.claim(root)
    assert (root / "lock").read_text() == f"{os.getpid()}\n"
    owner.release()
    claim(root)


def test_a_lock_that_names_no_process_is_a_lock(root: Path) -> None:
    """The owner may have been stopped between locking and writing its number."""
    claim(root)
    with open(root / "lock", "r+b") as held:
        held.truncate(0)
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreLocked, match="pid unknown"):
            Ownership.claim(root)


def test_a_shorter_number_replaces_a_longer_one(root: Path) -> None:
    """The lock of a killed process names that one; the message is about the living."""
    claim(root)
    (root / "lock").write_text("4194304999\n")
    owner = Ownership.claim(root)
    assert (root / "lock").read_text() == f"{os.getpid()}\n"
    owner.release()


def test_a_refused_claim_leaves_the_store_to_others(root: Path) -> None:
    """A process that may not use a store does not keep it locked either."""
    claim(root)
    (root / "VERSION").write_text("2\n")
    with pytest.raises(StoreTooNew):
        Ownership.claim(root)
    (root / "VERSION").write_text("1\n")
    claim(root)


@pytest.mark.parametrize("left", [None, b"", b"\n"])
def test_a_store_cut_while_it_was_made_is_a_new_one(root: Path, left: bytes | None) -> None:
    """A power cut in the first second of the first start needs no repair by hand."""
    claim(root)
    (root / "VERSION").unlink()
    (root / "VERSION.tmp").write_bytes(b"gar")
    if left is not None:
        (root / "VERSION").write_bytes(left)
    (root / "state").rmdir()
    claim(root)
    assert (root / "VERSION").read_text() == "1\n"
    assert (root / "state").is_dir()


@pytest.mark.parametrize("text", ["2", "2\n", "999999999"])
def test_a_newer_store_is_refused(root: Path, text: str) -> None:
    """Going back to an older program harms nothing."""
    claim(root)
    (root / "VERSION").write_text(text)
    with pytest.raises(StoreTooNew, match=f"version {text.strip()}, .*install a newer"):
        Ownership.claim(root)
    assert (root / "VERSION").read_text() == text


@pytest.mark.parametrize("garbage", [b"one\n", b"\xff\xfe", b"-1", b"1.0", b"9" * 5000, b"\xd9\xa1"])
def test_a_folder_of_something_else_is_refused(root: Path, garbage: bytes) -> None:
    """A VERSION that is not ours is named, and nothing in the folder is touched."""
    root.mkdir(parents=True)
    (root / "VERSION").write_bytes(garbage)
    with pytest.raises(StoreError, match="VERSION"):
        Ownership.claim(root)
    assert sorted(os.listdir(root)) == ["VERSION", "lock"]
    assert (root / "VERSION").read_bytes() == garbage


def test_what_an_interrupted_write_left_is_swept(root: Path) -> None:
    """Temporary files go with the next start; blobs under way and their notes stay."""
    claim(root)
    partial = root / "partial"
    stays = ["sha256-" + "a" * 64, "sha256-" + "a" * 64 + ".json"]
    for name in [*stays, "sha256-" + "b" * 64 + ".1.tmp", "sha256-" + "c" * 64 + ".note.tmp", "probe.7.tmp"]:
        (partial / name).write_bytes(b"some")
    claim(root)
    assert sorted(os.listdir(partial)) == stays


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_a_store_that_cannot_be_made_is_one_clear_line(tmp_path: Path, what: str) -> None:
    """The message names the folder; there is no traceback of ours to read."""
    (tmp_path / "file").write_bytes(b"")
    root = tmp_path / "file" if what == "a file" else tmp_path / "file" / "store"
    with pytest.raises(StoreError, match=re.escape(f"store {root}: cannot be written: ")):
        Ownership.claim(root)


def test_a_store_without_room_for_its_version_is_one_clear_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start on a full disk says so, and lets go of the lock."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ownership, "write_file", full)
    with pytest.raises(StoreError, match=r"cannot be written: No space left on device"):
        Ownership.claim(root)
    monkeypatch.undo()
    claim(root)


def test_a_full_disk_does_not_prevent_serving(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is there is claimed although not even the process number can be written."""
    claim(root)

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    claim(root)


def test_an_owned_store_has_no_file_open_for_writing(root: Path) -> None:
    """Its disk can be remounted read-only below a running appliance; the lock holds all the same."""

    def writable() -> list[str]:
        found = []
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                path, flags = os.readlink(f"/proc/self/fd/{number}"), fcntl.fcntl(int(number), fcntl.F_GETFL)
                found += [path] if path.startswith(str(root)) and flags & os.O_ACCMODE != os.O_RDONLY else []
        return found

    for _ in range(2):
        owner = Ownership.claim(root)
        assert writable() == []
        with pytest.raises(StoreLocked, match=rf"pid {os.getpid()}\)"):
            Ownership.claim(root)
        owner.release()


def test_a_file_system_that_locks_only_what_can_be_written_does(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS has its own idea of flock; two processes do not share a store there either."""
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    owner = Ownership.claim(root)
    with pytest.raises(StoreLocked):
        Ownership.claim(root)
    owner.release()
    claim(root)


def test_a_store_of_another_user_is_one_clear_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of which nothing may be written are no full disk: whose they are was not meant."""
    claim(root)
    real = os.open

    def refused(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(StoreError, match="cannot be written: Permission denied; check its path and owner"):
        Ownership.claim(root)


def test_a_file_system_without_locks_is_one_clear_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none; the message says what to do."""

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match="cannot be locked: No locks available; use a local file system"):
        Ownership.claim(root)
