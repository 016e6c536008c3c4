"""What real tools write is imported: the same digests, or, out of a docker archive, the same layers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.names import Names
from appliance.oci.digest import Digest
from tests.clients import tools
from tests.clients.tools import Containerd, run
from tests.doubles import images
from tests.doubles.images import Content
from tests.doubles.receiver import Receiver, upstream_for
from tests.doubles.remote import RemoteRegistry

pytestmark = pytest.mark.real_client

PLACE = ("docker.io", "library/tiny")
NAME = "docker.io/library/tiny:1"
TINY = images.image("library/tiny")
MULTI = images.multi_arch("library/multi")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An OCI image layout that tools copy from."""
    images.write_layout(TINY, tmp_path / "tiny", "latest")
    images.write_layout(MULTI, tmp_path / "multi", "latest")
    return tmp_path


def skopeo(folder: Path, *arguments: str | Path) -> None:
    tools.need("skopeo")
    run("skopeo", "--insecure-policy", "--tmpdir", folder, "copy", "--quiet", *arguments)


def receiver_of(name: str) -> Receiver:
    """An appliance at which the registry that C{name} begins with is an upstream."""
    registry = name.partition("/")[0]
    return Receiver(names=Names(lambda upstream: registry if upstream == registry else upstream_for(upstream)))


def check(path: Path, content: Content, name: str = NAME, place: tuple[str, str] = PLACE, **options: Any) -> None:
    """Imported, the archive gives C{content} with its own digests under C{name}."""
    receiver = receiver_of(name)
    receiver.run(path, **options)
    assert receiver.names()[name] == content.digest
    assert receiver.serves(content, place)
    assert receiver.run(path, **options).read_bytes == 0


def check_rebuilt(path: Path, content: Content, name: str = NAME) -> None:
    """Imported, the archive gives an image of the same configuration and layers under C{name}."""
    receiver = receiver_of(name)
    receipt = receiver.run(path)
    assert receipt.refs[0].rebuilt
    manifest = json.loads(receiver.store._blobs[Digest.parse(receiver.names()[name])])
    assert manifest["config"]["digest"] == content.blobs[0].digest
    for layer in manifest["layers"]:
        assert receiver.store.size(Digest.parse(layer["digest"])) == layer["size"]
    assert len(manifest["layers"]) == len(content.layers)


@pytest.mark.parametrize("name", [NAME, "tiny:1"])
def test_skopeos_oci_archive(source: Path, name: str) -> None:
    """Under the name as it was typed, read as docker reads it."""
    path = source / "archive.tar"
    skopeo(source, f"oci:{source}/tiny:latest", f"oci-archive:{path}:{name}")
    check(path, TINY)


def test_skopeos_oci_archive_of_all_platforms(source: Path) -> None:
    """The index keeps its digest."""
    path = source / "archive.tar"
    skopeo(source, "--all", f"oci:{source}/multi:latest", f"oci-archive:{path}:{NAME}")
    check(path, MULTI)


def test_skopeos_oci_archive_without_a_name(source: Path) -> None:
    """The name is given with the import."""
    path = source / "archive.tar"
    skopeo(source, f"oci:{source}/tiny:latest", f"oci-archive:{path}")
    check(path, TINY, as_name="tiny:1")


def test_skopeos_layout_in_a_folder(source: Path) -> None:
    """C{oci:folder}."""
    skopeo(source, "--all", f"oci:{source}/multi:latest", f"oci:{source}/copied:{NAME}")
    check(source / "copied", MULTI)


def test_skopeos_docker_archive(source: Path) -> None:
    """Uncompressed layers, and folders of links beside them."""
    path = source / "archive.tar"
    skopeo(source, f"oci:{source}/tiny:latest", f"docker-archive:{path}:{NAME}")
    check_rebuilt(path, TINY)


