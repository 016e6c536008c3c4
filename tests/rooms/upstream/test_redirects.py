"""Redirects: where they may lead, and what goes along."""

from __future__ import annotations

import pytest

from appliance import errors
from appliance.oci.digest import Digest
from tests.rooms.upstream.net import CDN, REGISTRY, Asked, Net, Reply, Sink, upstream

BLOB = b"layer" * 100
DIGEST = Digest.of(BLOB)
SIGNED = CDN + "/b/data?X-Amz-Signature=ab%2Fcd%3D&sig=x/y+z%7e==&empty="


def leading(location: str | None, status: int = 307) -> Net:
    """A registry that redirects blobs to C{location}, and a CDN that has them."""
    net = Net()
    fields: dict[str, str | list[str]] = {} if location is None else {"Location": location}
    net.servers[REGISTRY] = lambda asked: (
        Reply(status, dict(fields), b"moved") if asked.target.startswith("/v2/") else Reply(body=BLOB)
    )
    net.servers[CDN] = lambda asked: Reply(body=BLOB)
    return net


def body(net: Net, start: int = 0, validator: str | None = None) -> bytes:
    response = net.result(upstream(net).blob("a", DIGEST, start, None, validator))
    sink = Sink()
    net.result(response.deliver(sink))
    return sink.data


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status: int) -> None:
    """To a CDN, byte for byte as the Location says: one changed character breaks a signature."""
    net = leading(SIGNED, status)
    assert body(net) == BLOB
    assert net.asked[1].url == SIGNED
    assert net.asked[1].method == "GET"
    assert [asked.agent for asked in net.asked] == ["own", "foreign"]


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/elsewhere?q=1", REGISTRY + "/elsewhere?q=1"),
        ("//cdn.example/x", CDN + "/x"),
        ("https://cdn.example", CDN + "/"),
        ("https://cdn.example?sig=1", CDN + "/?sig=1"),
        ("HTTPS://CDN.example:443/X#fragment", CDN + "/X"),
        ("../../../../blobs", REGISTRY + "/blobs"),
        (" https://cdn.example/x ", CDN + "/x"),
    ],
)
def test_a_location_may_be_relative(location: str, url: str) -> None:
    """RFC 3986 section 5; the fragment is not sent."""
    net = leading(location)
    assert body(net) == BLOB
    assert net.asked[1].url == url


def test_range_and_validator_go_along() -> None:
    """A resumption stays one across the redirect."""
    net = leading(CDN + "/x")
    net.servers[CDN] = lambda asked: Reply(206, {"Content-Range": f"bytes 5-499/{len(BLOB)}"}, BLOB[5:])
    assert body(net, 5, '"v"') == BLOB[5:]
    assert net.asked[1].one("range") == "bytes=5-"
    assert net.asked[1].one("if-range") == '"v"'
    assert net.asked[1].one("accept-encoding") == "identity"


def with_token(net: Net) -> None:
    """Make the registry ask for a token first."""
    registry = net.servers[REGISTRY]

    def guarded(asked: Asked) -> Reply | None:
        if asked.target.startswith("/token"):
            return Reply(body=b'{"token":"t1"}')
        if asked.target.startswith("/v2/") and asked.one("authorization") != "Bearer t1":
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{REGISTRY}/token"'})
        return registry(asked)

    net.servers[REGISTRY] = guarded


@pytest.mark.parametrize(
    ("location", "kept"),
    [
        (REGISTRY + "/elsewhere", True),
        ("/elsewhere", True),
        (REGISTRY + ":443/elsewhere", True),
        (REGISTRY + ":8443/x", False),
        (CDN + "/x", False),
        ("https://sub.registry.example/x", False),
    ],
)
def test_the_token_stays_at_its_origin(location: str, kept: bool) -> None:
    """Scheme, host and port: another port is another server."""
    net = leading(location)
    for origin in (REGISTRY + ":8443", "https://sub.registry.example"):
        net.servers[origin] = net.servers[CDN]
    with_token(net)
    assert body(net) == BLOB
    assert net.asked[-1].one("authorization") == ("Bearer t1" if kept else None)


def test_a_token_dropped_on_the_way_stays_dropped() -> None:
    """There and back again is no reason to send it."""
    net = leading(CDN + "/x")
    net.servers[CDN] = lambda asked: Reply(307, {"Location": REGISTRY + "/back"})
    with_token(net)
    assert body(net) == BLOB
    assert net.asked[-1].url == REGISTRY + "/back"
    assert net.asked[-1].one("authorization") is None


