"""
Every kind of registry as it behaves, answered by its adapter.

Each registry is a simulation of one row of what is known about the big ones: who gives its tokens, where its blobs are,
what it refuses and how.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from zope.interface.verify import verifyObject

from appliance.errors import (
    ConfigError,
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRateLimited,
    UpstreamRefused,
)
from appliance.flow.threads import InlineThreads
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.client import RegistryClient
from appliance.upstream.credentials.aws import EcrApi, aws_credentials
from appliance.upstream.credentials.configured import CredentialArguments, credentials_for
from appliance.upstream.credentials.lease import MIN_INTERVAL
from appliance.upstream.http.gate import Gate
from appliance.upstream.http.identity import HttpClient
from appliance.upstream.http.tokens import post_form
from appliance.upstream.interfaces import IAdapter, ICredentials, RateLimit
from appliance.upstream.kinds.acr import Acr
from appliance.upstream.kinds.dockerhub import MAX_WINDOW, DockerHub
from appliance.upstream.kinds.ecr import Ecr, EcrPublic
from appliance.upstream.kinds.standard import STANDARD, Standard
from appliance.upstream.kinds.wellknown import Gcr, Ghcr, GitLab, Harbor, K8s, Mcr, Quay
from appliance.upstream.timeouts import Timeouts
from appliance.upstream.url import Url
from tests.rooms.upstream.net import Asked, Net, Reply, Server, SilentObserver, Sink, client_over

MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
INDEX = "application/vnd.oci.image.index.v1+json"
BLOB = b"layer"
DIGEST = Digest.of(BLOB)
ADAPTERS = (Standard, DockerHub, Ghcr, Quay, Gcr, Ecr, EcrPublic, Acr, Harbor, GitLab, Mcr, K8s)


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def challenge(text: str, status: int = 401) -> Reply:
    body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).encode()
    return Reply(status, {"WWW-Authenticate": text}, body)


def problem(status: int, code: str, message: str = "") -> Reply:
    return Reply(status, {}, json.dumps({"errors": [{"code": code, "message": message}]}).encode())


@dataclass
class TokenServer:
    """
    Gives tokens for one scope each.

    @ivar logins: the values of Authorization that it takes; C{None}: none at all will do.
    @ivar queries: what it was asked with, scope and service and whatever else.
    """

    logins: set[str | None] = field(default_factory=lambda: {None})
    given: dict[str, str] = field(default_factory=dict)
    queries: list[dict[str, list[str]]] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Reply:
        if asked.method != "GET":
            return Reply(401)
        if asked.one("authorization") not in self.logins:
            return problem(401, "UNAUTHORIZED")
        query = parse_qs(asked.target.partition("?")[2], keep_blank_values=True)
        self.queries.append(query)
        return self.give(query.get("scope", [""])[0])

    def give(self, scope: str) -> Reply:
        token = f"token-{len(self.given) + 1}"
        self.given[f"Bearer {token}"] = scope
        return Reply(200, {"Content-Type": "application/json"}, json.dumps({"token": token}).encode())


@dataclass
class Registry:
    """
    One repository of a registry.

    @ivar path: what stands before C{/v2/}.
    @ivar challenge: what it answers to whoever may not; C{None}: anybody may.
    @ivar may: whether an Authorization is one that may.
    @ivar blobs: answers for blobs to those who may; C{manifests}: for manifests.
    @ivar pages: whatever else stands at a path of its origin, as a token server.
    """

    repository: str
    path: str = ""
    challenge: str | None = None
    may: Callable[[str | None], bool] = lambda authorization: authorization is not None
    blobs: Server = lambda asked: Reply(200, {}, BLOB)
    manifests: Server = lambda asked: Reply(200, {"Content-Type": INDEX}, MANIFEST)
    pages: dict[str, Server] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Reply | None:
        path = asked.target.partition("?")[0]
        if path in self.pages:
            return self.pages[path](asked)
        if self.challenge is not None and not self.may(asked.one("authorization")):
            return challenge(self.challenge)
        if path == f"{self.path}/v2/":
            return Reply(200)
        if path.startswith(f"{self.path}/v2/{self.repository}/manifests/"):
            return self.manifests(asked)
        if path == f"{self.path}/v2/{self.repository}/blobs/{DIGEST}":
            return self.blobs(asked)
        return problem(404, "NAME_UNKNOWN")


def tokens(repository: str, server: TokenServer) -> Callable[[str | None], bool]:
    """Whether an Authorization is a token that C{server} gave for a pull from C{repository}."""
    return lambda authorization: server.given.get(authorization or "") == f"repository:{repository}:pull"


def storage(body: bytes = BLOB) -> Server:
    """A store of signed URLs: a second way to authenticate is refused, and so is HEAD, which was not signed."""

    def server(asked: Asked) -> Reply:
        if asked.one("authorization") is not None:
            return Reply(400, {}, b"<Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message>")
        if asked.method != "GET":
            return Reply(403, {}, b"<Code>SignatureDoesNotMatch</Code>")
        if asked.one("range") is not None:
            return Reply(206, {"Content-Range": f"bytes 0-0/{len(body)}"}, body[:1])
        return Reply(200, {}, body)

    return server


def leads_to(url: str, status: int = 307) -> Server:
    return lambda asked: Reply(status, {"Location": url})


class Site:
    """An upstream of some kind in a network of simulated registries."""

    def __init__(
        self,
        adapter: IAdapter,
        url: str,
        *,
        credentials: Callable[[UpstreamSettings, CredentialArguments], ICredentials | None] | None = None,
        **settings: Any,
    ) -> None:
        self.net = Net()
        self.settings = UpstreamSettings(name="up.example", urls=(url,), kind=adapter.kind, **settings)
        adapter.check(self.settings)
        self._adapter = adapter
        self._credentials = credentials or self._own

    def upstream(self) -> RegistryClient:
        return client_over(
            self.net, self.settings, self._adapter, lambda url: self._credentials(self.settings, self.arguments())
        )

    def arguments(self) -> CredentialArguments:
        home = Url.parse(self.settings.urls[0])
        clock, gate = self.net.clock, Gate("up.example")
        http = HttpClient("up.example", home, self.net.agent("own"), clock, Timeouts(), SilentObserver(), gate)

        def post(path: str, fields: Mapping[str, str]) -> Deferred[bytes]:
            return Deferred.fromCoroutine(post_form(http, home.at(path), fields))

        processes: Any = None
        return CredentialArguments("up.example", home.host, clock, InlineThreads(), processes, post)

    def _own(self, settings: UpstreamSettings, given: CredentialArguments) -> ICredentials | None:
        home = Url.parse(settings.urls[0])
        return self._adapter.credentials(settings, given) or credentials_for(settings, home, given)

    def pull(self, name: str) -> tuple[bytes, bytes]:
        """Manifest and blob, as whoever pulls C{name} gets them."""
        upstream = self.upstream()
        repository = upstream.repository(name)
        manifest = self.net.result(upstream.manifest(repository, "latest"))
        response = self.net.result(upstream.blob(repository, DIGEST))
        sink = Sink()
        self.net.result(response.deliver(sink))
        return manifest.data, sink.data

    def fault(self, deferred: Deferred[Any]) -> BaseException:
        return self.net.fault(deferred)

    def asked(self, origin: str) -> list[Asked]:
        return [asked for asked in self.net.asked if asked.origin == origin]


PULLED = (MANIFEST, BLOB)

# -- Docker Hub -----------------------------------------------------------------------------------------------------

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


def test_docker_hub_gives_official_images_to_anybody() -> None:
    """`pull nginx` means library/nginx, with an anonymous token of another host that nobody had to configure."""
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
    """The token server is told; the registry gets its token, not my password."""
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


# -- GHCR -----------------------------------------------------------------------------------------------------------

GHCR = "https://ghcr.io"
GHCR_BLOBS = "https://pkg-containers.githubusercontent.com/ghcr1/blobs/x?sig=a%3D%3D"


def ghcr(**more: Any) -> tuple[Site, TokenServer, Registry]:
    site, server = Site(Ghcr(), GHCR, **more), TokenServer()
    placeholder = 'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"'

    def manifests(asked: Asked) -> Reply:
        covered = INDEX in ",".join(asked.fields.get("accept", []))
        return Reply(200, {"Content-Type": INDEX}, MANIFEST) if covered else problem(404, "MANIFEST_UNKNOWN")

    registry = Registry(
        "owner/app",
        challenge=placeholder,
        may=tokens("owner/app", server),
        blobs=leads_to(GHCR_BLOBS),
        manifests=manifests,
        pages={"/token": server},
    )
    site.net.servers[GHCR] = registry
    site.net.servers["https://pkg-containers.githubusercontent.com"] = storage()
    return site, server, registry


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


# -- Quay -----------------------------------------------------------------------------------------------------------

QUAY = "https://quay.io"


def quay(**more: Any) -> tuple[Site, TokenServer]:
    site, server = Site(Quay(), QUAY, **more), TokenServer()

    def manifests(asked: Asked) -> Reply:
        if "vnd.oci" not in ",".join(asked.fields.get("accept", [])):
            return Reply(200, {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, b"{}")
        return Reply(200, {"Content-Type": INDEX}, MANIFEST)

    site.net.servers[QUAY] = Registry(
        "org/app",
        challenge='Bearer realm="https://quay.io/v2/auth",service="quay.io"',
        may=tokens("org/app", server),
        blobs=leads_to("https://cdn03.quay.io/quayio-production-s3/sha256/x?Signature=y", 302),
        manifests=manifests,
        pages={"/v2/auth": server},
    )
    site.net.servers["https://cdn03.quay.io"] = storage()
    return site, server


def test_quay_gives_no_manifest_of_the_past() -> None:
    """It sends schema 1 to whoever accepts Docker's types only; and its challenge names no scope."""
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


