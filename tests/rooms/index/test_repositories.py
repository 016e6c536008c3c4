"""All repositories: one load for all who ask, one write for all who wait, and nothing lost when a disk misbehaves."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from appliance.errors import DocumentDamaged, VersionConflict
from appliance.flow.disk import InlineThreads, make_folder
from appliance.index.documents import FilesystemDocuments, previous
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import SAVE_DELAY, Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IDocuments
from appliance.oci.digest import Digest
from tests.rooms.index.slow import KEY, WHERE, RepositoriesCase, SlowDocuments, hold


class TestLoading(RepositoriesCase):
    def test_all_who_ask_share_one_load_and_one_object(self) -> None:
        """Fifty clients on a cold repository read its document once, and see each other's changes."""
        documents = SlowDocuments()
        repositories = Repositories(documents)
        asked = [repositories.get(*WHERE) for _ in range(5)]
        asked[1].addErrback(lambda _: None)
        asked[1].cancel()
        self.assertEqual(len(documents.reads), 1)
        documents.reads[0].callback(None)
        got = [self.successResultOf(each) for each in asked[:1] + asked[2:]]
        got.append(self.successResultOf(repositories.get(*WHERE)))
        self.assertEqual(len(documents.reads), 1)
        self.assertEqual({id(each) for each in got}, {id(got[0])})

    def test_nothing_is_read_before_it_is_asked_for(self) -> None:
        """A start costs the same with ten repositories and a hundred thousand."""
        documents = SlowDocuments()
        Repositories(documents)
        self.assertEqual(documents.reads, [])

    def test_a_load_that_failed_fails_for_all_and_is_tried_again(self) -> None:
        """A disk error is no empty repository."""
        documents = SlowDocuments()
        repositories = Repositories(documents)
        asked = [repositories.get(*WHERE) for _ in range(2)]
        documents.reads[0].errback(OSError(5, "Input/output error"))
        for each in asked:
            self.failureResultOf(each, OSError)
        documents.slow = False
        self.assertEqual(self.successResultOf(repositories.get(*WHERE)).tags, {})

    def test_a_repository_that_holds_nothing_any_more_leaves_no_document(self) -> None:
        """Nor a place in the list; it can be held again, by who has it and by who asks for it."""
        root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, root)
        for documents in (MemoryDocuments(), FilesystemDocuments(root, InlineThreads())):
            repositories, repository = self.over(documents)
            for tag in "12":
                hold(repository, tag)
                self.successResultOf(repositories.save(repository))
            self.assertEqual(list(self.awaited(repositories.names())), [WHERE])
            digests = list(repository.manifests)
            for tag in "12":
                repository.untag(tag)
            repository.drop(*digests)
            self.successResultOf(repositories.save(repository))
            self.assertEqual(list(self.awaited(repositories.names())), [])
            for key in (KEY, previous(KEY)):
                self.assertIsNone(self.successResultOf(documents.read(key)))
            self.assertEqual([each for each in root.rglob("*") if not each.is_dir()], [])
            hold(repository, "3")
            self.successResultOf(repositories.save(repository))
            _, again = self.over(documents)
            self.assertEqual(list(again.tags), ["3"])
            self.assertEqual(list(self.awaited(repositories.names())), [WHERE])

    def test_what_is_held_while_its_empty_document_goes_is_kept(self) -> None:
        """A pull may come at any moment."""
        documents = SlowDocuments()
        documents.slow = False
        repositories, repository = self.over(documents)
        hold(repository, "1")
        self.successResultOf(repositories.save(repository))
        repository.untag("1")
        repository.drop(*repository.manifests)
        documents.slow = True
        removing = repositories.save(repository)
        hold(repository, "2")
        pulled = repositories.save(repository)
        documents.slow = False
        for gate, _ in documents.writes:
            if not gate.called:
                gate.callback(None)
        self.successResultOf(removing)
        self.successResultOf(pulled)
        self.assertEqual(list(self.over(documents)[1].tags), ["2"])

    def test_repositories_are_found_also_inside_each_other(self) -> None:
        """The list names a and a/b, and nothing that is no repository."""
        documents = MemoryDocuments()
        repositories = Repositories(documents)
        for upstream, name in (("quay.io", "a/b"), ("docker.io", "blobs/x"), ("quay.io", "a")):
            repository = self.successResultOf(repositories.get(upstream, name))
            hold(repository, "1")
            self.successResultOf(repositories.save(repository))
        for stray in (("index.json",), ("quay.io", "index.json"), ("quay.io", "_layout", "index.json")):
            self.successResultOf(documents.write(stray, b"{}", 0))
        names = self.awaited(repositories.names())
        self.assertEqual(names, [("docker.io", "blobs/x"), ("quay.io", "a"), ("quay.io", "a/b")])

    def test_a_name_that_leads_elsewhere_is_refused(self) -> None:
        """Whatever let it through, it becomes no path."""
        repositories = Repositories(MemoryDocuments())
        for upstream, name in (("docker.io", "../../etc"), ("..", "a"), ("docker.io", "a//b"), ("docker.io", "")):
            self.failureResultOf(repositories.get(upstream, name), ValueError)


