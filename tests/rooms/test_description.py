"""The words of --check."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import parse
from appliance.description import describe
from appliance.settings import AdminSettings, BundleSettings, Settings


def test_check_tells_what_the_file_means(tmp_path: Path) -> None:
    """In words, with the file of the password and never the password."""
    (tmp_path / "secret").write_text("hunter2")
    text = (
        "listen: [{endpoint: 'tcp:port=5000', default_upstream: docker.io}]\n"
        "admin: {endpoint: 'tcp:port=5001'}\n"
        "upstreams:\n"
        "  docker.io: {url: [http://one.example, https://two.example], username: me, password_file: secret,\n"
        "    fresh_for: 90s, max_stale: 7d, serve_stale: {missing: false}, auth_hosts: [t.example], deny: [x/**]}\n"
    )
    assert describe(parse(text, str(tmp_path / "p.yaml"))) == (
        "store: /var/lib/pullcache\n"
        "listens on tcp:port=5000; a name without an upstream means docker.io\n"
        "admin endpoint: tcp:port=5001\n"
        "access log: standard output\n"
        "online\n"
        "at a stop, transfers under way get 10s\n"
        "bundles: exported as the name of this machine; imported signed or not\n"
        "\n"
        "upstream docker.io (also index.docker.io, registry-1.docker.io)\n"
        "  from: http://one.example, then https://two.example\n"
        "  kind: distribution\n"
        "  tags: fresh for 90s, then revalidated within 2s\n"
        "  stale: served up to 7d past freshness when the upstream answers: denied, rate limited, unavailable\n"
        f"  credentials: username me, password from {tmp_path / 'secret'}\n"
        "  tokens: may also come from t.example\n"
        "  repositories: **, but not x/**\n"
        "\n"
        "warning: the admin endpoint tcp:port=5001 can be reached from other machines, and asks nobody who they are\n"
        "warning: docker.io: the password is sent over plain http\n"
        "warning: docker.io: without kind: dockerhub, nginx is not found as library/nginx\n"
    )


@pytest.mark.parametrize(
    ("bundles", "words"),
    [
        (BundleSettings(site="b"), "exported as b; imported signed or not"),
        (BundleSettings(trust=("k",)), "imported only when signed by the trusted key"),
        (BundleSettings(trust=("k", "l"), inbox=Path("/in")), "when signed by one of 2 trusted keys, also from /in"),
        (BundleSettings(require_signature=True), "imported only when signed"),
    ],
)
def test_check_says_whose_bundles_are_taken(bundles: BundleSettings, words: str) -> None:
    """Before one is refused."""
    assert f"{words}\n" in describe(Settings(bundles=bundles))


def test_check_warns_when_no_bundle_can_be_right() -> None:
    """A signature is wanted, and nobody's would do."""
    wanting = describe(Settings(bundles=BundleSettings(require_signature=True)))
    assert "warning: bundles: a signature is required and no key is trusted" in wanting


def test_check_warns_of_a_file_that_serves_nothing() -> None:
    """An empty file is right, and of no use."""
    assert "warning: no upstream is configured" in describe(Settings())

@pytest.mark.parametrize(
    ("access_log", "words"), [("-", "standard output"), ("off", "none"), (Path("/var/log/p.log"), "/var/log/p.log")]
)
def test_check_says_where_the_access_log_goes(access_log: str | Path, words: str) -> None:
    """A path as it will be opened."""
    assert f"\naccess log: {words}\n" in describe(Settings(access_log=access_log))


@pytest.mark.parametrize(
    ("admin", "warned"),
    [
        ("tcp:port=5001", True),
        ("tcp:port=5001:interface=10.0.0.1", True),
        ("tls:/etc/pem:port=5001", True),
        ("tcp:port=5001:interface=127.0.0.1", False),
        (r"tcp6:port=5001:interface=\:\:1", False),
        ("unix:/run/pullcache/admin.sock", False),
    ],
)
def test_check_warns_of_an_admin_endpoint_that_others_can_reach(admin: str, warned: bool) -> None:
    """It asks nobody who they are."""
    assert ("reached from other machines" in describe(Settings(admin=AdminSettings(endpoint=admin)))) is warned