# -- GCR and Artifact Registry --------------------------------------------------------------------------------------

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


# -- ECR ------------------------------------------------------------------------------------------------------------

ECR_HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
ECR = f"https://{ECR_HOST}"
BUCKET = "https://prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com"


class Aws:
    """GetAuthorizationToken: a new password each time."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, api: EcrApi) -> Mapping[str, Any]:
        self.given += 1
        token = base64.b64encode(f"AWS:password-{self.given}".encode()).decode()
        return {"authorizationData": [{"authorizationToken": token}]}


def credentials_of(api: EcrApi, aws: Aws) -> Callable[[UpstreamSettings, CredentialArguments], ICredentials]:
    return lambda settings, given: aws_credentials(api, settings, given.clock, given.threads, lambda: None, aws)


def ecr() -> tuple[Site, Aws, Registry]:
    aws = Aws()
    api = EcrApi("ecr", "eu-west-1")
    site = Site(Ecr(), ECR, credentials=credentials_of(api, aws))
    registry = Registry(
        "team/app",
        challenge=f'Basic realm="{ECR}/",service="ecr.amazonaws.com"',
        may=lambda authorization: authorization == basic("AWS", f"password-{aws.given}"),
        blobs=leads_to(f"{BUCKET}/x?X-Amz-Security-Token=y"),
    )
    site.net.servers[ECR] = registry
    site.net.servers[BUCKET] = storage()
    return site, aws, registry


def test_ecr_is_shown_awss_password_and_its_buckets_are_not() -> None:
    """Basic to the registry, nothing but the signed URL to S3."""
    site, aws, _ = ecr()
    assert site.pull("team/app") == PULLED
    assert aws.given == 1


def test_ecrs_password_that_ended_is_replaced_within_the_pull() -> None:
    """ECR says so with a 403; whoever pulls notices nothing."""
    site, aws, registry = ecr()
    upstream = site.upstream()
    site.net.result(upstream.manifest("team/app", "latest"))
    site.net.clock.advance(MIN_INTERVAL)

    def manifests(asked: Asked) -> Reply:
        if asked.one("authorization") == basic("AWS", "password-1"):
            return problem(403, "DENIED", "Your authorization token has expired. Reauthenticate and try again.")
        return Reply(200, {"Content-Type": INDEX}, MANIFEST)

    registry.may, registry.manifests = (lambda authorization: True), manifests
    assert site.net.result(upstream.manifest("team/app", "latest")).data == MANIFEST
    assert aws.given == 2


def test_ecrs_other_403_is_a_refusal() -> None:
    """A repository's policy says no: no new password changes that, and none is asked for."""
    site, aws, registry = ecr()
    registry.manifests = lambda asked: problem(403, "DENIED", "User is not authorized to perform: ecr:BatchGetImage")
    fault = site.fault(site.upstream().manifest("team/app", "latest"))
    assert isinstance(fault, UpstreamDenied)
    assert aws.given == 1


