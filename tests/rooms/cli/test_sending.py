"""pullcache import towards an appliance elsewhere: what is sent, and what becomes of lines that are cut."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from appliance.bundle.receipt import Receipt
from appliance.cli.client import read
from appliance.cli.command import Session
from appliance.cli.failures import AnswerCut, CommandFailed, RefusedByAppliance, Unreachable
from appliance.cli.imports import is_elsewhere
from appliance.cli.main import Invocation
from appliance.cli.screen import Screen, meter_for
from appliance.cli.sending import FIRST_PART, LAST_WORD, MAX_PART, TRIES, send
from tests.rooms.cli.bundles import LAYER, single
from tests.rooms.cli.runs import Answer, Appliance, NoReactor, ask
from tests.rooms.cli.test_import import receipt

END = {"receipt": json.loads(receipt().encode())}


def wanted(octets: int, start: int = 0) -> dict[str, Any]:
    """The line that asks for a layer."""
    entry = {"archive": 0, "entry": "a", "start": start}
    return {"stage": "wanted", "sending": "x", "bytes": octets, "wanted": [entry]}


class Elsewhere:
    """
    An appliance that answers as it is told, connection by connection.

    @ivar answers: of each, lines and what it breaks with, or what is raised at once.
    @ivar heads: what was sent first; C{put}: where each part went, and its length.
    """

    url = "http://appliance.test:5001"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.heads: list[bytes] = []
        self.parts: list[tuple[str, str, int]] = []
        self.fault: Exception | None = None
        self.most = MAX_PART
        self.refuses: Deferred[None] = Deferred()

    async def open(self, method: str, path: str, body: bytes, content_type: str) -> Any:
        assert (method, path) == ("POST", "imports/sendings")
        self.heads.append(body)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def lines(self, answer: Any) -> AsyncIterator[Any]:
        for each in answer:
            if isinstance(each, Exception):
                raise each
            yield each if isinstance(each, dict) else await each

    async def put(self, path: str, body: Any, content_type: str, parameters: dict[str, str]) -> None:
        self.parts.append((path, parameters["at"], body.length))
        if self.fault is not None:
            raise self.fault
        if body.length > self.most:
            await self.refuses
            raise RefusedByAppliance("a proxy takes no request so large", "too-large")

    def as_kind(self, document: Any, kind: Any) -> Any:
        return read(document, kind)


class Run:
    """One command."""

    def __init__(self, appliance: Elsewhere, file: Path) -> None:
        self.pauses: list[float] = []
        self.err = StringIO()
        screen = Screen(StringIO(), self.err, False)
        session: Any = Session(screen, lambda: meter_for(screen, lambda: 0.0), appliance, self._pause)  # type: ignore[arg-type]
        self.ends: list[Any] = []
        Deferred.fromCoroutine(send(session, [file], {})).addBoth(self.ends.append)

    def _pause(self, seconds: float) -> Deferred[None]:
        self.pauses.append(seconds)
        return succeed(None)

    @property
    def receipt(self) -> Receipt:
        assert isinstance(self.ends[0], Receipt), self.ends
        return self.ends[0]

    @property
    def error(self) -> Any:
        return self.ends[0].value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout" / "a").write_bytes(bytes(1000))
    return tmp_path / "layout"


def test_what_is_wanted_is_sent_from_where_it_is_lacking(file: Path) -> None:
    """And no more of it."""
    appliance = Elsewhere([wanted(400, 600), END])
    assert Run(appliance, file).receipt.bundle
    assert appliance.parts == [("imports/sendings/x", "0", 400)]


def test_a_line_that_is_cut_is_taken_up_again(file: Path) -> None:
    """The same head each time; the appliance says what it lacks by then."""
    cut = AnswerCut("the connection broke")
    appliance = Elsewhere([wanted(1000), cut], Unreachable("no appliance answers"), [wanted(300, 700), cut], [END])
    run = Run(appliance, file)
    assert run.receipt.bundle and len(set(appliance.heads)) == 1
    assert run.pauses == [1.0, 2.0, 1.0] and run.err.getvalue().count("trying again") == 3


def test_it_is_given_up_where_nothing_comes_further(file: Path) -> None:
    """With the reason of the last attempt."""
    appliance = Elsewhere(*([wanted(1000), AnswerCut("broke")] for _ in range(TRIES + 5)))
    run = Run(appliance, file)
    assert isinstance(run.error, AnswerCut) and len(appliance.heads) == TRIES and max(run.pauses) <= 30


def test_an_appliance_that_was_never_there_is_not_waited_for(file: Path) -> None:
    """The address may be wrong."""
    run = Run(Elsewhere(Unreachable("no appliance answers")), file)
    assert isinstance(run.error, Unreachable) and not run.pauses


def test_what_the_appliance_refuses_is_not_sent_again(file: Path) -> None:
    """But where it is being stopped, or is busy, it is."""
    refused = {"error": {"code": "bundle-untrusted", "message": "not signed"}}
    assert isinstance(Run(Elsewhere([refused]), file).error, RefusedByAppliance)
    stopped = {"error": {"code": "stopped", "message": "later"}}
    assert Run(Elsewhere([stopped], [END]), file).receipt.bundle


def test_what_the_appliance_says_counts_where_a_part_is_refused(file: Path) -> None:
    """A part that is refused does not say why; the line of the import does."""
    appliance = Elsewhere([wanted(1000), {"error": {"code": "bundle-damaged", "message": "wrong bytes"}}])
    appliance.fault = RefusedByAppliance("the import has ended", "ended")
    run = Run(appliance, file)
    assert str(run.error) == "wrong bytes" and run.pauses == [LAST_WORD]


def test_parts_grow_as_far_as_they_come_through(file: Path) -> None:
    """A proxy that was told nothing takes one MB; one that waits for a slow line may give it up, so half is tried."""
    size = 7 * FIRST_PART
    (file / "a").write_bytes(bytes(size))
    appliance = Elsewhere([wanted(size), Deferred()], [wanted(size - 3 * FIRST_PART, 3 * FIRST_PART), END])
    appliance.most = 2 * FIRST_PART
    run = Run(appliance, file)
    appliance.refuses.callback(None)
    assert run.receipt.bundle
    assert [length // FIRST_PART for _, _, length in appliance.parts] == [1, 2, 4, 1, 2, 1]
    appliance = Elsewhere([wanted(size), Deferred()])
    appliance.most = FIRST_PART - 1
    run = Run(appliance, file)
    appliance.refuses.callback(None)
    assert isinstance(run.error, RefusedByAppliance) and "so large" in str(run.error)


def test_parts_grow_slowly_where_one_did_not_come_through(file: Path) -> None:
    """A proxy that waits for a slow line to bring a large one gives it up, each time anew."""
    size, cut = 10 * FIRST_PART, Deferred[Any]()
    (file / "a").write_bytes(bytes(size))
    appliance = Elsewhere([wanted(size), cut], [wanted(size), END])
    appliance.most = 2 * FIRST_PART
    run = Run(appliance, file)
    appliance.most = MAX_PART
    cut.errback(AnswerCut("broke"))
    assert run.receipt.bundle
    assert [length // FIRST_PART for _, _, length in appliance.parts] == [1, 2, 4, 1, 2, 3, 4]


def test_a_head_that_is_too_large_is_not_sent(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what can be done instead."""
    monkeypatch.setattr("appliance.cli.sending.MAX_SENDING_HEAD", 10)
    run = Run(Elsewhere(), file)
    assert isinstance(run.error, CommandFailed) and "several bundles" in str(run.error)


