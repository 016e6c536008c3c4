"""
Work on the disk: threads for what blocks, and files that a power cut leaves with the old content or the new.

What changes a store is asked of C{os} by name (C{os.write}, C{os.rename}; L{Path.unlink} and its like do the same),
never of a buffered file: so tests can stop the process at each such call, and forget what was not synced.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from appliance.interfaces import IThreads

T = TypeVar("T")

# Enough for a few slow fsyncs beside the hashing; the disk, not the count, is the limit.
THREADS = 8


_M_ARENA_MAX = -8
ARENAS = 2


def share_memory() -> None:
    """
    Let all threads take their memory from L{ARENAS} arenas (mallopt(3) of glibc; nothing happens elsewhere). To be
    called before they begin.

    Otherwise each has its own, and keeps what was freed there from all others: a look at a large store left a hundred
    megabytes in them.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


@implementer(IThreads)
class DiskThreads:
    """L{IThreads} on a Twisted thread pool."""

    def __init__(self, reactor: IReactorFromThreads, pool: ThreadPool) -> None:
        self._reactor = reactor
        self._pool = pool

    def call(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """See L{IThreads.call}."""
        return deferToThreadPool(self._reactor, self._pool, function, *args)


@implementer(IThreads)
class InlineThreads:
    """L{IThreads} that works at once, on the caller's thread: for tests and for tools without a reactor."""

    def call(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """See L{IThreads.call}; the Deferred has fired when this returns."""
        return execute(function, *args)


def is_refusal(error: BaseException | None) -> TypeGuard[OSError]:
    """
    Whether the disk does not take what was to be written, whatever it says: it is full or read-only, a quota is used
    up, the file would be too large, a folder or the right to it is gone, no descriptor is free, the device is broken.

    What it holds can be served all the same, and what an upstream sends can be passed on. Only the use of a file that
    this program has closed (C{EBADF}) is no word of the disk's.
    """
    return isinstance(error, OSError) and error.errno != errno.EBADF


# -- files that survive -----------------------------------------------------------------------------------------------


def fsync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in C{folder} durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Create C{folder} and its missing parents, durably; an existing one is no error."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        fsync_folder(path.parent)


FileStamp = tuple[int, int, int, int]
"""What tells one state of a file from another."""


def stamp(status: os.stat_result) -> FileStamp:
    """The state that a file is in."""
    # The second changes with the owner and the mode: what could not be read is tried again when it may be.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def stamp_of(path: str | Path) -> FileStamp | None:
    """The state that a file is in; of a link, the file's that it leads to. C{None} where it cannot be looked at."""
    try:
        return stamp(os.stat(path))
    except OSError:
        return None


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however little the system takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_new(path: Path, data: bytes, synced: bool = True) -> None:
    """
    Make C{path} of C{data}, no descriptor open on return; an error leaves no file.

    @param synced: whether its bytes are on the disk by then.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            write_all(fd, data)
            if synced:
                os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes, temporary: Path) -> None:
    """
    Replace C{path} by C{data}; durable on return.

    @param temporary: a name in the same file system, free for this call; gone afterwards.
    """
    write_new(temporary, data)
    try:
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
