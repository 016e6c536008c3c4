"""Archives that other tools wrote: their names, and images that are served as they were."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from appliance.bundle.archive import open_archive
from appliance.bundle.archivecontents import ArchiveContents
from appliance.bundle.compression import Stop
from appliance.bundle.reader import read_foreign
from appliance.errors import BundleDamaged, BundleError, BundleIncomplete, BundleUnreadable, PullcacheError
from appliance.oci.digest import Digest
from appliance.oci.reference import Reference
from tests.doubles import archives, images
from tests.doubles.archives import IMAGE_NAME, REF_NAME, SUBJECT
from tests.doubles.exports import NGINX
from tests.doubles.images import Content
from tests.doubles.receiver import Receiver

MULTI = images.multi_arch("multi", (50_000, 30_000))
IMAGE = images.image("other", (90_000, 20_000))
DOCKER = images.image("docker", flavour=images.DOCKER)
SBOM = images.artifact(MULTI)
# Without a subject, as cosign writes them: only hauler's mark tells.
SIGNATURE = images.image("signature", (500,))
NAME = "docker.io/library/nginx:1.27"


def write(folder: Path, data: bytes) -> Path:
    path = folder / "an.archive"
    path.write_bytes(data)
    return path


def offered(folder: Path, files: archives.Files, named: str | None = None) -> ArchiveContents:
    return read_foreign(open_archive(write(folder, archives.tar(files)), Stop()), named)


def names(contents: ArchiveContents) -> dict[str, str]:
    return {root.name: str(root.digest) for root in contents.roots}


# -- OCI layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_an_export_of_containerd_is_served_as_it_was(tmp_path: Path, wrap: Any) -> None:
    """Its metadata comes last, and its index keeps its digest; what refers to an image comes along."""
    files = archives.containerd((MULTI, NAME), (DOCKER, "quay.io/acme/bar:2.1"), referrers=[(SBOM, MULTI)])
    assert list(files)[-1] == "oci-layout"
    receiver = Receiver()
    receipt = receiver.run(write(tmp_path, wrap(archives.tar(files))))
    assert receiver.names() == {
        NAME: MULTI.digest,
        f"docker.io/library/nginx@{SBOM.digest}": SBOM.digest,
        "quay.io/acme/bar:2.1": DOCKER.digest,
    }
    assert receiver.serves(MULTI, NGINX) and receiver.serves(SBOM, NGINX)
    assert receiver.serves(DOCKER, ("quay.io", "acme/bar"))
    assert receipt.format == "an OCI image layout" and receipt.unknown_upstreams == []


def test_a_layout_in_a_folder_is_imported(tmp_path: Path) -> None:
    """C{skopeo copy ... oci:folder:name}, C{crane pull --format=oci}."""
    images.write_layout(IMAGE, tmp_path / "layout", "ghcr.io/a/b:v1")
    receiver = Receiver()
    receiver.run(tmp_path / "layout")
    assert receiver.names() == {"ghcr.io/a/b:v1": IMAGE.digest}


@pytest.mark.parametrize(
    ("annotations", "named", "expected"),
    [
        ({IMAGE_NAME: NAME, REF_NAME: "1.27"}, None, NAME),
        ({REF_NAME: "ghcr.io/a/b:v1"}, None, "ghcr.io/a/b:v1"),
        ({REF_NAME: "nginx:1.27"}, None, NAME),
        ({REF_NAME: "1.27", "containerd.io/distribution.source.ghcr.io": "a/b"}, None, "ghcr.io/a/b:1.27"),
        ({IMAGE_NAME: "index.docker.io/library/nginx:1.27"}, None, NAME),
        ({IMAGE_NAME: "localhost/tool"}, None, "localhost/tool:latest"),
        ({REF_NAME: "1.27"}, "nginx", NAME),
        ({REF_NAME: "1.27"}, "nginx:1", "docker.io/library/nginx:1"),
        ({}, "ghcr.io/a/b:v1", "ghcr.io/a/b:v1"),
        ({}, "ghcr.io/a/b", "ghcr.io/a/b:latest"),
        ({IMAGE_NAME: NAME}, "ghcr.io/a/b:v1", "ghcr.io/a/b:v1"),
        ({IMAGE_NAME: f"ghcr.io/a/b@{IMAGE.digest}"}, None, f"ghcr.io/a/b@{IMAGE.digest}"),
    ],
)
def test_a_name_is_found_wherever_a_tool_put_it(
    tmp_path: Path, annotations: dict[str, str], named: str | None, expected: str
) -> None:
    """Or taken from the user who imports."""
    contents = offered(tmp_path, archives.layout([(IMAGE, annotations)]), named)
    assert names(contents) == {expected: IMAGE.digest}


@pytest.mark.parametrize("annotations", [{}, {REF_NAME: "alpine"}])
def test_an_image_without_a_name_asks_for_one(tmp_path: Path, annotations: dict[str, str]) -> None:
    """A tag alone says nothing of the repository."""
    with pytest.raises(BundleError, match=f"an.archive: {IMAGE.digest} has no name in it; give it one with --as"):
        offered(tmp_path, archives.layout([(IMAGE, annotations)]))


def test_one_name_is_not_given_to_several_images(tmp_path: Path) -> None:
    """Save when only one of them has none."""
    both = archives.layout([(IMAGE, {}), (DOCKER, {})])
    with pytest.raises(BundleError, match="2 images in it, 2 of them without a name"):
        offered(tmp_path, both, "nginx")
    contents = offered(tmp_path, archives.layout([(IMAGE, {}), (DOCKER, {IMAGE_NAME: NAME})]), "ghcr.io/a/b:v1")
    assert names(contents) == {"ghcr.io/a/b:v1": IMAGE.digest, NAME: DOCKER.digest}


def test_one_name_of_two_images_is_refused(tmp_path: Path) -> None:
    """Which of them is meant only the sender knows."""
    with pytest.raises(BundleDamaged, match="nginx:1.27 is the name of two images in it"):
        offered(tmp_path, archives.layout([(IMAGE, {IMAGE_NAME: NAME}), (DOCKER, {IMAGE_NAME: NAME})]))


def test_an_image_with_several_names_has_them_all(tmp_path: Path) -> None:
    """And is stored once."""
    both = [(IMAGE, {IMAGE_NAME: NAME}), (IMAGE, {IMAGE_NAME: "ghcr.io/a/b:v1"})]
    assert names(offered(tmp_path, archives.layout(both))) == {NAME: IMAGE.digest, "ghcr.io/a/b:v1": IMAGE.digest}


def test_a_signature_of_hauler_does_not_take_its_images_name(tmp_path: Path) -> None:
    """It bears the image's own name there; here it gets the tag under which cosign looks for it."""
    receiver = Receiver()
    path = write(tmp_path, zstandard.compress(archives.tar(archives.hauler(IMAGE, NAME, SIGNATURE))))
    receiver.run(path)
    tag = f"sha256-{IMAGE.digest[7:]}.sig"
    assert receiver.names() == {NAME: IMAGE.digest, f"docker.io/library/nginx:{tag}": SIGNATURE.digest}


