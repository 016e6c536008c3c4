"""The machine that knows how one URL is: its table, its probes, what it tells."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import floats, integers, sampled_from
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import provider

from appliance import errors
from appliance.errors import UpstreamRateLimited, UpstreamTimeout, UpstreamUnavailable
from appliance.upstream import health as machine
from appliance.upstream.health import (
    FIRST_PAUSE,
    JITTER,
    LONGEST_PAUSE,
    SOON,
    TRANSITIONS,
    Event,
    IllegalTransition,
    UrlHealth,
)
from appliance.upstream.interfaces import Availability, Health, UrlCondition
from tests.rooms.upstream.net import SilentObserver

UP, SUSPECT, DOWN, RATE_LIMITED = Health.UP, Health.SUSPECT, Health.DOWN, Health.RATE_LIMITED
URL = "https://registry.example"
GONE = UpstreamUnavailable("up.example", "the server closed the connection")
SILENT = UpstreamTimeout("up.example", "no answer within 30 seconds")
BROKEN = UpstreamUnavailable("up.example", "answered 500")


class Watching(SilentObserver):
    """Remembers what a URL became."""

    def __init__(self) -> None:
        self.states: list[Health] = []

    def became(self, upstream: str, url: str, health: Health) -> None:
        assert (upstream, url) == ("up.example", URL)
        self.states.append(health)


class Watched:
    """
    A machine with its clock, and its probes to be answered by hand.

    @ivar probes: those made so far.
    @ivar chance: the number that is drawn next; 0.5 is no jitter.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1_700_000_000.0
        self.probes: list[Deferred[int]] = []
        self.chance = 0.5
        self.observer = Watching()
        self.health = UrlHealth("up.example", URL, self.ping, self.clock, lambda: self.chance, self.observer)

    def ping(self) -> Deferred[int]:
        probe: Deferred[int] = Deferred()
        self.probes.append(probe)
        return probe

    @property
    def state(self) -> Health:
        return self.health.state

    @property
    def under_way(self) -> list[Deferred[int]]:
        return [probe for probe in self.probes if not probe.called]

    def answer(self, outcome: int | Exception = 200) -> None:
        """To the probe under way."""
        [probe] = self.under_way
        if isinstance(outcome, Exception):
            probe.errback(outcome)
        else:
            probe.callback(outcome)

    def wait(self) -> float:
        """Seconds until a probe is made."""
        before, made = self.clock.seconds(), len(self.probes)
        until = self.health.condition().until
        assert until is not None and not self.under_way
        self.clock.advance(until - before)
        assert len(self.probes) == made + 1
        return until - before

    def bring(self, state: Health) -> None:
        """From UP to C{state}."""
        if state is RATE_LIMITED:
            self.health.limited(UpstreamRateLimited("up.example", "answered 503", 60.0))
        if state in (SUSPECT, DOWN):
            self.health.failed(GONE)
        if state is DOWN:
            self.health.failed(GONE)
        assert self.state is state

    def refusal(self) -> errors.UpstreamError:
        try:
            self.health.check()
        except errors.UpstreamError as fault:
            return fault
        raise AssertionError("it may be asked")


# -- the table ------------------------------------------------------------------------------------------------------


def documented() -> dict[Event, dict[Health, Health]]:
    """The table of the module's docstring."""
    found: dict[Event, dict[Health, Health]] = {}
    for line in (machine.__doc__ or "").splitlines():
        cells = line.split()
        if cells and cells[0] in Event.__members__:
            after = [None if cell == "-" else Health[cell] for cell in cells[-4:]]
            pairs = zip((UP, SUSPECT, DOWN, RATE_LIMITED), after, strict=True)
            found[Event[cells[0]]] = {before: state for before, state in pairs if state is not None}
    return found


def test_the_table_people_read_is_the_one_that_counts() -> None:
    """The docstring's table and the program's are the same, for every event and every state."""
    assert documented() == TRANSITIONS
    assert set(TRANSITIONS) == set(Event)


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", Health)
def test_every_event_leads_where_the_table_says(state: Health, event: Event) -> None:
    """An event that cannot happen in a state is a mistake that is raised, not one that goes unnoticed."""
    watched = Watched()
    watched.bring(state)
    after = TRANSITIONS[event].get(state)
    if after is None:
        with pytest.raises(IllegalTransition, match=f"{state.value}: {event.value}"):
            watched.health._happen(event, "why")
        assert watched.state is state
    else:
        watched.health._happen(event, "why")
        assert watched.state is after


