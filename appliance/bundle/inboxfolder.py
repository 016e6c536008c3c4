"""
What lies in the inbox, and how it is moved away.

Everything is reached from one descriptor of the folder, no link is followed, and nothing that is there is written over:
users who may put files into it are not trusted with the rest of the machine. Everything here blocks.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from appliance.errors import BundleError

DONE = "done"
REFUSED = "refused"

#: Longer names, in bytes, leave no room for a number and C{.json}: most file systems end at 255.
_MAX_NAME = 230
_VOLUME = re.compile(r"(.+)\.v([0-9]{2,4})of([0-9]{2,4})(\.[a-z.]+)")


@dataclass(frozen=True)
class FileState:
    """What one scan found of a file: its size in bytes, its times in nanoseconds."""

    size: int
    mtime: int
    ctime: int


@dataclass(frozen=True)
class Verdict:
    """Where the files of an archive go, and what is written beside each."""

    where: str
    document: bytes


def files_in(folder: Path) -> dict[str, FileState]:
    """
    The files that may be archives, by name and in its order; links and what is still being copied are none.

    @raise BundleError: what was imported or refused could not be moved away.
    """
    found = {}
    with _opened(str(folder)) as inbox:
        for where in (DONE, REFUSED):
            try:
                mode = os.stat(where, dir_fd=inbox, follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(mode):
                raise BundleError(
                    f"{folder / where} is {'a link' if stat.S_ISLNK(mode) else 'no folder'}, and nothing is imported"
                    " while what is imported cannot be moved there; remove it, a folder is made in its place"
                )
        with os.scandir(inbox) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            if not name.startswith(".") and not name.endswith(".part"):
                try:
                    status = os.stat(name, dir_fd=inbox, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[name] = _state_of(status)
    return found


def _state_of(status: os.stat_result) -> FileState:
    return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextmanager
def _opened(name: str, above: int | None = None) -> Iterator[int]:
    """A folder's descriptor; below another folder it may be no link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(name, flags if above is None else flags | os.O_NOFOLLOW, dir_fd=above)
    try:
        yield fd
    finally:
        os.close(fd)


def fault_of_name(name: str) -> str:
    """Why a file of that name cannot be taken, C{""} when it can."""
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "its name is no UTF-8; rename it"
    return f"its name is longer than {_MAX_NAME} bytes; rename it" if length > _MAX_NAME else ""


def archives_of(names: Iterable[str]) -> tuple[list[tuple[str, ...]], dict[tuple[str, ...], str]]:
    """
    What belongs together: a bundle's volumes, every other file for itself.

    @return: what is whole; and the volumes that wait for others, with the reason in words.
    """
    archives: list[tuple[str, ...]] = []
    bundles: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in names:
        match = _VOLUME.fullmatch(name)
        if match is None or len(match[2]) != len(match[3]):
            archives.append((name,))
        else:
            bundles.setdefault((match[1], match[3], match[4]), {})[int(match[2])] = name
    waiting = {}
    for (_, of, _), found in bundles.items():
        absent = [str(number) for number in range(1, int(of) + 1) if number not in found]
        if absent:
            shown = ", ".join(absent[:10]) + (" and others" if len(absent) > 10 else "")
            waiting[tuple(found.values())] = f"of {int(of)} volumes these are not here yet: {shown}"
        else:
            archives.append(tuple(found.values()))
    return archives, waiting


def move(folder: Path, name: str, state: FileState, verdict: Verdict) -> None:
    """Move a file that is still as C{state} says. Raises L{BundleError} when it is not."""
    with _opened(str(folder)) as inbox:
        if _state_of(os.stat(name, dir_fd=inbox, follow_symlinks=False)) != state:
            raise BundleError(f"{name}: it was changed while it was read, so it is read again")
        try:
            os.mkdir(verdict.where, 0o755, dir_fd=inbox)
        except FileExistsError:
            pass
        with _opened(verdict.where, inbox) as target:
            # The document first: a file that was moved without a word would be the worse half.
            free = _write_beside(target, name, verdict.document)
            try:
                os.rename(name, free, src_dir_fd=inbox, dst_dir_fd=target)
            except OSError:
                os.unlink(f"{free}.json", dir_fd=target)
                raise
            os.fsync(target)
            os.fsync(inbox)


def _write_beside(folder: int, name: str, document: bytes) -> str:
    """
    Write C{<name>.json}, with a number before it when one of both names is taken: nothing that is there is written
    over.

    @return: the name, with its number.
    """
    for number in count(1):
        free = name if number == 1 else f"{number}-{name}"
        if _is_there(folder, free):
            continue
        try:
            fd = os.open(f"{free}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
        except FileExistsError:
            continue
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(document)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(f"{free}.json", dir_fd=folder)
            raise
        return free
    raise AssertionError("numbers do not end")


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
