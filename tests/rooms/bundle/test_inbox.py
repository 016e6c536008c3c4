"""The inbox: what is put into a folder is imported, and what became of it lies beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance.bundle.inbox import INTERVAL, RETRY, Inbox
from appliance.bundle.receipt import Receipt
from appliance.errors import BundleDamaged, BundleIncomplete, PullcacheError
from appliance.flow.threads import InlineThreads
from tests.doubles.pullthrough import clock_at, result

RECEIPT = Receipt(
    bundle="sha256:b", format="pullcache bundle", files=[], finished="2027-01-15T08:00:00Z", dry_run=False
)


class Watched:
    """
    An inbox and what it imported.

    @ivar errors: what the next imports fail with.
    @ivar slow: whether imports wait.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = clock_at()
        self.imported: list[list[str]] = []
        self.errors: list[Exception] = []
        self.waiting: list[Deferred[None]] = []
        self.slow = False
        self.inbox = Inbox(folder, self.run, InlineThreads(), self.clock)
        self.inbox.start()

    async def run(self, files: list[Path]) -> Receipt:
        self.imported.append([file.name for file in files])
        assert all(file.parent == self.folder and file.exists() for file in files)
        if self.slow:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        if self.errors:
            raise self.errors.pop(0)
        return RECEIPT

    def put(self, name: str, data: bytes = b"x") -> None:
        (self.folder / name).write_bytes(data)

    def look(self, times: int = 1) -> None:
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
    watched.look()
    assert watched.imported == []
    watched.look()
    assert watched.imported == [["march.tar"]]
    assert watched.there() == [] and watched.there("done") == ["march.tar", "march.tar.json"]
    assert (watched.folder / "done" / "march.tar.json").read_bytes() == RECEIPT.encode()
    watched.look(5)
    assert len(watched.imported) == 1


def test_a_file_that_grows_is_left_to_grow(watched: Watched) -> None:
    """However long the copy takes; a change of its time counts like one of its size."""
    for size in range(1, 6):
        watched.put("a.tar", b"x" * size)
        watched.look()
    for number in range(3):
        os.utime(watched.folder / "a.tar", ns=(number, number))
        watched.look()
    assert watched.imported == []
    watched.look()
    assert watched.imported == [["a.tar"]]


def test_what_is_being_copied_or_hidden_is_left_alone(watched: Watched) -> None:
    """A name that ends in .part or begins with a dot; folders and links too."""
    watched.put("a.tar.part")
    watched.put(".a.tar")
    (watched.folder / "folder").mkdir()
    (watched.folder / "link").symlink_to("/etc/passwd")
    watched.look(5)
    assert watched.imported == []
    (watched.folder / "a.tar.part").rename(watched.folder / "a.tar")
    watched.look(2)
    assert watched.imported == [["a.tar"]]


def test_what_is_refused_lies_beside_its_reason(watched: Watched) -> None:
    """In words, and for programs; it is not tried again."""
    watched.errors = [BundleDamaged("a.tar: cut off at byte 5120; copy it again"), BundleIncomplete("x", ("sha256:a",))]
    watched.put("a.tar")
    watched.put("b.tar")
    watched.look(5)
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
    assert reasons[1]["missing"] == ["sha256:a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a mistake of ours")])
def test_what_our_own_side_could_not_take_stays_and_is_tried_again(
    watched: Watched, error: Exception, logged_errors: list[dict[str, Any]]
) -> None:
    """A full disk is not the bundle's fault."""
    watched.errors = [error]
    watched.put("a.tar")
    watched.look(2)
    assert watched.there() == ["a.tar"]
    watched.look(int(RETRY / INTERVAL) - 2)
    assert len(watched.imported) == 1
    watched.look(3)
    assert len(watched.imported) == 2 and watched.there("done") == ["a.tar", "a.tar.json"]
    logged_errors.clear()


def test_volumes_wait_for_each_other(watched: Watched) -> None:
    """They are imported together once all are there, and moved together."""
    watched.put("m-1f2e.v01of02.tar")
    watched.put("m-9999.v02of02.tar")
    watched.put("other.tar")
    watched.look(5)
    assert watched.imported == [["other.tar"]]
    watched.put("m-1f2e.v02of02.tar")
    watched.look(2)
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
        watched.look(2)
    assert watched.there("done") == ["2-a.tar", "2-a.tar.json", "a.tar", "a.tar.json"]
    assert (watched.folder / "done" / "a.tar").read_bytes() == b"first"


def test_one_import_at_a_time(watched: Watched) -> None:
    """What comes meanwhile waits for its turn."""
    watched.slow = True
    watched.put("a.tar")
    watched.look(2)
    watched.put("b.tar")
    watched.look(5)
    assert watched.imported == [["a.tar"]]
    watched.slow = False
    watched.waiting[0].callback(None)
    watched.look(3)
    assert watched.imported == [["a.tar"], ["b.tar"]]


def test_a_folder_that_is_gone_is_looked_for_again(watched: Watched, logged_errors: list[dict[str, Any]]) -> None:
    """A stick that was pulled out and comes back."""
    away = watched.folder.with_name("away")
    watched.folder.rename(away)
    watched.look(2)
    away.rename(watched.folder)
    watched.put("a.tar")
    watched.look(2)
    assert watched.imported == [["a.tar"]] and logged_errors == []


def test_a_file_that_vanishes_is_forgotten(watched: Watched) -> None:
    """Somebody changed their mind."""
    watched.put("a.tar")
    watched.look()
    (watched.folder / "a.tar").unlink()
    watched.look(3)
    assert watched.imported == []


def test_a_stop_cuts_the_import_and_leaves_the_file(tmp_path: Path) -> None:
    """The next start takes it up."""
    watched = Watched(tmp_path)
    watched.slow = True
    watched.put("a.tar")
    watched.look(2)
    result(watched.inbox.stop())
    assert watched.waiting[0].called and watched.there() == ["a.tar"]
    watched.look(5)
    assert len(watched.imported) == 1
    again = Watched(tmp_path)
    again.look(2)
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
    watched.look(2)
    assert watched.there() == ["a.tar"] and watched.there("refused") == []
    assert not issubclass(CancelledError, PullcacheError)