def test_ecr_may_leave_the_digest_out() -> None:
    """Some of its answers to HEAD had none: then it is not known, and no error."""
    site, _, _ = ecr()
    assert site.net.result(site.upstream().head("team/app", "latest")).digest is None


# -- ECR Public -----------------------------------------------------------------------------------------------------

ECR_PUBLIC = "https://public.ecr.aws"


def ecr_public(
    credentials: Callable[[UpstreamSettings, CredentialArguments], ICredentials | None] | None = None, **more: Any
) -> tuple[Site, TokenServer, Registry]:
    site, server = Site(EcrPublic(), ECR_PUBLIC, credentials=credentials, **more), TokenServer()
    registry = Registry(
        "docker/library/nginx",
        challenge='Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"',
        may=tokens("docker/library/nginx", server),
        blobs=leads_to("https://d5l0dvt14r5h8.cloudfront.net/x?Signature=y"),
        pages={"/token/": server},
    )
    site.net.servers[ECR_PUBLIC] = registry
    site.net.servers["https://d5l0dvt14r5h8.cloudfront.net"] = storage()
    return site, server, registry


def test_ecr_public_gives_to_anybody() -> None:
    """With a token of its own, for the scope of the image."""
    site, server, _ = ecr_public()
    assert site.pull("docker/library/nginx") == PULLED
    assert server.queries == [{"service": ["public.ecr.aws"], "scope": ["repository:docker/library/nginx:pull"]}]


