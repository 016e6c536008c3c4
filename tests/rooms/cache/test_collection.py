"""What goes when the collection runs, and what never does."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from appliance.cache.departure import roots_of
from appliance.cache.references import RepositoryRoots, look_at
from appliance.index.graph import relations_of
from appliance.index.memory import MemoryDocuments
from appliance.index.repository import OPERATOR
from appliance.oci.digest import Digest, number_of
from appliance.oci.mediatypes import OCI_MANIFEST
from tests.doubles.deferreds import result
from tests.doubles.manifests import descriptor, image, index_of
from tests.rooms.cache.collecting import DAY, Depot

BIG = 100_000


def layer(word: str, size: int = BIG) -> bytes:
    return (word.encode() * size)[:size]


# -- the rules ------------------------------------------------------------------------------------------------------


def test_without_a_rule_all_that_is_referred_to_stays() -> None:
    """An image that was pulled years ago, and what was pulled by digest alone."""
    depot = Depot()
    depot.pull("a", "1", layer("a"))
    depot.pull("b", None, layer("b"))
    depot.clock.advance(1000 * DAY)
    assert depot.went() == {}
    assert depot.tags("a") == ["1"]


def test_what_nothing_refers_to_goes() -> None:
    """A blob that was fetched and belongs to no image; the image beside it stays."""
    depot = Depot()
    depot.pull("a", "1", layer("a"))
    depot.put(b"left over")
    found = depot.collect()
    assert [(each.digest, each.why, each.size) for each in found.blobs] == [
        (Digest.of(b"left over"), "unreferenced", 9)
    ]
    depot.check()


def test_an_image_goes_when_it_was_not_pulled_for_long() -> None:
    """Counted from the last pull, by tag or by the digest that the tag means; never from the first."""
    depot = Depot("keep_for: 7d")
    depot.pull("a", "old", layer("a"))
    depot.pull("a", "by-tag", layer("b"))
    by_digest = depot.pull("a", "by-digest", layer("c"))
    depot.clock.advance(6 * DAY)
    depot.use("a", "by-tag")
    depot.use("a", str(by_digest))
    depot.clock.advance(2 * DAY)
    assert depot.went() == {"a:old": "keep_for"}
    assert depot.tags("a") == ["by-digest", "by-tag"]
    depot.clock.advance(6 * DAY)
    assert depot.went() == {"a:by-tag": "keep_for", "a:by-digest": "keep_for"}
    assert depot.store.total() == 0


def test_a_pull_of_a_platform_is_a_pull_of_its_index() -> None:
    """Runtimes ask what a tag means and then pull the manifest of their platform."""
    depot = Depot("keep_for: 7d")
    depot.pull_index("a", "1", (layer("x"),), (layer("y"),))
    depot.clock.advance(6 * DAY)
    depot.use("a", str(Digest.of(image(layer("y")))))
    depot.clock.advance(6 * DAY)
    assert depot.went() == {}
    depot.clock.advance(2 * DAY)
    assert depot.went() == {"a:1": "keep_for"}
    assert depot.store.total() == 0


def test_only_so_many_tags_stay() -> None:
    """Those pulled last; what has no tag is not counted."""
    depot = Depot("keep_last: 2")
    for word in "abcd":
        depot.pull("r", word, layer(word))
    depot.pull("r", None, layer("e"))
    depot.use("r", "a")
    assert depot.went() == {"r:b": "keep_last", "r:c": "keep_last"}
    assert depot.tags("r") == ["a", "d"]


def test_an_image_goes_when_neither_rule_keeps_it() -> None:
    """Each of two rules keeps; an old one stays while it is among the last."""
    depot = Depot("keep_for: 7d, keep_last: 1")
    depot.pull("r", "a", layer("a"))
    depot.pull("r", "b", layer("b"))
    assert depot.went() == {}
    depot.clock.advance(8 * DAY)
    assert depot.went() == {"r:a": "keep_for"}


def test_the_least_recently_pulled_goes_until_the_rest_fits() -> None:
    """And not one more."""
    depot = Depot(f"max_size: {3 * BIG}B")
    for word in "abcde":
        depot.pull("r", word, layer(word))
    depot.use("r", "a")
    assert depot.went() == {"r:b": "max_size", "r:c": "max_size", "r:d": "max_size"}
    assert depot.store.total() <= 3 * BIG
    assert depot.went() == {}


def test_two_tags_of_one_image_go_one_after_the_other() -> None:
    """The first frees nothing."""
    depot = Depot(f"max_size: {BIG}B")
    depot.pull("r", "a", layer("x"))
    depot.pull("r", "b", layer("x"))
    found = depot.collect(dry_run=True)
    assert [(each.name[-1], each.size > 0) for each in found.images] == [("a", False), ("b", True)]


def test_an_upstreams_budget_is_its_own() -> None:
    """Each blob counts once; what another upstream refers to is not counted."""
    depot = Depot(f"|max_size: {2 * BIG + 5000}B")
    depot.pull("quay.io//x", "1", layer("s"), layer("a"))
    depot.pull("quay.io//y", "1", layer("s"))
    depot.pull("quay.io//z", "1", layer("b"))
    depot.pull("h", "1", layer("h"), layer("i"), layer("j"))
    assert depot.went() == {"quay.io/x:1": "max_size"}
    assert depot.store.size(Digest.of(layer("s"))) == BIG


def test_the_disk_gets_its_reserve_back() -> None:
    """The least recently pulled goes, as much as it takes."""
    depot = Depot("reserve: 0B, grace: 0s")
    for word in "abc":
        depot.pull("r", word, layer(word))
    room = depot.store.free() + BIG + 5000
    found = result(depot.collection.run(room=room))
    assert [(each.name, each.why) for each in found.images] == [
        ("docker.io/r:a", "reserve"),
        ("docker.io/r:b", "reserve"),
    ]
    assert depot.store.free() >= room
    depot.check()


# -- what stays -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["keep_for: 1s", "keep_last: 1", "max_size: 1B"])
def test_what_is_pinned_imported_or_named_stays(rule: str) -> None:
    """Whatever the rule."""
    depot = Depot(f"{rule}, keep: ['team/kept:1*', 'quay.io/**']")
    depot.pull("p", "1", layer("p"), pinned=OPERATOR)
    depot.pull("i", "1", layer("i"), pinned="bundle-1")
    depot.pull("i", None, layer("j"), pinned="bundle-1")
    depot.pull("team/kept", "1.2", layer("k"))
    depot.pull("quay.io//any", "x", layer("q"))
    depot.pull("go", "1", layer("g"))
    depot.pull("go", "2", layer("h"))
    depot.clock.advance(DAY)
    depot.use("go", "2")
    why = rule.partition(":")[0]
    assert depot.went() == ({"go:1": why, "go:2": why} if why == "max_size" else {"go:1": why})


def test_a_budget_that_what_must_stay_exceeds_is_reported() -> None:
    """Everything else goes, and the operator is told how much must stay."""
    depot = Depot(f"max_size: {BIG}B")
    depot.pull("p", "1", layer("p"), layer("q"), pinned="bundle")
    depot.pull("go", "1", layer("g"))
    assert depot.went() == {"go:1": "max_size"}
    (note,) = depot.collect().notes
    assert "max_size of 100KB cannot be reached" in note and "are pinned, imported or named by keep" in note


def test_a_shared_layer_stays_as_long_as_one_image_has_it() -> None:
    """In another repository, and of another upstream."""
    depot = Depot("keep_for: 7d")
    depot.pull("a", "1", layer("shared"), layer("a"))
    depot.clock.advance(6 * DAY)
    depot.pull("quay.io//b", "1", layer("shared"))
    depot.clock.advance(2 * DAY)
    assert depot.went() == {"a:1": "keep_for"}
    assert depot.store.size(Digest.of(layer("shared"))) == BIG
    assert depot.store.size(Digest.of(layer("a"))) is None


def test_a_child_of_two_indexes_stays_with_the_other() -> None:
    """An index goes with its children, but for those that another one names."""
    depot = Depot("keep_last: 1")
    depot.pull_index("r", "1", (layer("x"),), (layer("y"),))
    depot.pull_index("r", "2", (layer("y"),), (layer("z"),))
    assert depot.went() == {"r:1": "keep_last"}
    held = depot.repository("r").manifests
    assert [Digest.of(image(layer(word))) in held for word in "xyz"] == [False, True, True]


def test_what_is_about_an_image_goes_and_stays_with_it() -> None:
    """By subject, by the fallback tag and by cosign's tags."""
    depot = Depot("keep_last: 1")
    for tag in ("1", "2"):
        digest = depot.pull("r", tag, layer(tag))
        subject = {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": len(image(layer(tag)))}
        depot.pull("r", None, layer(f"sbom-{tag}"), subject=subject)
        depot.pull("r", f"{digest.file_name}.sig", layer(f"signature-{tag}"))
        listed = image(layer(f"listed-{tag}"))
        depot.put(layer(f"listed-{tag}"), listed)
        depot.hold("r", listed)
        depot.hold("r", index_of(descriptor(OCI_MANIFEST, listed)), digest.file_name)
    depot.use("r", "2")
    assert depot.went() == {"r:1": "keep_last"}
    assert depot.tags("r") == sorted(["2", *(tag for tag in depot.tags("r") if tag.startswith("sha256-"))])
    for word, stays in (("sbom-", True), ("signature-", True), ("listed-", True)):
        assert depot.store.size(Digest.of(layer(f"{word}1"))) is None
        assert (depot.store.size(Digest.of(layer(f"{word}2"))) is not None) is stays


def test_a_blob_that_has_just_come_stays() -> None:
    """As long as grace says, referred to or not; the budget waits for it."""
    depot = Depot("max_size: 1B, grace: 1h, reserve: 0B")
    depot.pull("a", "1", layer("a"))
    depot.put(b"just come")
    assert depot.collect().images == []
    assert depot.store.size(Digest.of(b"just come")) == 9
    depot.clock.advance(3601)
    depot.collect()
    assert depot.store.total() == 0


def test_a_layer_that_is_being_read_stays_until_it_has_been() -> None:
    """Its image goes; the blob goes with the next run."""
    depot = Depot("keep_for: 1s")
    depot.pull("a", "1", layer("a"))
    depot.clock.advance(DAY)
    reader = depot.store.open(Digest.of(layer("a")))
    assert [each.name for each in depot.collect().images] == ["docker.io/a:1"]
    assert depot.store.size(Digest.of(layer("a"))) == BIG
    reader.close()
    assert [each.why for each in depot.collect().blobs] == ["unreferenced"]
    assert depot.store.total() == 0


def test_an_image_that_is_pulled_while_the_plan_is_carried_out_stays() -> None:
    """So does one that is pinned or moved by then."""
    depot = Depot("keep_for: 1s")
    for word in ("pulled", "pinned", "moved", "goes"):
        depot.pull(word, "1", layer(word))
    depot.clock.advance(DAY)
    other = depot.hold("moved", image(layer("moved"), annotations={"a": "b"}))
    steps = iter(range(100))

    def meanwhile() -> None:
        if next(steps) == 1:
            depot.usage.note("docker.io", "pulled", "1")
            depot.repository("pinned").pin("1", OPERATOR)
            depot.repository("moved").tag("1", other, depot.clock.wall())

    depot.collection._catch_up = meanwhile
    found = depot.collect()
    assert [each.name for each in found.images] == ["docker.io/goes:1"]
    depot.check()


# -- trouble --------------------------------------------------------------------------------------------------------


class Unreadable(MemoryDocuments):
    """The disk does not give one document."""

    lost = ""

    def read(self, key: tuple[str, ...]) -> Deferred[tuple[bytes, int] | None]:
        """See L{IDocuments.read}."""
        if self.lost and self.lost in key:
            raise OSError(5, "Input/output error")
        return super().read(key)


def test_nothing_goes_while_a_repository_cannot_be_read() -> None:
    """It may refer to anything; the operator is told, and the next run goes on."""
    documents = Unreadable()
    depot = Depot("keep_for: 1s", documents)
    depot.pull("a", "1", layer("shared"))
    depot.pull("b", "1", layer("shared"), layer("b"))
    depot.put(b"left over")
    depot.clock.advance(DAY)
    depot.begin()
    documents.lost = "b"
    found = depot.collect()
    assert (found.images, found.blobs) == ([], [])
    assert "docker.io/b cannot be read (Input/output error)" in found.notes[0]
    documents.lost = ""
    assert len(depot.collect().images) == 2
    assert depot.store.total() == 0


def test_what_a_lost_manifest_may_name_stays() -> None:
    """Its repository was given these blobs: they are there when the manifest is fetched again."""
    depot = Depot()
    digest = depot.pull("a", "1", layer("a"))
    depot.store.lose(digest)
    depot.begin()
    depot.put(b"left over")
    depot.collect()
    assert depot.store.size(Digest.of(layer("a"))) == BIG
    assert depot.store.size(Digest.of(b"left over")) is None


def test_blobs_stay_when_the_index_cannot_be_saved() -> None:
    """References go first, durably: else a kill would leave an image without its blobs."""

    class Full(MemoryDocuments):
        is_full = False

        def write(self, key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
            if self.is_full:
                raise OSError(28, "No space left on device")
            return super().write(key, data, replaces)

    documents = Full()
    depot = Depot("keep_for: 1s", documents)
    depot.pull("a", "1", layer("a"))
    depot.clock.advance(DAY)
    documents.is_full = True
    for _ in range(2):
        found = depot.collect()
        assert found.blobs == [] and "could not be saved" in found.notes[0]
        assert depot.store.size(Digest.of(layer("a"))) == BIG
        assert depot.tags("a") == ["1"]
    documents.is_full = False
    depot.collect()
    assert depot.store.total() == 0


def test_nothing_goes_while_an_imported_manifest_is_lost() -> None:
    """A bundle brought what it names, and nothing else says what that was: another image may have the same layer."""
    depot = Depot("keep_for: 1s")
    digest = depot.pull("a", "1", layer("shared"), pinned="bundle")
    depot.pull("b", "1", layer("shared"))
    depot.clock.advance(DAY)
    depot.store.lose(digest)
    depot.begin()
    found = depot.collect()
    assert (found.images, found.blobs) == ([], [])
    assert f"docker.io/a@{digest} is missing or damaged" in found.notes[0]
    assert depot.store.size(Digest.of(layer("shared"))) == BIG


def test_what_a_tag_meant_that_goes_during_the_look_is_marked() -> None:
    """And what stands behind it in the list: else it would seem that nothing refers to that."""
    depot = Depot()
    depot.pull("r", "a", layer("a"))
    depot.pull("r", "b", layer("b"))
    repository = depot.repository("r")
    relations = result(Deferred.fromCoroutine(relations_of(repository, depot.graph.manifests)))
    roots = roots_of(repository, relations)
    repository.untag("a")
    found = RepositoryRoots("docker.io", "r")
    list(look_at(found, repository, relations, roots, depot.usage))
    assert {number_of(Digest.of(layer(word))) for word in "ab"} <= set(found.blobs)


@pytest.mark.parametrize("broken", ["names", "walk"])
def test_what_the_disk_does_not_give_is_a_note(broken: str) -> None:
    """Nothing goes, and the command says why."""
    depot = Depot("keep_for: 1s")
    depot.pull("a", "1", layer("a"))
    depot.clock.advance(DAY)
    depot.begin()

    def refuse() -> object:
        raise OSError(5, "Input/output error")

    setattr(depot.repositories if broken == "names" else depot.store, broken, refuse)
    found = depot.collect()
    assert (found.images, found.blobs) == ([], [])
    assert found.notes == ["nothing is removed: what is held cannot be read (Input/output error)"]


def test_blobs_that_the_disk_does_not_let_go_are_a_note() -> None:
    """They are no longer referred to, and go with a later run."""
    depot = Depot("keep_for: 1s")
    depot.pull("a", "1", layer("a"))
    depot.clock.advance(DAY)
    delete = depot.store.delete

    def refuse(*digests: Digest) -> Deferred[None]:
        raise OSError(30, "Read-only file system")

    depot.store.delete = refuse  # type: ignore[method-assign]
    found = depot.collect()
    assert [each.name for each in found.images] == ["docker.io/a:1"] and found.blobs == []
    assert found.notes == ["some blobs could not be removed: Read-only file system"]
    depot.store.delete = delete  # type: ignore[method-assign]
    assert {each.why for each in depot.collect().blobs} == {"unreferenced"}
    assert depot.store.total() == 0


def test_a_pull_of_a_signature_is_a_pull_of_its_image() -> None:
    """Admission controllers verify each deployment; the nodes have the image already."""
    depot = Depot("keep_for: 7d")
    digest = depot.pull("r", "1", layer("a"))
    depot.pull("r", f"{digest.file_name}.sig", layer("signature"))
    subject = {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": len(image(layer("a")))}
    sbom = depot.pull("r", None, layer("sbom"), subject=subject)
    for used in (f"{digest.file_name}.sig", str(sbom)):
        depot.clock.advance(6 * DAY)
        depot.use("r", used)
    assert depot.went() == {}
    depot.clock.advance(8 * DAY)
    assert depot.went() == {"r:1": "keep_for"}
    assert depot.store.total() == 0


def test_a_child_that_has_a_tag_outlives_its_index() -> None:
    """It is an image of its own."""
    depot = Depot("keep_for: 7d")
    depot.pull_index("r", "all", (layer("x"),), (layer("y"),))
    depot.hold("r", image(layer("x")), "amd64")
    depot.use("r", "amd64")
    depot.clock.advance(6 * DAY)
    # By its tag only: by its digest it would be a pull of the index as well.
    depot.use("r", "amd64")
    depot.clock.advance(2 * DAY)
    assert depot.went() == {"r:all": "keep_for"}
    assert depot.tags("r") == ["amd64"] and depot.store.size(Digest.of(layer("y"))) is None


@pytest.mark.parametrize(("ahead", "stays"), [(60, True), (400 * DAY, False)])
def test_a_blob_whose_file_is_of_the_future_is_not_kept_for_ever(ahead: float, stays: bool) -> None:
    """A clock that was set back by a minute: it has just come. One that was years ahead says nothing."""
    depot = Depot("grace: 1h, reserve: 0B")
    depot.put(b"left over")
    depot.store.came[Digest.of(b"left over")] += ahead
    depot.collect()
    assert (depot.store.size(Digest.of(b"left over")) is not None) is stays


def test_a_blob_that_lands_while_the_run_sweeps_stays() -> None:
    """A flight, or an import that needs what is held already: what is in use at any moment of the run is left."""
    depot = Depot()
    depot.put(*(str(number).encode() for number in range(300)))
    delete, needed = depot.store.delete, Digest.of(b"0")
    swept: list[Digest] = []

    def meanwhile(*digests: Digest) -> Deferred[None]:
        swept.extend(digests)
        for number in range(300):
            if (digest := Digest.of(str(number).encode())) not in swept:
                needed_too.append(digest)
                depot.store.leases.take([digest]).close()
                break
        return delete(*digests)

    needed_too: list[Digest] = []
    depot.store.delete = meanwhile  # type: ignore[method-assign]
    with depot.store.leases.take([needed]):
        depot.collect()
    assert needed_too and all(depot.store.size(each) is not None for each in (needed, needed_too[0]))


def test_what_is_learnt_is_kept_until_something_changes() -> None:
    """The second run over an unchanged store reads no manifest."""
    depot = Depot()
    depot.pull("a", "1", layer("a"))
    depot.collect()
    reads: list[object] = []
    read_all = depot.store.read_all
    depot.store.read_all = lambda digests, limit: reads.append(digests) or read_all(digests, limit)  # type: ignore
    depot.collect()
    assert reads == []
    depot.pull("a", "2", layer("b"))
    depot.collect()
    assert reads
