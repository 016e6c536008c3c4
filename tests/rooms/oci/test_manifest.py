"""Manifests: what they are, what they point to, and which are never kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import DigestInvalid, ManifestInvalid
from appliance.oci import mediatypes
from appliance.oci.descriptor import MAX_SIZE, Descriptor
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, parse_manifest

UNKNOWN = "application/vnd.example.thing.v1+json"


def pointer(content: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": "application/vnd.example", "digest": str(Digest.of(content)), "size": len(content), **more}


CONFIG, LAYER, OTHER = pointer(b"config"), pointer(b"layer"), pointer(b"other")
IMAGE: dict[str, Any] = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER, OTHER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": [LAYER, OTHER]}


def encoded(document: object, **more: Any) -> bytes:
    return json.dumps({**document, **more} if isinstance(document, dict) else document).encode()


def digests(descriptors: tuple[Descriptor, ...]) -> list[str]:
    return [str(descriptor.parsed()) for descriptor in descriptors]


# -- what it points to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", sorted(mediatypes.IMAGES))
def test_an_image_points_to_its_config_and_then_its_layers(media_type: str) -> None:
    """Every blob of my image is known from its manifest, in order."""
    manifest = parse_manifest(encoded(IMAGE, mediaType=media_type), None)
    assert manifest.media_type == media_type
    assert not manifest.is_index
    assert manifest.manifests == ()
    assert digests(manifest.blobs) == [CONFIG["digest"], LAYER["digest"], OTHER["digest"]]
    assert [blob.size for blob in manifest.blobs] == [6, 5, 5]


@pytest.mark.parametrize("media_type", sorted(mediatypes.INDEXES))
def test_an_index_points_to_its_children(media_type: str) -> None:
    """Every platform of my image is known from its index, as written there."""
    platform = {"os": "linux", "architecture": "arm64", "os.features": ["x"]}
    children = [pointer(b"1", platform=platform, annotations={"a": "b"}), pointer(b"2", artifactType="t/x")]
    manifest = parse_manifest(encoded(INDEX, mediaType=media_type, manifests=children), None)
    assert manifest.media_type == media_type
    assert manifest.is_index
    assert manifest.blobs == ()
    assert manifest.manifests[0].platform == platform
    assert manifest.manifests[0].annotations == {"a": "b"}
    assert manifest.manifests[1].artifact_type == "t/x"
    assert manifest.manifests[1].media_type == "application/vnd.example"


def test_a_signature_points_to_its_subject() -> None:
    """What an artifact is about, and its type, are known from its manifest."""
    document = encoded(IMAGE, artifactType="application/vnd.sig", subject=OTHER, annotations={"k": "v"})
    manifest = parse_manifest(document, None)
    assert manifest.subject is not None
    assert str(manifest.subject.parsed()) == OTHER["digest"]
    assert manifest.artifact_type == "application/vnd.sig"
    assert manifest.annotations == {"k": "v"}


def test_an_artifact_manifest_of_the_release_candidates_is_kept() -> None:
    """Artifacts pushed before image-spec 1.1 was final go on working, with blobs or without."""
    manifest = parse_manifest(encoded({"mediaType": mediatypes.OCI_ARTIFACT_MANIFEST, "blobs": [LAYER]}), None)
    assert digests(manifest.blobs) == [LAYER["digest"]]
    assert parse_manifest(encoded({"subject": OTHER}), mediatypes.OCI_ARTIFACT_MANIFEST).blobs == ()


def test_unknown_types_of_config_and_layers_are_no_reason_to_refuse() -> None:
    """My Helm chart, WASM module or model passes like any image, whatever else its descriptors say."""
    strange = pointer(b"x", mediaType="anything at all", urls=["https://x.example"], data="eA==", other=[{}])
    manifest = parse_manifest(encoded(IMAGE, config=strange, layers=[strange, strange], extra={"a": [1]}), None)
    assert digests(manifest.blobs) == [strange["digest"]] * 3


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({**IMAGE, "layers": []}, mediatypes.OCI_MANIFEST),
        ({**IMAGE, "layers": None}, mediatypes.OCI_MANIFEST),
        ({"config": CONFIG, "mediaType": mediatypes.OCI_MANIFEST}, mediatypes.OCI_MANIFEST),
        ({"manifests": []}, mediatypes.OCI_INDEX),
        ({"manifests": None}, mediatypes.OCI_INDEX),
        ({**IMAGE, "annotations": None, "subject": None, "artifactType": None}, mediatypes.OCI_MANIFEST),
    ],
)
def test_null_and_empty_lists_are_empty(document: object, media_type: str) -> None:
    """What Go programs write for an empty list is taken for one."""
    manifest = parse_manifest(encoded(document), None)
    assert manifest.media_type == media_type
    assert manifest.is_index == (media_type == mediatypes.OCI_INDEX)
    assert manifest.annotations == {}


def test_sha512_is_as_good_as_sha256() -> None:
    """An image named by sha512 throughout is kept."""
    layer = {**LAYER, "digest": str(Digest.of(b"layer", "sha512"))}
    assert parse_manifest(encoded(IMAGE, layers=[layer]), None).blobs[1].parsed().algorithm == "sha512"


# -- what it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "content_type", "document", "expected"),
    [
        (mediatypes.DOCKER_MANIFEST, mediatypes.DOCKER_MANIFEST, IMAGE, mediatypes.DOCKER_MANIFEST),
        (mediatypes.DOCKER_MANIFEST, "application/json", IMAGE, mediatypes.DOCKER_MANIFEST),
        (mediatypes.OCI_INDEX, mediatypes.OCI_INDEX.upper() + "; charset=utf-8", INDEX, mediatypes.OCI_INDEX),
        (mediatypes.OCI_INDEX, "text/html", INDEX, mediatypes.OCI_INDEX),
        (mediatypes.OCI_MANIFEST, "image/png", IMAGE, mediatypes.OCI_MANIFEST),
        (None, "image/png", IMAGE, mediatypes.OCI_MANIFEST),
        (None, mediatypes.DOCKER_MANIFEST, IMAGE, mediatypes.DOCKER_MANIFEST),
        ("", mediatypes.DOCKER_MANIFEST_LIST, INDEX, mediatypes.DOCKER_MANIFEST_LIST),
        (None, mediatypes.DOCKER_MANIFEST + "; charset=utf-8", IMAGE, mediatypes.DOCKER_MANIFEST),
        (None, mediatypes.DOCKER_MANIFEST.title() + " ;x=y", IMAGE, mediatypes.DOCKER_MANIFEST),
        (None, "application/json", IMAGE, mediatypes.OCI_MANIFEST),
        (None, "application/json; charset=utf-8", INDEX, mediatypes.OCI_INDEX),
        (None, "text/plain", IMAGE, mediatypes.OCI_MANIFEST),
        (None, "text/html; charset=utf-8", INDEX, mediatypes.OCI_INDEX),
        (None, mediatypes.OCTET_STREAM, IMAGE, mediatypes.OCI_MANIFEST),
        (None, "binary/octet-stream", IMAGE, mediatypes.OCI_MANIFEST),
        (None, "nonsense\r\nX: y", IMAGE, mediatypes.OCI_MANIFEST),
        (None, "", IMAGE, mediatypes.OCI_MANIFEST),
        (None, None, IMAGE, mediatypes.OCI_MANIFEST),
        (None, None, INDEX, mediatypes.OCI_INDEX),
        (UNKNOWN, UNKNOWN, IMAGE, UNKNOWN),
        (UNKNOWN, "text/plain", IMAGE, UNKNOWN),
        (None, UNKNOWN, INDEX, UNKNOWN),
    ],
)
def test_a_document_is_what_it_says_then_what_its_sender_says_then_what_it_looks_like(
    said: str | None, content_type: str | None, document: dict[str, Any], expected: str
) -> None:
    """Clients get the type that the document carries; a careless Content-Type does not spoil an image."""
    more = {} if said is None else {"mediaType": said}
    manifest = parse_manifest(encoded(document, **more), content_type)
    assert manifest.media_type == expected
    assert manifest.is_index == (document is INDEX)


@pytest.mark.parametrize(
    ("said", "content_type", "document"),
    [
        (mediatypes.DOCKER_MANIFEST, mediatypes.OCI_MANIFEST, IMAGE),
        (mediatypes.OCI_MANIFEST, mediatypes.DOCKER_MANIFEST + "; charset=utf-8", IMAGE),
        (mediatypes.OCI_MANIFEST, mediatypes.DOCKER_SCHEMA1_SIGNED, IMAGE),
        (mediatypes.OCI_INDEX, mediatypes.OCI_MANIFEST, INDEX),
        (mediatypes.OCI_MANIFEST, mediatypes.OCI_INDEX, IMAGE),
        (UNKNOWN, mediatypes.OCI_MANIFEST, IMAGE),
        (mediatypes.OCI_MANIFEST, UNKNOWN, IMAGE),
    ],
)
def test_a_document_and_its_sender_that_name_two_types_are_refused(
    said: str, content_type: str, document: dict[str, Any]
) -> None:
    """A client that goes by the Content-Type and one that goes by the document would pull two different things."""
    with pytest.raises(ManifestInvalid, match="says that it is"):
        parse_manifest(encoded(document, mediaType=said), content_type)


def test_the_word_of_an_index_counts_when_there_is_no_other() -> None:
    """A child is what it says itself, then what it came as, then what its descriptor says; and served as that."""
    own = encoded(IMAGE, mediaType=mediatypes.OCI_MANIFEST)
    assert parse_manifest(own, None, mediatypes.DOCKER_MANIFEST).media_type == mediatypes.OCI_MANIFEST
    assert parse_manifest(encoded(IMAGE), None, mediatypes.DOCKER_MANIFEST).media_type == mediatypes.DOCKER_MANIFEST
    assert parse_manifest(encoded(IMAGE), UNKNOWN, mediatypes.DOCKER_MANIFEST).media_type == UNKNOWN
    assert parse_manifest(encoded(IMAGE), None, "text/html").media_type == mediatypes.OCI_MANIFEST


@pytest.mark.parametrize(
    "media_type",
    ["text/html", "image/svg+xml", "TEXT/html", "multipart/mixed", mediatypes.OCI_MANIFEST.upper()]
    + ["application/x\r\nX-Evil: 1", "application/x\n", "application/x;a=b", "application/x y", "application/\u00e9"]
    + ["application/", "application/x/y", "application/" + "x" * 200, "application/x\x00"],
)
def test_what_a_browser_would_show_is_no_manifest(media_type: str) -> None:
    """A script in a manifest never becomes a page of the cache; nor is there a second spelling, or a header in it."""
    with pytest.raises(ManifestInvalid, match="is no media type of a manifest"):
        parse_manifest(encoded(IMAGE, mediaType=media_type), None)


# -- keys that readers differ in ------------------------------------------------------------------------------------


def doubled(document: dict[str, Any], key: str, other: str) -> bytes:
    """C{document} with C{key} once more as C{other}, in front, where readers that take the last one pass it by."""
    return b"{" + json.dumps(other).encode() + b": " + json.dumps(document[key]).encode() + b"," + encoded(document)[1:]


def spellings(key: str) -> set[str]:
    """Keys that a program in Go takes for C{key}."""
    found = {key.capitalize(), key.upper(), key[0] + key[1:].replace("s", "\u017f").replace("k", "\u212a")}
    return found - {key}


FULL: dict[str, Any] = {
    **IMAGE,
    "mediaType": mediatypes.OCI_MANIFEST,
    "artifactType": "a/b",
    "subject": OTHER,
    "annotations": {"a": "b"},
}
FULL_INDEX: dict[str, Any] = {**INDEX, "mediaType": mediatypes.OCI_INDEX}
TOPS = [(FULL, key) for key in FULL] + [(FULL_INDEX, "manifests")]


@pytest.mark.parametrize(("document", "key"), TOPS)
def test_a_key_that_stands_twice_is_refused(document: dict[str, Any], key: str) -> None:
    """My scanner and my runtime read the same layers, whichever of two they take (CVE-2021-41190)."""
    assert parse_manifest(encoded(document), None)
    escaped = f"\\u{ord(key[0]):04x}{key[1:]}"
    for data in (doubled(document, key, key), doubled(document, key, key).replace(key.encode(), escaped.encode(), 1)):
        with pytest.raises(ManifestInvalid, match=f"'{key}' stands twice in the document"):
            parse_manifest(data, None)


@pytest.mark.parametrize(("document", "key"), TOPS)
def test_a_key_in_another_case_is_refused(document: dict[str, Any], key: str) -> None:
    """Beside the right one or instead of it: half of all readers take it for that."""
    for other in spellings(key):
        renamed = {other if name == key else name: value for name, value in document.items()}
        for data in (doubled(document, key, other), encoded(renamed)):
            with pytest.raises(ManifestInvalid, match=f"readers differ in whether that is '{key}'"):
                parse_manifest(data, mediatypes.OCI_MANIFEST if document is FULL else None)


DESCRIPTOR = pointer(b"x", urls=[], annotations={}, data="eA==", artifactType="a/b", platform={"os": "linux"})


@pytest.mark.parametrize("key", DESCRIPTOR)
@pytest.mark.parametrize("place", ["config", "layers", "blobs", "subject", "manifests"])
def test_so_it_is_in_a_descriptor(place: str, key: str) -> None:
    """One layer for the scanner, another one for the runtime: neither is served."""
    document = INDEX if place == "manifests" else IMAGE
    is_list = place not in ("config", "subject")
    for other in {key} | spellings(key):
        marked = encoded(document, **{place: [OTHER, "HERE"] if is_list else "HERE"})
        data = marked.replace(b'"HERE"', doubled(DESCRIPTOR, key, other))
        with pytest.raises(ManifestInvalid, match=f"a descriptor of '{place}': readers differ"):
            parse_manifest(data, None)


@pytest.mark.parametrize("other", ["architecture", "Architecture", "ARCHITECTURE"])
def test_so_it_is_in_a_platform(other: str) -> None:
    """An index means one platform with each child, not one for each reader."""
    platform = doubled({"architecture": "amd64", "os": "linux"}, "architecture", other)
    marked = encoded(INDEX, manifests=[{**LAYER, "platform": "HERE"}])
    with pytest.raises(ManifestInvalid, match="a platform of 'manifests': readers differ"):
        parse_manifest(marked.replace(b'"HERE"', platform), None)


def test_keys_that_mean_nothing_here_are_free() -> None:
    """Whatever builders write into annotations and fields of their own, twice or not, in any case."""
    free: dict[str, Any] = {"MediaType": "x", "Digest": "y", "layers": "z", "a": "1", "A": "2"}
    document = encoded(
        IMAGE,
        config={**CONFIG, "annotations": free, "x-vendor": free, "layers": [1], "manifests": {"Digest": 1}},
        annotations=free,
        vendor={**free, "config": free},
        Vendor=[free],
        digest="of a document, which has none",
    )
    twice = document.replace(b'"vendor"', b'"vendor": 1, "vendor"', 1)
    for data in (document, twice):
        assert parse_manifest(data, mediatypes.OCI_MANIFEST).annotations == free


def test_a_document_full_of_keys_is_looked_through_in_a_moment() -> None:
    """Four mebibytes of one key, or of numbers with thousands of digits, are no more work than any other bytes."""
    keys = b"{" + b'"Layers": 1,' * 300_000 + encoded(IMAGE)[1:]
    numbers = encoded(IMAGE, x="HERE").replace(b'"HERE"', b"[" + b",".join([b"9" * 4000] * 900) + b"]")
    with pytest.raises(ManifestInvalid, match="'Layers'"):
        parse_manifest(keys, None)
    assert parse_manifest(numbers, None)


def test_a_document_of_an_unknown_type_is_known_by_its_shape() -> None:
    """A manifest of an unknown type is kept, and what it points to with it."""
    assert len(parse_manifest(encoded(IMAGE, mediaType=UNKNOWN), None).blobs) == 3
    assert len(parse_manifest(encoded(INDEX, mediaType=UNKNOWN), None).manifests) == 2


# -- what is never kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["config", "layers", "blobs"])
@pytest.mark.parametrize("media_type", [*sorted(mediatypes.IMAGES | mediatypes.INDEXES), UNKNOWN])
@pytest.mark.parametrize("value", [None, [LAYER]])
def test_what_may_be_index_or_image_is_refused(field: str, media_type: str, value: object) -> None:
    """An image to a runtime cannot be an index to a scanner (CVE-2021-41190)."""
    value = CONFIG if field == "config" and value else value
    with pytest.raises(ManifestInvalid, match=f"'manifests' and '{field}'"):
        parse_manifest(encoded(INDEX, **{field: value, "mediaType": media_type}), None)


@pytest.mark.parametrize(
    ("document", "content_type", "reason"),
    [
        (IMAGE, mediatypes.DOCKER_SCHEMA1, "schema 1"),
        (IMAGE, mediatypes.DOCKER_SCHEMA1_SIGNED, "schema 1"),
        ({**IMAGE, "mediaType": mediatypes.DOCKER_SCHEMA1_SIGNED}, None, "schema 1"),
        ({"schemaVersion": 1, "fsLayers": [], "name": "x"}, None, "schema 1"),
        ({**IMAGE, "schemaVersion": 1}, None, "schema 1"),
        ({**IMAGE, "fsLayers": []}, None, "schema 1"),
        ({**IMAGE, "schemaVersion": 3}, None, "schemaVersion 3"),
        ({**IMAGE, "schemaVersion": "2"}, None, "schemaVersion"),
        (IMAGE, mediatypes.OCI_INDEX, "no 'manifests'"),
        (INDEX, mediatypes.DOCKER_MANIFEST, "no 'config'"),
        ({"layers": [LAYER]}, mediatypes.OCI_MANIFEST, "no 'config'"),
        ({"layers": [LAYER], "config": None}, mediatypes.OCI_MANIFEST, "no 'config'"),
        ({"layers": [LAYER]}, None, "no media type"),
        ({"config": CONFIG}, None, "no media type"),
        ({}, None, "no media type"),
        ({"errors": [{"code": "UNAUTHORIZED"}]}, "application/json", "no media type"),
        ({"errors": [{"code": "UNAUTHORIZED"}]}, "application/problem+json", "points to nothing"),
        ({**IMAGE, "mediaType": "a/b\r\nX-Injected: 1"}, None, "no media type"),
        ({**IMAGE, "mediaType": "a/b; c=d"}, None, "no media type"),
        ({**IMAGE, "mediaType": "a"}, None, "no media type"),
        ({**IMAGE, "mediaType": 7}, None, "mediaType"),
        ({**IMAGE, "layers": {}}, None, "layers"),
        ({**IMAGE, "layers": [None]}, None, "layers"),
        ({**IMAGE, "layers": ["x"]}, None, "layers"),
        ({**IMAGE, "config": []}, None, "config"),
        ({**IMAGE, "subject": "x"}, None, "subject"),
        ({**IMAGE, "subject": {}}, None, "subject"),
        ({**IMAGE, "annotations": {"a": 1}}, None, "annotations"),
        ({**IMAGE, "artifactType": 1}, None, "artifactType"),
        ({**INDEX, "manifests": "x"}, None, "manifests"),
        ({**INDEX, "manifests": [{**LAYER, "platform": "linux"}]}, None, "platform"),
        ([], None, "object"),
        ("x", None, "object"),
        (None, None, "object"),
        (2, None, "object"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_reason(
    document: object, content_type: str | None, reason: str
) -> None:
    """What must not be stored is not, and the error says what is wrong with it."""
    with pytest.raises(ManifestInvalid, match=reason):
        parse_manifest(encoded(document), content_type)


BAD_POINTERS: list[tuple[dict[str, Any], str]] = [
    ({**LAYER, "digest": "blake3:" + "a" * 64}, "blake3"),
    ({**LAYER, "digest": "sha256:../../../etc/passwd"}, "etc/passwd"),
    ({**LAYER, "digest": LAYER["digest"].upper()}, "SHA256"),
    ({**LAYER, "digest": LAYER["digest"] + "\n"}, "sha256"),
    ({**LAYER, "digest": ""}, "no digest"),
    ({**LAYER, "digest": None}, "digest"),
    ({**LAYER, "size": -1}, "size"),
    ({**LAYER, "size": MAX_SIZE + 1}, "size"),
    ({**LAYER, "size": 2**64}, "size"),
    ({**LAYER, "size": 1.5}, "size"),
    ({**LAYER, "size": "5"}, "size"),
    ({**LAYER, "size": True}, "size"),
    ({"digest": LAYER["digest"]}, "size"),
    ({"size": 5}, "digest"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_POINTERS)
@pytest.mark.parametrize("place", ["config", "layers", "blobs", "subject", "manifests"])
def test_a_pointer_that_cannot_be_verified_is_refused_wherever_it_stands(
    bad: dict[str, Any], reason: str, place: str
) -> None:
    """No digest inside a document reaches a URL or a path unchecked (CVE-2024-3727), no size is believed blindly."""
    document = INDEX if place == "manifests" else IMAGE
    with pytest.raises(ManifestInvalid, match=reason):
        parse_manifest(encoded(document, **{place: bad if place in ("config", "subject") else [OTHER, bad]}), None)


def test_the_largest_size_is_still_accepted() -> None:
    """The cap is on nonsense; zero and the cap itself are sizes."""
    layers = [{**LAYER, "size": 0}, {**LAYER, "size": MAX_SIZE}]
    assert [blob.size for blob in parse_manifest(encoded(IMAGE, layers=layers), None).blobs[1:]] == [0, MAX_SIZE]


def test_a_manifest_of_four_mebibytes_is_kept_and_a_larger_one_is_not() -> None:
    """The limit is where other registries have it."""
    document = encoded(IMAGE)
    padding = MAX_MANIFEST_BYTES - len(document)
    assert parse_manifest(document + b" " * padding, None).media_type == mediatypes.OCI_MANIFEST
    with pytest.raises(ManifestInvalid, match=str(MAX_MANIFEST_BYTES)):
        parse_manifest(document + b" " * (padding + 1), None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"<html></html>",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        encoded(IMAGE) + b"x",
        encoded(IMAGE)[:-1],
        b'{"mediaType": "\xff"}',
        b'{"mediaType": "\\ud800"}',
        b'{"manifests": [], "x": NaN}',
        b'{"schemaVersion": ' + b"9" * 5000 + b', "manifests": []}',
        b'{"manifests": [], "x": ' + b"[" * 100_000,
        b'{"manifests": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 1_000_000,
        b'{"fsLayers": ' + b"[" * 100_000,
        b'{"manifests": [{"digest": "", "size": 1, "platform": ' + b'{"a":' * 100_000,
    ],
)
def test_torn_hostile_or_bottomless_json_is_refused(data: bytes) -> None:
    """Bytes meant to bring the appliance down are one more invalid manifest."""
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(data, mediatypes.OCI_MANIFEST)
    assert len(str(caught.value)) < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([CONFIG, LAYER, "", UNKNOWN]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    ["schemaVersion", "mediaType", "manifests", "config", "layers", "blobs", "subject", "annotations", "fsLayers", "x"]
)


@given(st.dictionaries(field_names, json_values), st.none() | st.text() | st.sampled_from([mediatypes.OCI_MANIFEST]))
def test_any_document_is_a_sound_manifest_or_refused(document: dict[str, Any], content_type: str | None) -> None:
    """Whatever an upstream invents: every pointer I hold is sound, or there is one clear error."""
    try:
        manifest = parse_manifest(encoded(document), content_type)
    except ManifestInvalid:
        return
    assert mediatypes.is_media_type(manifest.media_type)
    assert not (manifest.manifests and manifest.blobs)
    for descriptor in manifest.manifests + manifest.blobs:
        assert 0 <= descriptor.size <= MAX_SIZE
        descriptor.parsed()


@given(st.binary())
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    """Noise raises nothing but the one error."""
    with pytest.raises(ManifestInvalid):
        parse_manifest(data, None)


def test_a_descriptor_made_by_hand_is_checked_when_its_digest_is_read() -> None:
    """A descriptor that did not come through a manifest cannot smuggle a path."""
    with pytest.raises(DigestInvalid):
        Descriptor(digest="sha256:../x", size=1).parsed()
