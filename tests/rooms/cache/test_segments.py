"""One blob over several ranges: whatever order the bytes come in, readers get the right ones, in theirs."""

from __future__ import annotations

import pytest

from appliance import errors
from appliance.cache.backoff import RETRY_DELAYS
from appliance.cache.flight import State
from appliance.cache.segments import first_stop
from tests.doubles.deferreds import failing, result, step
from tests.doubles.upstream import ScriptedBody
from tests.rooms.cache.segmenting import BLOB, DIGEST, NAME, PIECE, SIZE, SegmentedTrip

pytestmark = pytest.mark.usefixtures("small_pieces")

# -- when there are pieces -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "size", "lines", "stop"),
    [
        (0, 1000, 1, None),
        (0, None, 4, None),
        (0, 299, 4, None),
        (0, 300, 2, 100),
        (705, 1000, 4, None),
        (1, 301, 2, 101),
    ],
)
def test_only_what_is_worth_it_comes_in_pieces(start: int, size: int | None, lines: int, stop: int | None) -> None:
    """Not a small blob, nor the last bytes of a large one, nor one whose size is not known."""
    assert first_stop(start, size, lines) == stop


def test_the_first_piece_is_asked_for_alone() -> None:
    """Whether ranges are granted is known before more connections are opened."""
    trip = SegmentedTrip()
    trip.upstream.hang("blob")
    trip.depart()
    opened = trip.flight.opened()
    assert trip.ranges() == [(0, 100)] and not opened.called
    trip.upstream.heal()
    trip.upstream.hanging[0].answer()
    assert result(opened) is None
    assert trip.ranges() == [(0, 100), (100, 200), (200, 300)]
    trip.complete()


def test_as_many_lines_as_configured_are_open_at_once() -> None:
    """The next piece is asked for when one is whole."""
    trip = SegmentedTrip(lines=2).depart()
    assert len(trip.bodies) == 2
    trip.bodies[1].complete()
    assert trip.ranges()[2:] == [(200, 300)]
    trip.bodies[0].complete()
    assert trip.ranges()[3:] == [(300, 400)]
    trip.complete()


def test_the_last_piece_is_as_short_as_it_has_to_be() -> None:
    """Every byte of the blob is asked for, once."""
    trip = SegmentedTrip().depart()
    for body in trip.bodies:
        body.complete()
    starts = list(range(0, SIZE, PIECE))
    assert trip.ranges() == [(start, min(start + PIECE, SIZE)) for start in starts]
    assert trip.outcome == [None] and trip.is_stored()


def test_pieces_name_the_validator_of_the_first() -> None:
    """So that all of them are of the same blob, and the note for a resumption has it too."""
    trip = SegmentedTrip()
    trip.upstream.validator = '"v1"'
    trip.depart()
    assert [call.validator for call in trip.upstream.asked("blob")] == [None, '"v1"', '"v1"']
    trip.landing.cancel()
    origin = result(trip.store.ingest(DIGEST)).origin
    assert (origin.validator, origin.size) == ('"v1"', SIZE)


# -- what readers see ------------------------------------------------------------------------------------------------


def test_the_front_is_read_as_it_comes_and_the_others_in_their_turn() -> None:
    """A client sees every byte as soon as all in front of it are here."""
    trip = SegmentedTrip().depart()
    trip.bodies[1].feed(60)
    trip.bodies[2].complete()
    assert trip.available() == 0
    trip.bodies[0].feed(30)
    assert trip.available() == 30
    trip.bodies[0].complete()
    assert trip.available() == 160
    trip.bodies[1].feed(10)
    assert trip.available() == 170
    trip.bodies[1].complete()
    assert trip.available() == 300
    trip.complete()
    assert trip.is_stored()


def test_the_last_byte_waits_for_the_digest() -> None:
    """As on one line: a response with wrong bytes is never completed, and nothing is kept of them."""
    trip = SegmentedTrip(blob=BLOB[:500] + b"\0" + BLOB[501:]).depart()
    for body in trip.bodies:
        body.complete()
    assert isinstance(trip.error, errors.UpstreamInvalid)
    assert trip.flight.growth.available == SIZE - 1
    assert trip.store.size(DIGEST) is None and trip.store.unfinished() == []


def test_pieces_do_not_run_away_from_the_front() -> None:
    """One slow connection: what the others bring ahead of it has a bound."""
    trip = SegmentedTrip(lines=3).depart()
    while any(not body.dropped and body._done is not None for body in trip.bodies[1:]):
        for body in trip.bodies[1:]:
            body.complete()
    assert trip.ranges()[-1] == (500, 600)
    trip.bodies[0].complete()
    assert trip.ranges()[-1][0] > 600
    trip.complete()
    assert trip.is_stored()


# -- pieces that fail ------------------------------------------------------------------------------------------------


