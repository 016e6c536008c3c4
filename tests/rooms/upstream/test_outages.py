"""What an upstream does when its registry fails, hangs, returns or wants fewer requests; on a clock of our own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import booleans, floats, sampled_from
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import implementer

from appliance import errors
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.interfaces import Availability, Health, ICredentials, RateLimit, Secret
from appliance.upstream.kinds.standard import Standard
from tests.rooms.upstream.net import (
    AUTH,
    CDN,
    REGISTRY,
    Asked,
    Net,
    Reply,
    Server,
    SilentObserver,
    Sink,
    client_over,
    failure_of,
    pending,
)

SECOND, THIRD = "https://second.example", "https://third.example"
MANIFEST = b'{"schemaVersion": 2}\n'
DIGEST = Digest.of(MANIFEST)
UP, SUSPECT, DOWN, RATE_LIMITED = Health.UP, Health.SUSPECT, Health.DOWN, Health.RATE_LIMITED


class Watching(SilentObserver):
    """Remembers."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.limits: list[RateLimit] = []
        self.states: list[tuple[str, Health]] = []

    def failed(self, upstream: str, kind: str) -> None:
        self.kinds.append(kind)

    def limited(self, upstream: str, limit: RateLimit) -> None:
        self.limits.append(limit)

    def became(self, upstream: str, url: str, health: Health) -> None:
        self.states.append((url, health))


class Counting(Standard):
    """Tells how many pulls are left."""

    def rate_limit(self, headers: Headers) -> RateLimit | None:
        values = headers.getRawHeaders("ratelimit-remaining")
        return None if values is None else RateLimit(100, int(values[0]), 21600.0)


class Weather:
    """
    An upstream in a network.

    @ivar urls: the configured ones.
    """

    def __init__(self, *urls: str, **more: Any) -> None:
        self.net = Net()
        self.net.clock.rightNow = 1_700_000_000.0
        self.urls = urls or (REGISTRY,)
        self.observer = Watching()
        credentials, adapter = more.pop("credentials", None), more.pop("adapter", Standard())
        settings = UpstreamSettings(name="up.example", urls=self.urls, **more)
        self.upstream = client_over(
            self.net, settings, adapter, lambda url: credentials, self.observer, random=lambda: 0.5
        )
        for url in self.urls:
            self.serve(lambda asked: Reply(body=MANIFEST), url)

    def serve(self, server: Server, url: str = REGISTRY) -> None:
        self.net.servers[url] = server

    def answer(self, *replies: Reply, url: str = REGISTRY) -> None:
        """These one after the other, the last one for ever."""
        left = list(replies)
        self.serve(lambda asked: left.pop(0) if len(left) > 1 else left[0], url)

    @property
    def states(self) -> list[Health]:
        return [each.health for each in self.upstream.condition().urls]

    def pull(self, repository: str = "a") -> bytes:
        return self.net.result(self.upstream.manifest(repository, "t")).data

    def fault(self, repository: str = "a") -> BaseException:
        return self.net.fault(self.upstream.manifest(repository, "t"))

    def pass_time(self, seconds: float) -> None:
        """Second by second."""
        self.net.settle()
        self.net.clock.pump([1.0] * int(seconds))
        self.net.settle()

    def asked(self, url: str = REGISTRY, of: str = "") -> list[str]:
        return [asked.target for asked in self.net.asked if asked.origin == url and of in asked.target]

    def end(self) -> None:
        """Nothing is left but the ends of idle connections."""
        self.net.settle()
        self.upstream.stop()
        assert self.net.timers() == []


# -- a black hole ---------------------------------------------------------------------------------------------------


def test_in_fair_weather_nothing_is_probed() -> None:
    """One request for one question, and no timer afterwards."""
    weather = Weather()
    assert weather.pull() == MANIFEST
    assert weather.upstream.availability("a") == Availability()
    assert len(weather.net.asked) == 1 and weather.net.timers() == []
    weather.end()


