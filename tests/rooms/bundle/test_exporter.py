"""What is in a bundle, byte for byte, and what is said of what is not."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.bundle import bundlejson, contents
from appliance.bundle.contents import Base, Bundle
from appliance.bundle.export import BlobPart
from appliance.bundle.selection import WantedReference
from appliance.errors import BundleError
from appliance.oci.digest import Digest
from tests.doubles import images
from tests.doubles.exports import NGINX, Site, entries
from tests.doubles.images import Blob, Content


def document(data: bytes) -> Bundle:
    return bundlejson.decode(entries(data)[contents.BUNDLE], "test")


def digests(*parts: Content) -> set[str]:
    """Everything beneath the contents."""
    return {blob.digest for part in parts for each in part.walk() for blob in (each.manifest, *each.blobs)}


def inside(bundle: Bundle) -> set[str]:
    return {blob.digest for blob in bundle.blobs}


def check_layout(found: dict[str, bytes]) -> dict[str, Any]:
    """OCI image layout, C{image-layout.md}: every blob has its digest, and everything C{index.json} names is there."""
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index: dict[str, Any] = json.loads(found["index.json"])
    assert index["schemaVersion"] == 2
    for descriptor in index["manifests"]:
        data = found[f"blobs/{descriptor['digest'].replace(':', '/')}"]
        assert len(data) == descriptor["size"]
    for name, data in found.items():
        if name.startswith("blobs/"):
            assert Digest.parse(name.removeprefix("blobs/").replace("/", ":")).matches(data)
    return index


MULTI = images.multi_arch("multi", (50_000, 30_000))
DOCKER = images.image("docker", flavour=images.DOCKER)


# -- one file -------------------------------------------------------------------------------------------------------


def test_a_full_bundle_is_an_oci_layout_and_a_docker_archive() -> None:
    """One file holds everything under its own digest, named so that every tool finds it."""
    site = Site().hold(MULTI, NGINX, "1.27").hold(DOCKER, ("ghcr.io", "a/b"), "v1")
    export = site.export(all=True)
    found = entries(site.file(export))
    index = check_layout(found)
    for descriptor, name in zip(index["manifests"], ["docker.io/library/nginx:1.27", "ghcr.io/a/b:v1"], strict=True):
        assert descriptor["annotations"] == {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        }
    assert [each["digest"] for each in index["manifests"]] == [MULTI.digest, DOCKER.digest]
    assert {name for name in found if name.startswith("blobs/")} == {
        f"blobs/{digest.replace(':', '/')}" for digest in digests(MULTI, DOCKER)
    }
    amd64 = MULTI.children[0]
    assert [(each["RepoTags"], each["Config"].rpartition("/")[2]) for each in json.loads(found["manifest.json"])] == [
        (["docker.io/library/nginx:1.27"], amd64.blobs[0].digest[7:]),
        (["ghcr.io/a/b:v1"], DOCKER.blobs[0].digest[7:]),
    ]
    assert export.left_out == () and export.partial == () and export.notes == ()


def test_docker_images_are_carried_bit_for_bit() -> None:
    """What upstream sent in Docker's format is in the bundle under the digest that my deployment pins."""
    site = Site().hold(DOCKER, NGINX, "1")
    found = entries(site.file(site.export("nginx")))
    assert found[f"blobs/{DOCKER.digest.replace(':', '/')}"] == DOCKER.manifest.data
    assert json.loads(found["index.json"])["manifests"][0]["mediaType"] == images.DOCKER.manifest


def test_what_a_reader_needs_first_comes_first() -> None:
    """A reader in one pass knows what a blob is before it comes; one that verifies knows it before anything else."""
    site = Site().hold(MULTI, NGINX, "1")
    names = list(entries(site.file(site.export(all=True))))
    assert names[:4] == ["oci-layout", "pullcache/bundle.json", "index.json", "manifest.json"]
    bundle = site.export(all=True).bundle
    assert [blob.kind for blob in bundle.blobs] == ["index", *["manifest"] * 2, *["config"] * 2, *["layer"] * 4]
    assert names[4:] == [f"blobs/{blob.digest.replace(':', '/')}" for blob in bundle.blobs]