def test_ecr_publics_token_that_ended_is_replaced_within_the_pull() -> None:
    """It says 400 then, without a challenge."""
    site, server, registry = ecr_public()
    upstream = site.upstream()
    site.net.result(upstream.manifest("docker/library/nginx", "latest"))

    def manifests(asked: Asked) -> Reply:
        if asked.one("authorization") == "Bearer token-1":
            return Reply(400, {}, b"")
        return Reply(200, {"Content-Type": INDEX}, MANIFEST)

    registry.manifests = manifests
    assert site.net.result(upstream.manifest("docker/library/nginx", "latest")).data == MANIFEST
    assert len(server.queries) == 2


def test_ecr_public_knows_who_logs_in() -> None:
    """With C{credentials: aws} its token server is shown AWS's password."""
    api = EcrApi("ecr-public", "us-east-1")
    site, server, _ = ecr_public(credentials_of(api, Aws()))
    server.logins = {basic("AWS", "password-1")}
    assert site.pull("docker/library/nginx") == PULLED


# -- ACR ------------------------------------------------------------------------------------------------------------

ACR = "https://contoso.azurecr.io"
ACR_BLOBS = "https://contoso.westeurope.data.azurecr.io"


def acr(**more: Any) -> tuple[Site, TokenServer, dict[str, str]]:
    """
    The token server takes a refresh token with POST, and answers 400 to a password with POST.

    The last value: which refresh token is good, by the Entra token it is given for.
    """
    site, server, good = Site(Acr(), ACR, **more), TokenServer(logins=set()), {"entra": "acr-refresh"}

    def token(asked: Asked) -> Reply:
        if asked.method == "GET":
            return server(asked)
        form = parse_qs(asked.body.decode())
        if form["grant_type"] != ["refresh_token"]:
            return Reply(400)
        if form["refresh_token"][0] not in good.values() or form["service"] != ["contoso.azurecr.io"]:
            return problem(401, "UNAUTHORIZED")
        given = json.loads(server.give(form["scope"][0]).body)["token"]
        return Reply(200, {}, json.dumps({"access_token": given}).encode())

    def exchange(asked: Asked) -> Reply:
        form = {key: value[0] for key, value in parse_qs(asked.body.decode()).items()}
        entra = form.pop("access_token", "")
        if asked.method != "POST" or form != {"grant_type": "access_token", "service": "contoso.azurecr.io"}:
            return Reply(400)
        if entra not in good:
            return problem(401, "UNAUTHORIZED")
        return Reply(200, {}, json.dumps({"refresh_token": good[entra]}).encode())

    registry = Registry(
        "team/app",
        challenge=f'Bearer realm="{ACR}/oauth2/token",service="contoso.azurecr.io",scope="repository:team/app:pull"',
        may=tokens("team/app", server),
        blobs=leads_to(f"{ACR_BLOBS}/x?sig=y%3D"),
        pages={"/oauth2/token": token, "/oauth2/exchange": exchange},
    )
    site.net.servers[ACR] = registry
    site.net.servers[ACR_BLOBS] = storage()
    return site, server, good


