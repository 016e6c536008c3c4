"""
One address that clients connect to: its site, and the HTTP/1.1 channel of each connection, which takes no bodies and
has the hot lane in front of everything else.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.server import Site

from appliance.cache.access import RemoteRepository
from appliance.cache.pullthrough import PullThrough
from appliance.flow.connections import Connections
from appliance.flow.http import ServerChannel
from appliance.flow.rates import ClientRates
from appliance.identity.passwords import Passwords
from appliance.interfaces import IAccounts, IAudit
from appliance.registry.app import RegistryApp, RegistryResource
from appliance.registry.failures import document
from appliance.registry.hotlane import HotLane
from appliance.registry.login import Login, Peer
from appliance.registry.request import RegistryRequest
from appliance.settings import ListenSettings, Settings

# Seconds without a request after which a connection is closed; clients pause between layers.
IDLE = 120.0
# A registry that takes nothing needs no body; this much is read and dropped so that a client reads why.
MAX_REQUEST_BODY = 64 * 1024


class Listener:
    """
    The protocol factory of one listener, and what of it follows the configuration.

    @ivar site: to listen with.
    """

    def __init__(
        self,
        cache: PullThrough,
        settings: Settings,
        listen: ListenSettings,
        accounts: IAccounts,
        audit: IAudit,
        reactor: Any,
        connections: Connections | None = None,
        passwords: Passwords | None = None,
        rates: ClientRates | None = None,
    ) -> None:
        """
        @param connections: the table of them, C{None} for one of its own.
        @param passwords: see L{Login.configure}.
        @param rates: what clients may have in a second, on all listeners; C{None} for a table of its own.
        """
        clock: IReactorTime = reactor
        self._login = Login(audit)
        self._login.configure(listen, settings.proxies_of(listen), passwords)
        rates = ClientRates(clock, settings.client_rate) if rates is None else rates
        self._lane = HotLane(cache.access, self._login, rates, clock, accounts)
        self._lane.hosts = listen.hosts
        self._app = RegistryApp(cache, settings, listen, self._lane, rates, audit, clock)
        table = Connections(clock, settings.connections) if connections is None else connections
        resource = RegistryResource(self._app, self._login, rates)
        self.site = RegistrySite(resource, self._lane, accounts, reactor, table)

    def configure(self, settings: Settings, listen: ListenSettings, passwords: Passwords | None = None) -> None:
        """Follow a configuration that was read again."""
        self._login.configure(listen, settings.proxies_of(listen), passwords)
        self._app.settings = settings
        self._app.default_upstream = listen.default_upstream
        self._app.hosts = self._lane.hosts = listen.hosts
        self._lane.clear()

    @property
    def busy(self) -> bool:
        """Whether a client is being answered."""
        return any(channel.busy for channel in self.site.open)

    def take_pulls(self) -> list[tuple[RemoteRepository, str, int]]:
        """See L{HotLane.take_pulls}."""
        return self._lane.take_pulls()

    def forget_answers(self) -> None:
        """Drop the prepared answers: tags may mean something else by now, though no upstream said so."""
        self._lane.clear()

    def forget_repository(self, upstream: str, name: str) -> None:
        """Drop the prepared answers of one repository."""
        self._lane.forget(upstream, name)

    def close_idle(self) -> None:
        """Close the connections without a request under way; the others close after their answer."""
        for channel in list(self.site.open):
            channel.retire()


class RegistrySite(Site):
    """
    A Site of L{RegistryChannel}s.

    @ivar open: those that are connected.
    @ivar connections: the table of them, and of others.
    """

    displayTracebacks = False
    noisy = False

    def __init__(
        self, resource: RegistryResource, lane: HotLane, accounts: IAccounts, reactor: Any, connections: Connections
    ) -> None:
        requests = type("ListenerRequest", (RegistryRequest,), {"accounts": accounts})
        super().__init__(resource, requestFactory=requests, timeout=IDLE, reactor=reactor)
        self.connections = connections
        self.open: set[RegistryChannel] = set()
        self.protocol = lambda: RegistryChannel(  # type: ignore[method-assign,assignment,return-value]
            connections, lane, self.open
        )

    def log(self, request: object) -> None:
        """Requests are accounted for where they end; Twisted's own log is not kept."""


class RegistryChannel(ServerChannel):
    """One client connection."""

    allow = b"GET, HEAD"

    def __init__(self, connections: Connections, lane: HotLane, open_channels: set[RegistryChannel]) -> None:
        super().__init__(connections)
        self._lane = lane
        self._open = open_channels

    @cached_property
    def peer(self) -> Peer:
        """What is at the other end."""
        return Peer(self.transport)

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

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._open.discard(self)
        super().connectionLost(reason)

    def serve_prepared(self, data: bytes) -> int:
        """See L{ServerChannel.serve_prepared}."""
        return self._lane.serve(self.transport, data, self.peer)

    def body_limit(self, method: bytes, uri: bytes) -> int:
        """See L{ServerChannel.body_limit}; a chunked one, of unknown length, is always refused."""
        return 0 if self.length is None else MAX_REQUEST_BODY

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