def test_a_cut_piece_is_tried_again_and_the_others_do_not_notice() -> None:
    """It goes on where it was cut; the front comes all the while."""
    trip = SegmentedTrip().depart()
    trip.bodies[1].feed(40)
    trip.bodies[1].cut()
    trip.bodies[0].feed(50)
    assert trip.flight.state is State.FLYING and trip.available() == 50
    assert len(trip.ranges()) == 3
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.ranges()[3:] == [(140, 200)]
    assert not any(body.dropped for body in trip.bodies)
    trip.complete()
    assert trip.is_stored()


def test_a_cut_front_goes_on_where_it_was() -> None:
    """Also when it had been ahead before."""
    trip = SegmentedTrip().depart()
    trip.bodies[1].feed(40)
    trip.bodies[0].complete()
    trip.bodies[1].feed(20)
    trip.bodies[1].cut()
    assert trip.available() == 160
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.ranges()[-1] == (160, 200)
    trip.bodies[-1].feed(10)
    assert trip.available() == 170
    trip.complete()
    assert trip.is_stored()


def test_a_piece_that_ends_early_counts_as_cut() -> None:
    """Closed in good order, before all of the range came."""
    trip = SegmentedTrip().depart()
    trip.bodies[2].feed(1)
    trip.bodies[2].end()
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.ranges()[-1] == (201, 300)
    trip.complete()
    assert trip.is_stored()


def test_a_piece_that_is_refused_for_a_while_waits_as_requested() -> None:
    """Too many requests: Retry-After is obeyed for that piece, the others go on."""
    trip = SegmentedTrip()
    trip.upstream.hang("blob")
    trip.depart()
    trip.upstream.heal()
    trip.upstream.fail_once("blob", errors.UpstreamRateLimited("docker.io", "slow down", 20.0))
    trip.upstream.hanging[0].answer()
    assert trip.ranges() == [(0, 100), (100, 200), (200, 300)]
    trip.bodies[0].complete()
    step(trip.clock, 19.5)
    assert (100, 200) not in trip.ranges()[2:]
    step(trip.clock, 0.5)
    assert trip.ranges()[-1] == (100, 200)
    trip.complete()
    assert trip.is_stored()


def test_a_dead_upstream_is_given_up_after_a_minute() -> None:
    """Readers get the failure then, and what was whole is kept."""
    trip = SegmentedTrip().depart()
    trip.bodies[0].feed(50)
    landed = trip.flight.landed()
    trip.upstream.fail(errors.UpstreamUnavailable("docker.io", "no route"))
    for body in trip.bodies:
        body.cut()
    step(trip.clock, sum(RETRY_DELAYS) - 2)
    assert not landed.called
    step(trip.clock, 2.5)
    assert isinstance(failing(landed), errors.UpstreamUnavailable)
    assert trip.flight.state is State.FAILED
    assert trip.kept() == 50
    assert trip.clock.getDelayedCalls() == []


def test_a_piece_is_not_given_up_while_others_bring_bytes() -> None:
    """An upstream that never lets us have as many connections as we would like: slower, but it comes."""
    trip = SegmentedTrip(lines=2)
    trip.depart()
    trip.bodies[1].cut()
    trip.upstream.fail(errors.UpstreamRateLimited("docker.io", "one at a time"))
    for _ in range(95):
        step(trip.clock, 4.0)
        trip.bodies[0].feed(1)
    assert trip.outcome == []
    trip.upstream.heal()
    step(trip.clock, 30.0)
    trip.complete()
    assert trip.is_stored()


@pytest.mark.parametrize("error", [errors.UpstreamMissing("u", "gone"), errors.UpstreamDenied("u", "no more")])
def test_what_waiting_does_not_mend_ends_the_flight(error: errors.UpstreamError) -> None:
    """A blob that vanished meanwhile: all lines are closed, what was whole is kept."""
    trip = SegmentedTrip().depart()
    trip.bodies[0].feed(70)
    trip.upstream.fail(error)
    trip.bodies[1].cut()
    step(trip.clock, 0.5)
    assert trip.error is error
    assert [body.dropped for body in trip.bodies] == [True, False, True]
    assert trip.kept() == 70


def test_a_piece_of_another_size_ends_the_flight() -> None:
    """The whole is said to be larger than readers were promised: what came is kept, since its digest is not known."""
    trip = SegmentedTrip().depart()
    trip.bodies[0].feed(70)
    trip.upstream.shelves[NAME].blobs[DIGEST] = BLOB + b"more"
    trip.bodies[1].cut()
    step(trip.clock, 0.5)
    assert isinstance(trip.error, errors.UpstreamInvalid)
    assert all(body.dropped for body in (trip.bodies[0], trip.bodies[2], trip.bodies[3]))
    assert trip.store.unfinished() == [DIGEST]