def test_acr_exchanges_entras_token_twice(tmp_path: Path) -> None:
    """For its own refresh token, and that for a token to pull; the dedicated data host sees neither."""
    (tmp_path / "token").write_text("entra\n")
    site, _, _ = acr(token_file=tmp_path / "token")
    assert site.pull("team/app") == PULLED
    methods = [(asked.method, asked.target.partition("?")[0]) for asked in site.asked(ACR)]
    assert methods.count(("POST", "/oauth2/exchange")) == 1
    assert methods.count(("POST", "/oauth2/token")) == 1
    assert site.asked(ACR_BLOBS)[0].one("authorization") is None


def test_a_renewed_entra_token_is_exchanged_without_a_restart(tmp_path: Path) -> None:
    """The file is replaced before the old token ends, or a little late; the next pull goes on."""
    (tmp_path / "token").write_text("entra")
    site, server, good = acr(token_file=tmp_path / "token")
    upstream = site.upstream()
    site.net.result(upstream.manifest("team/app", "latest"))
    (tmp_path / "new").write_text("entra-2")
    (tmp_path / "new").rename(tmp_path / "token")
    good.clear()
    good["entra-2"] = "acr-refresh-2"
    server.given.clear()
    assert site.net.result(upstream.manifest("team/app", "latest")).data == MANIFEST


def test_acr_takes_a_service_principals_password(tmp_path: Path) -> None:
    """With GET: its token server refuses passwords with POST."""
    (tmp_path / "p").write_text("s")
    site, server, _ = acr(username="app-id", password_file=tmp_path / "p")
    server.logins = {basic("app-id", "s")}
    assert site.pull("team/app") == PULLED


def test_acr_that_refuses_entras_token_denies(tmp_path: Path) -> None:
    """The token stands in no message."""
    (tmp_path / "token").write_text("wrong-s3cret")
    site, _, _ = acr(token_file=tmp_path / "token")
    upstream = site.upstream()
    asked = upstream.manifest("team/app", "latest")
    for _ in range(20):
        site.net.settle()
        site.net.clock.advance(1)
    fault = site.fault(asked)
    assert isinstance(fault, UpstreamDenied)
    assert "s3cret" not in str(fault)


# -- registry.k8s.io ------------------------------------------------------------------------------------------------

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


# -- Microsoft ------------------------------------------------------------------------------------------------------


def test_mcr_gives_without_any_token() -> None:
    """Blobs come from the region's host."""
    site = Site(Mcr(), "https://mcr.microsoft.com")
    site.net.servers["https://mcr.microsoft.com"] = Registry(
        "dotnet/runtime", blobs=leads_to("https://westeurope.data.mcr.microsoft.com/x?sig=y")
    )
    site.net.servers["https://westeurope.data.mcr.microsoft.com"] = storage()
    assert site.pull("dotnet/runtime") == PULLED
    assert all(asked.one("authorization") is None for asked in site.net.asked)


# -- Harbor ---------------------------------------------------------------------------------------------------------

HARBOR = "https://harbor.example"


def harbor(url: str = HARBOR, **more: Any) -> tuple[Site, TokenServer]:
    site, server = Site(Harbor(), url, **more), TokenServer()
    repository = "proxy/library/nginx"
    site.net.servers[HARBOR] = Registry(
        repository,
        challenge=f'Bearer realm="{HARBOR}/service/token",service="harbor-registry",scope="repository:x:pull"',
        may=tokens(repository, server),
        manifests=lambda asked: (
            Reply(200, {"Content-Type": INDEX, "Content-Length": "7"})
            if asked.method == "HEAD"
            else Reply(200, {"Content-Type": INDEX}, MANIFEST)
        ),
        pages={"/service/token": server},
    )
    return site, server


def test_harbor_gives_public_projects_to_anybody() -> None:
    """A project that is a proxy is a part of the name."""
    site, server = harbor()
    assert site.pull("proxy/library/nginx") == PULLED
    assert server.queries == [{"service": ["harbor-registry"], "scope": ["repository:proxy/library/nginx:pull"]}]


