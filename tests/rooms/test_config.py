"""The configuration: what is right is understood, what is wrong is named with its key and its cure."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config
from appliance.errors import ConfigError
from appliance.explain import describe
from appliance.settings import (
    AdminSettings,
    BundleSettings,
    ConnectionSettings,
    ListenSettings,
    PrefetchSettings,
    Settings,
    StaleSettings,
    UpstreamSettings,
)
from appliance.yamltree import LIMIT

PUBLIC_KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
ONE = "upstreams: {ghcr.io: {url: https://ghcr.io, %s}}"


def fault(text: str, source: str = "/etc/p.yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, source)
    return str(caught.value)


# -- what is right --------------------------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults() -> None:
    """Every key has a default that is the same in the file's comments and here."""
    settings = config.parse("", "/etc/p.yaml")
    assert settings == Settings(
        store=Path("/var/lib/pullcache"),
        listen=(ListenSettings(endpoint="tcp:port=5000", default_upstream=None),),
        admin=AdminSettings(endpoint="tcp:port=5001:interface=127.0.0.1"),
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
        "listen: [{endpoint: 'tcp:5000', default_upstream: HUB}, {endpoint: 'unix:/run/p.sock'}]\n"
        "admin: ~\n"
        "offline: true\n"
        "access_log: access.log\n"
        "shutdown_grace: 2m\n"
        "connections: {max: 100, max_per_address: 10, head_timeout: 5s, stall_timeout: 1h}\n"
        f"bundles: {{trust: [{PUBLIC_KEY}], require_signature: true, accept_callers_keys: true,\n"
        "  inbox: ., site: berth-3, aliases: [Cache.site, cache:5000]}\n"
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
        "    allow: [library/*]\n"
        "    deny: [library/bad]\n"
    )
    settings = config.load(tmp_path / "pullcache.yaml")
    assert settings == Settings(
        store=tmp_path / "kept",
        listen=(
            ListenSettings(endpoint="tcp:5000", default_upstream="docker.io"),
            ListenSettings(endpoint="unix:/run/p.sock"),
        ),
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
                allow=("library/*",),
                deny=("library/bad",),
            )
        },
    )


def upstream(keys: str) -> UpstreamSettings:
    return config.parse(ONE % keys, "/etc/p.yaml").upstreams["ghcr.io"]


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


def test_a_held_tag_that_is_gone_is_kept_unless_told_otherwise() -> None:
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


def test_no_limit_on_connections_is_written_as_nothing() -> None:
    """~ is any number."""
    assert upstream("max_connections: ~").max_connections is None


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
def test_the_access_log_goes_where_it_is_told(written: str, meant: str | Path) -> None:
    """With or without quotes, `off` is none; a path is relative to the folder of the file."""
    assert config.parse(f"access_log: {written}", "/p.yaml").access_log == meant


def test_a_secret_key_among_the_trusted_ones_is_not_repeated() -> None:
    """Who confuses the two files finds the secret in no log."""
    assert "RWRTY0IyHUNJ" not in fault("bundles: {trust: [RWRTY0IyHUNJ]}")


# -- what is wrong --------------------------------------------------------------------------------------------------


