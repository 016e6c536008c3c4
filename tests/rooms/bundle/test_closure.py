"""What an image is made of, and when it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import process_time
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from appliance.bundle.closure import Closure, closure
from appliance.flow.disk import InlineThreads
from appliance.index.manifests import ManifestReader
from appliance.oci.digest import Digest
from appliance.oci.imageconfig import covers, named
from appliance.oci.mediatypes import NONDISTRIBUTABLE
from tests.doubles import images
from tests.doubles.images import OCI, Blob, Content

INDEXES = (images.OCI.index, images.DOCKER.index)


def blobs(*contents: Content) -> dict[str, bytes]:
    """Everything beneath the contents, by digest."""
    parts = [part for content in contents for part in content.walk()]
    return {blob.digest: blob.data for part in parts for blob in (part.manifest, *part.blobs)}


def follow(
    root: Content,
    held: dict[str, bytes],
    platforms: Iterable[str] = (),
    media_type: str | None = None,
    threads: InlineThreads | None = None,
) -> Closure:
    """The closure of C{root} in a store that has C{held}."""

    async def read(digest: Digest) -> bytes | None:
        return held.get(str(digest))

    def size_of(digest: Digest) -> int | None:
        return len(held[str(digest)]) if str(digest) in held else None

    manifest = root.manifest
    walk = closure(
        ManifestReader(read, threads or InlineThreads()),
        size_of,
        Digest.parse(root.digest),
        len(manifest.data),
        media_type or manifest.media_type,
        frozenset(platforms),
    )
    found: list[Closure] = []
    Deferred.fromCoroutine(walk).addCallback(found.append)
    return found[0]


class CountedThreads(InlineThreads):
    """Counts the turns that others got."""

    turns = 0

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        self.turns += 1
        return super().call(function, *args)


def foreign(media_type: str) -> tuple[Content, Blob]:
    """An image whose first layer has that type, and that layer."""
    plain = images.image("windows")
    config, first, second = plain.blobs
    base = Blob(media_type, first.data)
    layers = [base.descriptor(urls=["https://vendor.example/base"]), second.descriptor()]
    document = {**json.loads(plain.manifest.data), "layers": layers}
    return Content(Blob(OCI.manifest, images.encode(document)), (config, base, second)), base


def texts(pieces: Iterable[object]) -> list[str]:
    return [str(piece.digest) for piece in pieces]  # type: ignore[attr-defined]


def without(held: dict[str, bytes], *gone: Blob) -> dict[str, bytes]:
    return {digest: data for digest, data in held.items() if digest not in {blob.digest for blob in gone}}


@pytest.mark.parametrize("flavour", [images.OCI, images.DOCKER])
def test_an_image_is_its_manifest_its_config_and_its_layers(flavour: images.Flavour) -> None:
    """Nothing of my image is forgotten, in the order in which a reader needs it, whatever made it."""
    image = images.image("one", flavour=flavour)
    found = follow(image, blobs(image))
    assert texts(found.held) == [image.digest, *(blob.digest for blob in image.blobs)]
    assert [piece.kind for piece in found.held] == ["manifest", "config", "layer", "layer"]
    assert [piece.media_type for piece in found.held] == [
        flavour.manifest, flavour.config, flavour.layer, flavour.layer
    ]  # fmt: skip
    assert not found.missing and not found.absent and not found.nothing
    assert found.platforms == ("linux/amd64",)


def test_an_index_comes_before_its_images_and_manifests_before_everything_else() -> None:
    """A reader that takes the blobs in order knows of each before it comes, however deep the indexes lie."""
    nest = images.index(images.nested("deep"))
    found = follow(nest, blobs(nest))
    middle, inner = nest.children[0], nest.children[0].children[0]
    assert texts(found.held)[:3] == [nest.digest, middle.digest, inner.digest]
    kinds = [piece.kind for piece in found.held]
    assert kinds == ["index"] * 3 + ["manifest"] * 2 + ["config"] * 2 + ["layer"] * 4
    assert found.platforms == ("linux/amd64", "linux/arm64")


def test_a_platform_that_was_not_pulled_is_absent_and_the_image_is_whole() -> None:
    """My nodes pull one platform; the image can be exported all the same, and says which platform is not in it."""
    multi = images.multi_arch()
    amd64, arm64 = multi.children
    found = follow(multi, without(blobs(multi), arm64.manifest, *arm64.blobs))
    assert not found.missing
    assert [(str(absent.index), str(absent.digest), absent.platform) for absent in found.absent] == [
        (multi.digest, arm64.digest, "linux/arm64")
    ]
    assert found.platforms == ("linux/amd64",)
    assert set(texts(found.held)) == {multi.digest, amd64.digest, *(blob.digest for blob in amd64.blobs)}


def test_a_platform_whose_manifest_was_only_looked_at_is_absent() -> None:
    """A client inspected the other platform without pulling it: the image is no less whole for that."""
    multi = images.multi_arch()
    found = follow(multi, without(blobs(multi), *multi.children[1].blobs))
    assert not found.missing
    assert texts(found.absent) == [multi.children[1].digest]


def test_an_index_of_which_nothing_was_pulled_is_not_whole() -> None:
    """An index alone is no image: its platforms are missing."""
    multi = images.multi_arch()
    found = follow(multi, {multi.digest: multi.manifest.data})
    assert texts(found.missing) == [child.digest for child in multi.children]
    assert {str(piece.needed_by) for piece in found.missing} == {multi.digest}
    assert [piece.kind for piece in found.missing] == ["manifest", "manifest"]


def test_only_the_platforms_asked_for_are_taken() -> None:
    """I ask for arm64: amd64 stays here, the index is the same, and says so."""
    multi = images.multi_arch()
    amd64, arm64 = multi.children
    found = follow(multi, blobs(multi), ["linux/arm64"])
    assert set(texts(found.held)) == {multi.digest, arm64.digest, *(blob.digest for blob in arm64.blobs)}
    assert texts(found.absent) == [amd64.digest]
    assert not found.missing


def test_a_platform_asked_for_that_was_never_pulled_is_missing() -> None:
    """I ask for arm64 and no client pulled it: that is said, and not passed over."""
    multi = images.multi_arch()
    arm64 = multi.children[1]
    found = follow(multi, without(blobs(multi), arm64.manifest, *arm64.blobs), ["linux/arm64"])
    assert texts(found.missing) == [arm64.digest]


def test_an_index_without_the_platform_asked_for_holds_nothing() -> None:
    """I ask for a platform that the image was never made for: there is nothing to export."""
    multi = images.multi_arch()
    assert follow(multi, blobs(multi), ["linux/s390x"]).nothing
    assert not follow(multi, blobs(multi), ["linux/arm64"]).nothing


def test_an_image_without_an_index_is_taken_whatever_its_platform() -> None:
    """There is nothing to choose from in an image of one platform."""
    image = images.image("one", architecture="arm64")
    found = follow(image, blobs(image), ["linux/amd64"])
    assert not found.missing and found.platforms == ("linux/arm64",)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_blob_that_is_not_held_is_named(which: int) -> None:
    """A pull was cut: the config or layer that is lacking is named, with its size and with what needs it."""
    image = images.image("cut")
    lost = image.blobs[which]
    found = follow(image, without(blobs(image), lost))
    [missing] = found.missing
    assert (str(missing.digest), missing.size, str(missing.needed_by)) == (lost.digest, len(lost.data), image.digest)
    assert missing.kind == ("config" if which == 0 else "layer")


@pytest.mark.parametrize("media_type", sorted(NONDISTRIBUTABLE))
def test_a_layer_that_may_not_be_distributed_is_carried_where_it_is_held_and_missed_nowhere(media_type: str) -> None:
    """The base layers of Windows images: clients get them from whom their descriptors name."""
    image, base = foreign(media_type)
    assert base.digest in texts(follow(image, blobs(image)).held)
    found = follow(image, without(blobs(image), base))
    assert found.missing == () and base.digest not in texts(found.held)
    config, layer = image.blobs[0], image.blobs[-1]
    assert texts(follow(image, without(blobs(image), base, config, layer)).missing) == [config.digest, layer.digest]


def test_a_layer_of_another_size_than_promised_is_missing() -> None:
    """A layer that is shorter on disk than its image says is never shipped."""
    image = images.image("short")
    held = blobs(image) | {image.layers[0].digest: b"short"}
    assert texts(follow(image, held).missing) == [image.layers[0].digest]


def test_a_root_that_is_not_held_or_not_readable_is_missing() -> None:
    """A reference to nothing, or to a damaged document, is not whole."""
    image = images.image("gone")
    assert texts(follow(image, {}).missing) == [image.digest]
    assert texts(follow(image, {image.digest: b"x" * len(image.manifest.data)}).missing) == [image.digest]


def attested() -> tuple[Content, list[Content]]:
    """An index of two platforms, each with an attestation as BuildKit writes them; and the attestations."""
    multi = images.multi_arch()
    notes = [images.image(f"attestation-{number}", (50,)) for number in (0, 1)]
    document = json.loads(multi.manifest.data)
    for child, note in zip(multi.children, notes, strict=True):
        annotations = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": child.digest,
        }
        platform = {"architecture": "unknown", "os": "unknown"}
        document["manifests"].append(note.manifest.descriptor(annotations=annotations, platform=platform))
    data = images.encode(document)
    return replace(multi, manifest=Blob(OCI.index, data), children=(*multi.children, *notes)), notes


def test_the_attestation_of_a_platform_goes_where_the_platform_goes() -> None:
    """I ask for arm64: what attests arm64 comes along, what attests amd64 does not, and neither is a platform."""
    index, notes = attested()
    found = follow(index, blobs(index), ["linux/arm64"])
    assert notes[1].digest in texts(found.held)
    assert notes[0].digest in texts(found.absent)
    assert found.platforms == ("linux/arm64",)


def test_an_attestation_that_was_not_pulled_is_absent() -> None:
    """Clients do not pull attestations; an image is whole without them, whatever I ask for."""
    index, notes = attested()
    held = without(blobs(index), *(blob for note in notes for blob in (note.manifest, *note.blobs)))
    for platforms in ((), ("linux/arm64",)):
        assert not follow(index, held, platforms).missing


def test_the_payload_of_an_artifact_is_distinguished_from_a_layer() -> None:
    """A signature travels before the bulk of the layers."""
    note = images.artifact(images.image("signed"))
    assert [piece.kind for piece in follow(note, blobs(note)).held] == ["manifest", "config", "artifact"]


def test_an_index_of_very_many_children_takes_no_longer_for_each() -> None:
    """As many as fit into a manifest: nothing compares each with all others."""
    document = json.loads(images.multi_arch().manifest.data)
    document["manifests"] = [Blob(OCI.manifest, str(number).encode()).descriptor() for number in range(20_000)]
    large = Content(Blob(OCI.index, images.encode(document)), ())
    began = process_time()
    assert len(follow(large, {large.digest: large.manifest.data}).missing) == 20_000
    assert process_time() - began < 4


def test_clients_are_served_while_many_descriptors_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no manifest has to be read for that; the result is the same."""
    multi, threads = images.multi_arch(), CountedThreads()
    whole = follow(multi, blobs(multi), threads=threads)
    assert threads.turns == 0
    monkeypatch.setattr("appliance.index.manifests.TURN", 4)
    assert follow(multi, blobs(multi), threads=threads) == whole
    assert threads.turns == len(multi.children)


def test_platforms_are_compared_as_runtimes_do() -> None:
    """linux/arm64 and linux/arm64/v8 are one platform; linux/arm/v6 and v7 are two."""
    assert covers("linux/arm64", "linux/arm64/v8") and covers("linux/arm64/v8", "linux/arm64")
    assert covers("linux/arm", "linux/arm/v7") and not covers("linux/arm/v6", "linux/arm/v7")
    assert not covers("linux/amd64", "windows/amd64")
    assert named({"os": "linux", "architecture": "arm", "variant": "v7"}) == "linux/arm/v7"
    assert named({"os": "unknown", "architecture": "unknown"}) is None
    assert named({"os": 1, "architecture": []}) is None and named(None) is None
