"""The connection itself: limits, deadlines, bodies that are not wanted, and clients that speak TLS to a plain port."""

from __future__ import annotations

import errno

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory

from appliance.flow import body
from appliance.interfaces import IBlobReader
from appliance.registry.listener import MAX_REQUEST_BODY
from appliance.settings import ConnectionSettings
from tests.doubles.deferreds import failing
from tests.wire.line import IMAGE, LARGE, LAYER, Line, Shop, blob, manifest, parse, request

REQUEST_DEADLINE = ConnectionSettings().head_timeout


def test_a_tls_handshake_on_a_plain_port_is_closed_at_once() -> None:
    """skopeo, podman and docker try TLS first: no byte, no wait."""
    line = Line(Shop().listener)
    line.send(bytes.fromhex("1603010200010001fc0303") + bytes(200))
    assert line.aborted and line.received() == b""


def test_the_same_byte_later_is_no_handshake() -> None:
    """Only the first byte of a connection is looked at."""
    shop = Shop()
    assert shop.line.ask("GET", "/v2/").status == 200
    shop.line.send(b"\x16\x03\x01")
    assert not shop.line.aborted


def test_a_request_that_trickles_in_is_cut_off() -> None:
    """One byte a second does not hold a connection open: the deadline counts from the first one."""
    shop = Shop()
    for byte in request("GET", "/v2/", [("X-Slow", "a" * 100)])[: int(REQUEST_DEADLINE)]:
        assert not shop.line.aborted
        shop.line.send(bytes([byte]))
        shop.clock.advance(1.0)
    assert shop.line.aborted


def test_whole_lines_that_trickle_in_are_cut_off_too() -> None:
    """A header line every second, and never an empty one."""
    shop = Shop()
    shop.line.send(b"GET /v2/ HTTP/1.1\r\n")
    for number in range(int(REQUEST_DEADLINE)):
        shop.line.send(b"X-%d: a\r\n" % number)
        shop.clock.advance(1.0)
    assert shop.line.aborted


def test_a_body_that_trickles_in_is_cut_off_too() -> None:
    """Announced small, sent slowly."""
    shop = Shop()
    shop.line.send(request("GET", "/v2/", [("Content-Length", "1000")]))
    for _ in range(int(REQUEST_DEADLINE)):
        shop.line.send(b"a")
        shop.clock.advance(1.0)
    assert shop.line.aborted


def test_each_request_has_a_deadline_of_its_own() -> None:
    """A connection that is used for an hour is not cut off, nor one that waits for a slow upstream."""
    shop = Shop()
    for _ in range(10):
        shop.line.send(request("GET", "/v2/")[:10])
        shop.clock.advance(REQUEST_DEADLINE - 1)
        shop.line.send(request("GET", "/v2/")[10:])
        assert shop.line.answers("GET")[0].status == 200
    shop.hub.hang("head")
    shop.line.send(request("GET", manifest()))
    shop.clock.advance(10 * REQUEST_DEADLINE)
    assert not shop.line.closed
    shop.hub.hanging[0].answer()
    assert shop.line.answers("GET")[0].body == IMAGE


def test_an_idle_connection_is_closed_in_the_end() -> None:
    """Two minutes."""
    shop = Shop()
    shop.line.ask("GET", "/v2/")
    shop.clock.advance(119.0)
    assert not shop.line.closed
    shop.clock.advance(2.0)
    assert shop.line.closed


@pytest.mark.parametrize("path", ["/v2/", manifest()])
def test_two_minutes_begin_with_the_last_request(path: str) -> None:
    """However many came before, and whichever way they were answered."""
    shop = Shop()
    for _ in range(4):
        shop.line.ask("GET", path)
        shop.clock.advance(100.0)
    assert not shop.line.closed
    shop.clock.advance(19.0)
    assert not shop.line.closed
    shop.clock.advance(1.0)
    assert shop.line.closed


