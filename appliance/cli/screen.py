"""
What a command shows: results on standard output, everything else on standard error, bytes and seconds as people read
them, and how far something has come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import msgspec

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between two lines about the same thing where there is no terminal.
LINE_INTERVAL = 10.0

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
# Line ends and blanks between values are all that stands in JSON outside ASCII's printable characters unescaped.
_UNPRINTED = re.compile(r"[^\x20-\x7e\t\r\n]")
_SECONDS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


class Screen:
    """
    Two streams, and whether a machine reads the first.

    @ivar as_json: print results as JSON documents and no words.
    """

    def __init__(self, out: TextIO, err: TextIO, as_json: bool = False) -> None:
        self._out = out
        self._err = err
        self.as_json = as_json

    @property
    def is_terminal(self) -> bool:
        """Whether standard error is a terminal."""
        return self._err.isatty()

    def document(self, document: Any) -> None:
        """A result for machines: one JSON document on lines of its own."""
        self._out.write(escaped(msgspec.json.format(msgspec.json.encode(document)).decode()) + "\n")
        self._out.flush()

    def raw(self, data: bytes) -> None:
        """A JSON document as it came from the appliance."""
        self._out.write(escaped(data.decode("utf-8", "replace")))
        self._out.flush()

    def say(self, line: str = "") -> None:
        """A line of the result, for people; nothing where a machine reads."""
        if not self.as_json:
            self._out.write(plain(line) + "\n")
            self._out.flush()

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Rows of the result, for people; the first is the heading."""
        for line in columns(rows):
            self.say(line)

    def note(self, line: str) -> None:
        """A line about what happens, which is no part of the result."""
        self._err.write(plain(line) + "\n")
        self._err.flush()

    def note_error(self, error: object) -> None:
        """Why the command was not done, on one line."""
        self.note("pullcache: " + " ".join(str(error).split()))


# -- progress -------------------------------------------------------------------------------------------------------


class Meter(Protocol):
    """One thing at a time, counted in bytes."""

    def begin(self, what: str, total: int | None) -> None:
        """C{what} begins; C{total} in bytes where it is known. What went before has ended."""

    def at(self, done: int) -> None:
        """C{done} bytes are done."""

    def close(self) -> None:
        """Nothing more comes."""


def meter_for(screen: Screen, seconds: Callable[[], float]) -> Meter:
    """
    A bar on a terminal, lines elsewhere.

    @param seconds: a clock, from any moment on.
    """
    return ProgressBar() if screen.is_terminal else ProgressLines(screen, seconds)


class ProgressLines:
    """See L{Meter}: a line every ten seconds, and one at the end."""

    def __init__(self, screen: Screen, seconds: Callable[[], float]) -> None:
        self._screen = screen
        self._seconds = seconds
        self._what: str | None = None

    def begin(self, what: str, total: int | None) -> None:
        """See L{Meter.begin}."""
        self.close()
        self._what, self._total, self._done = what, total, 0
        self._begun = self._said = self._seconds()

    def at(self, done: int) -> None:
        """See L{Meter.at}."""
        self._done = done
        now = self._seconds()
        if now - self._said >= LINE_INTERVAL:
            self._said = now
            self._say(now)

    def close(self) -> None:
        """See L{Meter.close}."""
        if self._what is not None:
            self._say(self._seconds())
        self._what = None

    def _say(self, now: float) -> None:
        self._screen.note(f"{self._what}: {progress(self._done, self._total, now - self._begun)}")


class ProgressBar:
    """See L{Meter}: one bar on standard error, with bytes, rate and time left."""

    def __init__(self) -> None:
        # Imported late: it takes longer than most commands.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None

    def begin(self, what: str, total: int | None) -> None:
        """See L{Meter.begin}."""
        self._progress.start()
        self._task = self._progress.add_task(plain(what), total=total)

    def at(self, done: int) -> None:
        """See L{Meter.at}."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def close(self) -> None:
        """See L{Meter.close}."""
        self._progress.stop()


def progress(done: int, total: int | None, seconds: float) -> str:
    """C{1.20 GB of 4.70 GB, 120 MB/s, 29 s left}, as far as it is known."""
    parts = [size(done) if total is None else f"{size(done)} of {size(total)}"]
    rate = done / seconds if seconds > 0 else 0.0
    if rate > 0:
        parts.append(f"{size(rate)}/s")
        if total is not None and total > done:
            parts.append(f"{span((total - done) / rate)} left")
    return ", ".join(parts)


# -- words ----------------------------------------------------------------------------------------------------------


def size(octets: float) -> str:
    """Bytes in powers of 1000, three digits: C{512 B}, C{4.70 GB}."""
    step = 0
    while octets >= 999.5 and step < len(_UNITS) - 1:
        octets, step = octets / 1000, step + 1
    digits = 0 if step == 0 or octets >= 99.95 else 1 if octets >= 9.995 else 2
    return f"{octets:.{digits}f} {_UNITS[step]}"


def span(seconds: float) -> str:
    """A duration in its two largest units: C{3 min 20 s}; what is shorter than a second is C{0 s}."""
    left = round(seconds)
    parts: list[str] = []
    for unit, length in _SECONDS:
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def moment(text: str | None) -> str:
    """An RFC 3339 time to the minute, in UTC; a dash for none; other text as it is."""
    if not text:
        return "-"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if at.tzinfo else text


def count(number: int, one: str, more: str | None = None) -> str:
    """C{1 image}, C{2 images}."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def short(digest: str | None) -> str:
    """A digest as far as people compare it: algorithm and twelve characters; a dash for none."""
    if not digest:
        return "-"
    algorithm, colon, encoded = digest.partition(":")
    return f"{algorithm}{colon}{encoded[:12]}"


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns stand below each other, two spaces between them; nothing is cut."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def escaped(document: str) -> str:
    """
    A JSON document that says the same (RFC 8259 section 7) without characters that a terminal would obey, or that turn
    the direction of what follows: a page of a terminal is read by people even when it was meant for a machine.
    """
    return _UNPRINTED.sub(_escape, document)


def _escape(found: re.Match[str]) -> str:
    if found[0].isprintable():
        return found[0]
    units = found[0].encode("utf-16-be", "surrogatepass").hex("-", 2)
    return "".join(f"\\u{unit}" for unit in units.split("-"))


def plain(text: str) -> str:
    """C{text} without control characters: an archive's words must not drive the reader's terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
