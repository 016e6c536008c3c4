"""A balancer says for whom a connection is: by the PROXY protocol, in front of all else."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from appliance.flow.sendfile import SendfileServer, file_transport
from appliance.interfaces import IFileTransport
from appliance.tls.peers import names_of
from appliance.tls.proxied import HEADER_WITHIN, MAX_WAITING, ProxiedFactory, take_header
from appliance.tls.server import ClientDemands
from tests.doubles.certificates import authority
from tests.rooms.tls.visits import Echo, Site, Visitor, client_files

LINE = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def second(command: int = 1, family: int = 0x11, body: bytes | None = None) -> bytes:
    """A header of version 2."""
    if body is None:
        body = bytes([203, 0, 113, 9, 192, 0, 2, 1]) + struct.pack("!HH", 40000, 443)
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(body)) + body


SIX = bytes.fromhex("20010db8000000000000000000000007" * 2) + struct.pack("!HH", 40000, 443)
MAPPED = bytes.fromhex("00000000000000000000ffffcb007109" * 2) + struct.pack("!HH", 40000, 443)


class Balancer:
    """One connection of a balancer; C{refused} is why it was turned away."""

    def __init__(self, trusted: bool = True, factory: ProxiedFactory | None = None, address: str = "10.0.0.1") -> None:
        self.clock = Clock()
        self.refused: list[tuple[str, str, str]] = []
        self.factory = factory or ProxiedFactory(
            Factory.forProtocol(Echo), self.clock, lambda peer: trusted, lambda *what: self.refused.append(what)
        )
        self.transport = StringTransport(IPv4Address("TCP", "10.0.0.9", 443), IPv4Address("TCP", address, 50000))
        Echo.last = None
        self.protocol: Any = self.factory.buildProtocol(self.transport.getPeer())
        self.protocol.makeConnection(self.transport)

    def say(self, *pieces: bytes) -> bytes:
        """Send it piece by piece, and return what comes back."""
        for piece in pieces:
            if not self.cut:
                self.protocol.dataReceived(piece)
        answered = self.transport.value()
        self.transport.clear()
        return answered

    @property
    def cut(self) -> bool:
        return self.transport.disconnected


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (LINE, "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:192.0.2.1 40000 443\r\n", "203.0.113.9"),
        (b"PROXY UNKNOWN\r\n", "10.0.0.1"),
        (second(), "203.0.113.9"),
        (second(body=second()[16:] + b"\x04\x00\x03abc"), "203.0.113.9"),
        (second(family=0x21, body=SIX), "2001:db8::7"),
        (second(family=0x21, body=MAPPED), "203.0.113.9"),
        (second(command=0, family=0, body=b""), "10.0.0.1"),
        (second(family=0x31, body=b"/a".ljust(108, b"\0") * 2), "10.0.0.1"),
    ],
)
def test_the_client_is_who_the_balancer_says(header: bytes, client: str) -> None:
    """However the header is cut into pieces; what follows it is the client's."""
    for pieces in ([header + b"GET"], [header, b"GET"], [bytes([each]) for each in header + b"GET"]):
        balancer = Balancer()
        assert balancer.say(*pieces) == b"GET"
        assert Echo.last is not None
        assert Echo.last.transport.getPeer().host == client


