"""
HTTP as both ports serve it, towards clients and towards operators: what every response carries, how long a request may
take to arrive, and that no body is read that is not wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableDescriptor, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.server import Request
from zope.interface import implementer

from appliance import __version__
from appliance.flow.connections import REFUSED_FOR, RETRY_AFTER, Admission, Connections

SERVER = f"pullcache/{__version__}"

PROTECTION = (
    (b"Content-Security-Policy", b"default-src 'none'; sandbox"),
    (b"X-Content-Type-Options", b"nosniff"),
)
"""On every response: whatever a browser takes it for, nothing in it is run, loaded or trusted (CSP level 3)."""

ATTACHMENT = {"Content-Disposition": "attachment"}
"""On a response whose body came from elsewhere: a browser saves it instead of showing it (RFC 6266)."""

REASONS = RESPONSES | {413: b"Content Too Large", 421: b"Misdirected Request", 422: b"Unprocessable Content"}
"""Reason phrases by status code, as RFC 9110 has them."""

# podman's multi-range requests for zstd:chunked layers have header lines of 22 KB.
HEADER_LIMIT = 64 * 1024
# How long a refused client may go on sending before it is cut off: long enough to read the refusal.
LINGER = 2.0

# Seconds to which clocks are exact.
_EXACT = 1e-6

TLS_HANDSHAKE = 0x16


def values_of(headers: Headers, name: bytes) -> list[str]:
    """
    The values of a field, none when it is not there.

    Bytes outside ASCII are opaque (RFC 9110 section 5.5); here each is a character, so that no value is an error.
    """
    values = headers.getRawHeaders(name)
    return [] if values is None else [value.decode("latin-1") for value in values]


def abort(request: Request) -> None:
    """Break the connection off, so that what was sent is not taken for the whole response."""
    transport: Any = request.transport
    transport.abortConnection()


@implementer(IPushProducer)
class RequestBody:
    """The body of a request that is arriving: it can be paused, and refused."""

    def __init__(self, channel: ServerChannel) -> None:
        self._channel = channel
        self._paused = False
        self._open = True

    def pauseProducing(self) -> None:
        """Read no more of it; as long as that lasts the client's silence is none."""
        if self._open and not self._paused:
            self._paused = True
            self._channel.read_on(False)

    def resumeProducing(self) -> None:
        """Read on."""
        if self._open and self._paused:
            self._paused = False
            self._channel.read_on(True)

    def stopProducing(self) -> None:
        """Break the connection off."""
        self._channel.transport.abortConnection()

    def refuse(self, status: int, document: bytes) -> None:
        """Answer the request with an error in JSON, and read no more of it; nothing once it is whole or cut."""
        if self._open:
            self.close()
            self._channel.refuse(status, document)

    def close(self) -> None:
        """It is whole, or cut."""
        self.resumeProducing()
        self._open = False


class BodyTaker(Protocol):
    """Takes the body of a request as it arrives; the request is answered as any other once it is whole."""

    def begin(self, body: RequestBody) -> None:
        """It is about to arrive."""

    def take(self, data: bytes) -> None:
        """Some of it."""

    def end(self) -> None:
        """That was all of it."""

    def cut(self) -> None:
        """The connection is gone, and not all had come."""


class ServerRequest(Request):
    """
    A request of either port: its body stays in memory, as far as its channel admits one, and is never taken for a form.

    @ivar stall_timeout: seconds for which the client may take nothing of the answer.
    @ivar taker: what takes the body piece by piece, C{None}: it is C{content}.
    """

    channel: Any
    content: Any
    taker: BodyTaker | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Nothing here takes a form, and parsing one costs what its sender likes.
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)
        self.stall_timeout: float = self.channel.stall_timeout

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory: Twisted would spool it to a file."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body; nothing is kept of one that is longer than it may be."""
        if self.taker is not None:
            self.taker.take(data)
        elif self.channel.admits(self.content.tell() + len(data)):
            super().handleContentChunk(data)

    def process(self) -> None:
        """See L{Request.process}; every response is protected, whichever resource answers."""
        for name, value in PROTECTION:
            self.responseHeaders.setRawHeaders(name, [value])
        super().process()

    def render(self, resrc: Any) -> None:
        """See L{Request.render}; Twisted has put its own C{Server} header there."""
        self.responseHeaders.setRawHeaders(b"Server", [SERVER])
        super().render(resrc)

    def unregisterProducer(self) -> None:
        """See L{IConsumer}; where the connection is gone there is nothing left to do."""
        if self.channel is not None:
            super().unregisterProducer()

    def _handleStar(self) -> None:
        """C{OPTIONS *} is answered as any other request is; Twisted would say yes to it by itself."""
        site: Any = self.site
        self.render(site.resource)

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """As Twisted's, with the reason phrases that it does not know."""
        super().setResponseCode(code, message or REASONS.get(code))


