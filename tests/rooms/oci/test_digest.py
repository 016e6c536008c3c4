"""Digests: only what can be verified is one, and it is safe in a path."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import DigestInvalid
from appliance.oci.digest import ALGORITHMS, Digest

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@st.composite
def digests(draw: st.DrawFn) -> str:
    algorithm, length = draw(st.sampled_from(sorted(ALGORITHMS.items())))
    return f"{algorithm}:{draw(st.text('0123456789abcdef', min_size=length, max_size=length))}"


@given(digests())
def test_a_digest_survives_reading_and_writing(text: str) -> None:
    """What I wrote is what I get back, and equal texts are equal digests."""
    digest = Digest.parse(text)
    assert str(digest) == text
    assert digest == Digest.parse(text)
    assert len({digest, Digest.parse(text)}) == 1
    assert digest.file_name == text.replace(":", "-")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        "sha256:baddigeststring",
        EMPTY[:-1],
        EMPTY + "0",
        EMPTY + "\n",
        "\n" + EMPTY,
        " " + EMPTY,
        EMPTY.upper(),
        "sha256:" + EMPTY[7:].upper(),
        "SHA256:" + EMPTY[7:],
        "sha512:" + EMPTY[7:],
        "sha384:" + "a" * 96,
        "md5:" + "a" * 32,
        "blake3:" + "a" * 64,
        "sha256:" + "\u0661" * 64,
        "sha256:" + "../" * 21 + "a",
        "sha256:" + EMPTY,
        "sha256:" + "a" * 63 + "\x00",
    ],
)
def test_what_cannot_be_verified_is_no_digest(text: str) -> None:
    """A digest I mistyped, or one of an unknown algorithm, is refused; no path is ever made of it."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@given(st.text())
def test_any_text_is_a_safe_digest_or_refused(text: str) -> None:
    """Whatever a client sends: it becomes one harmless path component, or an error."""
    for candidate in (text, f"sha256:{text}"):
        try:
            digest = Digest.parse(candidate)
        except DigestInvalid:
            continue
        assert re.fullmatch(r"sha(256|512)-[a-f0-9]+", digest.file_name)


def test_a_digest_cannot_be_made_around_its_grammar() -> None:
    """A path may be built of every digest, however it was made."""
    with pytest.raises(DigestInvalid):
        Digest("sha256", "../../etc/passwd")
    for algorithm in ("md5", "nonsense"):
        with pytest.raises(DigestInvalid):
            Digest.of(b"", algorithm)


def test_the_error_names_the_unknown_algorithm_and_the_known_ones() -> None:
    """I see at once why my blake3 digest was refused, and what would work."""
    with pytest.raises(DigestInvalid, match="'blake3'.*sha256 and sha512"):
        Digest.parse("blake3:" + "a" * 64)


def test_the_error_does_not_repeat_a_megabyte() -> None:
    """A huge wrong digest does not fill my log."""
    for text in ("a" * 10**6, "a" * 10**6 + ":b", "sha256:" + "a" * 10**6):
        with pytest.raises(DigestInvalid) as caught:
            Digest.parse(text)
        assert len(str(caught.value)) < 400


@given(st.binary(), st.sampled_from(sorted(ALGORITHMS)))
def test_bytes_match_their_own_digest(data: bytes, algorithm: str) -> None:
    """What was hashed whole, and what was hashed in pieces, have the digest the standard library says."""
    digest = Digest.of(data, algorithm)
    assert str(digest) == f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    assert digest.matches(data)
    hasher = digest.hasher()
    for at in range(0, len(data), 7):
        hasher.update(data[at : at + 7])
    assert hasher.hexdigest() == digest.encoded


@given(st.binary(), st.binary())
def test_other_bytes_do_not_match(data: bytes, other: bytes) -> None:
    """One changed byte is noticed."""
    assert Digest.of(data).matches(other) == (data == other)


def test_the_empty_blob_has_its_well_known_digest() -> None:
    """The empty blob is a blob like any other, sha256 unless said otherwise."""
    assert str(Digest.of(b"")) == EMPTY


def test_digests_sort_by_their_text() -> None:
    """Lists of digests come out in one order everywhere."""
    some = [Digest.of(bytes([n]), algorithm) for n in range(20) for algorithm in ALGORITHMS]
    assert [str(digest) for digest in sorted(some)] == sorted(str(digest) for digest in some)