def test_the_same_store_gives_the_same_bytes() -> None:
    """Two exports can be compared by their checksum, whatever was pulled first and whenever they were made."""
    one = Site().hold(MULTI, NGINX, "1").hold(DOCKER, ("ghcr.io", "a"), "2")
    two = Site().hold(DOCKER, ("ghcr.io", "a"), "2").hold(MULTI, NGINX, "1")
    assert one.file(one.export(all=True)) == two.file(two.export(all=True))
    assert one.file(one.export(all=True)) != one.file(one.export(all=True, title="x"))
    assert one.export(all=True).bundle.created == "2023-11-14T22:13:20Z"


def test_a_reference_says_where_it_came_from() -> None:
    """The other side knows which registry, repository and tag a digest came from, and when that was received."""
    site = Site().hold(MULTI, NGINX, "1.27", "latest").hold(DOCKER, ("ghcr.io", "a"))
    tagged, latest, plain = site.export(all=True).bundle.refs
    assert (tagged.name, latest.name) == ("docker.io/library/nginx:1.27", "docker.io/library/nginx:latest")
    assert (tagged.digest, tagged.media_type, tagged.size) == (
        MULTI.digest,
        images.OCI.index,
        len(MULTI.manifest.data),
    )
    assert tagged.platforms.present == ("linux/amd64", "linux/arm64") and tagged.platforms.absent == ()
    assert tagged.upstream.resolved_at == "2023-11-14T22:13:20Z"
    assert (latest.upstream.registry, latest.upstream.repository, latest.upstream.tag) == (*NGINX, "latest")
    assert plain.name == f"ghcr.io/a@{DOCKER.digest}" and plain.upstream.tag is None
    assert plain.platforms.present == ("linux/amd64",)


def test_two_names_of_one_image_share_its_blobs() -> None:
    """latest and 1.27 are one image: it is carried once, and docker loads it under both names."""
    site = Site().hold(MULTI, NGINX, "1.27", "latest")
    found = entries(site.file(site.export(all=True)))
    [image] = json.loads(found["manifest.json"])
    assert image["RepoTags"] == ["docker.io/library/nginx:1.27", "docker.io/library/nginx:latest"]
    assert len(json.loads(found["index.json"])["manifests"]) == 2
    assert len([name for name in found if name.startswith("blobs/")]) == len(digests(MULTI))


def test_what_cannot_be_run_is_not_offered_to_docker() -> None:
    """A chart or a signature in manifest.json would make docker load fail half way."""
    site = Site().hold(images.artifact(DOCKER), ("ghcr.io", "chart"), "v1")
    found = entries(site.file(site.export(all=True)))
    assert "manifest.json" not in found
    assert len(check_layout(found)["manifests"]) == 1


@pytest.mark.parametrize("config_document", [{}, {"rootfs": {"type": "layers", "diff_ids": []}}])
def test_an_image_whose_configuration_lacks_layers_is_not_offered_to_docker(config_document: dict[str, Any]) -> None:
    """Some tools put artifacts into images; docker would stop at them with an error."""
    config = Blob(images.OCI.config, images.encode(config_document))
    odd = images.encode({**json.loads(images.image("x").manifest.data), "config": config.descriptor()})
    content = Content(Blob(images.OCI.manifest, odd), (config, *images.image("x").layers))
    site = Site().hold(content, NGINX, "1")
    assert "manifest.json" not in entries(site.file(site.export("nginx")))


def test_an_image_without_a_layer_that_may_not_be_distributed_is_exported_and_not_offered_to_docker() -> None:
    """It is as whole as its upstream has it; docker load would look for a file that is not there."""
    config, base, layer = images.image("windows").blobs
    foreign = Blob("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", base.data)
    layers = [foreign.descriptor(urls=["https://vendor.example/base"]), layer.descriptor()]
    manifest = images.encode(json.loads(images.image("windows").manifest.data) | {"layers": layers})
    content = Content(Blob(images.OCI.manifest, manifest), (config, layer))
    site = Site().hold(content, NGINX, "1")
    export = site.export("nginx")
    assert export.left_out == ()
    data = site.file(export)
    assert "manifest.json" not in entries(data) and inside(document(data)) == digests(content)


def test_docker_is_offered_amd64_wherever_it_stands_in_the_index() -> None:
    """docker load takes one platform, and it is the one that most machines have."""
    arm64, amd64 = images.image("x", architecture="arm64"), images.image("x")
    site = Site().hold(images.index(arm64, amd64), NGINX, "1")
    [image] = json.loads(entries(site.file(site.export("nginx")))["manifest.json"])
    assert image["Config"].endswith(amd64.blobs[0].digest[7:])


