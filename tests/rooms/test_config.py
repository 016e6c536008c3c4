"""The configuration: what is right is understood, and options override it."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_network
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config
from appliance.errors import ConfigError
from appliance.explain import describe
from appliance.fields import Share
from appliance.settings import (
    AdminSettings,
    BundleSettings,
    ClientRateSettings,
    ConnectionSettings,
    ListenSettings,
    MatchSettings,
    PrefetchSettings,
    RetentionRules,
    RetentionSettings,
    RuleSettings,
    Settings,
    StaleSettings,
    UpstreamSettings,
)
from tests.rooms.configuration import ONE, PUBLIC_KEY, fault

# -- what is right --------------------------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults() -> None:
    """Every key has a default that is the same in the file's comments and here."""
    settings = config.parse("", "/etc/p.yaml")
    assert settings == Settings(
        store=Path("/var/lib/pullcache"),
        listen=(ListenSettings(name="listen-1", endpoint="tcp:port=5000", default_upstream=None, login="none"),),
        admin=AdminSettings(
            endpoint="tcp:port=5001:interface=127.0.0.1", socket="unix:/run/pullcache/admin.sock", metrics="open"
        ),
        offline=False,
        access_log="-",
        shutdown_grace=10.0,
        connections=ConnectionSettings(max=4096, max_per_address=1024, head_timeout=30.0, stall_timeout=900.0),
        bundles=BundleSettings(
            trust=(), require_signature=False, accept_callers_keys=False, inbox=None, site=None, aliases=()
        ),
        upstreams={},
    )


def test_an_upstream_with_a_url_only_has_the_defaults() -> None:
    """Five words in the file are enough for a registry."""
    assert config.parse("upstreams: {quay.io: {url: https://quay.io/}}", "p").upstreams == {
        "quay.io": UpstreamSettings(
            name="quay.io",
            urls=("https://quay.io",),
            aliases=(),
            kind="distribution",
            offline=False,
            fresh_for=60.0,
            revalidate_within=2.0,
            serve_stale=StaleSettings(missing=True, denied=True, rate_limited=True, unavailable=True),
            max_stale=None,
            missing_for=30.0,
            delete_missing=False,
            username=None,
            password_file=None,
            token_file=None,
            auth_file=None,
            credentials=None,
            ca_file=None,
            client_cert=None,
            client_key=None,
            insecure=False,
            proxy=None,
            proxy_username=None,
            proxy_password_file=None,
            auth_hosts=(),
            redirect_hosts=(),
            keep_pulls=0,
            max_connections=None,
            max_rate=None,
            segments=1,
            prefetch=PrefetchSettings(image="pulled", referrers=False),
            allow=("**",),
            deny=(),
        )
    }