def test_what_refers_to_nothing_inside_is_left_out_and_said(tmp_path: Path) -> None:
    """There is no repository to put it into."""
    contents = offered(tmp_path, archives.layout([(IMAGE, {IMAGE_NAME: NAME}), (SBOM, {SUBJECT: SBOM.digest})]))
    assert names(contents) == {NAME: IMAGE.digest}
    assert contents.notes == [f"{SBOM.digest} refers to no image of this archive and was left out"]


def test_a_platform_that_was_not_exported_is_no_gap(tmp_path: Path) -> None:
    """containerd and docker keep the index and skip platforms they do not have."""
    amd64, arm64 = MULTI.children
    files = archives.layout([(MULTI, {IMAGE_NAME: NAME})])
    for name in archives.blobs(arm64):
        del files[name]
    receiver = Receiver()
    receipt = receiver.run(write(tmp_path, archives.tar(files)))
    assert receiver.names() == {NAME: MULTI.digest}
    assert receipt.absent == [f"{MULTI.digest} {arm64.digest} linux/arm64"]
    assert receiver.serves(amd64, NGINX)


def test_a_layer_that_is_missing_is_a_gap(tmp_path: Path) -> None:
    """Before anything is stored; held already it is none."""
    layer = IMAGE.layers[0]
    files = archives.layout([(IMAGE, {IMAGE_NAME: NAME})], archives.blobs(IMAGE, without=[layer.digest]))
    path = write(tmp_path, archives.tar(files))
    receiver = Receiver()
    with pytest.raises(BundleIncomplete, match="an.archive: 1 blobs .* neither in it nor held here") as caught:
        receiver.run(path)
    assert caught.value.missing == (layer.digest,)
    assert receiver.held() == 0
    receiver.store.put(Digest.parse(layer.digest), layer.data)
    receiver.run(path)
    assert receiver.names() == {NAME: IMAGE.digest}