def test_too_many_images_for_docker_are_reported() -> None:
    """podman refuses a manifest.json of more than 1 MiB: it is left out, and I am told so."""
    site = Site()
    site.hold(images.image("many", (10,)), ("ghcr.io", "a/" + "b" * 200), *(f"{n:0128}" for n in range(3500)))
    export = site.export(all=True)
    assert "manifest.json" not in entries(site.file(export))
    assert "docker and podman" in export.notes[0]


# -- platforms, referrers -------------------------------------------------------------------------------------------


def test_one_platform_leaves_the_index_as_it_is_and_declares_the_others() -> None:
    """I export arm64 only: the digest of the index stays, and the bundle says that amd64 was left out on purpose."""
    amd64, arm64 = MULTI.children
    site = Site().hold(MULTI, NGINX, "1")
    export = site.export(all=True, platforms=frozenset({"linux/arm64"}))
    bundle = export.bundle
    assert bundle.kind == "full" and bundle.requires == ()
    assert inside(bundle) == {MULTI.digest, *digests(arm64)}
    [absent] = bundle.absent_platforms
    assert (absent.index, absent.digest, absent.platform) == (MULTI.digest, amd64.digest, "linux/amd64")
    assert (bundle.refs[0].platforms.present, bundle.refs[0].platforms.absent) == (("linux/arm64",), ("linux/amd64",))
    found = entries(site.file(export))
    assert found[f"blobs/{MULTI.digest.replace(':', '/')}"] == MULTI.manifest.data
    assert json.loads(found["manifest.json"])[0]["Config"].endswith(arm64.blobs[0].digest[7:])


def test_a_platform_that_no_image_has_is_reported() -> None:
    """I ask for a platform this image is not made for: the image is named, and is not in the bundle."""
    site = Site().hold(MULTI, NGINX, "1").hold(DOCKER, ("ghcr.io", "a"), "1")
    export = site.export(all=True, platforms=frozenset({"linux/s390x"}))
    assert [omitted.ref for omitted in export.left_out] == ["docker.io/library/nginx:1"]
    assert [ref.name for ref in export.bundle.refs] == ["ghcr.io/a:1"]


def signed() -> tuple[Site, Content, Content]:
    """A signature of one platform of an image, and an attestation of that signature."""
    signature = images.artifact(MULTI.children[1], "application/vnd.example.signature")
    attestation = images.artifact(signature)
    return Site().hold(MULTI, NGINX, "1").hold(signature).hold(attestation), signature, attestation


def test_referrers_come_along_and_what_refers_to_them() -> None:
    """Signatures of an image, and signatures of those, are in its bundle without being asked for."""
    site, signature, attestation = signed()
    export = site.export("nginx:1")
    found = {(each.digest, each.subject, each.via, each.artifact_type) for each in export.bundle.referrers}
    assert found == {
        (signature.digest, MULTI.children[1].digest, "subject", "application/vnd.example.signature"),
        (attestation.digest, signature.digest, "subject", "application/vnd.example.sbom.v1+json"),
    }
    assert {each.repository for each in export.bundle.referrers} == {"docker.io/library/nginx"}
    assert inside(export.bundle) == digests(MULTI, signature, attestation)
    assert [ref.name for ref in export.bundle.refs] == ["docker.io/library/nginx:1"]


def test_referrers_are_no_references_of_their_own() -> None:
    """Everything means every image; what refers to them, and their platforms, come along without names."""
    site, signature, attestation = signed()
    bundle = site.export(all=True).bundle
    assert [ref.name for ref in bundle.refs] == ["docker.io/library/nginx:1"]
    assert inside(bundle) == digests(MULTI, signature, attestation)


def test_a_referrer_asked_for_by_name_is_in_the_index_once() -> None:
    """I name a signature by its digest: it has that name, and no second entry."""
    site, signature, _ = signed()
    export = site.export("nginx:1", f"nginx@{signature.digest}")
    index = json.loads(entries(site.file(export))["index.json"])
    found = [each["annotations"] for each in index["manifests"] if each["digest"] == signature.digest]
    assert [each.get("org.opencontainers.image.ref.name") for each in found] == [
        f"docker.io/library/nginx@{signature.digest}"
    ]


