"""
Public registries as they behave, answered by their kinds: who gives their tokens, where their blobs are, what they
refuse.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.http_headers import Headers

from appliance.errors import (
    UpstreamDenied,
    UpstreamRateLimited,
)
from appliance.upstream.interfaces import RateLimit
from appliance.upstream.kinds.dockerhub import MAX_WINDOW, DockerHub
from appliance.upstream.kinds.wellknown import Gcr, K8s, Mcr
from tests.rooms.upstream.net import Asked, Reply
from tests.rooms.upstream.registries import (
    ADAPTERS,
    BLOB,
    DIGEST,
    INDEX,
    MANIFEST,
    PULLED,
    Registry,
    Site,
    TokenServer,
    basic,
    ghcr,
    leads_to,
    quay,
    storage,
    tokens,
)

# -- Docker Hub ------------------------------------------------------------------------------------------------------


HUB = "https://registry-1.docker.io"
HUB_BLOBS = "https://production.cloudflare.docker.com/registry-v2/blobs/data?Signature=a%2Bb~c__&Expires=9"


def docker_hub(repository: str = "library/nginx", **more: Any) -> tuple[Site, TokenServer, Registry]:
    site, server = Site(DockerHub(), HUB, **more), TokenServer()
    wanted = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:x:pull"'
    registry = Registry(repository, challenge=wanted, may=tokens(repository, server), blobs=leads_to(HUB_BLOBS))
    site.net.servers[HUB] = registry
    site.net.servers["https://auth.docker.io"] = server
    site.net.servers["https://production.cloudflare.docker.com"] = storage()
    return site, server, registry


def test_docker_hub_gives_official_images_to_every_client() -> None:
    """`pull nginx` means library/nginx, with an anonymous token of another host that needs no configuration."""
    site, server, _ = docker_hub()
    assert site.pull("nginx") == PULLED
    assert server.queries == [{"service": ["registry.docker.io"], "scope": ["repository:library/nginx:pull"]}]


def test_docker_hub_leaves_whole_names_as_they_are() -> None:
    """`pull grafana/grafana` does not ask below library/."""
    site, _, _ = docker_hub("grafana/grafana")
    assert site.pull("grafana/grafana") == PULLED


def test_docker_hubs_blobs_come_from_elsewhere_without_our_token() -> None:
    """The signed URL is asked for byte by byte as it was given, and a store that takes one login only is content."""
    site, _, _ = docker_hub()
    site.pull("nginx")
    (asked,) = site.asked("https://production.cloudflare.docker.com")
    assert asked.url == HUB_BLOBS
    assert asked.one("authorization") is None


def test_docker_hub_knows_me_by_my_access_token(tmp_path: Path) -> None:
    """The token server gets the password; the registry gets its token, not my password."""
    (tmp_path / "pat").write_text("dckr_pat_x\n")
    site, server, _ = docker_hub(username="me", password_file=tmp_path / "pat")
    server.logins = {basic("me", "dckr_pat_x")}
    assert site.pull("nginx") == PULLED
    assert all((asked.one("authorization") or "Bearer").startswith("Bearer") for asked in site.asked(HUB))


@pytest.mark.parametrize(
    "body",
    [
        b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}',
        b"Too Many Requests",
    ],
)
def test_docker_hubs_limits_are_limits(body: bytes) -> None:
    """The limit on pulls and the bare one on abuse alike: nothing is taken for missing or denied."""
    site, _, registry = docker_hub()
    registry.manifests = lambda asked: Reply(429, {"Retry-After": "60"}, body)
    fault = site.fault(site.upstream().manifest("library/nginx", "latest"))
    assert isinstance(fault, UpstreamRateLimited)
    assert fault.retry_after == 60


def test_docker_hub_denies_what_it_does_not_have() -> None:
    """A name that is private or wrong is answered 401, which is no 404: what is cached of it stays."""
    site, server, registry = docker_hub()
    registry.may = lambda authorization: False
    fault = site.fault(site.upstream().manifest("library/nginx", "latest"))
    assert isinstance(fault, UpstreamDenied)


def test_docker_hub_says_how_many_pulls_are_left() -> None:
    """On HEAD as on GET; plans without a limit say nothing."""
    fields = Headers({"ratelimit-limit": ["100;w=21600"], "ratelimit-remaining": ["20;w=21600"]})
    assert DockerHub().rate_limit(fields) == RateLimit(100, 20, 21600.0)
    assert DockerHub().rate_limit(Headers({"docker-ratelimit-source": ["192.0.2.1"]})) is None


@pytest.mark.parametrize(
    ("limit", "remaining", "expected"),
    [
        (None, "20", RateLimit(None, 20, None)),
        ("100;w=21600", "20", RateLimit(100, 20, 21600.0)),
        ("100", "0;w=60", RateLimit(100, 0, 60.0)),
        (" 100 ; x=1 ; w=21600 ", "20;W=60", RateLimit(100, 20, 60.0)),
        ("100, 100;w=60", "20, 5;w=1", RateLimit(100, 20, None)),
        ("many", "20", RateLimit(None, 20, None)),
        ("100", "20;w=0", RateLimit(100, 20, None)),
        ("100", "20;w=999999999", RateLimit(100, 20, MAX_WINDOW)),
        ("100", None, None),
        ("100", "-1", None),
        ("100", "20x", None),
        ("100", "\u0662\u0660".encode().decode("latin-1"), None),
        ("100", "9" * 10, None),
        ("100", "20;" + "x" * 300, None),
    ],
)
def test_a_rate_limit_is_read_with_care(limit: str | None, remaining: str | None, expected: RateLimit | None) -> None:
    """What cannot be read says nothing, and no window keeps pulls back for longer than a day."""
    fields = Headers()
    for name, text in (("ratelimit-limit", limit), ("ratelimit-remaining", remaining)):
        if text is not None:
            fields.setRawHeaders(name.encode(), [text.encode("latin-1")])
    assert DockerHub().rate_limit(fields) == expected


@given(st.text(alphabet="0123456789;,w= \t-x", max_size=30), st.binary(max_size=30))
def test_no_rate_limit_field_is_too_strange(one: str, other: bytes) -> None:
    """Whatever stands in it, what is read of it is in bounds."""
    fields = Headers()
    fields.setRawHeaders(b"ratelimit-remaining", [one.encode()])
    fields.setRawHeaders(b"ratelimit-limit", [other.replace(b"\r", b"").replace(b"\n", b"")])
    read = DockerHub().rate_limit(fields)
    if read is not None:
        assert 0 <= read.remaining < 10**9
        assert read.window is None or 0 < read.window <= MAX_WINDOW


def test_only_docker_hubs_fields_are_read() -> None:
    """GitLab counts requests per minute in fields of the same names; keep_pulls is not about those."""
    fields = Headers({"ratelimit-limit": ["2000"], "ratelimit-remaining": ["0"]})
    readers = [adapter.kind for adapter in ADAPTERS if adapter().rate_limit(fields) is not None]
    assert readers == ["dockerhub"]


# -- GHCR ------------------------------------------------------------------------------------------------------------


def test_ghcr_gives_public_images_for_an_anonymous_token() -> None:
    """The scope is that of the image, not the placeholder of the challenge, and every stored type is accepted."""
    site, server, _ = ghcr()
    assert site.pull("owner/app") == PULLED
    assert [query["scope"] for query in server.queries] == [["repository:owner/app:pull"]]


def test_ghcr_takes_a_personal_access_token_from_a_file(tmp_path: Path) -> None:
    """No user name is needed beside it."""
    (tmp_path / "pat").write_text("ghp_x\n")
    site, server, _ = ghcr(token_file=tmp_path / "pat")
    server.logins = {basic("x-access-token", "ghp_x")}
    assert site.pull("owner/app") == PULLED


def test_a_blobs_size_is_learnt_where_signed_urls_refuse_head() -> None:
    """GHCR's were signed for GET; one byte tells."""
    site, _, _ = ghcr()
    assert site.net.result(site.upstream().blob_size("owner/app", DIGEST)) == len(BLOB)


