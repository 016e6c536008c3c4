"""One address that clients connect to."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Site

from appliance.cache.access import RemoteRepository
from appliance.cache.pullthrough import PullThrough
from appliance.flow.connections import Connections
from appliance.interfaces import IAccounts
from appliance.registry.app import RegistryApp
from appliance.registry.channel import RegistryChannel
from appliance.registry.hotlane import HotLane
from appliance.registry.request import RegistryRequest
from appliance.settings import ListenSettings, Settings

# A connection on which nothing is asked for is closed after this; clients pause between layers.
IDLE = 120.0


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
        reactor: Any,
        connections: Connections | None = None,
    ) -> None:
        """
        @param connections: the table of them, C{None} for one of its own.
        """
        clock: IReactorTime = reactor
        self._lane = HotLane(cache.access, clock, accounts)
        self._lane.hosts = listen.hosts
        self._app = RegistryApp(cache, settings, listen, self._lane, clock)
        table = Connections(clock, settings.connections) if connections is None else connections
        self.site = RegistrySite(self._app, self._lane, accounts, reactor, table)

    def configure(self, settings: Settings, listen: ListenSettings) -> None:
        """Follow a configuration that was read again."""
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
        """Tags may mean something else by now, though no upstream said so."""
        self._lane.clear()

    def close_idle(self) -> None:
        """Close the connections on which nothing is asked; the others close after their answer."""
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
        self, app: RegistryApp, lane: HotLane, accounts: IAccounts, reactor: Any, connections: Connections
    ) -> None:
        requests = type("ListenerRequest", (RegistryRequest,), {"accounts": accounts})
        super().__init__(app.resource(), requestFactory=requests, timeout=IDLE, reactor=reactor)
        self.connections = connections
        self.open: set[RegistryChannel] = set()
        self.protocol = lambda: RegistryChannel(  # type: ignore[method-assign,assignment,return-value]
            connections, lane, self.open
        )

    def log(self, request: object) -> None:
        """Requests are accounted for where they end; Twisted's own log is not kept."""