# -- up -------------------------------------------------------------------------------------------------------------


def test_a_url_in_use_is_up_and_costs_no_timer() -> None:
    """Nothing is probed while all is well, however much is asked."""
    watched = Watched()
    for _ in range(3):
        watched.health.answered()
        watched.health.check()
    assert watched.health.availability(busy=True) == Availability()
    assert watched.clock.getDelayedCalls() == []
    assert watched.observer.states == [UP]
    assert watched.health.condition() == UrlCondition(URL, UP, 1_700_000_000.0, "", None)


# -- suspect --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "happens",
    [
        lambda health: health.failed(GONE),
        lambda health: health.erred(BROKEN),
        lambda health: health.overdue(SILENT),
    ],
    ids=["a failure", "a 500", "a long wait"],
)
def test_one_failure_makes_it_suspect(happens: Callable[[UrlHealth], None]) -> None:
    """Who has a cached answer waits no more; who has none is asked for as before."""
    watched = Watched()
    happens(watched.health)
    assert watched.state is SUSPECT
    watched.health.check()
    idle, busy = watched.health.availability(False), watched.health.availability(True)
    assert (idle.ask, idle.wait, busy.ask, busy.wait) == (True, False, False, False)
    assert idle.fault is not None and idle.until == watched.clock.seconds() + 1.0


def test_a_suspicion_ends_with_a_probe() -> None:
    """A second later it is probed, and then there is no timer any more."""
    watched = Watched()
    watched.bring(SUSPECT)
    assert watched.wait() == FIRST_PAUSE
    watched.answer(401)
    assert watched.state is UP
    assert watched.clock.getDelayedCalls() == []


def test_an_answer_ends_a_suspicion_at_once() -> None:
    """The probe that was under way is dropped."""
    watched = Watched()
    watched.bring(SUSPECT)
    watched.wait()
    watched.health.answered()
    assert watched.state is UP
    assert watched.under_way == [] and watched.clock.getDelayedCalls() == []


def test_a_registry_that_answers_v2_and_hangs_elsewhere_stays_suspect() -> None:
    """After the second suspicion without an answer in between, an answered probe is no proof any more."""
    watched = Watched()
    watched.health.overdue(SILENT)
    watched.wait()
    watched.answer()
    assert watched.state is UP
    watched.health.overdue(SILENT)
    watched.wait()
    watched.answer()
    assert watched.state is SUSPECT
    watched.health.answered()
    assert watched.state is UP
    watched.health.overdue(SILENT)
    watched.wait()
    watched.answer()
    assert watched.state is UP


def test_mistrust_does_not_last_for_ever() -> None:
    """A URL that is not asked, since another one is up, is taken again once probes went well for long."""
    watched = Watched()
    watched.health.overdue(SILENT)
    watched.wait()
    watched.answer()
    watched.health.overdue(SILENT)
    pauses = []
    while watched.state is not UP and len(pauses) < 20:
        pauses.append(watched.wait())
        watched.answer()
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


# -- down -----------------------------------------------------------------------------------------------------------


def test_two_failures_on_end_are_down() -> None:
    """Then every question fails at once, saying since when, why, and when there is a next try."""
    watched = Watched()
    watched.bring(DOWN)
    watched.clock.advance(0.25)
    refusal = watched.refusal()
    assert type(refusal) is UpstreamUnavailable
    why = f"{URL} has been down for 0 s (the server closed the connection); it is tried again in 1 s"
    assert refusal.detail == why
    availability = watched.health.availability(False)
    assert (availability.ask, availability.wait, str(availability.fault)) == (False, False, str(refusal))
    assert availability.until == 1_700_000_001.0


def test_a_url_that_went_down_in_silence_is_a_timeout() -> None:
    """The kind of failure is the last one's."""
    watched = Watched()
    watched.health.failed(GONE)
    watched.health.failed(SILENT)
    assert type(watched.refusal()) is UpstreamTimeout


