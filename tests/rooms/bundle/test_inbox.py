"""The inbox: what is put into a folder is imported, and what became of it lies beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance.bundle.importer import ImportProgress
from appliance.bundle.inbox import INTERVAL, MAX_OPENINGS, MAX_RETRY, RETRY, STALLED, Inbox
from appliance.bundle.receipt import Receipt
from appliance.errors import (
    BundleDamaged,
    BundleIncomplete,
    BundleNotRead,
    BundleNotStored,
    BundleUntrusted,
    BundleUpstreamUnknown,
    PullcacheError,
    StoreError,
    VersionConflict,
)
from appliance.flow.disk import InlineThreads
from appliance.index.memory import MemoryDocuments
from tests.doubles.audit import NotedAudit
from tests.doubles.deferreds import result
from tests.doubles.pullthrough import clock_at

RECEIPT = Receipt(
    bundle="sha256:b", format="pullcache bundle", files=[], finished="2027-01-15T08:00:00Z", dry_run=False
)


class Watched:
    """
    An inbox and what it imported.

    @ivar state: what outlives a restart.

    @ivar errors: what the next imports fail with.
    @ivar slow: whether imports wait, having come as far as C{stage}.
    """

    def __init__(self, folder: Path, state: MemoryDocuments | None = None) -> None:
        self.folder = folder
        self.clock = clock_at()
        self.imported: list[list[str]] = []
        self.errors: list[Exception] = []
        self.waiting: list[Deferred[None]] = []
        self.slow = False
        self.stage = "checking"
        self.state = state or MemoryDocuments()
        self.audit = NotedAudit()
        self.inbox = Inbox(folder, self.run, InlineThreads(), self.clock, self.state, self.audit)
        self.inbox.start()

    async def run(self, files: list[Path], progress: Callable[[ImportProgress], None]) -> Receipt:
        self.imported.append([file.name for file in files])
        assert all(file.parent == self.folder and file.exists() for file in files)
        progress(ImportProgress(stage=self.stage))
        if self.slow:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        if self.errors:
            raise self.errors.pop(0)
        return RECEIPT

    def put(self, name: str, data: bytes = b"x") -> None:
        (self.folder / name).write_bytes(data)

    def scan(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(INTERVAL)

    def there(self, where: str = ".") -> list[str]:
        folder = self.folder / where
        return sorted(each.name for each in folder.iterdir() if each.is_file()) if folder.is_dir() else []


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    result(watched.inbox.stop())


def test_a_file_that_is_whole_is_imported_and_moved(watched: Watched) -> None:
    """It is not taken at first sight; then it lies in done/ with its receipt."""
    watched.put("march.tar")
    watched.scan()
    assert watched.imported == []
    watched.scan()
    assert watched.imported == [["march.tar"]]
    assert watched.there() == [] and watched.there("done") == ["march.tar", "march.tar.json"]
    assert (watched.folder / "done" / "march.tar.json").read_bytes() == RECEIPT.encode()
    watched.scan(5)
    assert len(watched.imported) == 1


def test_a_file_that_grows_is_left_to_grow(watched: Watched) -> None:
    """However long the copy takes; a change of its time counts like one of its size."""
    for size in range(1, 6):
        watched.put("a.tar", b"x" * size)
        watched.scan()
    for number in range(3):
        os.utime(watched.folder / "a.tar", ns=(number, number))
        watched.scan()
    assert watched.imported == []
    watched.scan()
    assert watched.imported == [["a.tar"]]


def test_what_is_being_copied_or_hidden_is_left_alone(watched: Watched) -> None:
    """A name that ends in .part or begins with a dot; folders and links too."""
    watched.put("a.tar.part")
    watched.put(".a.tar")
    (watched.folder / "folder").mkdir()
    (watched.folder / "link").symlink_to("/etc/passwd")
    watched.scan(5)
    assert watched.imported == []
    (watched.folder / "a.tar.part").rename(watched.folder / "a.tar")
    watched.scan(2)
    assert watched.imported == [["a.tar"]]


def test_what_is_refused_lies_beside_its_reason(watched: Watched) -> None:
    """In words, and for programs; it is not tried again."""
    watched.errors = [BundleDamaged("a.tar: cut off at byte 5120; copy it again"), BundleUntrusted("b.tar: not signed")]
    watched.put("a.tar")
    watched.put("b.tar")
    watched.scan(5)
    assert watched.imported == [["a.tar"], ["b.tar"]]
    assert watched.there("refused") == ["a.tar", "a.tar.json", "b.tar", "b.tar.json"]
    reasons = [json.loads((watched.folder / "refused" / f"{each}.tar.json").read_text()) for each in "ab"]
    assert reasons[0] == {
        "files": ["a.tar"],
        "refused": "2027-01-15T08:00:10Z",
        "kind": "BundleDamaged",
        "reason": "a.tar: cut off at byte 5120; copy it again",
        "missing": [],
    }
    assert reasons[1]["kind"] == "BundleUntrusted"
    assert watched.inbox.waiting() == []


MENDABLE = [
    OSError(28, "No space left on device"),
    BundleNotStored("a.tar: the store cannot take it: Disk quota exceeded"),
    BundleNotRead("a.tar: cannot be read: Input/output error"),
    BundleIncomplete("a.tar: it builds on 3 blobs that are not held here", ("sha256:a",)),
    VersionConflict("a document was written meanwhile"),
    ValueError("a mistake of ours"),
]


@pytest.mark.parametrize("error", MENDABLE, ids=lambda error: type(error).__name__)
def test_what_time_or_another_bundle_can_mend_stays_and_is_said(
    watched: Watched, error: Exception, logged_errors: list[dict[str, Any]]
) -> None:
    """It is tried again, less and less often, and the status says why it lies there and when that is."""
    watched.errors = [error] * 3
    watched.put("a.tar")
    watched.scan(2)
    assert (watched.there(), watched.there("refused"), len(watched.imported)) == (["a.tar"], [], 1)
    [waiting] = watched.inbox.waiting()
    assert (waiting.files, waiting.kind, waiting.reason) == (["a.tar"], type(error).__name__, str(error))
    assert (waiting.since, waiting.next) == ("2027-01-15T08:00:10Z", "2027-01-15T08:05:10Z")
    for times, pause in enumerate((RETRY, 2 * RETRY, 4 * RETRY), 1):
        watched.scan(int(pause / INTERVAL) - 1)
        assert len(watched.imported) == times
        watched.scan()
        assert len(watched.imported) == times + 1
    assert watched.there("done") == ["a.tar", "a.tar.json"] and watched.inbox.waiting() == []
    logged_errors.clear()


def test_it_is_tried_at_least_once_an_hour(watched: Watched) -> None:
    """However long a disk is full."""
    watched.errors = [OSError(28, "No space left on device")] * 30
    watched.put("a.tar")
    watched.scan(2 + int(6 * MAX_RETRY / INTERVAL))
    before = len(watched.imported)
    watched.scan(int(4 * MAX_RETRY / INTERVAL))
    assert len(watched.imported) - before in (3, 4)


def test_a_file_that_is_changed_is_tried_at_once(watched: Watched) -> None:
    """The appliance may read it by now, or it was copied again."""
    watched.errors = [BundleNotRead("a.tar: Permission denied")]
    watched.put("a.tar")
    watched.scan(2)
    (watched.folder / "a.tar").chmod(0o640)
    watched.scan(2)
    assert watched.there("done") == ["a.tar", "a.tar.json"]


class Chain:
    """Bundles that build each on the one before: an import succeeds when that one was imported."""

    def __init__(self, watched: Watched, *names: str) -> None:
        """@param names: the bundle with everything first."""
        self.base = dict(zip(names[1:], names, strict=False))
        self.held: set[str] = set()
        self.tried: list[str] = []
        watched.inbox._run = self.run

    async def run(self, files: list[Path], progress: Callable[[ImportProgress], None]) -> Receipt:
        [file] = files
        self.tried.append(file.name)
        base = self.base.get(file.name)
        if base is not None and base not in self.held:
            raise BundleIncomplete(f"{file.name}: it builds on blobs that are not held here", ("sha256:a",))
        self.held.add(file.name)
        return RECEIPT


def test_an_increment_is_imported_after_the_bundle_it_builds_on(watched: Watched) -> None:
    """Whatever their names: both lie in done/ after one scan, and none waits five minutes."""
    chain = Chain(watched, "zulu.tar", "alpha.tar")
    for name in ("alpha.tar", "zulu.tar"):
        watched.put(name)
    watched.scan(2)
    assert chain.tried == ["alpha.tar", "zulu.tar", "alpha.tar"]
    assert watched.there() == [] and len(watched.there("done")) == 4


def test_a_year_of_increments_in_the_wrong_order_is_no_year_of_work(watched: Watched) -> None:
    """Each is tried twice."""
    names = [f"{100 - number:03}.tar" for number in range(100)]
    chain = Chain(watched, *names)
    for name in names:
        watched.put(name)
    watched.scan(2)
    assert watched.there() == [] and len(chain.tried) < 2 * len(names)


def test_an_import_from_elsewhere_lets_what_lacks_something_be_tried(watched: Watched) -> None:
    """The base was imported by hand; what waits for room is not touched."""
    watched.errors = [BundleIncomplete("a", ("sha256:a",)), BundleNotStored("b"), BundleIncomplete("a", ("sha256:a",))]
    watched.put("a.tar")
    watched.put("b.tar")
    watched.scan(2)
    watched.scan(3)
    assert len(watched.imported) == 2
    for _ in range(2):
        watched.inbox.imported()
        watched.scan()
    assert watched.imported[2:] == [["a.tar"], ["a.tar"]] and watched.there() == ["b.tar"]


def test_what_lacks_an_upstream_is_tried_when_the_configuration_was_read_again(watched: Watched) -> None:
    """The line that the status asks for is there: it counts at once, not after an hour."""
    watched.errors = [BundleUpstreamUnknown("a"), BundleNotStored("b")]
    watched.put("a.tar")
    watched.put("b.tar")
    watched.scan(3)
    assert watched.imported == [["a.tar"], ["b.tar"]]
    watched.inbox.configured()
    watched.scan()
    assert watched.imported[2:] == [["a.tar"]] and watched.there() == ["b.tar"]


def test_an_archive_that_ends_too_early_may_still_be_copied(watched: Watched) -> None:
    """The copy halted for longer than two scans: it is taken when it goes on, and refused when it does not."""
    watched.errors = [BundleDamaged("a.tar: cut off", truncated=True), BundleDamaged("a.tar: cut off", truncated=True)]
    watched.put("a.tar", b"half")
    watched.scan(2)
    assert watched.there() == ["a.tar"] and watched.inbox.waiting()[0].reason == "a.tar: cut off"
    watched.put("a.tar", b"more than half")
    watched.scan(2)
    assert watched.there() == ["a.tar"] and len(watched.imported) == 2
    watched.errors = [BundleDamaged("a.tar: cut off", truncated=True)]
    watched.scan(int(STALLED / INTERVAL) - 3)
    assert watched.there() == ["a.tar"] and len(watched.imported) == 2
    watched.scan(3)
    assert watched.there("refused") == ["a.tar", "a.tar.json"]


def test_a_file_that_changes_while_it_is_read_is_not_judged_by_that(watched: Watched) -> None:
    """Neither refused nor done: what lies there now was not read."""
    watched.slow = True
    watched.errors = [BundleDamaged("a.tar: it is there twice")]
    watched.put("a.tar", b"half")
    watched.scan(2)
    watched.put("a.tar", b"more than half")
    watched.slow = False
    watched.waiting[0].callback(None)
    assert watched.there() == ["a.tar"] and watched.there("refused") == []
    watched.scan(2)
    assert watched.there("done") == ["a.tar", "a.tar.json"]


def test_volumes_that_wait_for_others_are_named(watched: Watched) -> None:
    """With the numbers of those that lack."""
    watched.put("m-1f2e.v02of04.tar")
    watched.put("m-1f2e.v04of04.tar")
    watched.scan()
    [waiting] = watched.inbox.waiting()
    assert waiting.files == ["m-1f2e.v02of04.tar", "m-1f2e.v04of04.tar"]
    assert waiting.reason == "of 4 volumes these are not here yet: 1, 3" and waiting.next is None


def test_what_cannot_be_moved_is_not_imported_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full there too: the receipt waits for room, one volume as well as all."""
    names = ["m-1f2e.v01of02.tar", "m-1f2e.v02of02.tar"]
    for name in names:
        watched.put(name)
    rename, broken = os.rename, [OSError(28, "No space left on device")]

    def failing(source: str, target: str, **more: int) -> None:
        if source == names[1] and broken:
            raise broken.pop()
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", failing)
    watched.scan(2)
    [waiting] = watched.inbox.waiting()
    assert watched.there() == names[1:] and waiting.files == names[1:]
    assert "it is imported, and cannot be moved to done/: No space left on device; make room" in waiting.reason
    watched.scan(int(RETRY / INTERVAL) + 1)
    assert watched.there() == [] and len(watched.imported) == 1
    assert [name for name in watched.there("done") if not name.endswith(".json")] == names


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a mistake of ours")])
def test_what_our_own_side_could_not_take_stays_and_is_tried_again(
    watched: Watched, error: Exception, logged_errors: list[dict[str, Any]]
) -> None:
    """A full disk is not the bundle's fault."""
    watched.errors = [error]
    watched.put("a.tar")
    watched.scan(2)
    assert watched.there() == ["a.tar"]
    watched.scan(int(RETRY / INTERVAL) - 2)
    assert len(watched.imported) == 1
    watched.scan(3)
    assert len(watched.imported) == 2 and watched.there("done") == ["a.tar", "a.tar.json"]
    logged_errors.clear()


