"""The bytes a reader can have: all of a held blob, or what has arrived of one under way."""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.failure import Failure

from appliance.interfaces import IOpenFile


class Source:
    """
    A file, how much of it may be read, and who waits for more.

    @ivar file: the file; readers acquire and release it.
    @ivar available: bytes from the start that may be read by now.
    @ivar failure: why no more will come, C{None} while more may.
    """

    def __init__(self, file: IOpenFile, available: int) -> None:
        self.file = file
        self.available = available
        self.failure: Failure | None = None
        self._waiting: list[Callable[[], None]] = []

    def wait(self, changed: Callable[[], None]) -> None:
        """Call C{changed} once, when more is available or nothing more will be."""
        self._waiting.append(changed)

    def forget(self, changed: Callable[[], None]) -> None:
        """Take back a L{wait}; one that was not given, or was answered, is no error."""
        if changed in self._waiting:
            self._waiting.remove(changed)

    def advance(self, available: int) -> None:
        """More bytes may be read: up to C{available} from the start."""
        if available > self.available:
            self.available = available
            self._tell()

    def fail(self, failure: Failure) -> None:
        """Nothing more will come."""
        self.failure = failure
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            changed()
