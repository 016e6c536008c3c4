"""Registries that a site runs itself as they behave, answered by their kinds."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import (
    UpstreamRefused,
)
from appliance.upstream.kinds.standard import STANDARD
from tests.rooms.upstream.net import Reply
from tests.rooms.upstream.registries import (
    INDEX,
    MANIFEST,
    PULLED,
    Registry,
    Site,
    TokenServer,
    basic,
    gitlab,
    harbor,
    problem,
    tokens,
)

# -- Harbor ----------------------------------------------------------------------------------------------------------


def test_harbor_gives_public_projects_to_every_client() -> None:
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


# -- GitLab ----------------------------------------------------------------------------------------------------------


def test_gitlab_coms_tokens_come_from_gitlab_com(tmp_path: Path) -> None:
    """Another host that needs not be configured; a personal access token is enough; signatures keep their ends."""
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


# -- JFrog, as any registry of the specification ---------------------------------------------------------------------


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
