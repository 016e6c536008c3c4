"""What a browser may make of the registry's responses: nothing."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from tests.wire.line import IMAGE, LARGE, LAYER, Answer, Fields, Line, Shop, blob, manifest, request

POLICY = "default-src 'none'; sandbox"
SUBJECT = f"/v2/app/referrers/{Digest.of(IMAGE)}"

#: What came from an upstream, each with a status that a browser may show.
FOREIGN: list[tuple[str, Fields, int]] = [
    (manifest(), (), 200),
    (manifest(Digest.of(IMAGE)), (), 200),
    (blob(LAYER), (), 200),
    (blob(LARGE), (), 200),
    (blob(LAYER), [("Range", "bytes=0-9")], 206),
    (blob(LAYER), [("Range", "bytes=0-9,20-29")], 206),
    ("/v2/app/tags/list", (), 200),
    (SUBJECT, (), 200),
]

#: What we say ourselves.
OWN: list[tuple[str, Fields, int]] = [
    ("/v2/", (), 200),
    (manifest("absent"), (), 404),
    (manifest("-bad"), (), 400),
    ("/v2/none.test/a/manifests/b", (), 404),
    (blob(LAYER), [("Range", "bytes=99999999-")], 416),
    ("/nothing", (), 404),
]


def protected(answer: Answer) -> bool:
    return answer["Content-Security-Policy"] == POLICY and answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("path", "fields", "status"), FOREIGN + OWN)
def test_every_response_forbids_a_browser_to_make_anything_of_it(
    method: str, path: str, fields: Fields, status: int
) -> None:
    """Nothing an image holds is run or loaded in the cache's origin; what an upstream sent is saved, not shown."""
    answer = Shop().ask(method, path, fields)
    assert protected(answer), answer.raw[:400]
    # HEAD has no ranges (RFC 9110 section 14.2).
    assert answer.status == (status if method == "GET" or status in (200, 400, 404) else 200)
    from_outside = answer.status < 400 and path != "/v2/"
    assert answer["Content-Disposition"] == ("attachment" if from_outside else None)


def test_what_is_not_modified_is_protected_as_well() -> None:
    """A browser takes the fields of a 304 over to what it has stored."""
    shop = Shop()
    for path in (manifest(), blob(LAYER)):
        etag = shop.get(path)["ETag"]
        assert etag is not None
        answer = shop.get(path, ("If-None-Match", etag))
        assert answer.status == 304 and protected(answer) and answer["Content-Disposition"] == "attachment"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "OPTIONS", "TRACE"])
def test_refused_methods_are_protected_as_well(method: str) -> None:
    """With a body or without, and asked of the server as a whole."""
    assert protected(Shop().ask(method, manifest()))
    line = Line(Shop().listener).send(request(method, manifest(), [("Content-Length", "99999999")]))
    assert protected(line.answers(method)[0])
    answer = Shop().ask(method, "*")
    assert protected(answer) and answer.status == 405


@pytest.mark.parametrize("data", [b"NONSENSE\r\n\r\n", b"GET /v2/ HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http_gets_a_protected_answer(data: bytes) -> None:
    """The channel's own refusals bypass all routes."""
    assert protected(Line(Shop().listener).send(data).answers("GET")[0])


def test_an_error_is_no_attachment(monkeypatch: pytest.MonkeyPatch, logged_errors: list[dict[str, Any]]) -> None:
    """Whoever looks at an address with a browser reads why; also where a blob was promised a moment before."""
    shop = Shop()
    shop.get(blob(LAYER)), shop.listener.forget_answers()
    monkeypatch.setattr("appliance.registry.blobs.os.pread", lambda *_: b"")
    shop.ghcr.fail(UpstreamUnavailable("ghcr.io", "down"))
    for path in (blob(LAYER), blob(LAYER, "ghcr.io/team/app")):
        answer = shop.get(path)
        assert answer.status >= 500 and protected(answer) and answer["Content-Disposition"] is None
    assert len(logged_errors) == 1
    logged_errors.clear()
