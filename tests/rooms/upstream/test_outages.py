"""What an upstream does when its registry fails, hangs, returns or wants fewer requests; on a clock of our own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import booleans, floats, sampled_from
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance import errors
from appliance.upstream.interfaces import Availability, ICredentials, Secret
from tests.doubles.deferreds import failing, pending
from tests.rooms.upstream.net import AUTH, CDN, REGISTRY, Reply, Sink
from tests.rooms.upstream.outages import DIGEST, DOWN, MANIFEST, RATE_LIMITED, SECOND, SUSPECT, UP, Outages

# -- a black hole ----------------------------------------------------------------------------------------------------


def test_while_requests_are_answered_nothing_is_probed() -> None:
    """One request for one question, and no timer afterwards."""
    outages = Outages()
    assert outages.pull() == MANIFEST
    assert outages.upstream.availability("a") == Availability()
    assert len(outages.net.asked) == 1 and outages.net.timers() == []
    outages.end()


def test_a_black_hole_keeps_one_client_waiting_and_then_none() -> None:
    """The first who has a cached answer waits; for all others there is nothing to wait for."""
    outages = Outages()
    outages.net.holes.add(REGISTRY)
    first = outages.upstream.head("a", "t")
    outages.pass_time(2)
    assert outages.upstream.availability("a").wait
    outages.upstream.overdue("a")
    availability = outages.upstream.availability("a")
    assert (availability.ask, availability.wait) == (False, False)
    assert isinstance(availability.fault, errors.UpstreamTimeout) and availability.until is not None
    outages.pass_time(28)
    assert type(outages.net.fault(first)) is errors.UpstreamTimeout
    outages.pass_time(4)
    assert outages.states == [DOWN]
    assert not outages.upstream.availability("b").ask
    outages.end()


def test_a_thousand_questions_to_a_lost_registry_cost_no_packet() -> None:
    """Each fails in the same instant, saying why; the one probe goes on undisturbed."""
    outages = lost()
    asked, wires = len(outages.net.asked), len(outages.net.wires)
    for number in range(1000):
        fault = failing(outages.upstream.manifest(f"r{number}", "t"))
        assert type(fault) is errors.UpstreamTimeout
        assert "has been down for" in str(fault) and "no answer within 30 seconds" in str(fault)
    assert (len(outages.net.asked), len(outages.net.wires)) == (asked, wires)
    assert outages.observer.kinds[-1000:] == ["unavailable"] * 1000
    outages.end()


def lost() -> Outages:
    """A registry that went down in silence, an instant ago."""
    outages = Outages()
    outages.net.holes.add(REGISTRY)
    questions = [outages.upstream.head("a", "t"), outages.upstream.head("b", "t")]
    outages.net.settle()
    outages.net.clock.advance(30)
    for question in questions:
        assert type(outages.net.fault(question)) is errors.UpstreamTimeout
    assert outages.states == [DOWN]
    return outages


def test_the_return_of_a_registry_is_noticed_by_a_probe() -> None:
    """C{/v2/} is asked, without credentials, and whatever it says the registry is back."""
    outages = lost()
    outages.net.clock.advance(1)
    outages.net.clock.advance(30)
    assert outages.states == [DOWN]
    outages.net.holes.clear()
    outages.answer(Reply(401, {"WWW-Authenticate": f'Bearer realm="{AUTH}/token"'}), Reply(body=MANIFEST))
    outages.net.clock.advance(1.9)
    assert outages.asked() == []
    outages.net.clock.advance(0.1)
    outages.net.settle()
    assert outages.asked() == ["/v2/"] and outages.net.asked[0].one("authorization") is None
    assert outages.states == [UP]
    assert outages.pull() == MANIFEST
    assert outages.net.timers() == []
    outages.end()


def test_a_question_turned_away_brings_the_next_probe_forward() -> None:
    """A client that needs a registry that came back finds it within seconds, not within minutes."""
    outages = Outages()
    outages.net.refusing.add(REGISTRY)
    for _ in range(2):
        assert type(outages.fault()) is errors.UpstreamUnavailable
    outages.pass_time(1 + 2 + 4 + 8 + 16 + 32 + 1)
    outages.net.refusing.clear()
    assert "is tried again in 63 s" in str(outages.fault())
    outages.pass_time(4)
    assert outages.pull() == MANIFEST
    outages.end()


# -- other failures --------------------------------------------------------------------------------------------------


def test_a_registry_that_answers_v2_and_hangs_elsewhere_keeps_no_client_waiting() -> None:
    """Its probes go well, and are not believed for the second time; uncached images are still asked for."""
    outages = Outages()
    outages.serve(lambda asked: Reply() if asked.target == "/v2/" else None)
    questions = []
    for _ in range(2):
        questions.append(outages.upstream.head("a", "t"))
        outages.pass_time(2)
        outages.upstream.overdue("a")
        outages.pass_time(2)
    assert outages.states == [SUSPECT]
    assert not outages.upstream.availability("b").wait
    outages.pass_time(30)
    assert all(type(outages.net.fault(question)) is errors.UpstreamTimeout for question in questions)
    assert outages.states == [SUSPECT]
    uncached = outages.upstream.manifest("c", "t")
    outages.net.settle()
    assert outages.asked(of="/c/") == ["/v2/c/manifests/t"]
    uncached.cancel()
    assert type(outages.net.fault(uncached)) is CancelledError
    outages.answer(Reply(body=MANIFEST))
    assert outages.pull() == MANIFEST
    assert outages.states == [UP] and outages.net.timers() == []
    outages.end()


@pytest.mark.parametrize("answer", [Reply(404), Reply(body=MANIFEST)], ids=["no", "yes"])
def test_one_slow_repository_keeps_no_client_waiting_while_others_are_answered(answer: Reply) -> None:
    """The URL is up, since others are answered; who asks about the slow one waits no more until it was answered for."""
    outages = Outages()
    outages.serve(lambda asked: None if "/slow/" in asked.target else Reply(body=MANIFEST))
    slow = outages.upstream.manifest("slow", "t")
    outages.pass_time(2)
    outages.upstream.overdue("slow")
    outages.pull("quick")
    assert outages.states == [UP]
    assert outages.upstream.availability("quick") == Availability()
    availability = outages.upstream.availability("slow")
    assert (availability.ask, availability.wait, availability.until) == (True, False, outages.net.clock.seconds() + 1)
    assert isinstance(availability.fault, errors.UpstreamTimeout)
    slow.cancel()
    outages.net.fault(slow)
    outages.answer(answer)
    question = outages.upstream.manifest("slow", "t")
    outages.net.settle()
    assert not pending(question)
    question.addErrback(lambda failure: failure.trap(errors.UpstreamMissing))
    assert outages.upstream.availability("slow") == Availability()
    outages.end()


def test_questions_of_before_a_return_say_nothing_of_now() -> None:
    """A hundred that were lost in an outage run into their time limits long after it ended: no request is refused."""
    outages = Outages()
    outages.serve(lambda asked: None)
    lost = [outages.upstream.head(f"r{number}", "t") for number in range(20)]
    outages.net.settle()
    outages.net.clock.advance(10)
    outages.answer(Reply(body=MANIFEST))
    outages.pull()
    outages.net.clock.advance(20)
    assert all(type(outages.net.fault(question)) is errors.UpstreamTimeout for question in lost)
    assert outages.states == [UP]
    outages.end()


def test_a_server_that_fails_five_times_is_down() -> None:
    """Four times it is asked again; the sixth question is not sent."""
    outages = Outages()
    outages.answer(Reply(500))
    for number in range(5):
        assert "answered 500" in str(outages.fault(f"r{number}"))
    assert outages.states == [DOWN]
    assert "has been down for" in str(outages.fault())
    assert len(outages.net.asked) == 5
    outages.end()


def test_a_method_that_is_not_known_is_no_failure() -> None:
    """501 to HEAD is how some servers say that they have none."""
    outages = Outages()
    outages.answer(Reply(501))
    for _ in range(6):
        outages.net.result(outages.upstream.head("a", "t"))
    assert outages.states == [UP]
    outages.end()


def test_answers_of_every_sort_are_answers() -> None:
    """A suspect registry that says no, that it has no such thing, or rubbish, is up."""
    for reply in (Reply(404), Reply(403), Reply(401), Reply(400), Reply(200, {"Content-Encoding": "gzip"}, b"x")):
        outages = Outages()
        outages.answer(Reply(500), reply)
        outages.fault()
        assert outages.states == [SUSPECT]
        outages.fault()
        assert outages.states == [UP]
        outages.end()


def test_a_cancelled_question_is_neither_a_success_nor_a_failure() -> None:
    """Clients that give up say nothing of the registry."""
    outages = Outages()
    outages.net.holes.add(REGISTRY)
    for _ in range(5):
        question = outages.upstream.manifest("a", "t")
        outages.net.settle()
        question.cancel()
        assert type(outages.net.fault(question)) is CancelledError
    assert outages.states == [UP]
    outages.answer(Reply(500))
    outages.net.holes.clear()
    outages.fault()
    assert outages.states == [SUSPECT]
    outages.serve(lambda asked: None)
    question = outages.upstream.manifest("a", "t")
    outages.net.settle()
    assert not outages.upstream.availability("a").ask
    question.cancel()
    outages.net.fault(question)
    assert outages.states == [SUSPECT]
    assert outages.upstream.availability("a").ask
    outages.end()


def test_a_body_that_breaks_off_is_no_failure_of_the_registry() -> None:
    """Lines are cut; who was answered was answered."""
    outages = Outages()
    outages.answer(Reply(200, {}, b"some", claim=100))
    for _ in range(6):
        response = outages.net.result(outages.upstream.blob("a", DIGEST))
        assert isinstance(outages.net.fault(response.deliver(Sink())), errors.UpstreamUnavailable)
    assert outages.states == [UP]
    outages.end()


def test_a_store_that_is_lost_behind_redirects_does_not_take_the_registry_with_it() -> None:
    """Where a firewall lets the registry through and not its CDN, manifests are served as ever."""
    outages = Outages()
    outages.serve(lambda a: Reply(307, {"Location": CDN + a.target}) if "blobs" in a.target else Reply(body=MANIFEST))
    outages.net.servers[CDN] = lambda asked: Reply(502)
    for _ in range(6):
        assert isinstance(outages.net.fault(outages.upstream.blob("a", DIGEST)), errors.UpstreamUnavailable)
    outages.net.refusing.add(CDN)
    for _ in range(3):
        assert isinstance(outages.net.fault(outages.upstream.blob("a", DIGEST)), errors.UpstreamUnavailable)
    assert outages.states == [UP]
    assert outages.pull() == MANIFEST
    outages.end()


@implementer(ICredentials)
class Losing:
    """
    Credentials whose file goes.

    @ivar lost: whether it has gone.
    """

    lost = False

    def current(self) -> Deferred[Secret]:
        if self.lost:
            return fail(errors.UpstreamDenied("up.example", "password_file /p cannot be read"))
        return succeed(Secret("me", "me", "hidden"))

    def refused(self, secret: Secret) -> Deferred[bool]:
        return succeed(False)


def test_credentials_that_cannot_be_read_are_not_the_registrys_fault() -> None:
    """Nor are they an answer of its: the message names the file, and its health stays what it was."""
    credentials = Losing()
    outages = Outages(credentials=credentials)
    outages.answer(Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}), Reply(body=MANIFEST), Reply(500))
    assert outages.pull() == MANIFEST
    credentials.lost = True
    for _ in range(3):
        assert "password_file /p" in str(outages.fault())
    assert outages.states == [UP] and outages.net.timers() == []
    credentials.lost = False
    assert "answered 500" in str(outages.fault())
    credentials.lost = True
    assert "password_file /p" in str(outages.fault())
    assert outages.states == [SUSPECT]
    outages.end()


# -- what operators see, and the end ---------------------------------------------------------------------------------


def test_operators_see_every_url() -> None:
    """In the configured order, as it may be shown."""
    outages = Outages(REGISTRY + "/remote/", SECOND)
    outages.net.refusing.add(REGISTRY)
    outages.pull()
    first, second = outages.upstream.condition().urls
    assert (first.url, first.health, first.until) == (REGISTRY + "/remote", SUSPECT, outages.net.clock.seconds() + 1)
    assert "cannot connect" in first.fault
    assert (second.url, second.health, second.fault, second.until) == (SECOND, UP, "", None)
    assert outages.observer.states[:2] == [(REGISTRY + "/remote", UP), (SECOND, UP)]
    assert outages.observer.states[2:] == [(REGISTRY + "/remote", SUSPECT)]
    outages.end()


def test_a_stopped_upstream_probes_no_more() -> None:
    """It may be stopped twice; a flight that still holds it may still ask."""
    outages = lost()
    outages.upstream.stop()
    outages.upstream.stop()
    assert outages.net.timers() == []
    outages.net.holes.clear()
    assert outages.pull() == MANIFEST
    outages.end()


class AnyOutage(RuleBasedStateMachine):
    """Two URLs, each answering, failing, hanging or unreachable as it comes; questions come and go at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.outages = Outages(REGISTRY, SECOND)
        self.asking: list[Deferred[Any]] = []

    @rule(
        url=sampled_from([REGISTRY, SECOND]),
        status=sampled_from([200, 404, 403, 429, 500, 503, None]),
        wait=sampled_from([None, "0", "7"]),
    )
    def serves(self, url: str, status: int | None, wait: str | None) -> None:
        fields: dict[str, str | list[str]] = {} if wait is None else {"Retry-After": wait}
        self.outages.serve(lambda asked: None if status is None else Reply(status, dict(fields), MANIFEST), url)

    @rule(url=sampled_from([REGISTRY, SECOND]), refuses=booleans(), swallows=booleans())
    def line(self, url: str, refuses: bool, swallows: bool) -> None:
        for faults, there in ((self.outages.net.refusing, refuses), (self.outages.net.holes, swallows)):
            faults.discard(url)
            if there:
                faults.add(url)

    @rule(repository=sampled_from("abcd"))
    def ask(self, repository: str) -> None:
        """A question is asked, or refused at once with an error of the upstream."""
        states = set(self.outages.states)
        allowed = self.outages.upstream.availability(repository).ask or not states <= {DOWN, RATE_LIMITED}
        before = len(self.outages.net.asked) + len(self.outages.net.wires)
        question = self.outages.upstream.manifest(repository, "t")
        if not allowed:
            assert isinstance(failing(question), errors.UpstreamError)
            assert len(self.outages.net.asked) + len(self.outages.net.wires) == before
        else:
            self.asking.append(question)

    @rule(repository=sampled_from("abcd"))
    def overdue(self, repository: str) -> None:
        self.outages.upstream.overdue(repository)

    @rule()
    def cancel(self) -> None:
        if self.asking:
            self.asking[0].cancel()

    @rule(seconds=floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.outages.net.settle()
        self.outages.net.clock.advance(seconds)
        self.outages.net.settle()

    @invariant()
    def every_question_ends_in_our_words(self) -> None:
        """With an answer, an error of the upstream, or the asker's own cancellation."""
        for question in [question for question in self.asking if not pending(question)]:
            self.asking.remove(question)
            results: list[Any] = []
            question.addBoth(results.append)
            if isinstance(results[0], Failure):
                assert results[0].check(errors.UpstreamError, CancelledError), results[0]

    def teardown(self) -> None:
        """When all is well again nothing is left of it."""
        for url in (REGISTRY, SECOND):
            self.line(url, False, False)
            self.serves(url, 200, None)
        for _ in range(100):
            self.time_passes(31)
        self.every_question_ends_in_our_words()
        assert self.asking == []
        assert self.outages.states == [UP, UP]
        assert self.outages.net.timers() == []
        assert self.outages.pull() == MANIFEST
        self.outages.end()


TestAnyOutage = AnyOutage.TestCase
TestAnyOutage.settings = hypothesis_settings(max_examples=25, stateful_step_count=25, deadline=None)
