"""bundle.json: what was written is read back, and what contradicts itself is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle import bundlejson, contents
from appliance.bundle.bundlejson import content_root, decode, encode, sealed
from appliance.bundle.contents import (
    MEDIA_TYPE,
    AbsentPlatform,
    Base,
    BlobEntry,
    Bundle,
    Part,
    Platforms,
    Producer,
    Provenance,
    Pulls,
    Ref,
    ReferrerEntry,
    Required,
    Volume,
    VolumeMark,
)
from appliance.errors import BundleDamaged, BundleError, BundleTooNew
from appliance.oci.digest import Digest

INDEX, IMAGE, LAYER, HELD = (str(Digest.of(name.encode())) for name in ("index", "image", "layer", "held"))
TIME = "2026-11-21T08:00:00Z"
PARTS = (
    Part(n=1, size=4000, sha256="a" * 64, volume=1),
    Part(n=2, size=4000, sha256="b" * 64, volume=2),
    Part(n=3, size=1000, sha256="c" * 64, volume=3),
)
FULL = Bundle(
    created=TIME,
    producer=Producer(name="pullcache", version="1"),
    site="north",
    title="November, Zürich",
    labels={"ticket": "42"},
    kind="full",
    refs=(
        Ref(
            name="docker.io/library/nginx:1.2",
            digest=INDEX,
            media_type="application/vnd.oci.image.index.v1+json",
            size=100,
            upstream=Provenance(registry="docker.io", repository="library/nginx", tag="1.2", resolved_at=TIME),
            platforms=Platforms(present=("linux/amd64",), absent=("linux/arm64",)),
            use=Pulls(pulls=3, last_pull=TIME),
        ),
    ),
    blobs=(
        BlobEntry(digest=INDEX, size=100, kind="index"),
        BlobEntry(digest=IMAGE, size=200, kind="manifest"),
        BlobEntry(digest=LAYER, size=9000, kind="layer"),
    ),
    requires=(),
    absent_platforms=(AbsentPlatform(index=INDEX, digest=HELD, size=7, platform="linux/arm64"),),
    referrers=(ReferrerEntry(subject=INDEX, digest=IMAGE, repository="docker.io/library/nginx"),),
)
INCREMENT = msgspec.structs.replace(
    FULL,
    kind="increment",
    base=Base(source="inventory", site="south", inventory=HELD, taken=TIME),
    requires=(Required(digest=HELD, size=7, kind="layer", needed_by=("docker.io/library/nginx:1.2",)),),
    blobs=(*FULL.blobs[:2], msgspec.structs.replace(FULL.blobs[2], parts=PARTS)),
)


def document(**changes: Any) -> bytes:
    """The full bundle with other fields, and with the id that fits them: well made, and wrong."""
    fields = json.loads(encode(FULL)) | changes
    fields = {name: value for name, value in fields.items() if value is not None and name != "id"}
    made = json.dumps(fields, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    identity = str(Digest.of(made))
    return json.dumps(fields | {"id": identity}, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def complaint(data: bytes) -> str:
    with pytest.raises(BundleDamaged) as caught:
        decode(data, "a.tar")
    return str(caught.value)


# -- reading and writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", [FULL, INCREMENT])
def test_what_was_written_is_read_back(bundle: Bundle) -> None:
    """Everything I said of a bundle is in it, and writing it again gives the same bytes."""
    data = encode(bundle)
    assert decode(data, "a.tar") == sealed(bundle)
    assert encode(decode(data, "a.tar")) == data


LINES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=20)
SIZES = st.integers(0, 2**45)
BLOBS = st.lists(
    st.builds(
        BlobEntry,
        digest=st.binary(max_size=4).map(Digest.of).map(str),
        size=SIZES,
        kind=st.sampled_from(["index", "manifest", "config", "layer", "artifact"]),
        media_type=LINES,
        volume=st.integers(1, 9),
    ),
    unique_by=lambda blob: blob.digest,
    max_size=5,
)


@given(LINES, st.dictionaries(LINES, LINES, max_size=3), BLOBS)
def test_any_title_and_any_blobs_survive(title: str, labels: dict[str, str], blobs: list[BlobEntry]) -> None:
    """Titles in any script, any sizes, any volumes."""
    bundle = msgspec.structs.replace(FULL, title=title, labels=labels, blobs=(*FULL.blobs, *blobs))
    if len({blob.digest for blob in bundle.blobs}) < len(bundle.blobs):
        return
    data = encode(bundle)
    assert decode(data, "a.tar") == sealed(bundle)
    assert encode(decode(data, "a.tar")) == data


def test_the_document_is_canonical() -> None:
    """Another program computes the same id: sorted keys, UTF-8, no white space, and the id left out."""
    data = encode(FULL)
    fields = json.loads(data)
    assert data == json.dumps(fields, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    assert data == document()
    assert (fields["mediaType"], fields["requires"], fields["volumeCount"]) == (MEDIA_TYPE, [], 1)


def test_what_follows_from_the_rest_is_filled_in() -> None:
    """Volumes, totals and the fingerprint are never wrong, whatever they were before."""
    wrong = msgspec.structs.replace(INCREMENT, content_root=HELD, volume_count=7, id=HELD)
    bundle = decode(encode(wrong), "a.tar")
    assert bundle.volumes == (Volume(n=1, size=4300), Volume(n=2, size=4000), Volume(n=3, size=1000))
    assert (bundle.volume_count, bundle.totals.blobs, bundle.totals.bytes, bundle.totals.refs) == (3, 3, 9300, 1)
    assert encode(wrong) == encode(INCREMENT)


def test_the_fingerprint_is_of_the_contents_alone() -> None:
    """Two bundles with the same blobs have the same content root, however they are packed and called."""
    lines = sorted(f"{blob.digest} {blob.size}\n" for blob in FULL.blobs)
    assert content_root(FULL.blobs) == str(Digest.of("".join(lines).encode()))
    assert content_root(reversed(INCREMENT.blobs)) == content_root(FULL.blobs)
    assert content_root(FULL.blobs[:2]) != content_root(FULL.blobs)


def test_a_bundle_that_could_not_be_read_is_not_written() -> None:
    """The mistake shows where it is made, not across the gap."""
    with pytest.raises(BundleError, match="which is neither inside nor required"):
        encode(msgspec.structs.replace(FULL, blobs=FULL.blobs[1:]))
    with pytest.raises(BundleError, match="title"):
        encode(msgspec.structs.replace(FULL, title="\x1b[2J"))


# -- what is refused ------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_changed_document_is_noticed(data: st.DataObject) -> None:
    """No byte can be changed unseen, even where nothing is signed."""
    whole = encode(INCREMENT)
    position = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes([whole[position] ^ data.draw(st.integers(1, 255))])
    with pytest.raises(BundleError):
        decode(whole[:position] + changed + whole[position + 1 :], "a.tar")


@pytest.mark.parametrize("end", [b" ", b"\n", b"{}", b"\0"])
def test_nothing_follows_the_document(end: bytes) -> None:
    """What is signed and what is read are the same bytes."""
    assert "a.tar, pullcache/bundle.json" in complaint(encode(FULL) + end)


def test_no_two_documents_have_one_id() -> None:
    """What is taken out before hashing is the id, not whatever looks like it further in."""
    bundle = sealed(msgspec.structs.replace(FULL, labels={"z": "1"}))
    twice = encode(bundle).replace(b'"labels":{', b'"labels":{"id":"%b",' % bundle.id.encode())
    assert json.loads(twice)["labels"] == {"id": bundle.id, "z": "1"}
    assert "does not have its id" in complaint(twice)


@pytest.mark.parametrize("version", [2, 10, 999_999_999])
def test_a_newer_format_is_distinguished_from_a_damaged_one(version: int) -> None:
    """I learn that I need a newer program, whatever else the document says."""
    media_type = f"application/vnd.pullcache.bundle.v{version}+json"
    with pytest.raises(BundleTooNew, match=rf"a.tar, .*: format {version} of bundles is not known here.*newer"):
        decode(json.dumps({"other": 1, "mediaType": media_type}).encode(), "a.tar")


def test_an_older_program_reads_what_a_newer_one_added() -> None:
    """Fields that are not known are covered by the id and left alone."""
    data = document(zebra=1, base2={"a": []})
    assert decode(data, "a.tar").refs == FULL.refs
    assert "does not have its id" in complaint(data.replace(b"zebra", b"zebru"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mediaType": "application/json"}, "is not its media type"),
        ({"mediaType": "application/vnd.pullcache.bundle.v0+json"}, "is not its media type"),
        ({"mediaType": "application/vnd.pullcache.bundle.v1+json\n"}, "is not its media type"),
        ({"mediaType": None}, "mediaType"),
        ({"blobs": None}, "blobs"),
        ({"kind": "half"}, "kind"),
        ({"created": "yesterday"}, "created"),
        ({"created": TIME + "\n"}, "created"),
        ({"site": "\x1b[2J"}, "site"),
        ({"title": "x" * 2000}, "title"),
        ({"labels": {"a\nb": "c"}}, "labels"),
        ({"blobs": [{"digest": "sha256:../../x", "size": 1, "kind": "layer"}]}, "digest"),
        ({"blobs": [{"digest": HELD, "size": -1, "kind": "layer"}]}, "size"),
        ({"blobs": [{"digest": HELD, "size": 2**60, "kind": "layer"}]}, "size"),
        ({"blobs": [{"digest": HELD, "size": 1.5, "kind": "layer"}]}, "size"),
        ({"blobs": [{"digest": HELD, "size": 1, "kind": "layer", "volume": 0}]}, "volume"),
        ({"blobs": [{"digest": HELD, "size": 1, "kind": "layer", "volume": 10_000}]}, "volume"),
        ({"blobs": json.loads(encode(FULL))["blobs"] * 2}, "twice"),
        ({"refs": json.loads(encode(FULL))["refs"] * 2}, "refs lists docker.io/library/nginx:1.2 twice"),
        ({"blobs": []}, "neither inside nor required"),
        ({"requires": [{"digest": HELD, "size": 1, "kind": "layer"}]}, "builds on something else"),
        ({"kind": "increment", "requires": [{"digest": LAYER, "size": 1, "kind": "layer"}]}, "twice"),
        ({"base": {"from": "bundles", "ids": [HELD]}}, "builds on something else"),
        ({"volumes": [{"n": 1, "size": 1}]}, "volumes"),
        ({"volumeCount": 2}, "volumes"),
        ({"totals": {"blobs": 1, "bytes": 9300, "refs": 1}}, "totals"),
        ({"contentRoot": HELD}, "content root"),
        ({"contentRoot": "short"}, "contentRoot"),
    ],
)
def test_a_document_that_cannot_be_true_is_refused(changes: dict[str, Any], words: str) -> None:
    """Even with the right id, and signed."""
    assert words in complaint(document(**changes))


@pytest.mark.parametrize(
    "parts",
    [
        [(1, 4000, 1), (3, 5000, 2)],
        [(2, 4000, 1), (1, 5000, 2)],
        [(1, 4000, 1), (2, 4000, 2)],
        [(1, 4000, 2), (2, 5000, 3)],
        [(1, 9000, 1), (1, 0, 1)],
    ],
)
def test_parts_make_a_whole(parts: list[tuple[int, int, int]]) -> None:
    """The parts of a layer follow each other without a gap and add up."""
    made = tuple(Part(n=n, size=size, sha256="a" * 64, volume=volume) for n, size, volume in parts)
    with pytest.raises(BundleError, match=f"the parts of {LAYER} do not make 9000 bytes"):
        encode(
            msgspec.structs.replace(
                FULL, blobs=(*FULL.blobs[:2], BlobEntry(digest=LAYER, size=9000, kind="layer", parts=made))
            )
        )


def test_a_document_is_not_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read into memory has a limit."""
    assert contents.MAX_BUNDLE_BYTES == 64 * 2**20
    data = encode(FULL)
    monkeypatch.setattr(bundlejson, "MAX_BUNDLE_BYTES", 100)
    assert "are too many: 100 are allowed" in complaint(data)


