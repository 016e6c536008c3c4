"""One blob over several ranges: whatever order the bytes come in, readers get the right ones, in theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, maybeDeferred

from appliance import errors
from appliance.cache import segments
from appliance.cache.backoff import RETRY_DELAYS
from appliance.cache.flight import Flight, State
from appliance.cache.segments import first_stop
from appliance.interfaces import IBlobReader, IIngest
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import begin, failing, result, step
from tests.doubles.pullthrough import clock_at
from tests.doubles.upstream import ScriptedBody, ScriptedUpstream

PIECE = 100
BLOB = bytes(range(256)) * 4 + b"the end"
SIZE = len(BLOB)
DIGEST = Digest.of(BLOB)
NAME = "library/app"


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Pieces of a hundred bytes, and blobs of three hundred are large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "PIECE", PIECE)
        patch.setattr(segments, "SEGMENT_FROM", 3 * PIECE)
        yield


class Trip:
    """A flight of BLOB over several lines, each fed by hand."""

    def __init__(self, lines: int = 3, store: Any = None, size: int | None = SIZE, blob: bytes = BLOB, **more: Any):
        self.upstream = ScriptedUpstream()
        self.upstream.by_hand = True
        self.upstream.shelves[NAME].blobs[DIGEST] = blob
        self.store = store or MemoryBlobStore()
        self.clock = clock_at()
        self.flight = Flight(self.upstream, NAME, DIGEST, size, self.store, self.clock, lines, **more)
        self.outcome: list[Any] = []
        # Of somebody who reads on when the flight has ended; C{None}: nobody does.
        self.reader: IBlobReader | None = None

    def depart(self) -> Trip:
        self.landing = begin(self.flight.fly())
        self.landing.addBoth(self.outcome.append)
        return self

    @property
    def bodies(self) -> list[ScriptedBody]:
        return self.upstream.bodies

    @property
    def error(self) -> Exception:
        found: Exception = self.outcome[0].value
        return found

    def asked(self) -> list[tuple[int, int | None]]:
        return [(call.start, call.stop) for call in self.upstream.asked("blob")]

    def readable(self) -> int:
        """How many bytes a reader can have by now; they are the right ones."""
        available = self.flight.growth.available
        assert result((self.reader or self.flight.reader()).read(0, available)) == BLOB[:available]
        return available

    def kept(self) -> int:
        """Bytes kept for a resumption."""
        ingest = result(self.store.ingest(DIGEST))
        ingest.close()
        size: int = ingest.size
        return size

    def complete(self) -> None:
        """Everything that is still asked for comes."""
        for body in self.bodies:
            body.complete()

    def is_stored(self) -> bool:
        return self.store.size(DIGEST) == SIZE and result(self.store.read(DIGEST, SIZE)) == BLOB


# -- when there are pieces ------------------------------------------------------------------------------------------


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
    """Not a small blob, nor the last bytes of a large one, nor one whose size nobody knows."""
    assert first_stop(start, size, lines) == stop


def test_the_first_piece_is_asked_for_alone() -> None:
    """Whether ranges are granted is known before more connections are opened."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    opened = trip.flight.opened()
    assert trip.asked() == [(0, 100)] and not opened.called
    trip.upstream.heal()
    trip.upstream.hanging[0].answer()
    assert result(opened) is None
    assert trip.asked() == [(0, 100), (100, 200), (200, 300)]
    trip.complete()


def test_as_many_lines_as_configured_are_open_at_once() -> None:
    """The next piece is asked for when one is whole."""
    trip = Trip(lines=2).depart()
    assert len(trip.bodies) == 2
    trip.bodies[1].complete()
    assert trip.asked()[2:] == [(200, 300)]
    trip.bodies[0].complete()
    assert trip.asked()[3:] == [(300, 400)]
    trip.complete()