def test_a_platform_left_out_of_one_image_and_asked_for_by_itself_is_not_absent() -> None:
    """What is inside is not declared absent."""
    amd64 = MULTI.children[0]
    site = Site().hold(MULTI, NGINX, "1")
    want = (WantedReference(*NGINX, amd64.digest),)
    assert site.export("nginx:1", platforms=frozenset({"linux/arm64"})).bundle.absent_platforms
    assert not site.export("nginx:1", platforms=frozenset({"linux/arm64"}), want=want).bundle.absent_platforms


def test_a_referrer_has_no_name_in_the_index() -> None:
    """containerd would take a signature named like its image for the image."""
    site, signature, _ = signed()
    named, *others = json.loads(entries(site.file(site.export("nginx:1")))["index.json"])["manifests"]
    assert named["digest"] == MULTI.digest
    [found] = [each for each in others if each["digest"] == signature.digest]
    assert found["annotations"] == {"io.containerd.manifest.subject": MULTI.children[1].digest}
    assert found["artifactType"] == "application/vnd.example.signature"


def test_referrers_of_what_stays_here_stay_here() -> None:
    """I export amd64: what signs arm64 is not in it. Nor is anything, when I want no referrers."""
    site, _, _ = signed()
    assert site.export("nginx:1", platforms=frozenset({"linux/amd64"})).bundle.referrers == ()
    assert inside(site.export("nginx:1", referrers=False).bundle) == digests(MULTI)


@pytest.mark.parametrize("suffix", ["", ".sig", ".att", ".sbom"])
def test_what_refers_by_tag_comes_along_as_a_reference(suffix: str) -> None:
    """cosign finds its signature by a tag: the tag travels with the image, and no tool takes it for an image."""
    tag = MULTI.digest.replace(":", "-") + suffix
    signature = images.image("signature", (30,))
    content = images.index(signature) if not suffix else signature
    site = Site().hold(MULTI, NGINX, "1").hold(content, NGINX, tag)
    export = site.export("nginx:1")
    assert [ref.name for ref in export.bundle.refs] == [
        "docker.io/library/nginx:1", f"docker.io/library/nginx:{tag}"
    ]  # fmt: skip
    [referrer] = export.bundle.referrers
    assert (referrer.digest, referrer.subject, referrer.via, referrer.tag) == (
        content.digest, MULTI.digest, "tag", tag
    )  # fmt: skip
    found = entries(site.file(export))
    annotations = [each["annotations"] for each in json.loads(found["index.json"])["manifests"]]
    assert annotations[1] == {"io.containerd.manifest.subject": MULTI.digest}
    assert len(json.loads(found["manifest.json"])) == 1
    assert "manifest.json" not in entries(site.file(site.export(f"nginx:{tag}")))


# -- not whole ------------------------------------------------------------------------------------------------------


def cut() -> Site:
    """A whole image, and one whose pull was cut."""
    return Site().hold(MULTI, NGINX, "1").hold(DOCKER, NGINX, "2", without=[DOCKER.layers[0]])


def test_an_image_that_is_not_whole_is_named_and_left_out() -> None:
    """A hole is found here and not behind the gap: the image is named with what it lacks, the others are exported."""
    export = cut().export("nginx")
    [omitted] = export.left_out
    assert omitted.ref == "docker.io/library/nginx:2"
    assert [str(piece.digest) for piece in omitted.missing] == [DOCKER.layers[0].digest]
    assert [ref.name for ref in export.bundle.refs] == ["docker.io/library/nginx:1"]
    assert inside(export.bundle) == digests(MULTI) and export.bundle.kind == "full"


def test_as_far_as_it_goes_means_that_the_rest_is_required() -> None:
    """With partial I take what there is, and the bundle says what else the other side must have."""
    site = cut()
    export = site.export("nginx", partial=True)
    assert export.left_out == () and [omitted.ref for omitted in export.partial] == ["docker.io/library/nginx:2"]
    [required] = export.bundle.requires
    assert (required.digest, required.kind) == (DOCKER.layers[0].digest, "layer")
    assert required.needed_by == ("docker.io/library/nginx:2",)
    assert export.bundle.kind == "increment"
    assert inside(export.bundle) == digests(MULTI, DOCKER) - {DOCKER.layers[0].digest}
    assert "oci-layout" not in entries(site.file(export))


