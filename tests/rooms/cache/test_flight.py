"""One fetch of one blob: cut lines, wrong bytes, leaving readers, and what they see of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from appliance import errors
from appliance.cache.backoff import RETRY_DELAYS
from appliance.cache.flight import TRANSITIONS, Flight, State
from appliance.interfaces import IBlobReader, Origin
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import begin, failing, result, step
from tests.doubles.pullthrough import clock_at
from tests.doubles.upstream import ScriptedBody, ScriptedUpstream

BLOB = bytes(range(256)) * 40
SIZE = len(BLOB)
DIGEST = Digest.of(BLOB)
NAME = "library/app"


class Trip:
    """A flight of BLOB, its bodies fed by hand."""

    def __init__(self, size: int | None = SIZE, store: Any = None, blob: bytes = BLOB, validator: str | None = None):
        self.upstream = ScriptedUpstream()
        self.upstream.by_hand = True
        self.upstream.validator = validator
        self.upstream.shelves[NAME].blobs[DIGEST] = blob
        self.store = store or MemoryBlobStore()
        self.clock = clock_at()
        self.flight = Flight(self.upstream, NAME, DIGEST, size, self.store, self.clock)
        self.outcome: list[Any] = []
        # Of somebody who reads on when the flight has ended; C{None}: nobody does.
        self.reader: IBlobReader | None = None

    def depart(self) -> Trip:
        self.landing = begin(self.flight.fly())
        self.landing.addBoth(self.outcome.append)
        return self

    @property
    def body(self) -> ScriptedBody:
        """The latest answer of the upstream."""
        return self.upstream.bodies[-1]

    @property
    def error(self) -> Exception:
        found: Exception = self.outcome[0].value
        return found

    def readable(self) -> bytes:
        """What a reader can have by now."""
        return result((self.reader or self.flight.reader()).read(0, self.flight.growth.available))

    def asked(self) -> list[tuple[int, int | None, str | None]]:
        return [(call.start, call.stop, call.validator) for call in self.upstream.asked("blob")]

    def kept(self) -> int:
        """Bytes kept for a resumption."""
        ingest = result(self.store.ingest(DIGEST))
        ingest.close()
        size: int = ingest.size
        return size


# -- the machine ----------------------------------------------------------------------------------------------------


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


# -- the good way ---------------------------------------------------------------------------------------------------


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
    """What was begun is kept, whoever left."""
    trip = Trip().depart()
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE
    assert trip.outcome == [None]


def test_waiting_readers_may_drop_each_other() -> None:
    """One that is told first and ends another one's wait leaves the rest their answer."""
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
    flight = Flight(trip.upstream, NAME, empty, 0, trip.store, trip.clock)
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
    store = MemoryBlobStore()
    flight = Flight(upstream, NAME, empty, None, store, clock_at())
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


# -- cut lines ------------------------------------------------------------------------------------------------------


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
    """A dead upstream is asked less and less often; in the end readers are told, and what came is kept."""
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


def test_a_refusal_before_anything_was_promised_is_told_at_once() -> None:
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


def test_nobody_is_kept_waiting_for_an_hour_by_retry_after() -> None:
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


# -- wrong bytes ----------------------------------------------------------------------------------------------------


def discarded(trip: Trip) -> bool:
    """Nothing is kept, readers were told, and they never had the last byte."""
    assert trip.flight.growth.failure is not None
    assert trip.flight.growth.available < SIZE
    return (
        trip.flight.state is State.FAILED and trip.store.size(DIGEST) is None and DIGEST not in trip.store.unfinished()
    )


def test_wrong_bytes_are_thrown_away() -> None:
    """One bit is flipped: the last byte is never given, the readers fail, the next pull starts from nought."""
    trip = Trip(blob=b"\xff" + BLOB[1:]).depart()
    trip.body.feed(SIZE)
    trip.body.end()
    assert isinstance(trip.error, errors.UpstreamInvalid)
    assert discarded(trip)


