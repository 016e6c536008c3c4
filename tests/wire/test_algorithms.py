"""A digest is verified by the algorithm that stands in it: bytes that are right by another one are other bytes."""

from __future__ import annotations

import pytest

from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from tests.wire.line import IMAGE, INDEX, LARGE, LAYER, Line, Shop, manifest, request

NAME = "library/app"


def long(data: bytes) -> Digest:
    """Its sha512."""
    return Digest.of(data, "sha512")


def path(digest: Digest) -> str:
    return f"/v2/app/blobs/{digest}"


def test_what_is_asked_for_by_sha512_is_answered_by_sha512() -> None:
    """Though the same bytes are held by their sha256; cold, held, and by HEAD."""
    shop = Shop()
    shop.hub.shelves[NAME].manifests[long(IMAGE)] = (IMAGE, OCI_MANIFEST)
    shop.hub.shelves[NAME].blobs[long(LAYER)] = LAYER
    assert shop.get(manifest()).status == shop.get(path(Digest.of(LAYER))).status == 200
    for where, data in ((manifest(long(IMAGE)), IMAGE), (path(long(LAYER)), LAYER)):
        for method in ("GET", "GET", "HEAD"):
            answer = shop.ask(method, where)
            assert answer.status == 200 and answer.body == (data if method == "GET" else b"")
            assert answer["Docker-Content-Digest"] == str(long(data)) and answer["ETag"] == f'"{long(data)}"'
    assert {each.subject for each in shop.hub.asked("manifest", "blob")} >= {str(long(IMAGE)), str(long(LAYER))}


def test_bytes_that_are_right_by_another_algorithm_are_refused() -> None:
    """What is held under its sha256, and named by the upstream with it, does not pass for another's sha512."""
    shop = Shop()
    shop.get(manifest()), shop.get(manifest("multi"))
    shop.hub.shelves[NAME].manifests[long(IMAGE)] = (INDEX, OCI_INDEX)
    answer = shop.get(manifest(long(IMAGE)))
    assert (answer.status, answer.error["code"]) == (502, "UNAVAILABLE")
    assert "of another digest" in answer.error["message"]
    assert shop.cache.store.size(long(IMAGE)) is None


@pytest.mark.parametrize("data", [LAYER, LARGE], ids=["small", "large"])
def test_so_are_a_layers(data: bytes) -> None:
    """Never completed, never kept."""
    shop = Shop()
    shop.hub.shelves[NAME].blobs[long(data)] = data[::-1]
    line = Line(shop.listener).send(request("GET", path(long(data))))
    shop.clock.advance(60.0)
    received = line.received()
    assert line.aborted or b" 502 " in received[:40], received[:100]
    assert len(received) < len(data) or b" 502 " in received[:40]
    assert shop.cache.store.size(long(data)) is None


@pytest.mark.parametrize(
    "reference",
    ["sha256:" + "a" * 128, "sha512:" + "a" * 64, "sha256:" + "A" * 64, "md5:" + "a" * 32, "sha256:" + "../" * 21],
)
def test_what_cannot_be_verified_is_not_asked_for(reference: str) -> None:
    """400 or 404, and no upstream is asked."""
    shop = Shop()
    for where in (f"/v2/app/manifests/{reference}", f"/v2/app/blobs/{reference}", f"/v2/app/referrers/{reference}"):
        assert shop.get(where).status in (400, 404)
    assert shop.calls() == 0