def test_a_black_hole_keeps_one_client_waiting_and_then_nobody() -> None:
    """The first who has a cached answer waits; all others are told at once that there is nothing to wait for."""
    weather = Weather()
    weather.net.holes.add(REGISTRY)
    first = weather.upstream.head("a", "t")
    weather.pass_time(2)
    assert weather.upstream.availability("a").wait
    weather.upstream.overdue("a")
    availability = weather.upstream.availability("a")
    assert (availability.ask, availability.wait) == (False, False)
    assert isinstance(availability.fault, errors.UpstreamTimeout) and availability.until is not None
    weather.pass_time(28)
    assert type(weather.net.fault(first)) is errors.UpstreamTimeout
    weather.pass_time(4)
    assert weather.states == [DOWN]
    assert not weather.upstream.availability("b").ask
    weather.end()


def test_a_thousand_questions_to_a_lost_registry_cost_no_packet() -> None:
    """Each fails in the same instant, saying why; the one probe goes on as if nobody had asked."""
    weather = lost()
    asked, wires = len(weather.net.asked), len(weather.net.wires)
    for number in range(1000):
        fault = failure_of(weather.upstream.manifest(f"r{number}", "t"))
        assert type(fault) is errors.UpstreamTimeout
        assert "has been down for" in str(fault) and "no answer within 30 seconds" in str(fault)
    assert (len(weather.net.asked), len(weather.net.wires)) == (asked, wires)
    assert weather.observer.kinds[-1000:] == ["unavailable"] * 1000
    weather.end()


def lost() -> Weather:
    """A registry that went down in silence, an instant ago."""
    weather = Weather()
    weather.net.holes.add(REGISTRY)
    questions = [weather.upstream.head("a", "t"), weather.upstream.head("b", "t")]
    weather.net.settle()
    weather.net.clock.advance(30)
    for question in questions:
        assert type(weather.net.fault(question)) is errors.UpstreamTimeout
    assert weather.states == [DOWN]
    return weather


def test_the_return_of_a_registry_is_noticed_by_a_probe() -> None:
    """C{/v2/} is asked, without credentials, and whatever it says the registry is back."""
    weather = lost()
    weather.net.clock.advance(1)
    weather.net.clock.advance(30)
    assert weather.states == [DOWN]
    weather.net.holes.clear()
    weather.answer(Reply(401, {"WWW-Authenticate": f'Bearer realm="{AUTH}/token"'}), Reply(body=MANIFEST))
    weather.net.clock.advance(1.9)
    assert weather.asked() == []
    weather.net.clock.advance(0.1)
    weather.net.settle()
    assert weather.asked() == ["/v2/"] and weather.net.asked[0].one("authorization") is None
    assert weather.states == [UP]
    assert weather.pull() == MANIFEST
    assert weather.net.timers() == []
    weather.end()


def test_a_question_turned_away_brings_the_next_probe_forward() -> None:
    """Whoever needs a registry that came back finds it within seconds, not within minutes."""
    weather = Weather()
    weather.net.refusing.add(REGISTRY)
    for _ in range(2):
        assert type(weather.fault()) is errors.UpstreamUnavailable
    weather.pass_time(1 + 2 + 4 + 8 + 16 + 32 + 1)
    weather.net.refusing.clear()
    assert "is tried again in 63 s" in str(weather.fault())
    weather.pass_time(4)
    assert weather.pull() == MANIFEST
    weather.end()


# -- other failures -------------------------------------------------------------------------------------------------


def test_a_registry_that_answers_v2_and_hangs_elsewhere_keeps_nobody_waiting() -> None:
    """Its probes go well, and are not believed for the second time; uncached images are still asked for."""
    weather = Weather()
    weather.serve(lambda asked: Reply() if asked.target == "/v2/" else None)
    questions = []
    for _ in range(2):
        questions.append(weather.upstream.head("a", "t"))
        weather.pass_time(2)
        weather.upstream.overdue("a")
        weather.pass_time(2)
    assert weather.states == [SUSPECT]
    assert not weather.upstream.availability("b").wait
    weather.pass_time(30)
    assert all(type(weather.net.fault(question)) is errors.UpstreamTimeout for question in questions)
    assert weather.states == [SUSPECT]
    uncached = weather.upstream.manifest("c", "t")
    weather.net.settle()
    assert weather.asked(of="/c/") == ["/v2/c/manifests/t"]
    uncached.cancel()
    assert type(weather.net.fault(uncached)) is CancelledError
    weather.answer(Reply(body=MANIFEST))
    assert weather.pull() == MANIFEST
    assert weather.states == [UP] and weather.net.timers() == []
    weather.end()


