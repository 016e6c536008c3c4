"""WWW-Authenticate as the RFC writes it and as registries do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.upstream.http.challenge import Challenge, parse_challenges, preferred

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
HUB_PARAMS = {
    "realm": "https://auth.docker.io/token",
    "service": "registry.docker.io",
    "scope": "repository:a/b:pull,push",
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([HUB], [Challenge("bearer", HUB_PARAMS)]),
        ([HUB.replace("Bearer", "bEARER").replace("realm", "Realm")], [Challenge("bearer", HUB_PARAMS)]),
        (['Basic realm="x", ' + HUB], [Challenge("basic", {"realm": "x"}), Challenge("bearer", HUB_PARAMS)]),
        ([HUB + ', Basic realm="x"'], [Challenge("bearer", HUB_PARAMS), Challenge("basic", {"realm": "x"})]),
        (["Negotiate", 'Basic realm="x"'], [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        (['Negotiate, Basic realm="x"'], [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        (
            ["Negotiate a87421000000==, Basic realm=x"],
            [Challenge("negotiate", token68="a87421000000=="), Challenge("basic", {"realm": "x"})],
        ),
        (["Negotiate abc/+_=, NTLM"], [Challenge("negotiate", token68="abc/+_="), Challenge("ntlm")]),
        (['Bearer realm = "x" , service\t=\ty'], [Challenge("bearer", {"realm": "x", "service": "y"})]),
        ([r'Basic realm="a \"b\", \\c"'], [Challenge("basic", {"realm": r'a "b", \c'})]),
        (['Basic realm=""'], [Challenge("basic", {"realm": ""})]),
        (['Bearer realm="a", realm="b"'], [Challenge("bearer", {"realm": "a"})]),
        ([', ,Bearer realm="a",,service="b", ,'], [Challenge("bearer", {"realm": "a", "service": "b"})]),
        (["Basic"], [Challenge("basic")]),
        (["Basic "], [Challenge("basic")]),
        ([], []),
        ([""], []),
        (['Basic realm="x", Bearer realm="never ends'], [Challenge("basic", {"realm": "x"})]),
        (['"quoted"'], []),
        (["@@@"], []),
        (['Bearer realm="x" service="y"'], []),
    ],
)
def test_every_challenge_of_a_response_is_found(fields: list[str], expected: list[Challenge]) -> None:
    """Several in one field, several fields, commas in quotes; what cannot be read ends its field."""
    assert parse_challenges(fields) == expected


def test_bearer_is_answered_before_basic() -> None:
    """A stolen token is worth less than a stolen password; other schemes are not answered."""
    assert preferred(parse_challenges(['Negotiate, Basic realm="x"', HUB])) == Challenge("bearer", HUB_PARAMS)
    assert preferred(parse_challenges(['Digest realm="x", Basic realm="y"'])) == Challenge("basic", {"realm": "y"})
    assert preferred(parse_challenges(["Negotiate"])) is None


TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("\t"), max_size=20)


@st.composite
def challenges(draw: st.DrawFn) -> tuple[Challenge, str]:
    """A challenge, and one of the ways to write it."""
    scheme = draw(TOKEN)
    names = draw(st.lists(TOKEN.map(str.lower), max_size=4, unique=True))
    params = {name: draw(TOKEN | VALUE) for name in names}
    space = st.sampled_from(["", " ", "\t "])
    written = []
    for name, value in params.items():
        bare = value and all(letter in "abcXYZ019!#$%&'*+-.^_`|~" for letter in value)
        if not (bare and draw(st.booleans())):
            value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        written.append(f"{name}{draw(space)}={draw(space)}{value}")
    comma = draw(st.sampled_from([",", ", ", " ,\t", ",,"]))
    return Challenge(scheme.lower(), params), f"{scheme} {comma.join(written)}" if written else scheme


@given(st.lists(challenges(), max_size=4), st.sampled_from([", ", ",", " , "]))
def test_whatever_is_written_by_the_grammar_is_read_back(made: list[tuple[Challenge, str]], comma: str) -> None:
    """Any number of challenges in one field."""
    assert parse_challenges([comma.join(text for _, text in made)]) == [challenge for challenge, _ in made]


@given(st.text(st.sampled_from('aB="\\, \t\x00é;='), max_size=60))
def test_no_field_breaks_the_parser(text: str) -> None:
    """An upstream can send anything."""
    for challenge in parse_challenges([text]):
        assert challenge.scheme == challenge.scheme.lower()