def test_every_key_reaches_the_settings(tmp_path: Path) -> None:
    """What is written is what is in force; paths are relative to the folder of the file."""
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "own.pem").write_text("")
    (tmp_path / "pullcache.yaml").write_text(
        "store: kept\n"
        "listen: [{endpoint: 'tls:/pem:port=5000', name: nodes, default_upstream: HUB, login: offered,\n"
        "  checkers: 'file:/p', trusted_proxies: [10.0.0.1], client_ca_file: ca.pem, client_crl_file: ca.pem,\n"
        "  client_name: san},\n"
        "  {endpoint: 'unix:/run/p.sock'}]\n"
        "access: [{deny: {networks: [10.0.0.0/8, '::1']}}, {allow: {users: [ann, '*'], groups: ops, listeners: nodes,\n"
        "  repositories: [hub/app, '**'], actions: list}}, {allow: {}}]\n"
        "groups: {ops: [bob, eve], none: []}\n"
        "checkers: ['htpasswd:/etc/users']\n"
        "trusted_proxies: ['2001:db8::/32']\n"
        "client_rate: {requests: 50, bytes: 20MB}\n"
        "audit_log: off\n"
        "audit_size: 2MB\n"
        "admin: ~\n"
        "offline: true\n"
        "access_log: access.log\n"
        "shutdown_grace: 2m\n"
        "connections: {max: 100, max_per_address: 10, head_timeout: 5s, stall_timeout: 1h}\n"
        f"bundles: {{trust: [{PUBLIC_KEY}], require_signature: true, accept_callers_keys: true,\n"
        "  inbox: ., site: berth-3, aliases: [Cache.site, cache:5000]}\n"
        "retention: {keep_for: 7d, max_size: 200GB, keep_last: unlimited, keep: ['ghcr.io/**'], reserve: 10%,\n"
        "  grace: 0s}\n"
        "upstreams:\n"
        "  docker.io:\n"
        "    url: ['https://one.example/prefix', 'http://[::1]:5000']\n"
        "    aliases: [hub]\n"
        "    kind: dockerhub\n"
        "    offline: true\n"
        "    fresh_for: 0\n"
        "    revalidate_within: 500ms\n"
        "    serve_stale: {denied: false}\n"
        "    max_stale: 7d\n"
        "    missing_for: 5m\n"
        "    missing: delete\n"
        "    username: 'robot$project+name'\n"
        "    password_file: secret\n"
        "    ca_file: ca.pem\n"
        "    client_cert: own.pem\n"
        "    client_key: secret\n"
        "    proxy: https://proxy.example:3128/\n"
        "    proxy_username: p\n"
        "    proxy_password_file: secret\n"
        "    auth_hosts: [Auth.docker.io, 'other.example:8443']\n"
        "    redirect_hosts: ['*.Blobs.example', '[FE80::0]:443', 10.0.0.1]\n"
        "    keep_pulls: 20\n"
        "    max_connections: 8\n"
        "    max_rate: 40MB\n"
        "    segments: 4\n"
        "    prefetch: {image: index, referrers: true}\n"
        "    retention: {keep_for: unlimited, max_size: 20GB, keep_last: 3, keep: ['library/nginx:1.27*']}\n"
        "    allow: [library/*]\n"
        "    deny: [library/bad]\n"
        "    private: true\n"
    )
    settings = config.load(tmp_path / "pullcache.yaml")
    assert settings == Settings(
        store=tmp_path / "kept",
        listen=(
            ListenSettings(
                name="nodes",
                endpoint="tls:/pem:port=5000",
                default_upstream="docker.io",
                login="offered",
                checkers=("file:/p",),
                trusted_proxies=(ip_network("10.0.0.1"),),
                client_ca_file=tmp_path / "ca.pem",
                client_crl_file=tmp_path / "ca.pem",
                client_name="san",
            ),
            ListenSettings(name="listen-2", endpoint="unix:/run/p.sock"),
        ),
        access=(
            RuleSettings(deny=MatchSettings(networks=(ip_network("10.0.0.0/8"), ip_network("::1")))),
            RuleSettings(
                allow=MatchSettings(
                    users=("ann", "*"),
                    groups=("ops",),
                    listeners=("nodes",),
                    repositories=("docker.io/library/app", "**"),
                    actions=("list",),
                )
            ),
            RuleSettings(allow=MatchSettings()),
        ),
        groups={"ops": ("bob", "eve"), "none": ()},
        checkers=("htpasswd:/etc/users",),
        trusted_proxies=(ip_network("2001:db8::/32"),),
        client_rate=ClientRateSettings(requests=50, bytes=20_000_000),
        audit_log="off",
        audit_size=2_000_000,
        admin=None,
        offline=True,
        access_log=tmp_path / "access.log",
        shutdown_grace=120.0,
        connections=ConnectionSettings(max=100, max_per_address=10, head_timeout=5.0, stall_timeout=3600.0),
        bundles=BundleSettings(
            trust=(PUBLIC_KEY,),
            require_signature=True,
            accept_callers_keys=True,
            inbox=tmp_path,
            site="berth-3",
            aliases=("cache.site", "cache:5000"),
        ),
        retention=RetentionSettings(
            keep_for=7 * 86400.0,
            max_size=200 * 10**9,
            keep_last=inf,
            keep=("ghcr.io/**",),
            reserve=Share(percent=10),
            grace=0.0,
        ),
        upstreams={
            "docker.io": UpstreamSettings(
                name="docker.io",
                urls=("https://one.example/prefix", "http://[::1]:5000"),
                aliases=("hub",),
                kind="dockerhub",
                offline=True,
                fresh_for=0.0,
                revalidate_within=0.5,
                serve_stale=StaleSettings(denied=False),
                max_stale=604800.0,
                missing_for=300.0,
                delete_missing=True,
                username="robot$project+name",
                password_file=tmp_path / "secret",
                ca_file=tmp_path / "ca.pem",
                client_cert=tmp_path / "own.pem",
                client_key=tmp_path / "secret",
                proxy="https://proxy.example:3128",
                proxy_username="p",
                proxy_password_file=tmp_path / "secret",
                auth_hosts=("auth.docker.io", "other.example:8443"),
                redirect_hosts=("*.blobs.example", "[fe80::]:443", "10.0.0.1"),
                keep_pulls=20,
                max_connections=8,
                max_rate=40_000_000,
                segments=4,
                prefetch=PrefetchSettings(image="index", referrers=True),
                retention=RetentionRules(keep_for=inf, max_size=20 * 10**9, keep_last=3, keep=("library/nginx:1.27*",)),
                allow=("library/*",),
                deny=("library/bad",),
                private=True,
            )
        },
    )