class TestSaving(RepositoriesCase):
    def slowly(self) -> tuple[SlowDocuments, Repositories, Repository]:
        documents = SlowDocuments()
        documents.slow = False
        repositories, repository = self.over(documents)
        documents.slow = True
        return documents, repositories, repository

    def save(self, repositories: Repositories, repository: Repository, tag: str) -> Deferred[None]:
        hold(repository, tag)
        return repositories.save(repository)

    def test_all_who_come_during_a_write_share_the_next(self) -> None:
        """Each has its answer once, and only when its own change is on the disk."""
        documents, repositories, repository = self.slowly()
        first = self.save(repositories, repository, "first")
        later = [self.save(repositories, repository, f"later-{number}") for number in range(20)]
        self.assertEqual(len(documents.writes), 1)
        documents.writes[0][0].callback(None)
        self.successResultOf(first)
        for each in later:
            self.assertNoResult(each)
        self.assertEqual(len(documents.writes), 2)
        self.assertEqual(len(documents.writes[1][1].tags), 21)
        documents.writes[1][0].callback(None)
        for each in later:
            self.successResultOf(each)
        self.assertEqual(len(documents.writes), 2)

    def test_what_comes_one_after_the_other_is_one_write(self) -> None:
        """Twenty layers of an image cost no twenty writes of a document, however large that is; nor are they lost."""
        documents, clock = SlowDocuments(), Clock()
        documents.slow = False
        repositories = Repositories(documents, clock=clock)
        repository = self.successResultOf(repositories.get(*WHERE))
        for number in range(20):
            repository.link(Digest.of(b"%d" % number), 1)
            repositories.save_soon(repository)
            clock.advance(SAVE_DELAY / 40)
        self.assertEqual(documents.writes, [])
        clock.advance(SAVE_DELAY)
        self.assertEqual(len(documents.writes), 1)
        self.assertEqual(len(documents.writes[0][1].blobs), 20)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_what_is_to_be_saved_soon_is_saved_by_a_stop(self) -> None:
        """And not once more behind it, when the store may be another process's."""
        documents, clock = SlowDocuments(), Clock()
        documents.slow = False
        repositories = Repositories(documents, clock=clock)
        repository = self.successResultOf(repositories.get(*WHERE))
        hold(repository, "1")
        repositories.save_soon(repository)
        self.successResultOf(repositories.flush())
        self.assertEqual(len(documents.writes), 1)
        clock.advance(SAVE_DELAY)
        self.assertEqual(len(documents.writes), 1)

    def test_a_change_made_during_a_write_is_not_taken_for_written(self) -> None:
        """The document under way does not hold it, so its waiter waits for the next."""
        documents, repositories, repository = self.slowly()
        self.save(repositories, repository, "first")
        self.assertEqual(set(documents.writes[0][1].tags), {"first"})

    def test_a_save_from_within_a_callback_is_written_too(self) -> None:
        """A caller that has its answer may change something again at once."""
        documents, repositories, repository = self.slowly()
        again: list[Deferred[None]] = []
        first = self.save(repositories, repository, "first")
        first.addCallback(lambda _: again.append(self.save(repositories, repository, "again")))
        documents.writes[0][0].callback(None)
        self.assertNoResult(again[0])
        documents.writes[1][0].callback(None)
        self.successResultOf(again[0])
        self.assertEqual(set(documents.writes[1][1].tags), {"first", "again"})

    def test_a_failed_write_fails_for_those_in_it_and_the_next_one_works(self) -> None:
        """A full disk is not for ever, and no caller is answered that something was kept when it was not."""
        documents, repositories, repository = self.slowly()
        first = self.save(repositories, repository, "first")
        later = self.save(repositories, repository, "later")
        documents.writes[0][0].errback(OSError(28, "no room"))
        self.failureResultOf(first, OSError)
        self.assertNoResult(later)
        documents.writes[1][0].callback(None)
        self.successResultOf(later)
        self.assertEqual(set(documents.writes[1][1].tags), {"first", "later"})

    def test_what_a_failed_write_held_is_written_by_the_next_flush(self) -> None:
        """Also when that repository does not change again."""
        documents, repositories, repository = self.slowly()
        first = self.save(repositories, repository, "first")
        documents.writes[0][0].errback(OSError(28, "no room"))
        self.failureResultOf(first, OSError)
        documents.slow = False
        self.successResultOf(repositories.flush())
        self.assertEqual([set(written.tags) for _, written in documents.writes], [{"first"}, {"first"}])

    def test_the_write_of_another_is_not_overwritten(self) -> None:
        """The document was replaced behind our back: the save says so."""
        documents = MemoryDocuments()
        repositories, repository = self.over(documents)
        self.successResultOf(documents.write(KEY, b"{}", 0))
        hold(repository, "latest")
        self.failureResultOf(repositories.save(repository), VersionConflict)

    def test_a_touch_is_written_by_the_next_flush_once(self) -> None:
        """What is cheap to lose costs no write of its own, and an idle store writes nothing."""
        documents, repositories, repository = self.slowly()
        documents.slow = False
        self.successResultOf(repositories.flush())
        repositories.touch(repository)
        repositories.touch(repository)
        self.assertEqual(documents.writes, [])
        for _ in range(3):
            self.successResultOf(repositories.flush())
        self.assertEqual(len(documents.writes), 1)

    def test_a_touch_is_carried_by_a_save(self) -> None:
        """A write that happens anyway is the flush."""
        documents, repositories, repository = self.slowly()
        documents.slow = False
        repositories.touch(repository)
        self.successResultOf(repositories.save(repository))
        self.successResultOf(repositories.flush())
        self.assertEqual(len(documents.writes), 1)

    def test_a_touch_during_a_write_waits_for_the_next_flush(self) -> None:
        """The write under way may not hold it."""
        documents, repositories, repository = self.slowly()
        self.save(repositories, repository, "first")
        repositories.touch(repository)
        documents.writes[0][0].callback(None)
        repositories.flush()
        self.assertEqual(len(documents.writes), 2)

    def test_a_failed_flush_is_logged_and_tried_again(self) -> None:
        """The flush itself does not fail: it runs by the clock, and no caller waits for it."""
        documents, repositories, repository = self.slowly()
        repositories.touch(repository)
        flushing = repositories.flush()
        documents.writes[0][0].errback(OSError(28, "no room"))
        self.successResultOf(flushing)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        repositories.flush()
        self.assertEqual(len(documents.writes), 2)


