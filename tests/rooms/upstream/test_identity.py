"""One request to an upstream, as it goes over the wire, and how its answer is to be read."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.web.client import Agent
from twisted.web.iweb import UNKNOWN_LENGTH

from appliance.errors import Offline
from appliance.upstream.answer import Request
from appliance.upstream.http.body import BlobResponse, ResponseBody
from appliance.upstream.http.identity import HttpClient
from appliance.upstream.http.limits import BandwidthLimit, BodyLimits, Gate, Timeouts
from appliance.upstream.interfaces import IUpstreamObserver
from appliance.upstream.url import Url
from tests.doubles.deferreds import failing
from tests.rooms.upstream.net import Counting, SilentObserver

URL = Url.parse("http://127.0.0.1/v2/")


def client(
    reactor: Any,
    gate: Gate | None = None,
    timeouts: Timeouts | None = None,
    observer: IUpstreamObserver | None = None,
    bandwidth: BandwidthLimit | None = None,
) -> HttpClient:
    return HttpClient(
        "up.example",
        URL,
        Agent(reactor),
        reactor,
        timeouts or Timeouts(),
        observer or SilentObserver(),
        gate or Gate("up.example"),
        bandwidth,
    )


def ask(http: HttpClient, request: Request | None = None) -> Deferred[object]:
    return Deferred.fromCoroutine(http.request(request or Request("GET", URL)))


def sent(method: str, form: bytes | None) -> bytes:
    """What the other side receives."""
    reactor = MemoryReactorClock()
    fields = {"Content-Type": "application/x-www-form-urlencoded"}
    asking = ask(client(reactor), Request(method, URL.at("/token"), fields=fields, danger_form=form))
    protocol = reactor.tcpClients[0][2].buildProtocol(None)
    transport = StringTransport()
    assert protocol is not None
    protocol.makeConnection(transport)
    asking.cancel()
    assert isinstance(failing(asking), CancelledError)
    received: bytes = transport.value()
    return received


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
    """Neither bytes nor a Content-Length."""
    head, _, body = sent("GET", None).partition(b"\r\n\r\n")
    assert b"content-length" not in head.lower()
    assert body == b""


def limits_of_a_blob(http: HttpClient, background: bool) -> BodyLimits:
    class Response:
        length = UNKNOWN_LENGTH

    response: Any = Response()
    blob = ResponseBody(response, "GET", http.small, http.blob).blob(0, None, None, background)
    assert isinstance(blob, BlobResponse)
    return blob._limits


def test_blobs_are_counted_and_paced_and_may_take_any_time() -> None:
    """What comes into memory is none of that."""
    clock, observer = MemoryReactorClock(), Counting()
    bandwidth = BandwidthLimit(clock, 1000)
    http = client(clock, None, Timeouts(silence=7, whole=11), observer, bandwidth)
    for background in (False, True):
        limits = limits_of_a_blob(http, background)
        assert (limits.silence, limits.whole, limits.bandwidth, limits.background) == (7, None, bandwidth, background)
        limits.received(5)
    assert observer.octets == 10
    small = http.small
    assert (small.silence, small.whole, small.bandwidth) == (7, 11, None)
    small.received(5)
    assert observer.octets == 10


def test_without_a_limit_there_is_no_bandwidth_to_share() -> None:
    """And nothing on the way of a blob asks for any."""
    assert limits_of_a_blob(client(MemoryReactorClock()), False).bandwidth is None


def test_a_closed_gate_drops_what_is_under_way_and_lets_nothing_by() -> None:
    """Every request on the upstream's behalf fails and says why, and no connection is opened for it."""
    reactor, gate = MemoryReactorClock(), Gate("up.example")
    first, second = (client(reactor, gate) for _ in range(2))
    asking = ask(first)
    protocol = reactor.tcpClients[0][2].buildProtocol(None)
    transport = StringTransport()
    assert protocol is not None
    protocol.makeConnection(transport)
    gate.close()
    gate.close()
    assert isinstance(failing(asking), Offline)
    assert transport.disconnecting or transport.disconnected
    for http in (first, second):
        assert isinstance(failing(ask(http)), Offline)
    assert len(reactor.tcpClients) == 1
    assert reactor.getDelayedCalls() == []


def test_an_open_gate_remembers_nothing_that_is_over() -> None:
    """A year of requests leaves nothing behind."""
    reactor, gate = MemoryReactorClock(), Gate("up.example")
    http = client(reactor, gate)
    for _ in range(3):
        asking = ask(http)
        asking.cancel()
        assert isinstance(failing(asking), CancelledError)
    assert gate._under_way == []
