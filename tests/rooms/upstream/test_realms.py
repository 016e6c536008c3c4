"""The rule for token servers: credentials go only where it was agreed."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import errors
from appliance.upstream.kinds.dockerhub import DockerHub
from tests.rooms.upstream.guarded import (
    BASIC,
    MANIFEST,
    Guarded,
    password,
)
from tests.rooms.upstream.net import (
    AUTH,
    REGISTRY,
    Net,
    Reply,
    upstream,
)

REALMS = [
    ("https://registry.example/token", (), None),
    ("https://REGISTRY.example:443/token", (), None),
    ("https://auth.example/token", ("auth.example",), None),
    ("https://auth.example:8443/token", ("auth.example",), None),
    ("https://auth.example:8443/token", ("auth.example:8443",), None),
    ("https://auth.example/token", ("auth.example:443",), None),
    ("https://auth.example/token", ("Auth.Example",), None),
    ("https://auth.example/token", ("*.example",), None),
    ("https://auth.example/token", ("auth.example:8443",), errors.UpstreamRefused),
    ("https://auth.example/token", ("*.auth.example",), errors.UpstreamRefused),
    ("https://evilexample/token", ("*.example",), errors.UpstreamRefused),
    ("https://auth.example/token", (), errors.UpstreamRefused),
    ("https://evil.example/token", ("auth.example",), errors.UpstreamRefused),
    ("https://registry.example:8443/token", (), errors.UpstreamRefused),
    ("http://registry.example/token", (), errors.UpstreamRefused),
    ("http://auth.example/token", ("auth.example",), errors.UpstreamRefused),
    ("https://auth.registry.example/token", (), errors.UpstreamRefused),
    ("https://registry.example.evil.example/token", (), errors.UpstreamRefused),
    ("https://registry.example@evil.example/token", (), errors.UpstreamInvalid),
    ("https://evil.example\\\\@registry.example/token", (), errors.UpstreamInvalid),
    ("https://169.254.169.254/token", (), errors.UpstreamRefused),
    ("https://[::1]/token", (), errors.UpstreamRefused),
    ("/token", (), errors.UpstreamInvalid),
    ("//registry.example/token", (), errors.UpstreamInvalid),
    ("file:///etc/passwd", (), errors.UpstreamInvalid),
    ("", (), errors.UpstreamInvalid),
]


@pytest.mark.parametrize(("realm", "auth_hosts", "expected"), REALMS)
def test_credentials_go_only_where_it_was_agreed(
    tmp_path: Path, realm: str, auth_hosts: tuple[str, ...], expected: type[errors.UpstreamError] | None
) -> None:
    """A server that answers for a registry must not be able to send our password elsewhere (CVE-2026-33540)."""
    net = Net()
    guarded = Guarded(net, realm)
    for origin in (
        "https://auth.example:8443",
        "https://evil.example",
        "http://registry.example",
        "http://auth.example",
    ):
        net.servers[origin] = guarded.registry
    asking = upstream(net, auth_hosts=auth_hosts, username="user", password_file=password(tmp_path))
    if expected is None:
        assert net.result(asking.manifest("a", "t")).data == MANIFEST
        assert guarded.token_requests()[0].one("authorization") == BASIC
        return
    fault = net.fault(asking.manifest("a", "t"))
    assert type(fault) is expected
    assert net.urls() == [REGISTRY + "/v2/a/manifests/t"]
    if expected is errors.UpstreamRefused:
        assert "token realm" in str(fault)


@pytest.mark.parametrize("realm", ["https://evil.example/token", ""])
def test_a_realm_that_cannot_be_asked_is_not_kept_in_mind(tmp_path: Path, realm: str) -> None:
    """Something else answered for the registry for a moment: the next pull asks the registry again, and succeeds."""
    net = Net()
    guarded = Guarded(net, realm)
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.fault(asking.manifest("a", "t"))
    guarded.realm = REGISTRY + "/token"
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_an_http_upstream_may_have_an_http_token_server() -> None:
    """A registry on the site's own network without TLS."""
    net = Net()
    guarded = Guarded(net, "http://auth.example/token")
    net.servers["http://registry.example"] = net.servers["http://auth.example"] = guarded.registry
    asking = upstream(net, ["http://registry.example"], auth_hosts=("auth.example",))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_docker_hub_knows_its_token_server() -> None:
    """auth.docker.io needs no configuration."""
    net = Net()
    guarded = Guarded(net, "https://auth.docker.io/token")
    net.servers["https://auth.docker.io"] = guarded.registry
    assert net.result(upstream(net, adapter=DockerHub()).manifest("library/nginx", "t")).data == MANIFEST


def test_other_hosts_are_asked_through_the_guarded_agent() -> None:
    """Only the configured origin is reached without the address rules."""
    net = Net()
    Guarded(net, AUTH + "/token")
    net.result(upstream(net, auth_hosts=("auth.example",)).manifest("a", "t"))
    sent = [(asked.origin, asked.agent) for asked in net.asked]
    assert sent == [(REGISTRY, "own"), (AUTH, "foreign"), (REGISTRY, "own")]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/token2", None),
        ("https://auth.example/token2", None),
        (REGISTRY + ":8443/token2", None),
        ("https://evil.example/token", errors.UpstreamRefused),
        ("http://registry.example/token", errors.UpstreamRefused),
        ("/token", errors.UpstreamInvalid),
    ],
    ids=["same host", "agreed host", "same host, other port", "elsewhere", "http", "loop"],
)
def test_a_token_servers_redirects_are_under_the_same_rule(
    tmp_path: Path, location: str, expected: type[errors.UpstreamError] | None
) -> None:
    """And the password stays at the origin it was meant for: another port is another server."""
    net = Net()
    guarded = Guarded(net)
    net.servers[REGISTRY + ":8443"] = guarded.registry
    guarded.grant = lambda asked: (
        guarded.give(asked) if "token2" in asked.target else Reply(307, {"Location": location})
    )
    agreed = ("auth.example", "registry.example:8443")
    asking = upstream(net, auth_hosts=agreed, username="user", password_file=password(tmp_path))
    if expected is None:
        assert net.result(asking.manifest("a", "t")).data == MANIFEST
        assert guarded.token_requests()[1].one("authorization") == (BASIC if location == "/token2" else None)
    else:
        assert type(net.fault(asking.manifest("a", "t"))) is expected
        assert {asked.origin for asked in net.asked} == {REGISTRY}
