"""The audit log: what is kept, that it is on the disk, and what it costs when refusals come fast."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from treq.testing import StubTreq
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from appliance.admin import audit as audits
from appliance.admin import auditfile
from appliance.admin.app import AdminApp
from appliance.admin.audit import ADDRESSES, AGAIN, ALL, EACH, MANY, MINUTE, TOGETHER, Audit, AuditPage
from appliance.admin.auditfile import KEPT, AuditFile
from appliance.admin.metrics import Metrics
from appliance.flow.disk import InlineThreads
from appliance.interfaces import IAudit, IThreads
from tests.contracts.audit import AuditContract
from tests.doubles.audit import NotedAudit
from tests.doubles.deferreds import pending, result
from tests.doubles.pullthrough import clock_at
from tests.doubles.threads import HeldThreads

LARGE = 1 << 30


def lines_of(*paths: Path) -> list[dict[str, Any]]:
    """What the files say, in order."""
    return [msgspec.json.decode(line) for path in paths for line in path.read_bytes().splitlines()]


class AuditTests(AuditContract):
    """The one on the disk."""

    __test__ = True

    def make(self) -> IAudit:
        """Over a folder of its own."""
        self.path = Path(mkdtemp()) / "audit" / "audit.jsonl"
        return Audit(AuditFile(self.path, LARGE), InlineThreads(), clock_at())

    def read(self, audit: IAudit) -> list[dict[str, Any]]:
        """By its file."""
        result(audit.flush())
        return [{name: value for name, value in line.items() if name != "time"} for line in lines_of(self.path)]


class NotedAuditTests(AuditContract):
    """That of the tests."""

    __test__ = True

    def make(self) -> IAudit:
        """An empty one."""
        return NotedAudit()

    def read(self, audit: IAudit) -> list[dict[str, Any]]:
        """As it keeps it."""
        assert isinstance(audit, NotedAudit)
        return audit.noted


class Kept:
    """An audit log over a folder."""

    def __init__(self, folder: Path, limit: int = LARGE, threads: IThreads | None = None) -> None:
        self.path = folder / "audit.jsonl"
        self.clock: Clock = clock_at()
        self.file = AuditFile(self.path, limit)
        self.audit = Audit(self.file, threads or InlineThreads(), self.clock)
        self.note = self.audit.note

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Those of the newest file."""
        return lines_of(self.path) if self.path.exists() else []

    @property
    def files(self) -> list[Path]:
        """Oldest first."""
        return [path for path in reversed(list(self.file._files())) if path.exists()]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


# -- what was done ----------------------------------------------------------------------------------------------------


def test_what_was_done_is_written_at_once(kept: Kept) -> None:
    """When, what, and who; nothing waits for a second to pass. Only the appliance's own group may read it."""
    kept.note("remove", "docker.io/library/nginx:1", "done", user="token 2", means="token", address="192.0.2.1")
    (line,) = kept.lines
    assert line == {
        "time": "2027-01-15T08:00:00.000Z",
        "action": "remove",
        "what": "docker.io/library/nginx:1",
        "outcome": "done",
        "user": "token 2",
        "means": "token",
        "address": "192.0.2.1",
    }
    assert kept.path.stat().st_mode & 0o007 == 0


def test_lines_are_synced_before_they_are_said_to_be_durable(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """As is the file's name, when it is new: a power cut takes neither."""
    calls: list[str] = []

    def noted(name: str) -> Any:
        do = getattr(os, name)
        return lambda *args: (calls.append(name), do(*args))[1]

    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, noted(name))
    kept.note("start", "", "done")
    assert calls == ["write", "fsync", "fsync"]
    kept.note("stop", "", "done")
    assert calls[3:] == ["write", "fsync"]


def test_what_comes_while_lines_are_written_is_synced_together(tmp_path: Path) -> None:
    """A hundred removals cost two writes; each that waits is told when its own line is on the disk."""
    threads = HeldThreads()
    kept = Kept(tmp_path, threads=threads)
    for number in range(100):
        kept.note("remove", f"a/b:{number}", "done")
    flushed = kept.audit.flush()
    assert len(threads.waiting) == 1
    threads.step()
    assert pending(flushed) and len(kept.lines) == 1
    threads.step()
    assert result(flushed) is None and not threads.waiting
    assert [line["what"] for line in kept.lines] == [f"a/b:{number}" for number in range(100)]
    assert result(kept.audit.flush()) is None


