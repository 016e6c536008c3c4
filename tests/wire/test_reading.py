"""What a client reads: whole, by HEAD, in parts, only when changed, and how it is told of trouble."""

from __future__ import annotations

import email.policy
import json
import os
from email.parser import BytesParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import errors
from appliance.oci.digest import Digest
from tests.doubles.manifests import CONFIG
from tests.wire.line import HUB, IMAGE, INDEX, LARGE, LAYER, Answer, Line, Shop, blob, manifest, names_of, request

LAYER_DIGEST = str(Digest.of(LAYER))
IMAGE_DIGEST = str(Digest.of(IMAGE))


def warm(**more: object) -> Shop:
    """Everything is held."""
    shop = Shop(**more)  # type: ignore[arg-type]
    lists = ("/v2/app/tags/list", f"/v2/app/referrers/{LAYER_DIGEST}", f"/v2/absent/referrers/{LAYER_DIGEST}")
    for path in (manifest(), manifest("multi"), *lists):
        shop.get(path)
    for data in (LAYER, LARGE, CONFIG, b""):
        assert shop.get(blob(data)).body == data
    return shop


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
def test_an_upstreams_trouble_is_told_each_time_and_never_remembered(
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


# -- conditions -----------------------------------------------------------------------------------------------------


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


# -- ranges ---------------------------------------------------------------------------------------------------------

SIZE = len(LAYER)


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=500-1499", 500, 1500),
        ("bytes=500-", 500, SIZE),
        ("bytes=-500", SIZE - 500, SIZE),
        ("bytes=2000-500000", 2000, SIZE),
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes=100-{SIZE}", 100, SIZE),
        ("BYTES= 1-2 ", 1, 3),
        ("bytes=-999999", 0, SIZE),
    ],
)
def test_a_range_is_what_it_asks_for(header: str, start: int, stop: int, cold: bool) -> None:
    """206 with the exact range, from a blob that is held and from one that is only coming."""
    shop = Shop() if cold else warm()
    if cold:
        shop.get(manifest())
    answer = shop.get(blob(LAYER), ("Range", header))
    assert (answer.status, answer["Content-Range"]) == (206, f"bytes {start}-{stop - 1}/{SIZE}")
    assert answer.body == LAYER[start:stop]


@pytest.mark.parametrize("header", ["bytes=500-0", f"bytes={SIZE}-", "bytes=500000-600000", "bytes=-0"])
def test_a_range_outside_says_the_size(header: str) -> None:
    """416 as OCI JSON, with what there is."""
    answer = warm().get(blob(LAYER), ("Range", header))
    assert (answer.status, answer["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert answer.error["code"] == "RANGE_INVALID"
    assert answer["ETag"] is None and answer["Accept-Ranges"] is None and answer["Cache-Control"] is None


@pytest.mark.parametrize("header", ["items=0-1", "bytes=x", "bytes", "bytes=", "bytes=1-2;3-4", "bytes=--1"])
def test_a_range_that_is_none_is_ignored(header: str) -> None:
    """200 with the whole (RFC 9110 section 14.2)."""
    answer = warm().get(blob(LAYER), ("Range", header))
    assert (answer.status, answer.body) == (200, LAYER)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (f'"{LAYER_DIGEST}"', 206),
        ('"other"', 200),
        (f'W/"{LAYER_DIGEST}"', 200),
        (LAYER_DIGEST, 200),
        ("Sat, 21 Nov 2026 08:00:00 GMT", 200),
    ],
)
def test_a_range_under_a_condition(condition: str, status: int) -> None:
    """If-Range needs the strong entity tag; anything else gives the whole."""
    answer = warm().get(blob(LAYER), ("Range", "bytes=0-9"), ("If-Range", condition))
    assert answer.status == status


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part, as Python's own mail parser reads them."""
    head = f"Content-Type: {answer['Content-Type']}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.body)
    assert message.get_content_type() == "multipart/byteranges" and not message.defects
    parts = list(message.iter_parts())
    assert all(part.get_content_type() == "application/octet-stream" for part in parts)
    # The payload as it stood: the parser turns it into text with these escapes.
    return [(part["Content-Range"], str(part.get_payload()).encode("ascii", "surrogateescape")) for part in parts]


