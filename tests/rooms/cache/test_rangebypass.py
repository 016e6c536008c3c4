"""A range far ahead of what a flight has received is fetched beside it, and not kept."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from appliance import errors
from appliance.cache.bypass import AT_ONCE, LARGE_WAIT, NEAR, SMALL, SMALL_WAIT, BypassedRange
from appliance.index.repositories import SAVE_DELAY
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.oci.ranges import Span
from tests.contracts.upstream import Taker
from tests.doubles.deferreds import begin, failing, result, step
from tests.doubles.manifests import image
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream
from tests.rooms.cache.blobpulls import HUB, LAYER_DIGEST, stocked

LARGE = bytes(1000) * 16384
LARGE_DIGEST = Digest.of(LARGE)
FAR = Span(3_000_000, 3_000_100)
PULL = Span(3_000_000, 3_000_000 + SMALL + 1)


class Large:
    """
    A flight of sixteen megabytes, just begun.

    @ivar cold: whether the blob has not been asked for yet: there is no flight.
    """

    def __init__(self, cold: bool = False) -> None:
        self.upstream = ScriptedUpstream()
        self.upstream.by_hand = True
        self.upstream.add_manifest("app", image(LARGE), OCI_MANIFEST, "latest")
        self.upstream.add_blob("app", LARGE)
        self.cache = Cache(self.upstream)
        result(self.cache.through.manifest(self.cache.at(HUB, "app"), "latest"))
        self.answer = None if cold else result(self.cache.through.blob(self.cache.at(HUB, "app"), LARGE_DIGEST))

    @property
    def flight(self) -> Any:
        return self.upstream.bodies[0]

    def aside(self, span: Span) -> Any:
        """What a client that wants that range gets; C{None}: the flight's bytes."""
        return begin(self._aside(span))

    async def _aside(self, span: Span) -> BypassedRange | None:
        answer = await self.cache.through.blob(self.cache.at(HUB, "app"), LARGE_DIGEST, span_of=lambda _: span)
        if isinstance(answer, BypassedRange):
            return answer
        answer.close()
        return None

    def asked(self) -> list[tuple[int, int | None]]:
        return [(call.start, call.stop) for call in self.upstream.asked("blob")]

    def done(self) -> None:
        self.flight.complete()
        if self.answer is not None:
            self.answer.close()


def test_a_range_near_the_write_head_waits_for_it() -> None:
    """No request of its own, without any delay."""
    large = Large()
    assert result(large.aside(Span(NEAR, NEAR + 10))) is None
    assert len(large.upstream.asked("blob")) == 1
    large.done()


def received(large: Large, side: BypassedRange | None) -> bytes:
    """What comes of the range on the side, which is over then."""
    assert side is not None
    taker = Taker()
    done = side.response.deliver(taker)
    large.upstream.bodies[-1].complete()
    assert result(done) is None
    side.close()
    return bytes(taker.data)


def test_a_range_far_ahead_is_fetched_on_the_side() -> None:
    """The flight stands: just that range is asked for, at once, and passed on uncached."""
    large = Large()
    response = result(large.aside(FAR))
    assert large.upstream.calls[-1].start == FAR.start and large.upstream.calls[-1].stop == FAR.stop
    assert received(large, response) == LARGE[FAR.start : FAR.stop]
    large.done()
    assert large.cache.store.size(LARGE_DIGEST) == len(LARGE)


def test_a_range_far_ahead_in_a_blob_without_a_flight_begins_its_flight_too() -> None:
    """Both are asked for before either is answered; the range comes first, the whole is stored."""
    large = Large(cold=True)
    large.upstream.hang("blob")
    waiting = large.aside(FAR)
    assert large.asked() == [(0, None), FAR]
    large.upstream.hanging[1].answer()
    assert received(large, result(waiting)) == LARGE[FAR.start : FAR.stop]
    large.upstream.hanging[0].answer()
    large.upstream.bodies[-1].complete()
    assert large.cache.store.size(LARGE_DIGEST) == len(LARGE) and len(large.asked()) == 2


def test_a_range_near_the_beginning_of_a_cold_blob_is_left_to_the_flight() -> None:
    """One whole fetch, however many such ranges there are."""
    large = Large(cold=True)
    for start in (0, 2, NEAR):
        assert result(large.aside(Span(start, start + 2))) is None
    assert large.asked() == [(0, None)]
    large.done()


def test_a_range_of_many_megabytes_waits_before_it_is_fetched_on_the_side() -> None:
    """It is a pull, which the flight may serve: the rate is waited for, and the side is asked when nothing comes."""
    large = Large()
    waiting = large.aside(PULL)
    assert not waiting.called and len(large.asked()) == 1
    large.cache.clock.advance(LARGE_WAIT)
    assert received(large, result(waiting)) == LARGE[PULL.start : PULL.stop]
    large.done()