def test_the_last_piece_is_as_short_as_it_has_to_be() -> None:
    """Every byte of the blob is asked for, once."""
    trip = Trip().depart()
    for body in trip.bodies:
        body.complete()
    starts = list(range(0, SIZE, PIECE))
    assert trip.asked() == [(start, min(start + PIECE, SIZE)) for start in starts]
    assert trip.outcome == [None] and trip.is_stored()


def test_pieces_name_the_validator_of_the_first() -> None:
    """So that all of them are of the same blob, and the note for a resumption has it too."""
    trip = Trip()
    trip.upstream.validator = '"v1"'
    trip.depart()
    assert [call.validator for call in trip.upstream.asked("blob")] == [None, '"v1"', '"v1"']
    trip.landing.cancel()
    origin = result(trip.store.ingest(DIGEST)).origin
    assert (origin.validator, origin.size) == ('"v1"', SIZE)


# -- what readers see -----------------------------------------------------------------------------------------------


def test_the_front_is_read_as_it_comes_and_the_others_in_their_turn() -> None:
    """A client sees every byte as soon as all in front of it are here."""
    trip = Trip().depart()
    trip.bodies[1].feed(60)
    trip.bodies[2].complete()
    assert trip.readable() == 0
    trip.bodies[0].feed(30)
    assert trip.readable() == 30
    trip.bodies[0].complete()
    assert trip.readable() == 160
    trip.bodies[1].feed(10)
    assert trip.readable() == 170
    trip.bodies[1].complete()
    assert trip.readable() == 300
    trip.complete()
    assert trip.is_stored()


def test_the_last_byte_waits_for_the_digest() -> None:
    """As on one line: a response with wrong bytes is never completed, and nothing is kept of them."""
    trip = Trip(blob=BLOB[:500] + b"\0" + BLOB[501:]).depart()
    for body in trip.bodies:
        body.complete()
    assert isinstance(trip.error, errors.UpstreamInvalid)
    assert trip.flight.growth.available == SIZE - 1
    assert trip.store.size(DIGEST) is None and trip.store.unfinished() == []


def test_pieces_do_not_run_away_from_the_front() -> None:
    """One slow connection: what the others bring ahead of it has a bound."""
    trip = Trip(lines=3).depart()
    while any(not body.dropped and body._done is not None for body in trip.bodies[1:]):
        for body in trip.bodies[1:]:
            body.complete()
    assert trip.asked()[-1] == (500, 600)
    trip.bodies[0].complete()
    assert trip.asked()[-1][0] > 600
    trip.complete()
    assert trip.is_stored()


# -- pieces that fail -----------------------------------------------------------------------------------------------


def test_a_cut_piece_is_tried_again_and_the_others_do_not_notice() -> None:
    """It goes on where it was cut; the front comes all the while."""
    trip = Trip().depart()
    trip.bodies[1].feed(40)
    trip.bodies[1].cut()
    trip.bodies[0].feed(50)
    assert trip.flight.state is State.FLYING and trip.readable() == 50
    assert len(trip.asked()) == 3
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.asked()[3:] == [(140, 200)]
    assert not any(body.dropped for body in trip.bodies)
    trip.complete()
    assert trip.is_stored()


def test_a_cut_front_goes_on_where_it_was() -> None:
    """Also when it had been ahead before."""
    trip = Trip().depart()
    trip.bodies[1].feed(40)
    trip.bodies[0].complete()
    trip.bodies[1].feed(20)
    trip.bodies[1].cut()
    assert trip.readable() == 160
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.asked()[-1] == (160, 200)
    trip.bodies[-1].feed(10)
    assert trip.readable() == 170
    trip.complete()
    assert trip.is_stored()


def test_a_piece_that_ends_early_counts_as_cut() -> None:
    """Closed in good order, before all of the range came."""
    trip = Trip().depart()
    trip.bodies[2].feed(1)
    trip.bodies[2].end()
    trip.clock.advance(RETRY_DELAYS[0])
    assert trip.asked()[-1] == (201, 300)
    trip.complete()
    assert trip.is_stored()