def upstream(keys: str) -> UpstreamSettings:
    return config.parse(ONE % f"{keys}, private: false", "/etc/p.yaml").upstreams["ghcr.io"]


@pytest.mark.parametrize(
    ("keys", "fresh_for"),
    [
        ("revalidate: never", None),
        ("revalidate: always", 0.0),
        ("revalidate: 12h", 43200.0),
        ("revalidate: 0", 0.0),
        ("revalidate: ~", 60.0),
        ("revalidate: ~, fresh_for: 5m", 300.0),
    ],
)
def test_when_tags_are_asked_for_again_can_be_said_in_words(keys: str, fresh_for: float | None) -> None:
    """never, always or a duration: the same as fresh_for."""
    assert upstream(keys).fresh_for == fresh_for


def test_a_held_tag_that_is_gone_is_kept_unless_configured_otherwise() -> None:
    """Harbor deletes it; here it has to be asked for."""
    assert not upstream("missing: keep").delete_missing
    assert upstream("missing: delete").delete_missing


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ("token_file: /dev/null", "token_file"),
        ("auth_file: /dev/null", "auth_file"),
        ("credentials: aws", "credentials"),
        ("username: me, password_file: /dev/null", "password_file"),
    ],
)
def test_there_are_four_ways_to_credentials(keys: str, field: str) -> None:
    """Each alone is enough, and leaves the others empty, also where they are written as such."""
    empty = {"username": "~", "token_file": "~", "auth_file": "~", "credentials": "~"}
    others = ", ".join(f"{key}: {value}" for key, value in empty.items() if key not in keys)
    assert getattr(upstream(keys), field) in (Path("/dev/null"), "aws")
    assert upstream(keys) == upstream(f"{keys}, {others}")


def test_a_certificate_and_its_key_may_stand_in_one_file() -> None:
    """client_cert alone is enough then."""
    assert upstream("client_cert: /dev/null").client_key is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~", None),
        ("none", "none"),
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://proxy.example:3128/", "http://proxy.example:3128"),
        ("https://10.0.0.1:443", "https://10.0.0.1:443"),
        ("'http://[::1]:3128'", "http://[::1]:3128"),
    ],
)
def test_a_proxy_is_named_with_scheme_host_and_port(written: str, meant: str | None) -> None:
    """Or there is none, or the environment says."""
    assert upstream(f"proxy: {written}").proxy == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("AUTH.example", "auth.example"),
        ("auth.example:8443", "auth.example:8443"),
        ("'*.example'", "*.example"),
        ("'*.example:8443'", "*.example:8443"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("'[0:0::1]'", "[::1]"),
        ("'[FE80::1]:8443'", "[fe80::1]:8443"),
        ("localhost", "localhost"),
    ],
)
@pytest.mark.parametrize("key", ["auth_hosts", "redirect_hosts"])
def test_hosts_are_names_addresses_and_domains(key: str, written: str, meant: str) -> None:
    """In any case; an IPv6 address in any of its forms."""
    assert getattr(upstream(f"{key}: [{written}]"), key) == (meant,)


