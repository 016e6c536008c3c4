"""
Two clocks: one that only counts, for durations and timers; and the one on the wall, for moments that are kept on disk
or shown to people.

Twisted's reactors take the wall's clock for both. When that clock is set back, every timer is delayed by as much, and
what was good for a minute is good for a year; when it is set forward, every token, pause and deadline ends at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface import alsoProvides

from appliance.interfaces import IWallClock

# The one that goes on while a virtual machine is paused, where there is one.
_COUNTER = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def keep_time(reactor: Any) -> None:
    """
    Let C{reactor} count its seconds by a clock that cannot be set, and give it the wall's beside.

    Its count begins at the wall's moment of now, so that calls which are scheduled already come when they should.
    """
    if IWallClock.providedBy(reactor):
        return
    start = time.time() - time.clock_gettime(_COUNTER)
    reactor.seconds = lambda: start + time.clock_gettime(_COUNTER)
    reactor.wall = time.time
    alsoProvides(reactor, IWallClock)


class SleepingClock(Clock):
    """A clock for work without a reactor: who is to be called later is called at once, when that time was slept."""

    def seconds(self) -> float:
        """See L{IReactorTime}."""
        return time.time()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:
        """See L{IReactorTime}."""
        time.sleep(delay)
        called = super().callLater(0, callable, *args, **kw)
        self.advance(0)
        return called


def wall(clock: IReactorTime) -> float:
    """The moment of now, seconds since the epoch."""
    return wall_of(clock)()


def wall_of(clock: IReactorTime) -> Callable[[], float]:
    """Gives that moment whenever it is called. A clock that has no other one (those of tests) is on the wall itself."""
    return clock.wall if IWallClock.providedBy(clock) else clock.seconds


def wall_at(clock: IReactorTime, seconds: float) -> float:
    """The moment, seconds since the epoch, at which C{clock} shows or showed C{seconds}, as far as we know now."""
    return wall(clock) + (seconds - clock.seconds())