def test_a_root_that_is_lost_cannot_be_taken_in_part() -> None:
    """A name without its manifest is no part of an image."""
    site = Site().hold(DOCKER, NGINX, "1")
    site.store._blobs.clear()
    export = site.export("nginx", partial=True)
    assert [omitted.ref for omitted in export.left_out] == ["docker.io/library/nginx:1"]
    assert export.bundle.refs == () and export.bundle.blobs == ()


def test_a_signature_that_is_not_whole_is_named() -> None:
    """The image goes without it, and I am told."""
    signature = images.artifact(MULTI)
    site = Site().hold(MULTI, NGINX, "1").hold(signature, without=signature.layers)
    export = site.export("nginx:1")
    assert [omitted.ref for omitted in export.left_out] == [f"docker.io/library/nginx@{signature.digest}"]
    assert MULTI.digest in export.left_out[0].why
    assert inside(export.bundle) == digests(MULTI) and export.bundle.referrers == ()


def test_a_name_that_means_nothing_is_reported() -> None:
    """A typing error makes no empty bundle behind my back."""
    export = Site().hold(MULTI, NGINX, "1").export("nginx", "ngnix", want=(WantedReference("ghcr.io", "a", "v1"),))
    assert [omitted.ref for omitted in export.left_out] == ["ngnix", "ghcr.io/a:v1"]


def test_a_manifest_that_is_damaged_is_not_shipped() -> None:
    """A bit that fell over on my disk is found before the bundle is carried anywhere."""
    site = Site().hold(DOCKER, NGINX, "1")
    damaged = DOCKER.manifest.data.replace(b'"schemaVersion":2', b'"schemaversion":2')
    site.store._blobs[Digest.parse(DOCKER.digest)] = damaged
    assert [omitted.ref for omitted in site.export("nginx").left_out] == ["docker.io/library/nginx:1"]


@pytest.mark.parametrize("artifact_type", ["x\u2028y", "a\nb", "x" * 2000])
def test_odd_words_of_an_image_do_not_spoil_the_bundle(artifact_type: str) -> None:
    """Whatever an author wrote into a manifest, the bundle can be made and read."""
    odd = json.loads(DOCKER.manifest.data)
    odd["layers"][0]["mediaType"] = "no media type\n\x1b[1m"
    odd["artifactType"] = artifact_type
    odd["subject"] = MULTI.manifest.descriptor()
    content = Content(Blob(images.DOCKER.manifest, images.encode(odd)), DOCKER.blobs)
    site = Site().hold(MULTI, NGINX, "1").hold(content)
    bundle = document(site.file(site.export("nginx")))
    assert inside(bundle) == digests(MULTI, content) and bundle.referrers[0].artifact_type == ""


# -- since, wants ---------------------------------------------------------------------------------------------------


def test_since_takes_what_was_pulled_since_by_tag_or_by_digest() -> None:
    """containerd asks for the tag and pulls the digest: the tag counts as pulled."""
    site = Site().hold(MULTI, NGINX, "1").hold(DOCKER, NGINX, "2").hold(DOCKER, ("ghcr.io", "a"), "old")
    site.pulled = {(*NGINX, MULTI.digest): 100.0, (*NGINX, "2"): 99.0}
    refs = site.export(since=100.0).bundle.refs
    assert [ref.name for ref in refs] == ["docker.io/library/nginx:1"]


def test_what_the_other_side_lacks_is_found_by_tag_manifest_or_layer() -> None:
    """Each line of a wants file brings what would have answered it."""
    site = Site().hold(MULTI, NGINX, "1").hold(DOCKER, ("ghcr.io", "a"), "2")
    arm64 = MULTI.children[1]
    layer = WantedReference("ghcr.io", "a", DOCKER.layers[0].digest)
    assert [ref.name for ref in site.export(want=(layer,)).bundle.refs] == ["ghcr.io/a:2", f"ghcr.io/a@{DOCKER.digest}"]
    child = site.export(want=(WantedReference(*NGINX, arm64.digest),)).bundle
    assert [ref.name for ref in child.refs] == [f"docker.io/library/nginx@{arm64.digest}"]
    assert inside(child) == digests(arm64)


# -- increments -----------------------------------------------------------------------------------------------------