PLAIN = (b"0123456789abcdef" * 300)[:4097]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 60)), min_size=2, max_size=50))
def test_several_ranges_can_be_parsed_back(wanted: list[tuple[int, int]]) -> None:
    """As many parts as asked for, in that order, each with its bytes."""
    shop = Shop()
    shop.hub.add_blob("library/app", PLAIN)
    spans = [(start, min(start + length, len(PLAIN) - 1)) for start, length in wanted]
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)
    answer = shop.get(blob(PLAIN), ("Range", header))
    assert answer.status == 206
    assert parts_of(answer) == [
        (f"bytes {first}-{last}/{len(PLAIN)}", PLAIN[first : last + 1]) for first, last in spans
    ]


@pytest.mark.parametrize("count", [2, 200, 1024])
def test_as_many_ranges_as_podman_sends(count: int) -> None:
    """Up to 1024 in one header of 22 KB."""
    positions = [1_000_000 + number * 200 for number in range(count)]
    data = bytes(1_000_000) + b"y" * 300_000
    shop = Shop()
    shop.hub.add_blob("library/app", data)
    header = "bytes=" + ",".join(f"{first:010d}-{first + 9:09d}" for first in positions)
    answer = shop.get(blob(data), ("Range", header))
    assert answer.status == 206
    assert [body for _, body in parts_of(answer)] == [b"y" * 10] * count
    assert count < 1024 or len(header) > 20_000


def test_too_many_ranges_are_refused_so_that_podman_asks_for_fewer() -> None:
    """400, neither 416 nor a closed connection."""
    shop = warm()
    header = "bytes=" + ",".join(f"{number}-{number}" for number in range(1025))
    answer = shop.line.ask("GET", blob(LAYER), [("Range", header)])
    assert (answer.status, answer.error["code"]) == (400, "RANGE_INVALID")
    assert shop.line.ask("GET", "/v2/").status == 200


# -- lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("path", ["/v2/app/tags/list?", "/v2/team/app/tags/list?ns=ghcr.io&"])
def test_following_the_links_gives_the_whole_list(path: str, limit: int) -> None:
    """Each tag once, in order; the links are relative and keep the namespace."""
    shop = Shop()
    found: list[str] = []
    url = f"{path}n={limit}"
    for _ in range(10):
        answer = shop.get(url)
        page = json.loads(answer.body)["tags"]
        assert len(page) <= limit
        found += page
        link = answer["Link"]
        if link is None:
            break
        assert link.startswith("<") and link.endswith('>; rel="next"')
        target = link[1 : link.index(">")]
        assert "://" not in target and ("ns=ghcr.io" in target) == ("ns=" in path)
        url = path.partition("list")[0] + target
    assert found == ["latest", "multi", "v1", "v2"]


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("?n=0", []),
        ("?n=999999999999", ["latest", "multi", "v1", "v2"]),
        ("?last=multi", ["v1", "v2"]),
        ("?last=zzz", []),
        ("?last=n&n=1", ["v1"]),
        ("?n=0&last=multi", []),
    ],
)
def test_parts_of_a_list(query: str, tags: list[str]) -> None:
    """n=0 is an empty list without a link; last is exclusive, need not exist, and works alone."""
    answer = Shop().get("/v2/app/tags/list" + query)
    assert json.loads(answer.body) == {"name": "app", "tags": tags}
    if query == "?n=0":
        assert answer["Link"] is None


@pytest.mark.parametrize(
    "query", ["?n=-1", "?n=x", "?n=", "?n=1.5", "?n=1&n=2", "?last=a&last=b", "?n=%2B1", "?n=" + "9" * 40]
)
def test_a_wrong_page_is_refused(query: str) -> None:
    """400 as OCI JSON."""
    answer = Shop().get("/v2/app/tags/list" + query)
    assert (answer.status, answer.error["code"]) == (400, "PAGINATION_NUMBER_INVALID")


# -- trouble --------------------------------------------------------------------------------------------------------

SECRET = 'realm="https://evil.example/token" <b>\r\nSet-Cookie: a=b'
TROUBLE = [
    (errors.UpstreamMissing(HUB, "x"), 404, "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"),
    (errors.UpstreamMissing(HUB, "x", True), 404, "NAME_UNKNOWN", "NAME_UNKNOWN"),
    (errors.UpstreamDenied(HUB, SECRET), 404, "NAME_UNKNOWN", "NAME_UNKNOWN"),
    (errors.UpstreamRateLimited(HUB, "x", 7.2), 429, "TOOMANYREQUESTS", "TOOMANYREQUESTS"),
    (errors.UpstreamUnavailable(HUB, "x"), 502, "UNAVAILABLE", "UNAVAILABLE"),
    (errors.UpstreamTimeout(HUB, "x"), 504, "UNAVAILABLE", "UNAVAILABLE"),
    (errors.UpstreamInvalid(HUB, SECRET), 502, "UNAVAILABLE", "UNAVAILABLE"),
    (errors.UpstreamRefused(HUB, "x"), 502, "UNAVAILABLE", "UNAVAILABLE"),
]


