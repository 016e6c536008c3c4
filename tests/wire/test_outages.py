"""
Whatever an upstream does: what a client gets, after how long, and with which headers, in each state of the cache.

The whole table is printed at the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from appliance.cache.access import Client
from appliance.oci.digest import Digest
from appliance.settings import StaleSettings
from tests.wire.conftest import Row
from tests.wire.outages import (
    COLD,
    HELD,
    LAYER,
    METADATA,
    OTHER_LAYER,
    REPOSITORY,
    Appliance,
    FaultyNet,
    Seen,
    blob,
    manifest,
    tag_list,
    tags,
)

ELSEWHERE = "team/other"
REVALIDATE_WITHIN = 2.0
HEADERS, WHOLE = 30.0, 60.0
"""Seconds that an upstream gets for the headers of an answer, and for a manifest as a whole."""


@dataclass(frozen=True)
class Behaviour:
    """
    Something an upstream does.

    @ivar kind: the class of C{serve_stale} it belongs to, empty when the upstream is well.
    @ivar status: what a client gets who asks for what is not cached.
    @ivar seconds: until that.
    @ivar down: whether the upstream is known to be down after two such answers.
    """

    name: str
    change: Callable[[FaultyNet], None]
    kind: str = "unavailable"
    status: int = 502
    seconds: float = 0.0
    down: bool = False


BEHAVIOURS = [
    Behaviour("healthy, tag as before", FaultyNet.clear, "", 200),
    Behaviour("healthy, tag moved", FaultyNet.moved, "", 200),
    Behaviour("404", lambda net: net.answers(404), "missing", 404),
    Behaviour("401", lambda net: net.answers(401, WWW_Authenticate='Basic realm="x"'), "denied", 404),
    Behaviour("403", lambda net: net.answers(403), "denied", 404),
    Behaviour("429, Retry-After: 120", lambda net: net.answers(429, Retry_After="120"), "rate_limited", 429),
    Behaviour("429", lambda net: net.answers(429), "rate_limited", 429),
    Behaviour("503, Retry-After: 120", lambda net: net.answers(503, Retry_After="120"), "rate_limited", 429),
    Behaviour("500", lambda net: net.answers(500)),
    Behaviour("502", lambda net: net.answers(502)),
    Behaviour("connection refused", FaultyNet.refuses, down=True),
    Behaviour("name does not resolve", FaultyNet.vanishes, down=True),
    Behaviour("certificate not trusted", FaultyNet.breaks_tls, down=True),
    Behaviour("black hole", FaultyNet.swallows, status=504, seconds=HEADERS, down=True),
    Behaviour("accepts, never answers", FaultyNet.falls_silent, status=504, seconds=HEADERS, down=True),
    Behaviour("one byte a second", FaultyNet.trickles, status=504, seconds=WHOLE),
    Behaviour("HTML with 200", FaultyNet.says_html),
    Behaviour("wrong digest", FaultyNet.lies),
    Behaviour("gzip unasked", FaultyNet.zips),
    Behaviour("redirect loop", lambda net: net.leads(None)),
    Behaviour("redirect to link-local", lambda net: net.leads(f"{METADATA}/latest/meta-data")),
    Behaviour("redirect to http", lambda net: net.leads("http://registry.example/v2/")),
]
BY_NAME = {behaviour.name: behaviour for behaviour in BEHAVIOURS}
FAULTS = [behaviour for behaviour in BEHAVIOURS if behaviour.kind]


@dataclass(frozen=True)
class Subject:
    """
    Something to ask for.

    @ivar cached: C{"fresh"}, C{"held"}, C{"stale"} or C{"not held"}.
    @ivar age: seconds since everything that is cached was pulled; a tag is fresh for 60.
    """

    what: str
    cached: str
    path: str
    age: float = 100.0

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.what} {self.cached}"

    @property
    def good(self) -> bool:
        """Whether it can be served without a question."""
        return self.cached in ("fresh", "held")


TAG = Subject("tag", "stale", manifest("latest"))
TAGS = Subject("tags", "stale", tags())
SUBJECTS = [
    Subject("tag", "fresh", manifest("latest"), 10.0),
    Subject("manifest", "held", manifest(Digest.of(HELD))),
    Subject("blob", "held", blob(LAYER)),
    TAG,
    TAGS,
    Subject("tag", "not held", manifest("cold")),
    Subject("manifest", "not held", manifest(Digest.of(COLD))),
    Subject("blob", "not held", blob(OTHER_LAYER)),
    Subject("tags", "not held", tags(ELSEWHERE)),
]


@dataclass(frozen=True)
class Promise:
    """What is promised of one answer: status, C{Cache-Status} behind our name, seconds until it."""

    status: int
    told: str
    seconds: float = 0.0
    warned: bool = False


HIT = Promise(200, "hit")
CUT = Promise(0, "")
MISS = Promise(200, "fwd=uri-miss; stored")
# Where a behaviour does not do to this what it does to the rest.
SPECIAL = {
    ("healthy, tag as before", "tag stale"): Promise(200, "fwd=stale; fwd-status=304"),
    ("healthy, tag moved", "tag stale"): Promise(200, "fwd=stale; fwd-status=200; stored"),
    ("healthy, tag as before", "tags stale"): Promise(200, "fwd=stale; stored"),
    ("healthy, tag moved", "tags stale"): Promise(200, "fwd=stale; stored"),
    # A list has no digest that could be wrong.
    ("wrong digest", "tags stale"): Promise(200, "fwd=stale; stored"),
    ("wrong digest", "tags not held"): MISS,
    # Its bytes were under way: the client must not take them for the blob.
    ("wrong digest", "blob not held"): CUT,
    # However slowly it comes, it comes.
    ("one byte a second", "blob not held"): Promise(200, MISS.told, len(OTHER_LAYER) - 1.0),
    ("one byte a second", "tags not held"): Promise(200, MISS.told, len(tag_list(ELSEWHERE)) - 1.0),
}


def promised(behaviour: Behaviour, subject: Subject) -> Promise:
    """What is promised of the first answer."""
    if subject.good:
        return HIT
    if (behaviour.name, subject.name) in SPECIAL:
        return SPECIAL[behaviour.name, subject.name]
    if not behaviour.kind:
        return MISS
    if subject.cached == "stale":
        wait = min(behaviour.seconds, REVALIDATE_WITHIN)
        return Promise(200, f"hit; detail=stale-{behaviour.kind}", wait, warned=True)
    return refused(behaviour)


def refused(behaviour: Behaviour) -> Promise:
    """What is promised of an answer that cannot be given: the upstream's fault."""
    told = "fwd-status=404" if behaviour.kind == "missing" else f"detail={behaviour.kind}"
    return Promise(behaviour.status, f"fwd=uri-miss; {told}", behaviour.seconds)


