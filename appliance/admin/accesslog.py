"""One line a request: when, client, method, path, status, bytes, seconds, cache status, user."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import formatTime

from appliance.flow.clock import wall_of
from appliance.settings import NO_LOG, STANDARD_OUTPUT

# Lines are written together this often: at thirty thousand requests a second a write for each would be the work.
INTERVAL = 0.5
# Or as soon as there are so many: a hundred thousand a second held every client up for 20 ms each half second.
TOGETHER = 500


class AccessLog:
    """Collects lines and writes them a few times a second."""

    def __init__(self, write: Callable[[str], object], clock: IReactorTime) -> None:
        """
        @param write: takes whole lines, newlines included.
        """
        self._write = write
        self._clock = clock
        self._wall = wall_of(clock)
        self._lines: list[str] = []
        self._timer: IDelayedCall | None = None
        self._second = -1
        self._when = ""

    def add(
        self,
        client: str,
        user: str | None,
        method: str,
        path: str,
        code: int,
        octets: int,
        seconds: float,
        cache: str,
    ) -> None:
        """Note one request; C{user} is C{None} for an anonymous client."""
        now = int(self._wall())
        if now != self._second:
            self._second, self._when = now, formatTime(now)
        who = "-" if user is None else _one_word(user)
        self._lines.append(f"{self._when} {client} {method} {path} {code} {octets} {seconds:.3f} {cache} {who}\n")
        if self._timer is None:
            self._timer = self._clock.callLater(INTERVAL, self.flush)
        elif len(self._lines) == TOGETHER:
            # Not from here: a log that cannot be written breaks no answer.
            self._timer.reset(0)

    def flush(self) -> None:
        """Write what was noted."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        lines, self._lines = self._lines, []
        if lines:
            self._write("".join(lines))


@lru_cache(1000)
def _one_word(user: str) -> str:
    """A user's name as one word that is not C{-}: what is no plain text in it is percent-encoded."""
    return "%2D" if user == "-" else quote(user, safe="@+:=,", errors="replace")


def writer_to(destination: str | Path) -> Callable[[str], object]:
    """Takes whole lines to where C{access_log} says (L{appliance.settings.Settings})."""
    if destination == NO_LOG:
        return lambda lines: None
    if destination == STANDARD_OUTPUT:
        return _write_out

    def append(lines: str) -> None:
        # Opened for each batch: a file that was rotated away is followed by a new one.
        with open(destination, "a", encoding="utf-8") as file:
            file.write(lines)

    return append


def _write_out(lines: str) -> None:
    # sys.stdout is the twisted log by now, which would date and prefix each line once more.
    if sys.__stdout__ is not None:
        sys.__stdout__.write(lines)
        sys.__stdout__.flush()