@pytest.mark.parametrize("size", [SIZE - 7, SIZE + 7, 0, 10 * SIZE])
def test_a_descriptors_size_that_the_upstream_contradicts_is_only_a_hint(size: int) -> None:
    """The manifest says one size, the upstream another: nobody is promised one before the digest says who is right."""
    trip = Trip(size=size).depart()
    opened = trip.flight.opened()
    trip.body.feed(SIZE - 1)
    assert not opened.called and trip.flight.growth.available == 0
    trip.body.complete()
    assert result(opened) is None
    assert (trip.flight.size, trip.flight.growth.available) == (SIZE, SIZE)
    assert trip.store.size(DIGEST) == SIZE and len(trip.asked()) == 1


def test_a_size_unlike_the_descriptors_with_other_bytes_is_told_before_anything_was_promised() -> None:
    """It was the upstream that was wrong: a clean failure, nothing kept."""
    trip = Trip(blob=BLOB + b"more").depart()
    opened = trip.flight.opened()
    trip.body.complete()
    assert isinstance(failing(opened), errors.UpstreamInvalid)
    assert discarded(trip) and trip.flight.growth.available == 0


def test_a_line_that_is_cut_while_the_size_is_disputed_is_resumed() -> None:
    """As any other; the upstream's size is good enough to know what is missing."""
    trip = Trip(size=SIZE + 7).depart()
    opened = trip.flight.opened()
    trip.body.feed(1000)
    trip.body.cut()
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.body.start == 1000 and not opened.called
    trip.body.complete()
    assert result(opened) is None and trip.store.size(DIGEST) == SIZE


@pytest.mark.parametrize("error", [errors.UpstreamInvalid("docker.io", "gzip"), None], ids=["answer", "size"])
def test_bytes_are_kept_whatever_nonsense_a_resumption_gets(error: Exception | None) -> None:
    """An encoded answer, or one of another size than readers were promised: only a wrong digest throws bytes away."""
    trip = Trip().depart()
    trip.body.feed(1000)
    trip.body.cut()
    if error is None:
        trip.upstream.shelves[NAME].blobs[DIGEST] = BLOB[:5000]
    else:
        trip.upstream.fail_once("blob", error)
    trip.clock.advance(RETRY_DELAYS[0])
    assert isinstance(trip.error, errors.UpstreamInvalid) and trip.flight.growth.failure is not None
    trip.upstream.shelves[NAME].blobs[DIGEST] = BLOB
    again = Trip(store=trip.store).depart()
    assert again.asked() == [(1000, None, None)]
    again.body.complete()
    assert again.store.size(DIGEST) == SIZE


@pytest.mark.parametrize("size", [None, 900])
def test_an_answer_shorter_than_what_is_here_is_refused(size: int | None) -> None:
    """A portal's page of thirty bytes is no reason to throw a thousand good ones away."""
    store = MemoryBlobStore()
    first = Trip(store=store).depart()
    first.body.feed(1000)
    first.landing.addErrback(lambda _: None)
    first.landing.cancel()
    trip = Trip(size=SIZE if size is None else size, store=store, blob=b"<html>Please log in</html>.")
    trip.upstream.ranges = False
    trip.depart()
    assert isinstance(trip.error, errors.UpstreamInvalid)
    assert trip.kept() == 1000


def test_an_endless_body_is_cut_off() -> None:
    """More bytes than the descriptor says, from an upstream that told no size: stopped at once."""
    trip = Trip(blob=b"\xff" + BLOB[1:] + b"x" * 100)
    trip.upstream.tells_size = False
    trip.depart()
    trip.body.feed(SIZE + 50)
    assert trip.body.dropped
    assert isinstance(trip.error, errors.UpstreamInvalid)
    assert trip.flight.growth.failure is not None and trip.flight.growth.available < SIZE
    assert trip.kept() == SIZE and trip.store.size(DIGEST) is None


def test_what_comes_after_the_right_bytes_is_left() -> None:
    """As many as the descriptor says have the digest: that is the blob, whatever else the upstream sends."""
    trip = Trip(blob=BLOB + b"x" * 100)
    trip.upstream.tells_size = False
    trip.depart()
    opened = trip.flight.opened()
    trip.body.feed(SIZE + 50)
    assert trip.body.dropped
    assert result(opened) is None and trip.flight.growth.available == SIZE
    assert trip.store.size(DIGEST) == SIZE


