"""
The files by which other tools read a bundle: C{oci-layout}, C{index.json} and C{manifest.json}.

C{index.json} is that of an OCI image layout (image-spec, C{image-layout.md}). Tools differ in which annotation they
take a name from, so both carry the same full reference. A referrer has no name: with its subject's, containerd would
take the signature for the image. C{manifest.json} is docker's (moby, C{image/spec/v1.2.md}), for docker and podman.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from appliance.bundle import imageconfig
from appliance.bundle.closure import Closure, is_image
from appliance.bundle.contents import blob_name
from appliance.index.manifests import Read
from appliance.index.repository import REF_NAME
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest
from appliance.oci.mediatypes import OCI_INDEX

IMAGE_NAME = "io.containerd.image.name"
SUBJECT = "io.containerd.manifest.subject"

MAX_DOCKER_MANIFEST = 1024 * 1024
"""The largest C{manifest.json} that skopeo and podman read, in bytes."""

DEFAULT_PLATFORM = "linux/amd64"


@dataclass(frozen=True)
class IndexEntry:
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


@dataclass
class DockerImage:
    """
    One entry of C{manifest.json}.

    @ivar names: full references with a tag; docker knows no others.
    """

    config: Digest
    layers: tuple[Digest, ...]
    names: list[str]


def index(roots: Iterable[IndexEntry]) -> bytes:
    """C{index.json}."""
    document = {"manifests": [_descriptor(root) for root in roots], "mediaType": OCI_INDEX, "schemaVersion": 2}
    return _encode(document)


def docker_manifest(images: Iterable[DockerImage]) -> bytes:
    """C{manifest.json}; an image without a tag has none, as with docker."""
    return _encode(
        [
            {
                "Config": blob_name(image.config),
                "Layers": [blob_name(layer) for layer in image.layers],
                "RepoTags": image.names or None,
            }
            for image in images
        ]
    )


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


def _descriptor(root: IndexEntry) -> dict[str, Any]:
    plain = {"digest": str(root.digest), "mediaType": root.media_type, "size": root.size}
    if root.artifact_type is not None:
        plain["artifactType"] = root.artifact_type
    if root.name is not None:
        return plain | {"annotations": {IMAGE_NAME: root.name, REF_NAME: root.name}}
    return plain | {"annotations": {SUBJECT: str(root.subject)}}


def _encode(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
