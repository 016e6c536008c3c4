"""Where an upstream may lead us: addresses, rules, and connections to nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver, ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from zope.interface import alsoProvides, implementer

from appliance.errors import ConfigError, UpstreamRefused, UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.addresses import Reach, reach_of
from appliance.upstream.endpoints import ScreenedEndpoint
from appliance.upstream.observer import SilentObserver
from appliance.upstream.standing import Standing
from appliance.upstream.table import upstream_for
from appliance.upstream.trust import Trust
from tests.rooms.upstream.net import failure_of, now

TABLE = [
    ("8.8.8.8", Reach.PUBLIC),
    ("192.0.2.1", Reach.PUBLIC),
    ("198.51.100.7", Reach.PUBLIC),
    ("203.0.113.9", Reach.PUBLIC),
    ("2001:db8::1", Reach.PUBLIC),
    ("2606:4700::1", Reach.PUBLIC),
    ("9.255.255.255", Reach.PUBLIC),
    ("11.0.0.0", Reach.PUBLIC),
    ("172.15.255.255", Reach.PUBLIC),
    ("172.32.0.0", Reach.PUBLIC),
    ("100.63.255.255", Reach.PUBLIC),
    ("100.128.0.0", Reach.PUBLIC),
    ("169.253.255.255", Reach.PUBLIC),
    ("0.0.0.0", Reach.PRIVATE),
    ("0.1.2.3", Reach.PRIVATE),
    ("10.0.0.1", Reach.PRIVATE),
    ("100.64.0.1", Reach.PRIVATE),
    ("100.127.255.255", Reach.PRIVATE),
    ("127.0.0.1", Reach.PRIVATE),
    ("127.255.255.254", Reach.PRIVATE),
    ("172.16.0.1", Reach.PRIVATE),
    ("172.31.255.255", Reach.PRIVATE),
    ("192.168.1.1", Reach.PRIVATE),
    ("::", Reach.PRIVATE),
    ("::1", Reach.PRIVATE),
    ("fc00::1", Reach.PRIVATE),
    ("fdff::1", Reach.PRIVATE),
    ("fec0::1", Reach.PRIVATE),
    ("::ffff:127.0.0.1", Reach.PRIVATE),
    ("::ffff:10.1.2.3", Reach.PRIVATE),
    ("::ffff:7f00:1", Reach.PRIVATE),
    ("::127.0.0.1", Reach.PRIVATE),
    ("64:ff9b::10.0.0.1", Reach.PRIVATE),
    ("64:ff9b:1::1", Reach.PRIVATE),
    ("2002:7f00:1::", Reach.PRIVATE),
    ("169.254.169.254", Reach.LINK_LOCAL),
    ("169.254.0.0", Reach.LINK_LOCAL),
    ("fe80::1", Reach.LINK_LOCAL),
    ("fe80::1%eth0", Reach.LINK_LOCAL),
    ("febf::1", Reach.LINK_LOCAL),
    ("::ffff:169.254.169.254", Reach.LINK_LOCAL),
    ("64:ff9b::a9fe:a9fe", Reach.LINK_LOCAL),
    ("2002:a9fe:a9fe::1", Reach.LINK_LOCAL),
    ("::ffff:8.8.8.8", Reach.PUBLIC),
    ("64:ff9b::8.8.8.8", Reach.PUBLIC),
    ("2002:0808:0808::1", Reach.PUBLIC),
]


@pytest.mark.parametrize(("address", "reach"), TABLE)
def test_every_address_has_a_place(address: str, reach: Reach) -> None:
    """Documentation ranges count as public; an address within an address counts as the inner one."""
    assert reach_of(address) is reach


PUBLIC, PRIVATE, LINK = "203.0.113.9", "10.0.0.1", "169.254.169.254"


@pytest.mark.parametrize(
    ("own", "led", "passed"),
    [
        ([PUBLIC], [PUBLIC], [PUBLIC]),
        ([PUBLIC], [PRIVATE], None),
        ([PUBLIC], ["127.0.0.1"], None),
        ([PUBLIC], ["::1"], None),
        ([PUBLIC], [LINK], None),
        ([PUBLIC], [PRIVATE, PUBLIC], [PUBLIC]),
        ([PUBLIC, PRIVATE], [PRIVATE], None),
        ([PRIVATE], [PRIVATE], [PRIVATE]),
        ([PRIVATE], [PUBLIC], [PUBLIC]),
        ([PRIVATE], [LINK], None),
        ([PRIVATE], [LINK, PRIVATE], [PRIVATE]),
        (["::1"], ["127.0.0.1"], ["127.0.0.1"]),
        ([LINK], [LINK], None),
        ([LINK], [PRIVATE], [PRIVATE]),
    ],
)
def test_who_may_lead_where(own: list[str], led: list[str], passed: list[str] | None) -> None:
    """A public upstream never leads inside, a private one may, and to link-local addresses nobody leads."""
    standing = Standing("up.example")
    assert standing.own("registry.example", own) == own
    screen = standing.led_by_private if standing.private else standing.led_by_public
    if passed is not None:
        assert screen("led.example", led) == passed
        return
    with pytest.raises(UpstreamRefused) as caught:
        screen("led.example", led)
    assert "led.example" in str(caught.value) and led[0] in str(caught.value)
    assert ("link-local" if LINK in led else "private") in str(caught.value)


# -- connections ----------------------------------------------------------------------------------------------------


@implementer(IHostnameResolver)
class Names:
    """
    A resolver with a table. A literal address resolves to itself, as C{getaddrinfo} has it.

    @ivar asked: the names it was asked for.
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
    reactor = MemoryReactorClock()
    names = Names(table)
    reactor.installNameResolver(names)
    return reactor, names