def test_a_server_that_fails_is_given_five_chances() -> None:
    """Some 500s are about one image only."""
    watched = Watched()
    for _ in range(4):
        watched.health.erred(BROKEN)
        assert watched.state is SUSPECT
    watched.health.erred(BROKEN)
    assert watched.state is DOWN


def test_an_answer_in_between_starts_the_count_anew() -> None:
    """Only what fails on end counts."""
    watched = Watched()
    for _ in range(10):
        watched.health.failed(GONE)
        watched.health.answered()
    assert watched.state is UP


def test_a_probe_counts_as_a_failure() -> None:
    """One lost question and one lost probe are enough."""
    watched = Watched()
    watched.bring(SUSPECT)
    watched.wait()
    watched.answer(GONE)
    assert watched.state is DOWN


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (200, UP),
        (401, UP),
        (404, UP),
        (307, UP),
        (errors.UpstreamInvalid("up.example", "it is encoded"), UP),
        (500, DOWN),
        (502, DOWN),
        (GONE, DOWN),
        (errors.UpstreamRefused("up.example", "its address is private"), DOWN),
        (429, RATE_LIMITED),
        (UpstreamRateLimited("up.example", "wait", 5.0), RATE_LIMITED),
    ],
)
def test_what_a_probe_finds(outcome: int | Exception, state: Health) -> None:
    """Any answer below 500 is a return, even a no."""
    watched = Watched()
    watched.bring(DOWN)
    watched.wait()
    watched.answer(outcome)
    assert watched.state is state


def test_a_probe_that_breaks_is_logged_and_followed_by_another(logged_errors: list[dict[str, Any]]) -> None:
    """A mistake of ours must not leave a registry down for ever."""
    watched = Watched()
    watched.bring(DOWN)
    watched.wait()
    watched.answer(KeyError("a mistake"))
    assert len(logged_errors) == 1
    logged_errors.clear()
    watched.wait()
    watched.answer()
    assert watched.state is UP


def test_probes_come_at_growing_intervals_up_to_five_minutes() -> None:
    """One at a time; the interval begins when the last one ended."""
    watched = Watched()
    watched.bring(DOWN)
    pauses = []
    for _ in range(12):
        pauses.append(watched.wait())
        watched.clock.advance(10)
        watched.answer(SILENT)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert watched.state is DOWN


@pytest.mark.parametrize(("chance", "part"), [(0.0, 1 - JITTER), (0.9999, 1 + JITTER)])
def test_intervals_differ_from_appliance_to_appliance(chance: float, part: float) -> None:
    """By a fifth at most, so that a thousand appliances do not return in the same second."""
    watched = Watched()
    watched.chance = chance
    watched.bring(DOWN)
    for pause in (1, 2, 4):
        assert watched.wait() == pytest.approx(pause * part, rel=0.001)
        watched.answer(GONE)


def test_who_needs_a_lost_registry_finds_its_return_soon() -> None:
    """A question that is turned away has the next probe made within five seconds of the last."""
    watched = Watched()
    watched.bring(DOWN)
    for _ in range(9):
        watched.wait()
        watched.answer(GONE)
    watched.clock.advance(1)
    for _ in range(1000):
        watched.refusal()
    assert watched.wait() == SOON - 1
    watched.answer(GONE)
    assert watched.wait() == LONGEST_PAUSE
    watched.answer(GONE)
    watched.clock.advance(200)
    watched.refusal()
    watched.clock.advance(0)
    assert len(watched.under_way) == 1


def test_looking_forward_makes_no_probe_come_sooner() -> None:
    """Cached answers need no registry: its health alone brings no probe forward."""
    watched = Watched()
    watched.bring(DOWN)
    for _ in range(6):
        watched.wait()
        watched.answer(GONE)
    watched.health.availability(False)
    assert watched.wait() == 64


def test_a_late_answer_is_a_return() -> None:
    """A question that was asked before it went down and is answered after all."""
    watched = Watched()
    watched.bring(DOWN)
    watched.health.answered()
    assert watched.state is UP
    assert watched.clock.getDelayedCalls() == []


# -- rate-limited ---------------------------------------------------------------------------------------------------


