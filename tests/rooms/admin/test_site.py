"""The admin endpoint as bytes on a connection: what is read of a request, and what every response carries."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from appliance.admin.exports import ORDER_LIMIT
from appliance.bundle.export import SIGNATURE_ROOM
from tests.doubles.appliance import Appliance

HOST = b"Host: 127.0.0.1:5001\r\n"
JSON = b"Content-Type: application/json\r\n"
ORDER = b"POST /api/v1/exports HTTP/1.1\r\n" + HOST + JSON


class Connection:
    """One connection of an operator."""

    def __init__(self, site: Appliance | None = None) -> None:
        self.site = site or Appliance()
        self.channel: Any = self.site.app.site().buildProtocol(None)  # type: ignore[arg-type]
        self.transport = StringTransport(hostAddress=IPv4Address("TCP", "192.168.1.1", 5001))
        self.channel.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> Connection:
        for piece in pieces:
            self.channel.dataReceived(piece)
        return self

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, fields with names in lower case, and the document, of the one response that came."""
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        self.transport.clear()
        first, *lines = head.decode("ascii").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(fields) == len(lines), lines
        return int(first.split(" ")[1]), fields, json.loads(body) if body else None

    def lose(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))


def said(*pieces: bytes) -> tuple[int, Any]:
    """Status and document of the answer to what is sent in these pieces."""
    connection = Connection().send(*pieces)
    code, _, document = connection.answer()
    connection.lose()
    return code, document


# -- bodies ---------------------------------------------------------------------------------------------------------


