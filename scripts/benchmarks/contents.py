"""Images for measuring: one config, one layer of random bytes; no two layers have the same digest."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
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
        # The layer is never unpacked, so its digest does for that of its tar.
        return Image(repository, image_of([layer], [sha256(repository.encode())], repository))

    @cached_property
    def _filling(self) -> bytes:
        return random.Random(1).randbytes(self.size - _SERIAL_BYTES)


def image_of(layers: Sequence[Blob], diff_ids: Sequence[str], title: str) -> Content:
    """
    An image of these layers, and of a config that no image of another C{title} has.

    @param diff_ids: of each layer the digest of its tar.
    """
    config = Blob(
        OCI.config,
        encode(
            {
                "created": CREATED,
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
                "history": [{"created": CREATED, "created_by": title}],
            }
        ),
    )
    document = {
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    return Content(Blob(OCI.manifest, encode(document)), (config, *layers), platform="amd64")