# -- Quay ------------------------------------------------------------------------------------------------------------


def test_quay_gives_no_manifest_of_the_past() -> None:
    """It sends schema 1 to a client that accepts Docker's types only; and its challenge names no scope."""
    site, server = quay()
    assert site.pull("org/app") == PULLED
    assert server.queries == [{"service": ["quay.io"], "scope": ["repository:org/app:pull"]}]


def test_quay_knows_robots_and_oauth_tokens(tmp_path: Path) -> None:
    """A robot has a plus sign in its name; a token goes with a name of Quay's."""
    (tmp_path / "secret").write_text("s")
    robot, server = quay(username="org+puller", password_file=tmp_path / "secret")
    server.logins = {basic("org+puller", "s")}
    assert robot.pull("org/app") == PULLED
    oauth, server = quay(token_file=tmp_path / "secret")
    server.logins = {basic("$oauthtoken", "s")}
    assert oauth.pull("org/app") == PULLED


# -- GCR and Artifact Registry ---------------------------------------------------------------------------------------


GAR = "https://europe-docker.pkg.dev"


def gar(**more: Any) -> tuple[Site, TokenServer, Registry]:
    site, server = Site(Gcr(), GAR, **more), TokenServer()
    registry = Registry(
        "project/images/app",
        challenge=f'Bearer realm="{GAR}/v2/token",service="europe-docker.pkg.dev",scope="repository:x:pull"',
        may=tokens("project/images/app", server),
        blobs=leads_to("https://storage.googleapis.com/artifacts/x?X-Goog-Signature=y", 302),
        pages={"/v2/token": server},
    )
    site.net.servers[GAR] = registry
    site.net.servers["https://storage.googleapis.com"] = storage()
    return site, server, registry