@pytest.mark.parametrize("size", [SIZE - 10, SIZE + 10])
def test_pieces_come_although_a_descriptor_has_the_size_wrong(size: int) -> None:
    """The first answer says how much there is; readers wait for the digest: which is right is not known yet."""
    trip = SegmentedTrip(size=size).depart()
    opened = trip.flight.opened()
    while not opened.called:
        for body in list(trip.bodies):
            body.complete()
    assert result(opened) is None and trip.store.size(DIGEST) == trip.flight.size == SIZE
    assert len(trip.bodies) == -(-SIZE // PIECE)


# -- answers that are not the range ----------------------------------------------------------------------------------


def test_an_upstream_without_ranges_sends_the_whole_over_one_line() -> None:
    """What the first answer holds is taken as it is: not one request more than without segments."""
    trip = SegmentedTrip()
    trip.upstream.ranges = False
    trip.depart()
    assert result(trip.flight.opened()) is None
    trip.bodies[0].feed(500)
    assert trip.available() == 500
    trip.bodies[0].complete()
    assert trip.ranges() == [(0, 100)] and trip.is_stored()


def test_an_upstream_that_refuses_a_piece_is_asked_for_the_whole() -> None:
    """416 to the first range: the client does not see it."""
    trip = SegmentedTrip()
    trip.upstream.fail_once("blob", errors.RangeIgnored("docker.io", "416"))
    trip.depart()
    assert trip.ranges() == [(0, 100), (0, None)]
    trip.bodies[0].complete()
    assert trip.is_stored()


def test_a_shorter_range_than_asked_for_is_taken_and_then_the_rest() -> None:
    """A server with a limit of its own on ranges: one stream from where its answer ended."""
    trip = SegmentedTrip()
    trip.upstream.hang("blob")
    trip.depart()
    trip.upstream.heal()
    short = ScriptedBody("docker.io", BLOB[:64], 0, SIZE, None)
    trip.upstream.hanging[0].asked.callback(short)
    step(trip.clock, 1.0)
    assert trip.ranges() == [(0, 100), (64, None)]
    trip.complete()
    assert trip.is_stored()


@pytest.mark.parametrize("refused", [False, True])
def test_a_later_answer_that_is_not_the_range_leads_to_one_stream(refused: bool) -> None:
    """The upstream changes its mind: every line is closed, and one goes on from where the bytes are whole."""
    trip = SegmentedTrip().depart()
    trip.bodies[0].feed(80)
    trip.bodies[1].feed(50)
    if refused:
        trip.upstream.fail_once("blob", errors.RangeIgnored("docker.io", "416"))
    trip.upstream.ranges = refused
    trip.bodies[2].cut()
    step(trip.clock, 1.0)
    *pieces, stream = trip.bodies
    assert all(body.dropped for body in pieces if body is not trip.bodies[2]) and not stream.dropped
    assert trip.ranges()[3:] == [(200, 300), (80, None)]
    assert trip.flight.state is State.FLYING
    assert trip.available() == 80
    stream.feed(300)
    stream.complete()
    assert trip.is_stored()


def test_pieces_are_not_tried_again_where_they_were_not_granted() -> None:
    """The one stream that was left is cut: it goes on as one stream."""
    trip = SegmentedTrip()
    trip.upstream.ranges = False
    trip.depart()
    trip.bodies[0].feed(100)
    trip.upstream.ranges = True
    trip.bodies[0].cut()
    step(trip.clock, 0.5)
    assert trip.ranges() == [(0, 100), (100, None)]
    trip.complete()
    assert trip.is_stored()


def test_a_range_that_holds_too_much_is_taken_no_further_than_asked() -> None:
    """The bytes behind a piece's end come from where they were asked for."""
    trip = SegmentedTrip().depart()
    trip.bodies[0].feed(BLOB[:150])
    assert trip.bodies[0].dropped
    trip.complete()
    assert trip.is_stored()


# -- our own side ----------------------------------------------------------------------------------------------------


def test_a_stop_closes_every_line_and_keeps_what_is_whole() -> None:
    """After the next start the rest is asked for, in pieces again."""
    trip = SegmentedTrip().depart()
    trip.bodies[0].feed(70)
    trip.bodies[1].complete()
    trip.bodies[2].feed(20)
    trip.bodies[2].cut()
    trip.landing.cancel()
    assert all(body.dropped for body in trip.bodies if body._done is not None)
    assert trip.bodies[0].dropped
    assert trip.clock.getDelayedCalls() == []
    assert trip.kept() == 70
    again = SegmentedTrip(store=trip.store).depart()
    assert again.ranges() == [(70, 170), (170, 270), (270, 370)]
    again.complete()
    for body in again.bodies:
        body.complete()
    assert again.is_stored()


def test_a_stop_takes_back_what_was_not_answered() -> None:
    """No question is left behind."""
    trip = SegmentedTrip()
    trip.upstream.hang("blob")
    trip.depart()
    trip.upstream.hanging[0].answer()
    trip.landing.cancel()
    assert [each.cancelled for each in trip.upstream.hanging] == [False, True, True]
    assert trip.bodies[0].dropped


def test_background_work_is_asked_for_as_such_until_a_client_waits() -> None:
    """A restart's flights go behind the pulls of clients; from when a client waits for one, it does not."""
    trip = SegmentedTrip(background=True).depart()
    trip.bodies[0].complete()
    assert [call.background for call in trip.upstream.asked("blob")] == [True] * 4
    result(trip.flight.opened())
    trip.bodies[1].complete()
    assert [call.background for call in trip.upstream.asked("blob")[4:]] == [False]
    trip.landing.cancel()
