"""The words of --check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config import parse
from appliance.explain import describe, is_open, warnings
from appliance.identity.passwords import strangers
from appliance.settings import AdminSettings, BundleSettings, ListenSettings, Settings, UpstreamSettings

LOOPBACK = "tcp:port=5000:interface=127.0.0.1"
PROBLEM_FREE = UpstreamSettings(name="b", urls=("https://b.example",))


def written(path: Path, mode: int) -> Path:
    """A file with a secret that the words must not hold, with the permissions C{mode}."""
    path.write_text("hunter2")
    path.chmod(mode)
    return path


def warned(upstream: UpstreamSettings, *endpoints: str) -> list[str]:
    """What is warned of for an upstream b that is served on C{endpoints}, without the name."""
    listen = tuple(ListenSettings(endpoint=endpoint) for endpoint in endpoints or (LOOPBACK,))
    settings = Settings(listen=listen, admin=None, upstreams={"b": upstream})
    return [warning.removeprefix("b: ") for warning in warnings(settings)]


def changed(**fields: Any) -> UpstreamSettings:
    return msgspec.structs.replace(PROBLEM_FREE, **fields)


def test_check_tells_what_the_file_means(tmp_path: Path) -> None:
    """In words, with the file of the password and never the password."""
    secret = written(tmp_path / "secret", 0o600)
    written(tmp_path / "cert", 0o644)
    text = (
        "listen: [{endpoint: 'tcp:port=5000', default_upstream: docker.io}]\n"
        "admin: {endpoint: 'tcp:port=5001'}\n"
        "retention: {keep_for: 30d, max_size: 200GB}\n"
        "upstreams:\n"
        "  docker.io: {url: [http://one.example, https://two.example], username: me, password_file: secret,\n"
        "    private: false,\n"
        "    fresh_for: 90s, max_stale: 7d, serve_stale: {missing: false}, auth_hosts: [t.example], deny: [x/**]}\n"
        "  b: {url: https://b.example, offline: true, revalidate: never, missing_for: 0, missing: delete,\n"
        "    segments: 4, token_file: secret, insecure: true, client_cert: cert, client_key: secret,\n"
        "    proxy: 'http://proxy.example:1', proxy_username: them, proxy_password_file: secret,\n"
        "    redirect_hosts: ['*.c.example'], keep_pulls: 20, max_connections: 4, max_rate: 40MB,\n"
        "    referrers_fresh_for: 0, prefetch: {image: index, referrers: true},\n"
        "    retention: {keep_for: unlimited, keep_last: 3, keep: [team/**]}, private: false}\n"
    )
    assert describe(parse(text, str(tmp_path / "p.yaml"))) == (
        "store: /var/lib/pullcache\n"
        "listens on tcp:port=5000; a name without an upstream means docker.io\n"
        "admin endpoint: tcp:port=5001; asks for no login; metrics are open; also at unix:/run/pullcache/admin.sock\n"
        "access log: standard output\n"
        "audit log: /var/lib/pullcache/audit/audit.jsonl, put aside when it has 100MB\n"
        "access: everybody who reaches a listener may read everything\n"
        "online\n"
        "connections: at most 4096, 1024 from one address; a request has 30s to arrive, a client that takes nothing"
        " 15m\n"
        "at a stop, transfers under way get 10s\n"
        "bundles: exported as the name of this machine; imported signed or not\n"
        "retention: kept for 30d since the last pull; at most 200GB, the least recently pulled goes first; 5% or 2GB of"
        " the disk, the smaller, is left free, the least recently pulled goes for it; a blob stays for 1h in any case\n"
        "scrub: what is held is hashed again 30d after the last time, 50MB a second\n"
        "\n"
        "upstream docker.io (also index.docker.io, registry-1.docker.io)\n"
        "  from: http://one.example, then https://two.example\n"
        "  kind: distribution\n"
        "  tags: fresh for 90s, then revalidated within 2s\n"
        "  stale: served up to 7d past freshness when the upstream answers: denied, rate limited, unavailable\n"
        "  missing: believed for 30s; a held tag that the upstream has no more is kept\n"
        f"  credentials: username me, password from {secret}\n"
        "  proxy: as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say\n"
        "  tokens: may also come from t.example\n"
        "  images: the platforms that are pulled are made whole in the background\n"
        "  referrers: fresh for 10m\n"
        "  repositories: **, but not x/**\n"
        "\n"
        "upstream b\n"
        "  from: https://b.example\n"
        "  offline: never contacted, only what is held is served\n"
        "  kind: distribution\n"
        "  tags: not asked for again once held\n"
        "  stale: served at any age when the upstream answers: missing, denied, rate limited, unavailable\n"
        "  missing: asked for again each time; a held tag that the upstream has no more is deleted\n"
        f"  credentials: token from {secret}\n"
        "  certificates: any is accepted\n"
        f"  shows: the certificate from {tmp_path / 'cert'}, with the key from {secret}\n"
        f"  proxy: http://proxy.example:1, username them, password from {secret}\n"
        "  redirects: may lead to private addresses of *.c.example\n"
        "  limits: at most 4 requests at once, at most 40MB of blobs a second, 20 pulls of its rate limit are left to"
        " others\n"
        "  large blobs: in 4 ranges at once\n"
        "  images: all platforms of what is pulled are made whole in the background\n"
        "  referrers: always asked for, fetched along with an image\n"
        "  retention: kept the 3 tags of a repository that were pulled last; keep for: unlimited; always team/**\n"
        "  repositories: **\n"
        "\n"
        "warning: the admin endpoint tcp:port=5001 asks for no login: whoever has a process on this machine may order"
        " anything there; admin: {token_file: PATH} names who may\n"
        "warning: docker.io: what its credentials may pull is served to anyone who can reach tcp:port=5000\n"
        "warning: docker.io: the password is sent over plain http\n"
        "warning: docker.io: the password is shown to every host of it: one.example, two.example; give auth_file, where"
        " each host has its own, or make an upstream of each\n"
        "warning: docker.io: without kind: dockerhub, nginx is not found as library/nginx\n"
        "warning: b: what its credentials may pull is served to anyone who can reach tcp:port=5000\n"
        "warning: b: insecure: any certificate is accepted, and the server that shows it is given the credentials\n"
        "warning: b: one large blob in 4 segments takes every connection; give max_connections at least 5\n"
    )


@pytest.mark.parametrize(
    ("bundles", "words"),
    [
        (BundleSettings(site="b"), "exported as b; imported signed or not"),
        (BundleSettings(trust=("k",)), "imported only when signed by the trusted key"),
        (BundleSettings(aliases=("cache.site", "cache:5000")), "signed or not; also known as cache.site, cache:5000"),
        (BundleSettings(trust=("k",), accept_callers_keys=True), "or by a key that the caller of the import names"),
        (BundleSettings(trust=("k", "l"), inbox=Path("/in")), "when signed by one of 2 trusted keys, also from /in"),
        (BundleSettings(require_signature=True), "imported only when signed"),
    ],
)
def test_check_says_whose_bundles_are_taken(bundles: BundleSettings, words: str) -> None:
    """Before one is refused."""
    assert f"{words}\n" in describe(Settings(bundles=bundles))


def test_check_warns_when_no_bundle_can_be_right() -> None:
    """A signature is wanted, and no key is trusted."""
    wanting = describe(Settings(bundles=BundleSettings(require_signature=True)))
    assert "warning: bundles: a signature is required and no key is trusted" in wanting


def test_check_warns_of_a_file_that_serves_nothing() -> None:
    """An empty file is right, and of no use."""
    assert "warning: no upstream is configured" in describe(Settings())


def test_check_says_where_the_audit_log_goes() -> None:
    """And when it is put aside; or that there is none."""
    assert "\naudit log: none\n" in describe(Settings(audit_log="off"))
    assert "\naudit log: /a.jsonl, put aside when it has 1GB\n" in describe(
        Settings(audit_log=Path("/a.jsonl"), audit_size=10**9)
    )


@pytest.mark.parametrize(
    ("access_log", "words"), [("-", "standard output"), ("off", "none"), (Path("/var/log/p.log"), "/var/log/p.log")]
)
def test_check_says_where_the_access_log_goes(access_log: str | Path, words: str) -> None:
    """A path as it will be opened."""
    assert f"\naccess log: {words}\n" in describe(Settings(access_log=access_log))


@pytest.mark.parametrize(
    ("admin", "is_warned"),
    [
        ("tcp:port=5001:interface=127.0.0.1", True),
        (r"tcp6:port=5001:interface=\:\:1", True),
        # Twisted lets everybody open it.
        ("unix:/run/pullcache/admin.sock", True),
        ("unix:address=/run/pullcache/admin.sock:mode=666", True),
        ("unix:/run/pullcache/admin.sock:mode=660", False),
        ("unix:address=/run/pullcache/admin.sock:mode=0700", False),
    ],
)
def test_check_warns_of_an_admin_endpoint_that_asks_for_nothing(admin: str, is_warned: bool) -> None:
    """Every user of the machine reaches loopback; a socket's mode says who opens it."""
    described = describe(Settings(admin=AdminSettings(endpoint=admin)))
    assert ("warning: the admin endpoint" in described) is is_warned


