"""
The audit log on the disk: lines that are durable when they are said to be, in files that do not grow without end.

::

    audit.jsonl      the newest lines
    audit.jsonl.1    those before them, and so on up to .9: then the oldest are dropped
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from appliance.flow.disk import fsync_folder, make_folder, write_all
from appliance.settings import Settings

KEPT = 9
"""Files that are kept beside the one that is written."""

BLOCK = 1 << 18
"""Bytes that are read at once."""

_APPENDED = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY


class AuditFile:
    """
    The files of one path. All methods block; they may be called on several threads, L{append} on one at a time.

    @ivar path: the one that is written.
    @ivar limit: bytes; if it would have more, it is put aside first.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._moving = Lock()

    def append(self, lines: Sequence[bytes]) -> None:
        """
        Add lines, each with its end; durable on return.

        @raise OSError: they could not be written; then none of them is there, or all are.
        """
        data = b"".join(lines)
        make_folder(self.path.parent)
        self._make_room(len(data))
        is_new = not self.path.exists()
        # Opened for each batch: one that another program put aside is followed by a new one.
        fd = os.open(self.path, _APPENDED, 0o640)
        try:
            before = os.fstat(fd)
            is_file = stat.S_ISREG(before.st_mode)
            # A power cut may have left half a line: what follows it is a line of its own.
            if is_file and before.st_size and os.pread(fd, 1, before.st_size - 1) != b"\n":
                data = b"\n" + data
            try:
                write_all(fd, data)
                if is_file:
                    os.fsync(fd)
            except BaseException:
                if is_file:
                    with suppress(OSError):
                        os.ftruncate(fd, before.st_size)
                raise
        finally:
            os.close(fd)
        if is_new:
            fsync_folder(self.path.parent)

    def backwards(self) -> Iterator[bytes]:
        """Every line of all files, the newest first, as they are when it begins. Raises L{OSError}."""
        with ExitStack() as stack:
            files = []
            with self._moving:
                for path in self._files():
                    with suppress(FileNotFoundError):
                        files.append(stack.enter_context(open(path, "rb")))
            for file in files:
                yield from _backwards(file)

    def _files(self) -> list[Path]:
        """Newest first."""
        return [self.path, *(self.path.with_name(f"{self.path.name}.{number}") for number in range(1, KEPT + 1))]

    def _make_room(self, more: int) -> None:
        """Put the file aside, if it would be too large."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode) or not found.st_size or found.st_size + more <= self.limit:
            return
        files = self._files()
        with self._moving:
            for newer, older in reversed(list(zip(files, files[1:], strict=False))):
                with suppress(FileNotFoundError):
                    os.rename(newer, older)
        fsync_folder(self.path.parent)


def audit_file(settings: Settings, before: AuditFile | None = None) -> AuditFile | None:
    """The one that is configured, C{before} where that is the same; C{None}: none is."""
    path, limit = settings.audit_path, settings.audit_size
    if path is None or (before is not None and (before.path, before.limit) == (path, limit)):
        return None if path is None else before
    return AuditFile(path, limit)


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, the last first. One that is longer than a block is none of ours, and cut."""
    end, rest = file.seek(0, os.SEEK_END), b""
    while end:
        start = max(0, end - BLOCK)
        file.seek(start)
        rest, *lines = (file.read(end - start) + rest[:BLOCK]).split(b"\n")
        yield from filter(None, reversed(lines))
        end = start
    if rest:
        yield rest
