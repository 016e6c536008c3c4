"""
One process owns a store, and knows its layout's version.

::

    <store>/VERSION   the layout's version; a newer one is refused
    <store>/lock      held (flock) by the process that owns the store
    <store>/blobs/sha256/<hex>, blobs/sha512/<hex>
    <store>/partial/  blobs under way, and temporary files
    <store>/damaged/  blobs that were found damaged
    <store>/repositories/, <store>/state/
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from appliance.errors import StoreError, StoreLocked, StoreTooNew
from appliance.flow.disk import make_folder, write_file

VERSION = 1
NEEDED = ("blobs/sha256", "blobs/sha512", "partial", "repositories", "state")
FOLDERS = (*NEEDED, "damaged")


class Ownership:
    """The lock on a store, held until L{release}."""

    def __init__(self, root: Path, fd: int) -> None:
        self.root = root
        self._fd = fd

    @classmethod
    def claim(cls, root: Path) -> Ownership:
        """
        Take the store at C{root}, made when it does not exist.

        @raise StoreLocked: another process owns it.
        @raise StoreTooNew: a newer version wrote it.
        @raise StoreError: it cannot be written.
        """
        try:
            make_folder(root)
            fd = _open(root / "lock", os.O_RDONLY)
        except OSError as error:
            raise _unwritable(root, error) from error
        try:
            _lock(root, fd)
            _sign(root)
            _check_version(root)
            _create_layout(root)
        except BaseException:
            os.close(fd)
            raise
        return cls(root, fd)

    def release(self) -> None:
        """Let go; the next process may claim the store."""
        os.close(self._fd)

    def give_back(self) -> None:
        """
        Where root works on the store of a service that runs as another user: what this process made, but for blobs,
        belongs to whom the folder belongs.
        """
        owner = os.stat(self.root)
        if os.geteuid() != 0 or owner.st_uid == 0:
            return
        for folder, folders, files in os.walk(self.root):
            if Path(folder) == self.root:
                folders.remove("blobs")
            for path in (os.path.join(folder, name) for name in (*folders, *files)):
                # It may be read-only.
                with suppress(OSError):
                    if os.lstat(path).st_uid == 0:
                        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _open(lock: Path, access: int) -> int:
    # One that is there can be opened on a disk that is full, or read-only.
    try:
        return os.open(lock, access | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(lock, access | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _lock(root: Path, fd: int) -> None:
    """Lock C{fd}, which is open for reading: so the disk can be remounted read-only meanwhile."""
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # A network file system locks only what is open for writing.
            writing = _open(root / "lock", os.O_RDWR)
            os.dup2(writing, fd, inheritable=False)
            os.close(writing)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise StoreLocked(
            f"store {root}: owned by another process (pid {owner}); stop it or use another store"
        ) from None
    except OSError as error:
        raise StoreError(f"store {root}: cannot be locked: {error.strerror}; use a local file system") from error


def _sign(root: Path) -> None:
    """Write into the lock whose it is: for a message only, and of no matter on a disk that is full or read-only."""
    try:
        fd = os.open(root / "lock", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(fd, f"{os.getpid()}\n".encode("ascii"))
        finally:
            os.close(fd)
    except PermissionError as error:
        raise _unwritable(root, error) from error
    except OSError:
        return


def _unwritable(root: Path, error: OSError) -> StoreError:
    return StoreError(f"store {root}: cannot be written: {error.strerror}; check its path and owner")


def _check_version(root: Path) -> None:
    path = root / "VERSION"
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"store {root}: VERSION cannot be read: {error}") from error
    # A power cut between creating the store and writing VERSION leaves it absent or empty: a new store.
    if text == "":
        try:
            write_file(path, f"{VERSION}\n".encode("ascii"), root / "VERSION.tmp")
        except OSError as error:
            raise StoreError(f"store {root}: cannot be written: {error.strerror}; check owner and space") from error
    elif not text.isdigit() or len(text) > 9:
        raise StoreError(f"store {root}: VERSION holds {text[:40]!r}, which is no version; is this a pullcache store?")
    elif int(text) > VERSION:
        raise StoreTooNew(f"store {root}: layout version {text}, {VERSION} is known here; install a newer pullcache")


def _create_layout(root: Path) -> None:
    try:
        for name in FOLDERS:
            make_folder(root / name)
        _sweep(root / "partial")
    except OSError as error:
        # What an earlier process made is enough to serve; a store of another user is a mistake.
        if not isinstance(error, PermissionError) and all((root / name).is_dir() for name in NEEDED):
            return
        raise StoreError(f"store {root}: cannot be written: {error.strerror}; check its owner") from error


def _sweep(partial: Path) -> None:
    # Files of other names are not ours, and stay.
    for left in partial.glob("*.tmp"):
        left.unlink(missing_ok=True)
    for note in partial.glob("sha*-*.json"):
        if not note.with_suffix("").exists():
            note.unlink(missing_ok=True)