def test_an_increment_carries_what_the_other_side_lacks_and_names_the_rest() -> None:
    """The base layer that both sides hold is not shipped again; the bundle says that it builds on it."""
    base, old = images.random_tar("base", 5000), images.random_tar("old", 500)
    before = images.assemble([base, old], "amd64")
    after = images.assemble([base, images.random_tar("new", 500)], "amd64")
    have = frozenset(map(Digest.parse, digests(before)))
    site = Site().hold(before, NGINX, "1").hold(after, NGINX, "2")
    info = Base(source="inventory", site="site-b", taken="2024-01-01T00:00:00Z")
    export = site.export("nginx", have=have, base=info)
    bundle = document(site.file(export))
    assert bundle.kind == "increment" and bundle.base == info
    assert inside(bundle) == digests(after) - digests(before)
    shared = next(each for each in bundle.requires if each.digest == after.layers[0].digest)
    assert shared.needed_by == ("docker.io/library/nginx:1", "docker.io/library/nginx:2")
    assert {each.digest for each in bundle.requires} == digests(before)
    assert [ref.name for ref in bundle.refs] == ["docker.io/library/nginx:1", "docker.io/library/nginx:2"]


def test_no_runtime_takes_an_increment_for_an_image() -> None:
    """Without oci-layout and manifest.json docker, podman and ctr refuse it; skopeo can still push it."""
    site = Site().hold(MULTI, NGINX, "1")
    found = entries(site.file(site.export("nginx", base=Base(source="bundles", ids=(MULTI.digest,)))))
    assert list(found)[:2] == ["pullcache/bundle.json", "index.json"]
    assert "manifest.json" not in found


def test_a_layer_lost_here_and_held_there_is_no_hole() -> None:
    """What the other side holds does not have to be here."""
    site = Site().hold(DOCKER, NGINX, "1", without=[DOCKER.layers[0]])
    export = site.export("nginx", have=frozenset({Digest.parse(DOCKER.layers[0].digest)}))
    assert export.left_out == () and len(export.bundle.refs) == 1
    assert [each.digest for each in export.bundle.requires] == [DOCKER.layers[0].digest]


@settings(deadline=None, max_examples=60)
@given(st.sets(st.sampled_from(sorted(digests(MULTI, DOCKER)))), st.sampled_from([None, 90_000, 150_000]))
def test_an_increment_completes_exactly_the_store_it_was_made_for(have: set[str], volume_size: int | None) -> None:
    """Whatever the other side holds: together with the bundle it is everything, and no byte is carried in vain."""
    site = Site().hold(MULTI, NGINX, "1").hold(DOCKER, ("ghcr.io", "a"), "2")
    export = site.export(all=True, have=frozenset(map(Digest.parse, have)), volume_size=volume_size)
    carried = inside(export.bundle)
    assert carried.isdisjoint(have) and carried | have == digests(MULTI, DOCKER)
    assert {each.digest for each in export.bundle.requires} == have
    everything = {Digest.of(data).encoded for data in joined(site.files(export)).values()}
    assert {digest.removeprefix("sha256:") for digest in carried} <= everything


# -- volumes --------------------------------------------------------------------------------------------------------


def joined(files: list[bytes]) -> dict[str, bytes]:
    """All files unpacked over each other, with parts of blobs put together."""
    together: dict[str, bytes] = {}
    for data in files:
        together.update(entries(data))
    parts: dict[str, bytes] = {}
    for name in sorted(name for name in together if name.startswith("pullcache/parts/")):
        blob = name.removeprefix("pullcache/parts/").rpartition("/")[0]
        parts[f"blobs/{blob}"] = parts.get(f"blobs/{blob}", b"") + together.pop(name)
    return together | parts


LARGE = images.image("large", (250_000, 3_000, 80_000))


def test_volumes_keep_to_their_size_and_make_a_plain_layout_together() -> None:
    """Each disc holds its volume, and unpacking all of them in any order gives what other tools read."""
    site = Site().hold(MULTI, NGINX, "1").hold(DOCKER, NGINX, "2")
    export = site.export("nginx", volume_size=110_000, title="weekly")
    files = site.files(export)
    assert export.volumes == len(files) > 1 and all(len(data) <= 110_000 for data in files)
    assert len({bundlejson.decode(entries(data)["pullcache/bundle.json"], "").id for data in files}) == 1
    marks = [json.loads(entries(data)["pullcache/volume.json"]) for data in files]
    assert [mark["n"] for mark in marks] == list(range(1, len(files) + 1))
    assert {(mark["of"], mark["bundle"]) for mark in marks} == {(len(files), export.bundle.id)}
    index = check_layout(joined(files[::-1]))
    assert [each["digest"] for each in index["manifests"]] == [MULTI.digest, DOCKER.digest]
    assert export.file_name(1).startswith("weekly-") and export.file_name(1).endswith(f".v01of{len(files):02}.tar")