def test_a_piece_that_is_refused_for_a_while_waits_as_told() -> None:
    """Too many requests: Retry-After is obeyed for that piece, the others go on."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    trip.upstream.heal()
    trip.upstream.fail_once("blob", errors.UpstreamRateLimited("docker.io", "slow down", 20.0))
    trip.upstream.hanging[0].answer()
    assert trip.asked() == [(0, 100), (100, 200), (200, 300)]
    trip.bodies[0].complete()
    step(trip.clock, 19.5)
    assert (100, 200) not in trip.asked()[2:]
    step(trip.clock, 0.5)
    assert trip.asked()[-1] == (100, 200)
    trip.complete()
    assert trip.is_stored()


def test_a_dead_upstream_is_given_up_after_a_minute() -> None:
    """Readers are told then, and what was whole is kept."""
    trip = Trip().depart()
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
    trip = Trip(lines=2)
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
    trip = Trip().depart()
    trip.bodies[0].feed(70)
    trip.upstream.fail(error)
    trip.bodies[1].cut()
    step(trip.clock, 0.5)
    assert trip.error is error
    assert [body.dropped for body in trip.bodies] == [True, False, True]
    assert trip.kept() == 70


def test_a_piece_of_another_size_ends_the_flight() -> None:
    """The whole is said to be larger than readers were promised: what came is kept, since its digest is not known."""
    trip = Trip().depart()
    trip.bodies[0].feed(70)
    trip.upstream.shelves[NAME].blobs[DIGEST] = BLOB + b"more"
    trip.bodies[1].cut()
    step(trip.clock, 0.5)
    assert isinstance(trip.error, errors.UpstreamInvalid)
    assert all(body.dropped for body in (trip.bodies[0], trip.bodies[2], trip.bodies[3]))
    assert trip.store.unfinished() == [DIGEST]


@pytest.mark.parametrize("size", [SIZE - 10, SIZE + 10])
def test_pieces_come_although_a_descriptor_has_the_size_wrong(size: int) -> None:
    """The first answer says how much there is; readers wait for the digest, since nobody knows yet who is right."""
    trip = Trip(size=size).depart()
    opened = trip.flight.opened()
    while not opened.called:
        for body in list(trip.bodies):
            body.complete()
    assert result(opened) is None and trip.store.size(DIGEST) == trip.flight.size == SIZE
    assert len(trip.bodies) == -(-SIZE // PIECE)


# -- answers that are not the range ---------------------------------------------------------------------------------


def test_an_upstream_without_ranges_sends_the_whole_over_one_line() -> None:
    """What the first answer holds is taken as it is: not one request more than without segments."""
    trip = Trip()
    trip.upstream.ranges = False
    trip.depart()
    assert result(trip.flight.opened()) is None
    trip.bodies[0].feed(500)
    assert trip.readable() == 500
    trip.bodies[0].complete()
    assert trip.asked() == [(0, 100)] and trip.is_stored()


def test_an_upstream_that_refuses_a_piece_is_asked_for_the_whole() -> None:
    """416 to the first range: the client does not hear of it."""
    trip = Trip()
    trip.upstream.fail_once("blob", errors.RangeIgnored("docker.io", "416"))
    trip.depart()
    assert trip.asked() == [(0, 100), (0, None)]
    trip.bodies[0].complete()
    assert trip.is_stored()


def test_a_shorter_range_than_asked_for_is_taken_and_then_the_rest() -> None:
    """A server with a limit of its own on ranges: one stream from where its answer ended."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    trip.upstream.heal()
    short = ScriptedBody("docker.io", BLOB[:64], 0, SIZE, None)
    trip.upstream.hanging[0].asked.callback(short)
    step(trip.clock, 1.0)
    assert trip.asked() == [(0, 100), (64, None)]
    trip.complete()
    assert trip.is_stored()