@pytest.mark.parametrize(
    ("location", "expected", "words"),
    [
        ("http://cdn.example/x?sig=secret", errors.UpstreamRefused, "from https to http never"),
        ("http://registry.example/x", errors.UpstreamRefused, "from https to http never"),
        (None, errors.UpstreamInvalid, "without a Location"),
        ("ftp://cdn.example/x", errors.UpstreamInvalid, "no http or https URL"),
        ("file:///etc/passwd", errors.UpstreamInvalid, "no http or https URL"),
        ("https://user:secret@cdn.example/x", errors.UpstreamInvalid, "no host"),
        ("https://cdn.example\\@registry.example/x", errors.UpstreamInvalid, "no host"),
        ("https://cdn.example:99999/x", errors.UpstreamInvalid, "no port"),
        ("https://cdn..example/x", errors.UpstreamInvalid, "no host"),
        ("https:///x", errors.UpstreamInvalid, "no host"),
        ("https://cdn.example/a b", errors.UpstreamInvalid, "no http or https URL"),
        ("/a b", errors.UpstreamInvalid, "no URL may hold"),
        ("/ä", errors.UpstreamInvalid, "no URL may hold"),
        ("/v2/a/blobs/" + str(DIGEST), errors.UpstreamInvalid, "more than 5 redirects"),
    ],
)
def test_a_redirect_that_leads_astray_is_an_error(
    location: str | None, expected: type[errors.UpstreamError], words: str
) -> None:
    """It says what was wrong and repeats neither query nor userinfo."""
    net = leading(location)
    fault = net.fault(upstream(net).blob("a", DIGEST))
    assert type(fault) is expected
    assert words in str(fault)
    assert "secret" not in str(fault)
    assert {asked.origin for asked in net.asked} == {REGISTRY}


def test_five_redirects_are_followed_and_six_are_not() -> None:
    """A loop of ever new URLs ends as well."""
    net = Net()
    limit = 5

    def server(asked: Asked) -> Reply:
        number = int(asked.target.rpartition("/")[2]) if asked.target.startswith("/hop") else 0
        return Reply(body=BLOB) if number == limit else Reply(302, {"Location": f"/hop/{number + 1}"})

    net.servers[REGISTRY] = server
    assert body(net) == BLOB
    limit = 6
    net.asked.clear()
    assert type(net.fault(upstream(net).blob("a", DIGEST))) is errors.UpstreamInvalid
    assert len(net.asked) == 6


def test_manifests_may_be_redirected_too() -> None:
    """registry.k8s.io is nothing but redirects."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: Reply(307, {"Location": CDN + "/v2/k8s/images" + asked.target[3:]})
    net.servers[CDN] = lambda asked: Reply(body=b"{}")
    assert net.result(upstream(net).manifest("pause", "3.9")).data == b"{}"
    assert net.asked[1].url == CDN + "/v2/k8s/images/pause/manifests/3.9"


# -- a host that wants a token of its own ---------------------------------------------------------------------------


def artifact_registry(net: Net, realm: str, scope: str = "") -> None:
    def server(asked: Asked) -> Reply:
        if asked.target.startswith("/token"):
            return Reply(body=b'{"token":"anonymous"}')
        if asked.one("authorization") == "Bearer anonymous":
            return Reply(body=b"{}")
        return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="cdn"{scope}'})

    net.servers[CDN] = server


@pytest.mark.parametrize(
    ("path", "challenge_scope", "asked_scope"),
    [
        ("/v2/k8s/images/pause/manifests/3.9", "", "repository%3Ak8s%2Fimages%2Fpause%3Apull"),
        ("/x?sig=1", ',scope="repository:k8s/pause:pull"', "repository%3Ak8s%2Fpause%3Apull"),
    ],
)
def test_a_redirect_target_may_give_us_a_token_of_its_own(path: str, challenge_scope: str, asked_scope: str) -> None:
    """Artifact Registry behind registry.k8s.io: anonymous, for the repository's name there."""
    net = leading(CDN + path)
    with_token(net)
    artifact_registry(net, CDN + "/token", challenge_scope)
    assert net.result(upstream(net).manifest("pause", "3.9")).data == b"{}"
    at_cdn = [asked for asked in net.asked if asked.origin == CDN]
    assert [asked.one("authorization") for asked in at_cdn] == [None, None, "Bearer anonymous"]
    assert at_cdn[1].target == f"/token?service=cdn&scope={asked_scope}"
    assert all(asked.agent == "foreign" for asked in at_cdn)


