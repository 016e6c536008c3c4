"""Registries of clouds as they behave, whose passwords and tokens are exchanged, answered by their kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from appliance.errors import (
    UpstreamDenied,
)
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.configured import CredentialArguments
from appliance.upstream.credentials.renewing import MIN_INTERVAL
from appliance.upstream.interfaces import ICredentials
from appliance.upstream.kinds.acr import Acr
from appliance.upstream.kinds.ecr import EcrApi, EcrPublic
from tests.rooms.upstream.net import Asked, Reply
from tests.rooms.upstream.registries import (
    INDEX,
    MANIFEST,
    PULLED,
    Aws,
    Registry,
    Site,
    TokenServer,
    basic,
    credentials_of,
    ecr,
    leads_to,
    problem,
    storage,
    tokens,
)

# -- ECR -------------------------------------------------------------------------------------------------------------


def test_ecr_is_shown_awss_password_and_its_buckets_are_not() -> None:
    """Basic to the registry, nothing but the signed URL to S3."""
    site, aws, _ = ecr()
    assert site.pull("team/app") == PULLED
    assert aws.given == 1


def test_ecrs_password_that_ended_is_replaced_within_the_pull() -> None:
    """ECR says so with a 403; the client that pulls notices nothing."""
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


# -- ECR Public ------------------------------------------------------------------------------------------------------


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


def test_ecr_public_gives_to_every_client() -> None:
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


# -- ACR -------------------------------------------------------------------------------------------------------------


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
