"""How many may connect, and how long a connection may stand still."""

from __future__ import annotations

import resource
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from appliance.flow import connections as module
from appliance.flow.connections import Admission, Connections, client_of, make_room
from appliance.flow.sendfile import Progress, SendfileServer
from appliance.settings import ConnectionSettings
from tests.doubles.appliance import Appliance
from tests.wire.line import Line, Shop, request


def limited(**limits: Any) -> Shop:
    """A listener with these limits, and no client connected."""
    shop = Shop()
    shop.line.lose()
    shop.listener.site.connections.limits = ConnectionSettings(**limits)
    return shop


# -- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"max": 3}, {"max_per_address": 3}], ids=["of all", "of one address"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_above_the_limit_a_client_is_asked_to_come_again(limits: dict[str, int], method: str) -> None:
    """503 as OCI JSON once it has asked, and the end of its connection; those before it notice nothing."""
    shop = limited(**limits)
    lines = [Line(shop.listener) for _ in range(3)]
    late = Line(shop.listener)
    assert late.received() == b"" and not late.closed
    answer = late.ask(method, "/v2/")
    assert (answer.status, answer["Retry-After"], answer["Connection"]) == (503, "5", "close")
    assert method == "HEAD" or answer.error["code"] == "TOOMANYREQUESTS"
    assert late.closed
    assert [line.ask("GET", "/v2/").status for line in lines] == [200] * 3
    late.lose()
    lines.pop().lose()
    assert Line(shop.listener).ask("GET", "/v2/").status == 200


def test_those_who_are_refused_take_no_room_either() -> None:
    """A flood is answered as far as it is worth it, and what is silent is let go of soon."""
    shop = limited(max=1)
    Line(shop.listener).ask("GET", "/v2/")
    told = [Line(shop.listener) for _ in range(module.REFUSING)]
    assert not any(line.aborted for line in told)
    beyond = Line(shop.listener).send(request("GET", "/v2/"))
    shop.clock.advance(0)
    assert beyond.aborted and beyond.received() == b""
    shop.clock.advance(module.REFUSED_FOR)
    assert all(line.aborted for line in told)
    for line in told:
        line.lose()
    assert Line(shop.listener).ask("GET", "/v2/").status == 503


def test_a_tls_handshake_above_the_limit_is_closed_at_once() -> None:
    """As below it: skopeo, podman and docker try TLS first."""
    shop = limited(max=1)
    Line(shop.listener)
    late = Line(shop.listener).send(b"\x16\x03\x01")
    assert late.aborted and late.received() == b""


def test_operators_have_the_same_limits() -> None:
    """In the words of their endpoint; the table may be one with the listeners'."""
    site = Appliance()
    table = Connections(Clock(), ConnectionSettings(max=0))
    connection: Any = site.app.site(table).buildProtocol(None)  # type: ignore[arg-type]
    transport = StringTransport(lenient=True)
    connection.makeConnection(transport)
    connection.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = transport.value().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 5" in head
    assert b"too-many-connections" in body


class Connection:
    """As the table sees one."""

    def __init__(self, host: str = "192.0.2.1") -> None:
        self.transport: Any = self
        self.host = host
        self.aborted = False

    def getPeer(self) -> Any:
        return IPv4Address("TCP", self.host, 1)

    def abortConnection(self) -> None:
        self.aborted = True


def test_the_table_forgets_who_left() -> None:
    """Nothing is kept of a million addresses that came once."""
    told: list[str] = []
    table = Connections(Clock(), ConnectionSettings(max=2, max_per_address=1), told.append)
    for number in range(1000):
        here, again = (Connection(f"10.0.{number // 250}.{number % 250}") for _ in range(2))
        assert table.enter(here) is Admission.ADMITTED
        assert table.enter(again) is Admission.REFUSED
        table.leave(again)
        table.leave(here)
        table.leave(here)
    assert (len(table), table._clients, table._refused) == (0, {}, set())
    assert set(told) == {"address"} and len(told) == 1000
    first, second = Connection("10.0.0.1"), Connection("10.0.0.2")
    assert (table.enter(first), table.enter(second)) == (Admission.ADMITTED, Admission.ADMITTED)
    assert table.enter(Connection("10.0.0.3")) is Admission.REFUSED and told[-1] == "total"
    assert not table._clock.getDelayedCalls()[1:]  # type: ignore[attr-defined]
    table.leave(first), table.leave(second)
    assert not table._clock.getDelayedCalls()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (IPv4Address("TCP", "192.0.2.1", 5), "192.0.2.1"),
        (IPv6Address("TCP", "::ffff:192.0.2.1", 5), "192.0.2.1"),
        (IPv6Address("TCP", "2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (IPv6Address("TCP", "fe80::1%eth0", 5), "fe80::/64"),
        (UNIXAddress(None), None),
        (None, None),
    ],
)
def test_who_a_client_is(peer: Any, client: str | None) -> None:
    """A client with one IPv6 address has 2^64 of them."""
    assert client_of(peer) == client


