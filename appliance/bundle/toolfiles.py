"""
The files by which other tools read a bundle: C{oci-layout}, C{index.json} and C{manifest.json}.

C{index.json} is that of an OCI image layout (image-spec, C{image-layout.md}). Tools differ in which annotation they
take a name from, so both carry the same full reference. A referrer has no name: with its subject's, containerd would
take the signature for the image. C{manifest.json} is docker's (moby, C{image/spec/v1.2.md}), for docker and podman.

A bundle's list of contents has the digests of these files. Where it does not, as in bundles of earlier versions, no
signature covers them and an import does not use them; but a user who verifies such a bundle may give it to another
tool, so that every name in them has to mean what the list of contents says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from appliance.bundle.closure import Closure, is_image
from appliance.bundle.contents import INDEX, MANIFEST, Bundle, PlainName, blob_name, parse_name
from appliance.errors import BundleDamaged
from appliance.index.documents import OCI_LAYOUT
from appliance.index.manifests import Read
from appliance.index.repository import REF_NAME
from appliance.oci import imageconfig
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest
from appliance.oci.mediatypes import OCI_INDEX

IMAGE_NAME = "io.containerd.image.name"
SUBJECT = "io.containerd.manifest.subject"

MAX_DOCKER_MANIFEST = 1024 * 1024
"""The largest C{manifest.json} that skopeo and podman read, in bytes."""

DEFAULT_PLATFORM = "linux/amd64"

# How deep the indexes of a bundle that is checked may be nested.
_MAX_DEPTH = 4


@dataclass(frozen=True)
class LayoutEntry:
    """
    One entry of C{index.json}.

    @ivar name: the full reference, C{None} for a referrer.
    @ivar subject: what a referrer refers to.
    """

    digest: Digest
    size: int
    media_type: str
    name: str | None = None
    subject: Digest | None = None
    artifact_type: str | None = None

    def descriptor(self) -> dict[str, Any]:
        """The entry as JSON has it."""
        plain = {"digest": str(self.digest), "mediaType": self.media_type, "size": self.size}
        if self.artifact_type is not None:
            plain["artifactType"] = self.artifact_type
        if self.name is not None:
            return plain | {"annotations": {IMAGE_NAME: self.name, REF_NAME: self.name}}
        return plain | {"annotations": {SUBJECT: str(self.subject)}}


@dataclass
class DockerImage:
    """
    One entry of C{manifest.json}.

    @ivar names: full references with a tag; docker knows no others.
    """

    config: Digest
    layers: tuple[Digest, ...]
    names: list[str]


async def docker_image(read: Read, closure: Closure, platforms: frozenset[str]) -> DockerImage | None:
    """
    What docker and podman take out of the closure: one image that can be run, C{None} when there is none.

    @param platforms: preferred; then L{DEFAULT_PLATFORM}, then the first there is.
    """
    held = {piece.digest for piece in closure.held}
    for manifest in _in_order_of_preference(closure, platforms):
        config, *layers = (blob.parsed() for blob in manifest.blobs)
        if not held.issuperset(layers):
            # Some may not be distributed, and docker loads what is whole.
            continue
        data = await read(config)
        parsed = None if data is None else imageconfig.parse_config(data)
        if parsed is not None and parsed.rootfs is not None and len(parsed.rootfs.diff_ids) == len(layers):
            return DockerImage(config, tuple(layers), [])
    return None


def _in_order_of_preference(closure: Closure, platforms: frozenset[str]) -> list[Manifest]:
    wishes = [*sorted(platforms), DEFAULT_PLATFORM]
    images = [(digest, manifest) for digest, manifest in closure.manifests.items() if is_image(manifest)]
    platform_of = {
        child.parsed(): imageconfig.named(child.platform)
        for manifest in closure.manifests.values()
        for child in manifest.manifests
    }

    def rank(found: tuple[Digest, Manifest]) -> int:
        platform = platform_of.get(found[0]) or ""
        return next((at for at, wish in enumerate(wishes) if imageconfig.covers(wish, platform)), len(wishes))

    return [manifest for _, manifest in sorted(images, key=rank)]


@dataclass(frozen=True)
class ToolFiles:
    """
    What a bundle has for other tools.

    @ivar index: C{index.json}.
    @ivar docker: C{manifest.json}, C{None} when there is none: an empty one would make docker load nothing and call it
        a success, and one that is too large is not read.
    @ivar notes: what the user should know.
    """

    index: bytes
    docker: bytes | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[LayoutEntry], images: list[DockerImage]) -> ToolFiles:
        """Write both. An image without a tag has no name in C{manifest.json}, as with docker."""
        descriptors = [entry.descriptor() for entry in entries]
        index = _encode({"manifests": descriptors, "mediaType": OCI_INDEX, "schemaVersion": 2})
        docker = _encode(
            [
                {
                    "Config": blob_name(image.config),
                    "Layers": [blob_name(layer) for layer in image.layers],
                    "RepoTags": image.names or None,
                }
                for image in images
            ]
        )
        if len(docker) > MAX_DOCKER_MANIFEST:
            note = f"{len(images)} images are too many for manifest.json: docker and podman cannot load this bundle"
            return cls(index, None, (note,))
        return cls(index, docker if images else None)

    def files(self, full: bool, volumes: int) -> dict[PlainName, bytes]:
        """
        The files that go into a bundle of so many volumes.

        An increment has no C{oci-layout} and no C{manifest.json}, and no single volume of several may be taken for the
        whole: runtimes refuse what they could only half load.
        """
        files: dict[PlainName, bytes] = {"index.json": self.index}
        if full:
            files["oci-layout"] = OCI_LAYOUT
        if full and volumes == 1 and self.docker is not None:
            files["manifest.json"] = self.docker
        return files


def _encode(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# -- checking those of a bundle that does not list them -------------------------------------------------------------


class _Pointer(msgspec.Struct):
    """What is looked at of a descriptor."""

    digest: str
    annotations: dict[str, str] = {}


class _Pointers(msgspec.Struct):
    """What is looked at of C{index.json}, of an index and of a manifest."""

    manifests: list[_Pointer] = []
    config: _Pointer | None = None


class _DockerEntry(msgspec.Struct, rename="pascal"):
    """One entry of C{manifest.json}."""

    config: str
    layers: list[str] = []
    repo_tags: list[str] | None = None


class UnlistedFiles:
    """
    Compares C{index.json} and C{manifest.json} with the list of contents.

    @param read: a document among the blobs, C{None} when it is not there.
    """

    def __init__(self, bundle: Bundle, source: str, read: Callable[[Digest], bytes | None]) -> None:
        self._source = source
        self._read = read
        self._meant = {ref.name: ref.digest for ref in bundle.refs}
        self._listed = {blob.digest for blob in bundle.blobs} | {blob.digest for blob in bundle.requires}

    def check_index(self, data: bytes) -> None:
        """Every name in C{index.json} means what it means in the list. Raises L{BundleDamaged}."""
        for root in self._parsed(data, _Pointers, INDEX).manifests:
            names = {root.annotations[key] for key in (REF_NAME, IMAGE_NAME) if key in root.annotations}
            if root.digest not in self._listed or any(self._meant.get(name) != root.digest for name in names):
                raise self._wrong(INDEX, ", ".join(names) or root.digest)

    def check_docker(self, data: bytes) -> None:
        """Every name in C{manifest.json} means an image that it means in the list. Raises L{BundleDamaged}."""
        for image in self._parsed(data, list[_DockerEntry], MANIFEST):
            for name in image.repo_tags or ():
                if _digest_of(image.config) not in set(self._configs(self._meant.get(name), _MAX_DEPTH)):
                    raise self._wrong(MANIFEST, name)
            for entry in (image.config, *image.layers):
                if _digest_of(entry) not in self._listed:
                    raise self._wrong(MANIFEST, entry)

    def _configs(self, digest: str | None, depth: int) -> Iterator[str]:
        """The configurations of all images at and beneath C{digest}."""
        data = None if digest is None or depth == 0 else self._read(Digest.parse(digest))
        if data is None:
            return
        document = self._parsed(data, _Pointers, str(digest))
        if document.config is not None:
            yield document.config.digest
        for child in document.manifests:
            yield from self._configs(child.digest, depth - 1)

    def _parsed(self, data: bytes, kind: Any, name: str) -> Any:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BundleDamaged(f"{self._source}, {name}: {error}; have it exported again") from error

    def _wrong(self, name: str, what: str) -> BundleDamaged:
        return BundleDamaged(
            f"{self._source}, {name}: {what} is not what the list of contents says; "
            "do not hand this file to other tools, have it exported again"
        )


def _digest_of(entry: str) -> str | None:
    """The digest that an entry's name stands for; C{None} for every other name."""
    parsed = parse_name(entry)
    return None if parsed is None else str(parsed[0])
