"""
Connections to addresses that were looked at.

A name is resolved once, here; what it stands for is screened, and the connection goes to the addresses that passed, so
that no second resolution can lead elsewhere (DNS rebinding). Literal addresses take the same way through the resolver.
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
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from appliance.upstream.limits import Limits

#: Bytes read from a connection at once. Twisted reads 64 KiB, which at a gigabyte a second is too many turns.
READ_SIZE = 256 * 1024

#: Takes a host and what it resolved to; gives back the addresses that may be connected to, one at least, or raises.
Screen = Callable[[str, Sequence[str]], Sequence[str]]


@implementer(IAgentEndpointFactory)
class ScreenedEndpoints:
    """
    Makes the endpoints of one agent. All connections in its pool have passed the same screen.

    @param reactor: IReactorTime, IReactorTCP and IReactorPluggableNameResolver.
    """

    def __init__(self, reactor: Any, trust: IPolicyForHTTPS, limits: Limits, screen: Screen) -> None:
        self._reactor = reactor
        self._trust = trust
        self._limits = limits
        self._screen = screen

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See L{IAgentEndpointFactory}."""
        host = uri.host.decode("ascii")
        endpoint = ScreenedEndpoint(self._reactor, host, uri.port, self._limits.connect, self._screen)
        if uri.scheme == b"http":
            return endpoint
        creator = self._trust.creatorForNetloc(uri.host, uri.port)
        return wrapClientTLS(creator, endpoint, clock=self._reactor)


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
        endpoint = HostnameEndpoint(reactor, addresses[0].host, self._port, timeout=self._timeout)
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