@pytest.mark.parametrize(
    ("admin", "is_warned"),
    [
        ("tcp:port=5001", True),
        ("haproxy:tcp:port=5001", True),
        ("tls:/etc/pem:port=5001", False),
        ("haproxy:ssl:port=5001:privateKey=k:certKey=c", False),
        ("tcp:port=5001:interface=127.0.0.1", False),
    ],
)
def test_check_warns_of_tokens_that_are_sent_in_the_clear(tmp_path: Path, admin: str, is_warned: bool) -> None:
    """And of a file of them that all users may read; with its path, and none of its words."""
    tokens = written(tmp_path / "tokens", 0o640)
    settings = Settings(admin=AdminSettings(endpoint=admin, token_file=tokens), upstreams={"b": PROBLEM_FREE})
    assert len(warnings(settings)) == is_warned
    assert f"; asks for a token of {tokens};" in describe(settings)
    tokens.chmod(0o644)
    assert f"{tokens} holds tokens and can be read by everybody" in " ".join(warnings(settings))


def test_check_says_whose_certificates_operators_show() -> None:
    """And what each may do."""
    admin = AdminSettings(client_ca_file=Path("/ca"), client_roles={"ann": "manage", "prometheus": "read"})
    described = describe(Settings(admin=msgspec.structs.replace(admin, metrics="read", socket=None)))
    assert "; asks for a certificate of ann (manage), prometheus (read) by /ca; metrics are for" in described
    assert "; no socket\n" in described


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fresh_for": 0.0}, "tags: always revalidated within 2s"),
        ({"auth_file": Path("/a")}, "credentials: from /a, in docker's form"),
        ({"credentials": "aws"}, "credentials: from where AWS's own tools take theirs"),
        ({"kind": "ecr"}, "credentials: from where AWS's own tools take theirs"),
        ({"ca_file": Path("/ca")}, "certificates: only from the authorities in /ca"),
        ({"client_cert": Path("/c")}, "shows: the certificate from /c, with the key from there"),
        ({"proxy": "none"}, "proxy: none"),
        ({"proxy": "http://p:1"}, "proxy: http://p:1"),
        ({"max_rate": 1 << 20}, "limits: at most 1MiB of blobs a second"),
    ],
)
def test_check_says_what_a_key_means(fields: dict[str, Any], words: str) -> None:
    """In words that need no looking up."""
    assert f"\n  {words}\n" in describe(Settings(upstreams={"b": changed(**fields)}))


