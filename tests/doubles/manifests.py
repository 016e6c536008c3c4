"""Manifests and indexes as bytes; for whole images, whose layers can be unpacked, see C{images}."""

from __future__ import annotations

import json
from typing import Any

from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST

CONFIG = b'{"architecture": "amd64"}'


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    """A descriptor of C{data}."""
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data), **more}


def image(*layers: bytes, **more: Any) -> bytes:
    """An image manifest over C{CONFIG} and the layers, with bytes no JSON encoder of ours would write."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, CONFIG),
        "layers": [descriptor(OCI_LAYER_GZIP, layer) for layer in layers],
        **more,
    }
    return json.dumps(document, indent=3).encode() + b"\n"


def index(*manifests: bytes) -> bytes:
    """An index over the manifests."""
    return index_of(*(descriptor(OCI_MANIFEST, each, platform={"os": "linux"}) for each in manifests))


def index_of(*descriptors: dict[str, Any]) -> bytes:
    """An index of these descriptors, also as a list of referrers."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}).encode()
