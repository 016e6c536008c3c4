"""What a client reads: whole, by HEAD, only when changed."""

from __future__ import annotations

import pytest

from appliance import errors
from appliance.oci.digest import Digest
from tests.doubles.manifests import CONFIG
from tests.wire.held import IMAGE_DIGEST, LAYER_DIGEST, warm
from tests.wire.line import HUB, IMAGE, INDEX, LARGE, LAYER, Shop, blob, manifest, names_of

PATHS = [
    "/v2",
    "/v2/",
    manifest(),
    manifest(IMAGE_DIGEST),
    manifest("multi"),
    manifest("absent"),
    manifest("-bad"),
    blob(LAYER),
    blob(LARGE),
    blob(CONFIG),
    blob(b""),
    blob(b"absent"),
    "/v2/app/tags/list",
    "/v2/app/tags/list?n=2",
    "/v2/app/tags/list?n=x",
    "/v2/absent/tags/list",
    f"/v2/app/referrers/{LAYER_DIGEST}",
    f"/v2/app/referrers/{LAYER_DIGEST}?artifactType=a&n=1",
    f"/v2/absent/referrers/{LAYER_DIGEST}",
    "/v2/app/referrers/nope",
    "/v2/none.test/a/tags/list",
    "/nowhere",
    "/v2/app/manifests/a%2fb",
]
CONDITIONS: list[list[tuple[str, str]]] = [
    [],
    [("If-None-Match", f'"{LAYER_DIGEST}"')],
    [("If-None-Match", f'"{IMAGE_DIGEST}"')],
    [("Connection", "close")],
    [("Accept", "text/html"), ("Accept", "x/y"), ("Accept-Encoding", "gzip")],
]


@pytest.mark.parametrize("fields", CONDITIONS, ids=range(len(CONDITIONS)))
@pytest.mark.parametrize("path", PATHS)
def test_head_says_what_get_would(path: str, fields: list[tuple[str, str]]) -> None:
    """Status and every header the same, and no body; what is cold is asked for alike, and what is missing each time."""
    shop = warm(missing_for=0.0)
    got, head = shop.ask("GET", path, fields), shop.ask("HEAD", path, fields)
    assert (head.status, head.body) == (got.status, b"")
    ours = [[field for field in each.fields if field[0] != "Date"] for each in (got, head)]
    assert ours[0] == ours[1]
    if got.status == 200:
        assert got["Content-Length"] == str(len(got.body))
    assert got["Content-Encoding"] is None


def test_a_manifest_comes_as_it_was_sent() -> None:
    """Bytes, type, digest, length."""
    for shop in (Shop(), warm()):
        answer = shop.get(manifest())
        assert answer.body == IMAGE
        assert answer["Content-Type"] == "application/vnd.oci.image.manifest.v1+json"
        assert answer["Docker-Content-Digest"] == IMAGE_DIGEST and answer["ETag"] == f'"{IMAGE_DIGEST}"'
        assert shop.get(manifest("multi")).body == INDEX


def test_a_blob_comes_as_it_was_sent() -> None:
    """Cold and warm; its headers are ours, none of the upstream's."""
    shop = Shop()
    shop.get(manifest())
    for status in ("pullcache; fwd=uri-miss; stored", "pullcache; hit"):
        answer = shop.get(blob(LARGE))
        assert answer.body == LARGE and answer["Cache-Status"] == status
        assert answer["Content-Type"] == "application/octet-stream" and answer["Accept-Ranges"] == "bytes"
        assert answer["Docker-Content-Digest"] == str(Digest.of(LARGE))
        assert names_of(answer.fields) <= {
            "Server",
            "Date",
            "Cache-Status",
            "Content-Type",
            "Content-Length",
            "Docker-Distribution-Api-Version",
            "X-Content-Type-Options",
            "Content-Security-Policy",
            "Content-Disposition",
            "Docker-Content-Digest",
            "ETag",
            "Accept-Ranges",
            "Cache-Control",
        }


