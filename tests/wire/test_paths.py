"""Paths, names and methods: what is asked for, and that nothing else is ever anything but a plain refusal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.oci.digest import Digest
from tests.doubles.upstream import ScriptedUpstream
from tests.wire.line import GHCR, HUB, IMAGE, LAYER, Answer, Line, Shop, blob, manifest, request, stock

D = str(Digest.of(LAYER))


def refused(answer: Answer) -> str:
    """The code of a refusal: 400 or 404 as OCI JSON, no redirect, no HTML."""
    assert answer.status in (400, 404), answer.raw[:300]
    assert answer["Location"] is None
    assert "Traceback" not in answer.body.decode()
    code: str = answer.error["code"]
    return code


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/?x=1"])
def test_the_ping_is_answered_without_a_redirect(path: str) -> None:
    """200 at once, with and without the slash."""
    answer = Shop().get(path)
    assert (answer.status, answer.body, answer["Content-Type"]) == (200, b"{}", "application/json")
    assert answer["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize("before", ["X", "./", "*", "http://cache.test/"])
def test_a_path_begins_with_a_slash(before: str) -> None:
    """Otherwise its first character would be dropped by some of those that look at it, and not by others."""
    answer = Shop().get(f"{before}{manifest()[1:]}")
    assert (answer.status, answer["Connection"]) == (400, "close")


@pytest.mark.parametrize("path", ["/v2/", manifest(), blob(LAYER), "/v2/app/tags/list", "/v2/app/referrers/" + D, "/"])
def test_no_response_names_the_software_below(path: str) -> None:
    """Server says pullcache, once."""
    server = Shop().get(path)["Server"]
    assert server is not None and server.startswith("pullcache/")


@pytest.mark.parametrize(
    ("path", "upstream", "repository"),
    [
        ("/v2/app/manifests/latest", HUB, "library/app"),
        ("/v2/library/app/manifests/latest", HUB, "library/app"),
        ("/v2/docker.io/app/manifests/latest", HUB, "library/app"),
        ("/v2/docker.io/library/app/manifests/latest", HUB, "library/app"),
        ("/v2/index.docker.io/app/manifests/latest", HUB, "library/app"),
        ("/v2/docker.io%3A443/app/manifests/latest", HUB, "library/app"),
        ("/v2/ghcr.io/team/app/manifests/latest", GHCR, "team/app"),
        ("/v2/team/app/manifests/latest?ns=ghcr.io", GHCR, "team/app"),
        ("/v2/team/app/manifests/latest?ns=GHCR.IO", GHCR, "team/app"),
        ("/v2/team/app/manifests/latest?ns=ghcr.io:443", GHCR, "team/app"),
        ("/v2/ghcr.io/team/app/manifests/latest?ns=ghcr.io", GHCR, "team/app"),
        ("/v2/ghcr.io/team/app/manifests/latest?ns=nowhere.test", GHCR, "team/app"),
    ],
)
def test_prefix_namespace_and_default_lead_to_their_upstream(path: str, upstream: str, repository: str) -> None:
    """Each in its own way, and only that upstream is asked."""
    shop = Shop()
    assert shop.get(path).body == IMAGE
    asked: dict[str, ScriptedUpstream] = {HUB: shop.hub, GHCR: shop.ghcr}
    other = asked[GHCR if upstream == HUB else HUB]
    assert {call.repository for call in asked[upstream].calls} == {repository}
    assert other.calls == []


def test_the_namespace_that_was_followed_is_echoed() -> None:
    """OCI-Namespace, and only when it decided."""
    shop = Shop()
    assert shop.get("/v2/team/app/manifests/latest?ns=ghcr.io")["OCI-Namespace"] == "ghcr.io"
    assert shop.get("/v2/app/manifests/latest")["OCI-Namespace"] is None
    assert shop.get("/v2/ghcr.io/team/app/manifests/latest?ns=ghcr.io")["OCI-Namespace"] is None


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/app/manifests/latest?ns=ghcr.io&ns=docker.io", 400, "NAME_INVALID"),
        ("/v2/ghcr.io/app/manifests/latest?ns=docker.io", 400, "NAME_INVALID"),
        ("/v2/app/manifests/latest?ns=evil.example", 404, "NAME_UNKNOWN"),
        ("/v2/app/manifests/latest?ns=", 404, "NAME_UNKNOWN"),
        ("/v2/app/manifests/latest?ns=%ff%0d%0aX:1", 404, "NAME_UNKNOWN"),
        ("/v2/evil.example/app/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/169.254.169.254/app/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/evil%3A80/app/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/App/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/app/manifests/-x", 400, "TAG_INVALID"),
        ("/v2/app/manifests/sha256:baddigeststring", 400, "DIGEST_INVALID"),
        ("/v2/app/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/app/blobs/blake3:" + "a" * 64, 400, "DIGEST_INVALID"),
        ("/v2/app/referrers/nope", 400, "DIGEST_INVALID"),
        ("/v2/app/referrers/blake3:" + "a" * 64, 400, "DIGEST_INVALID"),
        ("/v2/evil.example/app/referrers/" + D, 404, "NAME_UNKNOWN"),
        ("/v2/app/referrers/" + D + "?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/app/referrers/" + D + "?n=0", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/app/referrers/" + D + "?last=x", 400, "DIGEST_INVALID"),
        ("/v2/_catalog", 404, "NAME_UNKNOWN"),
        ("/v2/" + "a" * 256 + "/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/app/manifests/" + "a" * 129, 400, "TAG_INVALID"),
        ("/", 404, "NAME_UNKNOWN"),
        ("/v1/", 404, "NAME_UNKNOWN"),
        ("/favicon.ico", 404, "NAME_UNKNOWN"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_no_upstream_is_dialled(path: str, status: int, code: str) -> None:
    """The right code, and no upstream sees anything of it."""
    shop = Shop()
    answer = shop.get(path)
    assert (answer.status, answer.error["code"], shop.calls()) == (status, code, 0)


def test_a_listener_without_a_default_knows_no_bare_names() -> None:
    """404, and nothing is dialled; prefix and ns still work."""
    shop = Shop(default=None)
    assert refused(shop.get(manifest())) == "NAME_UNKNOWN"
    assert shop.calls() == 0
    assert shop.get("/v2/docker.io/app/manifests/latest").status == 200


@pytest.mark.parametrize(
    "name",
    [
        "manifests",
        "blobs",
        "tags",
        "a/manifests/b",
        "a/blobs/b",
        "a/tags/list",
        "manifests/manifests",
        "a" * 255,
        "v2/v2",
        "referrers/tags",
    ],
)
def test_names_that_look_like_routes_are_names(name: str) -> None:
    """A path is read from the right."""
    shop = Shop()
    stock(shop.ghcr, name)
    assert shop.get(f"/v2/{name}/manifests/latest?ns=ghcr.io").body == IMAGE
    assert shop.get(f"/v2/{name}/tags/list?ns=ghcr.io").status == 200
    assert shop.get(f"/v2/{name}/blobs/{D}?ns=ghcr.io").body == LAYER
    assert shop.get(f"/v2/{name}/referrers/{D}?ns=ghcr.io").status == 200


ODD = st.sampled_from(
    [
        "%2f",
        "%2F",
        "%00",
        "%0a",
        "%0d%0a",
        "%25",
        "%",
        "%zz",
        "%c3%28",
        "%ff",
        "..",
        ".",
        "//",
        "/",
        "a",
        "app",
        "v2",
        "manifests",
        "blobs",
        "tags",
        "list",
        "latest",
        D,
        "sha256:",
        "referrers",
        "docker.io",
        ":",
        "\\",
        "@",
        ";",
        "~",
        "A",
        "_",
        "-",
        "a" * 300,
        "http://evil.example/",
        "*",
        "%3A",
        "%3a",
        "[",
        "<",
        ">",
        '"',
        "|",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(ODD, max_size=8),
    st.sampled_from(["/", "/v2/", "/v2/app/manifests/", "/v2/app/blobs/", ""]),
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from(["", "?ns=%00", "?n=1&n=2", "?last=%ff&x", "?&&=="]),
)
def test_no_path_does_anything_strange(parts: list[str], prefix: str, method: str, query: str) -> None:
    """Encoded slashes, dots, nul, other encodings: an answer as it should be or 400 or 404, and the line stays good."""
    shop = Shop()
    # An asterisk alone means the server itself, not a path (RFC 9112 section 3.2.4).
    path = (prefix + "".join(parts)).replace("*", "") or "/"
    shop.line.send(request(method, path + query))
    answer = shop.line.answers(method)[0]
    assert answer.status in (200, 400, 404), answer.raw[:200]
    if answer.status != 200 and method == "GET":
        refused(answer)
    if not shop.line.closed:
        assert shop.line.ask("GET", "/v2/").status == 200
    for upstream in (shop.hub, shop.ghcr):
        assert all("%" not in call.repository and ".." not in call.repository for call in upstream.calls)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PROPFIND", "get"])
@pytest.mark.parametrize("path", ["/v2/", manifest(), blob(LAYER), "/v2/app/blobs/uploads/", "/", "/v2/%2e%2e/x"])
def test_everything_that_writes_is_refused(method: str, path: str) -> None:
    """405 with the methods there are, wherever it points."""
    answer = Shop().ask(method, path)
    assert (answer.status, answer.error["code"], answer["Allow"]) == (405, "UNSUPPORTED", "GET, HEAD")


def test_a_raw_byte_outside_ascii_is_refused() -> None:
    """Without a word in the log."""
    line = Line(Shop().listener)
    line.send(b"GET /v2/\xff\xfe/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n")
    refused(line.answers("GET")[0])