def test_no_volume_can_be_loaded_by_itself() -> None:
    """A runtime that is given one volume of several refuses it: none has both index and layout."""
    site = Site().hold(MULTI, NGINX, "1")
    for number, data in enumerate(files := site.files(site.export("nginx", volume_size=110_000)), 1):
        names = entries(data).keys()
        assert ("index.json" in names) == (number == 1) and ("oci-layout" in names) == (number == len(files))
        assert "manifest.json" not in names


def test_a_blob_larger_than_a_volume_is_carried_in_parts() -> None:
    """A layer that fits no disc is put together again to the last byte, and each part can be checked by itself."""
    site = Site().hold(LARGE, NGINX, "1")
    export = site.export("nginx", volume_size=100_000)
    files = site.files(export)
    [entry] = [blob for blob in export.bundle.blobs if blob.parts]
    assert entry.digest == LARGE.layers[0].digest
    for part in entry.parts:
        name = f"pullcache/parts/{entry.digest.replace(':', '/')}/{part.n:04}"
        data = entries(files[part.volume - 1])[name]
        assert (len(data), Digest.of(data).encoded) == (part.size, part.sha256)
    check_layout(joined(files))


def test_many_volumes_keep_to_their_size_with_the_longest_signature() -> None:
    """The list of contents grows with every part: room for it and for a later signature is in every file."""
    site = Site().hold(images.image("huge", (4_000_000,)), NGINX, "1")
    export = site.export("nginx", volume_size=110_000)
    assert export.volumes > 40
    export.sign("x" * 4096)
    files = site.files(export)
    assert all(len(data) <= 110_000 for data in files)
    check_layout(joined(files))


def test_a_volume_that_cannot_hold_the_list_of_contents_is_refused() -> None:
    """I am told what size would do."""
    with pytest.raises(BundleError, match="too small"):
        Site().hold(MULTI, NGINX, "1").export("nginx", volume_size=4_000)


@pytest.mark.parametrize("volume_size", [None, 110_000])
def test_a_signature_is_in_every_file_and_the_size_still_holds(volume_size: int | None) -> None:
    """Each volume can be verified by itself, before anything in it is trusted; and still fits its disc."""
    site = Site().hold(MULTI, NGINX, "1")
    export = site.export("nginx", volume_size=volume_size)
    before = export.document
    export.sign("untrusted comment: x\n" * 20)
    for data in site.files(export):
        found = entries(data)
        assert found["pullcache/bundle.json"] == before
        assert found["pullcache/bundle.json.minisig"] == b"untrusted comment: x\n" * 20
        names = list(found)
        assert names.index("pullcache/bundle.json.minisig") == names.index("pullcache/bundle.json") + 1
        assert volume_size is None or len(data) <= volume_size
    with pytest.raises(BundleError, match="comment"):
        export.sign("x" * 10_000)


def test_blobs_are_named_and_not_read() -> None:
    """An export of hundreds of gigabytes needs no memory for them: the sender takes them from the store."""
    site = Site().hold(LARGE, NGINX, "1")
    export = site.export("nginx")
    parts = list(export.parts(1))
    blobs = [part for part in parts if isinstance(part, BlobPart)]
    assert [str(part.digest) for part in blobs] == [blob.digest for blob in export.bundle.blobs]
    assert blobs[-3].span == (0, len(LARGE.layers[0].data))
    assert sum(len(part) for part in parts if isinstance(part, bytes)) < 20_000


def test_unpacked_volumes_are_what_tar_makes_of_them(tmp_path: Path) -> None:
    """This program is not needed to get at the images."""
    site = Site().hold(MULTI, NGINX, "1")
    for data in site.files(site.export("nginx", volume_size=110_000)):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(tmp_path, filter="data")
    assert (tmp_path / "oci-layout").is_file() and (tmp_path / "index.json").is_file()
    assert len(list((tmp_path / "blobs/sha256").iterdir())) == len(digests(MULTI))