@pytest.mark.parametrize("refused", [False, True])
def test_a_later_answer_that_is_not_the_range_leads_to_one_stream(refused: bool) -> None:
    """The upstream changes its mind: every line is closed, and one goes on from where the bytes are whole."""
    trip = Trip().depart()
    trip.bodies[0].feed(80)
    trip.bodies[1].feed(50)
    if refused:
        trip.upstream.fail_once("blob", errors.RangeIgnored("docker.io", "416"))
    trip.upstream.ranges = refused
    trip.bodies[2].cut()
    step(trip.clock, 1.0)
    *pieces, stream = trip.bodies
    assert all(body.dropped for body in pieces if body is not trip.bodies[2]) and not stream.dropped
    assert trip.asked()[3:] == [(200, 300), (80, None)]
    assert trip.flight.state is State.FLYING
    assert trip.readable() == 80
    stream.feed(300)
    stream.complete()
    assert trip.is_stored()


def test_pieces_are_not_tried_again_where_they_were_not_granted() -> None:
    """The one stream that was left is cut: it goes on as one stream."""
    trip = Trip()
    trip.upstream.ranges = False
    trip.depart()
    trip.bodies[0].feed(100)
    trip.upstream.ranges = True
    trip.bodies[0].cut()
    step(trip.clock, 0.5)
    assert trip.asked() == [(0, 100), (100, None)]
    trip.complete()
    assert trip.is_stored()


def test_a_range_that_holds_too_much_is_taken_no_further_than_asked() -> None:
    """The bytes behind a piece's end come from where they were asked for."""
    trip = Trip().depart()
    trip.bodies[0].feed(BLOB[:150])
    assert trip.bodies[0].dropped
    trip.complete()
    assert trip.is_stored()


# -- our own side ---------------------------------------------------------------------------------------------------


def test_a_stop_closes_every_line_and_keeps_what_is_whole() -> None:
    """After the next start the rest is asked for, in pieces again."""
    trip = Trip().depart()
    trip.bodies[0].feed(70)
    trip.bodies[1].complete()
    trip.bodies[2].feed(20)
    trip.bodies[2].cut()
    trip.landing.cancel()
    assert all(body.dropped for body in trip.bodies if body._done is not None)
    assert trip.bodies[0].dropped
    assert trip.clock.getDelayedCalls() == []
    assert trip.kept() == 70
    again = Trip(store=trip.store).depart()
    assert again.asked() == [(70, 170), (170, 270), (270, 370)]
    again.complete()
    for body in again.bodies:
        body.complete()
    assert again.is_stored()


def test_a_stop_takes_back_what_was_not_answered() -> None:
    """No question is left behind."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    trip.upstream.hanging[0].answer()
    trip.landing.cancel()
    assert [each.cancelled for each in trip.upstream.hanging] == [False, True, True]
    assert trip.bodies[0].dropped


class FullDisk(MemoryBlobStore):
    """A store that has no room ahead, or at the front, or for what was ahead."""

    def __init__(self, full: str) -> None:
        super().__init__()
        self._full = full

    def ingest(self, digest: Digest) -> Deferred[Any]:
        def fill(ingest: IIngest) -> IIngest:
            setattr(ingest, self._full, lambda *_: fail(OSError(28, "No space left on device")))
            return ingest

        return super().ingest(digest).addCallback(fill)


@pytest.mark.parametrize("full", ["write", "write_ahead", "absorb"])
def test_a_full_disk_fails_the_flight_and_closes_every_line(full: str) -> None:
    """Readers are told; nobody writes on."""
    trip = Trip(store=FullDisk(full)).depart()
    trip.bodies[1].feed(10)
    if full != "write_ahead":
        trip.bodies[0].complete()
    assert isinstance(trip.error, OSError)
    assert trip.flight.growth.failure is not None
    assert all(body.dropped for body in trip.bodies[1:])


def test_background_work_is_asked_for_as_such_until_somebody_waits() -> None:
    """A restart's flights go behind the pulls of clients; from when a client waits for one, it does not."""
    trip = Trip(background=True).depart()
    trip.bodies[0].complete()
    assert [call.background for call in trip.upstream.asked("blob")] == [True] * 4
    result(trip.flight.opened())
    trip.bodies[1].complete()
    assert [call.background for call in trip.upstream.asked("blob")[4:]] == [False]
    trip.landing.cancel()


