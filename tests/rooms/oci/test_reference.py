"""References, names and tags: the grammar of the distribution specification, and nothing beside it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import DigestInvalid, NameInvalid, PullcacheError, TagInvalid
from appliance.oci.digest import Digest
from appliance.oci.reference import (
    DOCKER_HUB,
    MAX_REPOSITORY,
    Reference,
    full_name,
    is_tag,
    official,
    parse_identifier,
    parse_repository,
    parse_tag,
)

#: As the distribution specification prints it.
SPEC_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
SPEC_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"


def accepts(text: str) -> bool:
    try:
        return parse_repository(text) == text
    except NameInvalid:
        return False


@pytest.mark.parametrize(
    "name",
    [
        "nginx",
        "library/nginx",
        "a",
        "0",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a-----b",
        "manifests/blobs/tags/list",
        "a/manifests/b",
        "library/manifests",
        "v2/v2",
        "docker.io/library/nginx",
        "a" * MAX_REPOSITORY,
    ],
)
def test_a_name_of_the_specification_is_taken_as_it_is(name: str) -> None:
    """My repository may be called anything the specification allows, words of the API included."""
    assert parse_repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "a/../b",
        "../../etc/passwd",
        "a/./b",
        "foo%2fbar",
        "foo%2Fbar",
        "a%00",
        "a\x00b",
        "a\n",
        "a\n/b",
        "\na",
        "a b",
        "A",
        "aB",
        "_a",
        "a_",
        "-a",
        "a-",
        ".a",
        "a.",
        "a..b",
        "a___b",
        "a.-b",
        "a_.b",
        "_layout",
        "a/_layout/b",
        "a:b",
        "localhost:5000/a",
        "a@b",
        "\u00e9",
        "\u0661",
        "\uff41",
        "a\\b",
        "a" * (MAX_REPOSITORY + 1),
        "a/" * 127 + "ab",
    ],
)
def test_anything_else_is_no_name(name: str) -> None:
    """A path that tries to be clever is refused before anything is derived from it."""
    with pytest.raises(NameInvalid):
        parse_repository(name)


@given(st.text("ab0._-/\n", max_size=12) | st.text(max_size=12) | st.from_regex(SPEC_NAME, fullmatch=True))
def test_names_are_what_the_specification_prints(text: str) -> None:
    """Nothing more and nothing less than the specification's own expression, up to its length."""
    assert accepts(text) == (re.fullmatch(SPEC_NAME, text) is not None and len(text) <= MAX_REPOSITORY)


@given(st.text("ab0._-\n", max_size=6) | st.text(max_size=140) | st.from_regex(SPEC_TAG, fullmatch=True))
def test_tags_are_what_the_specification_prints(text: str) -> None:
    """Nothing more and nothing less than the specification's own expression."""
    assert is_tag(text) == (re.fullmatch(SPEC_TAG, text) is not None)


@pytest.mark.parametrize("text", ["", ".a", "-a", "a\n", "a/b", "a b", "..", "a%2fb", "\u00e9", "a" * 129])
def test_what_is_no_tag_is_refused(text: str) -> None:
    """A tag outside the grammar is an error of its own, not an unknown manifest."""
    assert not is_tag(text)
    with pytest.raises(TagInvalid):
        parse_tag(text)


@pytest.mark.parametrize("text", ["latest", "_", "1.27-alpine", "A" * 128, "sha256-" + "a" * 64 + ".sig"])
def test_a_tag_is_taken_as_it_is(text: str) -> None:
    """Tags of the specification, cosign's included, are kept letter by letter."""
    assert parse_tag(text) == text
    assert parse_identifier(text) == text


def test_a_reference_with_a_colon_is_a_digest() -> None:
    """I may ask for a manifest by digest where a tag may stand."""
    digest = Digest.of(b"x", "sha512")
    assert parse_identifier(str(digest)) == digest


@pytest.mark.parametrize("text", ["latest:", ":", "sha256:baddigeststring", "latest:latest"])
def test_a_wrong_digest_is_not_taken_for_a_tag(text: str) -> None:
    """I mistyped a digest: the error speaks of digests."""
    with pytest.raises(DigestInvalid):
        parse_identifier(text)


def test_the_errors_show_what_was_wrong() -> None:
    """The error repeats the part of the name at fault, with control characters made visible."""
    with pytest.raises(NameInvalid, match=re.escape(repr("b\n"))):
        parse_repository("a/b\n/c")
    with pytest.raises(NameInvalid, match="1000000 characters"):
        parse_repository("a" * 10**6)
    with pytest.raises(TagInvalid) as caught:
        parse_tag("a" * 10**6)
    assert len(str(caught.value)) < 400


# -- full names -----------------------------------------------------------------------------------------------------

COMPONENTS = st.from_regex(r"\A[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}\Z")
UPSTREAMS = st.one_of(
    st.sampled_from([DOCKER_HUB, "localhost", "[::1]:5000", "[fd00::1]", "hub"]),
    st.builds(lambda host, port: f"{host}:{port}", COMPONENTS, st.integers(0, 65535)),
    COMPONENTS,
)
REPOSITORIES = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(rf"\A{SPEC_TAG}\Z")
DIGESTS = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(["sha256", "sha512"]))
REFERENCES = st.builds(Reference, UPSTREAMS, REPOSITORIES, st.none() | TAGS, st.none() | DIGESTS)


@given(REFERENCES)
def test_what_is_written_is_read_as_the_same(reference: Reference) -> None:
    """A name in a list, a log or a bundle means the image it was written for."""
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.place) == Reference(reference.upstream, reference.repository)


@given(REFERENCES)
def test_a_name_is_put_together_in_one_way(reference: Reference) -> None:
    """Who has the parts of a name at hand writes the name that others read, and asks for it by the same word."""
    digest, tagged = reference.digest, Reference(reference.upstream, reference.repository, reference.tag)
    assert full_name(reference.upstream, reference.repository, reference.tag or "") == str(tagged)
    assert reference.identifier == (reference.tag or "" if digest is None else str(digest))
    if digest is not None:
        by_digest = Reference(reference.upstream, reference.repository, None, digest)
        assert full_name(reference.upstream, reference.repository, digest) == str(by_digest)
        assert full_name(reference.upstream, reference.repository, str(digest)) == str(by_digest)


@given(REFERENCES)
def test_a_full_name_is_familiar_too(reference: Reference) -> None:
    """docker and I write the same full names; only Docker Hub's own images are shorter."""
    familiar = "." in reference.upstream or ":" in reference.upstream or reference.upstream == "localhost"
    repository = official(reference.upstream, reference.repository)
    read = Reference.parse_familiar(str(reference))
    if familiar:
        assert read == Reference(reference.upstream, repository, reference.tag, reference.digest)
    else:
        assert read.place == f"{DOCKER_HUB}/{reference.place}"


@given(st.text(alphabet=st.sampled_from("aA0.:/@[]_- \nsh256"), max_size=40))
def test_what_is_no_name_is_refused_and_no_more(text: str) -> None:
    """Whatever is written where a name should stand, it is an error of ours, or a name that can be written back."""
    for parse in (Reference.parse, Reference.parse_familiar):
        try:
            reference = parse(text)
        except PullcacheError:
            continue
        assert Reference.parse(str(reference)) == reference
