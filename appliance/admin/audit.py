"""The audit log: a line of JSON for everything that is changed, or was refused, and by whom."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.flow.clock import wall
from appliance.flow.disk import make_folder
from appliance.flow.singleflight import Waiters
from appliance.interfaces import IAudit, IThreads


class AuditLine(msgspec.Struct, omit_defaults=True):
    """
    One thing that was done, was refused, or failed; see L{IAudit.note} for its fields.

    @ivar time: seconds since the epoch.
    """

    time: float
    action: str
    what: str
    outcome: str
    user: str | None = None
    means: str = ""
    address: str = "-"
    rule: str = ""
    why: str = ""


@implementer(IAudit)
class Audit:
    """Appends lines to a file: those that came while others were being written are synced together."""

    _log = Logger()

    def __init__(self, path: Path | None, threads: IThreads, clock: IReactorTime) -> None:
        """@param path: the file, C{None}: no line is kept."""
        self._path = path
        self._threads = threads
        self._clock = clock
        self._lines: list[bytes] = []
        self._is_writing = False
        self._idle: Waiters[None] = Waiters()

    def note(
        self,
        action: str,
        what: str,
        outcome: str,
        *,
        user: str | None = None,
        means: str = "",
        address: str = "-",
        rule: str = "",
        why: str = "",
    ) -> None:
        """See L{IAudit.note}."""
        who = None if user is None else _encodable(user)
        said = map(_encodable, (means, address, rule, why))
        line = AuditLine(wall(self._clock), action, _encodable(what), outcome, who, *said)
        self._lines.append(msgspec.json.encode(line) + b"\n")
        self._write()

    def flush(self) -> Deferred[None]:
        """Fires when what was noted is on the disk, or could not be written, which is logged."""
        return self._idle.wait() if self._is_writing else succeed(None)

    def _write(self) -> None:
        if self._is_writing or self._path is None:
            return
        lines, self._lines = self._lines, []
        if not lines:
            self._idle.fire(None)
            return
        self._is_writing = True
        self._threads.call(_append, self._path, b"".join(lines)).addErrback(self._failed).addCallback(self._written)

    def _written(self, _: None) -> None:
        self._is_writing = False
        self._write()

    def _failed(self, failure: Failure) -> None:
        self._log.error("the audit log could not be written: {error}", error=failure.value)


def _encodable(text: str) -> str:
    """A name of a file may hold what is no character."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _append(path: Path, lines: bytes) -> None:
    make_folder(path.parent)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