@pytest.fixture
def podman(source: Path) -> Iterator[list[str]]:
    """podman with a storage of its own that holds L{TINY} as L{NAME}."""
    tools.need("podman", "skopeo")
    # podman refuses a run folder whose path is longer than 50 bytes, and pytest's folders are.
    runtime = tempfile.mkdtemp(prefix="podman")
    (source / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    storage = ["--root", f"{source}/root", "--runroot", runtime, "--storage-driver", "vfs"]
    program = ["podman", *storage, "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    path = source / "seed.tar"
    skopeo(source, f"oci:{source}/tiny:latest", f"docker-archive:{path}:{NAME}")
    try:
        policy = ["--signature-policy", str(source / "policy.json")]
        run(*program, "load", "--quiet", *policy, "-i", path, TMPDIR=str(source))
        yield program
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


def test_podman_save(source: Path, podman: list[str]) -> None:
    """Its default is a docker archive."""
    path = source / "saved.tar"
    run(*podman, "save", "--quiet", "-o", path, NAME, TMPDIR=str(source))
    check_rebuilt(path, TINY)


def test_podman_save_as_oci_archive(source: Path, podman: list[str]) -> None:
    """Its layers are compressed anew, so the manifest is podman's own."""
    path = source / "saved.tar"
    run(*podman, "save", "--quiet", "--format", "oci-archive", "-o", path, NAME, TMPDIR=str(source))
    receiver = Receiver()
    receipt = receiver.run(path)
    assert set(receiver.names()) == {NAME} and not receipt.refs[0].rebuilt
    manifest = json.loads(receiver.store._blobs[Digest.parse(receiver.names()[NAME])])
    assert manifest["config"]["digest"] == TINY.blobs[0].digest


@pytest.mark.process
def test_ctr_images_export(source: Path, tmp_path: Path) -> None:
    """All platforms, its metadata last."""
    tools.need(*Containerd.programs, "skopeo")
    path = source / "seed.tar"
    skopeo(source, "--all", f"oci:{source}/multi:latest", f"oci-archive:{path}:{NAME}")
    client = Containerd(tmp_path)
    try:
        client._start()
        client._ctr("images", "import", "--no-unpack", "--all-platforms", path)
        client._ctr("images", "export", "--all-platforms", source / "exported.tar", NAME)
        check(source / "exported.tar", MULTI)
        client._ctr("images", "export", "--platform", "linux/arm64", source / "one.tar", NAME)
    finally:
        client.close()
    receiver = Receiver()
    receipt = receiver.run(source / "one.tar")
    assert receiver.names() == {NAME: MULTI.digest}
    assert [absent.rpartition(" ")[2] for absent in receipt.absent] == ["linux/amd64"]
    assert receiver.serves(MULTI.children[1], PLACE)


@pytest.fixture
def registry() -> Iterator[RemoteRegistry]:
    """A registry that holds L{TINY} and L{MULTI}."""
    made = RemoteRegistry().start()
    made.add("library/tiny", "latest")
    made.add("library/multi", "latest", "index")
    yield made
    made.kill()


@pytest.mark.process
def test_crane_pull(tmp_path: Path, registry: RemoteRegistry) -> None:
    """A docker archive of compressed layers, and a layout in a folder."""
    tools.need("crane")
    name = f"{registry.authority}/library/tiny:latest"
    run("crane", "--insecure", "pull", name, tmp_path / "crane.tar")
    check_rebuilt(tmp_path / "crane.tar", TINY, name)
    place = (registry.authority, "library/multi")
    run("crane", "--insecure", "pull", "--format=oci", f"{'/'.join(place)}:latest", tmp_path / "layout")
    check(tmp_path / "layout", MULTI, "docker.io/library/tiny:1", as_name="tiny:1")


@pytest.mark.process
@pytest.mark.parametrize("compress", [(), ("--compress",)], ids=["plain", "gzip"])
def test_regctl_image_export(tmp_path: Path, registry: RemoteRegistry, compress: tuple[str, ...]) -> None:
    """Of one platform and of all."""
    tools.need("regctl")
    host = ("--host", f"reg={registry.authority},tls=disabled")
    for repository, content in (("library/tiny", TINY), ("library/multi", MULTI)):
        name = f"{registry.authority}/{repository}:latest"
        path = tmp_path / "exported.tar"
        run("regctl", *host, "image", "export", *compress, name, path, HOME=str(tmp_path))
        check(path, content, name, (registry.authority, repository))