def chunked(body: bytes) -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def sized(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("framed", [sized, chunked])
def test_a_body_is_read_on_the_route_that_takes_one(framed: Any) -> None:
    """However it is sent; here it says nothing of use."""
    assert said(ORDER + framed(b'{"title": "x"}'))[1]["error"]["code"] == "bundle"


SIGNATURE = b"PUT /api/v1/exports/x/signature HTTP/1.1\r\nContent-Type: text/plain\r\n" + HOST


@pytest.mark.parametrize("framed", [sized, chunked])
def test_a_body_is_read_up_to_the_limit_of_its_route(framed: Any) -> None:
    """One byte more is refused as soon as it is known, announced or not."""
    assert said(SIGNATURE + framed(b"x" * SIGNATURE_ROOM))[0] == 404
    code, document = said(SIGNATURE + framed(b"x" * (SIGNATURE_ROOM + 1)))
    assert (code, document["error"]["code"]) == (413, "too-large")
    assert str(SIGNATURE_ROOM) in document["error"]["message"]


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
@pytest.mark.parametrize("length", [b"Content-Length: 1\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        (b"GET /api/v1/status", 413, "too-large"),
        (b"GET /healthz?x=1", 413, "too-large"),
        (b"HEAD /api/v1/wants", 413, None),
        (b"POST /healthz", 405, "method-not-allowed"),
        (b"POST /nothing", 404, "not-found"),
        (b"PUT /%ff", 400, "bad-request"),
    ],
)
def test_no_body_is_read_where_no_route_takes_one(
    line: bytes, code: int, word: str | None, length: bytes, expect: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before it comes, no client is asked to go on sending, and nothing of it is kept."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: pytest.fail("spooled to disk"))
    connection = Connection().send(line + b" HTTP/1.1\r\n" + HOST + expect + length)
    status, fields, document = connection.answer()
    assert (status, fields["connection"]) == (code, "close")
    assert (document and document["error"]["code"]) == word
    connection.send(*[b"x" * 100_000] * 10)
    assert connection.transport.value() == b"" and connection.transport.disconnecting


def test_an_order_that_is_announced_too_long_is_refused_before_it_comes() -> None:
    """An inventory of half a million blobs has room; what is longer is no inventory."""
    connection = Connection().send(ORDER + b"Content-Length: %d\r\n\r\n" % (ORDER_LIMIT + 1))
    assert connection.answer()[0] == 413


def test_a_form_is_not_taken_apart() -> None:
    """Parsing one costs what its sender likes; it is refused for being no JSON."""
    form = ORDER.replace(b"json", b"x-www-form-urlencoded") + sized(b"all=1")
    assert said(form)[1]["error"]["code"] == "unsupported-media-type"


# -- responses ------------------------------------------------------------------------------------------------------


REQUESTS = {
    "alive": b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "ready": b"HEAD /readyz HTTP/1.1\r\n" + HOST + b"\r\n",
    "described": b"GET /api/v1/openapi.json HTTP/1.1\r\n" + HOST + b"\r\n",
    "status": b"GET /api/v1/status HTTP/1.1\r\n" + HOST + b"\r\n",
    "unknown": b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n",
    "method": b"DELETE /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "body": b"GET /healthz HTTP/1.1\r\n" + HOST + sized(b"x"),
    "garbage": b"NONSENSE\r\n\r\n",
    "elsewhere": b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "page": b"GET /healthz HTTP/1.1\r\nOrigin: null\r\n" + HOST + b"\r\n",
    "stream": b"POST /api/v1/imports HTTP/1.1\r\n" + HOST + JSON + sized(b'{"files": ["/nowhere/x.tar"]}'),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_response_forbids_a_browser_to_make_anything_of_it(name: str) -> None:
    """Whatever stands in a name, a page of it runs nothing and loads nothing; and it is ours by name."""
    connection = Connection().send(REQUESTS[name])
    head = connection.transport.value().partition(b"\r\n\r\n")[0].decode("ascii")
    assert head.count("\r\nContent-Security-Policy: default-src 'none'; sandbox") == 1, head
    assert head.count("\r\nX-Content-Type-Options: nosniff") == 1
    assert head.count("\r\nServer: pullcache/") == 1 and "Twisted" not in head
    connection.lose()


def test_metrics_carry_it_too() -> None:
    """Text as Prometheus has it, and nothing else."""
    connection = Connection().send(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"\r\nContent-Security-Policy: default-src 'none'; sandbox\r\n" in connection.transport.value()


def test_a_tls_handshake_is_closed_at_once() -> None:
    """A client that takes the port for HTTPS need not wait."""
    connection = Connection().send(bytes.fromhex("1603010200010001fc0303") + bytes(200))
    assert connection.transport.disconnected and connection.transport.value() == b""


def test_a_request_that_never_ends_is_cut_off() -> None:
    """A byte now and then holds no connection for ever."""
    connection = Connection()
    for _ in range(30):
        connection.send(b"G")
        connection.site.clock.advance(20.0)
    assert connection.transport.disconnected


# -- browsers -------------------------------------------------------------------------------------------------------


ROUTES = [b"GET /healthz", b"GET /metrics", b"GET /api/v1/status", b"POST /api/v1/imports", b"GET /nothing"]


def refused(code: int, word: str, *fields: bytes) -> None:
    """No route is reached with these fields, and nothing happens."""
    for line in ROUTES:
        connection = Connection().send(line + b" HTTP/1.1\r\n" + b"".join(each + b"\r\n" for each in fields) + b"\r\n")
        status, _, document = connection.answer()
        assert (status, document["error"]["code"]) == (code, word), document
        connection.lose()


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:5001", b"10.1.1.1", b"localhost.evil.example"])
def test_a_name_that_is_not_ours_is_refused(host: bytes) -> None:
    """A page whose own name was made to mean 127.0.0.1 neither reads nor orders anything (DNS rebinding)."""
    refused(421, "host-unknown", b"Host: " + host)
    head, _, body = (
        Connection().send(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").transport.value().partition(b"\r\n\r\n")
    )
    assert b"421 Misdirected Request" in head and b"admin: hosts" in body


def test_a_request_without_a_host_is_refused() -> None:
    """A browser always says whom it means; so does every client of HTTP/1.1. Two of them are none."""
    refused(421, "host-unknown")
    refused(400, "bad-request", b"Host: 127.0.0.1", b"Host: 127.0.0.1")
    for bad in (b"a..b", b"a b", b"\xff", b"x:y"):
        refused(400, "bad-request", b"Host: " + bad)


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:5001", b"127.0.0.1", b"127.0.0.2:1", b"[::1]:5001", b"192.168.1.1", b"a.example"]
)
def test_our_own_names_are_answered_to(host: bytes) -> None:
    """Loopback, the address that was connected to, and what the configuration names."""
    connection = Connection(Appliance(admin_hosts=("a.example",)))
    connection.send(b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    "field",
    [b"Origin: http://evil.example", b"Origin: null", b"Origin: http://127.0.0.1:3000", b"Sec-Fetch-Site: cross-site"]
    + [b"Sec-Fetch-Site: same-site", b"Referer: http://evil.example/"],
)
def test_a_page_of_another_site_is_refused(field: bytes) -> None:
    """Also one that needs no permission to send: a picture, a link, a form, a simple fetch."""
    refused(403, "foreign-page", b"Host: 127.0.0.1:5001", field)


def test_a_page_of_our_own_is_not() -> None:
    """What is opened by hand, and what the endpoint's own pages will ask for."""
    for fields in (b"Sec-Fetch-Site: none", b"Origin: http://127.0.0.1:5001\r\nSec-Fetch-Site: same-origin"):
        connection = Connection().send(b"GET /healthz HTTP/1.1\r\n" + HOST + fields + b"\r\n\r\n")
        assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"GET /%ff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /api/v1/images/%ff%fe HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /api/v1/imports/%c3%28 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /api/v1/images?pattern=%ff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /api/v1/images?%ff=x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /api/v1/imports HTTP/1.1\r\n" + HOST + JSON + sized(b'{"files": ["/\xff.tar"]}'),
        b"POST /api/v1/imports HTTP/1.1\r\n" + HOST + JSON + sized(b'{"\xff": 1}'),
        b"POST /api/v1/imports HTTP/1.1\r\n" + HOST + JSON + sized(b'{"files": ["/\\ud800.tar"]}'),
        b"POST /api/v1/exports HTTP/1.1\r\n" + HOST + JSON + sized(b'{"refs": ["\xff"]}'),
        b"PUT /api/v1/exports/x%ff/signature HTTP/1.1\r\nContent-Type: text/plain\r\n" + HOST + sized(b"x"),
    ],
)
def test_bytes_that_are_no_utf8_are_a_bad_request(data: bytes) -> None:
    """In a path, a query or a body: 400 as JSON, and no traceback in the log."""
    connection = Connection().send(data)
    code, fields, document = connection.answer()
    assert (code, document["error"]["code"], fields["content-type"]) == (400, "bad-request", "application/json")
    connection.lose()


def test_nothing_with_an_effect_is_a_get() -> None:
    """A link, a picture or a prefetching browser changes nothing: what changes something has a body or another verb."""
    reading = {route.path for route in Connection().site.app.routes if route.method == "GET"}
    assert all(route.takes is None for route in Connection().site.app.routes if route.method == "GET")
    assert reading == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/openapi.json",
        "/api/v1/access",
        "/api/v1/audit",
        "/login",
        "/api/v1/session",
        "/api/v1/status",
        "/api/v1/images",
        "/api/v1/images/<path:reference>",
        "/api/v1/inventory",
        "/api/v1/wants",
        "/api/v1/exports",
        "/api/v1/exports/<export>",
        "/api/v1/exports/<export>/document",
        "/api/v1/exports/<export>/volumes/<n>",
        "/api/v1/imports",
        "/api/v1/imports/<receipt>",
    }