# -- any order at all -----------------------------------------------------------------------------------------------


class SlowIngest:
    """An ingest whose disk takes its time; it holds its callers to what L{IIngest} asks of them."""

    def __init__(self, ingest: Any) -> None:
        self._ingest = ingest
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        self.was_cancelled = False
        self._in_order = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ingest, name)

    def write(self, data: list[bytes]) -> Deferred[None]:
        return self._one_at_a_time(self._ingest.write, data)

    def absorb(self, stop: int) -> Deferred[None]:
        return self._one_at_a_time(self._ingest.absorb, stop)

    def write_ahead(self, offset: int, data: list[bytes]) -> Deferred[None]:
        assert offset >= self._ingest.size
        return self._later(self._ingest.write_ahead, offset, data)

    def close(self) -> None:
        assert not self.waiting, "closed under the feet of a thread"
        self._ingest.close()

    def _one_at_a_time(self, function: Callable[..., Any], *args: Any) -> Deferred[None]:
        assert not self._in_order, "two that count at once"
        self._in_order += 1
        return self._later(function, *args, over=self._over)

    def _over(self, outcome: Any) -> Any:
        self._in_order -= 1
        return outcome

    def _later(
        self, function: Callable[..., Any], *args: Any, over: Callable[[Any], Any] = lambda outcome: outcome
    ) -> Deferred[None]:
        done: Deferred[None] = Deferred(lambda _: setattr(self, "was_cancelled", True))
        self.waiting.append((done, lambda: maybeDeferred(function, *args).addBoth(over)))
        return done

    def work(self, number: int) -> None:
        done, function = self.waiting.pop(number % len(self.waiting))
        function().addBoth(done.callback)


class SlowStore(MemoryBlobStore):
    """A store with such a disk."""

    def ingest(self, digest: Digest) -> Deferred[Any]:
        return super().ingest(digest).addCallback(self._slowly)

    def _slowly(self, ingest: Any) -> SlowIngest:
        self.slow = SlowIngest(ingest)
        return self.slow


class Weather:
    """A flight in which anything may happen next; C{sent} is every byte range that came."""

    def __init__(self, lines: int, held: int) -> None:
        store = SlowStore()
        beginning = result(MemoryBlobStore.ingest(store, DIGEST))
        result(beginning.write([BLOB[:held]]))
        beginning.close()
        self.trip = Trip(lines, store)
        self.trip.depart()
        # A reader, as it were.
        self.trip.reader = self.trip.flight.reader()
        self.store = store
        self.lines = lines
        self.sent: list[tuple[int, int]] = [(0, held)] if held else []
        self.at: dict[int, int] = {}
        self.seen = 0

    def live(self) -> list[tuple[int, ScriptedBody]]:
        return [(number, body) for number, body in enumerate(self.trip.bodies) if body._done is not None]

    def feed(self, number: int, octets: int) -> None:
        live = self.live()
        if live:
            index, body = live[number % len(live)]
            at = self.at.get(index, body.start)
            stop = min(at + octets, body.stop or 0)
            if stop > at:
                self.sent.append((at, stop))
                self.at[index] = stop
                body.feed(stop - at)

    def cut(self, number: int, politely: bool) -> None:
        live = self.live()
        if live:
            body = live[number % len(live)][1]
            body.end() if politely else body.cut()

    def refuse(self, error: errors.UpstreamError) -> None:
        self.trip.upstream.fail_once("blob", error)

    def work(self, number: int) -> None:
        if self.store.slow.waiting:
            self.store.slow.work(number)

    def look(self) -> None:
        """What holds at every moment."""
        readable = self.trip.readable()
        assert readable >= self.seen
        self.seen = readable
        live = self.live()
        assert len(live) <= self.lines
        front = self.store.slow.size
        assert all((body.stop or 0) <= front + PIECE * 2 * self.lines for _, body in live)

    def leave(self) -> None:
        """The reader has seen enough."""
        assert self.trip.reader is not None
        self.trip.reader.close()

    def finish(self) -> None:
        """Nothing goes wrong any more."""
        self.trip.upstream.heal()
        for _ in range(2000):
            if self.trip.outcome and not self.store.slow.waiting:
                return
            self.work(0)
            for number in range(len(self.live())):
                self.feed(number, PIECE)
            for _, body in self.live():
                body.complete()
            self.trip.clock.advance(1.0)
            self.look()
        raise AssertionError("it does not end")


