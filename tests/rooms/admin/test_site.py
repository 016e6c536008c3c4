"""The admin endpoint as bytes on a connection: bodies in memory, up to a limit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from appliance.admin import site as module
from tests.doubles.appliance import Appliance


def said(*pieces: bytes) -> tuple[int, Any]:
    """Status and document of the answer to what is sent in these pieces."""
    connection = Appliance().app.site().buildProtocol(None)  # type: ignore[arg-type]
    transport = StringTransport()
    connection.makeConnection(transport)
    for piece in pieces:
        connection.dataReceived(piece)
    head, _, body = transport.value().partition(b"\r\n\r\n")
    connection.connectionLost(Failure(ConnectionDone()))
    return int(head.split(b" ")[1]), json.loads(body)


HEAD = b"POST /api/v1/exports HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_LIMIT", 100)


def test_a_body_up_to_the_limit_is_read() -> None:
    """However it is sent; here it says nothing of use."""
    body = json.dumps({"title": "x" * 87}).encode()
    assert len(body) == 100
    assert said(HEAD + b"Content-Length: 100\r\n\r\n" + body)[1]["error"]["code"] == "bundle"
    assert said(HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\n" + body + b"\r\n0\r\n\r\n")[0] == 422


def test_a_body_beyond_the_limit_is_refused() -> None:
    """One byte more, announced or not."""
    body = json.dumps({"title": "x" * 88}).encode()
    chunked = [b"1\r\n%c\r\n" % each for each in body]
    for request in (
        [HEAD + b"Content-Length: 101\r\n\r\n", body[:50], body[50:]],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunked, b"0\r\n\r\n"],
    ):
        code, document = said(*request)
        assert (code, document["error"]["code"]) == (413, "too-large")


def test_what_is_beyond_the_limit_is_not_kept() -> None:
    """A client that sends without end fills no memory."""
    body = module.BoundedBody()
    for _ in range(1001):
        assert body.write(b"x" * 99) == 99
    assert body.overrun and body.getvalue() == b""


def test_a_form_is_not_taken_apart() -> None:
    """Parsing one costs what its sender likes; it is refused for being no JSON."""
    form = HEAD.replace(b"json", b"x-www-form-urlencoded") + b"Content-Length: 5\r\n\r\nall=1"
    assert said(form)[1]["error"]["code"] == "unsupported-media-type"


def test_the_server_is_named() -> None:
    """By its own name and version."""
    connection = Appliance().app.site().buildProtocol(None)  # type: ignore[arg-type]
    transport = StringTransport()
    connection.makeConnection(transport)
    connection.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.connectionLost(Failure(ConnectionDone()))
    assert b"\r\nServer: pullcache/" in transport.value() and b"Twisted" not in transport.value()
