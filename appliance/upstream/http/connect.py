"""
Connections: which agent reaches a URL, which addresses it may connect to, and what stays open for the next request.

A name is resolved once, here; the addresses that it stands for are screened, and the connection goes to those that
passed, so that no second resolution can lead elsewhere (DNS rebinding). Literal addresses take the same way through the
resolver. Behind a proxy it is the proxy that resolves names: there only what a URL says itself can be screened. The
proxy's own address is the operator's choice, and passes.

A connection is made under the rule of its agent and kept in that agent's pool, so none is ever used again under a
stricter rule than it was made under. What goes through a proxy is screened with each request instead, as far as it can
be: one connection to a proxy may serve several origins. Twisted's own agents add no Accept-Encoding and follow nothing
by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint
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
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ProxyAgent,
    _HTTP11ClientFactory,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from appliance.errors import UpstreamRefused
from appliance.settings import UpstreamSettings
from appliance.upstream.http.addresses import AddressPolicy, HostPatterns, literal_of
from appliance.upstream.http.limits import Timeouts
from appliance.upstream.http.proxy import Proxies, Proxy
from appliance.upstream.http.tls import TlsEndpoint
from appliance.upstream.http.tunnel import ForwardAgent, ProxyEndpoint, TunnelEndpoint
from appliance.upstream.url import Url

#: Idle connections kept to one host. Twisted keeps two, which a pull of many layers at once does not fit in.
KEPT_CONNECTIONS = 16
#: Bytes read from a connection at once. Twisted reads 64 KiB, which at a gigabyte a second is too many turns. But all
#: else waits for a read: while eight blobs of 400 MB came, the 99th percentile of a held manifest was 9 ms with 128
#: KiB, 12 to 16 ms with 256, 28 ms with 512; the blobs took 14.0, 9.9 to 10.6, and 10.6 s.
READ_SIZE = 256 * 1024

#: Seconds before another address is tried (RFC 8305 section 5). Twisted's 0.3 would also pass before the failure of the
#: only one is reported.
_ONE_ADDRESS = 0.02

#: Takes a host and what it resolved to; gives back the addresses that may be connected to, one at least, or raises.
Screen = Callable[[str, Sequence[str]], Sequence[str]]


# -- agents -----------------------------------------------------------------------------------------------------------


class _QuietFactory(_HTTP11ClientFactory):
    """Twisted's own, which would log two lines for each connection."""

    noisy = False


def agent_for(
    settings: UpstreamSettings, url: Url, reactor: Any, trust: IPolicyForHTTPS, timeouts: Timeouts, proxies: Proxies
) -> OriginAgent:
    """
    The agent of one configured URL, for its origin and for wherever that leads.

    @param url: that URL; what its host says of an address without being resolved is known from the beginning.
    @param reactor: as for L{ScreenedEndpoints}.
    @raise ValueError: an entry of C{auth_hosts} or C{redirect_hosts} is none.
    """
    policy = AddressPolicy(settings.name)
    screen_literal(policy.own, url.host)

    def agent(screen: Screen) -> IAgent:
        pool = HTTPConnectionPool(reactor, persistent=True)
        pool._factory = _QuietFactory
        pool.maxPersistentPerHost = KEPT_CONNECTIONS
        pool.cachedConnectionTimeout = timeouts.idle
        endpoints = ScreenedEndpoints(reactor, trust, timeouts, screen, proxies, settings.name)
        direct: IAgent = Agent.usingEndpointFactory(reactor, endpoints, pool)
        if proxies.http is None:
            return ProxiedAgent(direct, direct, proxies, screen)
        to_proxy = proxy_endpoint(proxies.http, reactor, timeouts, settings.name)
        forward = ForwardAgent(ProxyAgent(to_proxy, reactor, pool), proxies.http, settings.name)
        return ProxiedAgent(direct, forward, proxies, screen)

    # An adapter's auth_hosts are not among them: what stands in a program opens no way inside.
    named = HostPatterns(settings.redirect_hosts + settings.auth_hosts)
    foreign = ForeignAgent(policy, named, agent(policy.from_public), agent(policy.from_private), agent(policy.named))
    return OriginAgent(url, agent(policy.own), foreign)


def screen_literal(screen: Screen, host: str) -> None:
    """Screen what C{host} says of an address without being resolved. Raises what C{screen} raises."""
    literal = literal_of(host)
    if literal is not None:
        screen(host, [literal])


