"""The configuration: what is right is understood, what is wrong is named with its key and its cure."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance import config
from appliance.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "etc" / "pullcache.yaml"
ONE = "upstreams: {ghcr.io: {url: https://ghcr.io, %s}}"


def fault(text: str, source: str = "/etc/p.yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, source)
    return str(caught.value)


def upstream(rest: str) -> config.UpstreamSettings:
    return config.parse(ONE % rest, "/etc/p.yaml").upstreams["ghcr.io"]


# -- what is right --------------------------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults() -> None:
    """Every key has a default that is the same in the file's comments and here."""
    settings = config.parse("", "/etc/p.yaml")
    assert settings == config.Settings(
        store=Path("/var/lib/pullcache"),
        listen=(config.ListenSettings(endpoint="tcp:port=5000", default_upstream=None),),
        admin=config.AdminSettings(endpoint="tcp:port=5001:interface=127.0.0.1"),
        offline=False,
        shutdown_grace=10.0,
        upstreams={},
    )


def test_an_upstream_with_a_url_only_has_the_defaults() -> None:
    """Five words in the file are enough for a registry."""
    assert config.parse("upstreams: {quay.io: {url: https://quay.io/}}", "p").upstreams == {
        "quay.io": config.UpstreamSettings(
            name="quay.io",
            urls=("https://quay.io",),
            aliases=(),
            kind="distribution",
            fresh_for=60.0,
            revalidate_within=2.0,
            serve_stale=config.StaleSettings(missing=True, denied=True, rate_limited=True, unavailable=True),
            max_stale=None,
            username=None,
            password_file=None,
            ca_file=None,
            auth_hosts=(),
            allow=("**",),
            deny=(),
        )
    }


def test_every_key_reaches_the_settings(tmp_path: Path) -> None:
    """What is written is what is in force; paths are relative to the folder of the file."""
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "pullcache.yaml").write_text(
        "store: kept\n"
        "listen: [{endpoint: 'tcp:5000', default_upstream: HUB}, {endpoint: 'unix:/run/p.sock'}]\n"
        "admin: ~\n"
        "offline: true\n"
        "shutdown_grace: 2m\n"
        "upstreams:\n"
        "  docker.io:\n"
        "    url: ['https://one.example/prefix', 'http://[::1]:5000']\n"
        "    aliases: [hub]\n"
        "    kind: dockerhub\n"
        "    fresh_for: 0\n"
        "    revalidate_within: 500ms\n"
        "    serve_stale: {denied: false}\n"
        "    max_stale: 7d\n"
        "    username: 'robot$project+name'\n"
        "    password_file: secret\n"
        "    ca_file: ca.pem\n"
        "    proxy: ~\n"
        "    auth_hosts: [Auth.docker.io, 'other.example:8443']\n"
        "    allow: [library/*]\n"
        "    deny: [library/bad]\n"
    )
    settings = config.load(tmp_path / "pullcache.yaml")
    assert settings == config.Settings(
        store=tmp_path / "kept",
        listen=(
            config.ListenSettings(endpoint="tcp:5000", default_upstream="docker.io"),
            config.ListenSettings(endpoint="unix:/run/p.sock"),
        ),
        admin=None,
        offline=True,
        shutdown_grace=120.0,
        upstreams={
            "docker.io": config.UpstreamSettings(
                name="docker.io",
                urls=("https://one.example/prefix", "http://[::1]:5000"),
                aliases=("hub",),
                kind="dockerhub",
                fresh_for=0.0,
                revalidate_within=0.5,
                serve_stale=config.StaleSettings(denied=False),
                max_stale=604800.0,
                username="robot$project+name",
                password_file=tmp_path / "secret",
                ca_file=tmp_path / "ca.pem",
                auth_hosts=("auth.docker.io", "other.example:8443"),
                allow=("library/*",),
                deny=("library/bad",),
            )
        },
    )


def test_a_name_of_digits_needs_no_quotes() -> None:
    """YAML 1.1 would make octal and sexagesimal numbers of these; they stay as they are written."""
    settings = config.parse("store: 0123\nupstreams: {1.10: {url: http://h, aliases: [12345]}}", "/p.yaml")
    assert settings.store == Path("/0123")
    assert settings.upstream_for("12345") == "1.10"


