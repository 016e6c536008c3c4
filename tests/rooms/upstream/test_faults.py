"""What a broken connection is called."""

from __future__ import annotations

import pytest
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from appliance.errors import UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from appliance.upstream.faults import cleaned, connection_fault, reported, was_cancelled

UNTRUSTED = SSL.Error([("SSL routines", "", "certificate verify failed")])


def wrapped(reason: Exception) -> Exception:
    """As C{twisted.web} wraps what happened to a connection."""
    return ResponseNeverReceived([Failure(ResponseNeverReceived([Failure(reason)]))])


@pytest.mark.parametrize(
    ("reason", "expected", "words"),
    [
        (UNTRUSTED, UpstreamUnavailable, "the server's certificate is not trusted (certificate verify failed)"),
        (VerificationError(errors=[]), UpstreamUnavailable, "the server's certificate is for another name"),
        (SSL.Error([("SSL routines", "", "wrong version number")]), UpstreamUnavailable, "TLS failed (wrong version"),
        (SSL.Error(), UpstreamUnavailable, "TLS failed (no reason given)"),
        (error.DNSLookupError("x"), UpstreamUnavailable, "the host's name cannot be resolved"),
        (error.ConnectionRefusedError(), UpstreamUnavailable, "cannot connect: Connection was refused"),
        (error.NoRouteError(), UpstreamUnavailable, "cannot connect: No route to host"),
        (error.TimeoutError(), UpstreamTimeout, "no connection within the time limit"),
        (error.ConnectionLost(), UpstreamUnavailable, "the server closed the connection"),
        (error.ConnectionDone(), UpstreamUnavailable, "the server closed the connection"),
        (KeyError(b"secret"), UpstreamUnavailable, "the answer cannot be read (KeyError)"),
    ],
)
def test_trouble_of_a_connection_is_said_in_words(
    reason: Exception, expected: type[UpstreamUnavailable], words: str
) -> None:
    """An operator reads "certificate", not a list of tuples; a fault keeps its name however deep it was wrapped."""
    for each in (reason, wrapped(reason)):
        fault = connection_fault("up.example", "GET https://a/b", each)
        assert type(fault) is expected
        assert str(fault).startswith("up.example: GET https://a/b: ")
        assert words in str(fault)
        assert "secret" not in str(fault)


def test_our_own_refusals_come_through_as_they_are() -> None:
    """The endpoint's UpstreamRefused is not turned into a fault of the line."""
    refused = UpstreamRefused("up.example", "no")
    assert connection_fault("up.example", "GET https://a/b", refused) is refused


@pytest.mark.parametrize("reason", [CancelledError(), error.ConnectingCancelledError(None)])
def test_a_cancellation_is_known_at_any_depth(reason: Exception) -> None:
    """Whatever stage the request was in."""
    assert was_cancelled(reason)
    assert was_cancelled(wrapped(reason))
    assert not was_cancelled(wrapped(error.ConnectionLost()))


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"errors":[{"code":"DENIED","message":"no","detail":{"a":[1]}}]}', "DENIED", "DENIED: no"),
        (b'{"errors":[{"code":"DENIED"}]}', "DENIED", "DENIED"),
        (b'{"errors":[{"message":"no"}]}', "", "no"),
        (b'{"errors":[{"code":7,"message":null}]}', "", ""),
        (b'{"details":"incorrect username or password"}', "", "incorrect username or password"),
        (b'{"errors":[]}', "", ""),
        (b'{"errors":null,"message":"x"}', "", "x"),
        (b"<html>", "", ""),
        (b"", "", ""),
        (b"[" * 60_000, "", ""),
        (b'{"errors":[{"code":"DENIED"', "", ""),
    ],
)
def test_an_error_body_is_read_as_far_as_it_is_one(body: bytes, code: str, message: str) -> None:
    """OCI errors, and what token servers say instead; anything else says nothing."""
    assert reported(body) == (code, message)


def test_a_foreign_text_cannot_forge_a_line() -> None:
    """Neither in a log nor in a header nor on a terminal."""
    text = cleaned("a\r\nb\x00c\x1b[2Jd\x85e\u2028f\u202eg" + "x" * 10_000)
    assert text.isprintable()
    assert text.startswith("a b c [2Jd e f g")
    assert len(text) == 300