@given(st.ip_addresses(v=6), st.none() | st.integers(0, 65535))
def test_an_ipv6_address_is_one_host_however_it_is_written(address: IPv6Address, port: int | None) -> None:
    """Its long form and its short form mean the same."""
    end = "" if port is None else f":{port}"
    for written in (f"[{address}]{end}", f"[{address.exploded.upper()}]{end}"):
        assert upstream(f"auth_hosts: ['{written}']").auth_hosts == (f"[{address}]{end}",)


@given(st.text(alphabet="*.:[]ab01-/@ _", max_size=12))
def test_no_host_is_guessed(text: str) -> None:
    """What is taken is one host, in lower case and without anything around it."""
    try:
        (host,) = upstream(f"auth_hosts: ['{text}']").auth_hosts
    except ConfigError:
        return
    name = host.removeprefix("*.")
    assert not set("/@ *") & set(name)
    assert urlsplit(f"//{name}").hostname in (name, name.rpartition(":")[0], name.partition("]")[0].removeprefix("["))


BOUNDS = {"keep_pulls": (0, 1_000_000), "max_connections": (1, 1000), "segments": (1, 16)}


@given(st.sampled_from(sorted(BOUNDS)), st.integers(-5, 1_000_010) | st.integers(-5, 20))
def test_a_number_is_taken_within_its_bounds(key: str, number: int) -> None:
    """And refused outside them, with the bounds."""
    least, most = BOUNDS[key]
    if least <= number <= most:
        assert getattr(upstream(f"{key}: {number}"), key) == number
    else:
        assert f"no whole number from {least} to {most}" in fault(ONE % f"{key}: {number}")


@pytest.mark.parametrize(
    "written", ["08", "+8", "8.0", "1e1", "0x8", "1_0", "'8 '", "\u0668", "~", "yes", "'" + "9" * 5000 + "'"]
)
def test_a_number_is_written_in_plain_digits(written: str) -> None:
    """No octal, no fraction, nothing that reads otherwise elsewhere."""
    assert "segments" in fault(ONE % f"segments: {written}")


@pytest.mark.parametrize(("written", "octets"), [("~", None), ("1KB", 1000), ("40MB", 40_000_000), ("1GiB", 1 << 30)])
def test_a_rate_is_a_size_per_second(written: str, octets: int | None) -> None:
    """Or there is none."""
    assert upstream(f"max_rate: {written}").max_rate == octets


@pytest.mark.parametrize(
    ("written", "every", "rate"),
    [
        ("{}", 30 * 86400.0, 50_000_000),
        ("{every: 12h, rate: 10MB}", 43200.0, 10_000_000),
        ("{rate: 50MB/s}", 30 * 86400.0, 50_000_000),
        ("{every: never, rate: 1GiB/s}", None, 1 << 30),
    ],
)
def test_what_is_held_is_hashed_so_often_and_so_fast(written: str, every: float | None, rate: int) -> None:
    """Or never."""
    scrub = config.parse(f"scrub: {written}", "/etc/p.yaml").scrub
    assert (scrub.every, scrub.rate) == (every, rate)


def test_no_limit_on_connections_is_written_as_nothing() -> None:
    """~ is any number."""
    assert upstream("max_connections: ~").max_connections is None


def test_what_an_upstream_says_of_retention_holds_instead_of_what_is_said_for_all() -> None:
    """Key by key; unlimited switches a rule off, patterns add up, and a budget is each one's own."""
    settings = config.parse(
        "retention: {keep_for: 7d, keep_last: 5, max_size: 1GB, keep: [nginx]}\n"
        "upstreams: {a: {url: https://h, retention: {keep_for: unlimited, keep: ['x:1*']}}, b: {url: https://h}}",
        "/etc/p.yaml",
    )
    assert settings.rules_for("a") == RetentionRules(keep_for=inf, max_size=inf, keep_last=5, keep=("nginx", "a/x:1*"))
    week = 7 * 86400.0
    for other in ("b", "not.configured.any.more"):
        assert settings.rules_for(other) == RetentionRules(keep_for=week, max_size=inf, keep_last=5, keep=("nginx",))


