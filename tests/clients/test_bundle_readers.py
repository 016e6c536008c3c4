"""
One full bundle, read by the tools that people have behind the gap.

What each of them makes of it is what was measured of the format: who keeps digests, who wants a single image in a file.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import tools
from tests.clients.signing import Oras
from tests.clients.tools import Containerd, DockerRegistry, Failed, Podman, Skopeo, run
from tests.doubles import images
from tests.doubles.exports import Site
from tests.doubles.images import Content, sha256

pytestmark = pytest.mark.real_client

MULTI = images.multi_arch("library/foo")
SCHEMA2 = images.image("acme/bar", flavour=images.DOCKER)
PINNED = images.image("acme/dig")
REFERRER = images.artifact(MULTI)
SIGNATURE = images.artifact(SCHEMA2, "application/vnd.example.signature")

FOO, BAR, DIG = "docker.io/library/foo:1.0", "quay.io/acme/bar:2.1", f"ghcr.io/acme/dig@{PINNED.digest}"
NAMED: dict[str, Content] = {FOO: MULTI, BAR: SCHEMA2, DIG: PINNED}


def write(folder: Path, site: Site, **more: object) -> list[Path]:
    """The files of a bundle of everything at C{site}."""
    export = site.export(all=True, **more)
    files = [folder / export.file_name(n) for n in range(1, export.volumes + 1)]
    for path, data in zip(files, site.files(export), strict=True):
        path.write_bytes(data)
    return files


def everything() -> Site:
    """Images of three upstreams: an index, one in Docker's format, one by digest alone; signed by subject and tag."""
    site = Site().hold(MULTI, ("docker.io", "library/foo"), "1.0").hold(REFERRER, ("docker.io", "library/foo"))
    site.hold(SCHEMA2, ("quay.io", "acme/bar"), "2.1").hold(PINNED, ("ghcr.io", "acme/dig"))
    return site.hold(SIGNATURE, ("quay.io", "acme/bar"), f"{SCHEMA2.digest.replace(':', '-')}.sig")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A full bundle in one file."""
    [file] = write(tmp_path, everything())
    return file


class Loading(Podman):
    """podman with an empty storage."""

    def podman(self, *arguments: str | Path) -> bytes:
        storage = ["--root", f"{self._runtime}/root", "--runroot", f"{self._runtime}/run", "--storage-driver", "vfs"]
        return run("podman", *storage, "--cgroup-manager", "cgroupfs", "--events-backend", "none", *arguments)


class Importing(Containerd):
    """containerd with an empty store."""

    def load(self, file: Path) -> dict[str, str]:
        """Import and unpack, and list what is there then: digests by name."""
        if self._process is None:
            self._start()
        namespace = ["--namespace", next(self._names)]
        self._ctr(*namespace, "images", "import", "--snapshotter", "native", file)
        lines = self._ctr(*namespace, "images", "list").decode().splitlines()[1:]
        return {line.split()[0]: line.split()[2] for line in lines}


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Loading]:
    """podman, where it is installed."""
    tools.need(*Loading.programs)
    yield from tools.opened(Loading(tmp_path))


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Importing]:
    """containerd, where it is installed."""
    tools.need(*Importing.programs)
    yield from tools.opened(Importing(tmp_path))


def unpacked(files: list[Path], folder: Path) -> Path:
    """All files over each other in one folder."""
    for file in files:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
    return folder


# -- skopeo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [FOO, DIG])
def test_skopeo_finds_each_image_by_its_full_name(skopeo: Skopeo, bundle: Path, name: str) -> None:
    """The digest is the upstream's, and everything beneath it can be copied with every platform."""
    archive = f"oci-archive:{bundle}:{name}"
    assert skopeo.raw(archive) == NAMED[name].digest
    skopeo.run("copy", "--quiet", "--all", archive, f"dir:{skopeo.fresh()}")


def test_skopeo_finds_dockers_format_by_name_since_1_19(skopeo: Skopeo, bundle: Path) -> None:
    """Older versions pass over Docker's media types in a layout, and say so."""
    match = re.search(r"version (\d+)\.(\d+)", skopeo.run("--version").decode())
    assert match is not None
    if (int(match[1]), int(match[2])) >= (1, 19):
        assert skopeo.raw(f"oci-archive:{bundle}:{BAR}") == SCHEMA2.digest
    else:
        with pytest.raises(Failed, match="no descriptor found"):
            skopeo.raw(f"oci-archive:{bundle}:{BAR}")


@pytest.mark.parametrize("name", [FOO, BAR])
def test_skopeo_reads_the_docker_archive(skopeo: Skopeo, bundle: Path, name: str) -> None:
    """Its manifest is made anew by docker's format; the configuration, and so the image's id, is the same."""
    folder = skopeo.fresh()
    skopeo.run("copy", "--quiet", f"docker-archive:{bundle}:{name}", f"dir:{folder}")
    image = NAMED[name].children[0] if NAMED[name].children else NAMED[name]
    assert json.loads((folder / "manifest.json").read_bytes())["config"]["digest"] == image.blobs[0].digest


@pytest.mark.parametrize("name", [FOO, DIG])
def test_skopeo_reads_volumes_that_were_unpacked_into_one_folder(skopeo: Skopeo, tmp_path: Path, name: str) -> None:
    """No tool of ours is needed to use a bundle that came on several discs."""
    files = write(tmp_path, everything(), volume_size=120_000)
    assert len(files) > 1
    layout = unpacked(files[::-1], tmp_path / "layout")
    assert skopeo.raw(f"oci:{layout}:{name}") == NAMED[name].digest
    skopeo.run("copy", "--quiet", "--all", f"oci:{layout}:{name}", f"dir:{skopeo.fresh()}")


