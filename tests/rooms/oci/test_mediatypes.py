"""Media types: what upstreams are asked for."""

from __future__ import annotations

import pytest

from appliance.oci import mediatypes


def test_upstreams_are_asked_for_every_kind_of_manifest() -> None:
    """No upstream says 404, or converts my image, because a type was missing from the question."""
    asked = mediatypes.ACCEPT.split(", ")
    assert set(asked) == mediatypes.INDEXES | mediatypes.IMAGES | {"*/*;q=0.1"}
    assert len(asked) == 5


def test_schema_1_is_never_asked_for() -> None:
    """Docker's first format, whose bytes do not have their digest, is not requested."""
    assert not any(old in mediatypes.ACCEPT for old in mediatypes.SCHEMA1)


def test_indexes_images_and_schema_1_are_three_different_things() -> None:
    """A type is one of them at most."""
    kinds = (mediatypes.INDEXES, mediatypes.IMAGES, mediatypes.SCHEMA1)
    assert len(frozenset().union(*kinds)) == sum(map(len, kinds)) == 6


@pytest.mark.parametrize("text", ["a/b", mediatypes.OCI_INDEX, "application/vnd.cncf.helm.config.v1+json"])
def test_a_media_type_is_known_when_seen(text: str) -> None:
    """Types of the registries of types are types."""
    assert mediatypes.is_media_type(text)


@pytest.mark.parametrize("text", ["", "a", "a/", "/b", "a/b/c", "a/b\n", "a/b;c=d", "a/b\r\nX: y", "\u00e9/b", "*/*"])
def test_what_would_break_a_header_is_no_media_type(text: str) -> None:
    """No manifest adds a header to our answers."""
    assert not mediatypes.is_media_type(text)


@pytest.mark.parametrize("text", ["a/b", "a/b;c=d", " A/B ; c=d", "a/b;"])
def test_parameters_do_not_count(text: str) -> None:
    """A charset behind a type does not make it another one."""
    assert mediatypes.without_parameters(text) == "a/b"
