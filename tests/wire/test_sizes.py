"""Descriptors that give a layer another size than it has: only its digest counts, for every client."""

from __future__ import annotations

import json

import pytest

from appliance.oci.mediatypes import OCI_MANIFEST
from tests.doubles.manifests import image
from tests.wire.line import LAYER, Shop, blob, manifest

NAME = "library/app"
MiB = 1024 * 1024


def naming(size: int, note: str = "wrong") -> bytes:
    """A manifest of the same repository that names LAYER with that size."""
    document = json.loads(image(LAYER, note=note))
    document["layers"][0]["size"] = size
    return json.dumps(document).encode()


def shop_with(*sizes: int) -> Shop:
    """Manifests that give LAYER these sizes were pulled, in that order."""
    shop = Shop()
    for number, size in enumerate(sizes):
        digest = shop.hub.add_manifest(NAME, naming(size, str(number)), OCI_MANIFEST)
        assert shop.get(manifest(digest)).status == 200
    shop.hub.calls.clear()
    return shop


SIZE = len(LAYER)
WRONG = [0, 1, SIZE - 1, SIZE + 1, 2**40]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("order", ["wrong", "wrong, right", "right, wrong"])
@pytest.mark.parametrize("tells_size", [True, False])
def test_one_wrong_size_in_one_manifest_spoils_no_pull(wrong: int, order: str, tells_size: bool) -> None:
    """A client pulls the layer, by either manifest: the right bytes with their right length, by one GET."""
    shop = shop_with(*(wrong if each == "wrong" else SIZE for each in order.split(", ")))
    shop.hub.tells_size = tells_size or order == "wrong"
    for status in ("pullcache; fwd=uri-miss; stored", "pullcache; hit"):
        answer = shop.get(blob(LAYER))
        assert (answer.status, answer.body, answer["Content-Length"]) == (200, LAYER, str(SIZE))
        assert answer["Cache-Status"] == status
    assert [call.verb for call in shop.hub.calls] == ["blob"]
    assert shop.ask("HEAD", blob(LAYER))["Content-Length"] == str(SIZE)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_range_of_a_layer_with_a_wrong_size_is_right(wrong: int) -> None:
    """Its end, its beginning, and beyond what one manifest says."""
    shop = shop_with(wrong)
    answer = shop.get(blob(LAYER), ("Range", "bytes=-10"))
    assert (answer.status, answer.body) == (206, LAYER[-10:])
    assert answer["Content-Range"] == f"bytes {SIZE - 10}-{SIZE - 1}/{SIZE}"


@pytest.mark.parametrize("sizes", [(SIZE, SIZE + 1), (SIZE + 1, SIZE), (1, SIZE, 2)])
def test_the_size_of_a_cold_layer_is_asked_for_where_manifests_contradict_each_other(sizes: tuple[int, ...]) -> None:
    """Once, and not guessed; a restart remembers what the upstream said, and still sees the contradiction if not."""
    shop = shop_with(*sizes)
    for each in (shop, Shop(before=shop)):
        answer = each.ask("HEAD", blob(LAYER))
        assert (answer.status, answer["Content-Length"]) == (200, str(SIZE))
    assert [call.verb for call in shop.hub.calls] == ["blob_size"]
    fresh = shop_with(*sizes)
    assert Shop(before=fresh).ask("HEAD", blob(LAYER))["Content-Length"] == str(SIZE)
    assert [call.verb for call in fresh.hub.calls] == ["blob_size"]


def test_a_wrong_size_throws_away_nothing_that_another_repository_fetched() -> None:
    """Half of it had come for one repository; the pull through the other, with the wrong size, goes on from there."""
    shop = shop_with(SIZE - 1)
    shop.hub.by_hand = True
    shop.hub.add_blob("library/other", LAYER)
    line = shop.line
    line.send(f"GET {blob(LAYER, 'other')} HTTP/1.1\r\nHost: cache\r\n\r\n".encode())
    shop.hub.bodies[0].feed(SIZE // 2)
    stopped = shop.cache.flights.stop()
    assert stopped.called
    line.lose()
    shop.hub.by_hand = False
    assert shop.get(blob(LAYER)).body == LAYER
    assert [call.start for call in shop.hub.asked("blob")] == [0, SIZE // 2]