def connected(reactor: Any) -> list[tuple[str, int]]:
    return [(client[0], client[1]) for client in reactor.tcpClients]


REGISTRY = "http://registry.example"


def asking(table: dict[str, list[str]], url: str = REGISTRY) -> tuple[Any, Any, Names]:
    reactor, names = a_reactor(table)
    settings = UpstreamSettings(name="up.example", urls=(url,))
    return upstream_for(settings, reactor, SilentObserver()), reactor, names


def answer(reactor: Any, number: int, data: bytes) -> None:
    """The server at the C{number}th connection says C{data}, and says no more."""

    factory = reactor.tcpClients[number][2]
    protocol = factory.buildProtocol(None)
    transport = StringTransport()
    transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
    protocol.makeConnection(transport)
    reactor.advance(0)
    protocol.dataReceived(data)
    reactor.advance(0)


def redirected(location: str) -> bytes:
    return f"HTTP/1.1 307 T\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("own", "location", "target"),
    [
        ([PUBLIC], "http://inside.example/x", None),
        ([PUBLIC], "http://127.0.0.1/x", None),
        ([PUBLIC], "http://[::1]:5000/x", None),
        ([PUBLIC], "http://[::ffff:10.0.0.1]/x", None),
        ([PUBLIC], "http://169.254.169.254/latest/meta-data", None),
        ([PUBLIC], "http://cdn.example:8080/x", ("198.51.100.7", 8080)),
        ([PRIVATE], "http://inside.example:9000/x", ("10.9.9.9", 9000)),
        ([PRIVATE], "http://127.0.0.1:9000/x", ("127.0.0.1", 9000)),
        ([PRIVATE], "http://169.254.169.254/latest/meta-data", None),
        ([PRIVATE], "http://metadata.example/x", None),
    ],
)
def test_a_redirect_is_connected_only_where_it_may_lead(
    own: list[str], location: str, target: tuple[str, int] | None
) -> None:
    """From the configured URL's own addresses on, through real endpoints: no packet goes where the rule says no."""
    table = {
        "registry.example": own,
        "inside.example": ["10.9.9.9"],
        "cdn.example": ["198.51.100.7"],
        "metadata.example": [LINK],
    }
    upstream, reactor, _ = asking(table)
    fetching = upstream.blob("a", Digest.of(b""))
    reactor.advance(0)
    assert connected(reactor) == [(own[0], 80)]
    answer(reactor, 0, redirected(location))
    if target is None:
        fault = failure_of(fetching)
        assert type(fault) is UpstreamRefused
        assert connected(reactor) == [(own[0], 80)]
    else:
        assert connected(reactor)[1:] == [target]
        fetching.addErrback(lambda _: None).cancel()