WRONG_KEYS = [
    ("stroe: /x", "stroe", "did you mean store"),
    ('"a\\nb": 1', "'a\\nb'", "unknown key"),
    ("store: yes", "store", "true is a truth value"),
    ("store: [a]", "store", "a list stands where text"),
    ("store: ''", "store", "''"),
    ('store: "a\\nb"', "store", "not printable"),
    ("offline: maybe", "offline", "'maybe' is neither true nor false"),
    ("offline: 1", "offline", "'1' is neither"),
    ("access_log: on", "access_log", "true is a truth value to YAML; write - or off"),
    ("access_log: ~", "access_log", "nothing stands where text"),
    ("access_log: /", "access_log", "'/' is no file"),
    ("access_log: gone/p.log", "access_log", "no file at /etc/gone/p.log"),
    ("shutdown_grace: 10", "shutdown_grace", "'10' is no duration"),
    ("shutdown_grace: ~", "shutdown_grace", "nothing stands where text"),
    ("connections: ~", "connections", "nothing stands where keys"),
    ("connections: {maximum: 1}", "connections.maximum", "unknown key"),
    ("connections: {max: 0}", "connections.max", "'0' is no whole number from 1"),
    ("connections: {max_per_address: many}", "connections.max_per_address", "'many' is no whole number"),
    ("connections: {head_timeout: 30}", "connections.head_timeout", "'30' is no duration"),
    ("connections: {stall_timeout: 0}", "connections.stall_timeout", "give at least 1s"),
    ("bundles: ~", "bundles", "nothing stands where keys"),
    ("bundles: {trusted: []}", "bundles.trusted", "did you mean trust"),
    ("bundles: {accept_callers_keys: all}", "bundles.accept_callers_keys", "true nor false"),
    ("bundles: {aliases: cache.site}", "bundles.aliases", "stands where a list"),
    ("bundles: {aliases: [https://cache.site]}", "bundles.aliases[0]", "without https://"),
    ('bundles: {aliases: ["*.site"]}', "bundles.aliases[0]", "write each HOST"),
    ("bundles: {aliases: [a, b.io]}\nupstreams: {b.io: {url: https://b.io}}", "bundles.aliases[1]", "upstream b.io"),
    ("bundles: {trust: RWQ}", "bundles.trust", "stands where a list"),
    ("bundles: {trust: [RWQ]}", "bundles.trust[0]", "begins with RW"),
    (f"bundles: {{trust: [{PUBLIC_KEY}, x{PUBLIC_KEY[1:]}]}}", "bundles.trust[1]", "second line"),
    ("bundles: {require_signature: 1}", "bundles.require_signature", "'1' is neither"),
    ("bundles: {inbox: /no/such}", "bundles.inbox", "no folder at /no/such"),
    ("bundles: {site: a b}", "bundles.site", "'a b' is no name for a site"),
    ("admin: 5001", "admin", "'5001' stands where keys"),
    ("admin: {port: 1}", "admin.port", "the keys here are endpoint"),
    ("admin: {endpoint: 5001}", "admin.endpoint", "tcp:port="),
    ("listen: tcp:port=5000", "listen", "stands where a list"),
    ("listen: []", "listen", "at least one"),
    ("listen: [{}]", "listen[0].endpoint", "missing"),
    ("listen: [{endpoint: 5000}]", "listen[0].endpoint", "'5000' is no endpoint"),
    ("listen: [{endpoint: 'localhost:5000'}]", "listen[0].endpoint", "'localhost:5000' is no endpoint"),
    ("listen: [{endpoint: 'tcp:port=70000'}]", "listen[0].endpoint", "up to 65535"),
    ("listen: [{endpoint: 'tcp:interface=::1'}]", "listen[0].endpoint", "up to 65535"),
    ("listen: [{endpoint: 'tcp:1'}, {endpoint: 'tcp:1'}]", "listen[1].endpoint", "twice"),
    ("listen: [{endpoint: 'tcp:1', hosts: ['https://a']}]", "listen[0].hosts[0]", "is no host; write HOST, HOST:PORT"),
    ("listen: [{endpoint: 'tcp:1', hosts: a}]", "listen[0].hosts", "stands where a list is wanted"),
    ("admin: {endpoint: 'tcp:1', hosts: ['a/b']}", "admin.hosts[0]", "is no host; write HOST, HOST:PORT"),
    ("listen: [{endpoint: 'tcp:1', default_upstream: nowhere}]", "listen[0].default_upstream", "'nowhere' is no upstr"),
    ("upstreams: [ghcr.io]", "upstreams", "a list stands where keys"),
    ("upstreams: {GHCR.io: {url: https://h}}", "upstreams.GHCR.io", "in lower case"),
    ("upstreams: {'..': {url: https://h}}", "upstreams...", "no name for an upstream"),
    ("upstreams: {a/b: {url: https://h}}", "upstreams.a/b", "without /"),
    ("upstreams: {'a:99999': {url: https://h}}", "upstreams.a:99999", "no name for an upstream"),
    ("upstreams: {'a:443': {url: https://h}}", "upstreams.a:443", "leave the port out"),
    ("upstreams: {_layout: {url: https://h}}", "upstreams._layout", "no name for an upstream"),
    ("upstreams: {a: ~}", "upstreams.a", "nothing stands where keys"),
    ("upstreams: {a: {}}", "upstreams.a.url", "missing"),
    ("upstreams: {a: {url: []}}", "upstreams.a.url", "at least one"),
    ("upstreams: {a: {url: [https://h, h]}}", "upstreams.a.url[1]", "'h' is no URL"),
    ("upstreams: {a: {url: ftp://h}}", "upstreams.a.url", "'ftp://h' is no URL"),
    ("upstreams: {a: {url: 'https://'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h:0'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h:x'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h:99999'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://[::1'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h/../x'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h/%2e'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h h'}}", "upstreams.a.url", "no URL"),
    ("upstreams: {a: {url: 'https://h/v2/'}}", "upstreams.a.url", "leave it out"),
    ("upstreams: {a: {url: 'https://h?x=1'}}", "upstreams.a.url", "query"),
    ("upstreams: {a: {url: 'https://h#x'}}", "upstreams.a.url", "fragment"),
    ("upstreams: {a: {url: 'https://u:p@h'}}", "upstreams.a.url", "password_file"),
    ("upstreams: {a: {url: h}, b: {url: h}}", "upstreams.a.url", "no URL"),
    (ONE % "fresh_fro: 1m", "upstreams.ghcr.io.fresh_fro", "did you mean fresh_for"),
    (ONE % "password: x", "upstreams.ghcr.io.password", "password_file"),
    (ONE % "kind: Docker Hub", "upstreams.ghcr.io.kind", "'Docker Hub' is no kind; write one word in lower case"),
    (ONE % "kind: ~", "upstreams.ghcr.io.kind", "nothing stands where text"),
    (ONE % "offline: never", "upstreams.ghcr.io.offline", "'never' is neither"),
    (ONE % "fresh_for: 60", "upstreams.ghcr.io.fresh_for", "'60' is no duration"),
    (ONE % "fresh_for: 1:30", "upstreams.ghcr.io.fresh_for", "'1:30' is no duration"),
    (ONE % "fresh_for: 1 m", "upstreams.ghcr.io.fresh_for", "'1 m' is no duration"),
    (ONE % "fresh_for: unlimited", "upstreams.ghcr.io.fresh_for", "'unlimited' is no duration"),
    (
        ONE % "max_stale: forever",
        "upstreams.ghcr.io.max_stale",
        "'forever' is no duration; write a whole number with a unit: 500ms, 90s, 5m, 12h, 7d; or write unlimited",
    ),
    (ONE % "revalidate_within: off", "upstreams.ghcr.io.revalidate_within", "false is a truth value"),
    (ONE % "serve_stale: true", "upstreams.ghcr.io.serve_stale", "true stands where keys"),
    (ONE % "serve_stale: {denid: true}", "upstreams.ghcr.io.serve_stale.denid", "did you mean denied"),
    (ONE % "serve_stale: {denied: 0}", "upstreams.ghcr.io.serve_stale.denied", "'0' is neither"),
    (ONE % "username: no", "upstreams.ghcr.io.username", "quotes"),
    (ONE % "username: me", "upstreams.ghcr.io", "go together"),
    (ONE % "username: 'me:hunter2', password_file: /dev/null", "upstreams.ghcr.io.username", "colon"),
    (ONE % "password_file: /dev/null", "upstreams.ghcr.io", "go together"),
    (ONE % "username: me, password_file: gone", "upstreams.ghcr.io.password_file", "/etc/gone: No such file"),
    (ONE % "ca_file: /", "upstreams.ghcr.io.ca_file", "directory"),
    (ONE % "password_file: ~, username: me", "upstreams.ghcr.io", "go together"),
    (ONE % "token: hunter2", "upstreams.ghcr.io.token", "name that with token_file"),
    (ONE % "token_file: gone", "upstreams.ghcr.io.token_file", "/etc/gone: No such file"),
    (ONE % "auth_file: /", "upstreams.ghcr.io.auth_file", "directory"),
    (
        ONE % "token_file: /dev/null, auth_file: /dev/null",
        "upstreams.ghcr.io",
        "token_file and auth_file are both credentials; keep one",
    ),
    (
        ONE % "username: me, password_file: /dev/null, token_file: /dev/null",
        "upstreams.ghcr.io",
        "username with password_file and token_file are both",
    ),
    (ONE % "credentials: aws, auth_file: /dev/null", "upstreams.ghcr.io", "auth_file and credentials: aws are both"),
    (ONE % "credentials: AWS", "upstreams.ghcr.io.credentials", "'AWS' is not one of aws"),
    (
        ONE % "revalidate: sometimes",
        "upstreams.ghcr.io.revalidate",
        "'sometimes' is no duration; write a whole number with a unit: 500ms, 90s, 5m, 12h, 7d; or write never or"
        " always",
    ),
    (ONE % "revalidate: 60", "upstreams.ghcr.io.revalidate", "'60' is no duration"),
    (ONE % "revalidate: off", "upstreams.ghcr.io.revalidate", "false is a truth value to YAML; write never or always"),
    (ONE % "revalidate: never, fresh_for: 1m", "upstreams.ghcr.io", "keep one of them"),
    (ONE % "missing_for: 30", "upstreams.ghcr.io.missing_for", "'30' is no duration"),
    (ONE % "missing: drop", "upstreams.ghcr.io.missing", "'drop' is not one of keep, delete"),
    (ONE % "missing: ~", "upstreams.ghcr.io.missing", "nothing is not one of keep, delete"),
    (ONE % "missing: true", "upstreams.ghcr.io.missing", "true is not one of keep, delete"),
    (ONE % "client_cert: gone", "upstreams.ghcr.io.client_cert", "/etc/gone: No such file"),
    (ONE % "client_key: /dev/null", "upstreams.ghcr.io", "of no use without client_cert"),
    (ONE % "insecure: 1", "upstreams.ghcr.io.insecure", "'1' is neither"),
    (ONE % "insecure: true, ca_file: /dev/null", "upstreams.ghcr.io", "keep one of them"),
    (ONE % "proxy: 'http://u:hunter2@h:1'", "upstreams.ghcr.io.proxy", "use proxy_username and proxy_password_file"),
    (ONE % "proxy: 'socks5://u:hunter2@h:1'", "upstreams.ghcr.io.proxy", "use proxy_username"),
    (ONE % "proxy: 'u:hunter2@h:1'", "upstreams.ghcr.io.proxy", "use proxy_username"),
    (ONE % "proxy: 'socks5://h:1080'", "upstreams.ghcr.io.proxy", "only HTTP proxies are spoken to; write http://"),
    (ONE % "proxy: 'h:3128'", "upstreams.ghcr.io.proxy", "no URL of a proxy; write http://HOST:PORT"),
    (ONE % "proxy: http://h", "upstreams.ghcr.io.proxy", "no URL of a proxy; write http://HOST:PORT"),
    (ONE % "proxy: 'http://h:0'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: 'http://h:70000'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: 'http://h:1/path'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: 'http://h:1?x'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: 'http://:1'", "upstreams.ghcr.io.proxy", "no URL of a proxy"),
    (ONE % "proxy: false", "upstreams.ghcr.io.proxy", "false is a truth value"),
    (ONE % "proxy_password: hunter2", "upstreams.ghcr.io.proxy_password", "name that with proxy_password_file"),
    (ONE % "proxy: 'http://h:1', proxy_username: me", "upstreams.ghcr.io", "proxy_password_file go together"),
    (ONE % "proxy_username: 'me:hunter2'", "upstreams.ghcr.io.proxy_username", "colon"),
    (
        ONE % "proxy_username: me, proxy_password_file: /dev/null",
        "upstreams.ghcr.io",
        "of no use without the URL of a proxy",
    ),
    (
        ONE % "proxy: none, proxy_username: me, proxy_password_file: /dev/null",
        "upstreams.ghcr.io",
        "of no use without the URL of a proxy",
    ),
    (ONE % "redirect_hosts: h", "upstreams.ghcr.io.redirect_hosts", "'h' stands where a list"),
    (ONE % "redirect_hosts: ['*']", "upstreams.ghcr.io.redirect_hosts[0]", "[IPv6]:PORT or *.DOMAIN"),
    (ONE % "redirect_hosts: ['a.*.b']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: ['::1']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: ['[::1]:x']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: ['[::g]']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: ['[1.2.3.4]']", "upstreams.ghcr.io.redirect_hosts[0]", "no host"),
    (ONE % "redirect_hosts: [h/x]", "upstreams.ghcr.io.redirect_hosts[0]", "without a path"),
    (ONE % "keep_pulls: -1", "upstreams.ghcr.io.keep_pulls", "'-1' is no whole number from 0 to"),
    (ONE % "max_connections: 0", "upstreams.ghcr.io.max_connections", "'0' is no whole number from 1 to 1000"),
    (ONE % "max_connections: many", "upstreams.ghcr.io.max_connections", "'many' is no whole number"),
    (ONE % "max_rate: 40", "upstreams.ghcr.io.max_rate", "'40' is no rate; write a size per second"),
    (ONE % "max_rate: 40MB/s", "upstreams.ghcr.io.max_rate", "'40MB/s' is no rate"),
    (ONE % "max_rate: 40B", "upstreams.ghcr.io.max_rate", "less than 1KB per second"),
    (ONE % "segments: 17", "upstreams.ghcr.io.segments", "'17' is no whole number from 1 to 16"),
    (ONE % "prefetch: true", "upstreams.ghcr.io.prefetch", "stands where keys"),
    (ONE % "prefetch: {images: none}", "upstreams.ghcr.io.prefetch.images", "did you mean image"),
    (ONE % "prefetch: {image: all}", "upstreams.ghcr.io.prefetch.image", "'all' is not one of pulled, index, none"),
    (ONE % "prefetch: {image: ~}", "upstreams.ghcr.io.prefetch.image", "is not one of pulled, index, none"),
    (ONE % "aliases: gh", "upstreams.ghcr.io.aliases", "'gh' stands where a list"),
    (ONE % "aliases: [gh, ..]", "upstreams.ghcr.io.aliases[1]", "no name for an upstream"),
    (ONE % "auth_hosts: [https://h]", "upstreams.ghcr.io.auth_hosts[0]", "without https://"),
    (ONE % "auth_hosts: ['h:99999']", "upstreams.ghcr.io.auth_hosts[0]", "no host"),
    (ONE % "allow: '**'", "upstreams.ghcr.io.allow", "stands where a list"),
    (ONE % "allow: [a**]", "upstreams.ghcr.io.allow[0]", "'a**' is no pattern"),
    (ONE % "allow: [a//b]", "upstreams.ghcr.io.allow[0]", "no pattern"),
    (ONE % "deny: [/a]", "upstreams.ghcr.io.deny[0]", "no pattern"),
    (ONE % "deny: [A]", "upstreams.ghcr.io.deny[0]", "in lower case"),
    (
        "upstreams: {a: {url: https://h, aliases: [x]}, b: {url: https://h, aliases: [x]}}",
        "upstreams.b",
        "'x' already means the upstream a",
    ),
    ("upstreams: {a: {url: https://h}, b: {url: https://h, aliases: [a]}}", "upstreams.b", "already means"),
    (
        "upstreams: {docker.io: {url: https://h}, index.docker.io: {url: https://h}}",
        "upstreams.index.docker.io",
        "already means the upstream docker.io",
    ),
]


