"""An upstream that is asked for no more at once than it is meant to give, in a limited order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer

from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.upstream.concurrency import ConcurrencyLimit, LimitedUpstream, Priority
from appliance.upstream.interfaces import Availability, Condition, Health, IBlobResponse, UrlCondition
from tests.contracts.upstream import REPOSITORY, Held, Taker, UpstreamContract
from tests.doubles.deferreds import failing, result
from tests.doubles.upstream import ScriptedBody, ScriptedUpstream

BLOB = bytes(range(256)) * 10
DIGEST = Digest.of(BLOB)
MANIFEST = b'{"schemaVersion": 2}'

DOWN = UrlCondition("https://registry.example", Health.DOWN, 0.0)
UP = UrlCondition("https://registry.example", Health.UP, 0.0)
RATE_LIMITED = UrlCondition("https://mirror.example", Health.RATE_LIMITED, 0.0)


class TestOneAtATime(UpstreamContract):
    """It keeps the promises of IUpstream with a single permit, which nothing leaks."""

    @pytest.fixture(autouse=True)
    def permits(self) -> Any:
        self.one = ConcurrencyLimit(1)
        yield
        assert (self.one.in_use, self.one.waiting) == (0, 0)

    def upstream_holding(self, held: Held) -> LimitedUpstream:
        scripted = ScriptedUpstream(library=True)
        for data, media_type in held.manifests.items():
            scripted.add_manifest(REPOSITORY, data, media_type, *(tag for tag, of in held.tags.items() if of == data))
        for blob in held.blobs:
            scripted.add_blob(REPOSITORY, blob)
        for subject, listed in held.referrers.items():
            scripted.add_referrers(REPOSITORY, Digest.of(subject), *listed)
        return LimitedUpstream(scripted, self.one)


class TestWithRoom(TestOneAtATime):
    """It keeps the promises of IUpstream with more permits than it needs."""

    @pytest.fixture(autouse=True)
    def permits(self) -> Any:
        self.one = ConcurrencyLimit(8)
        yield
        assert (self.one.in_use, self.one.waiting) == (0, 0)


def scripted(*hanging: str) -> ScriptedUpstream:
    upstream = ScriptedUpstream()
    upstream.add_manifest(REPOSITORY, MANIFEST, None, "latest")
    upstream.add_blob(REPOSITORY, BLOB)
    upstream.by_hand = True
    upstream.hang(*hanging or ("none",))
    return upstream


def test_a_manifest_passes_the_blobs_that_wait() -> None:
    """And one of the connections is kept for it: a pull begins although large blobs are under way."""
    inner = scripted()
    limited = LimitedUpstream(inner, ConcurrencyLimit(3))
    blobs = [limited.blob(REPOSITORY, DIGEST) for _ in range(5)]
    assert [blob.called for blob in blobs] == [True, True, False, False, False]
    assert result(limited.manifest(REPOSITORY, "latest")).data == MANIFEST
    assert result(limited.tags(REPOSITORY)) == ["latest"]
    assert [call.verb for call in inner.calls] == ["blob", "blob", "manifest", "tags"]


def test_background_work_goes_last() -> None:
    """A blob that a client wants now is requested before one that was wanted earlier by none."""
    inner = scripted()
    limited = LimitedUpstream(inner, ConcurrencyLimit(1))
    first = limited.blob(REPOSITORY, DIGEST, background=True)
    behind = limited.blob(REPOSITORY, DIGEST, 10, background=True)
    wanted = limited.blob(REPOSITORY, DIGEST, 20)
    result(first).abandon()
    assert wanted.called and not behind.called
    result(wanted).abandon()
    assert [(call.start, call.background) for call in inner.calls] == [(0, True), (20, False), (10, True)]
    result(behind).abandon()


def test_what_a_client_begins_to_wait_for_goes_on_as_if_it_had_asked() -> None:
    """Behind what other clients wait for, before all background work; it is sent once, whoever gives up."""
    inner = scripted("blob")
    others = [inner.add_blob(REPOSITORY, bytes([number])) for number in range(3)]
    limited = LimitedUpstream(inner, ConcurrencyLimit(1))
    first = limited.blob(REPOSITORY, DIGEST)
    behind = [limited.blob(REPOSITORY, each, background=True) for each in others]
    client = limited.blob(REPOSITORY, DIGEST)
    limited.awaited(REPOSITORY, others[2])
    limited.awaited("elsewhere", others[1])
    limited.awaited(REPOSITORY, others[1])
    limited.awaited(REPOSITORY, DIGEST)
    behind[1].cancel()
    failing(behind[1])
    for asking in (first, client, behind[2], behind[0]):
        inner.hanging[-1].answer()
        result(asking).abandon()
    digests = (DIGEST, DIGEST, others[2], others[0])
    assert [call.subject for call in inner.asked("blob")] == [str(digest) for digest in digests]
    assert inner.awaiting == [others[2], others[1], others[1], DIGEST]


def test_what_a_client_begins_to_wait_for_takes_the_place_that_is_not_for_background_work() -> None:
    """It does not wait until some background work has ended."""
    inner = scripted()
    second = inner.add_blob(REPOSITORY, b"second")
    limited = LimitedUpstream(inner, ConcurrencyLimit(3))
    limited.blob(REPOSITORY, DIGEST, background=True)
    asking = limited.blob(REPOSITORY, second, background=True)
    assert not asking.called
    limited.awaited(REPOSITORY, second)
    result(asking).abandon()


def test_a_blob_keeps_its_place_until_its_last_byte() -> None:
    """Not only until its answer begins."""
    inner = scripted()
    limited = LimitedUpstream(inner, ConcurrencyLimit(1))
    response = result(limited.blob(REPOSITORY, DIGEST))
    waiting = limited.manifest(REPOSITORY, "latest")
    delivered = response.deliver(Taker())
    inner.bodies[0].feed(len(BLOB) - 1)
    assert not waiting.called
    inner.bodies[0].complete()
    assert waiting.called and delivered.called


@pytest.mark.parametrize("ending", ["complete", "cut", "cancel", "stop", "abandon", "abandon twice", "raise"])
def test_however_a_blob_ends_the_next_is_asked(ending: str) -> None:
    """Exactly one more, and with its own end the next."""
    inner = scripted()
    limit = ConcurrencyLimit(1)
    limited = LimitedUpstream(inner, limit)
    response: IBlobResponse = result(limited.blob(REPOSITORY, DIGEST))
    waiting = [limited.blob(REPOSITORY, DIGEST) for _ in range(2)]
    taker = Refusing() if ending == "raise" else Taker()
    if ending.startswith("abandon"):
        response.abandon()
        if ending == "abandon twice":
            response.abandon()
    elif ending == "raise":
        with pytest.raises(RuntimeError):
            response.deliver(taker)
    else:
        delivered = response.deliver(taker).addErrback(lambda _: None)
        body = inner.bodies[0]
        {"complete": body.complete, "cut": body.cut, "cancel": delivered.cancel, "stop": body.stopProducing}[ending]()
        response.abandon()
    assert [each.called for each in waiting] == [True, False]
    assert (limit.in_use, limit.waiting) == (1, 1)


class Refusing(Taker):
    """Takes nothing."""

    def registerProducer(self, producer: object, streaming: bool) -> None:
        raise RuntimeError("no")


def test_an_abandoned_answer_that_is_being_delivered_keeps_its_place() -> None:
    """Its bytes still come: cancelling the delivery is what ends it."""
    inner = scripted()
    limit = ConcurrencyLimit(1)
    response = result(LimitedUpstream(inner, limit).blob(REPOSITORY, DIGEST))
    delivered = response.deliver(Taker())
    response.abandon()
    assert limit.in_use == 1
    delivered.addErrback(lambda _: None).cancel()
    assert limit.in_use == 0


def test_a_question_given_up_makes_room() -> None:
    """Whether it was asked already or waits its turn; the other questions do not notice."""
    inner = scripted("*")
    limit = ConcurrencyLimit(1)
    limited = LimitedUpstream(inner, limit)
    asked, waiting, patient = (limited.manifest(REPOSITORY, "latest") for _ in range(3))
    waiting.cancel()
    failing(waiting, CancelledError)
    assert (limit.in_use, limit.waiting) == (1, 1)
    asked.cancel()
    failing(asked, CancelledError)
    assert inner.hanging[0].cancelled
    assert len(inner.hanging) == 2
    inner.hanging[1].answer()
    assert result(patient).data == MANIFEST
    assert limit.in_use == 0


def test_everything_else_is_the_other_upstreams() -> None:
    """Its name, how names are mapped, how it is, and its end."""
    inner = scripted()
    inner.availabilities["*"] = Availability(ask=False)
    inner.conditions = Condition((UP,))
    limited = LimitedUpstream(inner, ConcurrencyLimit(1))
    limited.overdue("a")
    limited.stop()
    assert (limited.name, limited.repository("x")) == (inner.name, "x")
    assert limited.availability("a") == Availability(ask=False)
    assert limited.condition() is inner.conditions
    assert (inner.waited, inner.stopped) == (["a"], True)


def test_a_registry_is_not_late_because_questions_wait_here() -> None:
    """Who has waited for a turn of ours in vain has learnt nothing of the registry."""
    inner = scripted("manifest")
    limited = LimitedUpstream(inner, ConcurrencyLimit(1))
    first, second = limited.manifest(REPOSITORY, "latest"), limited.manifest(REPOSITORY, "latest")
    limited.overdue(REPOSITORY)
    assert inner.waited == []
    inner.hanging[0].answer()
    limited.overdue(REPOSITORY)
    assert inner.waited == [REPOSITORY]
    inner.hanging[1].answer()
    assert result(first).data == result(second).data == MANIFEST


def test_what_is_asked_for_is_passed_on() -> None:
    """Ranges and validators."""
    inner = scripted()
    inner.validator = '"v"'
    limited = LimitedUpstream(inner, ConcurrencyLimit(2))
    response = result(limited.blob(REPOSITORY, DIGEST, 5, 10, '"v"', background=True))
    call = inner.calls[0]
    assert (call.start, call.stop, call.validator, call.background) == (5, 10, '"v"', True)
    assert (response.start, response.stop, response.size, response.validator) == (5, 10, len(BLOB), '"v"')
    response.abandon()


@pytest.mark.parametrize(("urls", "waits"), [((DOWN,), False), ((DOWN, RATE_LIMITED), False), ((DOWN, UP), True)])
def test_no_question_queues_for_an_upstream_that_is_down(urls: tuple[UrlCondition, ...], waits: bool) -> None:
    """It fails at once, as promised, although a long download holds the only connection; also who waited before."""
    inner = scripted()
    limit = ConcurrencyLimit(1)
    limited = LimitedUpstream(inner, limit)
    result(limited.blob(REPOSITORY, DIGEST)).deliver(Taker())
    before = limited.blob(REPOSITORY, DIGEST)
    inner.conditions = Condition(urls)
    inner.fail(UpstreamUnavailable("docker.io", "down"))
    after = limited.manifest(REPOSITORY, "latest")
    assert (before.called, after.called) == (not waits, not waits)
    if not waits:
        failing(before, UpstreamUnavailable)
        failing(after, UpstreamUnavailable)
        assert limit.in_use == 1


class Accounts(RuleBasedStateMachine):
    """
    However questions are asked, answered, refused and given up, and bodies end: a permit is in use for every answer
    that is open and for nothing else, and no question waits while there is one for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 3
        self.limit = ConcurrencyLimit(self.most)
        self.inner = scripted("*")
        self.limited = LimitedUpstream(self.inner, self.limit)
        self.questions: list[Deferred[Any]] = []
        self.undelivered: list[IBlobResponse] = []
        self.over: list[IBlobResponse] = []
        self.delivering: list[tuple[Deferred[Any], ScriptedBody]] = []
        self.waiting_as: dict[Deferred[Any], Priority] = {}
        self.opened_as: dict[ScriptedBody, Priority] = {}

    def open_questions(self) -> list[Any]:
        return [each for each in self.inner.hanging if not each.cancelled and not each.asked.called]

    def open_bodies(self) -> list[ScriptedBody]:
        return [body for done, body in self.delivering if not done.called]

    def ranks_in_use(self) -> list[Priority]:
        asked = [_priority(each.call) for each in self.open_questions()]
        bodies = [_body(response) for response in self.undelivered] + self.open_bodies()
        return asked + [self.opened_as[body] for body in bodies]

    @rule(verb=st.sampled_from(["head", "manifest", "blob_size", "tags", "blob", "background"]), here=st.booleans())
    def ask(self, verb: str, here: bool) -> None:
        repository, digest = (REPOSITORY, DIGEST) if here else ("absent", Digest.of(b"absent"))
        ways: dict[str, tuple[Priority, Callable[[], Deferred[Any]]]] = {
            "head": (Priority.METADATA, lambda: self.limited.head(repository, "latest")),
            "manifest": (Priority.METADATA, lambda: self.limited.manifest(repository, "latest")),
            "blob_size": (Priority.METADATA, lambda: self.limited.blob_size(repository, digest)),
            "tags": (Priority.METADATA, lambda: self.limited.tags(repository)),
            "blob": (Priority.BLOB, lambda: self.limited.blob(repository, digest)),
            "background": (Priority.BACKGROUND, lambda: self.limited.blob(repository, digest, background=True)),
        }
        rank, way = ways[verb]
        question = way()
        question.addCallbacks(lambda answer: self.answered(rank, answer), lambda _: None)
        self.questions.append(question)
        self.waiting_as[question] = rank

    def answered(self, rank: Priority, answer: Any) -> None:
        if IBlobResponse.providedBy(answer):
            self.undelivered.append(answer)
            self.opened_as[_body(answer)] = rank

    @precondition(lambda self: self.open_questions())
    @rule(data=st.data(), refuse=st.booleans())
    def answer(self, data: st.DataObject, refuse: bool) -> None:
        hanging = data.draw(st.sampled_from(self.open_questions()))
        if refuse:
            hanging.refuse(UpstreamUnavailable("docker.io", "refused"))
        else:
            hanging.answer()

    @precondition(lambda self: self.questions)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.questions)).cancel()

    @precondition(lambda self: self.undelivered)
    @rule(refusing=st.booleans())
    def deliver(self, refusing: bool) -> None:
        response = self.undelivered.pop(0)
        taker: IConsumer = Refusing() if refusing else Taker()
        body = _body(response)
        try:
            self.delivering.append((response.deliver(taker).addErrback(lambda _: None), body))
        except RuntimeError:
            assert refusing
        self.over.append(response)

    @precondition(lambda self: self.undelivered or self.over)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        response = data.draw(st.sampled_from(self.undelivered + self.over))
        response.abandon()
        if response in self.undelivered:
            self.undelivered.remove(response)
            self.over.append(response)

    @precondition(lambda self: self.open_bodies())
    @rule(data=st.data(), how=st.sampled_from(["feed", "complete", "cut", "stop", "cancel"]))
    def end(self, data: st.DataObject, how: str) -> None:
        body = data.draw(st.sampled_from(self.open_bodies()))
        if how == "feed":
            body.feed(10)
        elif how == "cancel":
            next(done for done, of in self.delivering if of is body).cancel()
        else:
            {"complete": body.complete, "cut": body.cut, "stop": body.stopProducing}[how]()

    @rule()
    def go_down_and_come_back(self) -> None:
        self.inner.conditions = Condition((DOWN,))
        self.inner._silent.clear()
        self.inner.fail(UpstreamUnavailable("docker.io", "down"))
        broken = self.limited.manifest(REPOSITORY, "latest")
        failing(broken, UpstreamUnavailable)
        self.inner.conditions = Condition((UP,))
        self.inner.heal()
        self.inner.hang("*")

    @invariant()
    def a_permit_for_every_open_answer(self) -> None:
        assert self.limit.in_use == len(self.ranks_in_use()) <= self.most

    @invariant()
    def no_question_waits_in_vain(self) -> None:
        in_use, unanswered = self.ranks_in_use(), [each for each in self.questions if not each.called]
        assert self.limit.waiting == len(unanswered) - len(self.open_questions())
        asked = in_use[: len(self.open_questions())]
        for rank in Priority:
            waiting = sum(self.waiting_as[each] is rank for each in unanswered) - asked.count(rank)
            if waiting and len(in_use) < self.most:
                behind = sum(each >= rank for each in in_use)
                assert behind >= {Priority.METADATA: 3, Priority.BLOB: 2, Priority.BACKGROUND: 1}[rank]

    def teardown(self) -> None:
        for _ in range(100_000):
            if not (self.open_questions() or self.undelivered or self.open_bodies()):
                break
            for hanging in self.open_questions():
                hanging.refuse(UpstreamUnavailable("docker.io", "the end"))
            while self.undelivered:
                self.undelivered.pop().abandon()
            for body in self.open_bodies():
                body.cut()
        assert (self.limit.in_use, self.limit.waiting) == (0, 0)
        assert all(question.called for question in self.questions)


def _priority(call: Any) -> Priority:
    if call.verb != "blob":
        return Priority.METADATA
    return Priority.BACKGROUND if call.background else Priority.BLOB


def _body(response: IBlobResponse) -> ScriptedBody:
    """The inner answer."""
    body: ScriptedBody = response._response  # type: ignore[attr-defined]
    return body


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
