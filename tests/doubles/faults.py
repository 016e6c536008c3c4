"""
What an upstream can do wrong, each as a small change of one answer.

A fault takes an L{Answer} and returns it changed; several given together are applied in order.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace

from tests.doubles.answers import Answer

Fault = Callable[[Answer], Answer]

HTML = "<html><body><h1>Something went wrong</h1></body></html>"


# -- answers that never come, come late, or break off ---------------------------------------------------------------


def never() -> Fault:
    """Take the request and never answer."""
    return lambda answer: replace(answer, never=True)


def late(seconds: float) -> Fault:
    """Answer after C{seconds}."""
    return lambda answer: replace(answer, delay=seconds)


def trickle(rate: float) -> Fault:
    """Send the body at C{rate} bytes per second."""
    return lambda answer: replace(answer, rate=rate)


def stall(after: int) -> Fault:
    """Fall silent after C{after} bytes of the body, the connection open."""
    return lambda answer: replace(answer, stall=after)


def cut(after: int, polite: bool = False) -> Fault:
    """Break the line after C{after} bytes of the body: a reset, or C{polite}ly a FIN."""
    return lambda answer: replace(answer, cut=after, polite=polite)


def endless() -> Fault:
    """Repeat the body for ever, without a length."""
    return lambda answer: replace(answer, length=None, endless=True)


# -- how the end of the body is shown -------------------------------------------------------------------------------


def no_length(framing: str = "chunked") -> Fault:
    """Leave out Content-Length; C{framing} is C{"chunked"} or C{"close"} (RFC 9112 section 6.3)."""
    return lambda answer: replace(answer, length=None, framing=framing)


def chunked_truncated(after: int) -> Fault:
    """A chunked body whose last chunk never comes."""
    return lambda answer: replace(answer, length=None, framing="chunked", cut=after, polite=True)


def short_length(by: int = 1) -> Fault:
    """Claim C{by} bytes less than are sent."""
    return lambda answer: replace(answer, length=max(0, len(answer.body) - by))


# -- status codes ---------------------------------------------------------------------------------------------------


def status(code: int, body: str = "", content_type: str = "text/plain", **headers: str) -> Fault:
    """Answer C{code}; an underscore in a header's name stands for a hyphen, as in C{Retry_After="2"}."""
    data = body.encode()
    named = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda answer: Answer(code, dict(named), data, len(data), data)


def oci_error(code: int, name: str, message: str = "simulated", **headers: str) -> Fault:
    """Answer C{code} with an error document of the distribution specification."""
    body = json.dumps({"errors": [{"code": name, "message": message}]})
    return status(code, body, "application/json", **headers)


def html(code: int = 200) -> Fault:
    """Answer with a web page where JSON is due."""
    return status(code, HTML, "text/html")


def redirect(location: str, code: int = 307) -> Fault:
    """Lead elsewhere; C{location} goes out verbatim. A location that leads back here is a loop."""
    return status(code, Location=location)


# -- headers --------------------------------------------------------------------------------------------------------


def header(name: str, value: str) -> Fault:
    """Set a header: rate limits, a Link to another host, a wrong Docker-Content-Digest."""
    return lambda answer: replace(answer, headers={**answer.headers, name: value})


def without(name: str) -> Fault:
    """Leave a header out."""
    return lambda answer: replace(answer, headers={k: v for k, v in answer.headers.items() if k != name})


def wrong_digest_header() -> Fault:
    """Claim another digest in Docker-Content-Digest."""
    return header("Docker-Content-Digest", "sha256:" + "0" * 64)


def rate_limit(limit: int, remaining: int, window: int = 21600) -> Fault:
    """Docker Hub's counters; C{window} in seconds."""

    def changed(answer: Answer) -> Answer:
        counters = {"ratelimit-limit": f"{limit};w={window}", "ratelimit-remaining": f"{remaining};w={window}"}
        return replace(answer, headers={**answer.headers, **counters})

    return changed


# -- bodies ---------------------------------------------------------------------------------------------------------


def gzipped() -> Fault:
    """Send the body gzip encoded, whatever the request accepts."""

    def changed(answer: Answer) -> Answer:
        data = gzip.compress(answer.body, 1, mtime=0)
        return replace(answer, body=data, length=len(data), headers={**answer.headers, "Content-Encoding": "gzip"})

    return changed


def flipped(offset: int = 0) -> Fault:
    """Flip every bit of the byte at C{offset} of the whole; ranges that leave it out stay right."""

    def changed(answer: Answer) -> Answer:
        at = offset - answer.start
        if not 0 <= at < len(answer.body):
            return answer
        body = answer.body[:at] + bytes([answer.body[at] ^ 0xFF]) + answer.body[at + 1 :]
        return replace(answer, body=body)

    return changed


def shortened(by: int) -> Fault:
    """Send a body that is C{by} bytes short, and claim that length."""

    def changed(answer: Answer) -> Answer:
        body = answer.body[: max(0, len(answer.body) - by)]
        return replace(answer, body=body, length=len(body))

    return changed


def body(text: str, content_type: str = "application/json") -> Fault:
    """Send C{text} in place of the body, status and other headers kept."""

    def changed(answer: Answer) -> Answer:
        data = text.encode()
        headers = {**answer.headers, "Content-Type": content_type}
        return replace(answer, body=data, length=len(data), headers=headers)

    return changed


def range_ignored() -> Fault:
    """Answer a range request with 200 and everything (RFC 9110 section 14.2 allows it)."""

    def changed(answer: Answer) -> Answer:
        if answer.status != 206:
            return answer
        headers = {name: value for name, value in answer.headers.items() if name != "Content-Range"}
        return replace(answer, status=200, headers=headers, body=answer.whole, length=len(answer.whole), start=0)

    return changed


BY_NAME: dict[str, Callable[..., Fault]] = {
    made.__name__: made
    for made in (
        never, late, trickle, stall, cut, endless, no_length, chunked_truncated, short_length, status, oci_error, html,
        redirect, header, without, wrong_digest_header, rate_limit, gzipped, flipped, shortened, body, range_ignored,
    )
}  # fmt: skip
"""Every fault by its name, for those who ask from another process."""