def test_harbors_robots_keep_their_names(tmp_path: Path) -> None:
    """Dollar and plus reach it as they are."""
    (tmp_path / "secret").write_text("s")
    site, server = harbor(username="robot$proxy+puller", password_file=tmp_path / "secret")
    server.logins = {basic("robot$proxy+puller", "s")}
    assert site.pull("proxy/library/nginx") == PULLED


# -- GitLab ---------------------------------------------------------------------------------------------------------


def gitlab(registry: str, realm: str, **more: Any) -> tuple[Site, TokenServer]:
    site, server = Site(GitLab(), registry, **more), TokenServer()
    site.net.servers[registry] = Registry(
        "group/project/app",
        challenge=f'Bearer realm="{realm}/jwt/auth",service="container_registry",scope="repository:x:pull"',
        may=tokens("group/project/app", server),
        blobs=leads_to("https://cdn.registry.gitlab-static.net/x?Expires=1&Signature=a-b_c=="),
    )
    site.net.servers[realm] = Registry("", pages={"/jwt/auth": server})
    site.net.servers["https://cdn.registry.gitlab-static.net"] = storage()
    return site, server


def test_gitlab_coms_tokens_come_from_gitlab_com(tmp_path: Path) -> None:
    """Another host that nobody has to name; a personal access token is enough; signatures keep their ends."""
    (tmp_path / "pat").write_text("glpat-x")
    site, server = gitlab("https://registry.gitlab.com", "https://gitlab.com", token_file=tmp_path / "pat")
    server.logins = {basic("oauth2", "glpat-x")}
    assert site.pull("group/project/app") == PULLED
    assert site.asked("https://cdn.registry.gitlab-static.net")[0].target.endswith("Signature=a-b_c==")


def test_my_own_gitlab_is_named_in_auth_hosts(tmp_path: Path) -> None:
    """Without that, its credentials do not go to a host that only the registry speaks for."""
    (tmp_path / "pat").write_text("glpat-x")
    hosts = ("https://registry.example", "https://gitlab.example")
    site, _ = gitlab(*hosts, token_file=tmp_path / "pat")
    assert isinstance(site.fault(site.upstream().manifest("group/project/app", "latest")), UpstreamRefused)
    assert site.asked(hosts[1]) == []
    site, server = gitlab(*hosts, token_file=tmp_path / "pat", auth_hosts=("gitlab.example",))
    server.logins = {basic("oauth2", "glpat-x")}
    assert site.pull("group/project/app") == PULLED


# -- JFrog, as any registry of the specification --------------------------------------------------------------------


def test_jfrogs_repositories_live_below_a_path(tmp_path: Path) -> None:
    """Its token server is there too and takes GET only; without an Accept it finds no manifest."""
    (tmp_path / "token").write_text("api-token")
    home = "https://jfrog.example"
    site = Site(STANDARD, f"{home}/docker-remote", username="me", password_file=tmp_path / "token")
    server = TokenServer(logins={basic("me", "api-token")})
    site.net.servers[home] = Registry(
        "library/nginx",
        path="/docker-remote",
        challenge=f'Bearer realm="{home}/api/docker/docker-remote/v2/token",service="jfrog.example"',
        may=tokens("library/nginx", server),
        manifests=lambda asked: (
            Reply(200, {"Content-Type": INDEX}, MANIFEST)
            if asked.fields.get("accept")
            else problem(404, "MANIFEST_UNKNOWN")
        ),
        pages={"/api/docker/docker-remote/v2/token": server},
    )
    assert site.pull("library/nginx") == PULLED


# -- what holds for all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_says_all_that_is_asked_of_one(adapter: type[Standard]) -> None:
    """And says it of a plain upstream without objection."""
    made = adapter()
    assert verifyObject(IAdapter, made)
    url = ECR if made.kind == "ecr" else "https://registry.example"
    made.check(UpstreamSettings(name="x", urls=(url,), kind=made.kind))
    assert made.scope("a/b") == "repository:a/b:pull"


