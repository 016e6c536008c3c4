"""One fetch of one blob: cut lines, wrong bytes, leaving readers, and what they see of it."""

from __future__ import annotations

from itertools import product

import pytest
from twisted.internet.defer import CancelledError

from appliance import errors
from appliance.cache.backoff import RETRY_DELAYS
from appliance.cache.flight import TRANSITIONS, Flight, State
from appliance.cache.space import Space
from appliance.oci.digest import Digest
from appliance.settings import RetentionSettings
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import failing, result, step
from tests.doubles.pullthrough import clock_at
from tests.doubles.upstream import ScriptedBody, ScriptedUpstream
from tests.rooms.cache.flying import BLOB, DIGEST, NAME, SIZE, Trip

# -- the machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), list(product(State, State)), ids=lambda state: str(state.value))
def test_a_flight_does_only_what_its_table_allows(before: State, after: State) -> None:
    """Every pair of states: the legal steps are taken, the illegal ones raise and change nothing."""
    flight = Trip().flight
    flight.state = before
    if after in TRANSITIONS[before]:
        flight._enter(after)
        assert flight.state is after
    else:
        with pytest.raises(ValueError, match=before.value):
            flight._enter(after)
        assert flight.state is before


def test_nothing_follows_an_end() -> None:
    """A flight that landed or failed stays so, and every other state has a way out."""
    assert {state for state, following in TRANSITIONS.items() if not following} == {State.LANDED, State.FAILED}


# -- the good way ----------------------------------------------------------------------------------------------------


def test_bytes_can_be_read_as_they_come_but_for_the_last_one() -> None:
    """I see what has arrived; the last byte waits for the digest, so that no wrong blob is ever complete."""
    trip = Trip().depart()
    assert result(trip.flight.opened()) is None
    trip.body.feed(1000)
    assert trip.readable() == BLOB[:1000]
    trip.body.feed(SIZE - 1000)
    assert trip.readable() == BLOB[:-1]
    trip.body.end()
    assert trip.flight.growth.available == SIZE
    assert trip.flight.state is State.LANDED
    assert trip.store.size(DIGEST) == SIZE
    assert trip.asked() == [(0, None, None)]


def test_it_may_be_joined_at_any_time() -> None:
    """Before the upstream answers, in the middle, and after the end."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    early = trip.flight.opened()
    assert not early.called
    trip.upstream.hanging[0].answer()
    assert result(early) is None
    trip.body.feed(10)
    assert result(trip.flight.opened()) is None
    trip.body.complete()
    assert result(trip.flight.opened()) is None
    assert result(trip.flight.landed()) is None


def test_a_reader_that_leaves_stops_nothing() -> None:
    """The first client hangs up while the upstream is asked; the second one gets the blob, and one GET was made."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    first, second = trip.flight.opened(), trip.flight.opened()
    first.cancel()
    failing(first, CancelledError)
    assert not trip.upstream.hanging[0].cancelled
    trip.upstream.hanging[0].answer()
    assert result(second) is None
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE


def test_a_flight_without_readers_goes_on_to_its_end() -> None:
    """What was begun is kept when its readers leave."""
    trip = Trip().depart()
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE
    assert trip.outcome == [None]


def test_waiting_readers_may_drop_each_other() -> None:
    """One that fires first and ends another one's wait leaves the rest their answer."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    first, second, third = (trip.flight.opened() for _ in range(3))
    first.addCallback(lambda _: second.cancel())
    trip.upstream.hanging[0].answer()
    failing(second, CancelledError)
    assert result(third) is None
    trip.body.complete()


def test_an_empty_blob_needs_no_upstream() -> None:
    """There is only one blob of no bytes."""
    empty = Digest.of(b"")
    trip = Trip()
    flight = Flight(trip.upstream, NAME, empty, 0, trip.store, trip.clock, trip.space)
    assert result(flight.fly()) is None
    assert trip.store.size(empty) == 0
    assert trip.asked() == []
    assert result(flight.opened()) is None


def test_an_empty_blob_of_unknown_size_lands() -> None:
    """An upstream may say nothing of the size, and send nothing."""
    empty = Digest.of(b"")
    upstream = ScriptedUpstream()
    upstream.tells_size = False
    upstream.add_blob(NAME, b"")
    store, clock = MemoryBlobStore(), clock_at()
    flight = Flight(upstream, NAME, empty, None, store, clock, Space(store, clock, RetentionSettings()))
    assert result(flight.fly()) is None
    assert (flight.size, store.size(empty)) == (0, 0)


def test_an_unknown_size_is_learnt_from_the_upstream() -> None:
    """A blob that no manifest here names: the answer's own length is good enough to begin."""
    trip = Trip(size=None).depart()
    assert result(trip.flight.opened()) is None
    assert trip.flight.size == SIZE
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE


def test_without_any_size_readers_wait_for_the_end() -> None:
    """No length can be promised before, so nothing is."""
    trip = Trip(size=None)
    trip.upstream.tells_size = False
    trip.depart()
    opened = trip.flight.opened()
    trip.body.feed(1000)
    assert not opened.called
    trip.body.complete()
    assert result(opened) is None
    assert trip.flight.size == SIZE


# -- cut lines -------------------------------------------------------------------------------------------------------


def test_three_cuts_are_survived_and_no_byte_is_asked_for_twice() -> None:
    """The line is cut three times: each time the rest is asked for, and readers notice nothing."""
    trip = Trip().depart()
    for piece in (1000, 2000, 3000):
        trip.body.feed(piece)
        trip.body.cut()
        assert trip.flight.state is State.PAUSED
        trip.clock.advance(RETRY_DELAYS[0])
    trip.body.complete()
    assert trip.asked() == [(0, None, None), (1000, None, None), (3000, None, None), (6000, None, None)]
    assert result(trip.store.read(DIGEST, SIZE)) == BLOB


