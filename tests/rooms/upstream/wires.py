"""
Real endpoints on a reactor in memory: names from a table, and connections whose far end is the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

PUBLIC, PRIVATE, LINK = "203.0.113.9", "10.0.0.1", "169.254.169.254"


@implementer(IHostnameResolver)
class Names:
    """
    A resolver with a table. A literal address resolves to itself, as C{getaddrinfo} has it.

    @ivar asked: the names it was asked for.
    @ivar answers: whether it says anything at all.
    """

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table
        self.asked: list[str] = []
        self.answers = True

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        self.asked.append(hostName)
        if self.answers:
            for text in self.table.get(hostName, [] if hostName[-1].isalpha() and ":" not in hostName else [hostName]):
                kind: Any = IPv6Address if ":" in text else IPv4Address
                resolutionReceiver.addressResolved(kind("TCP", text, portNumber))
            resolutionReceiver.resolutionComplete()
        return None  # type: ignore[return-value]


def a_reactor(table: dict[str, list[str]]) -> tuple[Any, Names]:
    """A reactor whose connections are made by L{Line}, and its resolver."""
    reactor = MemoryReactorClock()
    names = Names(table)
    reactor.installNameResolver(names)
    return reactor, names


def connected(reactor: Any) -> list[tuple[str, int]]:
    """Where connections were tried, in order."""
    return [(client[0], client[1]) for client in reactor.tcpClients]


class Line:
    """
    One connection, accepted; the test is its far end.

    @ivar dropped: whether our side closed it.
    """

    def __init__(self, reactor: Any, number: int = -1) -> None:
        self._reactor = reactor
        self._protocol = reactor.tcpClients[number][2].buildProtocol(None)
        self.dropped = False
        transport: Any = StringTransport()
        # What a TLS transport above it expects of a TCP connection.
        transport.setTcpNoDelay = lambda enabled: None
        transport.loseConnection = transport.abortConnection = self._drop
        self.transport = transport
        self._protocol.makeConnection(transport)
        reactor.advance(0)

    def _drop(self) -> None:
        self.dropped = True

    @property
    def said(self) -> bytes:
        """What our side wrote so far."""
        value: bytes = self.transport.value()
        return value

    def say(self, data: bytes) -> None:
        """The far end writes."""
        self._protocol.dataReceived(data)
        self._reactor.advance(0)

    def end(self) -> None:
        """The far end closes."""
        self._protocol.connectionLost(Failure(ConnectionDone()))
        self._reactor.advance(0)
