"""Images for measuring: a config of 2 KB, layers of random bytes; no two layers have the same digest."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.doubles.images import CREATED, OCI, Blob, Content, encode, sha256

TAG = "latest"
# With the rest of the config about 2 KB: real ones hold the commands that made the layers.
COMMAND = " && ".join(["apt-get install --yes --no-install-recommends build-essential"] * 28)
_SERIAL_BYTES = 16
_PIECE = 16 * 1024 * 1024


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
        return self.path_of(self.layer)

    @property
    def config_path(self) -> str:
        """Where a registry has the config."""
        return self.path_of(self.content.blobs[0])

    def path_of(self, blob: Blob) -> str:
        """Where a registry has a blob."""
        return f"/v2/{self.repository}/blobs/{blob.digest}"

    @property
    def tag_path(self) -> str:
        """Where a registry has the manifest, by tag."""
        return f"/v2/{self.repository}/manifests/{TAG}"

    @property
    def digest_path(self) -> str:
        """Where a registry has the manifest, by digest."""
        return f"/v2/{self.repository}/manifests/{self.content.digest}"


class Images:
    """Makes images, each with layers that are held nowhere."""

    def __init__(self) -> None:
        self._serials = itertools.count(1)
        self._filling = b""

    def make(self, purpose: str, size: int, layers: int = 1) -> Image:
        """An image with so many layers of C{size} bytes."""
        if len(self._filling) < size:
            # More would take seconds, and nobody compresses it.
            self._filling = random.Random(1).randbytes(min(size, _PIECE)) * -(-size // _PIECE)
        made = [self._layer(size) for _ in range(layers)]
        repository = f"bench/{purpose}-{next(self._serials)}"
        # The layers are never unpacked, so that any digest does for those of their tars.
        diff_ids = [sha256(f"{repository} {number}".encode()) for number in range(layers)]
        return Image(repository, image_of(made, diff_ids, f"{repository}: {COMMAND}"))

    def _layer(self, size: int) -> Blob:
        return Blob(OCI.layer, next(self._serials).to_bytes(_SERIAL_BYTES, "big") + self._filling[_SERIAL_BYTES:size])


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
