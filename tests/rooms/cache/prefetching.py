"""Images of which a client took a part."""

from __future__ import annotations

import json
from typing import Any

from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from tests.doubles.deferreds import result
from tests.doubles.manifests import CONFIG, image
from tests.rooms.cache.desk import APP, HUB, Desk

LAYERS = [b"layer %d" % number for number in range(5)]
FIVE = image(*LAYERS)
WHOLE = Digest.of(FIVE)
DOWN = UpstreamUnavailable(HUB, "down")


def stocked(*manifests: bytes, **settings: Any) -> Desk:
    """An upstream with the image of five layers as C{five}, and more."""
    desk = Desk(**settings)
    stock(desk, FIVE, "five")
    for manifest in manifests:
        stock(desk, manifest)
    return desk


def stock(desk: Desk, manifest: bytes, *tags: str) -> None:
    desk.upstream.add_manifest(APP, manifest, json.loads(manifest)["mediaType"], *tags)
    for blob in (CONFIG, *LAYERS):
        desk.upstream.add_blob(APP, blob)


def take(desk: Desk, *blobs: bytes) -> None:
    """As a client, to the end."""
    for blob in blobs:
        result(desk.through.blob(desk.at(HUB, APP), Digest.of(blob))).close()


def blobs_asked(desk: Desk) -> list[str]:
    return [call.subject for call in desk.upstream.asked("blob")]
