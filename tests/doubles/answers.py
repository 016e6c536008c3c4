"""
An answer of the simulated registry, before it is sent, and how it is sent.

Everything a fault may change stands in L{Answer}: status, headers, body, how the body's end is marked, how fast it
goes, and where it breaks off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.web.http import Request
from zope.interface import implementer

PIECE = 64 * 1024
"""Bytes written at a time."""

TICK = 0.05
"""Seconds between two writes of a body that is slowed down, and from the last write to an abort."""

NONE: Mapping[str, str] = MappingProxyType({})


@dataclass
class Answer:
    """
    What is about to be sent.

    @ivar headers: by name as written; C{Content-Length} comes from C{length}.
    @ivar body: the bytes of the body, none for HEAD.
    @ivar length: what Content-Length claims, C{None} to leave it out; it need not be true.
    @ivar whole: the whole representation, where C{body} is a part of it.
    @ivar start: offset of C{body} in C{whole}.
    @ivar framing: without a length, C{"chunked"} or C{"close"} marks the end.
    @ivar delay: seconds to wait before the status line.
    @ivar rate: bytes per second, C{None} for as fast as possible.
    @ivar cut: break the line after this many bytes of the body.
    @ivar polite: whether that break is a FIN, after everything has been sent, instead of a reset.
    @ivar stall: fall silent after this many bytes of the body.
    @ivar never: fall silent before the status line.
    @ivar endless: repeat the body for ever.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    whole: bytes = b""
    start: int = 0
    framing: str = "chunked"
    delay: float = 0.0
    rate: float | None = None
    cut: int | None = None
    polite: bool = False
    stall: int | None = None
    never: bool = False
    endless: bool = False


def whole(data: bytes, content_type: str, headers: Mapping[str, str] = NONE, status: int = 200) -> Answer:
    """An answer with all of C{data}."""
    return Answer(status, {"Content-Type": content_type, **headers}, data, len(data), data)


def document(value: Any, headers: Mapping[str, str] = NONE, status: int = 200) -> Answer:
    """An answer with C{value} as JSON."""
    return whole(json.dumps(value).encode(), "application/json", headers, status)


def error(status: int, code: str, message: str = "simulated", headers: Mapping[str, str] = NONE) -> Answer:
    """An error of the distribution specification."""
    return document({"errors": [{"code": code, "message": message}]}, headers, status)


@dataclass
class Exchange:
    """
    One request as received, and what became of it.

    @ivar headers: values by lower-case name.
    @ivar status: C{None} until a status line was sent.
    @ivar sent: bytes of the body written so far.
    @ivar ended: how it ended: C{"open"}, C{"done"}, C{"cut"} by the registry or C{"left"} by the client.
    """

    method: str
    path: str
    query: str
    headers: dict[str, list[str]]
    status: int | None = None
    sent: int = 0
    ended: str = "open"

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next(iter(self.headers.get(name.lower(), [])), None)


@implementer(IPushProducer)
class Sender:
    """Writes one answer to one request, and notes in the exchange what was written."""

    def __init__(self, request: Request, answer: Answer, exchange: Exchange, clock: IReactorTime) -> None:
        self._request = request
        self._answer = answer
        self._exchange = exchange
        self._clock = clock
        self._paused = False
        self._call: IDelayedCall | None = None
        self._body = b"" if request.method == b"HEAD" else answer.body

    def start(self) -> None:
        """Begin, after the answer's delay."""
        self._request.notifyFinish().addErrback(lambda _: self._left())
        if self._answer.never:
            return
        if self._answer.delay:
            self._call = self._clock.callLater(self._answer.delay, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._call = None
        request, answer = self._request, self._answer
        request.setResponseCode(answer.status)
        for name, value in answer.headers.items():
            request.responseHeaders.setRawHeaders(name, [value])
        if answer.length is not None:
            request.responseHeaders.setRawHeaders("Content-Length", [str(answer.length)])
        elif answer.framing == "close":
            request.clientproto = b"HTTP/1.0"
            request.channel.persistent = False
        if answer.length is not None and answer.length != len(answer.body):
            request.channel.persistent = False
        self._exchange.status = answer.status
        request.write(b"")
        request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """Write on, until told otherwise."""
        self._paused = False
        while not self._paused and self._call is None and self._exchange.ended == "open":
            self._step()

    def pauseProducing(self) -> None:
        """Write no more for now."""
        self._paused = True

    def stopProducing(self) -> None:
        """The client has gone."""
        self._left()

    def _step(self) -> None:
        answer, position = self._answer, self._exchange.sent
        if answer.stall is not None and position >= answer.stall:
            self._paused = True
            return
        if answer.cut is not None and position >= answer.cut:
            self._cut()
            return
        piece = self._piece(position)
        if not piece:
            self._finish()
            return
        self._exchange.sent += len(piece)
        self._request.write(piece)
        if answer.rate is not None:
            self._call = self._clock.callLater(len(piece) / answer.rate, self._tick)

    def _piece(self, position: int) -> bytes:
        answer = self._answer
        size = PIECE if answer.rate is None else max(1, min(PIECE, int(answer.rate * TICK)))
        limits = [end - position for end in (answer.stall, answer.cut) if end is not None]
        size = min(size, *limits) if limits else size
        if answer.endless and self._body:
            return (self._body * (size // len(self._body) + 1))[:size]
        return self._body[position : position + size]

    def _tick(self) -> None:
        self._call = None
        if not self._paused:
            self.resumeProducing()

    def _finish(self) -> None:
        self._exchange.ended = "done"
        self._request.unregisterProducer()
        self._request.finish()

    def _cut(self) -> None:
        self._exchange.ended = "cut"
        self._request.unregisterProducer()
        if self._answer.polite:
            self._request.channel.loseConnection()
        else:
            transport = self._request.channel.transport
            assert transport is not None
            self._clock.callLater(TICK, transport.abortConnection)  # type: ignore[attr-defined]

    def _left(self) -> None:
        if self._exchange.ended == "open":
            self._exchange.ended = "left"
        if self._call is not None and self._call.active():
            self._call.cancel()