def test_volumes_wait_for_each_other(watched: Watched) -> None:
    """They are imported together once all are there, and moved together."""
    watched.put("m-1f2e.v01of02.tar")
    watched.put("m-9999.v02of02.tar")
    watched.put("other.tar")
    watched.scan(5)
    assert watched.imported == [["other.tar"]]
    watched.put("m-1f2e.v02of02.tar")
    watched.scan(2)
    assert watched.imported[1:] == [["m-1f2e.v01of02.tar", "m-1f2e.v02of02.tar"]]
    assert watched.there() == ["m-9999.v02of02.tar"]
    assert [name for name in watched.there("done") if "1f2e" in name and name.endswith(".json")] == [
        "m-1f2e.v01of02.tar.json",
        "m-1f2e.v02of02.tar.json",
    ]


def test_nothing_that_was_kept_is_overwritten(watched: Watched) -> None:
    """The same name a second time gets a number."""
    for data in (b"first", b"second!"):
        watched.put("a.tar", data)
        watched.scan(2)
    assert watched.there("done") == ["2-a.tar", "2-a.tar.json", "a.tar", "a.tar.json"]
    assert (watched.folder / "done" / "a.tar").read_bytes() == b"first"


def test_a_receipt_that_was_kept_is_not_overwritten(watched: Watched) -> None:
    """Its archive was taken away to make room; nor is an archive whose name is that of a receipt."""
    watched.put("a.tar.json", b"an archive")
    watched.scan(2)
    watched.put("a.tar")
    watched.scan(2)
    assert (watched.folder / "done" / "a.tar.json").read_bytes() == b"an archive"
    (watched.folder / "done" / "2-a.tar.json").write_bytes(b"kept")
    (watched.folder / "done" / "2-a.tar").unlink()
    watched.put("a.tar")
    watched.scan(2)
    assert (watched.folder / "done" / "2-a.tar.json").read_bytes() == b"kept"
    assert watched.there("done") == ["2-a.tar.json", "3-a.tar", "3-a.tar.json", "a.tar.json", "a.tar.json.json"]