@pytest.mark.parametrize(("error", "status", "manifests", "blobs"), TROUBLE, ids=lambda each: type(each).__name__)
def test_the_upstreams_trouble_is_told_as_what_it_is(
    error: errors.UpstreamError, status: int, manifests: str, blobs: str
) -> None:
    """With nothing cached: the right status and code, the upstream named, no challenge and no header of its."""
    shop = Shop()
    shop.hub.fail(error)
    for path, code in ((manifest(), manifests), (manifest(IMAGE_DIGEST), manifests), (blob(LAYER), blobs)):
        for method in ("GET", "HEAD"):
            answer = shop.ask(method, path)
            assert answer.status == status
            assert answer["WWW-Authenticate"] is None and answer["Set-Cookie"] is None
            assert answer["Retry-After"] == ("8" if status == 429 else None)
            if method == "GET":
                assert answer.error["code"] == code
                assert answer.error["detail"] == {"upstream": HUB, "fault": error.kind}


def test_too_many_requests_always_says_when_to_come_back() -> None:
    """containerd would otherwise ask five times at once."""
    shop = Shop()
    shop.hub.fail(errors.UpstreamRateLimited(HUB, "x"))
    assert shop.get(manifest())["Retry-After"] == "60"


def test_a_stale_answer_says_so_in_words_that_break_nothing() -> None:
    """Warning 299 in one quoted string, whatever the upstream wrote; Cache-Status says why."""
    shop = warm()
    shop.clock.advance(100.0)
    shop.hub.fail(errors.UpstreamUnavailable(HUB, 'a "quote" \\ \r\nX-Evil: 1 \x00 \u00fc ' + "x" * 5000))
    for path in (manifest(), "/v2/app/tags/list"):
        answer = shop.get(path)
        warning = answer["Warning"]
        assert answer.status == 200 and answer["X-Evil"] is None
        assert warning is not None and warning.startswith('299 - "stale: ') and warning.endswith('"')
        assert warning.count('"') == 2 and "\\" not in warning and warning.isprintable() and len(warning) < 4096
        assert answer["Cache-Status"] == "pullcache; hit; detail=stale-unavailable"


def test_everything_held_is_served_with_the_upstream_gone_and_after_a_restart() -> None:
    """Tag, digest, blobs, list: 200, and offline without one question."""
    shop = warm()
    shop.get("/v2/app/tags/list")
    shop.clock.advance(1e6)
    shop.hub.fail(errors.UpstreamUnavailable(HUB, "gone"))
    paths = [manifest(), manifest("multi"), manifest(IMAGE_DIGEST), blob(LAYER), blob(LARGE), "/v2/app/tags/list"]
    for each in (shop, Shop(before=shop)):
        assert [each.get(path).status for path in paths] == [200] * len(paths)
    shop.hub.calls.clear()
    offline = Shop(before=shop, offline=True)
    assert [offline.get(path).status for path in paths] == [200] * len(paths)
    missing = offline.get(manifest("other"))
    assert (missing.status, missing.error["code"]) == (404, "MANIFEST_UNKNOWN")
    assert offline.get(blob(b"other")).error["code"] == "BLOB_UNKNOWN"
    assert shop.hub.calls == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("prefix", ["", "library/", "docker.io/", "index.docker.io/library/"])
@pytest.mark.parametrize(
    "rest",
    [f"manifests/{IMAGE_DIGEST}", "manifests/latest", "blobs/" + str(Digest.of(LAYER)), "tags/list"]
    + [f"referrers/{IMAGE_DIGEST}"],
)
def test_what_may_not_be_pulled_is_denied(rest: str, prefix: str, method: str) -> None:
    """403, and nobody is asked; by whatever name it is meant, and though all of it is held."""
    before = Shop()
    for held in (manifest(), manifest(IMAGE_DIGEST), blob(LAYER), "/v2/app/tags/list"):
        assert before.get(held).status == 200
    for shop in (Shop(deny=("library/app",)), Shop(before=before, deny=("library/app",))):
        shop.hub.calls.clear()
        answer = shop.ask(method, f"/v2/{prefix}app/{rest}")
        assert (answer.status, shop.calls()) == (403, 0)
        assert method == "HEAD" or answer.error["code"] == "DENIED"