@pytest.mark.parametrize(
    "opening", [b"[", b'{"a":', b'{"mediaType":[', b'{"mediaType":"' + MEDIA_TYPE.encode() + b'","x":[']
)
def test_a_document_is_not_bottomless(opening: bytes) -> None:
    """A million brackets do not bring the appliance down."""
    assert "a.tar, pullcache/bundle.json" in complaint(opening * 300_000)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    """Rubbish is called damaged, and nothing else ever happens."""
    with pytest.raises(BundleDamaged):
        decode(data, "a.tar")
    with pytest.raises(BundleDamaged):
        bundlejson.decode_mark(data, "a.tar")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just(HELD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(encode(INCREMENT)))), JSON, max_size=3))
def test_any_fields_are_read_or_refused(changes: dict[str, Any]) -> None:
    """Whatever stands where something else belongs, a document is read whole or refused as damaged."""
    changes.pop("mediaType", None)
    try:
        data = document(**changes)
    except UnicodeEncodeError:
        return
    try:
        bundle = decode(data, "a.tar")
    except BundleDamaged as error:
        assert "a.tar, pullcache/bundle.json" in str(error)
    else:
        assert bundle.blobs == FULL.blobs


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_name_of_an_entry_tells_the_blob(algorithm: str) -> None:
    """What an entry holds is known from its name alone."""
    digest = Digest.of(b"x", algorithm)
    assert contents.blob_name(digest) == f"blobs/{algorithm}/{digest.encoded}"
    assert contents.parse_name(contents.blob_name(digest)) == (digest, None)
    assert contents.part_name(digest, 12) == f"pullcache/parts/{algorithm}/{digest.encoded}/0012"
    assert contents.parse_name(contents.part_name(digest, 12)) == (digest, 12)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "index.json",
        "blobs/sha256",
        f"blobs/sha256/{'A' * 64}",
        f"blobs/sha256/{'a' * 63}",
        f"blobs/sha256/{'a' * 128}",
        f"blobs/sha512/{'a' * 64}",
        f"blobs/sha256/{'a' * 64}\n",
        f"blobs/md5/{'a' * 64}",
        f"x/blobs/sha256/{'a' * 64}",
        f"blobs/sha256/{'a' * 64}/0001",
        f"pullcache/parts/sha256/{'a' * 64}/1",
        f"pullcache/parts/sha256/{'a' * 64}/\u0661\u0661\u0661\u0661",
    ],
)
def test_every_other_name_is_no_blob(name: str) -> None:
    """No path that a sender chooses is taken for a blob."""
    assert contents.parse_name(name) is None


