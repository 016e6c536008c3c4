"""A file that is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from appliance.cli.failures import CommandFailed

#: Bytes written together: a file system takes as long for a piece as a socket gives as for a much larger one.
AT_ONCE = 1024 * 1024


class PartFile:
    """
    Bytes on their way to C{path}, kept in C{path.part} until they are all there.

    A context: it is left with L{finish} done, or C{path.part} is removed and C{path} is as it was.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self.size = 0
        self._waiting: list[bytes] = []
        self._written = 0

    def __enter__(self) -> PartFile:
        try:
            self._file = self._part.open("wb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error
        return self

    def write(self, data: bytes) -> None:
        """
        Append.

        @raise CommandFailed: there is no room, or the medium is gone.
        """
        self._waiting.append(data)
        self.size += len(data)
        if self.size - self._written >= AT_ONCE:
            self._flush()

    def finish(self) -> None:
        """
        Put it in its place, durably: the stick may be pulled out now.

        @raise CommandFailed: it could not be written.
        """
        self._flush()
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        # After finish() there is none under this name any more.
        self._part.unlink(missing_ok=True)

    def _flush(self) -> None:
        view = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        self._written += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> CommandFailed:
        return CommandFailed(f"{self._path} cannot be written: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