@pytest.mark.parametrize("answer", [Reply(404), Reply(body=MANIFEST)], ids=["no", "yes"])
def test_one_slow_repository_keeps_nobody_waiting_while_others_are_answered(answer: Reply) -> None:
    """The URL is up, since others are answered; who asks about the slow one waits no more until it was answered for."""
    weather = Weather()
    weather.serve(lambda asked: None if "/slow/" in asked.target else Reply(body=MANIFEST))
    slow = weather.upstream.manifest("slow", "t")
    weather.pass_time(2)
    weather.upstream.overdue("slow")
    weather.pull("quick")
    assert weather.states == [UP]
    assert weather.upstream.availability("quick") == Availability()
    availability = weather.upstream.availability("slow")
    assert (availability.ask, availability.wait, availability.until) == (True, False, weather.net.clock.seconds() + 1)
    assert isinstance(availability.fault, errors.UpstreamTimeout)
    slow.cancel()
    weather.net.fault(slow)
    weather.answer(answer)
    question = weather.upstream.manifest("slow", "t")
    weather.net.settle()
    assert not pending(question)
    question.addErrback(lambda failure: failure.trap(errors.UpstreamMissing))
    assert weather.upstream.availability("slow") == Availability()
    weather.end()


def test_questions_of_before_a_return_say_nothing_of_now() -> None:
    """A hundred that were lost in an outage run into their time limits long after it ended: nobody is turned away."""
    weather = Weather()
    weather.serve(lambda asked: None)
    lost = [weather.upstream.head(f"r{number}", "t") for number in range(20)]
    weather.net.settle()
    weather.net.clock.advance(10)
    weather.answer(Reply(body=MANIFEST))
    weather.pull()
    weather.net.clock.advance(20)
    assert all(type(weather.net.fault(question)) is errors.UpstreamTimeout for question in lost)
    assert weather.states == [UP]
    weather.end()


def test_a_server_that_fails_five_times_is_down() -> None:
    """Four times it is asked again; the sixth question is not sent."""
    weather = Weather()
    weather.answer(Reply(500))
    for number in range(5):
        assert "answered 500" in str(weather.fault(f"r{number}"))
    assert weather.states == [DOWN]
    assert "has been down for" in str(weather.fault())
    assert len(weather.net.asked) == 5
    weather.end()


def test_a_method_that_is_not_known_is_no_failure() -> None:
    """501 to HEAD is how some servers say that they have none."""
    weather = Weather()
    weather.answer(Reply(501))
    for _ in range(6):
        weather.net.result(weather.upstream.head("a", "t"))
    assert weather.states == [UP]
    weather.end()


def test_answers_of_every_sort_are_answers() -> None:
    """A doubtful registry that says no, that it has no such thing, or rubbish, is up."""
    for reply in (Reply(404), Reply(403), Reply(401), Reply(400), Reply(200, {"Content-Encoding": "gzip"}, b"x")):
        weather = Weather()
        weather.answer(Reply(500), reply)
        weather.fault()
        assert weather.states == [SUSPECT]
        weather.fault()
        assert weather.states == [UP]
        weather.end()


def test_a_cancelled_question_is_neither_a_success_nor_a_failure() -> None:
    """Clients that lose patience say nothing of the registry."""
    weather = Weather()
    weather.net.holes.add(REGISTRY)
    for _ in range(5):
        question = weather.upstream.manifest("a", "t")
        weather.net.settle()
        question.cancel()
        assert type(weather.net.fault(question)) is CancelledError
    assert weather.states == [UP]
    weather.answer(Reply(500))
    weather.net.holes.clear()
    weather.fault()
    assert weather.states == [SUSPECT]
    weather.serve(lambda asked: None)
    question = weather.upstream.manifest("a", "t")
    weather.net.settle()
    assert not weather.upstream.availability("a").ask
    question.cancel()
    weather.net.fault(question)
    assert weather.states == [SUSPECT]
    assert weather.upstream.availability("a").ask
    weather.end()


def test_a_body_that_breaks_off_is_no_failure_of_the_registry() -> None:
    """Lines are cut; who was answered was answered."""
    weather = Weather()
    weather.answer(Reply(200, {}, b"some", claim=100))
    for _ in range(6):
        response = weather.net.result(weather.upstream.blob("a", DIGEST))
        assert isinstance(weather.net.fault(response.deliver(Sink())), errors.UpstreamUnavailable)
    assert weather.states == [UP]
    weather.end()


