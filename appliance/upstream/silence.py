"""Noticing that nothing comes any more, without touching a timer for every piece that does."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: How often a limit's length is looked at: silence is noticed at most this fraction of the limit late.
_TICKS = 30


class Silence:
    """
    Compares a counter with itself at a steady pace.

    Ticks are counted instead of reading the clock, which the operator may set.
    """

    def __init__(
        self, clock: IReactorTime, limit: float, count: Callable[[], int], expired: Callable[[], None]
    ) -> None:
        """
        @param limit: seconds in which C{count()} must change, while started.
        @param count: any number that grows with progress; asked at every tick.
        @param expired: called once, the timer stopped, when C{count()} has not changed for C{limit} seconds.
        """
        self._clock = clock
        self._interval = limit / _TICKS
        self._count = count
        self._expired = expired
        self._seen = 0
        self._silent = 0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin, or begin again, with the full limit."""
        self.stop()
        self._seen = self._count()
        self._silent = 0
        self._call = self._clock.callLater(self._interval, self._tick)

    def stop(self) -> None:
        """Expire no more until started again."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _tick(self) -> None:
        self._call = None
        seen, self._seen = self._seen, self._count()
        self._silent = self._silent + 1 if seen == self._seen else 0
        if self._silent >= _TICKS:
            self._expired()
        else:
            self._call = self._clock.callLater(self._interval, self._tick)