@pytest.mark.parametrize(
    ("username", "secret"),
    [
        (None, "ya29.token"),
        ("_json_key", '{\n "type": "service_account",\n "k": "\u00e9"\n}'),
        ("_json_key_base64", "e30="),
    ],
)
def test_google_takes_access_tokens_and_keys(tmp_path: Path, username: str | None, secret: str) -> None:
    """A token out of a file that is renewed, or a service account's key, over its lines and all."""
    (tmp_path / "secret").write_text(secret + "\n", "utf-8")
    named = {"token_file": tmp_path / "secret"}
    if username is not None:
        named = {"username": username, "password_file": tmp_path / "secret"}
    site, server, _ = gar(**named)
    server.logins = {basic(username or "oauth2accesstoken", secret)}
    assert site.pull("project/images/app") == PULLED


def test_a_renewed_google_token_is_used_without_a_restart(tmp_path: Path) -> None:
    """The file is replaced every hour; the next pull shows the new token."""
    (tmp_path / "token").write_text("first")
    site, server, _ = gar(token_file=tmp_path / "token")
    server.logins = {basic("oauth2accesstoken", "first")}
    upstream = site.upstream()
    site.net.result(upstream.manifest("project/images/app", "latest"))
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").rename(tmp_path / "token")
    server.logins, server.given = {basic("oauth2accesstoken", "second")}, {}
    assert site.net.result(upstream.manifest("project/images/app", "latest")).data == MANIFEST


def test_google_may_say_another_length_to_head() -> None:
    """It compresses on the way: what comes with GET counts."""
    site, _, registry = gar()
    registry.manifests = lambda asked: (
        Reply(200, {"Content-Type": INDEX, "Content-Length": "9999"})
        if asked.method == "HEAD"
        else Reply(200, {"Content-Type": INDEX}, MANIFEST)
    )
    upstream = site.upstream()
    site.net.result(upstream.head("project/images/app", "latest"))
    assert site.net.result(upstream.manifest("project/images/app", "latest")).data == MANIFEST


def test_google_storage_is_asked_for_one_range() -> None:
    """It answers 400 to several."""
    site, _, registry = gar()
    seen: list[str | None] = []

    def one_range(asked: Asked) -> Reply:
        seen.append(asked.one("range"))
        return Reply(206, {"Content-Range": f"bytes 1-3/{len(BLOB)}"}, BLOB[1:4])

    site.net.servers["https://storage.googleapis.com"] = one_range
    response = site.net.result(site.upstream().blob("project/images/app", DIGEST, 1, 4))
    response.abandon()
    assert seen == ["bytes=1-3"]


# -- registry.k8s.io -------------------------------------------------------------------------------------------------


K8S = "https://registry.k8s.io"
REGIONAL = "https://europe-west4-docker.pkg.dev"


def test_k8s_leads_manifests_to_a_host_that_wants_a_token_of_its_own() -> None:
    """An Artifact Registry of the region gives anonymous ones; blobs come from there or from S3."""
    site, server = Site(K8s(), K8S), TokenServer()
    path = "/v2/k8s-artifacts-prod/images/pause"
    site.net.servers[K8S] = Registry(
        "pause",
        manifests=lambda asked: Reply(307, {"Location": f"{REGIONAL}{path}/manifests/latest"}),
        blobs=leads_to("https://prod-registry-k8s-io-eu-west-1.s3.dualstack.eu-west-1.amazonaws.com/x"),
    )
    site.net.servers[REGIONAL] = Registry(
        "k8s-artifacts-prod/images/pause",
        challenge=f'Bearer realm="{REGIONAL}/v2/token",service="europe-west4-docker.pkg.dev"',
        may=tokens("k8s-artifacts-prod/images/pause", server),
        pages={"/v2/token": server},
    )
    site.net.servers["https://prod-registry-k8s-io-eu-west-1.s3.dualstack.eu-west-1.amazonaws.com"] = storage()
    assert site.pull("pause") == PULLED
    assert all(asked.one("authorization") is None for asked in site.asked(K8S))


# -- Microsoft -------------------------------------------------------------------------------------------------------


def test_mcr_gives_without_any_token() -> None:
    """Blobs come from the region's host."""
    site = Site(Mcr(), "https://mcr.microsoft.com")
    site.net.servers["https://mcr.microsoft.com"] = Registry(
        "dotnet/runtime", blobs=leads_to("https://westeurope.data.mcr.microsoft.com/x?sig=y")
    )
    site.net.servers["https://westeurope.data.mcr.microsoft.com"] = storage()
    assert site.pull("dotnet/runtime") == PULLED
    assert all(asked.one("authorization") is None for asked in site.net.asked)
