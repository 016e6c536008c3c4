"""A locked tag on the wire: what it is locked to comes by GET and HEAD, by the route and by the hot lane."""

from __future__ import annotations

import pytest

from appliance.index.repository import OPERATOR
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from tests.doubles.deferreds import result
from tests.doubles.manifests import image
from tests.wire.line import HUB, IMAGE, Shop, manifest

OTHER = image(b"poisoned")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_locked_tag_is_served_as_it_was(method: str) -> None:
    """With a word that says why it is not what the upstream has; the other manifest is not to be had by the tag."""
    shop = Shop()
    shop.ask(method, manifest())
    repository = result(shop.cache.repositories.get(HUB, "library/app"))
    repository.pin("latest", OPERATOR)
    repository.lock("latest")
    shop.hub.add_manifest("library/app", OTHER, OCI_MANIFEST, "latest")
    shop.clock.advance(100.0)
    # Asked again, prepared, and by the hot lane.
    for number in range(3):
        answer = shop.ask(method, manifest())
        assert (answer.status, answer["Docker-Content-Digest"]) == (200, str(Digest.of(IMAGE))), number
        assert answer["Cache-Status"] == "pullcache; hit; detail=locked" and answer["Warning"] is None
        assert answer.body == (IMAGE if method == "GET" else b"")
    assert [told[-1] for told in shop.accounts.told][-3:] == ["hit"] * 3
    repository.unpin("latest")
    shop.clock.advance(100.0)
    assert shop.ask(method, manifest())["Docker-Content-Digest"] == str(Digest.of(OTHER))
