"""A repository's document: read back as it was written, an image index to others, and never trusted when damaged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import DocumentDamaged
from appliance.index.repository import OPERATOR, ManifestRecord, Repository, Tag
from appliance.oci.digest import Digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"

digests = st.binary(min_size=1, max_size=4).flatmap(
    lambda data: st.sampled_from(["sha256", "sha512"]).map(lambda algorithm: Digest.of(data, algorithm))
)
tag_names = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)
times = st.integers(0, 4_000_000_000).map(float)
media_types = st.sampled_from([MANIFEST, "application/vnd.docker.distribution.manifest.list.v2+json", 'text/x; q="1"'])


@st.composite
def repositories(draw: st.DrawFn) -> Repository:
    repository = Repository("docker.io", "library/nginx")
    sizes = st.integers(0, 2**40)
    for digest in draw(st.lists(digests, max_size=6)):
        repository.hold(digest, draw(media_types), draw(sizes))
    if repository.manifests:
        held = st.sampled_from(sorted(repository.manifests))
        for name, (digest, tagged, checked) in draw(
            st.dictionaries(tag_names, st.tuples(held, times, times), max_size=6)
        ).items():
            repository.tag(name, digest, tagged)
            repository.tag(name, digest, checked)
        keepers = st.sampled_from([OPERATOR, "0f4f3b6e"])
        for tag in draw(st.sets(st.sampled_from(["none", *repository.tags]))) - {"none"}:
            repository.pin(tag, draw(keepers))
        for tag in draw(st.sets(st.sampled_from(["none", *repository.tags]))) - {"none"}:
            repository.lock(tag)
        for digest in draw(st.sets(held)) - {tag.digest for tag in repository.tags.values()}:
            repository.pin(digest, draw(keepers))
    for digest, size in draw(st.dictionaries(digests, sizes, max_size=4)).items():
        repository.link(digest, size)
    return repository


def state(repository: Repository) -> tuple[Any, ...]:
    held = (repository.tags, repository.manifests, repository.blobs, repository.pinned)
    return repository.upstream, repository.name, *map(dict, held)


def sample() -> Repository:
    repository = Repository("docker.io", "library/nginx")
    for number in range(4):
        digest = Digest.of(bytes([number]))
        repository.hold(digest, MANIFEST, 400 + number)
        if number < 3:
            repository.tag(f"1.{number}", digest, 1_700_000_000.0 + number)
    repository.tag("latest", Digest.of(b"\x02"), 1_700_000_009.0)
    repository.link(Digest.of(b"layer"), 123456)
    return repository


@given(repositories())
def test_what_is_written_is_what_is_read(repository: Repository) -> None:
    """Tags, manifests, blobs, times, pins and locks survive a restart."""
    read = Repository.decode("docker.io", "library/nginx", repository.encode())
    assert state(read) == state(repository)
    assert state(Repository.decode("docker.io", "library/nginx", read.encode())) == state(repository)


@given(repositories())
def test_whole_descriptors_are_salvaged_from_any_document(repository: Repository) -> None:
    """A rebuild from an undamaged document would lose no tag and no manifest."""
    salvaged = Repository.salvage("docker.io", "library/nginx", repository.encode())
    assert (salvaged.tags, salvaged.manifests) == (repository.tags, repository.manifests)


def test_the_document_is_an_oci_image_index() -> None:
    """Any tool that reads image layouts finds the tags by their standard annotation, and nothing it trips over."""
    document = json.loads(sample().encode())
    assert document["schemaVersion"] == 2
    assert document["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert len(document["manifests"]) == 5
    for entry in document["manifests"]:
        assert {"mediaType", "digest", "size"} <= set(entry)
        assert all(isinstance(value, str) for value in entry.get("annotations", {}).values())
    assert all(isinstance(value, str) for value in document["annotations"].values())
    named = [entry["annotations"] for entry in document["manifests"] if "annotations" in entry]
    assert [each["org.opencontainers.image.ref.name"] for each in named] == ["1.0", "1.1", "1.2", "latest"]
    assert named[0]["io.pullcache.tagged"] == "2023-11-14T22:13:20Z"


def test_a_moved_tag_forgets_what_it_meant_and_a_checked_one_does_not() -> None:
    """When a tag was first seen to mean a digest stays until it means another."""
    repository = sample()
    assert repository.tag("latest", Digest.of(b"\x02"), 1_800_000_000.0) is False
    assert repository.tags["latest"] == Tag(Digest.of(b"\x02"), 1_700_000_009.0, 1_800_000_000.0)
    assert repository.tag("latest", Digest.of(b"\x00"), 1_800_000_001.0) is True
    assert repository.tags["latest"] == Tag(Digest.of(b"\x00"), 1_800_000_001.0, 1_800_000_001.0)


def test_a_bundles_pin_goes_with_the_digest_and_an_operators_stays_with_the_tag() -> None:
    """What a bundle brought is not what an upstream brings next; what an operator keeps is the name."""
    one, two = Digest.of(b"\x00"), Digest.of(b"\x01")
    repository = sample()
    repository.tag("latest", one, 1.0, "bundle-1")
    repository.tag("latest", one, 2.0)
    assert repository.tags["latest"].pinned == "bundle-1"
    repository.tag("latest", two, 3.0)
    assert repository.tags["latest"].pinned is None
    repository.pin("latest", OPERATOR)
    for digest, bundle in ((one, None), (two, "bundle-2"), (two, "bundle-3")):
        repository.tag("latest", digest, 4.0, bundle)
        assert repository.tags["latest"].pinned == OPERATOR
    assert (repository.unpin("latest"), repository.unpin("latest")) == (OPERATOR, None)


def test_a_locked_tag_means_what_it_means_until_it_is_unpinned() -> None:
    """Whoever says otherwise; that it was checked is noted."""
    one, two = Digest.of(b"\x00"), Digest.of(b"\x01")
    repository = sample()
    repository.tag("1.0", one, 5.0)
    repository.lock("1.0")
    assert not repository.tag("1.0", two, 6.0) and not repository.tag("1.0", two, 6.0, "bundle")
    assert not repository.tag("1.0", one, 7.0)
    assert (repository.tags["1.0"].digest, repository.tags["1.0"].checked_at) == (one, 7.0)
    repository.unpin("1.0")
    assert repository.tag("1.0", two, 8.0)


def test_no_manifest_that_a_tag_means_is_dropped() -> None:
    """Such a document could never be written again. Without its tags it goes with its pin, and takes nothing along."""
    repository = sample()
    tagged, free = Digest.of(b"\x00"), Digest.of(b"\x03")
    with pytest.raises(ValueError, match=r"nginx:1\.0 means sha256"):
        repository.drop(free, tagged)
    assert {tagged, free} <= repository.manifests.keys(), "all of them, or none"
    repository.pin(free, OPERATOR)
    repository.untag("1.0")
    repository.drop(free, tagged)
    assert repository.manifests.keys().isdisjoint({tagged, free}) and not repository.pinned
    assert Digest.of(b"layer") in repository.blobs
    assert repository.unlink(Digest.of(b"layer")) and not repository.unlink(Digest.of(b"layer"))


def test_what_is_held_is_changed_by_methods_only() -> None:
    """Else a change would not be saved."""
    repository = sample()
    for held in (repository.tags, repository.manifests, repository.blobs, repository.pinned):
        with pytest.raises(TypeError):
            held["x"] = None  # type: ignore[index]


def test_the_media_type_a_manifest_came_with_stays() -> None:
    """The bytes never change, and neither does what they are said to be."""
    repository = sample()
    repository.hold(Digest.of(b"\x00"), "text/html", 1)
    assert repository.manifests[Digest.of(b"\x00")] == ManifestRecord(MANIFEST, 400)


def damaged_or_read(data: bytes) -> None:
    """Anything but the one exception is a bug; what was read can be written again."""
    try:
        read = Repository.decode("docker.io", "library/nginx", data)
    except DocumentDamaged as error:
        assert "docker.io/library/nginx" in str(error)
    else:
        read.encode()
    Repository.salvage("docker.io", "library/nginx", data).encode()


def test_a_document_cut_anywhere_is_damaged_and_its_whole_descriptors_are_saved() -> None:
    """A torn file is never read as a smaller repository; every descriptor before the tear is got back."""
    data = sample().encode()
    ends = [at for at in range(len(data)) if data[: at + 1].count(b'{"mediaType"') and data[at : at + 1] == b"}"]
    for length in range(len(data)):
        with pytest.raises(DocumentDamaged):
            Repository.decode("docker.io", "library/nginx", data[:length])
        salvaged = Repository.salvage("docker.io", "library/nginx", data[:length])
        assert len(salvaged.tags) >= min(4, sum(data[: end + 1].endswith(b"}}") for end in ends if end < length))


@given(st.data())
def test_flipped_bytes_are_damage_or_harmless(data: st.DataObject) -> None:
    """A failing disk gives one clear error, whatever it turned the bytes into, or a repository that can be used."""
    document = bytearray(sample().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        document[data.draw(st.integers(0, len(document) - 1))] = data.draw(st.integers(0, 255))
    damaged_or_read(bytes(document))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
annotations = st.fixed_dictionaries(
    {"org.opencontainers.image.ref.name": st.sampled_from(["latest", "..", "", "\ud800"])},
    optional={
        "io.pullcache.tagged": st.sampled_from(
            [
                "0001-01-01",
                "9999-12-31T23:59:59-23:59",
                "0001-01-01T00:00:00+23:59",
                "now",
                "",
                "2024-W01",
                "2024-01-01",
            ]
        )
    },
)
digest = st.just(str(Digest.of(b"")))
size = st.sampled_from([0, -1, 2**63, 2**64, 10**30])
# Whole ones, whose values are strange, and others.
entries = st.fixed_dictionaries(
    {"mediaType": st.just(MANIFEST), "digest": digest, "size": size, "annotations": annotations}
) | st.fixed_dictionaries(
    {},
    optional={
        "mediaType": json_values,
        "digest": digest | json_values,
        "size": json_values,
        "annotations": json_values,
    },
)
documents = st.fixed_dictionaries(
    {
        "schemaVersion": st.just(2),
        "mediaType": st.just("application/vnd.oci.image.index.v1+json"),
        "manifests": st.lists(entries, max_size=3) | json_values,
    },
    optional={
        "annotations": json_values
        | st.fixed_dictionaries({"io.pullcache.blobs": st.sampled_from(["", "[]", '{"x":1}', '{"sha256:00":1e999}'])})
    },
)


@given(st.one_of(json_values, documents).map(json.dumps).map(str.encode) | st.binary(max_size=40))
def test_foreign_documents_are_damage(data: bytes) -> None:
    """Any JSON, any bytes: one clear error or a repository that can be written again."""
    damaged_or_read(data)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "now", ""])
def test_a_time_that_cannot_be_written_again_is_damage(time: str) -> None:
    """Else every later save of the repository would fail; the manifest is salvaged all the same."""
    data = sample().encode().replace(b"2023-11-14T22:13:20Z", time.encode(), 1)
    with pytest.raises(DocumentDamaged):
        Repository.decode("docker.io", "library/nginx", data)
    salvaged = Repository.salvage("docker.io", "library/nginx", data)
    assert (salvaged.manifests, len(salvaged.tags)) == (sample().manifests, 3)


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"mediaType":' * 50_000, b'{"manifests":' + b"9" * 9000 + b"}"])
def test_documents_made_to_exhaust_a_parser_are_damage(data: bytes) -> None:
    """Depth and length of numbers end in the same clear error."""
    damaged_or_read(data)
    with pytest.raises(DocumentDamaged):
        Repository.decode("docker.io", "library/nginx", data)


def test_a_document_that_was_edited_by_hand_is_salvaged_too() -> None:
    """Blanks and line ends of an editor do not hide the descriptors."""
    text = json.dumps(json.loads(sample().encode()), indent=2)
    salvaged = Repository.salvage("docker.io", "library/nginx", text[:-1].encode())
    assert (salvaged.tags, salvaged.manifests) == (sample().tags, sample().manifests)