def test_a_platform_that_a_client_once_looked_at_here_does_not_block(tmp_path: Path) -> None:
    """Its manifest and configuration are held, its layers never were, and the archive is of another platform."""
    amd64, arm64 = MULTI.children
    files = archives.layout([(MULTI, {IMAGE_NAME: NAME})])
    for name in archives.blobs(arm64):
        del files[name]
    receiver = Receiver()
    for blob in (arm64.manifest, arm64.blobs[0]):
        receiver.store.put(Digest.parse(blob.digest), blob.data)
    receiver.run(write(tmp_path, archives.tar(files)))
    assert receiver.serves(amd64, NGINX)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.update(layers=[]), "index and a manifest at once"),
        (lambda index: index.update(manifests=[]), "names 0 manifests"),
        (lambda index: index.update(manifests="x"), "index.json"),
        (lambda index: index["manifests"][0].update(digest="md5:x"), "index.json"),
        (lambda index: index["manifests"][0].update(size=-1), "index.json"),
        (lambda index: index["manifests"][0].update(size=7), "bytes where index.json says 7"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    """By file and entry."""
    files = archives.layout([(IMAGE, {IMAGE_NAME: NAME})])
    index = json.loads(files["index.json"])
    change(index)
    files["index.json"] = images.encode(index)
    receiver = Receiver()
    with pytest.raises(BundleDamaged, match=f"an.archive.*{said}"):
        receiver.run(write(tmp_path, archives.tar(files)))
    assert receiver.held() == 0


def test_a_document_that_is_index_and_manifest_is_refused(tmp_path: Path) -> None:
    """CVE-2021-41190: two clients would take it for two things."""
    confused = images.confused()
    receiver = Receiver()
    with pytest.raises(BundleDamaged, match=f"at 'blobs/sha256/{confused.digest[7:]}': .*neither index nor image"):
        receiver.run(write(tmp_path, archives.tar(archives.layout([(confused, {IMAGE_NAME: NAME})]))))
    assert receiver.held() == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"layers"', b'"layers":[],"layers"', "stands twice"),
        (b'"layers"', b'"Layers":[],"layers"', "'Layers' stands in the document"),
        (b'"digest"', b'"Digest":"sha256:0","digest"', "'Digest' stands in a descriptor"),
        (images.OCI.manifest.encode(), b"text/html", "'text/html' is no media type of a manifest"),
        (images.OCI.manifest.encode(), images.DOCKER.manifest.encode(), f"named as {images.OCI.manifest} and says"),
    ],
)
def test_a_manifest_that_readers_may_differ_in_is_refused(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    """A manifest by its own word something else, or one thing for one tool and another for the next."""
    document = images.Blob(images.OCI.manifest, IMAGE.manifest.data.replace(old, new, 1))
    receiver = Receiver()
    with pytest.raises(BundleDamaged, match=re.escape(said)):
        content = replace(IMAGE, manifest=document)
        receiver.run(write(tmp_path, archives.tar(archives.layout([(content, {IMAGE_NAME: NAME})]))))
    assert receiver.held() == 0


@pytest.mark.parametrize(("key", "value"), [("manifests", "[]"), ("digest", '"sha256:0"'), ("annotations", "{}")])
def test_an_index_that_readers_may_differ_in_is_refused(tmp_path: Path, key: str, value: str) -> None:
    """A user who looked at the archive with another tool imports what was seen there, or nothing."""
    for other in (key, key.capitalize()):
        files = archives.layout([(IMAGE, {IMAGE_NAME: NAME})])
        first = f'"{other}":{value},"{key}"'.encode()
        files["index.json"] = files["index.json"].replace(f'"{key}"'.encode(), first, 1)
        receiver = Receiver()
        with pytest.raises(BundleDamaged, match="index.json': '.*' stands"):
            receiver.run(write(tmp_path, archives.tar(files)))
        assert receiver.held() == 0


def test_a_blob_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    """The name is a digest, and the bytes have another."""
    files = archives.layout([(IMAGE, {IMAGE_NAME: NAME})])
    name = f"blobs/sha256/{IMAGE.layers[0].digest[7:]}"
    files[name] = bytes(len(files[name]))
    receiver = Receiver()
    with pytest.raises(BundleDamaged, match=f"an.archive, at '{name}': its bytes do not have the digest"):
        receiver.run(write(tmp_path, archives.tar(files)))
    assert receiver.names() == {}


def test_an_archive_of_no_known_format_is_refused(tmp_path: Path) -> None:
    """A tar of anything, and a manifest.json that is not docker's, as imgpkg and C{skopeo dir:} have one."""
    for files in ({"hello": b"world"}, {"manifest.json": IMAGE.manifest.data}):
        with pytest.raises(BundleUnreadable, match="an.archive: .*export images as"):
            offered(tmp_path, files)


# -- docker archives ------------------------------------------------------------------------------------------------


def check_rebuilt(receiver: Receiver, image: Content, name: str) -> dict[str, Any]:
    """The image under C{name} has the configuration of C{image} and layers that its diff_ids name."""
    manifest: dict[str, Any] = json.loads(receiver.store._blobs[Digest.parse(receiver.names()[name])])
    assert manifest["config"] == {
        "mediaType": images.OCI.config,
        "digest": image.blobs[0].digest,
        "size": len(image.blobs[0].data),
    }
    diff_ids = json.loads(image.blobs[0].data)["rootfs"]["diff_ids"]
    for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True):
        data = receiver.store._blobs[Digest.parse(layer["digest"])]
        assert len(data) == layer["size"]
        if layer["mediaType"].endswith("+gzip"):
            data = gzip.decompress(data)
        else:
            assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
        assert images.sha256(data) == diff_id
    return manifest


