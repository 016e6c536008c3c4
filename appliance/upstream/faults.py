"""
What went wrong, as one of C{appliance.errors}: with the connection, or by the status of an answer.

Answers are mapped by one table; what a message repeats of an answer is cleaned and cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import msgspec
from OpenSSL import SSL
from service_identity import VerificationError
from service_identity.exceptions import CertificateError
from twisted.internet import error
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.client import RequestGenerationFailed, RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers

from appliance.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)

#: The longest wait a Retry-After may ask for, in seconds.
MAX_RETRY_AFTER = 3600.0
#: Characters of an upstream's own message that are repeated.
_MAX_MESSAGE = 300
#: Characters of a secret by which it is recognised; one of fewer than the second is a word that any message may hold.
_TELLTALE = 16
_SHORTEST_SECRET = 6
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
_WRAPPERS = (ResponseFailed, RequestTransmissionFailed, RequestGenerationFailed)


class Reported(msgspec.Struct):
    """One entry of an error body (distribution spec, "Error Codes"); types are loose because servers are."""

    code: object = None
    message: object = None


class Report(msgspec.Struct):
    """An error body; token servers say C{details} or C{message} at the top instead (seen at Docker and Harbor)."""

    errors: list[Reported] | None = None
    details: object = None
    message: object = None


# -- the connection -------------------------------------------------------------------------------------------------


def reasons_of(reason: BaseException) -> Iterator[BaseException]:
    """The causes that Twisted wrapped up in C{reason}, itself included."""
    yield reason
    if isinstance(reason, _WRAPPERS):
        for inner in reason.reasons:
            if isinstance(inner, Failure) and inner.value is not None:
                yield from reasons_of(inner.value)


def was_cancelled(reason: BaseException) -> bool:
    """Whether a request ended because its Deferred was cancelled."""
    return any(isinstance(each, (CancelledError, error.ConnectingCancelledError)) for each in reasons_of(reason))


def connection_fault(upstream: str, what: str, reason: BaseException) -> UpstreamError:
    """
    The error for a request that got no whole answer.

    @param what: the request, for the message, as C{"GET https://host/path"}.
    """
    if isinstance(reason, UpstreamError):
        return reason
    causes = list(reasons_of(reason))
    if any(isinstance(each, (error.TimeoutError, error.TCPTimedOutError)) for each in causes):
        return UpstreamTimeout(upstream, f"{what}: no connection within the time limit")
    return UpstreamUnavailable(upstream, f"{what}: {_words(causes)}")


def _words(causes: list[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, SSL.Error):
            return _tls_words(cause)
        if isinstance(cause, (VerificationError, CertificateError)):
            return "the server's certificate is for another name"
    innermost = causes[-1]
    if isinstance(innermost, error.DNSLookupError):
        return "the host's name cannot be resolved"
    if isinstance(innermost, error.ConnectError):
        return f"cannot connect: {cleaned(str(innermost))}"
    if isinstance(innermost, (error.ConnectionDone, error.ConnectionLost)):
        return "the server closed the connection"
    return f"the answer cannot be read ({type(innermost).__name__})"


def _tls_words(cause: SSL.Error) -> str:
    texts = [str(part[-1]) for part in (cause.args[0] if cause.args else []) if part]
    text = cleaned(", ".join(texts)) or "no reason given"
    if "certificate" in text:
        return f"the server's certificate is not trusted ({text})"
    return f"TLS failed ({text})"


# -- the answer -----------------------------------------------------------------------------------------------------


def status_fault(upstream: str, what: str, status: int, headers: Headers, body: bytes) -> UpstreamError:
    """
    The error for a whole answer that is not what was requested.

    503 with a Retry-After asks for fewer requests as 429 does (RFC 9110 section 15.6.4).

    @param body: the answer's first bytes; an OCI error in it is named in the message.
    """
    code, message = reported(body)
    detail = f"{what} answered {status}" + (f": {message}" if message else "")
    if status in (404, 410):
        return UpstreamMissing(upstream, detail, repository_unknown=code == "NAME_UNKNOWN")
    if status in (401, 403):
        return UpstreamDenied(upstream, detail)
    wait = retry_after(headers)
    if status == 429 or (status == 503 and wait is not None):
        return UpstreamRateLimited(upstream, detail, wait)
    if status >= 500:
        return UpstreamUnavailable(upstream, detail)
    return UpstreamInvalid(upstream, detail)


def reported(body: bytes) -> tuple[str, str]:
    """Code and message of an error body, empty where it has none; cleaned."""
    try:
        report = msgspec.json.decode(body, type=Report)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return "", ""
    first = report.errors[0] if report.errors else Reported(message=report.details or report.message)
    code = first.code if isinstance(first.code, str) else ""
    message = first.message if isinstance(first.message, str) else ""
    return cleaned(code), cleaned(": ".join(filter(None, (code, message))))


def repeats_secret(body: bytes, *sent: bytes) -> bool:
    """Whether an error's body holds the beginning of something secret that was C{sent}: some servers repeat it."""
    # A slash may be escaped in JSON, and is by some.
    plain = body.replace(b"\\/", b"/")
    return any(len(each) >= _SHORTEST_SECRET and each[:_TELLTALE] in plain for each in sent)


def cleaned(text: str) -> str:
    """C{text} without control characters and of at most 300 characters, fit for a log line and a header."""
    return _CONTROL.sub(" ", text[: 4 * _MAX_MESSAGE]).strip()[:_MAX_MESSAGE]


def retry_after(headers: Headers) -> float | None:
    """
    Seconds a Retry-After asks to wait (RFC 9110 section 10.2.3), at most an hour; C{None} where it cannot be read.

    A date is compared with the answer's own Date, so that neither side's clock has to be right.
    """
    text = first_header(headers, b"Retry-After")
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER) if len(text) < 10 else MAX_RETRY_AFTER
    date = first_header(headers, b"Date")
    try:
        seconds = (parsedate_to_datetime(text) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def first_header(headers: Headers, name: bytes) -> str | None:
    """The first field of that name, C{None} when there is none."""
    values = headers.getRawHeaders(name)
    return values[0].decode("latin-1").strip() if values else None