def promised_next(behaviour: Behaviour, subject: Subject, first: Promise) -> Promise:
    """What is promised of an answer right after that one."""
    if behaviour.kind == "missing" and subject.cached == "not held":
        return Promise(404, "hit; detail=missing")
    if first.status == 200:
        return first if first.warned else HIT
    return first


def check(seen: Seen, promise: Promise) -> None:
    """Assert that the promise was kept."""
    told = seen.field("Cache-Status").removeprefix("pullcache; ")
    assert (seen.status, told, bool(seen.field("Warning"))) == (promise.status, promise.told, promise.warned)
    assert seen.seconds == pytest.approx(promise.seconds, abs=0.01)
    if seen.status == 429:
        assert 1 <= int(seen.field("Retry-After")) <= 120


def row(upstream: str, cached: str, asked: str, seen: list[Seen]) -> Row:
    """A row of the printed table."""
    told = [each.field("Cache-Status").removeprefix("pullcache; ") for each in seen]
    seconds = tuple(each.seconds for each in seen)
    warned = bool(seen[0].field("Warning"))
    return Row(upstream, cached, asked, str(seen[0].status or "cut"), seconds, (told[0], told[1]), warned)


def thrice(appliance: Appliance, subject: Subject) -> list[Seen]:
    """Ask one time after the other."""
    return [appliance.ask(subject.path) for _ in range(3)]


def under(appliance: Appliance, behaviour: Behaviour, age: float = 100.0) -> Appliance:
    """After C{age} seconds the upstream begins to behave so."""
    appliance.wait(age)
    behaviour.change(appliance.net)
    return appliance