@pytest.mark.parametrize("tells_size", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_length_promised_by_too_small_a_descriptor_is_broken_off_and_the_next_pull_is_right(
    tells_size: bool, ranges: bool
) -> None:
    """The upstream told no size, so the descriptor's was all there was: those readers fail, the bytes stay."""
    trip = Trip(size=4000)
    trip.upstream.tells_size = False
    trip.depart()
    assert result(trip.flight.opened()) is None
    trip.body.complete()
    assert trip.flight.growth.failure is not None and trip.flight.growth.available < 4000
    again = Trip(size=4000, store=trip.store)
    again.upstream.tells_size, again.upstream.ranges = tells_size, ranges
    again.depart()
    opened = again.flight.opened()
    assert again.asked() == [(4000, None, None)]
    again.body.complete()
    assert result(opened) is None and again.flight.size == SIZE
    assert again.store.size(DIGEST) == SIZE


def test_a_length_promised_by_too_large_a_descriptor_is_broken_off_and_the_blob_is_kept() -> None:
    """All that there is has come and has the digest: who was promised more is cut off, the next one is served."""
    trip = Trip(size=SIZE + 5)
    trip.upstream.tells_size = False
    trip.depart()
    assert result(trip.flight.opened()) is None
    trip.body.complete()
    assert trip.flight.growth.failure is not None and trip.flight.growth.available == SIZE
    assert (trip.flight.size, trip.store.size(DIGEST)) == (SIZE, SIZE)


def test_what_is_here_whole_is_not_asked_for() -> None:
    """Whatever size its descriptor says."""
    store = MemoryBlobStore()
    ingest = result(store.ingest(DIGEST))
    result(ingest.write([BLOB]))
    result(ingest.note(Origin("docker.io", NAME)))
    ingest.close()
    trip = Trip(size=17, store=store).depart()
    assert trip.asked() == [] and trip.store.size(DIGEST) == trip.flight.size == SIZE


def test_a_wrong_body_without_any_size_is_thrown_away() -> None:
    """Nobody was promised anything yet: the failure is told."""
    trip = Trip(size=None, blob=b"not it")
    trip.upstream.tells_size = False
    trip.depart()
    opened = trip.flight.opened()
    trip.body.complete()
    assert isinstance(failing(opened), errors.UpstreamInvalid)
    assert trip.store.unfinished() == []


def test_the_last_byte_waits_also_when_the_size_is_learnt_late() -> None:
    """All bytes came without a size and the line broke; the second answer tells the size: what came is wrong."""
    trip = Trip(size=None, blob=b"\xff" + BLOB[1:])
    trip.upstream.tells_size = False
    trip.depart()
    trip.body.feed(SIZE)
    trip.body.cut()
    trip.upstream.tells_size, trip.upstream.ranges = True, False
    opened = trip.flight.opened()
    step(trip.clock, 1.0)
    assert isinstance(failing(opened), errors.UpstreamInvalid)
    assert trip.flight.growth.available == 0 and trip.body.dropped
    assert isinstance(trip.error, errors.UpstreamInvalid)
    assert discarded(trip)


@pytest.mark.parametrize(("ranges", "tells_size"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("left", [BLOB[1:] + b"x", BLOB + b"x"], ids=["wrong", "too long"])
def test_what_an_earlier_flight_left_and_cannot_be_the_blob_costs_no_pull(
    left: bytes, ranges: bool, tells_size: bool
) -> None:
    """It is thrown away, and the blob is asked for from its beginning, for the same readers."""
    store = MemoryBlobStore()
    ingest = result(store.ingest(DIGEST))
    result(ingest.write([left]))
    ingest.close()
    trip = Trip(store=store)
    trip.upstream.tells_size, trip.upstream.ranges = tells_size, ranges
    trip.depart()
    opened = trip.flight.opened()
    trip.body.complete()
    assert result(opened) is None
    assert trip.asked() == [(len(left), None, None), (0, None, None)]
    assert store.size(DIGEST) == SIZE and store.unfinished() == []


@pytest.mark.parametrize("size", [None, 100])
def test_a_body_without_end_and_size_is_given_up(size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a descriptor nor the upstream says how much there is: it does not fill the disk, nor stay there."""
    monkeypatch.setattr("appliance.cache.length.MAX_UNTOLD_BYTES", 5000)
    store = MemoryBlobStore()
    if size is not None:
        # As many as the descriptor says had come, and were not the blob.
        ingest = result(store.ingest(DIGEST))
        result(ingest.write([b"y" * size]))
        ingest.close()
    trip = Trip(size=size, store=store)
    trip.upstream.tells_size = trip.upstream.ranges = False
    trip.depart()
    opened = trip.flight.opened()
    for _ in range(6):
        trip.body.feed(b"x" * 1000)
    assert trip.body.dropped and store.unfinished() == []
    assert isinstance(failing(opened), errors.UpstreamInvalid)
    assert len(trip.asked()) == 1


def test_a_disk_that_fills_up_keeps_nothing_of_which_nobody_knows_the_end() -> None:
    """It may be a body without an end, and there is no room for anything else."""
    trip = Trip(size=None, store=FillingDisk())
    trip.upstream.tells_size = False
    trip.depart()
    trip.body.feed(900)
    trip.body.feed(900)
    assert trip.body.dropped and isinstance(trip.error, OSError)
    assert trip.store.unfinished() == []


# -- somebody else brings the blob -----------------------------------------------------------------------------------


def brought_by_an_import(trip: Trip) -> None:
    ingest = result(trip.store.ingest(DIGEST))
    result(ingest.write([BLOB]))
    result(ingest.commit())


def test_a_flight_ends_well_after_an_import_has_brought_its_blob() -> None:
    """Its readers get the rest from it; the blob is held once, and stays right when the upstream's bytes are not."""
    for sent in (BLOB, BLOB[:-1] + b"!"):
        trip = Trip(blob=sent).depart()
        trip.body.feed(1000)
        brought_by_an_import(trip)
        trip.reader = trip.flight.reader()
        trip.body.complete()
        assert trip.readable() == (BLOB if sent == BLOB else BLOB[:-1])
        assert isinstance(trip.outcome[0], Failure) is (sent != BLOB)
        assert result(trip.store.read(DIGEST, SIZE)) == BLOB
        assert trip.store.total() == SIZE and trip.store.unfinished() == []


def test_an_upstream_is_not_asked_again_for_what_an_import_has_brought() -> None:
    """The line is cut: readers are told at once, and find the blob when they come again."""
    trip = Trip().depart()
    trip.body.feed(1000)
    brought_by_an_import(trip)
    trip.body.cut()
    assert isinstance(trip.error, errors.UpstreamUnavailable)
    assert trip.flight.growth.failure is not None
    assert len(trip.asked()) == 1
    assert trip.store.unfinished() == []


# -- our own side ---------------------------------------------------------------------------------------------------


def test_a_flight_goes_on_where_an_earlier_one_was_stopped() -> None:
    """After a restart the rest is asked for, and readers have what was there at once."""
    trip = Trip(validator='"v1"').depart()
    trip.body.feed(1000)
    trip.landing.cancel()
    assert trip.body.dropped
    assert trip.kept() == 1000
    again = Trip(store=trip.store, validator='"v1"').depart()
    assert again.asked() == [(1000, None, '"v1"')]
    assert result(again.flight.opened()) is None
    assert again.readable() == BLOB[:1000]
    again.body.complete()
    assert again.store.size(DIGEST) == SIZE


def test_readers_of_a_stopped_flight_are_told() -> None:
    """A stop of the appliance ends their waiting."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    opened = trip.flight.opened()
    trip.landing.cancel()
    assert trip.upstream.hanging[0].cancelled
    assert isinstance(failing(opened), errors.UpstreamUnavailable)


def test_a_stop_during_a_pause_keeps_what_came() -> None:
    """No call is left on the clock."""
    trip = Trip().depart()
    trip.body.feed(1000)
    trip.body.cut()
    trip.landing.cancel()
    assert trip.flight.state is State.FAILED
    assert trip.clock.getDelayedCalls() == []
    assert trip.kept() == 1000


class FullDisk(MemoryBlobStore):
    """A store that cannot even begin."""

    def ingest(self, digest: Digest) -> Deferred[Any]:
        return fail(OSError(28, "No space left on device"))


def test_a_disk_that_refuses_to_begin_is_told_to_who_waits() -> None:
    """Clients get an answer instead of waiting for ever."""
    trip = Trip(store=FullDisk()).depart()
    assert isinstance(failing(trip.flight.opened()), OSError)
    assert isinstance(failing(trip.flight.landed()), OSError)


class _Writer:
    """An ingest whose disk fills up after C{room} bytes."""

    def __init__(self, ingest: Any, room: int) -> None:
        self._ingest = ingest
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ingest, name)

    def write(self, data: list[bytes]) -> Deferred[None]:
        if self._ingest.size + sum(map(len, data)) > self._room:
            return fail(OSError(28, "No space left on device"))
        written: Deferred[None] = self._ingest.write(data)
        return written


class FillingDisk(MemoryBlobStore):
    """A store that is full after a thousand bytes."""

    def ingest(self, digest: Digest) -> Deferred[Any]:
        return super().ingest(digest).addCallback(_Writer, 1000)


def test_a_disk_that_fills_up_fails_the_flight_and_not_the_appliance() -> None:
    """The upstream's connection is dropped, readers are told, what was written stays."""
    trip = Trip(store=FillingDisk()).depart()
    trip.body.feed(900)
    trip.body.feed(900)
    assert trip.body.dropped
    assert isinstance(trip.error, OSError)
    assert trip.flight.growth.failure is not None
    assert trip.kept() == 900


def test_the_rate_is_that_of_the_line_now_open() -> None:
    """Bytes a second since the last opening; nothing is said of a flight that stands."""
    trip = Trip().depart()
    assert trip.flight.rate() == 0.0
    trip.body.feed(4000)
    trip.clock.advance(2.0)
    assert trip.flight.rate() == 2000.0
    trip.body.cut()
    assert trip.flight.rate() == 0.0
    trip.clock.advance(RETRY_DELAYS[0])
    trip.clock.advance(1.0)
    assert trip.flight.rate() == 0.0
    trip.body.complete()


def test_a_flight_that_nobody_waits_for_says_so() -> None:
    """It goes behind others upstream, up to the first request after somebody has come to read it."""
    trip = Trip()
    trip.flight.background = True
    trip.depart()
    trip.body.feed(1000)
    trip.body.cut()
    trip.clock.advance(RETRY_DELAYS[0])
    result(trip.flight.opened())
    trip.body.cut()
    step(trip.clock, 1.0)
    assert [call.background for call in trip.upstream.asked("blob")] == [True, True, False]
    trip.body.complete()


def test_who_comes_while_a_body_is_on_its_way_in_the_background_has_it_hastened() -> None:
    """It is asked for once, and goes on as what somebody waits for."""
    trip = Trip()
    trip.flight.background = True
    trip.depart()
    trip.body.feed(1000)
    assert not trip.body.is_awaited
    result(trip.flight.opened())
    assert trip.body.is_awaited and len(trip.asked()) == 1
    trip.body.complete()
    assert trip.flight.state is State.LANDED


def test_who_comes_while_the_background_asks_is_not_last_in_the_queue() -> None:
    """The question is put again as one that somebody waits for; the one in the background is dropped."""
    trip = Trip()
    trip.flight.background = True
    trip.upstream.hang("blob")
    trip.depart()
    for _ in range(2):
        opened = trip.flight.opened()
        assert not opened.called
    assert [call.background for call in trip.upstream.asked("blob")] == [True, False]
    assert [hanging.cancelled for hanging in trip.upstream.hanging] == [True, False]
    trip.upstream.hanging[1].answer()
    result(opened)
    trip.body.complete()
    assert trip.flight.state is State.LANDED


def test_a_flight_that_is_stopped_while_it_asks_ends() -> None:
    """Being asked again is only for those who begin to wait."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    trip.landing.cancel()
    assert trip.flight.state is State.FAILED and len(trip.upstream.asked("blob")) == 1


def test_a_flight_is_wanted_unless_it_is_said_otherwise() -> None:
    """A client's blob does not go behind anybody."""
    trip = Trip().depart()
    trip.body.complete()
    assert [call.background for call in trip.upstream.asked("blob")] == [False]