ERRORS = (
    errors.UpstreamUnavailable("docker.io", "down"),
    errors.UpstreamTimeout("docker.io", "silent"),
    errors.UpstreamRateLimited("docker.io", "slow down", 3.0),
)
EVENTS = st.one_of(
    st.tuples(st.just("feed"), st.integers(0, 9), st.integers(1, 130)),
    st.tuples(st.just("feed"), st.integers(0, 9), st.just(100)),
    st.tuples(st.just("work"), st.integers(0, 9)),
    st.tuples(st.just("cut"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("refuse"), st.sampled_from(ERRORS)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 4.0])),
)


def happen(weather: Weather, events: list[tuple[Any, ...]]) -> None:
    for name, *details in events:
        if name == "wait":
            weather.trip.clock.advance(*details)
        else:
            getattr(weather, name)(*details)
        weather.look()


def test_a_stop_waits_for_what_is_being_absorbed() -> None:
    """A thread reads and writes the file just then: nobody closes it, and what it counts is kept."""
    weather = Weather(2, 0)
    slow, trip = weather.store.slow, weather.trip
    trip.bodies[1].complete()
    trip.bodies[0].complete()
    while slow.size < PIECE:
        slow.work(0)
    assert len(slow.waiting) == 1
    trip.landing.cancel()
    assert trip.outcome == []
    slow.work(0)
    assert len(trip.outcome) == 1 and not slow.was_cancelled
    assert slow.size == 2 * PIECE
    weather.leave()


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 5), st.sampled_from([0, 1, 250]), st.lists(EVENTS, max_size=80))
def test_any_interleaving_ends_with_the_right_blob(lines: int, held: int, events: list[tuple[Any, ...]]) -> None:
    """Pieces come, stall, break and are refused in any order, on a disk that lags: no byte comes twice."""
    weather = Weather(lines, held)
    happen(weather, events)
    weather.finish()
    weather.leave()
    assert weather.trip.outcome == [None] and weather.trip.is_stored()
    reached = 0
    for start, stop in sorted(weather.sent):
        assert start == reached, "a byte came twice, or never"
        reached = stop
    assert reached == SIZE


@settings(deadline=None, max_examples=100)
@given(st.lists(EVENTS, max_size=60))
def test_a_stop_at_any_moment_keeps_a_beginning(events: list[tuple[Any, ...]]) -> None:
    """Every line is closed, the disk is waited for, and what is kept goes on to be the blob."""
    weather = Weather(3, 0)
    happen(weather, events)
    trip, slow = weather.trip, weather.store.slow
    if trip.outcome:
        return weather.leave()
    counted = slow.size
    trip.landing.cancel()
    assert weather.live() == []
    while slow.waiting:
        assert not trip.outcome
        slow.work(0)
    weather.leave()
    assert len(trip.outcome) == 1 and not slow.was_cancelled
    assert trip.clock.getDelayedCalls() == []
    later = result(MemoryBlobStore.ingest(weather.store, DIGEST))
    assert later.size >= counted
    assert result(later.reader().read(0, SIZE)) == BLOB[: later.size]
    later.close()