def test_who_waits_for_the_last_line_is_told(tmp_path: Path) -> None:
    """Also when it is being written and nothing follows it, as at a stop."""
    threads = HeldThreads()
    kept = Kept(tmp_path, threads=threads)
    kept.note("stop", "", "done")
    flushed = kept.audit.flush()
    assert pending(flushed)
    threads.step()
    assert result(flushed) is None and len(kept.lines) == 1


def test_a_stop_waits_for_no_disk_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_errors: list[Any]
) -> None:
    """Not for what was being written, and not for what would have been next."""
    threads = HeldThreads()
    kept = Kept(tmp_path, threads=threads)
    kept.note("reload", "", "done")
    first = kept.audit.flush()
    kept.note("stop", "", "done")
    second = kept.audit.flush()

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    threads.step()
    assert first.called and second.called and kept.audit.flush().called
    logged_errors.clear()
    kept.clock.getDelayedCalls()[0].cancel()


def test_half_a_line_that_a_power_cut_left_spoils_no_other(kept: Kept) -> None:
    """It stays as it is, and the next one begins a line."""
    kept.path.write_bytes(b'{"time":"2027-01-15T07')
    kept.note("start", "", "done")
    torn, line, _ = kept.path.read_bytes().split(b"\n")
    assert torn == b'{"time":"2027-01-15T07' and msgspec.json.decode(line)["action"] == "start"