@pytest.mark.parametrize("write_archive", [archives.docker_save, archives.podman_save])
@pytest.mark.parametrize("wrap", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_an_image_out_of_docker_is_rebuilt_and_said_to_be(tmp_path: Path, write_archive: Any, wrap: Any) -> None:
    """There is no manifest in such an archive: the same one is made every time, and its digest is another."""
    if write_archive is archives.docker_save:
        packed = archives.docker_save((IMAGE, ["nginx:1.27", "ghcr.io/a/b:v1"]))
    else:
        packed = archives.podman_save(IMAGE, ["nginx:1.27", "ghcr.io/a/b:v1"])
    path = write(tmp_path, wrap(archives.tar(*packed)))
    receiver, again = Receiver(), Receiver()
    receipt = receiver.run(path)
    again.run(path)
    assert set(receiver.names()) == {NAME, "ghcr.io/a/b:v1"}
    assert receiver.names() == again.names()
    check_rebuilt(receiver, IMAGE, NAME)
    assert all(change.rebuilt for change in receipt.refs)
    assert receipt.format == "a docker archive" and "rebuilt" in receipt.notes[-1]
    assert receiver.run(path).read_bytes == 0


def test_a_layer_named_by_a_link_is_found_by_its_digest(tmp_path: Path) -> None:
    """docker links a layer that an earlier image has; links are not followed for that."""
    tars = [images.random_tar("base", 40_000), images.random_tar("top", 3000)]
    first, second = images.assemble(tars[:1], "amd64"), images.assemble(tars, "amd64", Cmd=["x"])
    files, links = archives.docker_save((first, ["a:1"]), (second, ["b:1"]))
    assert links
    receiver = Receiver()
    receiver.run(write(tmp_path, archives.tar(files, links)))
    check_rebuilt(receiver, first, "docker.io/library/a:1")
    check_rebuilt(receiver, second, "docker.io/library/b:1")


def test_a_link_to_a_file_outside_is_not_followed(tmp_path: Path) -> None:
    """The layer is not there, then."""
    files, links = archives.podman_save(IMAGE, ["nginx:1"])
    path = next(name for name in files if name.endswith(".tar"))
    del files[path]
    links[path] = "/etc/passwd"
    with pytest.raises(
        BundleDamaged, match=f"an.archive, at '{path}': it is a link or device, which is never followed"
    ):
        Receiver().run(write(tmp_path, archives.tar(files, links)))


def test_compressed_layers_stay_compressed(tmp_path: Path) -> None:
    """C{crane pull} puts them into its archive as they are."""
    receiver = Receiver()
    receiver.run(write(tmp_path, archives.tar(archives.crane_pull(IMAGE, ["ghcr.io/a/b:v1"]))))
    manifest = check_rebuilt(receiver, IMAGE, "ghcr.io/a/b:v1")
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in IMAGE.layers]


