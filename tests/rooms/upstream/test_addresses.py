"""Where an upstream may lead us: addresses, rules, and connections to nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.web.iweb import IAgent
from zope.interface import alsoProvides

from appliance.errors import UpstreamRefused, UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.http.addresses import AddressPolicy, Reach, literal_of, reach_of
from appliance.upstream.http.connect import ScreenedEndpoint, agent_for
from appliance.upstream.http.limits import Gate, Timeouts
from appliance.upstream.http.proxy import Proxies
from appliance.upstream.http.trust import Trust
from appliance.upstream.interfaces import IUpstream
from appliance.upstream.kinds.standard import STANDARD
from appliance.upstream.table import client_for
from appliance.upstream.url import Url
from tests.doubles.deferreds import failing, result
from tests.rooms.upstream.net import SilentObserver
from tests.rooms.upstream.wires import LINK, PRIVATE, PUBLIC, Line, Names, a_reactor, connected

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


@pytest.mark.parametrize(
    ("own", "foreign", "passed"),
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
def test_which_foreign_addresses_are_accepted(own: list[str], foreign: list[str], passed: list[str] | None) -> None:
    """A public upstream never leads inside, a private one may, and to link-local addresses none leads."""
    policy = AddressPolicy("up.example")
    assert policy.own("registry.example", own) == own
    screen = policy.from_private if policy.private else policy.from_public
    if passed is not None:
        assert screen("cdn.example", foreign) == passed
        return
    with pytest.raises(UpstreamRefused) as caught:
        screen("cdn.example", foreign)
    assert "cdn.example" in str(caught.value) and foreign[0] in str(caught.value)
    assert ("link-local" if LINK in foreign else "private") in str(caught.value)


LITERALS = [
    ("10.0.0.1", "10.0.0.1"),
    ("127.1", "127.0.0.1"),
    ("0x7f.1", "127.0.0.1"),
    ("0x7f000001", "127.0.0.1"),
    ("2130706433", "127.0.0.1"),
    ("0177.0.0.1", "127.0.0.1"),
    ("10.0.0.1.", "10.0.0.1"),
    ("::1", "::1"),
    ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
    ("localhost", "127.0.0.1"),
    ("a.localhost.", "127.0.0.1"),
    ("localhost.localdomain", "127.0.0.1"),
    ("registry.example", None),
    ("localhost.example", None),
    ("notlocalhost", None),
    ("10.0.0.1.example", None),
    ("256.256.256.256", None),
    ("deadbeef", None),
]


@pytest.mark.parametrize(("host", "address"), LITERALS)
def test_an_address_is_distinguished_from_a_name_in_any_notation(host: str, address: str | None) -> None:
    """As the C library reads it, since a proxy may resolve with that."""
    assert literal_of(host) == address


@given(st.ip_addresses(v=4).map(int))
def test_a_number_is_an_address(number: int) -> None:
    """However it is written."""
    dotted = literal_of(str(number))
    assert dotted is not None and literal_of(hex(number)) == literal_of(dotted) == dotted


@pytest.mark.parametrize(
    ("host", "addresses", "passed"),
    [
        ("cdn.example", [PRIVATE], [PRIVATE]),
        ("cdn.example", [PUBLIC, "::1"], [PUBLIC, "::1"]),
        ("cdn.example", [LINK], None),
        ("cdn.example", [LINK, PRIVATE], [PRIVATE]),
        (LINK, [LINK], [LINK]),
        ("169.254.0.1", [LINK], None),
        ("fe80::1", ["fe80::1%eth0"], ["fe80::1%eth0"]),
        ("::ffff:a9fe:a9fe", ["::ffff:169.254.169.254"], ["::ffff:169.254.169.254"]),
    ],
)
def test_a_named_host_may_be_private(host: str, addresses: list[str], passed: list[str] | None) -> None:
    """But a name does not open the way to a link-local address: only that address itself does."""
    policy = AddressPolicy("up.example")
    if passed is not None:
        assert policy.named(host, addresses) == passed
        return
    with pytest.raises(UpstreamRefused, match="link-local"):
        policy.named(host, addresses)


# -- connections ----------------------------------------------------------------------------------------------------


REGISTRY = "http://registry.example"


def asking(table: dict[str, list[str]], url: str = REGISTRY, **settings: Any) -> tuple[IUpstream, Any, Names]:
    reactor, names = a_reactor(table)
    chosen = UpstreamSettings(name="up.example", urls=(url,), **settings)

    def agent(url: Url) -> IAgent:
        return agent_for(chosen, url, reactor, Trust(chosen), Timeouts(), Proxies())

    made = client_for(
        chosen, agent, reactor, STANDARD, lambda url: None, SilentObserver(), Timeouts(), Gate(chosen.name)
    )
    return made, reactor, names


def answer(reactor: Any, number: int, data: bytes) -> None:
    """The server at the C{number}th connection says C{data}, and says no more."""
    Line(reactor, number).say(data)


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
        fault = failing(fetching)
        assert type(fault) is UpstreamRefused
        assert connected(reactor) == [(own[0], 80)]
    else:
        assert connected(reactor)[1:] == [target]
        fetching.addErrback(lambda _: None).cancel()


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("http://inside.example/x", ("10.9.9.9", 80)),
        ("http://store.example:9000/x", ("10.8.8.8", 9000)),
        ("http://store.example/x", None),
        ("http://a.pool.example/x", ("10.7.7.7", 80)),
        ("http://auth.example/x", ("10.6.6.6", 80)),
        ("http://[fd00::9]/x", ("fd00::9", 80)),
        ("http://[fd00::8]/x", None),
        ("http://10.9.9.9/x", None),
        ("http://metadata.pool.example/x", None),
        ("http://169.254.169.254/x", None),
        ("http://169.254.1.1/x", ("169.254.1.1", 80)),
        ("http://[::ffff:169.254.1.1]/x", None),
        ("http://cdn.example/x", ("198.51.100.7", 80)),
    ],
)
def test_the_settings_name_who_may_be_inside(location: str, target: tuple[str, int] | None) -> None:
    """A public registry whose blobs, or tokens, come from within the site: its operator says so, host by host."""
    table = {
        "registry.example": [PUBLIC],
        "inside.example": ["10.9.9.9"],
        "store.example": ["10.8.8.8"],
        "a.pool.example": ["10.7.7.7"],
        "auth.example": ["10.6.6.6"],
        "metadata.pool.example": [LINK],
        "cdn.example": ["198.51.100.7"],
    }
    hosts = ("inside.example", "store.example:9000", "*.pool.example", "[fd00::9]", "169.254.1.1")
    upstream, reactor, _ = asking(table, redirect_hosts=hosts, auth_hosts=("auth.example",))
    fetching = upstream.blob("a", Digest.of(b""))
    reactor.advance(0)
    answer(reactor, 0, redirected(location))
    assert connected(reactor)[1:] == ([] if target is None else [target])
    if target is None:
        assert type(failing(fetching)) is UpstreamRefused
    else:
        fetching.addErrback(lambda _: None).cancel()


def test_a_connection_is_not_used_under_a_stricter_rule_than_it_was_made_under() -> None:
    """An address the operator chose for the upstream itself is not within reach of what the upstream says."""
    reactor, names = a_reactor({"registry.example": [PRIVATE]})
    settings = UpstreamSettings(name="up.example", urls=(REGISTRY,))
    agent = agent_for(settings, Url.parse(REGISTRY), reactor, Trust(settings), Timeouts(), Proxies())
    own = agent.own.request(b"GET", b"http://registry.example/v2/")
    answer(reactor, 0, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    result(own).deliverBody(Protocol())
    names.table["registry.example"] = [LINK]
    request = agent.foreign.request(b"GET", b"http://registry.example/v2/")
    reactor.advance(0)
    assert type(failing(request)) is UpstreamRefused
    again = agent.own.request(b"GET", b"http://registry.example/v2/")
    assert len(connected(reactor)) == 1
    again.addErrback(lambda _: None).cancel()


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
    policy = AddressPolicy("up.example")

    endpoint = ScreenedEndpoint(reactor, "cdn.example", 443, 10.0, policy.from_public)
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
    assert isinstance(failing(fetching), UpstreamUnavailable)


def test_a_name_that_is_not_there_is_unavailable() -> None:
    """Said in words."""
    upstream, _, _ = asking({"registry.example": []})
    fault = failing(upstream.manifest("a", "t"))
    assert "cannot be resolved" in str(fault)


def test_a_connection_reads_in_large_pieces() -> None:
    """256 KiB at once: at a gigabyte a second 64 KiB are too many turns of the reactor."""

    reactor, _ = a_reactor({"registry.example": [PUBLIC]})
    endpoint = ScreenedEndpoint(reactor, "registry.example", 80, 10.0, AddressPolicy("u").own)
    connecting = endpoint.connect(Factory.forProtocol(Protocol))
    transport: Any = StringTransport()
    transport.bufferSize = 65536
    alsoProvides(transport, ITCPTransport)
    reactor.tcpClients[0][2].buildProtocol(None).makeConnection(transport)
    result(connecting)
    assert transport.bufferSize == 256 * 1024