@pytest.mark.parametrize("size", [16_000, 22_000, 60_000])
def test_long_header_lines_are_read(size: int) -> None:
    """podman's ranges have 22 KB; one line or several."""
    shop = Shop()
    assert shop.line.ask("GET", "/v2/", [("X-Long", "a" * size)]).status == 200
    assert shop.line.ask("GET", "/v2/", [(f"X-{n}", "a" * (size // 10)) for n in range(10)]).status == 200


@pytest.mark.parametrize(
    "fields",
    [[("X-Long", "a" * 70_000)], [(f"X-{n}", "a" * 7000) for n in range(12)], [(f"X-{n}", "a") for n in range(600)]],
    ids=["line", "sum", "count"],
)
def test_longer_ones_are_refused_in_words(fields: list[tuple[str, str]]) -> None:
    """A 400 as OCI JSON and the end of the connection, instead of silence."""
    line = Line(Shop().listener)
    line.send(request("GET", "/v2/", fields))
    answer = line.answers("GET")[0]
    assert (answer.status, answer["Connection"]) == (400, "close")
    assert answer.error["code"] == "UNSUPPORTED" and line.closed


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\nGET\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nno colon\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nA\x00B: c\r\nX: y\r\n\r\n" + b"more\r\n" * 10,
    ],
)
def test_what_is_not_http_is_refused_once(data: bytes) -> None:
    """One 400, whatever follows."""
    line = Line(Shop().listener)
    line.send(data)
    answer = line.answers("GET")[0]
    assert answer.status == 400 and line.closed
    assert answer.error
    line.send(request("GET", "/v2/"))
    assert line.received() == b""


def test_a_small_body_is_read_and_forgotten() -> None:
    """GET with a body is odd and harmless; the next request on the line is understood."""
    shop = Shop()
    shop.line.send(request("GET", "/v2/", [("Content-Length", "5")]) + b"hello" + request("GET", "/v2/"))
    assert [each.status for each in shop.line.answers("GET", "GET")] == [200, 200]
    shop.line.send(request("PUT", manifest(), [("Content-Length", "5")]) + b"hello" + request("GET", "/v2/"))
    assert [each.status for each in shop.line.answers("PUT", "GET")] == [405, 200]


BODIES = [
    [("Content-Length", str(MAX_REQUEST_BODY + 1))],
    [("Content-Length", "9" * 15)],
    [("Transfer-Encoding", "chunked")],
]


@pytest.mark.parametrize("expect", [[], [("Expect", "100-continue")]], ids=["", "expect"])
@pytest.mark.parametrize("fields", BODIES, ids=["large", "huge", "chunked"])
@pytest.mark.parametrize(("method", "status"), [("PUT", 405), ("POST", 405), ("PATCH", 405), ("GET", 413)])
def test_a_large_body_is_refused_before_it_comes(
    method: str,
    status: int,
    fields: list[tuple[str, str]],
    expect: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of it is kept, in memory or on disk, and no client is asked to go on sending."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: pytest.fail("spooled to disk"))
    line = Line(Shop().listener)
    line.send(request(method, "/v2/app/blobs/uploads/", [*fields, *expect]))
    answer = line.answers(method)[0]
    assert (answer.status, answer["Connection"]) == (status, "close")
    assert answer.error
    for _ in range(10):
        line.send(b"x" * 100_000)
    assert line.received() == b"" and line.closed


def test_a_refusal_of_head_has_no_body() -> None:
    """HEAD never has one (RFC 9110 section 9.3.2), also where the connection is closed after it."""
    line = Line(Shop().listener)
    line.send(request("HEAD", "/v2/", [("Content-Length", "99999999")]))
    line.answers("HEAD")


def test_requests_sent_ahead_are_answered_in_order() -> None:
    """Pipelined: the second waits for the first, however long its upstream takes."""
    shop = Shop()
    shop.hub.hang("head")
    shop.line.send(request("GET", manifest()) + request("GET", "/v2/") + request("HEAD", blob(LAYER)))
    assert shop.line.received() == b""
    shop.hub.hanging[0].answer()
    first, second, third = shop.line.answers("GET", "GET", "HEAD")
    assert (first.body, second.body) == (IMAGE, b"{}")
    assert third["Content-Length"] == str(len(LAYER))


def test_a_refusal_waits_for_its_turn() -> None:
    """A large body announced behind a request under way: the first answer is not disturbed."""
    shop = Shop()
    shop.hub.hang("head")
    shop.line.send(request("GET", manifest()) + request("PUT", "/v2/x", [("Content-Length", "9999999")]))
    assert shop.line.received() == b""
    shop.hub.hanging[0].answer()
    assert [each.status for each in shop.line.answers("GET", "PUT")] == [200, 405]


def test_a_client_that_asks_to_close_is_obeyed() -> None:
    """skopeo, podman and docker: one request a connection; and HTTP/1.0."""
    for data in (request("GET", "/v2/", [("Connection", "close")]), request("GET", "/v2/", version="HTTP/1.0")):
        line = Line(Shop().listener)
        line.send(data)
        answer, rest = parse(line.received(), "GET")
        assert answer.status == 200 and rest == b"" and line.closed


def test_a_client_that_leaves_while_it_waits_is_no_error() -> None:
    """Nothing is logged but the request; the check goes on for the next one."""
    shop = Shop()
    shop.hub.hang("head")
    line = Line(shop.listener).send(request("GET", manifest()))
    line.lose()
    shop.hub.hanging[0].answer()
    shop.hub.heal()
    asked = shop.calls()
    assert shop.get(manifest()).body == IMAGE
    assert shop.calls() == asked


def test_every_request_is_accounted_for_once() -> None:
    """Kind, status, bytes of the body and where it came from."""
    shop = Shop()
    shop.get(manifest())
    shop.ask("HEAD", manifest())
    shop.get("/v2/")
    shop.get("/v2/x/manifests/-")
    shop.ask("DELETE", manifest())
    told = [(method, kind, code, octets, cache) for *_, method, _, kind, code, octets, _, cache in shop.accounts.told]
    assert told[:3] == [
        ("GET", "manifest", 200, len(IMAGE), "miss"),
        ("HEAD", "manifest", 200, 0, "hit"),
        ("GET", "ping", 200, 2, "-"),
    ]
    assert [(method, code) for method, _, code, _, _ in told[3:]] == [("GET", 400), ("DELETE", 405)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (request("PUT", "/v2/x", [("Content-Length", "9999999")]), 405),
        (request("GET", "/v2/", [("X", "a" * 70_000)]), 400),
    ],
    ids=["body", "header"],
)
def test_a_refusal_by_the_channel_is_accounted_for_as_one(data: bytes, code: int) -> None:
    """The log does not say 200 of what was refused."""
    shop = Shop()
    line = Line(shop.listener).send(data)
    line.lose()
    assert [told[5] for told in shop.accounts.told] == [code]


def test_closing_down_lets_an_answer_end() -> None:
    """Idle connections go at once, busy ones after their answer."""
    shop = Shop()
    idle, busy = Line(shop.listener), Line(shop.listener)
    shop.hub.hang("head")
    busy.send(request("GET", manifest()))
    assert shop.listener.busy
    shop.listener.close_idle()
    assert idle.closed and not busy.closed
    shop.hub.hanging[0].answer()
    assert busy.answers("GET")[0].body == IMAGE
    assert busy.closed and not shop.listener.busy


@pytest.mark.parametrize("repeat", [1, 3])
def test_a_client_behind_a_load_balancer_is_known_by_its_own_address(repeat: int) -> None:
    """What the PROXY protocol says comes after the connection is made, and counts for each lane."""
    shop = Shop()
    wrapped = HAProxyWrappingFactory(shop.listener.site).buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
    transport = StringTransport(lenient=True)
    wrapped.makeConnection(transport)
    wrapped.dataReceived(b"PROXY TCP4 203.0.113.7 192.0.2.1 4000 5000\r\n")
    for _ in range(repeat):
        wrapped.dataReceived(request("GET", manifest()))
    assert transport.value().count(b"HTTP/1.1 200 OK") == repeat
    assert [told[0] for told in shop.accounts.told] == ["203.0.113.7"] * repeat


def test_a_client_leaves_with_requests_behind_a_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one begins when the first ends, and ends with the connection: no error, and no file stays open."""
    monkeypatch.setattr(body, "CHUNK", 1000)
    shop = Shop()
    shop.get(blob(LARGE))
    opened: list[IBlobReader] = []
    monkeypatch.setattr(shop.cache.store, "open", lambda digest, give=shop.cache.store.open: watched(give(digest)))

    def watched(reader: IBlobReader) -> IBlobReader:
        opened.append(reader)
        return reader

    transport, write = shop.line.transport, shop.line.transport.write

    def fill(data: bytes) -> None:
        write(data)
        transport.producer.pauseProducing()

    monkeypatch.setattr(transport, "write", fill)
    shop.line.send(request("GET", blob(LARGE)) * 3)
    assert len(opened) == 1
    shop.line.lose()
    assert len(opened) == 2
    assert [failing(reader.read(0, 1)).errno for reader in opened] == [errno.EBADF] * 2
