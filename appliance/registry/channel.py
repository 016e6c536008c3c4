"""The HTTP/1.1 channel towards clients: limits, deadlines, and the hot lane in front of everything else."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableDescriptor
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from appliance.registry.failures import document
from appliance.registry.hotlane import HotLane
from appliance.registry.request import SERVER, RegistryRequest

# podman's multi-range requests for zstd:chunked layers have header lines of 22 KB.
HEADER_LIMIT = 64 * 1024
# From the first byte of a request to its last, however slowly it trickles in.
REQUEST_DEADLINE = 30.0
# A registry that takes nothing needs no body; this much is read and forgotten so that a client hears why.
BODY_LIMIT = 64 * 1024
# How long a refused client may go on sending before it is cut off: long enough to read the refusal.
LINGER = 2.0

TLS_HANDSHAKE = 0x16


class RegistryChannel(HTTPChannel):
    """
    One client connection.

    A first byte of a TLS handshake closes it at once: skopeo, podman and docker try TLS on every registry first, and
    would wait ten seconds for an answer.
    """

    MAX_LENGTH = HEADER_LIMIT
    totalHeadersSize = HEADER_LIMIT
    _first = True
    _lingering = False
    _deadline: IDelayedCall | None = None
    transport: Any

    def __init__(self, lane: HotLane, open_channels: set[RegistryChannel]) -> None:
        super().__init__()
        self._lane = lane
        self._open = open_channels

    @property
    def busy(self) -> bool:
        """Whether a request is being received or answered."""
        return bool(self.requests)

    def retire(self) -> None:
        """Close now, or after the answer under way."""
        if self.busy:
            self.persistent = False
        else:
            self.loseConnection()

    def connectionMade(self) -> None:
        """A client connected."""
        self._open.add(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._first:
            self._first = False
            if data[0] == TLS_HANDSHAKE:
                self.transport.abortConnection()
                return
        if self._lingering:
            return
        if self._idle() and self._lane.serve(self.transport, data):
            self.resetTimeout()
            return
        super().dataReceived(data)
        self._watch()

    def allHeadersReceived(self) -> None:
        """Refuse a large body before it comes."""
        if self.length is None or self.length > BODY_LIMIT:
            self._refuse_body()
            return
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """The request is whole."""
        if not self._lingering:
            super().allContentReceived()

    def lineLengthExceeded(self, line: bytes) -> None:
        """A header line too long for anybody."""
        self._respondToBadRequestAndDisconnect()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._forget_deadline()
        self._open.discard(self)
        super().connectionLost(reason)

    def _idle(self) -> bool:
        """Whether the next bytes begin a request and nothing stands before it."""
        return not (self.requests or self._receivedHeaderSize or self._buffer or self._waitingForTransport)

    def _watch(self) -> None:
        """Hold a request that is not whole yet to its deadline."""
        receiving = bool(self._buffer) or (bool(self.requests) and not self._handlingRequest)
        if not receiving:
            self._forget_deadline()
        elif self._deadline is None and not self._lingering:
            self._deadline = self.callLater(REQUEST_DEADLINE, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        self.transport.abortConnection()

    def _forget_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def _refuse_body(self) -> None:
        self._forget_deadline()
        if self._command in (b"GET", b"HEAD"):
            self._write_refusal(413, b"Content Too Large", document("SIZE_INVALID", "no request here has a body", {}))
        else:
            self._write_refusal(405, b"Method Not Allowed", document("UNSUPPORTED", "this registry is read-only", {}))

    def _respondToBadRequestAndDisconnect(self) -> None:
        """What Twisted refuses while parsing is told as JSON as well."""
        told = document("UNSUPPORTED", "the request is not HTTP as it should be", {})
        self._write_refusal(400, b"Bad Request", told)

    def _write_refusal(self, code: int, reason: bytes, body: bytes) -> None:
        if self._lingering:
            return
        self._lingering = True
        head = (
            b"HTTP/1.1 %d %b\r\nServer: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Allow: GET, HEAD\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head % (code, reason, SERVER.encode("ascii"), len(body)))
        if self._account_refusal(code) != b"HEAD":
            self.transport.write(body)
        # Closing while the client still sends would reset the connection, and the refusal might never be read.
        self.setRawMode()
        self._close_gently()

    def _account_refusal(self, code: int) -> bytes:
        """Let the request that is refused be counted as such when the connection ends; its method, as far as known."""
        method: bytes = getattr(self, "_command", b"-")
        if self.requests:
            request: RegistryRequest = self.requests[-1]
            request.code, request.method, request.uri = code, method, getattr(self, "_path", b"-")
        return method

    def rawDataReceived(self, data: bytes) -> None:
        """See L{HTTPChannel.rawDataReceived}."""
        if not self._lingering:
            super().rawDataReceived(data)

    def _close_gently(self) -> None:
        self.setTimeout(None)
        half_closeable: bool = IHalfCloseableDescriptor.providedBy(self.transport)
        if half_closeable:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
            self._deadline = self.callLater(LINGER, self._too_slow)
        else:
            self.loseConnection()
