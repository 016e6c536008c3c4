"""The small parts: threads, growth, and files written so that they survive."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from appliance.errors import UpstreamUnavailable
from appliance.flow.body import Growth
from appliance.flow.disk import DiskThreads, InlineThreads, is_refusal, make_folder, stamp_of, write_file
from appliance.interfaces import IThreads
from tests.contracts.threads import ThreadsContract


class TestInlineThreads(ThreadsContract):
    __test__ = True

    def make(self) -> IThreads:
        """See the contract."""
        return InlineThreads()

    def settle(self) -> None:
        """See the contract."""

    def test_the_work_is_done_at_once(self) -> None:
        """Tests and tools without a reactor need not wait."""
        self.assertEqual(self.successResultOf(self.make().call(threading.get_ident)), threading.get_ident())


class TestDiskThreads(ThreadsContract):
    __test__ = True

    class Reactor:
        """Takes calls from threads, and makes them when told."""

        def __init__(self) -> None:
            self.calls: queue.Queue[Callable[[], None]] = queue.Queue()

        def callFromThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            self.calls.put(lambda: function(*args, **kwargs))

    def make(self) -> IThreads:
        """See the contract."""
        self.reactor = self.Reactor()
        pool = ThreadPool(1, 1)
        pool.start()
        self.addCleanup(pool.stop)
        return DiskThreads(self.reactor, pool)  # type: ignore[arg-type]  # as much of a reactor as it takes

    def settle(self) -> None:
        """See the contract."""
        self.reactor.calls.get(timeout=10)()

    def test_the_work_is_done_in_a_thread_and_its_result_comes_here(self) -> None:
        """The reactor turns while the disk is slow, and gets the result on its own thread."""
        told: list[int] = []
        working = self.make().call(threading.get_ident)
        working.addCallback(lambda worker: told.extend([worker, threading.get_ident()]))
        self.settle()
        self.assertNotEqual(told[0], told[1])
        self.assertEqual(told[1], threading.get_ident())


# -- growth -----------------------------------------------------------------------------------------------------------


def test_who_waits_gets_one_result() -> None:
    """Of more, or of the end; one who gave up, or never waited, is not."""
    growth = Growth(2)
    told: list[str] = []

    def wait(name: str, again: bool = False) -> Deferred[None]:
        def grown(_: None) -> None:
            told.append(name)
            if again:
                waiting[name] = wait(name, again)

        changed = growth.changed()
        changed.addCallbacks(grown, lambda failure: failure.trap(CancelledError))
        return changed

    waiting = {"one": wait("one"), "again": wait("again", True)}
    growth.advance(2)
    growth.advance(1)
    assert (told, growth.available) == ([], 2)
    growth.advance(3)
    waiting["one"].cancel()
    growth.advance(4)
    waiting["again"].cancel()
    growth.advance(5)
    assert (told, growth.available) == (["one", "again", "again"], 5)
    wait("one")
    growth.fail(Failure(UpstreamUnavailable("docker.io", "gone")))
    assert told[3:] == ["one"]
    assert growth.failure is not None


# -- durable files ----------------------------------------------------------------------------------------------------


def test_a_folder_and_its_parents_are_made_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new folder is in its parent for good before anything is put into it."""
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}"))))
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_folder(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    """It is not taken for one, and not removed."""
    (tmp_path / "a").write_bytes(b"kept")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(OSError, match="a"):
            make_folder(folder)
    assert (tmp_path / "a").read_bytes() == b"kept"


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_refused_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """No temporary file stays beside it."""
    path, temporary = tmp_path / "file", tmp_path / "file.tmp"
    write_file(path, b"old", temporary)

    def refuse(*_: object) -> None:
        raise OSError(28, "no room")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(OSError, match="no room"):
        write_file(path, b"new", temporary)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"
    temporary.write_bytes(b"left by a crash, and longer")
    write_file(path, b"new", temporary)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"new"


def test_whatever_the_disk_says_to_a_write_is_a_refusal() -> None:
    """Known words, unknown ones and none; a file that this program has closed says nothing of the disk."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ESTALE, errno.EACCES, errno.EMFILE, 9999, None):
        assert is_refusal(OSError(number, "no"))
    assert not is_refusal(OSError(errno.EBADF, "closed")) and not is_refusal(UpstreamUnavailable("up", "gone"))


def test_a_file_is_another_when_it_is_written_or_replaced(tmp_path: Path) -> None:
    """What did not change is the same."""
    path, other = tmp_path / "users", tmp_path / "other"
    assert stamp_of(path) is None
    path.write_text("one")
    seen = [stamp_of(path)]
    assert stamp_of(path) == seen[0]
    other.write_text("two")
    other.rename(path)
    seen.append(stamp_of(path))
    path.write_text("longer")
    seen.append(stamp_of(path))
    assert len(set(seen)) == 3