@pytest.mark.parametrize("name", ["If-None-Match", "Range", "If-Range", "User-Agent", "X-Any"])
def test_bytes_outside_ascii_in_a_field_are_no_mistake_of_ours(name: str) -> None:
    """Opaque, and like no value we know: the answer is the whole."""
    shop = Shop()
    for path in (manifest(), blob(LAYER)):
        assert shop.get(path, (name, "\xff\xfe")).status == 200


@pytest.mark.parametrize("path", [manifest("absent"), blob(b"absent"), "/v2/absent/tags/list"])
def test_a_404_says_where_it_came_from(path: str) -> None:
    """First from the upstream, then from memory; GET and HEAD alike, and counted like answers that are served."""
    shop = Shop()
    assert shop.get(path)["Cache-Status"] == "pullcache; fwd=uri-miss; fwd-status=404"
    asked = shop.calls()
    got, head = shop.get(path), shop.ask("HEAD", path)
    assert got["Cache-Status"] == head["Cache-Status"] == "pullcache; hit; detail=missing"
    assert (got.status, head.status, shop.calls()) == (404, 404, asked)
    assert [told[-1] for told in shop.accounts.told] == ["miss", "hit", "hit"]
    shop.clock.advance(30.0)
    assert shop.get(path)["Cache-Status"] == "pullcache; fwd=uri-miss; fwd-status=404"


TROUBLE = [
    (errors.UpstreamDenied(HUB, "no"), 404, "pullcache; fwd=uri-miss; detail=denied"),
    (errors.UpstreamRateLimited(HUB, "no", 5.0), 429, "pullcache; fwd=uri-miss; detail=rate_limited"),
    (errors.UpstreamUnavailable(HUB, "no"), 502, "pullcache; fwd=uri-miss; detail=unavailable"),
    (errors.UpstreamTimeout(HUB, "no"), 504, "pullcache; fwd=uri-miss; detail=unavailable"),
]


@pytest.mark.parametrize("path", [manifest(), manifest(IMAGE_DIGEST), blob(LAYER), "/v2/app/tags/list"])
@pytest.mark.parametrize(("error", "status", "told"), TROUBLE, ids=lambda each: type(each).__name__)
def test_an_upstreams_trouble_is_reported_each_time_and_never_remembered(
    error: errors.UpstreamError, status: int, told: str, path: str
) -> None:
    """Whatever is no 404 says nothing of what is there: the next client gets it as soon as the upstream gives it."""
    shop = Shop()
    shop.hub.fail(error)
    for method in ("GET", "HEAD", "GET"):
        answer = shop.ask(method, path)
        assert (answer.status, answer["Cache-Status"]) == (status, told)
    shop.hub.heal()
    assert shop.get(path).status == 200


@pytest.mark.parametrize("path", [manifest("absent"), manifest(IMAGE_DIGEST), blob(LAYER), "/v2/app/tags/list"])
def test_what_is_not_held_offline_says_so(path: str) -> None:
    """404, by GET and HEAD, with the reason in Cache-Status."""
    for method in ("GET", "HEAD"):
        answer = Shop(offline=True).ask(method, path)
        assert (answer.status, answer["Cache-Status"]) == (404, "pullcache; detail=offline")


# -- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [manifest(), manifest(IMAGE_DIGEST), blob(LAYER)])
@pytest.mark.parametrize(
    ("form", "unchanged"),
    [
        ('"{}"', True),
        ("{}", True),
        ('W/"{}"', True),
        ('"other", "{}"', True),
        ("*", True),
        ('"other",W/"{}" ', True),
        ('"other"', False),
        ("", False),
        ('"{}x"', False),
    ],
)
def test_what_the_client_has_is_not_sent_again(path: str, form: str, unchanged: bool) -> None:
    """304 with the entity tag and no body, for every way of writing it."""
    digest = LAYER_DIGEST if path == blob(LAYER) else IMAGE_DIGEST
    shop = warm()
    for method in ("GET", "HEAD"):
        answer = shop.ask(method, path, [("If-None-Match", form.format(digest))])
        assert answer.status == (304 if unchanged else 200)
        assert answer["ETag"] == f'"{digest}"'
        if unchanged:
            assert answer.body == b"" and answer["Content-Type"] is None
