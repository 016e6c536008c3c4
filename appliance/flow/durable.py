"""Writing files so that a power cut leaves the old content or the new, never a part."""

from __future__ import annotations

import os
from pathlib import Path


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


def write_synced(path: Path, data: bytes) -> None:
    """Make C{path} of C{data}, its bytes on the disk and no descriptor open on return; an error leaves no file."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes, temporary: Path) -> None:
    """
    Replace C{path} by C{data}; durable on return.

    @param temporary: a name in the same file system, free for this call; gone afterwards.
    """
    write_synced(temporary, data)
    try:
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
