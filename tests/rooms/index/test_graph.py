"""What a repository's manifests name and refer to, learnt from what is held."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from appliance.flow.disk import InlineThreads
from appliance.index import graph as module
from appliance.index.graph import SMALL, ManifestGraph, Named, Relations, tagged_about
from appliance.index.repository import ManifestRecord, Repository
from appliance.oci.digest import Digest
from appliance.oci.manifest import parse_manifest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.oci.referrer import parse_descriptor
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import begin, result
from tests.doubles.manifests import descriptor, image, index_of

SUBJECT = Digest.of(b"subject")
REFERS = {"mediaType": OCI_MANIFEST, "digest": str(SUBJECT), "size": 7}


class CountingStore(MemoryBlobStore):
    """Counts reads, and lets them wait while there are gates."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Digest] = []
        self.gates: list[Deferred[None]] | None = None

    def lose(self, digest: Digest) -> None:
        """As if the file had been removed by hand."""
        del self._blobs[digest]

    def read(self, digest: Digest, limit: int) -> Deferred[bytes]:
        """See L{IBlobStore.read}."""
        self.reads.append(digest)
        if self.gates is None:
            return super().read(digest, limit)
        gate: Deferred[None] = Deferred()
        self.gates.append(gate)
        return gate.addCallback(lambda _: super(CountingStore, self).read(digest, limit))

    def read_all(self, digests: Sequence[Digest], limit: int) -> Deferred[dict[Digest, bytes]]:
        """See L{IBlobStore.read_all}."""
        self.reads += digests
        if self.gates is None:
            return super().read_all(digests, limit)
        gate: Deferred[None] = Deferred()
        self.gates.append(gate)
        return gate.addCallback(lambda _: super(CountingStore, self).read_all(digests, limit))


class Shelf:
    """A repository, its store, and what is learnt from them."""

    def __init__(self) -> None:
        self.store = CountingStore()
        self.repository = Repository("docker.io", "app")
        self.graph = ManifestGraph(self.store, InlineThreads())

    def hold(self, data: bytes, *tags: str, media_type: str = OCI_MANIFEST, there: bool = True) -> Digest:
        """As an import does it, without adding it to the graph."""
        digest = Digest.of(data)
        if there:
            result(self.store.put(digest, data))
        self.repository.hold(digest, media_type, len(data))
        for tag in tags:
            self.repository.tag(tag, digest, 1.0)
        return digest

    def listed(self, subject: Digest = SUBJECT) -> list[Digest]:
        return [each.digest for each in result(self.graph.referrers(self.repository, subject))]


def signature(text: str, **more: Any) -> bytes:
    return image(text.encode(), subject=REFERS, artifactType="application/x.signature", **more)


def test_what_a_held_manifest_names_may_be_served_under_its_repository() -> None:
    """With the size it says; other things in the shared store may not."""
    shelf = Shelf()
    shelf.hold(image(b"layer"))
    assert result(shelf.graph.named(shelf.repository, Digest.of(b"layer"))) == Named(5, linked=True)
    assert result(shelf.graph.named(shelf.repository, Digest.of(b"other"))) is None
    shelf.hold(image(b"other"))
    assert result(shelf.graph.named(shelf.repository, Digest.of(b"other"))) == Named(5, linked=True)


def test_held_manifests_are_listed_by_what_they_refer_to() -> None:
    """In one order whatever they came in; described as their registry would; the subject itself need not be held."""
    one, two = signature("one"), signature("two", annotations={"a": "b"})
    orders = []
    for order in ((one, two), (two, one)):
        shelf = Shelf()
        for each in (image(b"plain"), *order):
            shelf.hold(each)
        orders.append(shelf.listed())
        assert shelf.listed(Digest.of(b"another")) == []
    assert orders[0] == orders[1] == sorted(map(Digest.of, (one, two)))
    described = {each.digest: json.loads(each.raw) for each in result(shelf.graph.referrers(shelf.repository, SUBJECT))}
    assert described[Digest.of(two)] == descriptor(
        OCI_MANIFEST, two, artifactType="application/x.signature", annotations={"a": "b"}
    )


def test_what_comes_later_is_listed_at_once() -> None:
    """Fetched, and added to the graph, or imported, which it finds; what is known is not read again."""
    shelf = Shelf()
    first = shelf.hold(signature("first"))
    assert shelf.listed() == [first]
    fetched, imported = signature("fetched"), signature("imported")
    shelf.graph.add(shelf.repository, shelf.hold(fetched), parse_manifest(fetched, None), len(fetched))
    assert set(shelf.listed()) == {first, Digest.of(fetched)}
    shelf.hold(imported)
    assert set(shelf.listed()) == {first, Digest.of(fetched), Digest.of(imported)}
    assert shelf.store.reads == [first, Digest.of(imported)]


