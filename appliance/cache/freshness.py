"""
How long what an upstream said may be used: without asking again, and although asking failed.

A manifest by digest is fresh for ever; only what a tag means, a list, or a 404 can go stale (RFC 9111 section 4.2).
Moments are seconds of the clock that only counts (L{IWallClock}), 0 for one that is not known; C{None} stands for the
end of time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from appliance.errors import PullcacheError, UpstreamError, UpstreamMissing
from appliance.flow.clock import wall
from appliance.oci.reference import ReferenceKey
from appliance.settings import UpstreamSettings

OFFLINE_FRESH_FOR = 60.0
"""Seconds that an answer of an upstream that is never asked may be repeated; an import ends it earlier."""


def fresh_until(checked_at: float, settings: UpstreamSettings) -> float | None:
    """The moment up to which what the upstream said at C{checked_at} may be used without asking again."""
    return None if settings.fresh_for is None else checked_at + settings.fresh_for


def is_fresh(checked_at: float, now: float, settings: UpstreamSettings) -> bool:
    """
    Whether what the upstream said is recent enough. What lies in the future (a clock was set back) is not, nor what has
    no known moment, unless its age does not matter.
    """
    until = fresh_until(checked_at, settings)
    return until is None or (checked_at != 0 and checked_at <= now < until)


def servable_until(checked_at: float, settings: UpstreamSettings) -> float | None:
    """The moment up to which C{max_stale} lets what the upstream said at C{checked_at} be served."""
    until = fresh_until(checked_at, settings)
    return None if until is None or settings.max_stale is None else until + settings.max_stale


def kind_of(error: PullcacheError) -> str:
    """Which class of C{serve_stale} a failure belongs to: what no upstream said is nothing that it could not give."""
    return error.kind if isinstance(error, UpstreamError) else "unavailable"


def may_serve_stale(error: PullcacheError, checked_at: float, now: float, settings: UpstreamSettings) -> bool:
    """Whether what is cached may be served although the upstream answered with C{error}."""
    until = servable_until(checked_at, settings)
    if until is not None and (checked_at == 0 or now > until):
        return False
    return bool(getattr(settings.serve_stale, kind_of(error)))


def stale_until(until: float | None, checked_at: float, settings: UpstreamSettings) -> float:
    """
    Up to when a stale answer may be repeated without a look at anything: not longer than C{max_stale} allows.

    @param until: up to when its reason holds, C{None} when that may change at any moment.
    @return: the moment, 0 when it may not be repeated.
    """
    bound = servable_until(checked_at, settings)
    return until or 0.0 if bound is None else min(until or 0.0, bound)


def remaining_wait(began: float, now: float, settings: UpstreamSettings) -> float:
    """Seconds a client with a cached answer still waits for a check that began at C{began}; 0 when it had its time."""
    return max(0.0, settings.revalidate_within - (now - began))


# -- when the upstream said so --------------------------------------------------------------------------------------

TIMES = 20_000
"""The most moments remembered; one that was forgotten is looked at anew."""


class MonotonicTimes:
    """
    Moments of the day, as documents on disk have them, in seconds of the clock that only counts.

    What an upstream said is kept with the moment at which it said so, in years and hours, since a restart must not make
    it new. How old it is, is measured from the first look at that moment on: what happens to the time of day later does
    not make it younger or older. A moment that lies in the future says nothing.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._known: OrderedDict[ReferenceKey, tuple[float, float]] = OrderedDict()

    def seconds(self, key: ReferenceKey, moment: float) -> float:
        """
        The seconds that the clock showed at C{moment}, or would have; 0 when that cannot be known.

        @param key: what the upstream spoke of.
        @param moment: seconds since the epoch, 0 when it is not known.
        """
        known = self._known.get(key)
        if known is not None and known[0] == moment:
            self._known.move_to_end(key)
            return known[1]
        age = wall(self._clock) - moment
        if not moment or age < 0:
            return 0.0
        seconds = self._clock.seconds() - age
        self._known[key] = moment, seconds
        self._known.move_to_end(key)
        if len(self._known) > TIMES:
            self._known.popitem(last=False)
        return seconds


# -- what the upstream does not have --------------------------------------------------------------------------------

MISSING = 10_000
"""The most 404s remembered: a client that makes names up cannot fill the memory with them."""


@dataclass(frozen=True)
class CachedMissing:
    """
    A 404 that is still believed; both moments in seconds of the clock.

    @ivar fault: says it again.
    """

    fault: UpstreamMissing
    since: float
    until: float


class NegativeCache:
    """
    What upstreams said they do not have, believed for a little while (C{missing_for}); the oldest is dropped first.

    Only a genuine 404 counts: a request that was refused, put off or not answered says nothing of what is there. In
    memory: after a restart the upstream is asked again.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._missing: dict[ReferenceKey, CachedMissing] = {}

    def __len__(self) -> int:
        return len(self._missing)

    def put(self, key: ReferenceKey, fault: UpstreamMissing, seconds: float) -> None:
        """The upstream has just said that it has no such thing; believe it for C{seconds}."""
        self.forget(key)
        if seconds <= 0:
            return
        now = self._clock.seconds()
        self._missing[key] = CachedMissing(_again(fault), now, now + seconds)
        if len(self._missing) > MISSING:
            del self._missing[next(iter(self._missing))]

    def forget(self, key: ReferenceKey) -> None:
        """It is there by now."""
        self._missing.pop(key, None)

    def get(self, key: ReferenceKey) -> CachedMissing | None:
        """What is still believed of it, C{None} when the upstream has to be asked."""
        known = self._missing.get(key)
        if known is None:
            return None
        if not known.since <= self._clock.seconds() < known.until:
            self.forget(key)
            return None
        return CachedMissing(_again(known.fault), known.since, known.until)

    def check(self, key: ReferenceKey) -> None:
        """Raises the L{UpstreamMissing} that is still believed, if there is one."""
        known = self.get(key)
        if known is not None:
            raise known.fault


def _again(fault: UpstreamMissing) -> UpstreamMissing:
    # Not the same one: an exception keeps the frames of all that raised it.
    return UpstreamMissing(fault.upstream, fault.detail, fault.repository_unknown, remembered=True)
