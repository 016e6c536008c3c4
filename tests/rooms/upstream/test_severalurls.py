"""An upstream with several URLs: the next one is asked when one is unavailable."""

from __future__ import annotations

from appliance import errors
from appliance.upstream.interfaces import Availability
from tests.rooms.upstream.net import REGISTRY, Reply
from tests.rooms.upstream.outages import DOWN, MANIFEST, SECOND, SUSPECT, THIRD, UP, Outages


def test_a_failed_url_is_rested_and_taken_again_after_its_return() -> None:
    """The second is asked meanwhile, at once; the first comes first again."""
    outages = Outages(REGISTRY, SECOND)
    outages.net.refusing.add(REGISTRY)
    for _ in range(3):
        outages.pull()
    assert outages.states == [SUSPECT, UP]
    outages.pass_time(1)
    assert outages.states == [DOWN, UP]
    assert outages.upstream.availability("a") == Availability()
    outages.net.refusing.clear()
    outages.pull()
    assert (outages.asked(), len(outages.asked(SECOND))) == ([], 4)
    outages.pass_time(1)
    assert outages.states == [UP, UP]
    outages.pull()
    assert outages.asked() == ["/v2/", "/v2/a/manifests/t"]
    outages.end()


def test_urls_are_tried_in_order() -> None:
    """Of those that are up the first in the file, then the suspect ones."""
    outages = Outages(REGISTRY, SECOND, THIRD)
    outages.answer(Reply(500), Reply(body=MANIFEST))
    outages.answer(Reply(500), Reply(body=MANIFEST), url=SECOND)
    outages.pull()
    assert outages.states == [SUSPECT, SUSPECT, UP]
    outages.answer(Reply(500), url=THIRD)
    outages.net.asked.clear()
    outages.pull()
    assert [asked.origin for asked in outages.net.asked] == [THIRD, REGISTRY]
    outages.end()


def test_a_limit_of_one_url_leads_to_the_next() -> None:
    """Two ways to one registry may have two limits."""
    outages = Outages(REGISTRY, SECOND)
    outages.answer(Reply(429, {"Retry-After": "30"}))
    for _ in range(3):
        assert outages.pull() == MANIFEST
    assert (len(outages.asked()), len(outages.asked(SECOND))) == (1, 3)
    assert outages.upstream.availability("a") == Availability()
    outages.end()


def test_when_no_url_may_be_asked_the_first_one_says_why() -> None:
    """And the availability says when that may change."""
    outages = Outages(REGISTRY, SECOND)
    outages.answer(Reply(503, {"Retry-After": "30"}))
    outages.answer(Reply(503, {"Retry-After": "10"}), url=SECOND)
    assert REGISTRY in str(outages.fault())
    fault = outages.fault()
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 30 and REGISTRY in str(fault)
    availability = outages.upstream.availability("a")
    assert (availability.ask, availability.until) == (False, outages.net.clock.seconds() + 10)
    outages.end()


def test_the_failure_that_was_met_is_raised_before_one_that_was_not() -> None:
    """What a lost URL would have said matters less than what the other one did."""
    outages = Outages(REGISTRY, SECOND)
    outages.answer(Reply(503, {"Retry-After": "300"}))
    outages.pull()
    outages.answer(Reply(502), url=SECOND)
    assert "answered 502" in str(outages.fault())
    outages.end()