@pytest.mark.parametrize(("text", "path", "why"), WRONG_KEYS)
def test_a_wrong_value_is_named_with_its_key_and_its_cure(text: str, path: str, why: str) -> None:
    """One line: file, key path, what is wrong, what would be right; and never what may be a password."""
    message = fault(text)
    assert message.startswith(f"/etc/p.yaml: line 1: {path}: ")
    assert why in message
    assert "\n" not in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# words\n\nstroe: x", "line 3: stroe"),
        ("listen:\n  - endpoint: tcp:1\n  - endpoint:\n      5000", "line 3: listen[1].endpoint"),
        ("upstreams:\n  a:\n    offline: true", "line 2: upstreams.a.url"),
        ("upstreams:\n  a:\n    url: http://h\n    aliases:\n      - b\n      - /", "line 6: upstreams.a.aliases[1]"),
        ("upstreams:\n  a:\n    url: http://h\n    username: me", "line 2: upstreams.a"),
        ("upstreams:\n  a: {url: http://h}\nbundles:\n  aliases: [b,\n    a]", "line 5: bundles.aliases[1]"),
        ("upstreams: {}\nlisten:\n- endpoint: tcp:1\n  default_upstream: a", "line 4: listen[0].default_upstream"),
        ("- a", ""),
    ],
)
def test_what_is_wrong_is_found_by_its_line(text: str, place: str) -> None:
    """Of a key the line where it stands, of a member of a list its own, of what is missing that of the section."""
    assert fault(text).startswith(f"/etc/p.yaml: {place}: " if place else "/etc/p.yaml: a list stands")


@given(st.text() | st.text(alphabet="{}[]:,-?!&*#%|>'\"\\ \n\tax0~<="))
def test_no_text_gets_past_the_one_kind_of_error(text: str) -> None:
    """Whatever stands in the file: settings, or one line that says what is wrong."""
    try:
        config.parse(text, "p")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, in another encoding, too large: each says so."""
    (tmp_path / "latin").write_bytes(b"store: caf\xe9")
    (tmp_path / "large").write_bytes(b"#" * (LIMIT + 1))
    for name, why in [("gone", "No such file"), (".", "directory"), ("latin", "UTF-8"), ("large", "larger than")]:
        with pytest.raises(ConfigError, match=why) as caught:
            config.load(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Some editors put one at the front."""
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbfoffline: true\n")
    assert config.load(tmp_path / "p.yaml").offline


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
            ListenSettings(endpoint="tcp:3", default_upstream="b"),
            ListenSettings(endpoint="tcp:4", default_upstream="b"),
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


def test_names_are_kept_whatever_the_options_say() -> None:
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
    assert "admin endpoint: tcp:2; answers to console.example:443 as well\n" in described