def test_room_is_made_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit on open files is this process's own to raise; the hard one is the administrator's."""
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.__setitem__(slice(None), new))
    assert make_room(190) == 190 and limits == [1024, 4096]
    assert make_room(500) == 500 and limits == [2256, 4096]
    assert make_room(4096) == 960 and limits == [4096, 4096]
    limits[:] = [1024, resource.RLIM_INFINITY]
    assert make_room(4096) == 4096 and limits == [16640, resource.RLIM_INFINITY]
    limits[:] = [10, 10]
    assert make_room(4096) == 1


# -- how long -------------------------------------------------------------------------------------------------------


def test_a_client_that_connects_and_says_nothing_is_cut_off() -> None:
    """Its first request has the time that any other has; between requests a connection may rest."""
    shop = limited(head_timeout=10.0)
    silent, prompt = Line(shop.listener), Line(shop.listener)
    prompt.ask("GET", "/v2/")
    shop.clock.advance(9.0)
    assert not silent.aborted
    shop.clock.advance(1.0)
    assert silent.aborted and not prompt.aborted
    shop.clock.advance(100.0)
    assert not prompt.closed


def test_the_limits_of_a_new_configuration_hold_for_the_next_request() -> None:
    """No client has to connect again for them."""
    shop = limited(head_timeout=10.0)
    line = Line(shop.listener)
    line.ask("GET", "/v2/")
    shop.listener.site.connections.limits = ConnectionSettings(head_timeout=5.0)
    line.ask("GET", "/v2/")
    line.send(request("GET", "/v2/")[:10])
    shop.clock.advance(5.0)
    assert line.aborted


class Stuck(SendfileServer):
    """A transport whose progress the test decides."""

    def __init__(self) -> None:
        self.seen = Progress(0, False)

    def progress(self) -> Progress:
        return self.seen


class Wrapper:
    """What stands before a socket: TLS, the PROXY protocol."""

    def __init__(self, below: Any, connection: Connection) -> None:
        self.transport = below
        self.getPeer = connection.getPeer
        self.abortConnection = connection.abortConnection


@pytest.mark.parametrize("wrapped", [1, 2])
def test_a_client_that_takes_nothing_is_cut_off(wrapped: int) -> None:
    """One that takes a little now and then is not, nor one for which there is nothing: its upstream may be slow."""
    clock, told = Clock(), list[str]()
    table = Connections(clock, ConnectionSettings(stall_timeout=40.0), told.append)
    sockets = [Stuck() for _ in range(3)]
    connections = [Connection() for _ in sockets]
    for socket, connection in zip(sockets, connections, strict=True):
        connection.transport = Wrapper(socket, connection)
        for _ in range(wrapped - 1):
            connection.transport = Wrapper(connection.transport, connection)
        table.enter(connection)
    stuck, slow, idle = sockets
    for second in range(200):
        stuck.seen = Progress(100, True)
        slow.seen = Progress(100 + second // 30, True)
        idle.seen = Progress(100, False)
        clock.advance(1.0)
        if second == 39:
            assert not connections[0].aborted
        if connections[0].aborted:
            table.leave(connections[0])
    assert [each.aborted for each in connections] == [True, False, False]
    assert told == ["stalled"]


def test_a_new_time_for_standing_still_holds_for_those_who_are_connected() -> None:
    """They are not looked at as seldom as the old one allowed."""
    clock = Clock()
    table = Connections(clock, ConnectionSettings(stall_timeout=3600.0))
    connection, socket = Connection(), Stuck()
    connection.transport = Wrapper(socket, connection)
    socket.seen = Progress(100, True)
    table.enter(connection)
    table.limits = ConnectionSettings(stall_timeout=10.0)
    for _ in range(20):
        clock.advance(1.0)
    assert connection.aborted