# -- runtimes -------------------------------------------------------------------------------------------------------


def test_podman_loads_every_image_of_its_platform(podman: Loading, bundle: Path) -> None:
    """All images are there under their full names, the one without a tag by its id; no signature is taken for one."""
    podman.podman("load", "--quiet", "--input", bundle)
    listed = json.loads(podman.podman("images", "--format", "json"))
    found = {image["Id"]: tuple(image.get("Names") or ()) for image in listed}
    assert found == {
        MULTI.children[0].blobs[0].digest[7:]: (FOO,),
        SCHEMA2.blobs[0].digest[7:]: (BAR,),
        PINNED.blobs[0].digest[7:]: (),
    }


def test_podman_keeps_the_digest_of_a_single_image_without_referrers(podman: Loading, tmp_path: Path) -> None:
    """With one entry in the index podman reads the layout: what was pulled is what is there."""
    [file] = write(tmp_path, Site().hold(MULTI, ("docker.io", "library/foo"), "1.0"))
    podman.podman("load", "--quiet", "--input", file)
    digests = json.loads(podman.podman("image", "inspect", FOO))[0]["RepoDigests"]
    assert f"docker.io/library/foo@{MULTI.digest}" in digests


def test_ctr_imports_and_unpacks_everything_under_its_own_digest(containerd: Importing, bundle: Path) -> None:
    """Names and digests are the upstreams', and a signature takes no image's name."""
    assert containerd.load(bundle) == {name: content.digest for name, content in NAMED.items()}


def test_neither_podman_nor_ctr_takes_an_increment_for_an_image(
    podman: Loading, containerd: Importing, tmp_path: Path
) -> None:
    """A bundle that lacks a layer is refused instead of being loaded with a hole."""
    site = Site().hold(SCHEMA2, ("quay.io", "acme/bar"), "2.1", without=[SCHEMA2.layers[0]])
    [file] = write(tmp_path, site, partial=True)
    with pytest.raises(Failed):
        podman.podman("load", "--quiet", "--input", file)
    assert json.loads(podman.podman("images", "--format", "json")) == []
    with pytest.raises(Failed):
        containerd.load(file)


# -- crane, regctl --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_regctl_imports_each_image_by_its_full_name(bundle: Path, tmp_path: Path, name: str) -> None:
    """Whatever the format, the digest is the upstream's."""
    tools.need("regctl")
    target = f"ocidir://{tmp_path}/regctl:x"
    home = {"HOME": str(tmp_path)}
    run("regctl", "image", "import", target, bundle, "--name", name, **home)
    assert run("regctl", "manifest", "head", target, **home).decode().strip() == NAMED[name].digest


def test_crane_pushes_an_unpacked_bundle_and_a_file_with_one_image(tmp_path: Path) -> None:
    """From a folder the digest stays; a file is a docker archive to crane, and may hold one image only."""
    tools.need("crane", *DockerRegistry.programs)
    registry = DockerRegistry(tmp_path).start()
    try:
        [file] = write(tmp_path, Site().hold(SCHEMA2, ("quay.io", "acme/bar"), "2.1"))
        layout = unpacked([file], tmp_path / "layout")
        run("crane", "push", layout, f"{registry.authority}/folder:1")
        assert sha256(run("crane", "manifest", f"{registry.authority}/folder:1")) == SCHEMA2.digest
        run("crane", "push", file, f"{registry.authority}/file:1")
        config = json.loads(run("crane", "manifest", f"{registry.authority}/file:1"))["config"]
        assert config["digest"] == SCHEMA2.blobs[0].digest
        [file] = write(tmp_path, everything())
        with pytest.raises(Failed, match="single image"):
            run("crane", "push", file, f"{registry.authority}/all:1")
    finally:
        registry.kill()


# -- oras -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False], ids=["file", "folder"])
def test_oras_copies_each_image_with_what_refers_to_it(
    docker_registry: DockerRegistry, oras: Oras, bundle: Path, tmp_path: Path, packed: bool
) -> None:
    """
    Straight from the file as well as unpacked, by digest: to oras a name in a layout has neither C{/} nor C{:}.

    What has referrers is copied with them, whatever its format.
    """
    source = bundle if packed else unpacked([bundle], tmp_path / "layout")
    for number, (content, referrer) in enumerate([(MULTI, REFERRER), (SCHEMA2, SIGNATURE), (PINNED, None)]):
        name = f"{docker_registry.authority}/copied/image-{number}"
        oras.run(
            "copy", "--recursive", "--from-oci-layout", "--to-plain-http", f"{source}@{content.digest}", f"{name}:1"
        )
        assert oras.run("resolve", "--plain-http", f"{name}:1").decode().strip() == content.digest
        listed = [digest for digest, _ in oras.referrers(f"{name}:1")]
        assert listed == ([referrer.digest] if referrer else [])


def test_oras_lists_what_refers_to_an_image_in_the_bundle(oras: Oras, bundle: Path, tmp_path: Path) -> None:
    """Nothing has to be imported to see it; regctl looks for a fallback tag there, and there is none."""
    tools.need("regctl")
    folder = unpacked([bundle], tmp_path / "layout")
    for place in (bundle, folder):
        assert [found for found, _ in oras.referrers(f"{place}@{MULTI.digest}", "--oci-layout")] == [REFERRER.digest]
    name = f"ocidir://{folder}@{MULTI.digest}"
    listed = run("regctl", "artifact", "list", name, "--format", "{{len .Descriptors}}", HOME=str(tmp_path))
    assert listed.decode().strip() == "0"
