"""Large repositories: a save costs what it changes, and nothing that was saved is lost, whatever ends the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from appliance.flow.disk import InlineThreads, make_folder
from appliance.index import repositories as module
from appliance.index.documents import FilesystemDocuments, Key, journal_of
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import SETTLE_DELAY, Repositories
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from tests.doubles.deferreds import result
from tests.doubles.disk import CUTS, Disk, lay_out
from tests.rooms.index.slow import KEY, MANIFEST, WHERE, hold

TAGS = ["1", "2", "3"]
History = list[Digest | None]


class PendingDocuments(MemoryDocuments):
    """Nothing is changed before it is let be, in any order: as with threads."""

    def __init__(self, kept: dict[Key, tuple[bytes, int]]) -> None:
        super().__init__()
        self._documents |= kept
        self.pending: list[tuple[Callable[[], Deferred[Any]], Deferred[Any]]] = []

    def kept(self, torn: bool = False) -> dict[Key, tuple[bytes, int]]:
        """What a stop now leaves; C{torn}: with half of the lines that are being appended."""
        kept = MemoryDocuments()
        kept._documents |= self._documents
        for call, _ in self.pending if torn else ():
            key, data, replaces = getattr(call, "appending", (None, b"", 0))
            if key is not None:
                kept.append(key, data[: len(data) // 2], replaces).addErrback(lambda _: None)
        return kept._documents

    def write(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.write}."""
        return self._later(lambda: MemoryDocuments.write(self, key, data, replaces))

    def append(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.append}."""

        def call() -> Deferred[int]:
            return MemoryDocuments.append(self, key, data, replaces)

        call.appending = (key, data, replaces)  # type: ignore[attr-defined]
        return self._later(call)

    def remove(self, key: Key) -> Deferred[None]:
        """See L{IDocuments.remove}."""
        return self._later(lambda: MemoryDocuments.remove(self, key))

    def step(self, which: int, error: Exception | None = None) -> None:
        """Let one of those that wait be done, or fail."""
        if self.pending:
            call, waiting = self.pending.pop(which % len(self.pending))
            if error is not None:
                waiting.errback(error)
            else:
                call().chainDeferred(waiting)

    def _later(self, call: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        self.pending.append((call, waiting))
        return waiting


class Site:
    """One repository that is changed, saved, and read again by the next process."""

    def __init__(self) -> None:
        self.documents = PendingDocuments({})
        self.start()

    def start(self) -> None:
        """The next process."""
        self.clock = Clock()
        self.repositories = Repositories(self.documents, clock=self.clock)
        loading = self.repositories.get(*WHERE)
        while not loading.called:
            self.documents.step(0)
        self.repository = result(loading)
        self.history: dict[str, History] = {tag: [self.means(tag)] for tag in TAGS}
        self.promised = dict.fromkeys(TAGS, 0)

    def means(self, tag: str) -> Digest | None:
        return self.repository.tags[tag].digest if tag in self.repository.tags else None

    def change(self, tag: str, number: int) -> None:
        """Let the tag mean something, or nothing."""
        if number:
            digest = Digest.of(b"%d" % number)
            self.repository.hold(digest, MANIFEST, number)
            self.repository.tag(tag, digest, 1.0)
        else:
            self.repository.untag(tag)
        self.history[tag].append(self.means(tag))

    def save(self) -> None:
        """What is said when it is done holds from then on."""
        now = {tag: len(self.history[tag]) - 1 for tag in TAGS}
        promised = self.promised

        def saved(_: None) -> None:
            for tag, index in now.items():
                promised[tag] = max(promised[tag], index)

        self.repositories.save(self.repository).addCallbacks(saved, lambda _: None)

    def check(self, torn: bool) -> None:
        """The next process would have what was promised, or what came after."""
        documents = PendingDocuments(self.documents.kept(torn))
        tags = result(Repositories(documents).get(*WHERE)).tags
        for tag in TAGS:
            means = tags[tag].digest if tag in tags else None
            assert means in self.history[tag][self.promised[tag] :], tag
        assert documents.damaged == []

    def kill(self, torn: bool) -> None:
        """Go on as the next process."""
        self.documents = PendingDocuments(self.documents.kept(torn))
        self.start()


change = st.tuples(st.just("change"), st.sampled_from(TAGS), st.integers(0, 5))
step = st.tuples(st.just("step"), st.integers(0, 3))
save, advance = st.just(("save",)), st.just(("advance",))
now_and_then = st.one_of(
    st.tuples(st.just("fail"), st.integers(0, 3)),
    st.tuples(st.just("flush"), st.booleans()),
    st.tuples(st.just("kill"), st.booleans()),
)
steps = st.one_of(change, change, save, save, step, step, step, advance, now_and_then)


@given(st.lists(steps, min_size=20, max_size=80), st.sampled_from([1, 1, 700, 1200]))
@settings(deadline=None, max_examples=150)
def test_what_was_saved_is_there_after_a_kill_at_any_moment(done: Any, large: int) -> None:
    """While lines are appended, the document is written whole, journals are removed, and any of that fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LARGE", large)
        patch.setattr(Repositories, "_not_saved", lambda *_: None)
        site = Site()
        for name, *args in done:
            if name in ("change", "save", "kill"):
                getattr(site, name)(*args)
            elif name == "flush":
                site.repositories.flush(*args)
            elif name == "advance":
                site.clock.advance(SETTLE_DELAY)
            else:
                site.documents.step(args[0], OSError(28, "no room") if name == "fail" else None)
                site.check(torn=args[0] > 1)
        site.save()
        stopping = site.repositories.flush(whole=True)
        while site.documents.pending:
            site.documents.step(0)
        result(stopping)
        document = site.documents.kept().get(KEY)
        found = Repository(*WHERE) if document is None else Repository.decode(*WHERE, document[0])
        assert {tag: record.digest for tag, record in found.tags.items()} == {
            tag: site.history[tag][-1] for tag in TAGS if site.history[tag][-1] is not None
        }
        # What could not be removed is older than the document.
        assert not found.journal or all(each < found.journal for each in result(site.documents.journals(KEY)))