# -- warnings -------------------------------------------------------------------------------------------------------


def test_an_upstream_without_secrets_is_no_cause_for_warnings() -> None:
    """Neither where only this machine reaches it nor where all may do so."""
    assert warned(PROBLEM_FREE) == warned(PROBLEM_FREE, "tcp:port=5000") == []


@pytest.mark.parametrize(
    ("endpoint", "reached"),
    [
        ("tcp:port=5000", True),
        ("tcp:5000", True),
        ("tcp:port=5000:interface=10.0.0.1", True),
        ("tcp:port=5000:interface=0.0.0.0", True),
        (r"tcp6:port=5000:interface=\:\:", True),
        ("tcp:port=127", True),
        ("tls:/etc/pem:port=5000", True),
        ("tls:/etc/127.0.0.1.d:port=5000", True),
        ("systemd:domain=INET:index=0", True),
        ("haproxy:tcp:port=5000", True),
        (LOOPBACK, False),
        ("tcp:5000:127.0.0.1", False),
        ("tcp:interface=127.3.2.1:port=5000", False),
        ("tcp:port=5000:interface=localhost", False),
        (r"tcp6:port=5000:interface=\:\:1", False),
        ("tls:/etc/pem:port=5000:interface=127.0.0.1", False),
        ("unix:/run/pullcache.sock", False),
        ("haproxy:unix:/run/pullcache.sock", False),
        ("systemd:domain=UNIX:index=0", False),
    ],
)
def test_an_endpoint_is_open_unless_it_is_this_machines_own(endpoint: str, reached: bool) -> None:
    """Loopback and unix sockets are; what is not known is taken for open."""
    assert is_open(endpoint) is reached