@pytest.mark.parametrize(
    ("reserve", "disk", "octets"),
    [
        ("~", 10**9, 5 * 10**7),
        ("~", 10**12, 2 * 10**9),
        ("10%", 10**9, 10**8),
        ("0%", 10**9, 0),
        ("1MB", 10**9, 10**6),
        ("0B", 10**9, 0),
        ("1GB", 10**9, 5 * 10**7),
        ("5TB", 10**12, 2 * 10**9),
    ],
)
def test_a_reserve_that_the_disk_cannot_have_is_the_default(reserve: str, disk: int, octets: int) -> None:
    """A mistake in the unit empties no store."""
    assert config.parse(f"retention: {{reserve: {reserve}}}", "/etc/p.yaml").retention.reserved(disk) == octets


@pytest.mark.parametrize("kind", ["distribution", "ecr-public", "acr", "k8s", "ours2"])
def test_any_word_may_be_a_kind(kind: str) -> None:
    """Which there are is known to the plugins, a site's own among them."""
    assert upstream(f"kind: {kind}").kind == kind


def test_a_name_of_digits_needs_no_quotes() -> None:
    """YAML 1.1 would make octal and sexagesimal numbers of these; they stay as they are written."""
    settings = config.parse("store: 0123\nupstreams: {1.10: {url: http://h, aliases: [12345]}}", "/p.yaml")
    assert settings.store == Path("/0123")
    assert settings.upstream_for("12345") == "1.10"


@pytest.mark.parametrize(
    ("written", "meant"),
    [('"-"', "-"), ("off", "off"), ("'off'", "off"), ("./off", Path("/off")), ("/tmp/p.log", Path("/tmp/p.log"))],
)
def test_the_access_log_goes_where_it_is_configured(written: str, meant: str | Path) -> None:
    """With or without quotes, `off` is none; a path is relative to the folder of the file."""
    assert config.parse(f"access_log: {written}", "/p.yaml").access_log == meant


def test_a_secret_key_among_the_trusted_ones_is_not_repeated() -> None:
    """Who confuses the two files finds the secret in no log."""
    assert "RWRTY0IyHUNJ" not in fault("bundles: {trust: [RWRTY0IyHUNJ]}")


# -- options of the command line ------------------------------------------------------------------------------------


TWO = (
    "listen: [{endpoint: 'tcp:1', default_upstream: b}, {endpoint: 'tcp:2'}]\n"
    "upstreams: {docker.io: {url: https://h}, b: {url: https://h}}"
)


