"""The body of a response, taken piece by piece at the pace of whoever reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from appliance.cli.failures import CommandFailed

#: Bytes that may wait to be taken before the sender is asked to wait; a few reads of a socket.
WAITING = 1024 * 1024


class Arrival(Protocol):
    """
    An asynchronous iterator of C{bytes}, for one reader; it ends with the body.

    A body that is cut raises L{CommandFailed}. One without a length that ends with its connection counts as whole:
    whoever must know compares lengths. A reader that is cancelled closes the connection.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._paused = False
        self._end: Failure | None = None
        self._reader: Deferred[None] | None = None

    @classmethod
    def of(cls, response: IResponse, source: str) -> Arrival:
        """The body of C{response}; C{source} names the sender in errors."""
        arrival = cls(source)
        response.deliverBody(arrival)
        return arrival

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._end is not None:
                raise self._ending(self._end)
            self._reader = Deferred(lambda _: self.leave())
            await self._reader
        return self._taken()

    def _taken(self) -> bytes:
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        if self._paused and self._waiting < WAITING // 2:
            self._paused = False
            self._producer.resumeProducing()
        return piece

    def leave(self) -> None:
        """Take no more: the connection is closed."""
        if self._end is None and self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """See L{Protocol}."""
        self._pieces.append(data)
        self._waiting += len(data)
        if not self._paused and self._waiting > WAITING:
            self._paused = True
            self._producer.pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{Protocol}: the body is over, one way or another."""
        self._end = reason
        self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.called:
            reader.callback(None)

    def _ending(self, reason: Failure) -> Exception:
        if reason.check(ResponseDone, PotentialDataLoss):
            return StopAsyncIteration()
        return CommandFailed(f"the connection to {self._source} broke before everything had come; is it still running?")

    @property
    def _producer(self) -> IPushProducer:
        producer: IPushProducer = self.transport  # type: ignore[assignment]  # a body's transport is a producer
        return producer
