"""Names and tags: the grammar of the distribution specification, and nothing beside it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import DigestInvalid, NameInvalid, TagInvalid
from appliance.oci.digest import Digest
from appliance.oci.names import MAX_REPOSITORY, is_tag, parse_reference, parse_repository, parse_tag

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
    assert parse_reference(text) == text


def test_a_reference_with_a_colon_is_a_digest() -> None:
    """I may ask for a manifest by digest where a tag may stand."""
    digest = Digest.of(b"x", "sha512")
    assert parse_reference(str(digest)) == digest


@pytest.mark.parametrize("text", ["latest:", ":", "sha256:baddigeststring", "latest:latest"])
def test_a_wrong_digest_is_not_taken_for_a_tag(text: str) -> None:
    """I mistyped a digest: the error speaks of digests."""
    with pytest.raises(DigestInvalid):
        parse_reference(text)


def test_the_errors_show_what_was_wrong() -> None:
    """The error repeats the part of the name at fault, with control characters made visible."""
    with pytest.raises(NameInvalid, match=re.escape(repr("b\n"))):
        parse_repository("a/b\n/c")
    with pytest.raises(NameInvalid, match="1000000 characters"):
        parse_repository("a" * 10**6)
    with pytest.raises(TagInvalid) as caught:
        parse_tag("a" * 10**6)
    assert len(str(caught.value)) < 400