@pytest.mark.parametrize("where", ["done", "refused"])
def test_nothing_is_moved_through_a_link(
    watched: Watched, tmp_path_factory: pytest.TempPathFactory, where: str
) -> None:
    """Else a user who may write to the inbox would have files of the appliance's made anywhere."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (watched.folder / where).symlink_to(elsewhere)
    watched.put("a.tar")
    watched.scan(4)
    assert (watched.imported, watched.there(), list(elsewhere.iterdir())) == ([], ["a.tar"], [])
    [waiting] = watched.inbox.waiting()
    assert f"{where} is a link" in waiting.reason and "remove it" in waiting.reason
    (watched.folder / where).unlink()
    watched.scan(3)
    assert watched.there("done") == ["a.tar", "a.tar.json"] and watched.inbox.waiting() == []


def test_a_link_that_appears_during_an_import_is_not_followed(
    watched: Watched, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The import stands, and the file waits to be moved."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    watched.slow = True
    watched.put("a.tar")
    watched.scan(2)
    (watched.folder / "done").symlink_to(elsewhere)
    watched.waiting[0].callback(None)
    assert watched.there() == ["a.tar"] and list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(("name", "said"), [(b"\xff.tar", "no UTF-8"), (b"a" * 240 + b".tar", "longer than 230 bytes")])
def test_a_name_that_cannot_be_written_down_is_said(watched: Watched, name: bytes, said: str) -> None:
    """Before the archive is imported for nothing, again and again."""
    Path(os.fsdecode(os.fsencode(watched.folder) + b"/" + name)).write_bytes(b"x")
    watched.scan(4)
    [waiting] = watched.inbox.waiting()
    assert watched.imported == [] and said in waiting.reason and "rename it" in waiting.reason


def test_one_import_at_a_time(watched: Watched) -> None:
    """What comes meanwhile waits for its turn."""
    watched.slow = True
    watched.put("a.tar")
    watched.scan(2)
    watched.put("b.tar")
    watched.scan(5)
    assert watched.imported == [["a.tar"]]
    watched.slow = False
    watched.waiting[0].callback(None)
    watched.scan(3)
    assert watched.imported == [["a.tar"], ["b.tar"]]


def test_a_folder_that_is_gone_is_looked_for_again(watched: Watched, logged_errors: list[dict[str, Any]]) -> None:
    """A stick that was pulled out and comes back."""
    away = watched.folder.with_name("away")
    watched.folder.rename(away)
    watched.scan(2)
    away.rename(watched.folder)
    watched.put("a.tar")
    watched.scan(2)
    assert watched.imported == [["a.tar"]] and logged_errors == []


def test_a_file_that_vanishes_is_forgotten(watched: Watched) -> None:
    """It was taken away again."""
    watched.put("a.tar")
    watched.scan()
    (watched.folder / "a.tar").unlink()
    watched.scan(3)
    assert watched.imported == []


def test_a_stop_cuts_the_import_and_leaves_the_file(tmp_path: Path) -> None:
    """The next start takes it up."""
    watched = Watched(tmp_path)
    watched.slow = True
    watched.put("a.tar")
    watched.scan(2)
    result(watched.inbox.stop())
    assert watched.waiting[0].called and watched.there() == ["a.tar"]
    watched.scan(5)
    assert len(watched.imported) == 1
    again = Watched(tmp_path)
    again.scan(2)
    assert again.imported == [["a.tar"]]
    result(again.inbox.stop())


def test_a_stop_without_an_import_is_immediate(tmp_path: Path) -> None:
    """And a second one is no error."""
    watched = Watched(tmp_path)
    for _ in range(2):
        result(watched.inbox.stop())


def test_an_import_that_was_cancelled_elsewhere_is_no_refusal(watched: Watched) -> None:
    """The file stays."""
    watched.errors = [CancelledError()]
    watched.put("a.tar")
    watched.scan(2)
    assert watched.there() == ["a.tar"] and watched.there("refused") == []
    assert not issubclass(CancelledError, PullcacheError)


# -- a process that does not outlive an archive ---------------------------------------------------------------------


DEAD: list[Watched] = []
"""Kept, for a coroutine that Python throws away would clear up after itself, as no process does that is killed."""


def killed(folder: Path, state: MemoryDocuments, name: str, stage: str = "checking") -> None:
    """A run of the appliance that ends while the file C{name} is imported."""
    watched = Watched(folder, state)
    watched.slow, watched.stage = True, stage
    watched.scan(2)
    assert watched.imported == [[name]]
    DEAD.append(watched)


def test_what_the_process_died_of_is_not_opened_for_ever(tmp_path: Path) -> None:
    """A third start refuses it, says why, and takes what lies behind it."""
    state = MemoryDocuments()
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(b"x")
    for _ in range(MAX_OPENINGS):
        killed(tmp_path, state, "a.tar")
    watched = Watched(tmp_path, state)
    watched.scan(2)
    assert watched.imported == [["b.tar"]] and watched.there("refused") == ["a.tar", "a.tar.json"]
    reason = json.loads((tmp_path / "refused" / "a.tar.json").read_text())
    assert reason["kind"] == "BundleDamaged" and "ended 2 times while it was opening this" in reason["reason"]
    (tmp_path / "refused" / "a.tar").rename(tmp_path / "a.tar")
    watched.scan(2)
    assert watched.imported == [["b.tar"], ["a.tar"]]
    result(watched.inbox.stop())


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b'{"opende": []}', b"{}"])
def test_a_note_of_what_was_opened_that_is_damaged_is_set_aside(
    tmp_path: Path, data: bytes, logged_errors: list[dict[str, Any]]
) -> None:
    """It is named and not written over, and what lies in the inbox is taken."""
    state = MemoryDocuments()
    result(state.write(("inbox", "opened.json"), data, 0))
    (tmp_path / "a.tar").write_bytes(b"x")
    watched = Watched(tmp_path, state)
    watched.scan(2)
    assert watched.imported == [["a.tar"]]
    assert [document for document, _ in state.damaged] == ["inbox/opened.json"] and logged_errors
    logged_errors.clear()
    result(watched.inbox.stop())


def test_a_power_cut_while_blobs_are_stored_does_not_count(tmp_path: Path) -> None:
    """That takes hours, and goes on where it stopped."""
    state = MemoryDocuments()
    (tmp_path / "a.tar").write_bytes(b"x")
    for _ in range(5):
        killed(tmp_path, state, "a.tar", stage="storing")
    watched = Watched(tmp_path, state)
    watched.scan(2)
    assert watched.there("done") == ["a.tar", "a.tar.json"]
    result(watched.inbox.stop())


def test_a_stop_and_a_refusal_do_not_count(tmp_path: Path) -> None:
    """Only an end that was not asked for does; nor is another file of the same name blamed for the first."""
    state = MemoryDocuments()
    (tmp_path / "a.tar").write_bytes(b"x")
    for _ in range(5):
        watched = Watched(tmp_path, state)
        watched.slow = True
        watched.scan(2)
        result(watched.inbox.stop())
    killed(tmp_path, state, "a.tar")
    killed(tmp_path, state, "a.tar")
    (tmp_path / "a.tar").write_bytes(b"another")
    watched = Watched(tmp_path, state)
    watched.scan(2)
    assert watched.there("done") == ["a.tar", "a.tar.json"]
    result(watched.inbox.stop())


def test_without_room_for_that_note_nothing_is_opened(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not be stored either; the file waits, and the status says for what."""
    monkeypatch.setattr(watched.state, "_write", lambda *_: os.write(-1, b""))
    watched.put("a.tar")
    watched.scan(2)
    [waiting] = watched.inbox.waiting()
    assert watched.imported == [] and waiting.kind == "BundleNotStored"
    assert waiting.reason == "the store cannot be written: Bad file descriptor; make room in it"


def test_the_audit_log_has_what_came_in_and_what_did_not(watched: Watched) -> None:
    """Of what is tried again and again, each reason once."""
    watched.put("march.tar")
    watched.put("may.tar")
    watched.errors[:] = [StoreError("full"), BundleUntrusted("signed by a stranger")]
    watched.scan(2)
    watched.errors[:] = [StoreError("full"), StoreError("broken")]
    for pause in (RETRY, 2 * RETRY, 4 * RETRY):
        watched.clock.advance(pause)
        watched.scan(2)
    assert [(each["what"], each["outcome"], each["why"], each["means"]) for each in watched.audit.noted] == [
        ("march.tar", "failed", "full", "inbox"),
        ("may.tar", "refused", "signed by a stranger", "inbox"),
        ("march.tar", "failed", "broken", "inbox"),
        ("march.tar", "done", f"receipt {RECEIPT.id}", "inbox"),
    ]
    assert {each["action"] for each in watched.audit.noted} == {"import"}