@pytest.mark.parametrize(
    "name", ["docker.io", "Docker.IO", "docker.io:443", "index.docker.io", "REGISTRY-1.docker.io:443", "hub", "hub:80"]
)
def test_an_upstream_answers_to_all_its_names(name: str) -> None:
    """Case and a default port do not matter, and Docker Hub has the names that clients have for it."""
    settings = config.parse("upstreams: {docker.io: {url: https://h, aliases: [hub]}}", "p")
    assert settings.upstream_for(name) == "docker.io"


@pytest.mark.parametrize("name", ["", ".", "..", "evil.example", "docker.io:5000", "docker.io/library", "hub "])
def test_any_other_name_is_no_upstream(name: str) -> None:
    """The list of upstreams is closed."""
    settings = config.parse("upstreams: {docker.io: {url: https://h, aliases: [hub]}}", "p")
    assert settings.upstream_for(name) is None


def test_another_port_is_another_registry() -> None:
    """Only 443 and 80 go without saying."""
    settings = config.parse("upstreams: {'r.example:5000': {url: 'http://r.example:5000'}}", "p")
    assert settings.upstream_for("R.example:5000") == "r.example:5000"
    assert settings.upstream_for("r.example") is None


# -- the shipped file -----------------------------------------------------------------------------------------------


def test_the_shipped_file_is_in_force_as_its_comments_say() -> None:
    """It loads, holds the public registries, and sends names without a prefix to Docker Hub."""
    settings = config.load(SHIPPED)
    assert list(settings.upstreams) == [
        "docker.io",
        "ghcr.io",
        "quay.io",
        "gcr.io",
        "registry.k8s.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
    ]
    assert settings.listen[0].default_upstream == "docker.io"
    assert settings.upstreams["docker.io"].kind == "dockerhub"
    assert settings.upstream_for("dockerhub") == "docker.io"
    assert "warning" not in config.describe(settings)


def test_the_shipped_file_shows_every_key() -> None:
    """No key has to be looked up elsewhere."""

    def fields(struct: type[msgspec.Struct], *without: str) -> set[str]:
        return set(struct.__struct_fields__) - set(without)

    document = yaml.safe_load(SHIPPED.read_text())
    hub = document["upstreams"]["docker.io"]
    assert set(document) == fields(config.Settings)
    assert set(document["listen"][0]) == fields(config.ListenSettings)
    assert set(document["admin"]) == fields(config.AdminSettings)
    assert set(hub) == fields(config.UpstreamSettings, "name", "urls") | {"url", "proxy"}
    assert set(hub["serve_stale"]) == fields(config.StaleSettings)


