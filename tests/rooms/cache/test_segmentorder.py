"""Pieces that come in any order at all, with any faults: the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred

from appliance import errors
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import result
from tests.doubles.upstream import ScriptedBody
from tests.rooms.cache.segmenting import BLOB, DIGEST, PIECE, SIZE, SegmentedTrip

pytestmark = pytest.mark.usefixtures("small_pieces")


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


class EventfulFlight:
    """A flight in which anything may happen next; C{sent} is every byte range that came."""

    def __init__(self, lines: int, held: int) -> None:
        store = SlowStore()
        beginning = result(MemoryBlobStore.ingest(store, DIGEST))
        result(beginning.write([BLOB[:held]]))
        beginning.close()
        self.trip = SegmentedTrip(lines, store)
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
        readable = self.trip.available()
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


def happen(eventful: EventfulFlight, events: list[tuple[Any, ...]]) -> None:
    for name, *details in events:
        if name == "wait":
            eventful.trip.clock.advance(*details)
        else:
            getattr(eventful, name)(*details)
        eventful.look()


def test_a_stop_waits_for_what_is_being_absorbed() -> None:
    """A thread reads and writes the file just then: it is not closed, and what it counts is kept."""
    eventful = EventfulFlight(2, 0)
    slow, trip = eventful.store.slow, eventful.trip
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
    eventful.leave()


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 5), st.sampled_from([0, 1, 250]), st.lists(EVENTS, max_size=80))
def test_any_interleaving_ends_with_the_right_blob(lines: int, held: int, events: list[tuple[Any, ...]]) -> None:
    """Pieces come, stall, break and are refused in any order, on a disk that lags: no byte comes twice."""
    eventful = EventfulFlight(lines, held)
    happen(eventful, events)
    eventful.finish()
    eventful.leave()
    assert eventful.trip.outcome == [None] and eventful.trip.is_stored()
    reached = 0
    for start, stop in sorted(eventful.sent):
        assert start == reached, "a byte came twice, or never"
        reached = stop
    assert reached == SIZE


@settings(deadline=None, max_examples=100)
@given(st.lists(EVENTS, max_size=60))
def test_a_stop_at_any_moment_keeps_a_beginning(events: list[tuple[Any, ...]]) -> None:
    """Every line is closed, the disk is waited for, and what is kept goes on to be the blob."""
    eventful = EventfulFlight(3, 0)
    happen(eventful, events)
    trip, slow = eventful.trip, eventful.store.slow
    if trip.outcome:
        return eventful.leave()
    counted = slow.size
    trip.landing.cancel()
    assert eventful.live() == []
    while slow.waiting:
        assert not trip.outcome
        slow.work(0)
    eventful.leave()
    assert len(trip.outcome) == 1 and not slow.was_cancelled
    assert trip.clock.getDelayedCalls() == []
    later = result(MemoryBlobStore.ingest(eventful.store, DIGEST))
    assert later.size >= counted
    assert result(later.reader().read(0, SIZE)) == BLOB[: later.size]
    later.close()