class ServerChannel(HTTPChannel):
    """
    One connection to either port.

    A first byte of a TLS handshake closes it at once: skopeo, podman and docker try TLS on every registry first, and
    would wait ten seconds for an answer.

    A request has C{head_timeout} to arrive, from the first of its bytes, or from the connection where it is the first,
    to its last, however slowly it trickles in.

    @cvar body_timeout: seconds that a body has on its own, C{None} where it shares those of the head.
    @cvar allow: the C{Allow} of a refusal, C{None} for none.
    """

    MAX_LENGTH = HEADER_LIMIT
    totalHeadersSize = HEADER_LIMIT
    body_timeout: float | None = None
    allow: bytes | None = None
    _first = True
    _refused = False
    _lingering = False
    _timeout: float
    _limit = 0
    _deadline: IDelayedCall | None = None
    # What takes the body that is arriving, with that body.
    _taking: tuple[BodyTaker, RequestBody] | None = None
    _silence: float | None = None
    # When something was last heard, seconds of the clock.
    _heard = 0.0
    transport: Any

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    @property
    def stall_timeout(self) -> float:
        """Seconds for which the client may take nothing of an answer."""
        return self._connections.limits.stall_timeout

    @cached_property
    def _own_address(self) -> Any:
        return super().getHost()

    def getHost(self) -> Any:
        """See L{HTTPChannel.getHost}; each request asks, and the system is asked once."""
        return self._own_address

    # -- what a port decides ----------------------------------------------------------------------------------------

    def body_limit(self, method: bytes, uri: bytes) -> int:
        """The most bytes of a body that such a request may have; 0 where none is taken."""
        raise NotImplementedError

    def body_taker(self, request: Request, method: bytes, uri: bytes) -> BodyTaker | tuple[int, bytes] | None:
        """
        What takes the body of a request whose head has come, of any length and for as long as it does not fall silent;
        C{None}: it stays in memory. Status and JSON document: it is refused.
        """
        return None

    def body_refusal(self, method: bytes, uri: bytes) -> tuple[int, bytes]:
        """Status and JSON document for a request whose body is longer than that."""
        raise NotImplementedError

    def bad_request(self) -> bytes:
        """The JSON document for what is not HTTP."""
        raise NotImplementedError

    def overload(self) -> bytes:
        """The JSON document for a connection above the limits."""
        raise NotImplementedError

    def serve_prepared(self, data: bytes) -> int:
        """Answer the requests that C{data} begins with, as far as that can be done at once; how many bytes were."""
        return 0

    def refused(self, code: int) -> None:
        """The request that is arriving was refused with this status."""

    # -- receiving --------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """A client connected."""
        super().connectionMade()
        admission = self._connections.enter(self)
        self._refused = admission is not Admission.ADMITTED
        self._timeout = self._connections.limits.head_timeout
        if admission is Admission.CLOSED:
            # Not at once: what stands between us and the socket, TLS, is not ready to be torn down.
            self._lingering = True
            self._deadline = self.callLater(0, self._cut_off)
            return
        self._deadline = self.callLater(REFUSED_FOR if self._refused else self._timeout, self._too_slow)

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._first:
            self._first = False
            if data[0] == TLS_HANDSHAKE:
                self.transport.abortConnection()
                return
        if self._lingering:
            return
        if self._refused:
            # Only now: an answer that comes before its request is none to many clients.
            self._command = data[:4].strip()
            self._forget_deadline()
            self._write_refusal(503, self.overload(), [(b"Retry-After", RETRY_AFTER)])
            return
        # Whether the next bytes begin a request and nothing stands before it.
        is_idle = not (self.requests or self._receivedHeaderSize or self._buffer or self._waitingForTransport)
        if is_idle and (served := self.serve_prepared(data)):
            if self._deadline is not None:
                self._forget_deadline()
            self._heard = self._connections.seconds()
            if served == len(data):
                return
            data = data[served:]
        super().dataReceived(data)
        # A request that is not whole yet is held to its deadline.
        is_receiving = bool(self._buffer) or (bool(self.requests) and not self._handlingRequest)
        if not is_receiving or self._taking is not None:
            self._forget_deadline()
        elif self._deadline is None and not self._lingering:
            self._deadline = self.callLater(self._timeout, self._too_slow)

    def allHeadersReceived(self) -> None:
        """Refuse a body that is too long before it comes, and before C{100 Continue} is sent."""
        if not self._path.startswith(b"/") and self._path != b"*":
            # RFC 9112 section 3.2.1. Twisted drops the first character, so that what one looks at is not what it finds.
            self._respondToBadRequestAndDisconnect()
            return
        request = self.requests[-1]
        taker = None if self.length == 0 else self.body_taker(request, self._command, self._path)
        if isinstance(taker, tuple):
            self.refuse(*taker)
            return
        if taker is not None:
            self._forget_deadline()
            body = RequestBody(self)
            request.taker, self._taking = taker, (taker, body)
            super().allHeadersReceived()
            taker.begin(body)
            return
        self._limit = self.body_limit(self._command, self._path)
        if self.length is None and self._limit == 0:
            self._refuse_body()
        elif self.length is None or self.admits(self.length):
            if self.body_timeout is not None:
                self._forget_deadline()
                self._timeout = self.body_timeout
            super().allHeadersReceived()

    def admits(self, octets: int) -> bool:
        """Whether a body of so many bytes may come; otherwise the request is refused."""
        if octets > self._limit and not self._lingering:
            self._refuse_body()
        return not self._lingering

    def allContentReceived(self) -> None:
        """The request is whole."""
        self._timeout = self._connections.limits.head_timeout
        if not self._lingering:
            taking, self._taking = self._taking, None
            if taking is not None:
                taking[1].close()
                taking[0].end()
            super().allContentReceived()

    def read_on(self, wanted: bool) -> None:
        """Whether the body that is arriving is read on; for L{RequestBody}."""
        producer: Any = self._networkProducer
        if wanted:
            self.setTimeout(self._silence)
            producer.resumeProducing()
        else:
            self._silence = self.setTimeout(None)
            producer.pauseProducing()

    def setTimeout(self, period: float | None) -> float | None:
        """See L{TimeoutMixin.setTimeout}."""
        self._heard = self._connections.seconds()
        before: float | None = super().setTimeout(period)
        return before

    def resetTimeout(self) -> None:
        """As Twisted's; the call that is waiting stays as it is, which is cheaper, and looks when it comes."""
        self._heard = self._connections.seconds()

    def timeoutConnection(self) -> None:
        """It is over, unless something was heard meanwhile."""
        period: float | None = self.timeOut
        left = 0.0 if period is None else self._heard + period - self._connections.seconds()
        if left > _EXACT:
            super().setTimeout(left)
            self.timeOut = period  # type: ignore[assignment]
        else:
            super().timeoutConnection()

    def rawDataReceived(self, data: bytes) -> None:
        """See L{HTTPChannel.rawDataReceived}."""
        if not self._lingering:
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """See L{HTTPChannel.lineLengthExceeded}."""
        self._respondToBadRequestAndDisconnect()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._forget_deadline()
        self._connections.leave(self)
        taking, self._taking = self._taking, None
        if taking is not None:
            taking[1].close()
            taking[0].cut()
        super().connectionLost(reason)

    def _too_slow(self) -> None:
        self._deadline = None
        self._connections.too_slow(self)

    def _forget_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    # -- refusing ---------------------------------------------------------------------------------------------------

    def refuse(self, code: int, body: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Answer the request whose head has come, with this document and these fields, and read none of its body."""
        self._forget_deadline()
        self._write_refusal(code, body, more)

    def _refuse_body(self) -> None:
        self.refuse(*self.body_refusal(self._command, self._path))

    def _respondToBadRequestAndDisconnect(self) -> None:
        """What Twisted refuses while parsing is answered as JSON as well."""
        self._write_refusal(400, self.bad_request())

    def _write_refusal(self, code: int, body: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        if self._lingering:
            return
        self._lingering = True
        self.refused(code)
        fields = [(b"Server", SERVER.encode("ascii")), *PROTECTION, (b"Content-Type", b"application/json"), *more]
        fields += [(b"Content-Length", b"%d" % len(body))] + ([(b"Allow", self.allow)] if self.allow else [])
        lines = [b"HTTP/1.1 %d %b" % (code, REASONS.get(code, b"")), *(b"%b: %b" % field for field in fields)]
        self.transport.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        if getattr(self, "_command", b"-") != b"HEAD":
            self.transport.write(body)
        # Closing while the client still sends would reset the connection, and the refusal might never be read.
        self.setRawMode()
        self._close_gently()

    def _cut_off(self) -> None:
        self._deadline = None
        self.transport.abortConnection()

    def _close_gently(self) -> None:
        self.setTimeout(None)
        half_closeable: bool = IHalfCloseableDescriptor.providedBy(self.transport)
        if half_closeable:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
            self._deadline = self.callLater(LINGER, self._cut_off)
        else:
            self.loseConnection()
