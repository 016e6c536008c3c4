"""What a name means on this appliance: behind its own addresses, renamed, and of an upstream that is not configured."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from appliance.bundle import names as module
from appliance.bundle.names import Names, Renames, is_own_host, listener_at
from appliance.errors import NameInvalid
from appliance.settings import ListenSettings, Settings, UpstreamSettings

HUB = UpstreamSettings(name="docker.io", urls=("https://hub.example",), aliases=("dockerhub",))
GHCR = UpstreamSettings(name="ghcr.io", urls=("https://ghcr.example",))
SETTINGS = Settings(
    listen=(
        ListenSettings(endpoint="tcp:port=5000", default_upstream="docker.io"),
        ListenSettings(endpoint="tcp:5002:interface=10.0.0.7"),
        ListenSettings(endpoint=r"ssl:443:privateKey=k.pem:interface=\:\:", default_upstream="ghcr.io"),
        ListenSettings(endpoint="unix:/run/pullcache.sock"),
    ),
    upstreams={"docker.io": HUB, "ghcr.io": GHCR, "localhost:5009": HUB},
)
ALIASES = ("cache.site", "cache:5002", "cache:7000")
OWN = frozenset({"localhost", "127.0.0.1", "10.0.0.7", "[::1]", "berth"})


def names(settings: Settings = SETTINGS) -> Names:
    return Names(settings.upstream_for, lambda address: listener_at(settings, ALIASES, address, OWN.__contains__))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("localhost:5000/docker.io/library/nginx:1.27", "docker.io/library/nginx:1.27"),
        ("127.0.0.1:5000/ghcr.io/a/b", "ghcr.io/a/b"),
        ("[::1]:5000/ghcr.io/a/b", "ghcr.io/a/b"),
        ("BERTH:5000/dockerhub/nginx", "dockerhub/nginx"),
        ("berth:5000/library/nginx", "docker.io/library/nginx"),
        ("berth:5000/nginx@sha256:1", "docker.io/nginx@sha256:1"),
        ("berth/a/b", "ghcr.io/a/b"),
        ("berth:443/a/b", "ghcr.io/a/b"),
        ("10.0.0.7:5002/docker.io/a/b", "docker.io/a/b"),
        ("cache.site/docker.io/a/b", "docker.io/a/b"),
        ("cache.site:443/docker.io/a/b", "docker.io/a/b"),
        ("cache:7000/ghcr.io/a/b", "ghcr.io/a/b"),
        # An upstream that is not configured stays what it says, so that the message can name the next step.
        ("berth:5000/quay.example/a/b", "quay.example/a/b"),
        # Patterns.
        ("berth:5000/**", "**"),
        ("berth:5000/ghcr.io/**", "ghcr.io/**"),
        ("berth:5000/library/ngin*:1.*", "docker.io/library/ngin*:1.*"),
        # Not ours.
        ("berth:5001/docker.io/a/b", "berth:5001/docker.io/a/b"),
        ("other:5000/docker.io/a/b", "other:5000/docker.io/a/b"),
        ("localhost/tool:latest", "localhost/tool:latest"),
        ("localhost:5009/a/b", "localhost:5009/a/b"),
        ("docker.io/library/nginx", "docker.io/library/nginx"),
        ("nginx", "nginx"),
    ],
)
def test_what_stands_behind_an_address_of_ours_is_meant(name: str, meant: str) -> None:
    """As clients could have written it; what is no address of ours is left alone."""
    assert names().behind(name) == meant


@pytest.mark.parametrize("name", ["10.0.0.7:5002/library/nginx", "cache:5002/nginx", "cache:7000/nginx"])
def test_a_name_behind_which_nothing_stands_is_refused(name: str) -> None:
    """Its listener has no default, or it is not known which listener it is; the message names the next step."""
    with pytest.raises(NameInvalid, match="has no default_upstream; write .*--rename"):
        names().behind(name)


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        (("localhost:5000", "nginx"), ("docker.io", "library/nginx")),
        (("localhost:5000", "dockerhub/nginx"), ("docker.io", "library/nginx")),
        (("dockerhub", "nginx"), ("docker.io", "library/nginx")),
        (("registry.corp:5000", "team/app"), ("ghcr.io", "team/app")),
        (("registry.corp:5000", "team/special/app"), ("docker.io", "special/app")),
        (("registry.corp:5000", "team/specials/app"), ("ghcr.io", "team/specials/app")),
        (("registry.corp", "team/app"), ("registry.corp", "team/app")),
        # What the name means here may be renamed, too.
        (("berth:5000", "ghcr.io/old/app"), ("ghcr.io", "new/app")),
    ],
)
def test_prefixes_are_renamed_by_whole_components(place: tuple[str, str], meant: tuple[str, str]) -> None:
    """The longest counts, and what it becomes is read as any other name."""
    renames = Renames(
        {
            "registry.corp:5000": "ghcr.io",
            "registry.corp:5000/team/special": "localhost:5000/special",
            "ghcr.io/old": "ghcr.io/new",
        }
    )
    assert names().meant(*place, renames) == meant


def test_what_no_name_begins_with_is_known() -> None:
    """A misspelt prefix is reported."""
    renames = Renames({"a.corp": "ghcr.io", "b.corp": "ghcr.io"})
    names().meant("a.corp", "x", renames)
    assert list(renames.unused) == ["b.corp"]


@pytest.mark.parametrize("prefix", ["", "/", "a//b", "a/", "-x", "docker.io/Library", "a b", "docker.io/a:1", "a@b"])
def test_what_is_no_prefix_is_refused(prefix: str) -> None:
    """Neither on the one side nor on the other."""
    for pair in ({prefix: "docker.io"}, {"docker.io": prefix}):
        with pytest.raises(NameInvalid):
            Renames(pair)


def test_a_name_that_a_rename_leaves_without_a_repository_is_refused() -> None:
    """A whole name was given for a prefix."""
    with pytest.raises(NameInvalid):
        names().meant("a.corp", "x", Renames({"a.corp/x": "ghcr.io"}))


# -- which machine this is ------------------------------------------------------------------------------------------


def test_this_machine_is_known_by_its_addresses_and_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without asking a name service."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Berth.Site.Example")
    (tmp_path / "hosts").write_text("127.0.1.1 cache.site.example cache # us\n192.0.2.9 other\nnonsense line\n")
    monkeypatch.setattr(module, "_HOSTS", tmp_path / "hosts")
    own = [
        "localhost",
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
        "0.0.0.0",
        "berth.site.example",
        "berth",
        "cache.site.example",
    ]
    assert [host for host in own if not is_own_host(host)] == []
    foreign = ["192.0.2.9", "other", "site.example", "224.0.0.1", "[2001:db8::1]", "nowhere", ""]
    assert [host for host in foreign if is_own_host(host)] == []


def test_a_machine_without_a_hosts_file_has_its_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container may have none."""
    monkeypatch.setattr(module, "_HOSTS", tmp_path / "hosts")
    assert is_own_host("localhost") and not is_own_host("cache")


@pytest.mark.parametrize(
    ("endpoint", "port", "interface"),
    [
        ("tcp:port=5000", 5000, None),
        ("tcp:5000:interface=10.0.0.7", 5000, "10.0.0.7"),
        (r"tcp6:interface=\:\:1:port=5000", 5000, "::1"),
        ("ssl:port=443:privateKey=a.pem", 443, None),
        ("tls:/etc/tls:5443:interface=10.0.0.7", 5443, "10.0.0.7"),
        ("haproxy:tls:/etc/tls:port=5443", 5443, None),
        ("haproxy:tcp:5000", 5000, None),
        ("unix:/run/x.sock", None, None),
        ("systemd:domain=INET:index=0", None, None),
    ],
)
def test_an_endpoint_says_on_which_port_it_listens(endpoint: str, port: int | None, interface: str | None) -> None:
    """As Twisted reads it; where it does not say, aliases do."""
    listener = ListenSettings(endpoint=endpoint)
    assert (listener.port, listener.interface) == (port, interface)