def test_the_shipped_defaults_are_the_defaults() -> None:
    """Leaving out what the file shows changes nothing, but for Docker Hub's own needs."""
    shipped = config.load(SHIPPED)
    bare = config.parse("upstreams: {docker.io: {url: 'https://registry-1.docker.io'}}", str(SHIPPED))
    assert msgspec.structs.replace(
        shipped.upstreams["docker.io"], kind="distribution", aliases=(), auth_hosts=()
    ) == bare.upstreams["docker.io"]
    assert msgspec.structs.replace(shipped, listen=bare.listen, upstreams=bare.upstreams) == bare


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
    ("shutdown_grace: 10", "shutdown_grace", "'10' is no duration"),
    ("shutdown_grace: ~", "shutdown_grace", "nothing stands where text"),
    ("admin: 5001", "admin", "'5001' stands where keys"),
    ("admin: {port: 1}", "admin.port", "the keys here are endpoint"),
    ("admin: {endpoint: 5001}", "admin.endpoint", "tcp:port="),
    ("listen: tcp:port=5000", "listen", "stands where a list"),
    ("listen: []", "listen", "at least one endpoint"),
    ("listen: [{}]", "listen[0].endpoint", "missing"),
    ("listen: [{endpoint: 5000}]", "listen[0].endpoint", "'5000' is no endpoint"),
    ("listen: [{endpoint: 'localhost:5000'}]", "listen[0].endpoint", "'localhost:5000' is no endpoint"),
    ("listen: [{endpoint: 'tcp:port=70000'}]", "listen[0].endpoint", "up to 65535"),
    ("listen: [{endpoint: 'tcp:interface=::1'}]", "listen[0].endpoint", "up to 65535"),
    ("listen: [{endpoint: 'tcp:1'}, {endpoint: 'tcp:1'}]", "listen[1].endpoint", "twice"),
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
    (ONE % "kind: docker", "upstreams.ghcr.io.kind", "distribution, dockerhub"),
    (ONE % "fresh_for: 60", "upstreams.ghcr.io.fresh_for", "'60' is no duration"),
    (ONE % "fresh_for: 1:30", "upstreams.ghcr.io.fresh_for", "'1:30' is no duration"),
    (ONE % "fresh_for: 1 m", "upstreams.ghcr.io.fresh_for", "'1 m' is no duration"),
    (ONE % "fresh_for: unlimited", "upstreams.ghcr.io.fresh_for", "'unlimited' is no duration"),
    (ONE % "max_stale: forever", "upstreams.ghcr.io.max_stale", "'forever' is no duration"),
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
    (ONE % "proxy: 'http://u:hunter2@h'", "upstreams.ghcr.io.proxy", "not supported by this version"),
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
    assert message.startswith(f"/etc/p.yaml: {path}: ")
    assert why in message
    assert "\n" not in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a: 1\nstore: x\nstore: y", 3, "'store' is given twice"),
        ("upstreams:\n  a: {url: http://h}\n  a: {url: http://h}", 3, "'a' is given twice"),
        ("store: x\nlisten: [", 2, "no valid YAML"),
        ("store: x\n\tlisten: y", 2, "no valid YAML"),
        ("store: x\n--- \nstore: y", 2, "no valid YAML"),
        ("store: x\noffline: \x01", 2, "no valid YAML"),
        ("store: &a x", 1, "anchors"),
        ("store: *a", 1, "anchors"),
        ("store: !!python/object/apply:os.system [x]", 1, "tags"),
        ("store: !!int x", 1, "tags"),
        ("? [a]\n: b", 1, "single word"),
        ("store: " + "[" * 100_000, 1, "nested deeper"),
        ("- " * 100_000, 1, "nested deeper"),
    ],
)
def test_text_that_is_no_plain_yaml_is_named_with_its_line(text: str, line: int, why: str) -> None:
    """Broken, doubled, or too clever: the line is there to look at."""
    message = fault(text)
    assert message.startswith(f"/etc/p.yaml: line {line}: ")
    assert why in message


@pytest.mark.parametrize("text", [r'store: "\UFFFFFFFF"', "%YAML " + "9" * 5000 + ".1\n--- a", "a: " * 400_000])
def test_monstrous_text_is_refused(text: str) -> None:
    """Neither the parser's own slips nor size get past the one kind of error."""
    assert fault(text).startswith("/etc/p.yaml: ")


def test_an_alias_bomb_does_not_go_off() -> None:
    """Nine lines that would be a thousand million words are refused at the first."""
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [{', '.join(['*a'] * 10)}]\n" for n in "bcdefghi")
    assert "line 1: anchors" in fault(bomb)


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
    (tmp_path / "large").write_bytes(b"#" * (config.FILE_LIMIT + 1))
    for name, why in [("gone", "No such file"), (".", "directory"), ("latin", "UTF-8"), ("large", "larger than")]:
        with pytest.raises(ConfigError, match=why) as caught:
            config.load(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Some editors put one at the front."""
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbfoffline: true\n")
    assert config.load(tmp_path / "p.yaml").offline


# -- durations and sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("0s", 0.0), ("500ms", 0.5), ("90s", 90.0), ("5m", 300.0), ("12h", 43200.0), ("7d", 604800.0)],
)
def test_durations_are_read_with_their_unit(text: str, seconds: float) -> None:
    """As the file's head explains them."""
    assert config.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("100B", 100), ("512MiB", 512 << 20), ("40GB", 40 * 10**9), ("1KB", 1000), ("1KiB", 1024), ("2TiB", 2 << 40)],
)
def test_sizes_are_read_with_their_unit(text: str, count: int) -> None:
    """Powers of 1000 and of 1024 are told apart."""
    assert config.size(text) == count


