"""A manifest is data: what it says of itself never makes a page of it, nor two things for two readers."""

from __future__ import annotations

import pytest

from appliance.oci.digest import Digest
from appliance.oci.mediatypes import DOCKER_MANIFEST, OCI_MANIFEST
from tests.doubles.deferreds import result
from tests.doubles.manifests import image
from tests.wire.line import IMAGE, Answer, Shop, manifest

HTML = image(b"<script>alert(1)</script>", mediaType="text/html")
BREAKING = image(b"two lines", mediaType="application/x\r\nSet-Cookie: a=b")
TWICE = IMAGE.replace(b'"layers"', b'"layers": [], "layers"', 1)
OTHER_CASE = IMAGE.replace(b'"layers"', b'"Layers"', 1)
IN_A_DESCRIPTOR = IMAGE.replace(b'"digest"', b'"Digest": "sha256:0", "digest"', 1)


def refused(answer: Answer, *words: str) -> None:
    """502, with the upstream's fault in words, and no Content-Type of the manifest's own."""
    assert answer.status == 502, answer.raw[:300]
    assert answer.error["code"] == "UNAVAILABLE"
    assert all(word in answer.error["message"] for word in words), answer.error


@pytest.mark.parametrize(
    "data", [HTML, BREAKING, TWICE, OTHER_CASE, IN_A_DESCRIPTOR], ids=["html", "breaking", "twice", "case", "inside"]
)
@pytest.mark.parametrize("content_type", [OCI_MANIFEST, "application/json", "text/html", None])
def test_what_readers_may_differ_in_is_never_served(data: bytes, content_type: str | None) -> None:
    """By tag or by digest, with whatever Content-Type it came; nothing of it is kept."""
    shop = Shop()
    shop.hub.add_manifest("library/app", data, content_type, "evil")
    for reference in ("evil", Digest.of(data)):
        refused(shop.get(manifest(reference)), "docker.io")
    assert shop.cache.store.size(Digest.of(data)) is None


def test_a_manifest_that_came_as_something_else_is_not_served() -> None:
    """The wire and the document name two types of manifest; names of no type, as servers give them, do no harm."""
    shop = Shop()
    shop.hub.add_manifest("library/app", IMAGE, DOCKER_MANIFEST, "other")
    refused(shop.get(manifest("other")), DOCKER_MANIFEST, OCI_MANIFEST)
    for harmless in ("application/json", "text/plain; charset=utf-8", "application/octet-stream", "text/html"):
        shop = Shop()
        shop.hub.add_manifest("library/app", IMAGE, harmless, "good")
        answer = shop.get(manifest("good"))
        assert (answer.status, answer["Content-Type"]) == (200, OCI_MANIFEST)


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(
    ("data", "media_type"), [(HTML, "text/html"), (TWICE, OCI_MANIFEST), (IMAGE, "text/html"), (IMAGE, "image/png")]
)
def test_what_an_older_version_kept_is_not_served_either(data: bytes, media_type: str, offline: bool) -> None:
    """A store may hold it: the answer says so instead, online and offline, time and again."""
    shop = Shop(offline=offline)
    digest = Digest.of(data)
    repository = result(shop.cache.repositories.get("docker.io", "library/app"))
    result(shop.cache.store.put(digest, data))
    repository.hold(digest, media_type, len(data))
    repository.tag("evil", digest, shop.clock.seconds())
    for _ in range(2):
        for reference in ("evil", digest):
            refused(shop.get(manifest(reference)), "is held, and not served")