@implementer(IAgent)
class ProxiedAgent:
    """Goes the way that is decided for each URL: directly, through a tunnel, or as a whole request to a proxy."""

    def __init__(self, direct: IAgent, forward: IAgent, proxies: Proxies, screen: Screen) -> None:
        """
        @param direct: connects to origins, for https through a proxy where one is meant.
        @param forward: sends whole requests to the proxy for http URLs.
        @param screen: for what goes through a proxy; C{direct} does so itself for the rest.
        """
        self._direct = direct
        self._forward = forward
        self._proxies = proxies
        self._screen = screen

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See L{IAgent}. Fails with L{UpstreamRefused} where the rule forbids it."""
        url = Url.parse(uri.decode("ascii"))
        if self._proxies.proxy_for(url) is None:
            return self._direct.request(method, uri, headers, bodyProducer)
        try:
            screen_literal(self._screen, url.host)
        except UpstreamRefused:
            return fail()
        agent = self._forward if url.scheme == "http" else self._direct
        return agent.request(method, uri, headers, bodyProducer)


@implementer(IAgent)
class OriginAgent:
    """
    Reaches the origin of the configured URL by one agent and every other by another.

    @ivar own: the agent for that origin.
    @ivar foreign: the agent for all others.
    """

    def __init__(self, home: Url, own: IAgent, foreign: IAgent) -> None:
        self.own = own
        self.foreign = foreign
        self._beginning = f"{home.root}/".encode("ascii")

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See L{IAgent}. An origin in another spelling is taken for another one, whose rules are stricter."""
        agent = self.own if uri.startswith(self._beginning) else self.foreign
        return agent.request(method, uri, headers, bodyProducer)


@implementer(IAgent)
class ForeignAgent:
    """
    Goes to other origins: wherever a redirect, a realm or a link leads, under the rule for that host and for what the
    upstream is at that moment.
    """

    def __init__(
        self, policy: AddressPolicy, names: HostPatterns, from_public: IAgent, from_private: IAgent, named: IAgent
    ) -> None:
        """
        @param from_public: for a host that a public upstream leads to, C{from_private}: that a private one does.
        @param named: for a host that the settings name.
        """
        self._policy = policy
        self._names = names
        self._from_public = from_public
        self._from_private = from_private
        self._named = named

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See L{IAgent}. Fails with L{UpstreamRefused} where the rule forbids it."""
        if self._names.covers(Url.parse(uri.decode("ascii"))):
            agent = self._named
        else:
            agent = self._from_private if self._policy.private else self._from_public
        return agent.request(method, uri, headers, bodyProducer)


# -- endpoints --------------------------------------------------------------------------------------------------------


def proxy_endpoint(proxy: Proxy, reactor: Any, timeouts: Timeouts, upstream: str) -> ProxyEndpoint:
    """Connects to a proxy; one that speaks TLS has to have a certificate of the platform's authorities."""
    url = proxy.url
    endpoint: IStreamClientEndpoint = ScreenedEndpoint(
        reactor, url.host, url.port, timeouts.connect, lambda host, addresses: addresses
    )
    if url.scheme == "https":
        creator = BrowserLikePolicyForHTTPS().creatorForNetloc(url.host.encode("ascii"), url.port)
        endpoint = TlsEndpoint(creator, endpoint, reactor)
    return ProxyEndpoint(endpoint, proxy, upstream)


@implementer(IAgentEndpointFactory)
class ScreenedEndpoints:
    """
    Makes the endpoints of one agent. All connections in its pool have passed the same screen.

    @param reactor: IReactorTime, IReactorTCP and IReactorPluggableNameResolver.
    @param upstream: whose errors a proxy's are.
    """

    def __init__(
        self, reactor: Any, trust: IPolicyForHTTPS, timeouts: Timeouts, screen: Screen, proxies: Proxies, upstream: str
    ) -> None:
        self._reactor = reactor
        self._trust = trust
        self._timeouts = timeouts
        self._screen = screen
        self._proxies = proxies
        self._upstream = upstream

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See L{IAgentEndpointFactory}. An http URL that is to go through a proxy has no endpoint of its own."""
        url = Url(uri.scheme.decode("ascii"), uri.host.decode("ascii"), uri.port, "/")
        reactor, timeout = self._reactor, self._timeouts.connect
        proxy = self._proxies.proxy_for(url) if url.scheme == "https" else None
        if proxy is None:
            endpoint: IStreamClientEndpoint = ScreenedEndpoint(reactor, url.host, url.port, timeout, self._screen)
        else:
            to_proxy = proxy_endpoint(proxy, reactor, self._timeouts, self._upstream)
            endpoint = TunnelEndpoint(to_proxy, proxy, url, reactor, timeout, self._upstream)
        if url.scheme == "http":
            return endpoint
        return TlsEndpoint(self._trust.creatorForNetloc(uri.host, uri.port), endpoint, reactor)


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
        receiver = _Receiver()
        self._reactor.nameResolver.resolveHostName(receiver, self._host, portNumber=self._port)
        found = await receiver.done.addTimeout(self._timeout, self._reactor, _too_slow)
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
        # After a time limit it is cancelled already; Deferred ignores one result that comes after that.
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