def test_a_rest_is_as_long_as_was_asked_for() -> None:
    """A request meanwhile fails with the seconds that remain, and nothing is probed."""
    watched = Watched()
    watched.bring(RATE_LIMITED)
    watched.clock.advance(20)
    refusal = watched.refusal()
    assert isinstance(refusal, UpstreamRateLimited)
    assert refusal.retry_after == 40
    availability = watched.health.availability(False)
    assert (availability.ask, availability.until) == (False, 1_700_000_060.0)
    watched.clock.advance(39.5)
    assert watched.state is RATE_LIMITED
    watched.clock.advance(0.5)
    assert watched.state is UP
    assert watched.probes == [] and watched.clock.getDelayedCalls() == []


def test_a_rest_of_unknown_length_is_longer_every_time() -> None:
    """From a second to five minutes, and from the beginning once it has answered."""
    watched = Watched()

    def wait() -> float:
        watched.health.limited(UpstreamRateLimited("up.example", "answered 429"))
        until = watched.health.condition().until
        assert until is not None
        length = until - watched.clock.seconds()
        watched.clock.advance(length)
        assert watched.state is UP
        return length

    assert [wait() for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    watched.health.answered()
    assert wait() == 1


def test_the_longer_of_two_rests_counts() -> None:
    """Many refusals at once are one wait."""
    watched = Watched()
    watched.bring(RATE_LIMITED)
    watched.health.limited(UpstreamRateLimited("up.example", "answered 429", 5.0))
    assert watched.health.condition().until == 1_700_000_060.0
    watched.health.limited(UpstreamRateLimited("up.example", "answered 429", 90.0))
    assert watched.health.condition().until == 1_700_000_090.0
    assert len(watched.clock.getDelayedCalls()) == 1


def test_answers_and_failures_of_before_do_not_end_a_wait() -> None:
    """It was asked for; questions that were under way change nothing."""
    watched = Watched()
    watched.bring(RATE_LIMITED)
    watched.health.answered()
    watched.health.failed(GONE)
    watched.health.failed(GONE)
    watched.health.overdue(SILENT)
    assert watched.state is RATE_LIMITED
    watched.clock.advance(60)
    watched.health.failed(GONE)
    assert watched.state is SUSPECT


def test_a_probe_is_dropped_when_a_rest_begins() -> None:
    """Whatever happens meanwhile, it lasts as long as it was asked for."""
    watched = Watched()
    watched.bring(DOWN)
    watched.wait()
    watched.health.limited(UpstreamRateLimited("up.example", "answered 503", 5.0))
    assert watched.state is RATE_LIMITED and watched.under_way == []
    watched.clock.advance(5)
    assert watched.state is UP


def test_a_probe_that_is_answered_while_it_is_dropped_changes_nothing() -> None:
    """Its answer is about before."""
    watched = Watched()
    dropped: Deferred[int] = Deferred(lambda probe: probe.callback(500))
    watched.probes.append(dropped)
    watched.health._probes._ping = lambda: dropped
    watched.bring(SUSPECT)
    watched.clock.advance(1)
    watched.health.answered()
    assert dropped.called and watched.state is UP
    assert watched.clock.getDelayedCalls() == []


# -- the end, and what is reported ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", Health)
@pytest.mark.parametrize("probing", [False, True])
def test_stopping_leaves_nothing_behind(state: Health, probing: bool) -> None:
    """No timer and no probe; a question that comes nevertheless is asked."""
    watched = Watched()
    watched.bring(state)
    if probing and state in (SUSPECT, DOWN):
        watched.wait()
    for _ in range(2):
        watched.health.stop()
    assert watched.clock.getDelayedCalls() == [] and watched.under_way == []
    watched.health.failed(GONE)
    watched.health.failed(GONE)
    watched.health.limited(UpstreamRateLimited("up.example", "answered 503", 5.0))
    watched.health.check()
    assert watched.health.availability(False) == Availability()
    assert watched.clock.getDelayedCalls() == []


def test_each_change_is_said_once() -> None:
    """One line a change, with upstream, URL and reason; a return is no warning."""
    lines: list[tuple[LogLevel, str]] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        text = event["log_format"].format(**event)
        lines.append((event["log_level"], text))

    globalLogPublisher.addObserver(observe)
    try:
        watched = Watched()
        watched.health.failed(GONE)
        for _ in range(5):
            watched.health.failed(SILENT)
        watched.clock.advance(1)
        watched.answer()
    finally:
        globalLogPublisher.removeObserver(observe)
    start = f"up.example: {URL} is"
    assert [text for _, text in lines] == [
        f"{start} doubtful after 0 s: the server closed the connection",
        f"{start} down after 0 s: no answer within 30 seconds",
        f"{start} up after 1 s: a probe was answered",
    ]
    assert [level for level, _ in lines] == [LogLevel.warn, LogLevel.warn, LogLevel.info]
    assert watched.observer.states == [UP, SUSPECT, DOWN, UP]


def test_operators_see_since_when_and_why() -> None:
    """The last failure and the next probe; nothing of either once it is up."""
    watched = Watched()
    watched.clock.advance(5)
    watched.bring(DOWN)
    condition = watched.health.condition()
    assert (condition.health, condition.since, condition.until) == (DOWN, 1_700_000_005.0, 1_700_000_006.0)
    assert re.search("closed the connection", condition.fault)
    watched.wait()
    assert watched.health.condition().until is None
    watched.answer()
    assert watched.health.condition() == UrlCondition(URL, UP, 1_700_000_006.0)


# -- whatever happens -----------------------------------------------------------------------------------------------


class AnyOutage(RuleBasedStateMachine):
    """Answers, failures, late clients, rate limits and probes in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.watched = Watched()
        self.stopped = False

    @rule()
    def answered(self) -> None:
        self.watched.health.answered()

    @rule(fault=sampled_from([GONE, SILENT]))
    def failed(self, fault: UpstreamUnavailable) -> None:
        self.watched.health.failed(fault)

    @rule()
    def erred(self) -> None:
        self.watched.health.erred(BROKEN)

    @rule()
    def overdue(self) -> None:
        self.watched.health.overdue(SILENT)

    @rule(seconds=sampled_from([None, 0.0, 0.5, 7.0, 3600.0]))
    def limited(self, seconds: float | None) -> None:
        self.watched.health.limited(UpstreamRateLimited("up.example", "answered 429", seconds))

    @rule(outcome=sampled_from([200, 401, 429, 500, GONE, SILENT, UpstreamRateLimited("up.example", "no", 3.0)]))
    def probe_ends(self, outcome: int | Exception) -> None:
        if self.watched.under_way:
            self.watched.answer(outcome)

    @rule(seconds=floats(0, 400), chance=floats(0, 1))
    def time_passes(self, seconds: float, chance: float) -> None:
        self.watched.chance = chance
        self.watched.clock.advance(seconds)

    @rule(times=integers(1, 3))
    def asked(self, times: int) -> None:
        for _ in range(times):
            try:
                self.watched.health.check()
            except errors.UpstreamError:
                assert self.watched.state in (DOWN, RATE_LIMITED) and not self.stopped
            else:
                assert self.watched.state in (UP, SUSPECT) or self.stopped

    @rule()
    def stop(self) -> None:
        self.watched.health.stop()
        self.stopped = True

    @invariant()
    def has_no_timer_exactly_when_it_may_have_none(self) -> None:
        """A timer or a probe, never both, while it is not up; none when it is up or stopped."""
        busy = len(self.watched.clock.getDelayedCalls()) + len(self.watched.under_way)
        assert busy == (0 if self.stopped or self.watched.state is UP else 1)

    @invariant()
    def a_refusal_has_an_end(self) -> None:
        """What is promised for later lies ahead and not further than the longest wait."""
        until = self.watched.health.condition().until
        now = self.watched.clock.seconds()
        assert until is None or now <= until <= now + max(3600.0, LONGEST_PAUSE * (1 + JITTER))

    @invariant()
    def what_is_foreseen_is_what_happens(self) -> None:
        """A request that may not be sent fails and says why."""
        availability = self.watched.health.availability(False)
        assert availability.ask == (self.stopped or self.watched.state in (UP, SUSPECT))
        assert availability.wait == (self.stopped or self.watched.state is UP)
        assert (availability.fault is None) == availability.wait


TestAnyOutage = AnyOutage.TestCase
TestAnyOutage.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