@pytest.mark.parametrize("adapter", [each for each in ADAPTERS if each not in (Ecr, EcrPublic)])
def test_credentials_of_aws_are_for_awss_registries(adapter: type[Standard]) -> None:
    """A setting that would do nothing is refused."""
    made = adapter()
    with pytest.raises(ConfigError, match=r"upstreams\.x\.credentials: 'aws' is not for the kind"):
        made.check(UpstreamSettings(name="x", urls=("https://registry.example",), credentials="aws"))


@pytest.mark.parametrize("adapter", [DockerHub, Harbor])
def test_a_token_without_a_name_is_refused_where_it_needs_one(adapter: type[Standard]) -> None:
    """The message says what to write instead."""
    made = adapter()
    with pytest.raises(ConfigError, match=r"upstreams\.x\.token_file: .* give username .*and password_file instead"):
        made.check(UpstreamSettings(name="x", urls=("https://registry.example",), token_file=Path("/t")))


EXPIRED = b'{"errors":[{"code":"DENIED","message":"Your Authorization Token has expired."}]}'


@pytest.mark.parametrize(
    ("status", "said", "bearer", "challenged", "kinds"),
    [
        (403, EXPIRED, False, False, ["ecr"]),
        (403, b"User is not authorized", False, False, []),
        (400, EXPIRED, False, False, []),
        (400, b"", True, False, ["ecr-public"]),
        (400, b"", True, True, []),
        (400, b"", False, False, []),
        (404, b"", True, False, []),
    ],
)
def test_a_refusal_that_means_too_old_is_one_of_its_registry(
    status: int, said: bytes, bearer: bool, challenged: bool, kinds: list[str]
) -> None:
    """Everybody else's 403 and 400 mean what they say."""
    assert [each.kind for each in ADAPTERS if each().has_expired(status, said, bearer, challenged)] == kinds


def test_what_is_known_of_referrers() -> None:
    """GHCR and GitLab have none, so nobody asks; where reports differ it is found out."""
    known = {adapter.kind: adapter().has_referrers for adapter in ADAPTERS}
    assert [kind for kind, has in known.items() if has is False] == ["ghcr", "gitlab"]
    assert {known[kind] for kind in ("distribution", "dockerhub", "gcr", "k8s", "quay", "harbor")} == {None}


# -- forms ----------------------------------------------------------------------------------------------------------


def post(reply: Reply, fields: Mapping[str, str]) -> tuple[Net, Deferred[bytes]]:
    site = Site(STANDARD, "https://registry.example/path")
    site.net.servers["https://registry.example"] = lambda asked: reply
    return site.net, site.arguments().post("/oauth2/exchange", fields)


def test_a_form_is_sent_as_forms_are() -> None:
    """At the origin of the upstream, with its own agent."""
    fields = {"access_token": "a+b/c=", "service": "\u00e9 &"}
    net, answer = post(Reply(200, {}, b"given"), fields)
    assert net.result(answer) == b"given"
    (asked,) = net.asked
    assert (asked.method, asked.url, asked.agent) == ("POST", "https://registry.example/oauth2/exchange", "own")
    assert asked.one("content-type") == "application/x-www-form-urlencoded"
    assert asked.body.decode() == urlencode(fields)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(400), UpstreamDenied),
        (Reply(401), UpstreamDenied),
        (Reply(404), UpstreamDenied),
        (Reply(307, {"Location": "https://elsewhere.example/"}), UpstreamDenied),
        (Reply(429, {"Retry-After": "5"}), UpstreamRateLimited),
        (Reply(503), Exception),
        (Reply(200, {}, b"x" * (1024 * 1024 + 1)), UpstreamInvalid),
    ],
)
def test_a_form_that_is_refused_fails(reply: Reply, kind: type[Exception]) -> None:
    """It goes nowhere else, and nothing is missing because of it."""
    net, answer = post(reply, {"access_token": "x"})
    fault = net.fault(answer)
    assert isinstance(fault, kind)
    assert not isinstance(fault, UpstreamMissing)
    assert len(net.asked) == 1


def test_a_secret_that_comes_back_in_a_message_goes_no_further() -> None:
    """A server may repeat what it was sent; we do not."""
    net, answer = post(problem(401, "UNAUTHORIZED", "bad token s3cret-text"), {"access_token": "s3cret-text"})
    fault = net.fault(answer)
    assert "s3cret" not in str(fault)
    assert "401" in str(fault)