def test_what_is_saved_while_the_document_is_written_whole_outlives_the_journals_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is in the journal that goes on where that document ends."""
    monkeypatch.setattr(module, "LARGE", 1)
    site = Site()
    for number in (1, 2, 3, 4, 5):
        for tag in TAGS:
            site.change(tag, number)
            site.save()
            while site.documents.pending and len(site.documents.pending) < 2:
                site.documents.step(0)
        site.clock.advance(SETTLE_DELAY)
        # The document is being written: what is saved meanwhile comes first.
        site.change("1", 0)
        site.save()
        while site.documents.pending:
            site.documents.step(-1)
            site.check(torn=False)
    assert site.promised["1"] == len(site.history["1"]) - 1


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few tags are many."""
    monkeypatch.setattr(module, "LARGE", 1000)
    return


def opened(root: Path, clock: Clock | None = None) -> tuple[FilesystemDocuments, Repositories, Repository]:
    make_folder(root / "repositories")
    documents = FilesystemDocuments(root, InlineThreads())
    repositories = Repositories(documents, clock=clock)
    return documents, repositories, result(repositories.get(*WHERE))


def saved(repositories: Repositories, repository: Repository, *tags: str) -> None:
    for tag in tags:
        hold(repository, tag)
        result(repositories.save(repository))


FEW = ("a", "b", "c", "d", "e", "f")


def files(root: Path) -> dict[str, int]:
    """Documents and journals with their sizes."""
    folder = root / "repositories" / Path(*KEY[:-1])
    return {name: (folder / name).stat().st_size for name in os.listdir(folder) if "index.json" in name}


def test_a_save_of_a_large_repository_writes_what_changed(tmp_path: Path, large: None) -> None:
    """Its document stays as it is; a small one is current at once, with nothing beside it."""
    _, repositories, repository = opened(tmp_path)
    saved(repositories, repository, "a", "b")
    assert set(files(tmp_path)) == {"index.json", ".index.json.previous"}
    saved(repositories, repository, *FEW)
    result(repositories.flush(whole=True))
    before = files(tmp_path)
    saved(repositories, repository, "new")
    after = files(tmp_path)
    [journal] = after.keys() - before.keys()
    assert after[journal] < 500 and before.items() <= after.items()
    assert set(opened(tmp_path)[2].tags) == {*FEW, "new"}
    _, repositories, repository = opened(tmp_path)
    result(repositories.save(repository))
    assert files(tmp_path) == after, "nothing changed, nothing to write"


