"""
Connections to addresses that were looked at.

A name is resolved once, here; what it stands for is screened, and the connection goes to the addresses that passed, so
that no second resolution can lead elsewhere (DNS rebinding). Literal addresses take the same way through the resolver.
Behind a proxy it is the proxy that resolves names: there only what a URL says itself can be screened. The proxy's own
address is the operator's choice, and passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.python.failure import Failure
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from appliance.upstream.limits import Limits
from appliance.upstream.network.proxy import Proxies, Proxy
from appliance.upstream.network.tunnel import ProxyEndpoint, TunnelEndpoint
from appliance.upstream.url import Url

#: Bytes read from a connection at once. Twisted reads 64 KiB, which at a gigabyte a second is too many turns.
READ_SIZE = 256 * 1024

#: Seconds between looks whether there is another address to try (RFC 8305 section 5). Twisted's 0.3 would also pass
#: before the failure of the only one is told.
_ONE_ADDRESS = 0.02

#: Takes a host and what it resolved to; gives back the addresses that may be connected to, one at least, or raises.
Screen = Callable[[str, Sequence[str]], Sequence[str]]


def way_to(proxy: Proxy, reactor: Any, limits: Limits, upstream: str) -> ProxyEndpoint:
    """The way to a proxy; one that speaks TLS has to have a certificate that the platform's authorities vouch for."""
    url = proxy.url
    endpoint: IStreamClientEndpoint = ScreenedEndpoint(reactor, url.host, url.port, limits.connect, _whatever)
    if url.scheme == "https":
        creator = BrowserLikePolicyForHTTPS().creatorForNetloc(url.host.encode("ascii"), url.port)
        endpoint = wrapClientTLS(creator, endpoint, clock=reactor)
    return ProxyEndpoint(endpoint, proxy, upstream)


def _whatever(host: str, addresses: Sequence[str]) -> Sequence[str]:
    return addresses


@implementer(IAgentEndpointFactory)
class ScreenedEndpoints:
    """
    Makes the endpoints of one agent. All connections in its pool have passed the same screen.

    @param reactor: IReactorTime, IReactorTCP and IReactorPluggableNameResolver.
    @param upstream: whose errors a proxy's are.
    """

    def __init__(
        self, reactor: Any, trust: IPolicyForHTTPS, limits: Limits, screen: Screen, proxies: Proxies, upstream: str
    ) -> None:
        self._reactor = reactor
        self._trust = trust
        self._limits = limits
        self._screen = screen
        self._proxies = proxies
        self._upstream = upstream

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See L{IAgentEndpointFactory}. An http URL that is to go through a proxy has no endpoint of its own."""
        url = Url(uri.scheme.decode("ascii"), uri.host.decode("ascii"), uri.port, "/")
        proxy = self._proxies.proxy_for(url) if url.scheme == "https" else None
        endpoint = self._direct(url) if proxy is None else self._tunnel(proxy, url)
        if url.scheme == "http":
            return endpoint
        creator = self._trust.creatorForNetloc(uri.host, uri.port)
        return wrapClientTLS(creator, endpoint, clock=self._reactor)

    def _direct(self, url: Url) -> IStreamClientEndpoint:
        return ScreenedEndpoint(self._reactor, url.host, url.port, self._limits.connect, self._screen)

    def _tunnel(self, proxy: Proxy, url: Url) -> IStreamClientEndpoint:
        way = way_to(proxy, self._reactor, self._limits, self._upstream)
        return TunnelEndpoint(way, proxy, url, self._reactor, self._limits.connect, self._upstream)


@implementer(IStreamClientEndpoint)
class ScreenedEndpoint:
    """Resolve, screen, connect."""

    def __init__(self, reactor: Any, host: str, port: int, timeout: float, screen: Screen) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._timeout = timeout
        self._screen = screen

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect to the first address that answers.

        @return: as L{IStreamClientEndpoint.connect}; fails also with what the screen raises.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        resolving = _resolve(self._reactor.nameResolver, self._host, self._port)
        found = await resolving.addTimeout(self._timeout, self._reactor, _too_slow)
        if not found:
            raise error.DNSLookupError(f"no address for {self._host}")
        allowed = set(self._screen(self._host, [address.host for address in found]))
        addresses = [address for address in found if address.host in allowed]
        reactor = _Settled(self._reactor, addresses)
        # The name is not asked again; an address in its place passes where a name outside IDNA would not.
        delay = None if len(addresses) > 1 else _ONE_ADDRESS
        endpoint = HostnameEndpoint(reactor, addresses[0].host, self._port, timeout=self._timeout, attemptDelay=delay)
        protocol = await endpoint.connect(factory)
        _read_more_at_once(protocol)
        return protocol

    def __repr__(self) -> str:
        return f"<ScreenedEndpoint {self._host}:{self._port}>"


def _read_more_at_once(protocol: IProtocol) -> None:
    """C{bufferSize} is the documented attribute of Twisted's file descriptors; other transports are left alone."""
    transport = getattr(protocol, "transport", None)
    if ITCPTransport.providedBy(transport) and hasattr(transport, "bufferSize"):
        transport.bufferSize = READ_SIZE


Resolved = IPv4Address | IPv6Address


def _too_slow(_: object, seconds: float) -> Failure:
    return Failure(error.TimeoutError(string=f"the name was not resolved within {seconds:g} seconds"))


def _resolve(resolver: IHostnameResolver, host: str, port: int) -> Deferred[list[Resolved]]:
    receiver = _Receiver()
    resolver.resolveHostName(receiver, host, portNumber=port)
    return receiver.done


@implementer(IResolutionReceiver)
class _Receiver:
    def __init__(self) -> None:
        self.done: Deferred[list[Resolved]] = Deferred()
        self._addresses: list[Resolved] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, (IPv4Address, IPv6Address)):
            self._addresses.append(address)

    def resolutionComplete(self) -> None:
        # After a time limit nobody waits any more; Deferred ignores one result that comes after a cancellation.
        self.done.callback(self._addresses)


@implementer(IReactorPluggableNameResolver)
class _Settled:
    """The reactor, for an endpoint whose name has been resolved already."""

    def __init__(self, reactor: Any, addresses: list[Resolved]) -> None:
        self._reactor = reactor
        self.nameResolver: IHostnameResolver = _Answered(addresses)

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        raise NotImplementedError("the addresses are settled")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@implementer(IHostnameResolver, IHostResolution)
class _Answered:
    def __init__(self, addresses: list[Resolved]) -> None:
        self.name = ""
        self._addresses = addresses

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolutionReceiver.resolutionBegan(self)
        for address in self._addresses:
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        pass