def test_a_store_that_is_lost_behind_redirects_does_not_take_the_registry_with_it() -> None:
    """Where a firewall lets the registry through and not its CDN, manifests are served as ever."""
    weather = Weather()
    weather.serve(lambda a: Reply(307, {"Location": CDN + a.target}) if "blobs" in a.target else Reply(body=MANIFEST))
    weather.net.servers[CDN] = lambda asked: Reply(502)
    for _ in range(6):
        assert isinstance(weather.net.fault(weather.upstream.blob("a", DIGEST)), errors.UpstreamUnavailable)
    weather.net.refusing.add(CDN)
    for _ in range(3):
        assert isinstance(weather.net.fault(weather.upstream.blob("a", DIGEST)), errors.UpstreamUnavailable)
    assert weather.states == [UP]
    assert weather.pull() == MANIFEST
    weather.end()


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
    weather = Weather(credentials=credentials)
    weather.answer(Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}), Reply(body=MANIFEST), Reply(500))
    assert weather.pull() == MANIFEST
    credentials.lost = True
    for _ in range(3):
        assert "password_file /p" in str(weather.fault())
    assert weather.states == [UP] and weather.net.timers() == []
    credentials.lost = False
    assert "answered 500" in str(weather.fault())
    credentials.lost = True
    assert "password_file /p" in str(weather.fault())
    assert weather.states == [SUSPECT]
    weather.end()


# -- fewer requests -------------------------------------------------------------------------------------------------


def test_a_limit_on_one_repository_leaves_the_others_alone() -> None:
    """Who asks for it next is told what remains of the Retry-After, and no request is made."""
    weather = Weather()
    weather.serve(lambda asked: Reply(429, {"Retry-After": "30"}) if "/busy/" in asked.target else Reply(body=MANIFEST))
    fault = weather.fault("busy")
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 30
    weather.pass_time(10)
    fault = weather.fault("busy")
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 20
    assert len(weather.asked(of="/busy/")) == 1
    availability = weather.upstream.availability("busy")
    assert (availability.ask, availability.until) == (False, weather.net.clock.seconds() + 20)
    assert isinstance(availability.fault, errors.UpstreamRateLimited)
    assert weather.pull("other") == MANIFEST
    assert weather.upstream.condition().resting == ("busy",)
    weather.pass_time(20)
    weather.fault("busy")
    assert len(weather.asked(of="/busy/")) == 2
    weather.end()


def test_limits_on_three_repositories_are_a_limit_on_the_registry() -> None:
    """Then nothing at all is asked until the longest of them is over."""
    weather = Weather()
    waits = {"a": "10", "b": "40", "c": "20"}
    weather.serve(
        lambda asked: (
            Reply(429, {"Retry-After": waits[name]}) if (name := asked.target[4]) in waits else Reply(body=MANIFEST)
        )
    )
    for name in "ab":
        weather.fault(name)
        assert weather.states == [UP]
    weather.fault("c")
    assert weather.states == [RATE_LIMITED]
    fault = weather.fault("d")
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 40
    assert len(weather.net.asked) == 3
    weather.pass_time(40)
    assert weather.states == [UP]
    assert weather.pull("d") == MANIFEST and weather.net.timers() == []
    weather.end()


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    """503 with a Retry-After; both who heard it and who comes later are told when."""
    weather = Weather()
    weather.answer(Reply(503, {"Retry-After": "120"}), Reply(body=MANIFEST))
    for seconds in (120, 90):
        fault = weather.fault("a" if seconds == 120 else "b")
        assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == seconds
        weather.pass_time(30)
    assert len(weather.net.asked) == 1
    weather.pass_time(60)
    assert weather.pull() == MANIFEST
    weather.end()


def test_a_token_server_that_wants_fewer_requests_stops_all() -> None:
    """Without a token nothing can be asked about any repository."""
    weather = Weather(auth_hosts=("auth.example",))
    weather.answer(Reply(401, {"WWW-Authenticate": f'Bearer realm="{AUTH}/token",service="s"'}))
    weather.net.servers[AUTH] = lambda asked: Reply(429, {"Retry-After": "15"})
    weather.fault("a")
    assert weather.states == [RATE_LIMITED]
    fault = weather.fault("b")
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 15
    weather.end()