def test_other_tools_see_what_was_saved_some_seconds_later(tmp_path: Path, large: None) -> None:
    """When no save came for a while; at a start that found a journal likewise, and at a stop at once."""
    clock = Clock()
    _, repositories, repository = opened(tmp_path, clock)
    saved(repositories, repository, *FEW)
    result(repositories.flush(whole=True))
    saved(repositories, repository, "new")
    for _ in range(2):
        clock.advance(SETTLE_DELAY * 0.9)
        assert any("journal" in name for name in files(tmp_path))
        saved(repositories, repository, "new")
    clock.advance(SETTLE_DELAY)
    assert set(files(tmp_path)) == {"index.json", ".index.json.previous"}
    saved(repositories, repository, "newer")
    clock = Clock()
    _, repositories, repository = opened(tmp_path, clock)
    clock.advance(SETTLE_DELAY)
    assert set(files(tmp_path)) == {"index.json", ".index.json.previous"}
    document = (tmp_path / "repositories" / Path(*KEY)).read_bytes()
    assert set(Repository.decode(*WHERE, document).tags) == {*FEW, "new", "newer"}
    saved(repositories, repository, "newest")
    result(repositories.flush(whole=True))
    assert set(files(tmp_path)) == {"index.json", ".index.json.previous"}
    assert clock.getDelayedCalls() == []


def test_other_tools_see_at_once_what_was_taken_out(tmp_path: Path, large: None) -> None:
    """So that no tag in a document means a manifest whose blob is removed next, should the process be killed then."""
    _, repositories, repository = opened(tmp_path, Clock())
    saved(repositories, repository, *FEW)
    result(repositories.flush(whole=True))
    saved(repositories, repository, "new")
    repository.untag("a")
    result(Deferred.fromCoroutine(repositories.save_whole(repository)))
    assert set(files(tmp_path)) == {"index.json", ".index.json.previous"}
    document = (tmp_path / "repositories" / Path(*KEY)).read_bytes()
    assert set(Repository.decode(*WHERE, document).tags) == {*FEW, "new"} - {"a"}


def test_a_journal_that_has_grown_is_taken_into_the_document(tmp_path: Path, large: None) -> None:
    """However often one saves: a start does not read ten times what there is."""
    _, repositories, repository = opened(tmp_path, Clock())
    saved(repositories, repository, *FEW)
    for number in range(100):
        saved(repositories, repository, f"v{number % 5}")
        found = files(tmp_path)
        journals = sum(size for name, size in found.items() if "journal" in name)
        assert journals < 1000 + max(1000, found["index.json"])


def test_what_an_earlier_version_wrote_is_not_overlaid_with_older_lines(tmp_path: Path, large: None) -> None:
    """It leaves the journals where they are and no number in the document; they are gone when they are in the way."""
    _, repositories, repository = opened(tmp_path)
    saved(repositories, repository, *FEW)
    result(repositories.flush(whole=True))
    saved(repositories, repository, "g")
    assert any("journal" in name for name in files(tmp_path))
    repository.untag("g")
    (tmp_path / "repositories" / Path(*KEY)).write_bytes(repository.encode())
    _, repositories, repository = opened(tmp_path)
    assert set(repository.tags) == set(FEW)
    saved(repositories, repository, "h", "i")
    assert set(opened(tmp_path)[2].tags) == {*FEW, "h", "i"}
    result(repositories.flush(whole=True))
    assert set(files(tmp_path)) == {"index.json", ".index.json.previous"}