def test_what_is_noted_and_not_there_is_not_listed_until_it_comes() -> None:
    """Its file may be lost, or come with a bundle; what is dropped from the repository is listed no more."""
    shelf = Shelf()
    data = signature("late")
    digest = shelf.hold(data, there=False)
    assert shelf.listed() == [] and shelf.store.reads == []
    result(shelf.store.put(digest, data))
    assert shelf.listed() == [digest]
    shelf.store.lose(digest)
    assert shelf.listed() == []
    result(shelf.store.put(digest, data))
    assert shelf.listed() == [digest]
    shelf.repository.drop(digest)
    assert shelf.listed() == []


def test_what_only_a_forgotten_manifest_named_is_not_the_repositorys() -> None:
    """It may be another one's; what others name too stays known, and nothing is read for that."""
    shelf = Shelf()
    common, alone = Digest.of(b"layer"), Digest.of(b"alone!")
    first = shelf.hold(image(b"layer"))
    second = shelf.hold(image(b"layer", b"alone!"))
    assert result(shelf.graph.named(shelf.repository, alone)) == Named(6, linked=True)
    shelf.store.reads.clear()
    shelf.repository.drop(second)
    shelf.graph.forget(shelf.repository, [second])
    assert result(shelf.graph.named(shelf.repository, alone)) is None
    assert result(shelf.graph.named(shelf.repository, common)) == Named(5, linked=True)
    shelf.repository.drop(first)
    shelf.graph.forget(shelf.repository, [first])
    assert result(shelf.graph.named(shelf.repository, common)) is None
    assert shelf.store.reads == []


def test_a_layer_stays_the_repositorys_when_the_bundles_image_that_brought_it_goes() -> None:
    """An image that was pulled and has it too is served whole without its upstream; what none names is not linked."""
    shelf = Shelf()
    brought = shelf.hold(image(b"common", b"alone"))
    pulled = image(b"common")
    shelf.hold(pulled)
    shelf.repository._manifests[Digest.of(pulled)] = ManifestRecord(OCI_MANIFEST, len(pulled), confirm=True)
    common, alone = Digest.of(b"common"), Digest.of(b"alone")
    assert result(shelf.graph.named(shelf.repository, common, thorough=True)) == Named(6, linked=True)
    shelf.repository.drop(brought)
    shelf.graph.forget(shelf.repository, [brought])
    assert result(shelf.graph.named(shelf.repository, common)) == Named(6, linked=True)
    assert common in shelf.repository.blobs and alone not in shelf.repository.blobs


def test_what_cannot_be_read_hides_nothing_else() -> None:
    """No manifest, and one that is too large: they are named in the log once."""
    shelf = Shelf()
    shelf.hold(b"no manifest")
    shelf.hold(b" " * (5 * 1024 * 1024))
    good = shelf.hold(signature("good"))
    assert shelf.listed() == [good]
    assert set(shelf.store.reads) == set(shelf.repository.manifests)
    shelf.store.reads.clear()
    assert shelf.listed() == [good] and shelf.store.reads == []


def test_a_fallback_tag_that_is_held_counts_as_it_is_written() -> None:
    """Its descriptors come first, bit for bit; a digest that is held as well is listed once."""
    shelf = Shelf()
    data = signature("both")
    both = descriptor(OCI_MANIFEST, data, artifactType="application/theirs", unknown=[1])
    other = descriptor(OCI_MANIFEST, b"not held")
    shelf.hold(index_of(other, both), f"sha256-{SUBJECT.encoded}", media_type=OCI_INDEX)
    shelf.hold(data)
    more = shelf.hold(signature("more"))
    found = result(shelf.graph.referrers(shelf.repository, SUBJECT))
    assert [each.digest for each in found] == [Digest.of(b"not held"), Digest.of(data), more]
    assert found[1].raw == json.dumps(both).encode()


@pytest.mark.parametrize("data", [image(b"x"), b"<html>", b""])
def test_a_fallback_tag_that_is_no_index_lists_nothing(data: bytes) -> None:
    """As for every client (distribution-spec)."""
    shelf = Shelf()
    shelf.hold(data, f"sha256-{SUBJECT.encoded}")
    good = shelf.hold(signature("good"))
    assert shelf.listed() == [good]


def test_the_fallback_tag_of_a_long_digest_is_cut() -> None:
    """At most 64 characters of it, as the specification has it."""
    shelf = Shelf()
    long = Digest.of(b"subject", "sha512")
    other = descriptor(OCI_MANIFEST, b"x")
    shelf.hold(index_of(other), f"sha512-{long.encoded[:64]}", media_type=OCI_INDEX)
    assert shelf.listed(long) == [Digest.of(b"x")]