def test_pulls_are_left_to_others_before_the_limit_is_hit() -> None:
    """C{keep_pulls}: manifests are not fetched any more; checks and blobs, which cost nothing, go on."""
    weather = Weather(adapter=Counting(), keep_pulls=10)
    left = iter([11, 10, 10, 10])

    def server(asked: Asked) -> Reply:
        fields: dict[str, str | list[str]] = {} if "blobs" in asked.target else {"RateLimit-Remaining": str(next(left))}
        return Reply(200, fields, MANIFEST)

    weather.serve(server)
    for _ in range(2):
        weather.pull()
    fault = failure_of(weather.upstream.manifest("b", "t"))
    assert isinstance(fault, errors.UpstreamRateLimited) and "keep_pulls" in str(fault)
    assert len(weather.net.asked) == 2
    weather.net.result(weather.upstream.head("b", "t"))
    weather.net.result(weather.upstream.blob("b", DIGEST)).abandon()
    assert weather.upstream.condition().rate_limit == RateLimit(100, 10, 21600.0)
    assert [limit.remaining for limit in weather.observer.limits] == [11, 10, 10]
    assert weather.states == [UP]
    weather.end()


def test_a_used_up_allowance_is_looked_at_again_without_a_pull() -> None:
    """The window slides: a minute later one HEAD, which costs nothing, says how many are left by now."""
    weather = Weather(adapter=Counting(), keep_pulls=10)
    left = iter([5, 5, 60, 59])
    weather.serve(lambda asked: Reply(200, {"RateLimit-Remaining": str(next(left))}, MANIFEST))
    weather.pull()
    weather.net.clock.advance(60)
    assert isinstance(weather.fault(), errors.UpstreamRateLimited)
    assert [asked.method for asked in weather.net.asked] == ["GET", "HEAD"]
    assert isinstance(weather.fault(), errors.UpstreamRateLimited)
    weather.net.clock.advance(60)
    assert weather.pull() == MANIFEST
    assert [asked.method for asked in weather.net.asked] == ["GET", "HEAD", "HEAD", "GET"]
    weather.end()


# -- several URLs ---------------------------------------------------------------------------------------------------


def test_a_failed_url_is_rested_and_taken_again_after_its_return() -> None:
    """The second is asked meanwhile, at once; the first comes first again."""
    weather = Weather(REGISTRY, SECOND)
    weather.net.refusing.add(REGISTRY)
    for _ in range(3):
        weather.pull()
    assert weather.states == [SUSPECT, UP]
    weather.pass_time(1)
    assert weather.states == [DOWN, UP]
    assert weather.upstream.availability("a") == Availability()
    weather.net.refusing.clear()
    weather.pull()
    assert (weather.asked(), len(weather.asked(SECOND))) == ([], 4)
    weather.pass_time(1)
    assert weather.states == [UP, UP]
    weather.pull()
    assert weather.asked() == ["/v2/", "/v2/a/manifests/t"]
    weather.end()


def test_urls_are_tried_in_order() -> None:
    """Of those that are up the first in the file, then the doubtful ones."""
    weather = Weather(REGISTRY, SECOND, THIRD)
    weather.answer(Reply(500), Reply(body=MANIFEST))
    weather.answer(Reply(500), Reply(body=MANIFEST), url=SECOND)
    weather.pull()
    assert weather.states == [SUSPECT, SUSPECT, UP]
    weather.answer(Reply(500), url=THIRD)
    weather.net.asked.clear()
    weather.pull()
    assert [asked.origin for asked in weather.net.asked] == [THIRD, REGISTRY]
    weather.end()


def test_a_limit_of_one_url_leads_to_the_next() -> None:
    """Two ways to one registry may have two limits."""
    weather = Weather(REGISTRY, SECOND)
    weather.answer(Reply(429, {"Retry-After": "30"}))
    for _ in range(3):
        assert weather.pull() == MANIFEST
    assert (len(weather.asked()), len(weather.asked(SECOND))) == (1, 3)
    assert weather.upstream.availability("a") == Availability()
    weather.end()


