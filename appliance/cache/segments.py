"""
One large blob over several ranges at once.

What is missing is cut into pieces of L{PIECE} bytes, which are asked for in order, some at a time. The one in front is
written to the ingest as it comes, so that readers see its bytes at once; the others are written ahead, and absorbed in
their turn::

    |==== in the ingest ====|--- front --->        |--- ahead --->  |--- whole, ahead ---|   not asked for yet   |
    0                                  readable up to here                                                    size

Each piece is one line at a time, and goes on where that was cut, after the delays of L{appliance.cache.backoff}; the
others do not notice. No piece is begun further than twice the number of lines behind the front, so that what is ahead
stays bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock, DeferredQueue, FirstError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.backoff import Backoff
from appliance.errors import PullcacheError, UpstreamRateLimited, UpstreamUnavailable
from appliance.flow.singleflight import ended
from appliance.flow.writer import ThreadWriter
from appliance.interfaces import IIngest
from appliance.upstream.interfaces import IBlobResponse

T = TypeVar("T")

PIECE = 8 * 1024 * 1024
"""Bytes of a piece: some tenths of a second of a good line, and many times what a request costs."""

SEGMENT_FROM = 32 * 1024 * 1024
"""The least number of missing bytes that more than one line is opened for."""


def first_stop(start: int, size: int | None, lines: int) -> int | None:
    """The end of the first piece of what is missing from C{start} on; C{None} when it is to come as one stream."""
    if lines < 2 or size is None or size - start < SEGMENT_FROM:
        return None
    return min(start + PIECE, size)


class Piece:
    """
    Part of a blob, asked for by itself.

    @ivar reached: up to where it is in the ingest, counted or ahead.
    @ivar granted: an answer that was not delivered yet.
    @ivar leads: whether all in front of it is counted, and so are its own bytes.
    @ivar lock: held while some of its bytes are stored or absorbed.
    @ivar whole: fires when nothing of it is missing.
    """

    def __init__(self, start: int, stop: int, granted: IBlobResponse | None = None) -> None:
        self.reached = start
        self.stop = stop
        self.granted = granted
        self.leads = False
        self.lock = DeferredLock()
        self.whole: Deferred[None] = Deferred()


class Segments:
    """What is missing of one blob, in pieces; call L{fetch} once."""

    _log = Logger()

    def __init__(
        self,
        upstream: str,
        ask: Callable[[int, int], Deferred[IBlobResponse]],
        ingest: IIngest,
        size: int,
        lines: int,
        clock: IReactorTime,
        advanced: Callable[[], None],
    ) -> None:
        """
        @param upstream: whom L{ask} asks, for messages.
        @param ask: opens just the range from an offset to before another, or fails.
        @param size: bytes of the whole blob.
        @param lines: how many are open at once.
        @param advanced: called when the ingest has grown.
        """
        self._upstream = upstream
        self._ask = ask
        self._ingest = ingest
        self._size = size
        self._lines = lines
        self._clock = clock
        self._advanced = advanced
        self._stored = 0
        self._over = False
        self._planned: int = ingest.size
        self._window: deque[Piece] = deque()
        self._wanted: DeferredQueue[Piece] = DeferredQueue()

    async def fetch(self, granted: IBlobResponse) -> None:
        """
        Returns when nothing is missing. However it ends, no line is open then and no byte on its way to the disk.

        @param granted: the answer that has the first piece, up to L{first_stop}.
        @raise PullcacheError: a piece failed with something that waiting does not mend, or nothing came for too long;
            what is in the ingest is a beginning of the blob.
        @raise OSError: the disk refused.
        """
        self._plan(granted)
        for _ in range(2 * self._lines - 1):
            self._plan()

        async def work() -> None:
            while True:
                self._go_on()
                await self._bring(await self._wanted.get())

        front = Deferred.fromCoroutine(self._lead())
        under_way = [front, *(Deferred.fromCoroutine(work()) for _ in range(self._lines))]
        try:
            # The workers end only by a failure; the front ends when all is there.
            await DeferredList(under_way, fireOnOneCallback=True, fireOnOneErrback=True, consumeErrors=True)
        except FirstError as first:
            first.subFailure.raiseException()
        finally:
            self._over = True
            for each in under_way:
                each.cancel()
            await _to_the_end(DeferredList(under_way, consumeErrors=True))

    def _plan(self, granted: IBlobResponse | None = None) -> None:
        if self._planned < self._size:
            piece = Piece(self._planned, min(self._planned + PIECE, self._size), granted)
            self._planned = piece.stop
            self._window.append(piece)
            self._wanted.put(piece)

    def _go_on(self) -> None:
        """Call it before each wait: a worker that ran further up the stack while all were cancelled was not."""
        if self._over:
            raise CancelledError

    async def _lead(self) -> None:
        """Let one piece after the other be the front."""
        while self._window:
            piece = self._window[0]
            async with piece.lock:
                piece.leads = True
                if piece.reached > self._ingest.size:
                    await _to_the_end(self._ingest.absorb(piece.reached))
                    self._advanced()
            self._go_on()
            await piece.whole
            self._window.popleft()
            self._plan()

    async def _bring(self, piece: Piece) -> None:
        backoff, before, stored = Backoff(), piece.reached, self._stored
        while (error := await self._ask_for(piece)) is not None:
            seconds = backoff.delay(error, piece.reached > before, self._stored > stored)
            before, stored = piece.reached, self._stored
            self._log.info(
                "{digest} from {reached} on: {error}; again in {seconds} s",
                digest=self._ingest.digest,
                reached=piece.reached,
                error=error,
                seconds=seconds,
            )
            self._go_on()
            await deferLater(self._clock, seconds)
        piece.whole.callback(None)

    async def _ask_for(self, piece: Piece) -> PullcacheError | None:
        """One request for what is missing of the piece; why some is afterwards."""
        error: PullcacheError
        try:
            self._go_on()
            response, piece.granted = piece.granted, None
            if response is None:
                response = await self._ask(piece.reached, piece.stop)
            writer = ThreadWriter(
                lambda data: Deferred.fromCoroutine(self._store(piece, data)), 0, piece.stop - piece.reached
            )
            try:
                await response.deliver(writer)
            finally:
                await _to_the_end(writer.drained())
            error = UpstreamUnavailable(self._upstream, f"the body of a range ended at {piece.reached}")
        except (UpstreamUnavailable, UpstreamRateLimited) as failed:
            error = failed
        return error if piece.reached < piece.stop else None

    async def _store(self, piece: Piece, data: list[bytes]) -> None:
        octets = sum(map(len, data))
        async with piece.lock:
            if piece.leads:
                await self._ingest.write(data)
            else:
                await self._ingest.write_ahead(piece.reached, data)
            piece.reached += octets
        self._stored += octets
        if piece.leads:
            self._advanced()


async def _to_the_end(work: Deferred[T]) -> T:
    """
    What C{work} fires or fails with. It is not cancelled with who awaits this, who hears of that only when it is over:
    a thread cannot be stopped, and its file may not be closed, nor another task be given to it, meanwhile.
    """
    outcome: list[Any] = []
    work.addBoth(outcome.append)
    cancelled: CancelledError | None = None
    while not outcome:
        try:
            await ended(work)
        except CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    given: T = outcome[0]
    return given