def test_a_disk_that_takes_nothing_loses_no_line_for_a_while(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, logged_errors: list[Any]
) -> None:
    """It is tried again, nothing is written twice, and what could not be kept for want of memory is counted."""
    write = os.write

    def half(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", full)
        return write(fd, data[:10])

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    kept.note("start", "", "done")
    monkeypatch.setattr(os, "write", half)
    kept.note("pin", "a/b:1", "done")
    assert len(kept.lines) == 1
    monkeypatch.setattr(audits, "WAITING", 300)
    for number in range(2, 6):
        kept.note("pin", f"a/b:{number}", "done")
    kept.clock.advance(AGAIN)
    assert len(kept.lines) == 1 and kept.audit.waiting() == 5
    assert "No space left on device" in str(logged_errors)
    logged_errors.clear()
    result(kept.audit.flush())
    monkeypatch.setattr(os, "write", write)
    kept.clock.advance(AGAIN)
    assert [line["what"] for line in kept.lines] == ["", "a/b:1", "a/b:2", "a/b:3", ""]
    assert kept.lines[-1]["action"] == "audit" and "2 lines" in kept.lines[-1]["why"]
    assert kept.audit.waiting() == 0 and kept.clock.getDelayedCalls() == []


def test_a_file_that_was_put_aside_by_others_is_followed_by_a_new_one(kept: Kept) -> None:
    """As logrotate does."""
    kept.note("start", "", "done")
    kept.path.rename(kept.path.with_name("elsewhere"))
    kept.note("stop", "", "done")
    assert [line["action"] for line in kept.lines] == ["stop"]


def test_files_do_not_grow_without_end(tmp_path: Path) -> None:
    """They are put aside when they are large enough, and the oldest ones go; no line is torn between two."""
    kept = Kept(tmp_path, limit=300)
    for number in range(100):
        kept.note("pin", f"a/b:{number}", "done")
    assert len(kept.files) == KEPT + 1 and max(path.stat().st_size for path in kept.files) <= 300
    said = [int(line["what"][4:]) for line in lines_of(*kept.files)]
    assert said == list(range(said[0], 100)) and len(said) > 20


class Killed(BaseException):
    """The process is gone; nothing it would still do happens."""


@pytest.mark.parametrize("call", range(1, 40))
def test_a_kill_at_any_call_loses_no_line_that_was_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Also while files are put aside: each line stays once and in its place, and the next ones follow."""
    path, durable = tmp_path / "audit.jsonl", list[bytes]()
    calls = 0

    def dying(name: str) -> Any:
        do = getattr(os, name)

        def wrapped(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call and name == "write":
                do(args[0], args[1][:5])
            if calls >= call:
                raise Killed
            return do(*args, **more)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("write", "fsync", "rename", "ftruncate"):
            patch.setattr(os, name, dying(name))
        with pytest.raises(Killed):
            for number in range(100):
                line = b'{"what":"%d"}\n' % number
                AuditFile(path, 40).append([line])
                durable.append(line.strip())
    after = AuditFile(path, 40)
    after.append([b'{"what":"after"}\n'])
    # The last one may be there, though no caller was told so, or half of it.
    last = b'{"what":"%d"}' % len(durable)
    *kept, end = (line for line in reversed(list(after.backwards())) if not last.startswith(line))
    assert end == b'{"what":"after"}' and len(kept) >= min(len(durable), 2 * KEPT)
    assert kept == durable[len(durable) - len(kept) :]


def test_switched_off_it_keeps_nothing(tmp_path: Path) -> None:
    """And costs nothing; what was noted before is written all the same."""
    threads = HeldThreads()
    kept = Kept(tmp_path, threads=threads)
    kept.note("start", "", "done")
    kept.note("reload", "", "done")
    kept.audit.file = None
    kept.note("remove", "a/b:1", "done")
    kept.note("pull", "a/b:1", "refused")
    while threads.waiting:
        threads.step()
    assert [line["action"] for line in kept.lines] == ["start", "reload"]
    assert kept.clock.getDelayedCalls() == []


def test_a_field_is_bounded(kept: Kept) -> None:
    """A path of sixteen thousand characters is not written a thousand times."""
    kept.note("export", "x" * 20_000, "failed")
    assert len(kept.path.read_bytes()) < 1000


# -- what was refused -------------------------------------------------------------------------------------------------


def refuse(kept: Kept, what: str, address: str = "192.0.2.1", **said: str) -> None:
    kept.note("pull", what, "refused", address=address, **said)


def test_equal_refusals_of_a_second_are_one_line(kept: Kept) -> None:
    """With how many there were, and the moment of the first."""
    for _ in range(1000):
        refuse(kept, "ghcr.io/team/app", rule="access[1]")
    refuse(kept, "ghcr.io/team/app", rule="access[2]")
    assert kept.lines == []
    kept.clock.advance(TOGETHER)
    assert [(line.get("times", 1), line["rule"], line["time"]) for line in kept.lines] == [
        (1000, "access[1]", "2027-01-15T08:00:00.000Z"),
        (1, "access[2]", "2027-01-15T08:00:00.000Z"),
    ]
    refuse(kept, "ghcr.io/team/app")
    kept.clock.advance(TOGETHER)
    assert len(kept.lines) == 3


def test_what_was_done_meanwhile_waits_for_no_refusal(kept: Kept) -> None:
    """It is durable while refusals are still counted."""
    refuse(kept, "ghcr.io/team/app")
    kept.note("remove", "ghcr.io/team/app:1", "done")
    assert [line["action"] for line in kept.lines] == ["remove"]


def test_one_address_that_tries_every_name_does_not_fill_the_log(kept: Kept) -> None:
    """A minute of a thousand refusals a second, all different, is a few lines; others have theirs in full."""
    for second in range(int(MINUTE)):
        for number in range(1000):
            refuse(kept, f"ghcr.io/guess/{second}-{number}", "203.0.113.9")
        refuse(kept, f"ghcr.io/team/{second}", "192.0.2.1")
        kept.clock.advance(1)
    kept.clock.advance(MINUTE)
    theirs = [line for line in kept.lines if line["address"] == "203.0.113.9"]
    assert len(theirs) == EACH + 1
    assert sum(line.get("times", 1) for line in theirs) == 1000 * MINUTE
    assert theirs[-1]["why"] == MANY and theirs[-1]["what"] == ""
    assert sum(line["address"] == "192.0.2.1" for line in kept.lines) == MINUTE
    assert kept.clock.getDelayedCalls() == []


def test_a_checker_that_is_away_does_not_fill_the_log(kept: Kept) -> None:
    """A login that could not be looked at is noted as failed, and any client may try a thousand a second."""
    for number in range(1000):
        kept.note("login", f"listen-{number}", "failed", means="basic", address="192.0.2.1", why="LDAP is away")
    result(kept.audit.flush())
    assert len(kept.lines) == EACH + 1
    assert kept.lines[-1] | {"time": ""} == {
        "time": "",
        "action": "login",
        "what": "",
        "outcome": "failed",
        "address": "192.0.2.1",
        "times": 1000 - EACH,
        "why": MANY,
    }


def test_many_addresses_do_not_fill_the_log_either(kept: Kept) -> None:
    """An IPv6 network has more of them than the disk has bytes; none of the refusals is left out of the count."""
    count = 5000
    for number in range(count):
        refuse(kept, f"ghcr.io/guess/{number}", f"2001:db8::{number:x}")
    kept.clock.advance(MINUTE)
    assert len(kept.lines) <= ALL + ADDRESSES + 1
    assert sum(line.get("times", 1) for line in kept.lines) == count
    assert "address" not in kept.lines[-1] and kept.lines[-1]["times"] == count - ALL - ADDRESSES


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 40)), max_size=60))
def test_no_refusal_is_left_out(said: list[tuple[str, int, int]]) -> None:
    """However they come, each is counted once in some line of its action, when a minute is over."""
    kept = Kept(Path(mkdtemp()))
    for what, address, pause in said:
        refuse(kept, what * EACH, f"192.0.2.{address}")
        kept.clock.advance(pause / 10)
    kept.clock.advance(MINUTE)
    assert sum(line.get("times", 1) for line in kept.lines) == len(said)


# -- reading it -------------------------------------------------------------------------------------------------------


class Desk:
    """An operator who asks for the audit log."""

    def __init__(self, kept: Kept) -> None:
        page = AuditPage(kept.audit, InlineThreads(), kept.clock)
        app = AdminApp(Metrics(kept.clock, None), lambda: succeed(None), NotedAudit(), [page.routes()])
        self.treq = StubTreq(app.site().resource)

    def ask(self, query: str = "") -> tuple[int, Any]:
        """Status and document."""
        response = result(self.treq.get(f"http://127.0.0.1:5001/api/v1/audit{query}"))
        return response.code, msgspec.json.decode(result(self.treq.content(response)))

    def what(self, query: str = "") -> list[str]:
        """Of each line, what it is about."""
        code, document = self.ask(query)
        assert code == 200, document
        return [entry["what"] for entry in document["entries"]]


def test_an_operator_reads_what_came_until_now(kept: Kept) -> None:
    """Oldest first, refusals of this very second too; what is no line is left out."""
    kept.path.write_bytes(b"garbage\n{}\n[1]\n")
    refuse(kept, "a/b", user="bob", means="basic")
    kept.clock.advance(0.5)
    kept.note("remove", "a/b:1", "done", user="alice")
    code, document = Desk(kept).ask()
    assert (code, document["isCut"]) == (200, False)
    assert [entry["what"] for entry in document["entries"]] == ["a/b", "a/b:1"]
    assert document["entries"][0]["user"] == "bob"


def test_what_is_shown_can_be_chosen(kept: Kept) -> None:
    """By age, action, outcome and user; the newest, where there are more than asked for."""
    kept.note("pin", "old", "done", user="alice")
    kept.clock.advance(7200)
    kept.note("remove", "1", "failed", user="alice")
    kept.note("remove", "2", "done", user="bob")
    kept.note("pin", "3", "done", user="bob")
    desk = Desk(kept)
    assert desk.what() == ["old", "1", "2", "3"]
    assert desk.what("?since=1h") == ["1", "2", "3"]
    assert desk.what("?action=remove") == ["1", "2"]
    assert desk.what("?action=remove&action=pin&outcome=done") == ["old", "2", "3"]
    assert desk.what("?user=alice") == ["old", "1"]
    assert desk.what("?limit=2") == ["2", "3"] and desk.ask("?limit=2")[1]["isCut"]
    assert not desk.ask("?limit=4")[1]["isCut"]
    for wrong in ("?since=1", "?limit=0", "?limit=1000000", "?colour=red"):
        assert desk.ask(wrong)[0] == 400


def test_what_was_put_aside_is_read_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the ends of files and of the pieces they are read in."""
    monkeypatch.setattr(auditfile, "BLOCK", 256)
    kept = Kept(tmp_path, limit=2000)
    for number in range(60):
        kept.note("pin", str(number), "done")
    assert len(kept.files) > 2
    assert Desk(kept).what() == [str(number) for number in range(60)]


def test_switched_off_it_says_so(kept: Kept) -> None:
    """An empty list would say that nothing happened."""
    kept.audit.file = None
    code, document = Desk(kept).ask()
    assert code == 409 and "audit_log" in document["error"]["message"]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 40))
def test_lines_are_read_backwards_as_they_were_written(lines: list[bytes], block: int) -> None:
    """Whatever lengths they have, and wherever a piece ends that is read at once."""
    lines = [line.replace(b"\n", b"") or b"-" for line in lines]
    lines = [line[:block] for line in lines]
    path = Path(mkdtemp()) / "audit.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditfile, "BLOCK", block)
        assert list(AuditFile(path, LARGE).backwards()) == lines[::-1]