def test_an_option_overrides_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--store is relative to where the command is typed."""
    monkeypatch.chdir(tmp_path)
    before = config.parse(TWO, "/etc/p.yaml")
    after = config.overridden(before, store="kept", listen=["tcp:3", "tcp:4"], admin="tcp:5", offline=True)
    assert after == msgspec.structs.replace(
        before,
        store=tmp_path / "kept",
        listen=(
            ListenSettings(name="listen-1", endpoint="tcp:3", default_upstream="b"),
            ListenSettings(name="listen-2", endpoint="tcp:4", default_upstream="b"),
        ),
        admin=AdminSettings(endpoint="tcp:5"),
        offline=True,
    )


def test_an_absent_option_changes_nothing() -> None:
    """No option, no override; an offline file stays offline."""
    settings = config.parse(TWO + "\noffline: true", "/etc/p.yaml")
    assert config.overridden(settings) == settings


def test_a_listener_of_the_command_line_means_docker_hub_when_the_file_has_none() -> None:
    """So that --listen alone is enough for registry-mirrors."""
    settings = config.parse("upstreams: {docker.io: {url: https://h}}", "p")
    assert config.overridden(settings, listen=["tcp:3"]).listen[0].default_upstream == "docker.io"
    without = config.parse("upstreams: {b: {url: https://h}}", "p")
    assert config.overridden(without, listen=["tcp:3"]).listen[0].default_upstream is None


@pytest.mark.parametrize(("option", "value"), [("listen", ["5000"]), ("admin", "localhost:1")])
def test_a_wrong_option_is_named(option: str, value: object) -> None:
    """With the dashes it was typed with."""
    with pytest.raises(ConfigError, match=rf"^--{option}: '.*' is no endpoint; write one such as"):
        config.overridden(Settings(), **{option: value})  # type: ignore[arg-type]


def test_the_options_change_no_names() -> None:
    """Another address on the command line is still called the same; a default upstream changes nothing of it."""
    text = (
        "listen: [{endpoint: 'tcp:1', hosts: [Cache.Example, '*.b'], default_upstream: b}]\n"
        "admin: {endpoint: 'tcp:2', hosts: ['console.example:443']}\nupstreams: {b: {url: https://b.example}}\n"
    )
    settings = config.parse(text, "p.yaml")
    for each in (settings, config.overridden(settings, listen=["tcp:3"], admin="tcp:4")):
        assert each.listen[0].hosts == ("cache.example", "*.b") and each.admin is not None
        assert each.admin.hosts == ("console.example:443",)
    described = describe(settings)
    assert "means b; answers only to cache.example, *.b\n" in described
    assert "admin endpoint: tcp:2; asks for no login; answers to console.example:443 as well; " in described


# -- who may pull what ------------------------------------------------------------------------------------------------

GUARDED = (
    "listen: [{endpoint: 'tls:/p:port=1', name: edge, login: offered, client_ca_file: /dev/null}]\n"
    "admin: {endpoint: 'tcp:1', token_file: /dev/null, metrics: read}\n"
    "access: [{allow: {listeners: edge}}]\n"
)


def test_the_options_of_the_command_line_open_nothing() -> None:
    """Another address has the login and the name of the one it replaces; the admin endpoint keeps its tokens."""
    before = config.parse(GUARDED, "/etc/p.yaml")
    after = config.overridden(before, listen=["ssl:2", "tls:/p:port=3"], admin="tcp:5")
    assert [(each.name, each.login) for each in after.listen] == [("edge", "offered"), ("listen-2", "offered")]
    assert after.admin == msgspec.structs.replace(before.admin, endpoint="tcp:5")  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="^--listen: 'tcp:2' client_ca_file is of use only where"):
        config.overridden(before, listen=["tcp:2"])


@pytest.mark.parametrize(
    ("keys", "private"),
    [
        ("", False),
        ("username: me, password_file: /dev/null", True),
        ("token_file: /dev/null", True),
        ("auth_file: /dev/null", True),
        ("client_cert: /dev/null", True),
        ("kind: ecr", True),
        ("kind: ecr-public, credentials: aws", True),
        ("token_file: /dev/null, private: false", False),
        ("private: true", True),
    ],
)
def test_an_upstream_is_private_where_it_has_credentials_unless_the_file_says_otherwise(
    keys: str, private: bool
) -> None:
    """Whatever sort they are of; with a rule of access it starts."""
    settings = config.parse(f"{ONE % keys}\naccess: [{{allow: {{}}}}]", "/etc/p.yaml")
    assert settings.upstreams["ghcr.io"].is_private is private


def test_the_rule_that_a_refused_start_names_lets_it_start() -> None:
    """What the message says can be pasted."""
    text = ONE % "token_file: /dev/null"
    [line] = re.findall(r"access: \[.*\}\]", fault(text))
    assert config.parse(f"{text}\n{line}", "/etc/p.yaml").access[1] == RuleSettings(allow=MatchSettings())


def test_the_example_in_the_shipped_file_is_understood() -> None:
    """It shows every key of a rule."""
    shipped = (Path(__file__).parents[2] / "etc" / "pullcache.yaml").read_text()
    example = re.search(r"^#   access:\n(?:#     .*\n)+", shipped, re.MULTILINE)
    assert example is not None
    text = re.sub(r"^#   ", "", example[0], flags=re.MULTILINE)
    rules = config.parse(f"{text}groups: {{ops: []}}\nlisten: [{{endpoint: 'tcp:1', name: nodes}}]", "/p").access
    matches = [match for rule in rules for match in (rule.allow, rule.deny) if match is not None]
    assert len(matches) == len(rules) == 5
    assert all(any(getattr(match, key) for match in matches) for key in MatchSettings.__struct_fields__)


def test_the_examples_in_the_page_are_understood() -> None:
    """They can be pasted."""
    page = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
    examples = [each for each in re.findall(r"(?:^    .*\n)+", page, re.MULTILINE) if "    access:" in each]
    for each in examples:
        text = re.sub(r"^    ", "", each, flags=re.MULTILINE)
        assert config.parse(f"{text}listen: [{{endpoint: 'tcp:1', name: nodes}}]", "/p").access
    assert len(examples) >= 2


def test_a_listeners_own_balancers_and_checkers_hold_instead_of_the_common_ones() -> None:
    """None at all, too."""
    settings = config.parse(
        "trusted_proxies: [10.0.0.1]\ncheckers: ['file:/p']\n"
        "listen: [{endpoint: 'tcp:1', login: offered}, {endpoint: 'tcp:2', trusted_proxies: [], login: offered,\n"
        "  checkers: ['file:/q']}]",
        "/p",
    )
    first, second = settings.listen
    assert (settings.checkers_of(first), settings.checkers_of(second)) == (("file:/p",), ("file:/q",))
    assert (settings.proxies_of(first), settings.proxies_of(second)) == ((ip_network("10.0.0.1"),), ())


def reloaded(before: str, after: str, access: str = "[]") -> list[tuple[str, str | None, str]]:
    """What the open listeners are called, and their login, when C{listen} is another one and is read again."""
    first, second = (
        config.parse(f"listen: {each}\naccess: {access if each == after else '[]'}", "/p") for each in (before, after)
    )
    found = config.followed(second, first)[0].listen
    return [(each.endpoint, each.name, each.login) for each in found]


LOGIN = "login: offered, checkers: 'file:/p'"


def test_a_reload_keeps_what_is_open_and_follows_what_is_said_of_it() -> None:
    """Another endpoint takes a restart; another login of the same one does not."""
    after = f"[{{endpoint: 'tcp:3'}}, {{endpoint: 'tcp:1', {LOGIN}}}]"
    found = reloaded("[{endpoint: 'tcp:1'}, {endpoint: 'tcp:2', name: old}]", after)
    assert found == [("tcp:1", "listen-2", "offered"), ("tcp:2", "old", "none")]


def test_what_takes_a_restart_is_named_at_each_reload_until_then() -> None:
    """And stays as it was: the audit log, for one, does not go to a store that is not open."""
    first = config.parse("store: /old\nbundles: {site: a}\nadmin: {endpoint: 'tcp:5001:interface=127.0.0.1'}", "/p")
    second = config.parse(
        "store: /new\naccess_log: 'off'\nbundles: {site: b}\nlisten: [{endpoint: 'tcp:6'}]\nconnections: {max: 7}\n"
        "admin: {endpoint: 'tcp:5002', socket: 'unix:/s', metrics: read}",
        "/p",
    )
    for _ in range(2):
        first, later = config.followed(second, first)
        assert later == ["store", "access_log", "bundles", "listen: endpoint", "admin: endpoint", "admin: socket"]
        assert str(first.audit_path).startswith("/old/") and first.bundles.site == "a"
        assert first.admin is not None and first.admin.metrics == "read" and first.admin.endpoint.startswith("tcp:5001")
        assert first.connections.max == 7
    none = config.parse("admin: ~", "/p")
    assert config.followed(none, none)[1] == []
    assert config.followed(none, first)[0].admin == first.admin
    assert "admin" in config.followed(none, first)[1]


@pytest.mark.parametrize(
    ("after", "name"),
    [
        ("[{endpoint: 'tcp:3'}]", "listen-1"),
        ("[{endpoint: 'tcp:2'}]", "listen-1"),
        ("[{endpoint: 'tcp:1'}, {endpoint: 'tcp:3', name: edge}]", "edge"),
    ],
    ids=["another one has its name", "two have its name", "it is not open"],
)
def test_a_rule_never_moves_to_another_listener(after: str, name: str) -> None:
    """Where the listeners that are open are not those of the file, the old configuration stays."""
    with pytest.raises(ConfigError, match=f"a rule of access is about {name}, which would be another one until then"):
        reloaded("[{endpoint: 'tcp:1'}, {endpoint: 'tcp:2'}]", after, f"[{{deny: {{listeners: {name}}}}}]")