def test_when_no_url_may_be_asked_the_first_one_says_why() -> None:
    """And the availability says when that may change."""
    weather = Weather(REGISTRY, SECOND)
    weather.answer(Reply(503, {"Retry-After": "30"}))
    weather.answer(Reply(503, {"Retry-After": "10"}), url=SECOND)
    assert REGISTRY in str(weather.fault())
    fault = weather.fault()
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 30 and REGISTRY in str(fault)
    availability = weather.upstream.availability("a")
    assert (availability.ask, availability.until) == (False, weather.net.clock.seconds() + 10)
    weather.end()


def test_the_failure_that_was_met_is_told_before_one_that_was_not() -> None:
    """What a lost URL would have said matters less than what the other one did."""
    weather = Weather(REGISTRY, SECOND)
    weather.answer(Reply(503, {"Retry-After": "300"}))
    weather.pull()
    weather.answer(Reply(502), url=SECOND)
    assert "answered 502" in str(weather.fault())
    weather.end()


# -- what operators see, and the end --------------------------------------------------------------------------------


def test_operators_see_every_url() -> None:
    """In the configured order, as it may be shown."""
    weather = Weather(REGISTRY + "/remote/", SECOND)
    weather.net.refusing.add(REGISTRY)
    weather.pull()
    first, second = weather.upstream.condition().urls
    assert (first.url, first.health, first.until) == (REGISTRY + "/remote", SUSPECT, weather.net.clock.seconds() + 1)
    assert "cannot connect" in first.fault
    assert (second.url, second.health, second.fault, second.until) == (SECOND, UP, "", None)
    assert weather.observer.states[:2] == [(REGISTRY + "/remote", UP), (SECOND, UP)]
    assert weather.observer.states[2:] == [(REGISTRY + "/remote", SUSPECT)]
    weather.end()


def test_a_stopped_upstream_probes_no_more() -> None:
    """It may be stopped twice; a flight that still holds it may still ask."""
    weather = lost()
    weather.upstream.stop()
    weather.upstream.stop()
    assert weather.net.timers() == []
    weather.net.holes.clear()
    assert weather.pull() == MANIFEST
    weather.end()


class AnyWeather(RuleBasedStateMachine):
    """Two URLs, each answering, failing, hanging or unreachable as it comes; questions come and go at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.weather = Weather(REGISTRY, SECOND)
        self.asking: list[Deferred[Any]] = []

    @rule(
        url=sampled_from([REGISTRY, SECOND]),
        status=sampled_from([200, 404, 403, 429, 500, 503, None]),
        wait=sampled_from([None, "0", "7"]),
    )
    def serves(self, url: str, status: int | None, wait: str | None) -> None:
        fields: dict[str, str | list[str]] = {} if wait is None else {"Retry-After": wait}
        self.weather.serve(lambda asked: None if status is None else Reply(status, dict(fields), MANIFEST), url)

    @rule(url=sampled_from([REGISTRY, SECOND]), refuses=booleans(), swallows=booleans())
    def line(self, url: str, refuses: bool, swallows: bool) -> None:
        for faults, there in ((self.weather.net.refusing, refuses), (self.weather.net.holes, swallows)):
            faults.discard(url)
            if there:
                faults.add(url)

    @rule(repository=sampled_from("abcd"))
    def ask(self, repository: str) -> None:
        """A question is asked, or refused at once with an error of the upstream."""
        states = set(self.weather.states)
        allowed = self.weather.upstream.availability(repository).ask or not states <= {DOWN, RATE_LIMITED}
        before = len(self.weather.net.asked) + len(self.weather.net.wires)
        question = self.weather.upstream.manifest(repository, "t")
        if not allowed:
            assert isinstance(failure_of(question), errors.UpstreamError)
            assert len(self.weather.net.asked) + len(self.weather.net.wires) == before
        else:
            self.asking.append(question)

    @rule(repository=sampled_from("abcd"))
    def overdue(self, repository: str) -> None:
        self.weather.upstream.overdue(repository)

    @rule()
    def cancel(self) -> None:
        if self.asking:
            self.asking[0].cancel()

    @rule(seconds=floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.weather.net.settle()
        self.weather.net.clock.advance(seconds)
        self.weather.net.settle()

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
        assert self.weather.states == [UP, UP]
        assert self.weather.net.timers() == []
        assert self.weather.pull() == MANIFEST
        self.weather.end()


TestAnyWeather = AnyWeather.TestCase
TestAnyWeather.settings = hypothesis_settings(max_examples=25, stateful_step_count=25, deadline=None)