def test_the_head_of_a_bundle_holds_its_documents_and_no_layer(tmp_path: Path) -> None:
    """A dry run sends nothing else."""
    path = tmp_path / "b.tar"
    single(path)
    appliance = Elsewhere([END])
    Run(appliance, path)
    assert b'"schemaVersion"' in appliance.heads[0] and LAYER not in appliance.heads[0]


@pytest.mark.parametrize(
    ("url", "elsewhere"),
    [
        ("http://127.0.0.1:5001", False),
        ("http://localhost:5001", False),
        ("http://[::1]:5001", False),
        ("unix:/run/pullcache/admin.sock", False),
        ("https://cache.site:5001", True),
        ("http://10.0.0.7:5001", True),
        ("http://[2001:db8::1]:5001", True),
    ],
)
def test_files_are_sent_where_the_appliance_is_on_another_machine(url: str, elsewhere: bool) -> None:
    """As far as its address tells; --send says it where a tunnel hides it."""
    assert is_elsewhere(url) is elsewhere


def test_what_is_not_here_cannot_be_sent() -> None:
    """It is said at once, and of this machine."""
    appliance = Appliance({})
    ended = ask(appliance, "import", "--send", "/there/a.tar")
    assert ended.code == 1 and "as seen from here; --send sends what is here" in ended.err and not appliance.asked


@pytest.mark.parametrize(("status", "said"), [(502, "does not reach it"), (413, "client_max_body_size")])
def test_a_proxy_on_the_way_is_told_from_the_appliance(tmp_path: Path, status: int, said: str) -> None:
    """What it answers has no reason of its own."""
    (tmp_path / "layout").mkdir()
    appliance = Appliance({"POST imports/sendings": Answer(b"<html>", status)})
    ended = ask(appliance, "import", "--send", str(tmp_path / "layout"))
    assert ended.code == 1 and said in ended.err


def test_files_that_are_not_here_are_the_appliances_own(tmp_path: Path) -> None:
    """It is asked to read them itself, as ever."""
    appliance = Appliance({"POST imports": Answer(json.dumps(END).encode() + b"\n")})
    assert ask(appliance, "import", "/there/a.tar").code == 0
    (tmp_path / "layout").mkdir()
    appliance.answers["POST imports/sendings"] = Answer(json.dumps(END).encode() + b"\n")
    assert ask(appliance, "import", str(tmp_path / "layout")).code == 0
    assert [each.path for each in appliance.asked] == ["imports", "imports/sendings"]


def test_a_fault_of_the_program_ends_it() -> None:
    """With its traceback, as of any program: it does not stay behind waiting for a command that is over."""
    reactor = NoReactor()

    async def broken() -> int:
        raise RuntimeError("a mistake of ours")

    invocation = Invocation(reactor, Screen(StringIO(), StringIO(), False))  # type: ignore[arg-type]
    invocation.run(broken()).addErrback(lambda failure: failure.trap(RuntimeError))
    assert [trigger().called for trigger in reactor.triggers] == [True]
