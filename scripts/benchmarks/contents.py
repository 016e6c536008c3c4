"""Images for measuring: one config, one layer of random bytes; no two layers have the same digest."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import cached_property

from tests.doubles.images import CREATED, OCI, Blob, Content, encode, sha256

TAG = "latest"
_SERIAL_BYTES = 16


@dataclass(frozen=True)
class Image:
    """An image of the repository C{repository}, tagged L{TAG}."""

    repository: str
    content: Content

    @property
    def layer(self) -> Blob:
        """Its one layer."""
        return self.content.layers[0]

    @property
    def blob_path(self) -> str:
        """Where a registry has the layer."""
        return f"/v2/{self.repository}/blobs/{self.layer.digest}"

    @property
    def tag_path(self) -> str:
        """Where a registry has the manifest, by tag."""
        return f"/v2/{self.repository}/manifests/{TAG}"

    @property
    def digest_path(self) -> str:
        """Where a registry has the manifest, by digest."""
        return f"/v2/{self.repository}/manifests/{self.content.digest}"


class Images:
    """
    Makes images.

    @ivar size: bytes of the layer of each.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._serials = itertools.count(1)

    def make(self, purpose: str) -> Image:
        """A new image whose layer is held nowhere."""
        serial = next(self._serials)
        repository = f"bench/{purpose}-{serial}"
        layer = Blob(OCI.layer, serial.to_bytes(_SERIAL_BYTES, "big") + self._filling)
        return Image(repository, _image(layer, repository))

    @cached_property
    def _filling(self) -> bytes:
        return random.Random(1).randbytes(self.size - _SERIAL_BYTES)


def _image(layer: Blob, title: str) -> Content:
    # The layer is never unpacked, so its digest does for that of its tar.
    rootfs = {"type": "layers", "diff_ids": [sha256(title.encode())]}
    config = Blob(
        OCI.config,
        encode(
            {
                "created": CREATED,
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": rootfs,
                "history": [{"created": CREATED, "created_by": title}],
            }
        ),
    )
    document = {
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    }
    return Content(Blob(OCI.manifest, encode(document)), (config, layer), platform="amd64")