class TestDamage(RepositoriesCase):
    def damage(self, documents: IDocuments, data: bytes) -> None:
        version = self.successResultOf(documents.read(KEY))[1]  # type: ignore[index]
        self.successResultOf(documents.write(KEY, data, version))

    def test_a_damaged_document_is_rebuilt_from_what_is_left_and_the_one_before(self) -> None:
        """It is set aside, named, and no tag that could be read anywhere is lost."""
        documents = MemoryDocuments()
        whole = self.stored(documents, "a-first", "b-second")
        torn = whole[: whole.index(b'"b-second"')]
        self.stored(documents, "c-third")
        self.damage(documents, torn)
        repositories, repository = self.over(documents)
        self.assertEqual(set(repository.tags), {"a-first", "b-second", "c-third"})
        [(key, aside)] = documents.damaged
        self.assertEqual(key, "/".join(KEY))
        self.assertEqual(self.successResultOf(documents.read(tuple(aside.split("/"))))[0], torn)  # type: ignore[index]
        _, reread = self.over(documents)
        self.assertEqual((reread.tags, len(documents.damaged)), (repository.tags, 1))

    def test_a_document_too_large_to_be_one_is_rebuilt_from_the_one_before(self) -> None:
        """Its bytes are not looked at."""
        documents = MemoryDocuments()
        self.stored(documents, "a-first")
        self.stored(documents, "b-second")
        real = documents.read
        documents.read = lambda key: fail(DocumentDamaged("large")) if key == KEY else real(key)  # type: ignore
        _, repository = self.over(documents)
        self.assertEqual(set(repository.tags), {"a-first"})
        self.assertEqual(len(documents.damaged), 1)

    def test_a_disk_that_fails_during_a_rebuild_has_lost_nothing(self) -> None:
        """The document before cannot be read now: nothing is set aside, and the next to ask begins again."""
        documents = MemoryDocuments()
        self.stored(documents, "a-first", "b-second")
        self.damage(documents, b"{torn")
        real = documents.read
        documents.read = lambda key: real(key) if key == KEY else fail(OSError(5, "bad sector"))  # type: ignore
        self.failureResultOf(Repositories(documents).get(*WHERE), OSError)
        self.assertEqual(documents.damaged, [])
        documents.read = real  # type: ignore[method-assign]
        self.assertEqual(set(self.over(documents)[1].tags), {"a-first", "b-second"})

    def test_what_is_rebuilt_can_be_written(self) -> None:
        """A descriptor that no strict reader takes is none of those that are whole."""
        documents = MemoryDocuments()
        whole = self.stored(MemoryDocuments(), "a-first", "b-second")
        self.successResultOf(documents.write(KEY, whole.replace(b'"b-second"', b'"b-second","x":"\\ud800"')[:-1], 0))
        repositories, repository = self.over(documents)
        self.assertEqual(set(repository.tags), {"a-first"})
        self.successResultOf(repositories.save(repository))

    def test_without_one_before_the_whole_descriptors_are_what_is_left(self) -> None:
        """The first document of a repository, torn."""
        documents = MemoryDocuments()
        source = MemoryDocuments()
        whole = self.stored(source, "a-first", "b-second")
        self.successResultOf(documents.write(KEY, whole[: whole.index(b'"b-second"')], 0))
        _, repository = self.over(documents)
        self.assertEqual(set(repository.tags), {"a-first"})

    def test_two_damaged_documents_leave_an_empty_repository(self) -> None:
        """Nothing to rebuild from is no reason not to serve and pull."""
        documents = MemoryDocuments()
        self.successResultOf(documents.write(KEY, b"\0" * 80, 0))
        self.damage(documents, b"")
        repositories, repository = self.over(documents)
        self.assertEqual((repository.tags, len(documents.damaged)), ({}, 1))
        hold(repository, "latest")
        self.successResultOf(repositories.save(repository))

    def test_what_cannot_be_saved_after_a_rebuild_is_served_all_the_same(self) -> None:
        """A full disk beside a damaged document makes no pull fail; the rebuilt one is written later."""
        documents = SlowDocuments()
        documents.slow = False
        whole = self.stored(documents, "a-first")
        self.successResultOf(MemoryDocuments.write(documents, KEY, whole[:-1], 1))
        repositories = Repositories(documents)
        documents.writes.clear()
        real, documents.write = documents.write, lambda *_: _full()  # type: ignore[method-assign]
        repository = self.successResultOf(repositories.get(*WHERE))
        self.assertEqual(set(repository.tags), {"a-first"})
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        documents.write = real  # type: ignore[method-assign]
        self.successResultOf(repositories.flush())
        self.assertEqual(len(documents.writes), 1)

    def test_on_a_disk_too(self) -> None:
        """The same with files: one set aside, the new one whole, the one before the damage kept."""
        root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, root)
        make_folder(root / "repositories")
        self.stored(FilesystemDocuments(root, InlineThreads()), "a-first", "b-second")
        path = root / "repositories" / Path(*KEY)
        path.write_bytes(path.read_bytes()[:-20])
        damaged = FilesystemDocuments(root, InlineThreads())
        _, repository = self.over(damaged)
        self.assertEqual(set(repository.tags), {"a-first", "b-second"})
        self.assertIn(".index.json.damaged-1", os.listdir(path.parent))
        self.assertTrue(os.path.exists(damaged.damaged[0][1]))
        documents = FilesystemDocuments(root, InlineThreads())
        self.assertEqual(self.over(documents)[1].tags, repository.tags)
        self.assertIsNotNone(self.successResultOf(documents.read(previous(KEY))))


def _full() -> Deferred[int]:
    failed: Deferred[int] = Deferred()
    failed.errback(OSError(28, "no room"))
    return failed