# -- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_whatever_the_upstream_does(behaviour: Behaviour, subject: Subject, table: Callable[[Row], None]) -> None:
    """
    What is cached is served, within revalidate_within the first time and at once the second; what is not is refused
    with the upstream's own fault; and each answer says where it came from.
    """
    appliance = under(Appliance(), behaviour, subject.age)
    first, second, third = seen = thrice(appliance, subject)
    table(row(behaviour.name, subject.cached, subject.what, seen))
    promise = promised(behaviour, subject)
    check(first, promise)
    again = promised_next(behaviour, subject, promise)
    if subject.cached != "not held":
        assert first.seconds <= REVALIDATE_WITHIN and second.seconds == third.seconds == 0.0
        again = Promise(again.status, again.told, 0.0, again.warned)
    check(second, again)
    if behaviour.down and subject.cached == "not held":
        assert third.seconds == 0.0


# -- other settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [TAG, TAGS], ids=lambda subject: subject.name)
@pytest.mark.parametrize("behaviour", FAULTS, ids=lambda behaviour: behaviour.name)
@pytest.mark.parametrize("own", [True, False], ids=["its class", "the others"])
def test_each_class_of_trouble_can_be_reported_instead(
    own: bool, behaviour: Behaviour, subject: Subject, table: Callable[[Row], None]
) -> None:
    """serve_stale: {unavailable: false}, and so on: that class is reported as if nothing was cached, others are not."""
    switches = {
        kind: (kind == behaviour.kind) is not own for kind in ("missing", "denied", "rate_limited", "unavailable")
    }
    appliance = under(Appliance(serve_stale=StaleSettings(**switches)), behaviour)
    seen = thrice(appliance, subject)
    told = promised(behaviour, subject)
    if told.warned and own:
        told = _impatient(behaviour, subject)
        table(row(behaviour.name, "barred", subject.what, seen))
    check(seen[0], told)
    assert seen[1].status == seen[2].status == seen[0].status


def _impatient(behaviour: Behaviour, subject: Subject) -> Promise:
    """What is promised where what is cached may not be served."""
    if behaviour.name == "one byte a second" and subject is TAGS:
        return Promise(200, "fwd=stale; stored", len(tag_list(REPOSITORY)) - 1.0)
    return refused(behaviour)


@pytest.mark.parametrize("subject", [TAG, TAGS], ids=lambda subject: subject.name)
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_past_max_stale_nothing_is_served_unchecked(
    behaviour: Behaviour, subject: Subject, table: Callable[[Row], None]
) -> None:
    """max_stale: 30s, asked 40 s after it went stale: the upstream's word or its fault."""
    appliance = under(Appliance(max_stale=30.0), behaviour)
    seen = thrice(appliance, subject)
    told = promised(behaviour, subject)
    if told.warned:
        told = _impatient(behaviour, subject)
        table(row(behaviour.name, "too stale", subject.what, seen))
    check(seen[0], told)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_offline_an_outage_does_not_matter(subject: Subject, table: Callable[[Row], None]) -> None:
    """offline: true. What is held is served however old, what is not is refused, at once; no connection is made."""
    appliance = under(Appliance(offline=True), BY_NAME["accepts, never answers"], 1e6)
    asked = len(appliance.net.asked)
    seen = thrice(appliance, subject)
    table(row("offline: true", subject.cached, subject.what, seen))
    for each in seen:
        check(each, Promise(404, "detail=offline") if subject.cached == "not held" else HIT)
    assert len(appliance.net.asked) == asked


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_without_revalidation_an_outage_does_not_matter_to_what_is_held(subject: Subject) -> None:
    """revalidate: never. The upstream is asked only for what is not here."""
    appliance = under(Appliance(fresh_for=None), BY_NAME["black hole"], 1e6)
    seen = appliance.ask(subject.path)
    check(seen, refused(BY_NAME["black hole"]) if subject.cached == "not held" else HIT)


def test_missing_delete_tells_the_404_and_forgets_the_tag(table: Callable[[Row], None]) -> None:
    """missing: delete. Other trouble takes nothing away, and a digest stays."""
    for behaviour in FAULTS:
        appliance = under(Appliance(delete_missing=True), behaviour)
        first, second, _ = seen = thrice(appliance, TAG)
        if behaviour.kind != "missing":
            check(first, promised(behaviour, TAG))
            continue
        table(row(behaviour.name, "deleted", TAG.what, seen))
        check(first, refused(behaviour))
        check(second, Promise(404, "hit; detail=missing"))
        check(appliance.ask(manifest(Digest.of(HELD))), HIT)