@pytest.mark.parametrize(
    "fields",
    [
        {"username": "me", "password_file": Path("/p")},
        {"token_file": Path("/t")},
        {"auth_file": Path("/a")},
        {"credentials": "aws"},
        {"kind": "ecr"},
        {"client_cert": Path("/c")},
    ],
)
def test_a_private_upstream_is_not_given_away_in_silence(fields: dict[str, Any]) -> None:
    """A client that reaches the port pulls what our credentials may, without a login."""
    upstream = changed(**fields, private=False)
    open_ones = warned(upstream, LOOPBACK, "tcp:port=1", "unix:/s", "tcp:port=2")
    assert open_ones == ["what its credentials may pull is served to anyone who can reach tcp:port=1, tcp:port=2"]
    assert warned(upstream, LOOPBACK, "unix:/s") == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"username": "me", "password_file": Path("/p")}, "the password is sent over plain http"),
        ({"token_file": Path("/t")}, "the token is sent over plain http"),
        ({"auth_file": Path("/a")}, "the credentials are sent over plain http"),
    ],
)
def test_a_secret_is_not_sent_in_the_clear_in_silence(fields: dict[str, Any], words: str) -> None:
    """One plain URL among several is enough."""
    assert warned(changed(urls=("https://b", "http://b"), **fields)) == [words]
    assert warned(changed(urls=("https://b",), **fields)) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"username": "me", "password_file": Path("/p")}, "the password is shown to every host of it: b, B:5000;"),
        ({"token_file": Path("/t")}, "the token is shown to every host of it: b, B:5000;"),
        ({"token_file": Path("/t"), "kind": "acr"}, "the token is shown to every host of it: b, B:5000;"),
        ({"credentials": "aws", "kind": "ecr-public"}, "the credentials are shown to every host of it: b, B:5000;"),
        ({"auth_file": Path("/a")}, None),
        ({"kind": "ecr"}, None),
        ({"client_cert": Path("/c")}, None),
        ({}, None),
    ],
)
def test_one_secret_for_several_hosts_is_no_secret_between_two(fields: dict[str, Any], words: str | None) -> None:
    """A secret that is not kept by host goes to each: a mirror is shown the registry's password."""
    found = warned(changed(urls=("https://b/v", "https://b/w", "https://B:5000"), **fields))
    assert [each.partition(";")[0] + ";" for each in found] == ([] if words is None else [words.lower()])
    assert warned(changed(urls=("https://b/v", "https://b/w"), **fields)) == []


@pytest.mark.parametrize(
    ("key", "mode", "read"),
    [("password_file", 0o644, True), ("password_file", 0o604, True), ("token_file", 0o640, False)],
)
def test_a_secret_that_all_users_may_read_is_named(tmp_path: Path, key: str, mode: int, read: bool) -> None:
    """With its path, and what to do about it; a group of one's own may read it."""
    path = written(tmp_path / "secret", mode)
    found = warned(changed(**{key: path}))
    assert found == [f"{path} holds a secret and can be read by everybody on this machine; chmod o-r it"] * read


def test_every_file_with_a_secret_is_looked_at(tmp_path: Path) -> None:
    """Passwords, tokens and keys; a certificate is no secret unless its key stands with it."""
    path = written(tmp_path / "secret", 0o644)
    for key in ("password_file", "token_file", "auth_file", "client_key", "proxy_password_file", "client_cert"):
        assert len([warning for warning in warned(changed(**{key: path})) if str(path) in warning]) == 1
    own = written(tmp_path / "own", 0o600)
    assert warned(changed(client_cert=path, client_key=own)) == []