def test_what_is_behind_sees_no_connection_before_it_knows_whose_it_is() -> None:
    """So limits by address are those of the clients, not of the balancer."""
    balancer = Balancer()
    balancer.say(LINE[:-1])
    assert Echo.last is None
    balancer.say(LINE[-1:])
    assert Echo.last is not None and Echo.last.transport.getPeer().host == "203.0.113.9"


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 40000\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 x y\r\n",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 70000 443\r\n",
        b"PROXY TCP4 one two 1 2\r\n",
        b"PROXY SCTP 203.0.113.9 192.0.2.1 1 2\r\n",
        b"PROXY " + b"x" * 200,
        second(body=b"\xcb\x00"),
        second(family=0x15),
        second(command=7),
        SIGNATURE + b"\x31\x11\x00\x00",
        second(body=b"x" * 3000)[:16],
    ],
)
def test_a_header_that_is_wrong_ends_the_connection(bad: bytes) -> None:
    balancer = Balancer()
    assert balancer.say(bad) == b""
    assert balancer.cut and Echo.last is None
    assert len(balancer.refused) == 1 and balancer.refused[0][:2] == ("proxy", "10.0.0.1")
    balancer.protocol.connectionLost(None)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_whatever_comes_is_a_header_or_none(data: bytes, start: bytes) -> None:
    """No bytes make anything else of it than an answer or a ValueError."""
    try:
        take_header(start + data)
    except ValueError:
        pass


@pytest.mark.parametrize("header", [LINE, second(), SIGNATURE, b""])
def test_a_truncated_header_is_waited_for_ten_seconds(header: bytes) -> None:
    balancer = Balancer()
    if header:
        balancer.say(header[:-1])
    balancer.clock.advance(HEADER_WITHIN - 1)
    assert not balancer.cut
    balancer.clock.advance(1)
    assert balancer.cut
    assert balancer.refused == [("proxy", "10.0.0.1", "no PROXY header in time")]
    balancer.protocol.connectionLost(None)
    assert balancer.factory.waiting == 0 and not balancer.clock.getDelayedCalls()


def test_who_leaves_before_its_header_leaves_nothing() -> None:
    balancer = Balancer()
    balancer.say(LINE[:9])
    balancer.protocol.connectionLost(None)
    assert balancer.factory.waiting == 0 and not balancer.clock.getDelayedCalls() and not balancer.refused


def test_who_is_no_trusted_proxy_is_cut_off_at_once() -> None:
    balancer = Balancer(trusted=False, address="198.51.100.1")
    assert balancer.cut
    assert balancer.say(LINE + b"GET") == b"" and Echo.last is None
    assert balancer.refused == [("proxy", "198.51.100.1", "is no trusted proxy (trusted_proxies)")]


def test_no_more_than_so_many_wait_for_their_header() -> None:
    first = Balancer()
    waiting = [Balancer(factory=first.factory) for _ in range(MAX_WAITING - 1)]
    assert not any(each.cut for each in waiting)
    assert Balancer(factory=first.factory).cut
    first.say(LINE)
    assert not Balancer(factory=first.factory).cut


@pytest.mark.parametrize("before", [(LINE,), (LINE[:9], LINE[9:]), (second(),)])
def test_the_header_stands_in_front_of_tls(tmp_path: Path, before: tuple[bytes, ...]) -> None:
    """As balancers send it that pass TLS through: the client's address and its certificate both arrive."""
    root, clients = authority("Root"), authority("Clients")
    site = Site.of(tmp_path, root.issue("cache.site"), ClientDemands(client_files(tmp_path, clients)))
    site.factory = ProxiedFactory(site.factory, site.clock, lambda peer: True, lambda *what: None)
    visitor = Visitor(site, trusts=root, shows=clients.issue("node-1"), before=before)
    assert visitor.error is None and visitor.say(b"hello") == b"hello"
    assert Echo.last is not None
    assert Echo.last.transport.getPeer().host == "203.0.113.9"
    assert names_of(Echo.last.transport) == ("node-1", "node-1")


def test_files_are_sent_by_the_system_behind_a_balancer_too() -> None:
    """sendfile(2), as without one."""
    balancer = Balancer()
    from zope.interface import directlyProvides, implementedBy

    directlyProvides(balancer.transport, *implementedBy(SendfileServer))
    again: Any = balancer.factory.buildProtocol(balancer.transport.getPeer())
    again.makeConnection(balancer.transport)
    again.dataReceived(LINE)
    assert Echo.last is not None
    assert IFileTransport.providedBy(Echo.last.transport)
    assert file_transport(Echo.last.transport) is Echo.last.transport
