"""Publishing: at once, all or nothing, and finished after whatever ended it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance.bundle.archivecontents import NamedManifest
from appliance.bundle.publication import HeldManifest, Publication, Published
from appliance.bundle.receipt import Change, Receipt, Receipts
from appliance.errors import BundleConflict
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import Repositories
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.oci.timestamps import timestamp
from tests.doubles.deferreds import result

BUNDLE = "sha256:" + "ab" * 32
OLD, NEW, CHILD, SBOM = (Digest.of(name) for name in (b"old", b"new", b"child", b"sbom"))
NOW = 1_800_000_000.0


def root(digest: Digest, tag: str | None, place: str = "docker.io/library/nginx") -> Published:
    upstream, _, repository = place.partition("/")
    manifests = (HeldManifest(str(digest), OCI_INDEX, 10), HeldManifest(str(CHILD), OCI_MANIFEST, 20))
    return Published(NamedManifest(upstream, repository, tag, digest, 10, OCI_INDEX), manifests)


CONTENT = [root(NEW, "1"), root(NEW, "2"), root(SBOM, None), root(NEW, "1", "ghcr.io/a/b")]


class Documents(MemoryDocuments):
    """Documents whose writes wait until the test lets them happen."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Deferred[int], tuple[str, ...], bytes, int]] | None = None
        self.broken: set[str] = set()

    def write(self, key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        if key[-1] in self.broken:
            raise OSError(28, "No space left on device")
        if self.held is None:
            return super().write(key, data, replaces)
        waiting: Deferred[int] = Deferred()
        self.held.append((waiting, key, data, replaces))
        return waiting

    def let(self) -> tuple[str, ...]:
        assert self.held
        waiting, key, data, replaces = self.held.pop(0)
        super().write(key, data, replaces).chainDeferred(waiting)
        return key


class Appliance:
    """Repositories and what is published into them, over documents that outlive it."""

    def __init__(self, index: Documents | None = None, state: Documents | None = None) -> None:
        self.index = index or Documents()
        self.state = state or Documents()
        self.repositories = Repositories(self.index)
        self.receipts = Receipts(self.state)
        self.told: list[Change] = []
        self.publication = Publication(
            self.repositories, self.state, self.receipts, lambda bundle, now, changes: self.told.extend(changes)
        )

    def restarted(self) -> Appliance:
        self.index.held = self.state.held = None
        self.index.broken = self.state.broken = set()
        return Appliance(self.index, self.state)

    def publish(self, content: list[Published] = CONTENT, on_existing_tag: Any = "move") -> Any:
        receipt = Receipt(bundle=BUNDLE, format="pullcache bundle", files=[], finished=timestamp(NOW))
        return self.publication.publish(BUNDLE, content, on_existing_tag, NOW, receipt)

    def tags(self) -> dict[str, Digest]:
        found: dict[str, Digest] = {}
        for upstream, name in (("docker.io", "library/nginx"), ("ghcr.io", "a/b")):
            repository = result(self._repository(upstream, name))
            found |= {f"{name}:{tag}": record.digest for tag, record in repository.tags.items()}
        return found

    async def _repository(self, upstream: str, name: str) -> Any:
        return await self.repositories.get(upstream, name)

    def hold(self, tag: str, digest: Digest) -> Any:
        repository = result(self._repository("docker.io", "library/nginx"))
        repository.hold(digest, OCI_INDEX, 10)
        repository.tag(tag, digest, NOW - 1000)
        self.repositories.save(repository)
        return repository


ALL = {"library/nginx:1": NEW, "library/nginx:2": NEW, "a/b:1": NEW}


def test_references_are_published_with_everything_beneath_them() -> None:
    """Manifests by digest too, pinned, and the observer is called."""
    appliance = Appliance()
    receipt = result(appliance.publish())
    assert appliance.tags() == ALL
    repository = appliance.hold("other", OLD)
    assert set(repository.manifests) == {NEW, CHILD, SBOM, OLD}
    assert repository.tags["1"].pinned == BUNDLE and repository.pinned == {SBOM: BUNDLE}
    assert appliance.told == receipt.refs
    assert appliance.restarted().tags() == ALL | {"library/nginx:other": OLD}


def test_no_reader_sees_some_of_it() -> None:
    """Until it is decided no client sees any of it, and then all of it, however slow the disk."""
    appliance = Appliance()
    appliance.tags()
    appliance.index.held, appliance.state.held = [], []
    done: list[Any] = []
    Deferred.fromCoroutine(appliance.publish()).addBoth(done.append)
    assert appliance.tags() == {}
    assert appliance.state.let() == ("publication", "journal.json")
    assert appliance.tags() == ALL
    assert not done
    while appliance.index.held or appliance.state.held:
        (appliance.index if appliance.index.held else appliance.state).let()
    assert done[0].refs


@pytest.mark.parametrize("steps", range(6))
def test_what_was_decided_is_finished_after_a_restart(steps: int) -> None:
    """Cut after each write: nothing before the journal was written, everything after it."""
    appliance = Appliance()
    appliance.tags()
    appliance.index.held, appliance.state.held = [], []
    Deferred.fromCoroutine(appliance.publish())
    for _ in range(steps):
        if appliance.index.held or appliance.state.held:
            (appliance.index if appliance.index.held else appliance.state).let()
    after = appliance.restarted()
    result(after.publication.recover())
    assert after.tags() == ({} if steps == 0 else ALL)
    assert len(result(after.receipts.all())) == (0 if steps == 0 else 1)
    assert result(after.restarted().publication.recover()) == 0


def test_a_disk_that_is_full_before_it_is_decided_publishes_nothing(logged_errors: list[dict[str, Any]]) -> None:
    """Neither now nor after a restart."""
    appliance = Appliance()
    appliance.state.broken = {"journal.json"}
    with pytest.raises(OSError):
        result(appliance.publish())
    assert appliance.tags() == {}
    after = appliance.restarted()
    assert result(after.publication.recover()) == 0
    assert after.tags() == {}
    result(after.publish())
    assert after.tags() == ALL
    logged_errors.clear()


def test_a_disk_that_is_full_after_it_was_decided_is_noted_and_made_up_for(logged_errors: list[dict[str, Any]]) -> None:
    """It is served, the receipt says that it is not saved, and the next import or start saves it."""
    appliance = Appliance()
    appliance.index.broken = {"index.json"}
    receipt = result(appliance.publish())
    assert "saving it is not complete" in receipt.notes[-1]
    assert appliance.tags() == ALL
    appliance.index.broken = set()
    result(appliance.publish([root(OLD, "3")]))
    assert appliance.restarted().tags() == ALL | {"library/nginx:3": OLD}
    logged_errors.clear()


def test_what_changed_after_the_decision_is_not_taken_back() -> None:
    """A tag that an upstream has moved meanwhile stays where it is when an old journal is finished."""
    appliance = Appliance()
    appliance.hold("1", OLD)
    appliance.index.held, appliance.state.held = [], []
    Deferred.fromCoroutine(appliance.publish())
    appliance.state.let()
    after = appliance.restarted()
    moved = Digest.of(b"moved meanwhile")
    repository = after.hold("1", moved)
    result(after.publication.recover())
    assert after.tags() == ALL | {"library/nginx:1": moved}
    assert repository.pinned[NEW] == BUNDLE


def test_conflicts_are_named_and_refuse_everything() -> None:
    """With what the tag means and what it would."""
    appliance = Appliance()
    appliance.hold("1", OLD)
    with pytest.raises(
        BundleConflict, match=f"1 tags mean something else here: docker.io/library/nginx:1 is {OLD}, not"
    ):
        result(appliance.publish(on_existing_tag="refuse"))
    assert appliance.tags() == {"library/nginx:1": OLD}
    assert result(appliance.receipts.all()) == []


def test_a_conflict_that_arose_since_the_preview_is_found() -> None:
    """Hours may lie between the two."""
    appliance = Appliance()
    roots = [published.root for published in CONTENT]
    assert {change.outcome for change in result(appliance.publication.preview(roots, "refuse"))} == {"new"}
    appliance.hold("2", OLD)
    with pytest.raises(BundleConflict):
        result(appliance.publish(on_existing_tag="refuse"))
    assert appliance.tags() == {"library/nginx:2": OLD}


@pytest.mark.parametrize("on_existing_tag", ["move", "keep"])
def test_a_locked_tag_is_left_as_it_is(on_existing_tag: str) -> None:
    """Whatever the import wants; the receipt says so, and what came is held by its digest."""
    appliance = Appliance()
    repository = appliance.hold("1", OLD)
    repository.lock("1")
    receipt = result(appliance.publish(on_existing_tag=on_existing_tag))
    assert [(each.outcome, each.locked) for each in receipt.refs if each.name == "docker.io/library/nginx:1"] == [
        ("kept", True)
    ]
    assert any("docker.io/library/nginx:1" in note and "locked here" in note for note in receipt.notes)
    assert appliance.tags() == ALL | {"library/nginx:1": OLD} and repository.pinned[NEW] == BUNDLE
    [dry] = result(appliance.publication.preview([CONTENT[0].root], on_existing_tag))
    assert (dry.outcome, dry.locked) == ("kept", True)


def test_a_locked_tag_that_means_the_same_is_no_conflict() -> None:
    """It is unchanged; one that means something else is a conflict where those are to be refused."""
    appliance = Appliance()
    appliance.hold("1", NEW).lock("1")
    receipt = result(appliance.publish())
    assert (receipt.refs[0].outcome, receipt.refs[0].locked, receipt.notes) == ("unchanged", False, [])
    appliance.hold("2", NEW).lock("2")
    with pytest.raises(BundleConflict):
        result(appliance.publish([root(OLD, "2")], on_existing_tag="refuse"))


def test_a_tag_that_is_locked_while_an_import_is_published_stays() -> None:
    """The journal was decided before; the tag is not told as moved."""
    appliance = Appliance()
    repository = appliance.hold("1", OLD)
    appliance.state.held = []
    Deferred.fromCoroutine(appliance.publish())
    repository.lock("1")
    while appliance.state.held:
        appliance.state.let()
    assert appliance.tags()["library/nginx:1"] == OLD and repository.pinned[NEW] == BUNDLE
    assert "docker.io/library/nginx:1" not in {change.name for change in appliance.told}


def test_a_tag_that_moved_before_a_kill_is_not_told_again() -> None:
    """What was carried out then is carried out again, and changes nothing."""
    appliance = Appliance()
    appliance.hold("1", OLD)
    appliance.index.held, appliance.state.held = [], []
    Deferred.fromCoroutine(appliance.publish())
    appliance.state.let()
    assert [change.outcome for change in appliance.told if change.tag == "1"] == ["moved", "new"]
    appliance.index.let()
    after = appliance.restarted()
    result(after.publication.recover())
    assert after.tags() == ALL
    assert "moved" not in {change.outcome for change in after.told}


def test_cancelling_a_publication_that_is_decided_does_not_undo_half_of_it() -> None:
    """The caller that waits is let go; the rest goes on."""
    appliance = Appliance()
    appliance.tags()
    appliance.index.held, appliance.state.held = [], []
    done: list[Any] = []
    task = Deferred.fromCoroutine(appliance.publish())
    task.addBoth(done.append)
    appliance.state.let()
    task.cancel()
    done[0].trap(CancelledError)
    while appliance.index.held or appliance.state.held:
        (appliance.index if appliance.index.held else appliance.state).let()
    assert appliance.restarted().tags() == ALL
    assert len(result(appliance.receipts.all())) == 1


def test_two_imports_publish_one_after_the_other() -> None:
    """Each journal belongs to one."""
    appliance = Appliance()
    appliance.tags()
    appliance.index.held, appliance.state.held = [], []
    done: list[Any] = []
    Deferred.fromCoroutine(appliance.publish([root(OLD, "1")])).addBoth(done.append)
    Deferred.fromCoroutine(appliance.publish([root(NEW, "1")])).addBoth(done.append)
    while appliance.index.held or appliance.state.held:
        (appliance.index if appliance.index.held else appliance.state).let()
    assert [receipt.refs[0].outcome for receipt in done] == ["new", "moved"]
    assert appliance.restarted().tags() == {"library/nginx:1": NEW}


@pytest.mark.parametrize(
    "data",
    [
        b'{"bundle":',
        b'{"bundle":"\xff"}',
        b"[" * 100_000,
        b'{"portions":[{"upstream":"a","repository":"b","manifests":[],"tags":[],"pinned":["no digest"]}]}',
        b'{"bundle":"","now":0.0,"portions":[{"upstream":"a","repository":"b","manifests":[],"tags":[],'
        b'"pinned":["no digest"]}],"receipt":null}',
        b'{"bundle":"b","now":0.0,"portions":[],"recei t":{}}',
        b"{}",
    ],
)
def test_a_journal_that_cannot_be_read_is_set_aside(data: bytes, logged_errors: list[dict[str, Any]]) -> None:
    """The appliance starts, and the log says to import again."""
    appliance = Appliance()
    appliance.state.write(("publication", "journal.json"), data, 0)
    assert result(appliance.publication.recover()) == 0
    result(appliance.publish())
    assert appliance.tags() == ALL
    assert "import the bundle again" in str(logged_errors[0]["log_format"])
    assert [document for document, _ in appliance.state.damaged] == ["publication/journal.json"]
    logged_errors.clear()
