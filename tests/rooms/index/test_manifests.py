"""Held manifests: read several at a time, parsed once, and those that cannot be read left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from appliance.errors import BlobDamaged, ManifestInvalid, NotHeld, PullcacheError
from appliance.flow.disk import InlineThreads
from appliance.index import manifests as module
from appliance.index.manifests import AT_ONCE, LARGE, HeldManifests
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest
from appliance.oci.mediatypes import DOCKER_MANIFEST, OCI_MANIFEST
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import result
from tests.doubles.manifests import image


class CountedThreads(InlineThreads):
    """Remembers what was called on a thread."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        self.called.append(function.__name__)
        return super().call(function, *args)


class Shelf:
    """A store with a repository, and how often the store was read."""

    def __init__(self) -> None:
        self.store = MemoryBlobStore()
        self.threads = CountedThreads()
        self.repository = Repository("docker.io", "app")
        self.manifests = HeldManifests(self.store, self.threads)
        self.reads: list[Digest] = []
        read, read_all = self.store.read, self.store.read_all
        self.store.read = lambda digest, limit: self.reads.append(digest) or read(digest, limit)  # type: ignore
        self.store.read_all = lambda all, limit: self.reads.extend(all) or read_all(all, limit)  # type: ignore

    def hold(self, data: bytes, media_type: str = OCI_MANIFEST) -> Digest:
        digest = Digest.of(data)
        result(self.store.put(digest, data))
        self.repository.hold(digest, media_type, len(data))
        return digest

    def held(self, *digests: Digest) -> tuple[dict[Digest, Manifest], dict[Digest, PullcacheError]]:
        """What is read of the repository, and why the rest is not."""
        unreadable: dict[Digest, PullcacheError] = {}

        async def collected() -> dict[Digest, Manifest]:
            chosen = digests or None
            return {
                digest: manifest
                async for digest, manifest in self.manifests.held(
                    self.repository, chosen, lambda digest, error: unreadable.update({digest: error})
                )
            }

        return result(collected()), unreadable


def test_all_that_a_repository_holds_is_read_sorted_and_parsed_once() -> None:
    """However many turns of a thread that takes; the second time nothing is read."""
    shelf = Shelf()
    held = sorted(shelf.hold(image(str(number).encode())) for number in range(2 * AT_ONCE + 1))
    found, unreadable = shelf.held()
    assert list(found) == held and unreadable == {} and sorted(shelf.reads) == held
    assert shelf.held() == (found, {})
    assert len(shelf.reads) == len(held)
    assert list(shelf.held(held[3], held[1], Digest.of(b"another"))[0]) == [held[1], held[3]]


def test_what_cannot_be_read_is_left_out_with_its_reason() -> None:
    """Lost, damaged, too large, no manifest, or something else than it is held as: the others are read."""
    shelf = Shelf()
    good = shelf.hold(image(b"good"))
    lost, damaged = shelf.hold(image(b"lost")), shelf.hold(image(b"damaged"))
    large, text = shelf.hold(b" " * (MAX_MANIFEST_BYTES + 1)), shelf.hold(b"no manifest")
    other = shelf.hold(image(b"other"), DOCKER_MANIFEST)
    del shelf.store._blobs[lost]
    shelf.store._blobs[damaged] = image(b"another")
    found, unreadable = shelf.held()
    assert list(found) == [good]
    assert {digest: type(error) for digest, error in unreadable.items()} == {
        lost: NotHeld,
        damaged: BlobDamaged,
        large: BlobDamaged,
        text: ManifestInvalid,
        other: ManifestInvalid,
    }
    for digest in (lost, damaged, large, text):
        assert result(shelf.manifests.manifest(digest, OCI_MANIFEST)) is None
    assert [result(shelf.manifests.document(digest)) for digest in (lost, damaged, large)] == [None] * 3


def test_a_child_is_read_as_what_its_document_says() -> None:
    """The media type of what names it counts only where the document has none."""
    shelf = Shelf()
    silent, outspoken = shelf.hold(image(b"silent", mediaType=None)), shelf.hold(image(b"x"))
    for digest, media_type in ((silent, DOCKER_MANIFEST), (outspoken, OCI_MANIFEST)):
        manifest = result(shelf.manifests.manifest(digest, DOCKER_MANIFEST))
        assert manifest is not None and manifest.media_type == media_type


def test_a_large_manifest_is_parsed_off_the_reactor() -> None:
    """That takes up to a tenth of a second, in which no client would be served; a small one is parsed at once."""
    shelf = Shelf()
    small, large = shelf.hold(image(b"small")), shelf.hold(image(b"large", annotations={"text": "x" * LARGE}))
    for _ in range(2):
        assert set(shelf.held()[0]) == {small, large}
    assert shelf.threads.called == ["parse_manifest"]
    assert result(HeldManifests(shelf.store, shelf.threads).manifest(large, OCI_MANIFEST)) is not None
    assert shelf.threads.called == ["parse_manifest"] * 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the descriptors in it, the least recently used first; without room nothing is."""
    shelf = Shelf()
    one, two = shelf.hold(image(b"one")), shelf.hold(image(b"two"))
    for room, reads in ((0, [one, two, one, two]), (3, [one, two, one, two]), (6, [one, two])):
        shelf.manifests = HeldManifests(shelf.store, shelf.threads, room)
        shelf.reads.clear()
        for digest in (one, two, one, two):
            assert result(shelf.manifests.manifest(digest, OCI_MANIFEST)) is not None
        assert shelf.reads == reads
    monkeypatch.setattr(module, "AT_ONCE", 1)
    assert set(shelf.held()[0]) == {one, two}