# -- cut off --------------------------------------------------------------------------------------------------------


def cold_line() -> tuple[Shop, Line]:
    """A client that has begun to read a cold blob."""
    shop = Shop()
    shop.get(manifest())
    shop.hub.by_hand = True
    line = Line(shop.listener)
    line.send(request("GET", blob(LARGE)))
    return shop, line


def test_a_cold_blob_is_streamed_as_it_comes() -> None:
    """Headers at once, every byte as it arrives, the last one when all are known to be right."""
    shop, line = cold_line()
    head = line.received()
    assert head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n")
    shop.hub.bodies[0].feed(1000)
    assert line.received() == LARGE[:1000]
    shop.hub.bodies[0].feed(len(LARGE) - 1000)
    assert line.received() == LARGE[1000:-1]
    shop.hub.bodies[0].end()
    assert line.received() == LARGE[-1:]
    assert line.ask("GET", "/v2/").status == 200


def test_wrong_bytes_cut_the_connection_and_are_never_completed() -> None:
    """Promised and not kept: abort, no error body, and no other response after the cut."""
    shop, line = cold_line()
    line.received()
    shop.hub.bodies[0].feed(b"x" * 1000)
    line.send(request("GET", "/v2/"))
    shop.hub.bodies[0].feed(len(LARGE))
    assert line.aborted
    sent = line.received()
    assert len(sent) < len(LARGE) and b"HTTP/1.1" not in sent


def test_the_connection_of_a_failed_flight_is_cut_in_every_reader() -> None:
    """Ten readers, one upstream that gives up: ten aborted connections, none finished."""
    shop, line = cold_line()
    lines = [line] + [Line(shop.listener).send(request("GET", blob(LARGE))) for _ in range(9)]
    shop.hub.bodies[0].feed(1000)
    shop.hub.fail(errors.UpstreamDenied(HUB, "no more"))
    shop.hub.bodies[0].cut()
    shop.clock.advance(1.0)
    assert all(each.aborted for each in lines)
    assert len(shop.hub.asked("blob")) == 2


def test_the_first_client_leaves_and_the_second_gets_everything() -> None:
    """At ten per cent; the upstream was asked once."""
    shop, first = cold_line()
    second = Line(shop.listener).send(request("GET", blob(LARGE)))
    shop.hub.bodies[0].feed(len(LARGE) // 10)
    first.lose()
    shop.hub.bodies[0].complete()
    assert second.answers("GET")[0].body == LARGE
    assert len(shop.hub.asked("blob")) == 1


class Truncating:
    """A store whose files lost their end."""

    def __init__(self, store: object) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def open(self, digest: Digest) -> object:
        file = self._store.open(digest)  # type: ignore[attr-defined]
        os.ftruncate(file.fd, 100)
        return file


@pytest.mark.parametrize("data", [LAYER, LARGE], ids=["small", "large"])
def test_a_file_that_lost_its_end_cuts_the_connection(data: bytes, logged_errors: list[dict[str, Any]]) -> None:
    """The disk has less than was promised: no response of a wrong length, neither now nor from the hot lane."""
    shop = warm()
    again = Shop(before=shop, store=Truncating(shop.cache.store))
    for _ in range(2):
        line = Line(again.listener).send(request("GET", blob(data)))
        sent = line.received()
        status = sent[9:12]
        assert line.aborted or status == b"500", sent[:60]
    logged_errors.clear()


def test_clients_are_told_no_path_no_proxy_and_no_address_of_ours() -> None:
    """Neither in an error nor in a Warning, from the hot lane neither; the fault itself is told."""
    secrets = ("squid.corp", "/etc/pullcache", "10.0.0.7")
    detail = "proxy http://squid.corp:3128: 10.0.0.7: the token from /etc/pullcache/t is refused"
    fault = errors.UpstreamDenied("docker.io", detail)
    shop = Shop()
    shop.get(manifest())
    shop.clock.advance(100.0)
    shop.hub.fail(fault)
    for path in (manifest(), manifest("v1"), blob(LARGE), "/v2/app/tags/list", f"/v2/app/referrers/{Digest.of(IMAGE)}"):
        for _ in range(2):
            answer = shop.get(path)
            assert not any(secret.encode() in answer.raw for secret in secrets), answer.raw
    warning = shop.get(manifest())["Warning"]
    assert warning == '299 - "stale: docker.io: the proxy: [private address]: the token from [file] is refused"'