def test_the_address_that_was_looked_at_is_connected_to() -> None:
    """A name that changes between the look and the connection (DNS rebinding) changes nothing: it is asked once."""
    upstream, reactor, names = asking({"registry.example": [PUBLIC], "cdn.example": ["198.51.100.7"]})
    fetching = upstream.blob("a", Digest.of(b""))
    reactor.advance(0)
    answer(reactor, 0, redirected("http://cdn.example/x"))
    names.table["cdn.example"] = [PRIVATE]
    assert names.asked == ["registry.example", "cdn.example"]
    assert connected(reactor) == [(PUBLIC, 80), ("198.51.100.7", 80)]
    fetching.addErrback(lambda _: None).cancel()


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000", "http://[::1]:5000"])
def test_a_literal_address_goes_through_the_same_rules(url: str) -> None:
    """An upstream configured by address is private by its address, and may lead to its neighbours."""
    upstream, reactor, _ = asking({}, url)
    fetching = upstream.blob("a", Digest.of(b""))
    reactor.advance(0)
    answer(reactor, 0, redirected("http://10.9.9.9:9000/x"))
    assert connected(reactor)[1:] == [("10.9.9.9", 9000)]
    fetching.addErrback(lambda _: None).cancel()


def test_only_screened_addresses_of_a_name_are_tried() -> None:
    """Of a name with addresses inside and outside, only those outside are connected to."""
    reactor, _ = a_reactor({"cdn.example": [PRIVATE, PUBLIC, "::1"]})
    standing = Standing("up.example")

    endpoint = ScreenedEndpoint(reactor, "cdn.example", 443, 10.0, standing.led_by_public)
    connecting = endpoint.connect(Factory.forProtocol(Protocol))
    reactor.pump([0.5] * 8)
    assert connected(reactor) == [(PUBLIC, 443)]
    connecting.addErrback(lambda _: None)
    reactor.pump([1.0] * 10)


def test_a_name_that_never_resolves_is_given_up() -> None:
    """Ten seconds, then the next URL or an error."""
    upstream, reactor, names = asking({})
    names.answers = False
    fetching = upstream.manifest("a", "t")
    reactor.advance(9)
    assert not fetching.called
    reactor.advance(1)
    assert isinstance(failure_of(fetching), UpstreamUnavailable)


def test_a_name_that_is_not_there_is_unavailable() -> None:
    """Said in words."""
    upstream, _, _ = asking({"registry.example": []})
    fault = failure_of(upstream.manifest("a", "t"))
    assert "cannot be resolved" in str(fault)


def test_a_connection_reads_in_large_pieces() -> None:
    """256 KiB at once: at a gigabyte a second 64 KiB are too many turns of the reactor."""

    reactor, _ = a_reactor({"registry.example": [PUBLIC]})
    endpoint = ScreenedEndpoint(reactor, "registry.example", 80, 10.0, Standing("u").own)
    connecting = endpoint.connect(Factory.forProtocol(Protocol))
    transport: Any = StringTransport()
    transport.bufferSize = 65536
    alsoProvides(transport, ITCPTransport)
    reactor.tcpClients[0][2].buildProtocol(None).makeConnection(transport)
    now(connecting)
    assert transport.bufferSize == 256 * 1024


def test_a_certificate_file_without_certificates_is_refused(tmp_path: Path) -> None:
    """At start, naming the file."""

    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "gone.pem"):
        with pytest.raises(ConfigError, match="ca_file .*" + path.name):
            Trust(path)
