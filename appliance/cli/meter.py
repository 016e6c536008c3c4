"""How far something has come: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from appliance.cli.screen import Screen
from appliance.cli.words import plain, size, span

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between two lines about the same thing where there is no terminal.
LINE_INTERVAL = 10.0


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
    Bars where somebody watches, lines elsewhere.

    @param seconds: a clock, from any moment on.
    """
    return Bars() if screen.is_terminal else Lines(screen, seconds)


class Lines:
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


class Bars:
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
    """C{1.20 GB of 4.70 GB, 120 MB/s, 29 s left}, as far as it can be told."""
    parts = [size(done) if total is None else f"{size(done)} of {size(total)}"]
    rate = done / seconds if seconds > 0 else 0.0
    if rate > 0:
        parts.append(f"{size(rate)}/s")
        if total is not None and total > done:
            parts.append(f"{span((total - done) / rate)} left")
    return ", ".join(parts)
