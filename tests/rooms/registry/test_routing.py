"""Which upstream and repository a request means."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import NameInvalid, NamespaceConflict, UpstreamUnknown
from appliance.registry.routing import RequestedName, is_plain, requested_name
from appliance.settings import Settings, UpstreamSettings

SETTINGS = Settings(
    upstreams={
        "docker.io": UpstreamSettings(name="docker.io", urls=("https://x",), aliases=("hub",), kind="dockerhub"),
        "ghcr.io": UpstreamSettings(name="ghcr.io", urls=("https://y",)),
        "reg.lan:5000": UpstreamSettings(name="reg.lan:5000", urls=("https://z",)),
    }
)


def route(name: str, *namespaces: str, default: str | None = "docker.io") -> RequestedName:
    return requested_name(name, namespaces, default, SETTINGS.upstream_for)


@pytest.mark.parametrize(
    ("name", "namespaces", "expected"),
    [
        ("nginx", [], RequestedName("docker.io", "nginx")),
        ("library/nginx", [], RequestedName("docker.io", "library/nginx")),
        ("docker.io/library/nginx", [], RequestedName("docker.io", "library/nginx")),
        ("Docker.IO/nginx", [], RequestedName("docker.io", "nginx")),
        ("hub/nginx", [], RequestedName("docker.io", "nginx")),
        ("index.docker.io/nginx", [], RequestedName("docker.io", "nginx")),
        ("registry-1.docker.io/nginx", [], RequestedName("docker.io", "nginx")),
        ("ghcr.io:443/a/b", [], RequestedName("ghcr.io", "a/b")),
        ("reg.lan:5000/a/b", [], RequestedName("reg.lan:5000", "a/b")),
        ("a/b", ["ghcr.io"], RequestedName("ghcr.io", "a/b", "ghcr.io")),
        ("a/b", ["reg.lan:5000"], RequestedName("reg.lan:5000", "a/b", "reg.lan:5000")),
        ("a/b", ["Hub"], RequestedName("docker.io", "a/b", "Hub")),
        ("ghcr.io/a", ["ghcr.io"], RequestedName("ghcr.io", "a")),
        ("ghcr.io/a", ["unknown.example"], RequestedName("ghcr.io", "a")),
        ("hub/a", ["docker.io"], RequestedName("docker.io", "a")),
        ("ghcr.io", [], RequestedName("docker.io", "ghcr.io")),
    ],
)
def test_the_path_then_ns_then_the_default(name: str, namespaces: list[str], expected: RequestedName) -> None:
    """In this order; what chose the upstream is not part of the repository's name."""
    assert route(name, *namespaces) == expected


@pytest.mark.parametrize(
    ("name", "namespaces", "error"),
    [
        ("a", ["ghcr.io", "ghcr.io"], NamespaceConflict),
        ("ghcr.io/a", ["docker.io"], NamespaceConflict),
        ("a", ["evil.example"], UpstreamUnknown),
        ("a", [""], UpstreamUnknown),
        ("evil.example/a", [], UpstreamUnknown),
        ("localhost:80/a", [], UpstreamUnknown),
        ("A", [], NameInvalid),
        ("docker.io/", [], NameInvalid),
        ("docker.io/../etc", [], NameInvalid),
        ("a//b", [], NameInvalid),
        ("a/b/", [], NameInvalid),
        ("a", ["ghcr.io/x"], UpstreamUnknown),
    ],
)
def test_what_means_nothing_is_refused(name: str, namespaces: list[str], error: type[Exception]) -> None:
    """A conflict is the client's mistake, an unknown upstream is never guessed."""
    with pytest.raises(error):
        route(name, *namespaces)


def test_without_a_default_a_bare_name_means_nothing() -> None:
    """No upstream is guessed for it."""
    with pytest.raises(UpstreamUnknown):
        route("nginx", default=None)


@given(st.text(max_size=300), st.lists(st.text(max_size=20), max_size=2))
def test_whatever_comes_a_target_is_a_configured_upstream_and_a_valid_name(name: str, namespaces: list[str]) -> None:
    """Anything else is one of the three refusals."""
    try:
        found = route(name, *namespaces)
    except (NameInvalid, NamespaceConflict, UpstreamUnknown):
        return
    assert found.upstream in SETTINGS.upstreams
    assert not set(found.repository) - set("abcdefghijklmnopqrstuvwxyz0123456789._-/")


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("/v2/nginx/manifests/v1", True),
        ("/v2/library/nginx/manifests/v1", True),
        ("/v2/docker.io/nginx/manifests/v1", True),
        ("/v2/hub/nginx/manifests/v1", True),
        ("/v2/index.docker.io/nginx/manifests/v1", True),
        ("/v2/nginx/manifests/v1?ns=docker.io", True),
        ("/v2/nginx/manifests/v1?ns=hub", True),
        ("/v2/hub/nginx/manifests/v1?ns=docker.io", True),
        ("/v2/a/b/manifests/v1?ns=reg.lan:5000", True),
        ("/v2/a/b/manifests/v1?ns=reg.lan%3A5000", True),
        ("/v2/Docker.IO/nginx/manifests/v1", False),
        ("/v2/docker.io:443/nginx/manifests/v1", False),
        ("/v2/nginx/manifests/v1/", False),
        ("/v2/nginx/manifests/v1?", False),
        ("/v2/nginx/manifests/v1?x=1", False),
        ("/v2/nginx/manifests/v1?ns=Docker.io", False),
        ("/v2/nginx/manifests/v1?ns=docker.io:443", False),
        ("/v2/nginx/manifests/v1?ns=docker%2Eio", False),
        ("/v2/nginx/manifests/v1?ns=docker.io&", False),
        ("/v2/nginx/manifests/v1?ns=docker.io&x=1", False),
        ("/v2/hub/nginx/manifests/v1?ns=nowhere", False),
        ("/v2/nginx/manifests/sha256%3A0123", False),
    ],
)
def test_one_thing_can_be_asked_for_in_few_ways(uri: str, plain: bool) -> None:
    """Of all others no answer is kept, so that no client fills the memory with spellings."""
    path, _, query = uri.partition("?")
    name = path.removeprefix("/v2/").partition("/manifests/")[0]
    wanted = route(name, *parse_qs(query).get("ns", []))
    assert is_plain(uri.encode(), name, wanted, SETTINGS.upstreams[wanted.upstream].names()) is plain
