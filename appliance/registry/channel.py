"""The HTTP/1.1 channel towards clients: no bodies, and the hot lane in front of everything else."""

from __future__ import annotations

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from appliance.cache.access import Client
from appliance.flow.connections import Connections
from appliance.flow.http import ServerChannel
from appliance.registry.failures import document
from appliance.registry.hotlane import HotLane
from appliance.registry.request import RegistryRequest

# A registry that takes nothing needs no body; this much is read and forgotten so that a client hears why.
BODY_LIMIT = 64 * 1024


class RegistryChannel(ServerChannel):
    """
    One client connection.

    @ivar client: who is at the other end, from C{connectionMade} on.
    """

    client: Client

    allow = b"GET, HEAD"

    def __init__(self, connections: Connections, lane: HotLane, open_channels: set[RegistryChannel]) -> None:
        super().__init__(connections)
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
        self.client = Client(getattr(self.transport.getPeer(), "host", "-"))
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._open.discard(self)
        super().connectionLost(reason)

    def serve_prepared(self, data: bytes) -> bool:
        """See L{ServerChannel.serve_prepared}."""
        return self._lane.serve(self.transport, data, self.client)

    def body_limit(self, method: bytes, uri: bytes) -> int:
        """See L{ServerChannel.body_limit}; one in pieces of unknown number is refused whatever it is."""
        return 0 if self.length is None else BODY_LIMIT

    def body_refusal(self, method: bytes, uri: bytes) -> tuple[int, bytes]:
        """See L{ServerChannel.body_refusal}."""
        if method in (b"GET", b"HEAD"):
            return 413, document("SIZE_INVALID", "no request here has a body", {})
        return 405, document("UNSUPPORTED", "this registry is read-only", {})

    def bad_request(self) -> bytes:
        """See L{ServerChannel.bad_request}."""
        return document("UNSUPPORTED", "the request is not HTTP as it should be", {})

    def overload(self) -> bytes:
        """See L{ServerChannel.overload}; clients come again after TOOMANYREQUESTS."""
        return document("TOOMANYREQUESTS", "too many connections are open; come again in a few seconds", {})

    def refused(self, code: int) -> None:
        """Let the request that is refused be counted as such when the connection ends."""
        if self.requests:
            request: RegistryRequest = self.requests[-1]
            request.code, request.method = code, getattr(self, "_command", b"-")
            request.uri = getattr(self, "_path", b"-")
