"""
Registries in memory, each a simulation of one row of what is known about the big ones: who gives its tokens, where its
blobs are, what it refuses and how.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred

from appliance.flow.disk import InlineThreads
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.client import RegistryClient
from appliance.upstream.credentials.configured import CredentialArguments, credentials_for
from appliance.upstream.http.identity import HttpClient
from appliance.upstream.http.limits import Gate, Timeouts
from appliance.upstream.http.tokens import post_form
from appliance.upstream.interfaces import IAdapter, ICredentials
from appliance.upstream.kinds.acr import Acr
from appliance.upstream.kinds.dockerhub import DockerHub
from appliance.upstream.kinds.ecr import Ecr, EcrApi, EcrPublic, aws_credentials
from appliance.upstream.kinds.standard import STANDARD, Standard
from appliance.upstream.kinds.wellknown import Gcr, Ghcr, GitLab, Harbor, K8s, Mcr, Quay
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
    @ivar challenge: what it answers to a client that may not; C{None}: all may.
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
        """Manifest and blob, as a client that pulls C{name} gets them."""
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


def post(reply: Reply, fields: Mapping[str, str]) -> tuple[Net, Deferred[bytes]]:
    site = Site(STANDARD, "https://registry.example/path")
    site.net.servers["https://registry.example"] = lambda asked: reply
    return site.net, site.arguments().post("/oauth2/exchange", fields)
