"""An appliance in memory that holds everything."""

from __future__ import annotations

from appliance.oci.digest import Digest
from tests.doubles.manifests import CONFIG
from tests.wire.line import IMAGE, LARGE, LAYER, Shop, blob, manifest

LAYER_DIGEST = str(Digest.of(LAYER))
IMAGE_DIGEST = str(Digest.of(IMAGE))


def warm(**more: object) -> Shop:
    """Everything is held."""
    shop = Shop(**more)  # type: ignore[arg-type]
    lists = ("/v2/app/tags/list", f"/v2/app/referrers/{LAYER_DIGEST}", f"/v2/absent/referrers/{LAYER_DIGEST}")
    for path in (manifest(), manifest("multi"), *lists):
        shop.get(path)
    for data in (LAYER, LARGE, CONFIG, b""):
        assert shop.get(blob(data)).body == data
    return shop