def test_a_damaged_line_is_named_and_the_others_are_taken(
    tmp_path: Path, large: None, logged_errors: list[dict[str, Any]]
) -> None:
    """The journal is kept for a look, as a damaged document is; the document is whole again some seconds later."""
    _, repositories, repository = opened(tmp_path)
    saved(repositories, repository, *FEW)
    result(repositories.flush(whole=True))
    saved(repositories, repository, "g", "h")
    path = next((tmp_path / "repositories" / Path(*KEY[:-1])).glob(".index.json.journal-*"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"g"', b'"x"'))
    documents, repositories, repository = opened(tmp_path)
    assert set(repository.tags) == {*FEW, "h"}
    [(name, aside)] = documents.damaged
    assert (name, Path(aside).read_bytes()) == ("/".join((*KEY[:-1], path.name)), path.read_bytes())
    assert len(logged_errors) == 1
    logged_errors.clear()
    result(repositories.flush(whole=True))
    assert not path.exists() and Path(aside).exists()
    documents, _, repository = opened(tmp_path)
    assert (set(repository.tags), documents.damaged) == ({*FEW, "h"}, [])


def test_a_damaged_document_is_rebuilt_with_its_journal(
    tmp_path: Path, large: None, logged_errors: list[dict[str, Any]]
) -> None:
    """What the document before did not have yet and the damaged one has no more may be in there."""
    _, repositories, repository = opened(tmp_path)
    saved(repositories, repository, *FEW)
    result(repositories.flush(whole=True))
    saved(repositories, repository, "g", "h")
    path = tmp_path / "repositories" / Path(*KEY)
    path.write_bytes(path.read_bytes()[:-40])
    _, repositories, repository = opened(tmp_path)
    assert set(repository.tags) == {*FEW, "g", "h"}
    saved(repositories, repository, "i")
    assert set(opened(tmp_path)[2].tags) == {*FEW, "g", "h", "i"}
    logged_errors.clear()


@pytest.mark.parametrize("gone", [False, True], ids=["shorter", "gone"])
def test_a_journal_that_was_removed_by_hand_makes_the_next_save_a_whole_one(
    tmp_path: Path, large: None, gone: bool
) -> None:
    """So nothing that was in it is lost."""
    _, repositories, repository = opened(tmp_path)
    saved(repositories, repository, *FEW)
    result(repositories.flush(whole=True))
    saved(repositories, repository, "g")
    [path] = (tmp_path / "repositories" / Path(*KEY[:-1])).glob(".index.json.journal-*")
    if gone:
        path.unlink()
    else:
        path.write_bytes(b"")
    saved(repositories, repository, "h")
    assert set(opened(tmp_path)[2].tags) == {*FEW, "g", "h"}
    saved(repositories, repository, "i")
    assert set(opened(tmp_path)[2].tags) == {*FEW, "g", "h", "i"}


def test_half_a_line_that_a_full_disk_took_is_cut_off(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next save stands where it would have stood; nothing is taken for damaged."""
    _, repositories, repository = opened(tmp_path)
    saved(repositories, repository, *FEW)
    real, left = os.pwrite, [30]

    def full(fd: int, data: Any, offset: int) -> int:
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        written = real(fd, bytes(data)[: left[0]], offset)
        left[0] -= written
        return written

    hold(repository, "g")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            result(repositories.save(repository))
    assert set(opened(tmp_path)[2].tags) == set(FEW)
    hold(repository, "h")
    result(repositories.flush())
    documents, _, found = opened(tmp_path)
    assert (set(found.tags), documents.damaged) == ({*FEW, "g", "h"}, [])


def test_a_document_that_the_disk_did_not_take_is_written_when_it_does(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch, logged_errors: list[dict[str, Any]]
) -> None:
    """Without another change; after a stop nothing is written any more."""
    clock = Clock()
    _, repositories, repository = opened(tmp_path, clock)
    saved(repositories, repository, *FEW)
    result(repositories.flush(whole=True))
    saved(repositories, repository, "g")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        clock.advance(SETTLE_DELAY)
        assert len(logged_errors) == 1 and clock.getDelayedCalls() == []
        result(repositories.flush())
    clock.advance(SETTLE_DELAY)
    assert set(files(tmp_path)) == {"index.json", ".index.json.previous"}
    saved(repositories, repository, "h")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        result(repositories.flush(whole=True))
    assert clock.getDelayedCalls() == []
    assert set(opened(tmp_path)[2].tags) == {*FEW, "g", "h"}
    logged_errors.clear()


@pytest.mark.parametrize("cut", CUTS)
def test_a_stop_at_any_call_to_the_disk_loses_nothing_that_was_saved(
    tmp_path: Path, cut: Any, logged_errors: list[dict[str, Any]]
) -> None:
    """Lines, the document whole from a copy, the removal of journals; of a power cut as of a kill."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LARGE", 1000)
        stop_at, is_over = 1, False
        while not is_over:
            root = tmp_path / f"{stop_at}"
            (root / "repositories").mkdir(parents=True)
            (root / "blobs").mkdir()
            disk = Disk(root)
            disk.stop_at = stop_at
            promised: list[str] = []
            with disk.mounted():
                _, repositories, repository = opened(root)
                for tag in (*FEW, "g", "h", "whole", "i", "j"):
                    hold(repository, tag)
                    kept = partial(promised.append, tag)
                    repositories.save(repository).addCallbacks(lambda _, kept=kept: kept(), lambda _: None)
                    if tag == "whole" and not disk.is_stopped:
                        repositories.flush(whole=True)
                    if disk.is_stopped:
                        break
            is_over = not disk.is_stopped
            logged_errors.clear()
            left = tmp_path / f"{stop_at}-left"
            lay_out(disk.left(cut, stop_at), left)
            documents, repositories, repository = opened(left)
            assert set(promised) <= set(repository.tags), stop_at
            assert documents.damaged == []
            saved(repositories, repository, "after")
            assert {*promised, "after"} <= set(opened(left)[2].tags)
            stop_at += 1
        assert stop_at > 60


def test_the_journals_key_is_beside_the_document() -> None:
    """Hidden, as all that is not for other tools."""
    assert journal_of(KEY, 3) == (*KEY[:-1], ".index.json.journal-3")
