"""
Ranges that bypass the flight of their blob: fetched on the side, and not kept, since a part cannot be verified.

Waiting costs the upstream nothing, so near ranges wait: a runtime that reads a layer in parallel pieces follows the
write head closely. A far one bypasses the flight. A lazy puller (stargz, SOCI) reads the table of contents at the end
of a large layer first, some kilobytes: such a range does not wait for what a request of its own brings sooner. A range
of many megabytes is a pull, which the flight serves unless that would take long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from appliance.cache.access import RemoteRepository
from appliance.cache.flight import Flight
from appliance.errors import UpstreamError
from appliance.oci.digest import Digest
from appliance.oci.ranges import Span
from appliance.upstream.interfaces import IBlobResponse

LARGE_WAIT = 2.0
"""Seconds a large range waits before the flight's rate says anything, and the longest wait it is left with after."""

SMALL_WAIT = 0.25
"""Seconds a request of its own takes, roughly: the longest wait a small range is left with."""

SMALL = 4 * 1024 * 1024
"""Bytes of the largest range that is a look into a blob, and no pull of it."""

NEAR = 1024 * 1024
"""Bytes ahead that are never worth a request of their own."""

AT_ONCE = 4
"""Ranges of one blob that are fetched on the side at the same time; others wait for their turn, or for the flight."""

SpanOf = Callable[[int], Span | None]
"""The one range that is wanted of a blob of that many bytes; C{None}: another number of ranges, or none."""


def should_bypass(start: int, head: int, rate: float, wait: float = LARGE_WAIT) -> bool:
    """
    Whether to fetch on the side a range that begins at C{start}. Pure.

    @param head: bytes the flight has.
    @param rate: bytes a second it has been getting; 0 where it has got none yet.
    @param wait: seconds that waiting may take.
    """
    ahead = start - head
    if ahead <= NEAR:
        return False
    return rate <= 0 or ahead / rate > wait


class BypassedRange:
    """
    The upstream's answer to one range of a blob that is under way; L{close} it.

    @ivar size: bytes of the whole blob.
    @ivar response: just that range, once it is granted.
    """

    response: IBlobResponse

    def __init__(self, size: int, span: Span, closed: Callable[[], object]) -> None:
        self.size = size
        self.span = span
        self._closed = closed

    def is_range(self) -> bool:
        """Whether the answer is just the range that was asked for (RFC 9110 lets a server send less, or the whole)."""
        return bool(self.response.start == self.span.start and self.response.stop in (None, self.span.stop))

    def close(self) -> None:
        """Nothing more is wanted; the connection is dropped where the range has not come whole."""
        if hasattr(self, "response"):
            self.response.abandon()
        self._closed()


class RangeBypass:
    """Fetches ranges on the side, L{AT_ONCE} of a blob."""

    def __init__(self, clock: IReactorTime, refused: Callable[[RemoteRepository, Digest, UpstreamError], None]) -> None:
        """@param refused: called with what the upstream answered instead of a range."""
        self._clock = clock
        self._refused = refused
        self._slots: dict[Digest, DeferredSemaphore] = {}

    async def open(self, remote: RemoteRepository, flight: Flight, span_of: SpanOf) -> BypassedRange | None:
        """
        The upstream's answer to just the range that is wanted, where it is far ahead of what has come, or an unstored
        flight has it no more.

        C{None} when it is near enough, or not granted: then it comes with the flight.

        @raise UpstreamError: the flight was not opened, or the range could not be asked for.
        """
        if flight.size is None:
            await flight.opened()
        size, span = flight.size, None if flight.size is None else span_of(flight.size)
        if size is None or span is None or flight.whole_only:
            return None
        if flight.start <= span.start <= flight.growth.available + NEAR:
            return None
        wait = SMALL_WAIT if span.length <= SMALL else LARGE_WAIT

        def is_far() -> bool:
            if span.start < flight.start:
                return True
            return should_bypass(span.start, flight.growth.available, flight.rate(), wait)

        # What a small range may lose by waiting is more than it costs to ask.
        if not is_far() or (not flight.rate() and span.length > SMALL):
            await flight.opened()
            await self._approached(flight, span.start, wait)
        slots = self._slots.setdefault(flight.digest, DeferredSemaphore(AT_ONCE))
        await slots.acquire()
        # Not further down the stack: who waits may find that the flight has come near, and be done at once as well.
        bypassed = BypassedRange(size, span, partial(self._clock.callLater, 0, self._free, flight.digest, slots))
        try:
            if is_far():
                asked = remote.registry.blob(remote.name, flight.digest, span.start, span.stop)
                bypassed.response = await asked
                flight.whole_only = not bypassed.is_range()
                if not flight.whole_only and bypassed.response.size in (None, size):
                    return bypassed
        except BaseException as error:
            bypassed.close()
            if isinstance(error, UpstreamError):
                self._refused(remote, flight.digest, error)
            raise
        bypassed.close()
        return None

    async def _approached(self, flight: Flight, position: int, seconds: float) -> None:
        """Wait a little for the flight to come near C{position}."""
        until = self._clock.seconds() + seconds
        while flight.growth.failure is None and position - flight.growth.available > NEAR:
            try:
                await flight.growth.changed().addTimeout(max(0.0, until - self._clock.seconds()), self._clock)
            except DeferredTimeout:
                return

    def _free(self, digest: Digest, slots: DeferredSemaphore) -> None:
        slots.release()
        if slots.tokens == AT_ONCE:
            self._slots.pop(digest, None)
