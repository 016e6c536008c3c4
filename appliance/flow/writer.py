"""From a push producer to the disk: buffered, written on a thread, and paused when the disk is behind."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.flow.singleflight import Waiters

HIGH = 4 * 1024 * 1024
"""Bytes that wait for the disk before the producer is paused; it is resumed below a quarter of that."""


@implementer(IConsumer)
class ThreadWriter:
    """
    Hands what it is given to C{store}, one call at a time, everything that came meanwhile in the next.

    So a slow stream is written as it comes, and a fast one in large pieces.

    @ivar high: bytes that may wait before the producer is paused.
    @ivar failure: why C{store} failed, C{None} while it did not; nothing more is stored after it.
    """

    def __init__(
        self, store: Callable[[list[bytes]], Deferred[None]], skip: int, limit: int | None, high: int = HIGH
    ) -> None:
        """
        @param store: takes pieces in order; is called again only after its Deferred has fired.
        @param skip: bytes at the beginning that are held already and are dropped.
        @param limit: the most that may be stored; more stops the producer and sets L{overrun}. C{None}: no limit.
        """
        self._store = store
        self._skip = skip
        self._room = limit
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._storing = False
        self._paused = False
        self._producer: IPushProducer | None = None
        self._drained: Waiters[None] = Waiters()
        self.high = high
        self.overrun = False
        self.failure: Failure | None = None

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """See L{IConsumer}; only push producers."""
        self._producer = IPushProducer(producer)

    def unregisterProducer(self) -> None:
        """See L{IConsumer}."""
        self._producer = None

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.failure is not None or self.overrun:
            return
        data = self._admitted(data)
        if data:
            self._pieces.append(data)
            self._buffered += len(data)
            if not self._storing:
                self._store_next()
            elif self._buffered > self.high and not self._paused and self._producer is not None:
                self._paused = True
                self._producer.pauseProducing()
        if self.overrun and self.failure is None:
            self._stop()

    def drained(self) -> Deferred[None]:
        """Fires when everything written was stored; fails with C{store}'s failure. One Deferred per call."""
        if not self._storing:
            return succeed(None) if self.failure is None else fail(self.failure)
        return self._drained.wait()

    def _admitted(self, data: bytes) -> bytes:
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = data[dropped:]
        if self._room is not None:
            if len(data) > self._room:
                self.overrun = True
                data = data[: self._room]
            self._room -= len(data)
        return data

    def _store_next(self) -> None:
        pieces, self._pieces, self._buffered = self._pieces, [], 0
        self._storing = True
        maybeDeferred(self._store, pieces).addCallbacks(self._stored, self._failed)

    def _stored(self, _: None) -> None:
        self._storing = False
        if self._pieces:
            self._store_next()
        if self._paused and self._buffered < self.high // 4 and self.failure is None:
            self._paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
        if not self._storing:
            self._drained.fire(None)

    def _failed(self, failure: Failure) -> None:
        self._storing = False
        self.failure = failure
        self._pieces, self._buffered = [], 0
        self._stop()
        self._drained.fire(failure)

    def _stop(self) -> None:
        if self._producer is not None:
            self._producer.stopProducing()