@pytest.mark.parametrize(
    ("title", "start"),
    [("November, Zürich", "November-Z-rich"), ("", "bundle"), ("../../etc", "etc"), ("a:b\\c", "a-b-c"), ("-rf", "rf")],
)
def test_a_file_is_named_for_its_title_and_id(title: str, start: str) -> None:
    """The name says what it is, and can be written to a FAT stick and used in a shell."""
    one = sealed(msgspec.structs.replace(FULL, title=title))
    assert bundlejson.file_name(one, 1) == f"{start}-{one.id[7:19]}.tar"
    three = sealed(msgspec.structs.replace(INCREMENT, title=title))
    assert bundlejson.file_name(three, 2) == f"{start}-{three.id[7:19]}.v02of03.tar"


def test_a_volume_says_which_it_is() -> None:
    """Any volume can come first: it names its bundle and its place."""
    mark = VolumeMark(bundle=HELD, n=2, of=3)
    data = bundlejson.encode_mark(mark)
    assert json.loads(data) == {"bundle": HELD, "n": 2, "of": 3}
    assert bundlejson.decode_mark(data, "a.tar") == mark
    with pytest.raises(BundleDamaged, match=r"a.tar, pullcache/volume.json: it is volume 4 of 3"):
        bundlejson.decode_mark(data.replace(b'"n":2', b'"n":4'), "a.tar")