def test_a_body_that_ends_early_counts_as_cut() -> None:
    """A connection closed in good order before the promised size was reached is resumed like any other."""
    trip = Trip().depart()
    trip.body.feed(1000)
    trip.body.end()
    assert trip.flight.state is State.PAUSED
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.asked()[-1] == (1000, None, None)
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE


def test_a_resumption_names_the_validator() -> None:
    """If-Range with the strong entity tag the first answer had, and none before there is one."""
    trip = Trip(validator='"v1"').depart()
    trip.body.feed(1000)
    trip.body.cut()
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.asked() == [(0, None, None), (1000, None, '"v1"')]
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE


def test_an_upstream_that_starts_over_is_read_past_what_is_here() -> None:
    """Range ignored: the whole comes again, what is held is skipped, and the blob is right."""
    trip = Trip().depart()
    trip.body.feed(1000)
    trip.body.cut()
    trip.upstream.ranges = False
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.body.start == 0
    trip.body.feed(900)
    assert trip.readable() == BLOB[:1000]
    trip.body.feed(300)
    assert trip.readable() == BLOB[:1200]
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE


def test_an_answer_that_leaves_a_gap_is_not_taken() -> None:
    """The upstream begins further on than asked: it is dropped, and asked again."""
    trip = Trip().depart()
    trip.body.feed(1000)
    trip.upstream.hang("blob")
    trip.body.cut()
    trip.clock.advance(RETRY_DELAYS[0])
    gap = ScriptedBody("docker.io", BLOB[2000:], 2000, SIZE, None)
    trip.upstream.hanging[0].asked.callback(gap)
    assert gap.dropped and trip.flight.state is State.PAUSED
    trip.upstream.heal()
    step(trip.clock, 1.0)
    trip.body.complete()
    assert result(trip.store.read(DIGEST, SIZE)) == BLOB


def test_pauses_grow_while_no_byte_comes_and_then_it_is_given_up() -> None:
    """A dead upstream is asked less and less often; in the end readers get the failure, and what came is kept."""
    trip = Trip().depart()
    trip.body.feed(1000)
    landed = trip.flight.landed()
    trip.upstream.fail(errors.UpstreamUnavailable("docker.io", "no route"))
    trip.body.cut()
    asked_at = []
    for _ in range(2000):
        before = len(trip.asked())
        trip.clock.advance(0.05)
        if len(trip.asked()) > before:
            asked_at.append(trip.clock.seconds())
        if trip.outcome:
            break
    waits = [later - earlier for earlier, later in zip(asked_at, asked_at[1:], strict=False)]
    assert waits == sorted(waits) and len(waits) == len(RETRY_DELAYS) - 1
    assert isinstance(failing(landed), errors.UpstreamUnavailable)
    assert trip.flight.growth.failure is not None
    assert trip.flight.state is State.FAILED
    assert trip.kept() == 1000


def test_bytes_that_come_start_the_row_of_pauses_anew() -> None:
    """An upstream that gives a little each time is not given up."""
    trip = Trip().depart()
    for _ in range(3 * len(RETRY_DELAYS)):
        trip.body.feed(10)
        trip.body.cut()
        trip.clock.advance(RETRY_DELAYS[0])
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE


def test_a_refusal_before_anything_was_promised_is_reported_at_once() -> None:
    """The first request fails: the client does best to ask elsewhere, so it is not kept waiting."""
    for error in (
        errors.UpstreamUnavailable("u", "x"),
        errors.UpstreamRateLimited("u", "x", 30.0),
        errors.UpstreamMissing("u", "x"),
        errors.UpstreamDenied("u", "x"),
        errors.UpstreamRefused("u", "x"),
    ):
        trip = Trip()
        trip.upstream.fail_once("blob", error)
        trip.depart()
        assert failing(trip.flight.opened()) is error
        assert failing(trip.flight.landed()) is error
        assert trip.clock.getDelayedCalls() == []


def test_too_many_requests_amid_a_blob_are_waited_out() -> None:
    """429 with Retry-After on a resumption: it is obeyed, and the pull succeeds."""
    trip = Trip().depart()
    trip.body.feed(1000)
    trip.upstream.fail_once("blob", errors.UpstreamRateLimited("docker.io", "slow down", 20.0))
    trip.body.cut()
    trip.clock.advance(RETRY_DELAYS[0])
    trip.clock.advance(19.0)
    assert len(trip.asked()) == 2
    trip.clock.advance(1.0)
    assert trip.asked()[-1] == (1000, None, None)
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE


def test_no_client_is_kept_waiting_for_an_hour_by_retry_after() -> None:
    """What clients wait for has a bound, whatever the upstream asks."""
    trip = Trip().depart()
    trip.body.feed(1000)
    trip.upstream.fail_once("blob", errors.UpstreamRateLimited("docker.io", "slow down", 3600.0))
    trip.body.cut()
    trip.clock.advance(RETRY_DELAYS[0])
    trip.clock.advance(60.0)
    assert len(trip.asked()) == 3
    trip.body.complete()


def test_a_blob_that_vanished_meanwhile_fails_the_flight() -> None:
    """404 on a resumption: no use trying again; what came is kept."""
    trip = Trip().depart()
    trip.body.feed(1000)
    trip.upstream.shelves[NAME].blobs.clear()
    trip.body.cut()
    trip.clock.advance(RETRY_DELAYS[0])
    assert isinstance(trip.error, errors.UpstreamMissing)
    assert trip.kept() == 1000