# -- more than two requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["black hole", "accepts, never answers", "connection refused"])
def test_behind_a_black_hole_the_next_thousand_cost_what_hits_cost(name: str) -> None:
    """One client waits, and no other; the upstream is left alone but for a few looks, and all are counted as stale."""
    appliance = under(Appliance(), BY_NAME[name])
    appliance.ask(TAG.path)
    told, asked = len(appliance.accounts.told), len(appliance.net.asked)
    for _ in range(1000):
        assert appliance.ask(TAG.path).seconds == 0.0
        appliance.wait(0.01)
    assert {each[-1] for each in appliance.accounts.told[told:]} == {"stale"}
    assert len(appliance.net.asked) - asked <= 5


def test_the_thousand_are_written_by_the_hot_lane() -> None:
    """All but those that come first after a look at the upstream was due."""
    appliance = under(Appliance(), BY_NAME["connection refused"])
    for _ in range(3):
        appliance.ask(TAG.path)
    routed = 0
    serve = appliance.listener._lane.serve

    def counted(transport: object, data: bytes, client: Client) -> bool:
        nonlocal routed
        served = serve(transport, data, client)
        routed += not served
        return served

    appliance.listener._lane.serve = counted  # type: ignore[method-assign]
    for _ in range(1000):
        appliance.ask(TAG.path)
        appliance.wait(0.01)
    assert routed <= 20


@pytest.mark.parametrize("lasting", [5.0, 60.0, 3600.0])
@pytest.mark.parametrize(
    "name", ["black hole", "accepts, never answers", "connection refused", "500", "one byte a second"]
)
def test_the_return_of_an_upstream_is_noticed(name: str, lasting: float) -> None:
    """At the latest with the next probe, which is at most five minutes and a little away."""
    appliance = under(Appliance(), BY_NAME[name])
    until = appliance.clock.seconds() + lasting
    while appliance.clock.seconds() < until:
        assert appliance.ask(TAG.path).status == 200
        appliance.wait(1.0)
    appliance.net.clear()
    cleared = appliance.clock.seconds()
    while appliance.ask(TAG.path).field("Warning"):
        appliance.wait(1.0)
        assert appliance.clock.seconds() - cleared < min(2 * lasting + 60.0, 300.0 * 1.2 + 31.0)


def test_who_needs_the_upstream_finds_its_return_soon() -> None:
    """After an hour of darkness, a client asks for what is not held: refused at once, and served some seconds later."""
    appliance = under(Appliance(), BY_NAME["connection refused"])
    for _ in range(360):
        appliance.ask(TAG.path)
        appliance.wait(10.0)
    cold = manifest("cold")
    appliance.net.clear()
    began = appliance.clock.seconds()
    while appliance.ask(cold).status != 200:
        appliance.wait(1.0)
        assert appliance.clock.seconds() - began < 10.0


def test_a_429_hides_nothing_and_ends_when_it_said_it_would() -> None:
    """Cached images are served, others refused with what remains of Retry-After, nothing is remembered as missing."""
    appliance = under(Appliance(), BY_NAME["429, Retry-After: 120"])
    cold = manifest("cold")
    assert appliance.ask(cold).field("Retry-After") == "120"
    asked = len(appliance.net.asked)
    appliance.wait(50.0)
    assert appliance.ask(cold).field("Retry-After") == "70"
    assert appliance.ask(TAG.path).field("Cache-Status") == "pullcache; hit; detail=stale-rate_limited"
    assert len(appliance.net.asked) == asked
    appliance.net.clear()
    appliance.wait(70.1)
    assert appliance.ask(cold).status == 200


@pytest.mark.parametrize("behaviour", FAULTS, ids=lambda behaviour: behaviour.name)
def test_when_it_is_over_everything_is_as_before(behaviour: Behaviour) -> None:
    """However often it was asked meanwhile: nothing broken was kept, and nothing is believed missing for long."""
    appliance = under(Appliance(), behaviour)
    for subject in SUBJECTS * 2:
        appliance.ask(subject.path)
    appliance.net.clear()
    appliance.wait(400.0)
    for subject in SUBJECTS:
        assert appliance.ask(subject.path).status == 200, subject.name


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("behaviour", FAULTS, ids=lambda behaviour: behaviour.name)
def test_head_is_answered_as_get_is(behaviour: Behaviour, method: str) -> None:
    """Status, Cache-Status and Warning of tags and digests."""
    for subject in (TAG, SUBJECTS[5], SUBJECTS[6]):
        check(under(Appliance(), behaviour).ask(subject.path, method), promised(behaviour, subject))