@pytest.mark.parametrize(
    "text", ["", "1", "m", "-1m", "+1m", "1.5h", "1M", "1m ", " 1m", "1m\n", "1h30m", "\u0661s", "1e3s"]
)
def test_no_duration_is_guessed(text: str) -> None:
    """A unit that is missing or in doubt is not filled in."""
    with pytest.raises(ConfigError, match="is no duration"):
        config.duration(text)


@pytest.mark.parametrize("text", ["", "0", "1", "GB", "-1GB", "1.5GB", "1gb", "1 GB", "1G", "1Gb", "1GB\n", "\u0661GB"])
def test_no_size_is_guessed(text: str) -> None:
    """A unit that is missing or in doubt is not filled in."""
    with pytest.raises(ConfigError, match="is no size"):
        config.size(text)


@given(st.integers(0, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_is_told_as_it_would_be_written(count: int, unit: str) -> None:
    """What --check prints can be put into the file, and means the same."""
    seconds = config.duration(f"{count}{unit}")
    assert config.duration(config.words(seconds)) == pytest.approx(seconds, abs=0.0005)


# -- patterns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("**", "a a/b a/b/c", ""),
        ("*", "a", "a/b"),
        ("library/*", "library/a", "library library/a/b xlibrary/a"),
        ("library/**", "library library/a library/a/b", "libraryx"),
        ("**/a", "a x/a x/y/a", "xa a/x"),
        ("a/**/b", "a/b a/x/b a/x/y/b", "ab a/xb"),
        ("a/*-dev", "a/x-dev a/-dev", "a/x-dev/b a/dev"),
        ("a?c", "abc", "ac a/c"),
        ("a.c", "a.c", "abc"),
    ],
)
def test_patterns_follow_the_components_of_a_name(pattern: str, yes: str, no: str) -> None:
    """`*` stays within one component, `**` stands for any number of them."""
    assert [name for name in yes.split() if not config.matches(pattern, name)] == []
    assert [name for name in no.split() if config.matches(pattern, name)] == []


def by_definition(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(by_definition(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return bool(name) and pattern[0] in ("*", name[0]) and by_definition(pattern[1:], name[1:])


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=6),
)
def test_patterns_match_by_definition(pattern: list[str], name: list[str]) -> None:
    """The quick way and the definition agree."""
    assert config.matches("/".join(pattern), "/".join(name)) == by_definition(pattern, name)


def test_a_pattern_of_stars_takes_no_longer_than_any_other() -> None:
    """It would take a backtracking matcher until the end of the world."""
    assert not config.matches("/".join(["**", "*a*a*a*a*a*a*a*a*a*b"] * 8), "/".join(["a" * 30] * 8))


@pytest.mark.parametrize(
    ("rest", "repository", "permitted"),
    [
        ("", "library/nginx", True),
        ("allow: [library/*]", "library/nginx", True),
        ("allow: [library/*]", "evil/nginx", False),
        ("allow: []", "library/nginx", False),
        ("deny: [evil/**]", "evil/nginx", False),
        ("deny: [evil/**]", "library/nginx", True),
        ("allow: ['**'], deny: ['**/nginx']", "library/nginx", False),
    ],
)
def test_only_what_is_allowed_and_not_denied_is_pulled_through(rest: str, repository: str, permitted: bool) -> None:
    """deny wins."""
    assert upstream(rest).permits(repository) is permitted


# -- options and --check --------------------------------------------------------------------------------------------

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
            config.ListenSettings(endpoint="tcp:3", default_upstream="b"),
            config.ListenSettings(endpoint="tcp:4", default_upstream="b"),
        ),
        admin=config.AdminSettings(endpoint="tcp:5"),
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
        config.overridden(config.Settings(), **{option: value})  # type: ignore[arg-type]


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
    assert config.describe(config.parse(text, str(tmp_path / "p.yaml"))) == (
        "store: /var/lib/pullcache\n"
        "listens on tcp:port=5000; a name without an upstream means docker.io\n"
        "admin endpoint: tcp:port=5001\n"
        "online\n"
        "at a stop, transfers under way get 10s\n"
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


def test_check_warns_of_a_file_that_serves_nothing() -> None:
    """An empty file is right, and of no use."""
    assert "warning: no upstream is configured" in config.describe(config.Settings())
