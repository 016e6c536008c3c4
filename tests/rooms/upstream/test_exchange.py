"""One request to an upstream, as it goes over the wire, and how its answer is to be read."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.web.client import Agent

from appliance.errors import Offline
from appliance.upstream.exchange import Exchange
from appliance.upstream.gate import Gate
from appliance.upstream.limits import Limits
from appliance.upstream.observer import SilentObserver
from appliance.upstream.pace import Pace
from appliance.upstream.url import Url
from tests.rooms.upstream.net import Counting, failure_of


def sent(method: str, body: bytes | None) -> bytes:
    """What the other side hears."""
    reactor = MemoryReactorClock()
    exchange = Exchange("up.example", reactor, Limits(), SilentObserver())
    url = Url.parse("http://127.0.0.1/token")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    asking: Deferred[object] = Deferred.fromCoroutine(exchange.send(Agent(reactor), method, url, form, body=body))
    protocol = reactor.tcpClients[0][2].buildProtocol(None)
    transport = StringTransport()
    assert protocol is not None
    protocol.makeConnection(transport)
    asking.cancel()
    assert isinstance(failure_of(asking), CancelledError)
    heard: bytes = transport.value()
    return heard


def test_a_form_is_sent_with_its_length() -> None:
    """As a token server expects it."""
    head, _, body = sent("POST", b"grant_type=refresh_token&service=x").partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /token http/1.1"
    assert b"content-length: 34" in lines
    assert b"content-type: application/x-www-form-urlencoded" in lines
    assert not any(line.startswith(b"transfer-encoding") for line in lines)
    assert body == b"grant_type=refresh_token&service=x"


def test_a_question_has_no_body() -> None:
    """Nor a length of one."""
    head, _, body = sent("GET", None).partition(b"\r\n\r\n")
    assert b"content-length" not in head.lower()
    assert body == b""


def test_blobs_are_counted_and_paced_and_may_take_any_time() -> None:
    """What comes into memory is none of that."""
    clock, observer = Clock(), Counting()
    pace = Pace(clock, 1000)
    exchange = Exchange("up.example", clock, Limits(silence=7, whole=11), observer, pace)
    for background in (False, True):
        watch = exchange.watch_for(background)
        assert (watch.silence, watch.whole, watch.pace, watch.background) == (7, None, pace, background)
        watch.received(5)
    assert observer.octets == 10
    small = exchange.watch
    assert (small.silence, small.whole, small.pace) == (7, 11, None)
    small.received(5)
    assert observer.octets == 10


def test_without_a_limit_there_is_no_pace() -> None:
    """And nothing on the way of a blob asks for one."""
    exchange = Exchange("up.example", Clock(), Limits(), SilentObserver())
    assert exchange.watch_for(False).pace is None


def test_a_closed_gate_drops_what_is_under_way_and_lets_nothing_by() -> None:
    """Whoever asks on the upstream's behalf hears why, and no connection is opened for what would have followed."""
    reactor, gate = MemoryReactorClock(), Gate("up.example")
    first, second = (Exchange("up.example", reactor, Limits(), SilentObserver(), gate=gate) for _ in range(2))
    url = Url.parse("http://127.0.0.1/v2/")
    asking: Deferred[object] = Deferred.fromCoroutine(first.send(Agent(reactor), "GET", url, {}))
    protocol = reactor.tcpClients[0][2].buildProtocol(None)
    transport = StringTransport()
    assert protocol is not None
    protocol.makeConnection(transport)
    gate.close()
    gate.close()
    assert isinstance(failure_of(asking), Offline)
    assert transport.disconnecting or transport.disconnected
    for exchange in (first, second):
        later: Deferred[object] = Deferred.fromCoroutine(exchange.send(Agent(reactor), "GET", url, {}))
        assert isinstance(failure_of(later), Offline)
    assert len(reactor.tcpClients) == 1
    assert reactor.getDelayedCalls() == []


def test_an_open_gate_remembers_nothing_that_is_over() -> None:
    """A year of questions leaves nothing behind."""
    reactor, gate = MemoryReactorClock(), Gate("up.example")
    exchange = Exchange("up.example", reactor, Limits(), SilentObserver(), gate=gate)
    for _ in range(3):
        url = Url.parse("http://127.0.0.1/v2/")
        asking: Deferred[object] = Deferred.fromCoroutine(exchange.send(Agent(reactor), "GET", url, {}))
        asking.cancel()
        assert isinstance(failure_of(asking), CancelledError)
    assert gate._under_way == []