@pytest.mark.parametrize(
    "realm",
    [REGISTRY + "/token", "https://evil.example/token", "http://cdn.example/token", CDN + ":8443/token"],
)
def test_a_redirect_target_may_not_send_us_elsewhere_for_a_token(realm: str) -> None:
    """Its realm must be on itself, exactly."""
    net = leading(CDN + "/v2/b/manifests/t")
    artifact_registry(net, realm)
    fault = net.fault(upstream(net).manifest("a", "t"))
    assert type(fault) is errors.UpstreamRefused
    assert "only its own" in str(fault)
    assert net.urls() == [REGISTRY + "/v2/a/manifests/t", CDN + "/v2/b/manifests/t"]


def test_a_token_of_a_redirect_target_stays_with_it() -> None:
    """It sends us back to where we came from once we show it: the registry does not get to see it."""
    net = leading(CDN + "/v2/a/blobs/x")
    artifact_registry(net, CDN + "/token")
    challenging = net.servers[CDN]

    def server(asked: Asked) -> Reply | None:
        shown = asked.one("authorization") == "Bearer anonymous"
        return Reply(307, {"Location": REGISTRY + "/back"}) if shown else challenging(asked)

    net.servers[CDN] = server
    assert body(net) == BLOB
    assert net.asked[-1].url == REGISTRY + "/back"
    assert [asked.one("authorization") for asked in net.asked if asked.origin == REGISTRY] == [None, None]


def test_a_redirect_target_gets_no_password(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Whatever it asks for."""
    (tmp_path / "p").write_text("pw")
    net = leading(CDN + "/x")
    net.servers[CDN] = lambda asked: Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
    asking = upstream(net, username="user", password_file=tmp_path / "p")
    assert type(net.fault(asking.blob("a", DIGEST))) is errors.UpstreamDenied
    assert all(asked.one("authorization") is None for asked in net.asked)


# -- signed URLs that have run out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_signature_that_is_refused_is_fetched_anew_once(status: int) -> None:
    """Signed URLs live for minutes; the registry gives another."""
    net = Net()
    signatures = iter(["old", "new"])
    net.servers[REGISTRY] = lambda asked: Reply(307, {"Location": f"{CDN}/x?sig={next(signatures)}"})
    net.servers[CDN] = lambda asked: Reply(body=BLOB) if asked.target.endswith("new") else Reply(status)
    assert body(net) == BLOB
    assert [asked.origin for asked in net.asked] == [REGISTRY, CDN, REGISTRY, CDN]


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, errors.UpstreamInvalid), (401, errors.UpstreamDenied), (403, errors.UpstreamDenied)],
)
def test_a_signature_that_is_refused_twice_is_an_error(status: int, expected: type[errors.UpstreamError]) -> None:
    """Without its query."""
    net = leading(SIGNED)
    net.servers[CDN] = lambda asked: Reply(status, {}, b"<Error>")
    fault = net.fault(upstream(net).blob("a", DIGEST))
    assert type(fault) is expected
    assert f"{CDN}/b/data answered {status}" in str(fault)
    assert "Signature" not in str(fault)
    assert len(net.asked) == 4


def test_a_signed_url_that_refuses_head_is_asked_for_one_byte() -> None:
    """Presigned URLs are made for one method (GHCR)."""
    net = leading(SIGNED)
    net.servers[CDN] = lambda asked: (
        Reply(403) if asked.method == "HEAD" else Reply(206, {"Content-Range": "bytes 0-0/500"}, b"l")
    )
    assert net.result(upstream(net).blob_size("a", DIGEST)) == 500


def test_a_refused_address_is_named_and_final() -> None:
    """What the guarded agent refuses comes through as it is, and the next URL is not a way around it."""
    net = leading("https://inside.example/x")
    asking = upstream(net, [REGISTRY, "https://second.example"])
    net.servers["https://inside.example"] = lambda asked: Reply(body=BLOB)
    refused = errors.UpstreamRefused("up.example", "led to inside.example (10.0.0.1): no")
    net.blocked["https://inside.example"] = refused
    assert net.fault(asking.blob("a", DIGEST)) is refused