def test_a_rate_that_is_known_is_not_waited_for() -> None:
    """By it the flight would need four seconds to come near."""
    large = Large()
    large.flight.feed(500_000)
    large.cache.clock.advance(1.0)
    assert received(large, result(large.aside(PULL))) == LARGE[PULL.start : PULL.stop]
    large.done()


@pytest.mark.parametrize(("span", "wait"), [(PULL, LARGE_WAIT), (FAR, SMALL_WAIT)])
def test_a_fast_flight_is_waited_for(span: Span, wait: float) -> None:
    """At its rate it is there before an answer from the side would be: no request of its own."""
    large = Large()
    large.flight.feed(400_000)
    large.cache.clock.advance(wait / 8)
    waiting = large.aside(span)
    assert not waiting.called
    for _ in range(7):
        large.flight.feed(400_000)
        large.cache.clock.advance(wait / 8)
    assert result(waiting) is None
    assert len(large.upstream.asked("blob")) == 1
    large.done()


def test_a_fast_flight_that_stops_is_not_waited_for() -> None:
    """It was expected soon and has not come: then it is asked for on the side."""
    large = Large()
    large.flight.feed(400_000)
    large.cache.clock.advance(0.01)
    waiting = large.aside(FAR)
    assert not waiting.called
    large.cache.clock.advance(SMALL_WAIT)
    assert received(large, result(waiting)) == LARGE[FAR.start : FAR.stop]
    large.done()


def test_a_flight_that_comes_near_meanwhile_is_enough() -> None:
    """The wait ends when the write head arrives."""
    large = Large()
    waiting = large.aside(PULL)
    large.flight.feed(FAR.start - NEAR)
    assert result(waiting) is None
    large.done()


def test_an_upstream_without_ranges_is_not_read_twice() -> None:
    """It offers the whole instead of the range: that is dropped, the flight waited for, and no range asked again."""
    large = Large()
    large.upstream.ranges = False
    for _ in range(3):
        assert result(large.aside(FAR)) is None
    assert large.upstream.bodies[-1].dropped
    assert len(large.asked()) == 2
    large.done()


def test_an_upstream_that_sends_less_than_the_range_is_not_passed_on() -> None:
    """RFC 9110 lets it: the client was promised the whole range, so the flight is waited for."""
    large = Large()
    assert result(large.aside(Span(len(LARGE) - 10, len(LARGE) + 10))) is None
    assert large.upstream.bodies[-1].dropped
    large.done()


@pytest.mark.parametrize("error", [errors.UpstreamRateLimited(HUB, "x"), errors.RangeIgnored(HUB, "x")])
def test_a_refusal_on_the_side_is_no_failure(error: errors.UpstreamError) -> None:
    """The range comes with the flight, later."""
    large = Large()
    large.upstream.fail_once("blob", error)
    assert result(large.aside(FAR)) is None
    large.done()


def test_no_more_than_some_ranges_of_a_blob_are_fetched_on_the_side_at_once() -> None:
    """A hundred lazy readers: the others take their turn, or what the flight has brought meanwhile."""
    large = Large()
    waiting = [large.aside(Span(FAR.start + 100 * number, FAR.stop + 100 * number)) for number in range(100)]
    assert len(large.asked()) == 1 + AT_ONCE
    result(waiting[0]).close()
    large.cache.clock.advance(0)
    assert large.upstream.bodies[1].dropped and len(large.asked()) == 2 + AT_ONCE
    waiting[50].cancel()
    failing(waiting[50], CancelledError)
    large.flight.feed(FAR.start)
    for each in waiting[1 : 1 + AT_ONCE]:
        result(each).close()
    step(large.cache.clock, 0.1, 0.001)
    assert all(result(each) is None for each in [*waiting[1 + AT_ONCE : 50], *waiting[51:]])
    assert len(large.asked()) == 2 + AT_ONCE
    large.done()


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    """No request is made for it, and no call stays on the clock."""
    large = Large()
    waiting = large.aside(PULL)
    waiting.cancel()
    failing(waiting, CancelledError)
    large.cache.clock.advance(SAVE_DELAY)
    assert large.cache.clock.getDelayedCalls() == []
    large.done()
    assert len(large.upstream.asked("blob")) == 1


def test_a_held_blob_has_nothing_on_the_side() -> None:
    """All of it is here."""
    large = Large()
    large.done()
    held = result(large.cache.through.blob(large.cache.at(HUB, "app"), LARGE_DIGEST))
    assert result(large.aside(FAR)) is None
    held.close()


def test_a_cold_blob_comes_over_as_many_lines_as_its_upstream_is_configured_for() -> None:
    """segments: 3."""
    upstream = stocked(HUB)
    cache = Cache(upstream, segments=3)
    upstream.by_hand = True
    result(cache.through.manifest(cache.at(HUB, "app"), "latest"))
    result(cache.through.blob(cache.at(HUB, "app"), LAYER_DIGEST)).close()
    flight = cache.flights.get(LAYER_DIGEST)
    assert flight is not None and (flight.segments, flight.background) == (3, False)
    upstream.bodies[0].complete()