def test_the_tags_of_cosign_are_named_when_they_are_held() -> None:
    """Whatever is behind them."""
    shelf = Shelf()
    stem = f"sha256-{SUBJECT.encoded}"
    shelf.hold(image(b"signature"), f"{stem}.sig")
    shelf.hold(image(b"sbom"), f"{stem}.sbom", "latest")
    assert [tag for tag, _ in tagged_about(shelf.repository, SUBJECT)] == [f"{stem}.sbom", f"{stem}.sig"]
    assert list(tagged_about(shelf.repository, Digest.of(b"another"))) == []
    assert shelf.listed() == []


def test_a_hundred_who_ask_are_one_pass() -> None:
    """A client that leaves stops nothing; what is added meanwhile is looked at before any of them has its answer."""
    shelf = Shelf()
    shelf.store.gates = []
    held = [shelf.hold(signature(str(number))) for number in range(3)]
    asked = [begin(shelf.graph.referrers(shelf.repository, SUBJECT)) for _ in range(100)]
    asked[0].addErrback(lambda _: None)
    asked[0].cancel()
    assert len(shelf.store.gates) == 1
    held.append(shelf.hold(signature("late")))
    late = begin(shelf.graph.named(shelf.repository, Digest.of(b"late")))
    for number in range(2):
        assert not asked[1].called and not late.called and len(shelf.store.gates) == number + 1
        shelf.store.gates[number].callback(None)
    for each in asked[1:]:
        assert [referrer.digest for referrer in result(each)] == sorted(held)
    assert result(late) == Named(4, linked=True) and shelf.store.reads == [*sorted(held[:3]), held[3]]


def test_a_pass_that_failed_is_tried_again() -> None:
    """All who wait get the error; a disk that cannot be read is no empty list."""
    shelf = Shelf()
    shelf.store.gates = []
    held = shelf.hold(signature("one"))
    asked = [begin(shelf.graph.referrers(shelf.repository, SUBJECT)) for _ in range(2)]
    shelf.store.gates[0].errback(OSError(5, "Input/output error"))
    for each in asked:
        with pytest.raises(OSError):
            result(each)
    shelf.store.gates = None
    assert shelf.listed() == [held]


def test_long_annotations_are_not_kept_in_memory() -> None:
    """They are read when they are asked for, and complete."""
    shelf = Shelf()
    digest = shelf.hold(signature("long", annotations={"text": "x" * SMALL}))
    for times in (2, 3):
        (found,) = result(shelf.graph.referrers(shelf.repository, SUBJECT))
        assert parse_descriptor(found.raw) == found and len(found.raw) > SMALL
        assert shelf.store.reads == [digest] * times


def test_what_is_learnt_is_bounded_in_bytes() -> None:
    """What has no room is looked at again; nothing is kept of a repository that holds nothing."""
    shelf = Shelf()
    digest = shelf.hold(image(*(str(number).encode() for number in range(20))))
    room = Relations()
    room.add(digest, parse_manifest(result(shelf.store.read(digest, 10_000)), None), shelf.repository.manifests[digest])
    shelf.graph = ManifestGraph(shelf.store, InlineThreads(), 2 * room.weight)
    layer = Digest.of(b"7")
    others = [Repository("docker.io", f"other-{number}") for number in range(2)]
    for other in others:
        other.hold(digest, OCI_MANIFEST, 7)
    shelf.store.reads.clear()
    for repository in (shelf.repository, others[0], shelf.repository, others[0], others[1], others[0]):
        assert result(shelf.graph.named(repository, layer)) == Named(1, linked=True)
    assert len(shelf.store.reads) == 3
    for number in range(100):
        assert result(shelf.graph.named(Repository("docker.io", f"made-up-{number}"), layer)) is None
    assert result(shelf.graph.named(others[0], layer)) == Named(1, linked=True)
    assert len(shelf.store.reads) == 3
    assert result(shelf.graph.named(shelf.repository, layer)) == Named(1, linked=True)
    assert len(shelf.store.reads) == 4


def test_no_more_are_looked_at_than_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than that, so that who lists them can say that there are more."""
    shelf = Shelf()
    for number in range(9):
        shelf.hold(signature(f"long {number}", annotations={"text": "x" * SMALL}))
    monkeypatch.setattr(module, "MAX_REFERRERS", 3)
    assert len(shelf.listed()) == 4
    monkeypatch.setattr(module, "MAX_REFERRERS_BYTES", SMALL)
    assert len(shelf.listed()) == 1
