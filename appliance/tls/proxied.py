"""
What a load balancer says of a connection before the first byte of its client: the PROXY protocol, versions 1 and 2
(haproxy.org, "The PROXY protocol", sections 2.1 and 2.2).

It stands in front of everything, TLS included. What is behind sees the connection only when the header is whole, with
the client's address from the first moment on. Where TLS follows, its transport takes the header from its socket, to the
byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReactorTime
from twisted.protocols.haproxy._exceptions import InvalidProxyHeader
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure

from appliance.tls.certificates import address_of
from appliance.tls.server import Refused

HEADER_WITHIN = 10.0
"""Seconds that a header has to arrive."""

MAX_WAITING = 512
"""Connections that may wait for theirs; those above these are closed."""

# Version 1 is one line of no more than these bytes, its end included.
_LONGEST_LINE = 107
# Version 2 has a head of 16 bytes that says how long the rest is: addresses, and what some balancers add (TLV).
_HEAD = 16
_LONGEST_REST = 2048
_SIGNATURE = V2Parser.PREFIX

LONGEST_HEADER = _HEAD + _LONGEST_REST
"""The most bytes of a header."""

#: The addresses of a connection's client and of what it connected to; C{None} where the balancer speaks for itself.
Ends = tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address] | None


def take_header(data: bytes) -> tuple[Ends, bytes] | None:
    """
    The header at the beginning of a connection.

    @return: what it says, and the bytes behind it; C{None} while it is not whole.
    @raise ValueError: it is none.
    """
    if data.startswith(_SIGNATURE[: len(data)]):
        if len(data) < _HEAD:
            return None
        (rest,) = struct.unpack("!H", data[14:16])
        if rest > _LONGEST_REST:
            raise ValueError(f"a PROXY header of {rest} bytes")
        whole, parse = _HEAD + rest, V2Parser.parse
        if len(data) < whole:
            return None
        header, behind = data[:whole], data[whole:]
    elif data.startswith(b"PROXY "[: len(data)]):
        end = data.find(b"\r\n", 0, _LONGEST_LINE)
        if end < 0:
            if len(data) >= _LONGEST_LINE:
                raise ValueError("a PROXY header without an end")
            return None
        header, behind, parse = data[:end], data[end + 2 :], V1Parser.parse
    else:
        raise ValueError("no PROXY header")
    if header.startswith(b"PROXY UNKNOWN"):
        # Twisted wants a blank behind it, which the specification does not.
        return None, behind
    try:
        found = parse(header)
    except (InvalidProxyHeader, ValueError, KeyError, struct.error):
        raise ValueError("a PROXY header that is wrong") from None
    return _ends(found.source, found.destination), behind


def _ends(source: Any, destination: Any) -> Ends:
    if source is None or not hasattr(source, "host"):
        # A check of the balancer's own, or a client on its own unix socket.
        return None
    ends = []
    for each in (source, destination):
        host = address_of(each.host)
        if host is None or not 0 <= each.port <= 65535:
            raise ValueError("a PROXY header that is wrong")
        ends.append((IPv6Address if ":" in host else IPv4Address)("TCP", host, each.port))
    return ends[0], ends[1]


class ProxiedFactory(WrappingFactory):
    """
    Lets in connections that begin with such a header.

    @ivar is_proxy: whether an address may say who its client is; may be replaced at any time.
    """

    noisy = False

    def __init__(
        self, wrapped: IProtocolFactory, clock: IReactorTime, is_proxy: Callable[[str], bool], refused: Refused
    ) -> None:
        super().__init__(wrapped)
        self.protocol = ProxiedConnection
        self.clock = clock
        self.is_proxy = is_proxy
        self.refused = refused
        self.waiting = 0


class ProxiedConnection(ProtocolWrapper):
    """A connection of a balancer; its addresses are those that the balancer gives."""

    factory: Any
    transport: Any
    wrappedProtocol: Any
    _ends: Ends = None
    _data: bytes | None = b""
    _deadline: IDelayedCall | None = None

    def makeConnection(self, transport: Any) -> None:
        """Connected; what is behind is told when the header has come."""
        # As ProtocolWrapper has it, but for the end: what is behind is not connected yet.
        wrapped, self.wrappedProtocol = self.wrappedProtocol, _Later()
        super().makeConnection(transport)
        self.wrappedProtocol = wrapped
        self.factory.waiting += 1
        self._deadline = self.factory.clock.callLater(HEADER_WITHIN, self._refuse, "no PROXY header in time")
        peer = address_of(getattr(transport.getPeer(), "host", None))
        # A unix socket has no address: who may open it is for its folder to say.
        if peer is not None and not self.factory.is_proxy(peer):
            self._refuse("is no trusted proxy (trusted_proxies)")
        elif self.factory.waiting > MAX_WAITING:
            self._refuse("too many connections wait for their PROXY header")

    @property
    def is_waiting(self) -> bool:
        """Whether bytes of the header are to come."""
        return self._data is not None

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the header, or of the client."""
        if self._data is None:
            self.wrappedProtocol.dataReceived(data)
        elif behind := data[self.take(data) :]:
            self.wrappedProtocol.dataReceived(behind)

    def take(self, data: bytes) -> int:
        """
        Take what of C{data} belongs to the header; once that is whole, what is behind sees the connection.

        @return: how many bytes do.
        """
        if self._data is None or self._deadline is None:
            return len(data)
        self._data += data
        try:
            found = take_header(self._data)
        except ValueError as reason:
            self._refuse(str(reason))
            return len(data)
        if found is None:
            return len(data)
        self._ends, behind = found
        self._data = None
        self._has_waited()
        self.wrappedProtocol.makeConnection(self)
        return len(data) - len(behind)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The connection is gone."""
        self._has_waited()
        if self._data is not None:
            # What is behind never knew of it.
            self.wrappedProtocol = _Later()
        super().connectionLost(reason)

    def getPeer(self) -> Any:
        """The client."""
        return self._ends[0] if self._ends else self.transport.getPeer()

    def getHost(self) -> Any:
        """What it connected to."""
        return self._ends[1] if self._ends else self.transport.getHost()

    def _refuse(self, why: str) -> None:
        self._has_waited()
        self.factory.refused("proxy", str(getattr(self.transport.getPeer(), "host", "-")), why)
        self.transport.abortConnection()

    def _has_waited(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            self.factory.waiting -= 1
            if deadline.active():
                deadline.cancel()


class _Later:
    """In place of a protocol that is not connected."""

    def makeConnection(self, transport: object) -> None:
        pass

    def connectionLost(self, reason: object) -> None:
        pass