def test_compressed_layers_are_found_whatever_their_names(tmp_path: Path) -> None:
    """Their digest stands nowhere, so they are hashed."""
    files = archives.crane_pull(IMAGE, ["nginx:1"])
    entry = json.loads(files["manifest.json"])[0]
    for number, path in enumerate(entry["Layers"]):
        files[f"layer-{number}"] = files.pop(path)
    entry["Layers"] = [f"layer-{number}" for number in range(len(entry["Layers"]))]
    files["manifest.json"] = archives.encode_any([entry])
    receiver = Receiver()
    receiver.run(write(tmp_path, archives.tar(files)))
    check_rebuilt(receiver, IMAGE, "docker.io/library/nginx:1")


def test_a_changed_layer_is_refused(tmp_path: Path) -> None:
    """The configuration tells its digest."""
    files, links = archives.podman_save(IMAGE, ["nginx:1"])
    path = next(name for name in files if name.endswith(".tar"))
    files[path] = files[path][:-100] + b"x" + files[path][-99:]
    receiver = Receiver()
    with pytest.raises(BundleDamaged, match=f"at '{path}': its bytes do not have the digest"):
        receiver.run(write(tmp_path, archives.tar(files, links)))
    assert receiver.names() == {}


def test_an_untagged_image_of_docker_asks_for_a_name(tmp_path: Path) -> None:
    """And takes the one given."""
    path = write(tmp_path, archives.tar(*archives.podman_save(IMAGE, None)))
    with pytest.raises(BundleError, match="has no name in it; give it one with --as"):
        Receiver().run(path)
    receiver = Receiver()
    receiver.run(path, as_name="nginx:1.27")
    assert set(receiver.names()) == {NAME}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: entry.update(Config="absent.json"), "names 'absent.json', which is not there"),
        (lambda entry: entry["Layers"].pop(), "it has 2 layers, and manifest.json 1"),
        (lambda entry: entry.update(Layers=["../x", "/etc/passwd"]), "which is not there"),
        (lambda entry: entry.update(Config=entry["Layers"][0]), "no image's configuration"),
    ],
)
def test_a_docker_archive_that_contradicts_itself_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    """By file and entry."""
    files, links = archives.podman_save(IMAGE, ["nginx:1"])
    entry = json.loads(files["manifest.json"])[0]
    change(entry)
    files["manifest.json"] = archives.encode_any([entry])
    with pytest.raises(BundleDamaged, match=f"an.archive, at .*{said}"):
        Receiver().run(write(tmp_path, archives.tar(files, links)))


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx"),
        ("a/b:1", "docker.io/a/b:1"),
        ("localhost/a", "localhost/a"),
        ("registry:5000/a", "registry:5000/a"),
        ("index.docker.io/nginx:1", "docker.io/library/nginx:1"),
    ],
)
def test_short_names_mean_what_they_mean_to_docker(text: str, full: str) -> None:
    """So that an archive's names are found under the name that clients pull."""
    assert Reference.parse_familiar(text) == Reference.parse(full)


@pytest.mark.parametrize("text", ["", "nginx", "docker.io/UPPER", "../x/y", "docker.io/a:b:c", "a b/c", "/a", "x/../y"])
def test_what_is_no_name_is_refused(text: str) -> None:
    """Names become folders."""
    with pytest.raises(PullcacheError):
        Reference.parse(text)
