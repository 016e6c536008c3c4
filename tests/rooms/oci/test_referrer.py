"""Lists of referrers pass through unchanged, and what is made here is what a registry would make."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ManifestInvalid
from appliance.oci.digest import Digest
from appliance.oci.manifest import parse_manifest
from appliance.oci.reference import is_tag
from appliance.oci.referrer import (
    MAX_REFERRERS,
    MAX_REFERRERS_BYTES,
    ReferrerDescriptor,
    cosign_tags,
    distinct,
    fallback_tag,
    index_of,
    parse_descriptor,
    parse_referrers,
    referrer_of,
    subject_of,
    within_limits,
)

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SBOM, SIGNATURE = Digest.of(b"sbom"), Digest.of(b"signature")

STRANGE = (
    f'{{ "mediaType":"{MANIFEST}" , "digest":"{SBOM}","size":7, "artifactType": "application/spdx+json",'
    f'"annotations":{{"b":"2","a":"\\u00e9"}}, "org.example.unknown": [1, 2.50, null] }}'
).encode()


def listing(*descriptors: bytes, head: bytes = b'"schemaVersion":2,"mediaType":"' + INDEX.encode() + b'"') -> bytes:
    return b"{" + head + b',"manifests":[' + b",".join(descriptors) + b"]}"


def described(digest: Digest, **more: object) -> bytes:
    return json.dumps({"mediaType": MANIFEST, "digest": str(digest), "size": 3, **more}).encode()


def test_descriptors_pass_through_bit_for_bit() -> None:
    """Blanks, the order of keys, numbers and fields that are not known here stay as they were."""
    found = parse_referrers(listing(STRANGE, described(SIGNATURE)))
    assert [(each.digest, each.artifact_type) for each in found] == [
        (SBOM, "application/spdx+json"),
        (SIGNATURE, None),
    ]
    assert found[0].raw == STRANGE
    assert STRANGE in index_of(found)
    assert parse_referrers(index_of(found)) == found


def test_the_list_that_is_made_is_an_image_index() -> None:
    """An empty one has an empty list, not null."""
    assert json.loads(index_of([])) == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    assert json.loads(index_of([], {"io.pullcache.heard": "now"}))["annotations"] == {"io.pullcache.heard": "now"}


def test_what_is_no_descriptor_is_left_out() -> None:
    """One bad entry does not hide the good ones; a digest is listed once."""
    bad = [b"7", b"null", b"{}", described(SBOM).replace(b"sha256", b"md5"), b'{"digest": 1}', b'"text"']
    assert [each.digest for each in parse_referrers(listing(*bad, STRANGE, described(SBOM)))] == [SBOM]
    with pytest.raises(ManifestInvalid):
        parse_descriptor(b"{}")


@pytest.mark.parametrize("other", [b"manifests", b"Manifests", b"manifest\xc5\xbf"])
def test_a_list_that_readers_may_differ_in_is_none(other: bytes) -> None:
    """Nor is it an empty one: what one reader sees signed, another would not."""
    body = listing(STRANGE)
    assert len(parse_referrers(body)) == 1
    for twice in (b'"%b":[],"manifests"' % other, b'"manifests":[],"%b"' % other):
        with pytest.raises(ManifestInvalid, match="readers differ"):
            parse_referrers(body.replace(b'"manifests"', twice))
    with pytest.raises(ManifestInvalid, match="readers differ"):
        parse_referrers(body.replace(b'"digest"', b'"Digest":"sha256:0","digest"'))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"schemaVersion":2}',
        listing(head=b'"schemaVersion":1'),
        listing(head=b'"schemaVersion":2,"mediaType":"' + MANIFEST.encode() + b'"'),
        b'{"schemaVersion":2,"manifests":{}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    """A page of a portal, an image, a list of another kind: none of them says that there are no referrers."""
    with pytest.raises(ManifestInvalid):
        parse_referrers(body)


def test_go_servers_say_null_for_none() -> None:
    """It is an empty list."""
    assert parse_referrers(b'{"schemaVersion":2,"manifests":null}') == []


def test_a_held_manifest_is_described_as_its_registry_would() -> None:
    """Its artifact type, else its configuration's type; its annotations."""
    config = {"mediaType": "application/vnd.example.config", "digest": str(SBOM), "size": 2}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "annotations": {"a": "b"}}
    plain = parse_manifest(json.dumps(document).encode(), None)
    typed = parse_manifest(json.dumps({**document, "artifactType": "application/x"}).encode(), None)
    assert json.loads(referrer_of(SIGNATURE, 9, plain).raw) == {
        "mediaType": MANIFEST,
        "digest": str(SIGNATURE),
        "size": 9,
        "artifactType": "application/vnd.example.config",
        "annotations": {"a": "b"},
    }
    assert referrer_of(SIGNATURE, 9, typed).artifact_type == "application/x"
    index = parse_manifest(listing(described(SBOM)), None)
    assert "artifactType" not in json.loads(referrer_of(SIGNATURE, 9, index).raw)


def test_the_first_of_two_descriptors_of_one_digest_is_kept() -> None:
    """What the upstream says of a referrer goes before what is made here."""
    first, second = (ReferrerDescriptor(SBOM, MANIFEST, kind, kind.encode()) for kind in ("a", "b"))
    other = ReferrerDescriptor(SIGNATURE, MANIFEST, None, b"{}")
    assert distinct([first, other, second]) == [first, other]


def test_too_many_are_cut_and_it_is_said() -> None:
    """By number and by bytes."""
    one = ReferrerDescriptor(SBOM, MANIFEST, None, b"{}")
    assert within_limits([one] * MAX_REFERRERS) == ([one] * MAX_REFERRERS, False)
    assert within_limits([one] * (MAX_REFERRERS + 1)) == ([one] * MAX_REFERRERS, True)
    large = ReferrerDescriptor(SBOM, MANIFEST, None, b"x" * (MAX_REFERRERS_BYTES // 2))
    assert within_limits([large] * 3) == ([large] * 2, True)


@given(st.sampled_from(["sha256", "sha512"]), st.binary())
def test_tags_are_tags_and_lead_back(algorithm: str, data: bytes) -> None:
    """The fallback tag is a valid tag for every digest; cosign's lead back to their subject."""
    subject = Digest.of(data, algorithm)
    assert is_tag(fallback_tag(subject))
    if algorithm == "sha256":
        assert subject_of(fallback_tag(subject)) == subject
        assert [subject_of(tag) for tag in cosign_tags(subject)] == [subject] * 3


@pytest.mark.parametrize("tag", [None, "latest", "sha256-abc", f"sha256-{'0' * 64}.exe", f"sha256-{'0' * 65}"])
def test_other_tags_are_about_nothing(tag: str | None) -> None:
    """An ordinary tag is none of these."""
    assert subject_of(tag) is None