def test_a_secret_that_is_gone_is_not_warned_of(tmp_path: Path) -> None:
    """The warnings are about what is there."""
    assert warned(changed(password_file=tmp_path / "gone")) == []


def test_an_upstream_that_any_server_can_play_is_named() -> None:
    """insecure has its uses, and is not forgotten."""
    assert warned(changed(insecure=True)) == ["insecure: any certificate is accepted"]


@pytest.mark.parametrize(
    ("segments", "max_connections", "expected"),
    [(1, 1, False), (4, None, False), (4, 5, False), (4, 4, True), (2, 1, True)],
)
def test_segments_leave_a_connection_for_others(segments: int, max_connections: int | None, expected: bool) -> None:
    """Else one large blob keeps every manifest waiting."""
    found = warned(changed(segments=segments, max_connections=max_connections))
    assert [f"give max_connections at least {segments + 1}" in each for each in found] == [True] * expected


# -- who may pull what ------------------------------------------------------------------------------------------------

GUARDED = """
listen:
  - {endpoint: 'tls:/p:port=1', login: offered, checkers: ['htpasswd:/etc/users', 'memory:ann:hunter2']}
  - {endpoint: 'tls:/p:port=2', name: nodes, client_ca_file: /dev/null}
upstreams: {ghcr.io: {url: https://ghcr.io, private: true}, quay.io: {url: https://quay.io}}
groups: {ops: [ann, bob]}
client_rate: {requests: 50, bytes: 20MB}
access: [%s]
"""


def doubts(access: str, text: str = GUARDED) -> list[str]:
    return [each for each in warnings(parse(text % access, "/p.yaml")) if "access" in each or "groups" in each]


def test_check_says_who_may_pull_what() -> None:
    """The rules in their order, how clients log in on each listener, and no password that a checker was given."""
    words = describe(parse(GUARDED % "{deny: {networks: 10.0.0.1}}, {allow: {groups: ops}}, {allow: {}}", "/p.yaml"))
    for line in (
        "listens on tls:/p:port=1; a name without an upstream means nothing; listen-1: login offered, by htpasswd or"
        " memory",
        "listens on tls:/p:port=2; a name without an upstream means nothing; nodes: login none, by certificates",
        "access[0]: deny networks 10.0.0.1",
        "access[1]: allow groups ops",
        "access[2]: allow everything",
        "group ops: ann bob",
        "each client: at most 50 requests and 20MB a second",
        "  private: served to those whom a rule of access lets in, and to no others",
    ):
        assert f"{line}\n" in words
    assert "hunter2" not in words


@pytest.mark.parametrize(
    ("access", "words"),
    [
        (
            "{allow: {groups: ops}}, {deny: {}}, {allow: {}}",
            "access[2] is never asked: access[1] decides about everything",
        ),
        (
            "{allow: {groups: ops, repositories: 'gcr.io/**'}}",
            "gcr.io/** matches nothing: no upstream is called gcr.io",
        ),
        ("{allow: {groups: ops, repositories: '*.com/**'}}", "*.com/** matches nothing: no upstream is called *.com"),
        ("{allow: {groups: ops, users: 'system:*'}}", "is about a user called system:*"),
        ("{allow: {}}", "groups.ops is in no rule of access"),
    ],
)
def test_a_rule_that_does_nothing_is_pointed_out(access: str, words: str) -> None:
    """It was meant to do something."""
    [found] = doubts(access)
    assert words in found


def test_a_rule_behind_one_that_allows_all_still_opens_what_is_private() -> None:
    """That one did not."""
    access = "{allow: {groups: ops}}, {allow: {}}, {allow: {repositories: 'ghcr.io/**'}}"
    assert doubts(access) == []
    assert len(doubts(access, GUARDED.replace("private: true", "private: false"))) == 1


