"""The settings: which upstream a name means, and what may be pulled through it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.settings import Settings, UpstreamSettings, matches


def configured(name: str, aliases: tuple[str, ...] = ()) -> Settings:
    upstream = UpstreamSettings(name=name, urls=(f"https://{name}",), aliases=aliases)
    return Settings(upstreams={name: upstream})


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["docker.io", "Docker.IO", "docker.io:443", "index.docker.io", "REGISTRY-1.docker.io:443", "hub", "hub:80"]
)
def test_an_upstream_answers_to_all_its_names(name: str) -> None:
    """Case and a default port do not matter, and Docker Hub has the names that clients have for it."""
    settings = configured("docker.io", aliases=("hub",))
    assert settings.upstream_for(name) == "docker.io"


@pytest.mark.parametrize("name", ["", ".", "..", "evil.example", "docker.io:5000", "docker.io/library", "hub "])
def test_any_other_name_is_no_upstream(name: str) -> None:
    """The list of upstreams is closed."""
    settings = configured("docker.io", aliases=("hub",))
    assert settings.upstream_for(name) is None


def test_another_port_is_another_registry() -> None:
    """Only 443 and 80 go without saying."""
    settings = configured("r.example:5000")
    assert settings.upstream_for("R.example:5000") == "r.example:5000"
    assert settings.upstream_for("r.example") is None


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
    assert [name for name in yes.split() if not matches(pattern, name)] == []
    assert [name for name in no.split() if matches(pattern, name)] == []


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
    assert matches("/".join(pattern), "/".join(name)) == by_definition(pattern, name)


def test_a_pattern_of_stars_takes_no_longer_than_any_other() -> None:
    """It would take a backtracking matcher until the end of the world."""
    assert not matches("/".join(["**", "*a*a*a*a*a*a*a*a*a*b"] * 8), "/".join(["a" * 30] * 8))


@pytest.mark.parametrize(
    ("allow", "deny", "repository", "permitted"),
    [
        (("**",), (), "library/nginx", True),
        (("library/*",), (), "library/nginx", True),
        (("library/*",), (), "evil/nginx", False),
        ((), (), "library/nginx", False),
        (("**",), ("evil/**",), "evil/nginx", False),
        (("**",), ("evil/**",), "library/nginx", True),
        (("**",), ("**/nginx",), "library/nginx", False),
    ],
)
def test_only_what_is_allowed_and_not_denied_is_pulled_through(
    allow: tuple[str, ...], deny: tuple[str, ...], repository: str, permitted: bool
) -> None:
    """deny wins."""
    upstream = UpstreamSettings(name="ghcr.io", urls=("https://ghcr.io",), allow=allow, deny=deny)
    assert upstream.permits(repository) is permitted


def test_without_a_word_of_it_everything_may_be_pulled_through() -> None:
    """An upstream is configured in order to be used."""
    assert configured("ghcr.io").upstreams["ghcr.io"].permits("owner/image")


def test_without_a_word_of_it_an_upstream_is_asked_as_any_client_asks() -> None:
    """What is not written limits nothing, deletes nothing and trusts no host more."""
    bare = UpstreamSettings(name="ghcr.io", urls=("https://ghcr.io",))
    assert (bare.keep_pulls, bare.max_connections, bare.max_rate, bare.segments) == (0, None, None, 1)
    assert (bare.offline, bare.insecure, bare.delete_missing) == (False, False, False)
    assert (bare.auth_hosts, bare.redirect_hosts) == ((), ())


def test_settings_do_not_change() -> None:
    """What was checked at the start is what is in force."""
    settings = configured("ghcr.io")
    with pytest.raises(AttributeError):
        settings.offline = True  # type: ignore[misc]