def test_a_rule_about_users_needs_a_listener_where_they_log_in() -> None:
    """Otherwise it is about nobody."""
    text = "access: [%s]"
    assert "and no listener has a login or a client_ca_file" in doubts("{allow: {users: ann}}", text)[0]
    text += "\ngroups: {ops: []}\nlisten: [{endpoint: 'tcp:1', login: offered, checkers: 'file:/p'}]"
    assert doubts("{allow: {groups: ops}}", text) == ["access[0] is about nobody: its groups are empty"]


@pytest.mark.parametrize(
    ("keys", "warned_of"),
    [
        ("endpoint: 'tcp:port=1'", True),
        ("endpoint: 'haproxy:tcp:port=1'", True),
        ("endpoint: 'tcp:port=1:interface=127.0.0.1'", False),
        ("endpoint: 'tls:/p:port=1'", False),
        ("endpoint: 'haproxy:ssl:port=1'", False),
        ("endpoint: 'tcp:port=1', trusted_proxies: [10.0.0.1]", False),
    ],
)
def test_a_login_that_takes_no_password_is_pointed_out(keys: str, warned_of: bool) -> None:
    """Over a connection that others can read none is looked at."""
    text = f"listen: [{{{keys}, name: edge, login: offered, checkers: 'file:/p'}}]"
    found = [each for each in warnings(parse(text, "/p.yaml")) if each.startswith("edge: over plain http")]
    assert bool(found) is warned_of


@pytest.mark.parametrize(
    ("access", "served"),
    [
        ("{allow: {}}", False),
        ("{allow: {repositories: '**'}}, {deny: {networks: 10.0.0.0/8}}", False),
        ("{allow: {networks: 10.0.0.0/8}}", True),
        ("{allow: {repositories: 'ghcr.io/team/*'}}", True),
    ],
)
def test_a_private_upstream_that_nobody_may_read_is_pointed_out(access: str, served: bool) -> None:
    """It was configured to be read."""
    text = "upstreams: {ghcr.io: {url: https://ghcr.io, private: true}}\naccess: [%s]"
    assert any("nothing of it is served" in each for each in doubts(access, text)) is not served
    offered = f"{text}\nlisten: [{{endpoint: 'tcp:1', login: offered, checkers: 'file:/p'}}]"
    assert not any("nothing of it is served" in each for each in doubts(access, offered))


def test_users_whom_nobody_knows_are_pointed_out(tmp_path: Path) -> None:
    """Those of the file of passwords; where others may know them nothing is said."""
    users = tmp_path / "htpasswd"
    users.write_text("ann:$2b$04$abcdefghijklmnopqrstuuJ2XmnPZNdnpb3DhMSWnV2Rn6Wgp8aLe\n")
    text = (
        f"checkers: ['htpasswd:{users}']\nlisten: [{{endpoint: 'tls:/p:port=1', login: offered%s}}]\n"
        "groups: {ops: [ann, eve]}\naccess: [{allow: {users: [bob, '*'], groups: ops}}]"
    )
    settings = parse(text % "", "/p.yaml")
    assert strangers(settings) == ["bob", "eve"]
    assert "warning: access: no checker knows the user bob\n" in describe(settings, strangers(settings))
    assert strangers(parse(text % ", client_ca_file: /dev/null", "/p.yaml")) == []
    assert strangers(parse(text % f", checkers: ['htpasswd:{users}', 'memory:eve:x']", "/p.yaml")) == []


PROXIES = ["10.0.0.0/24"]


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        ({"endpoint": "haproxy:tcp:port=5000"}, "whoever reaches it may say that he is any address"),
        ({"endpoint": "haproxy:tcp:port=5000", "trusted_proxies": PROXIES}, None),
        ({"endpoint": "haproxy:tcp:port=5000:interface=127.0.0.1"}, None),
        ({"endpoint": "tcp:port=5000"}, None),
    ],
)
def test_a_listener_that_anybody_fools_is_not_open_in_silence(listener: dict[str, Any], words: str | None) -> None:
    """Rules by network are worth nothing there."""
    document = {"checkers": ["unix"], "listen": [{**listener, "name": "door"}]}
    found = [each for each in warnings(parse(json.dumps(document), "f")) if each.startswith("door: ")]
    assert [words in each for each in found if words is not None] == [True] * (words is not None)
    assert len(found) == (words is not None)
