"""Faults of our own side while a blob is received: disks, threads, stops."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from appliance import errors
from appliance.cache.backoff import RETRY_DELAYS
from appliance.cache.flight import State
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import failing, result, step
from tests.rooms.cache.flying import BLOB, DIGEST, SIZE, Trip


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


def test_readers_of_a_stopped_flight_get_its_failure() -> None:
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


class BrokenStore(MemoryBlobStore):
    """A store that cannot even begin, for a reason that passing on does not mend."""

    def ingest(self, digest: Digest, keep: bool = True) -> Deferred[Any]:
        return fail(OSError(24, "Too many open files"))


def test_a_store_that_cannot_begin_is_reported_to_who_waits() -> None:
    """Clients get an answer instead of waiting for ever."""
    trip = Trip(store=BrokenStore()).depart()
    assert isinstance(failing(trip.flight.opened()), OSError)
    assert isinstance(failing(trip.flight.landed()), OSError)


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


def test_a_flight_that_no_client_waits_for_says_so() -> None:
    """It goes behind others upstream, up to the first request after a reader has come."""
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


def test_who_comes_while_a_body_is_on_its_way_in_the_background_has_it_asked_for_again() -> None:
    """It is asked for once, and goes on as what a client waits for."""
    trip = Trip()
    trip.flight.background = True
    trip.depart()
    trip.body.feed(1000)
    assert not trip.body.is_awaited
    result(trip.flight.opened())
    assert trip.body.is_awaited and len(trip.asked()) == 1
    trip.body.complete()
    assert trip.flight.state is State.LANDED


def test_who_comes_while_the_background_asks_has_it_come_once() -> None:
    """
    The answer may be on its way: a second question would have its bytes come twice. The upstream is told that a client
    waits, and so is the answer when it comes.
    """
    trip = Trip()
    trip.flight.background = True
    trip.upstream.hang("blob")
    trip.depart()
    for _ in range(2):
        opened = trip.flight.opened()
        assert not opened.called
    assert trip.upstream.awaiting == [trip.flight.digest]
    [asking] = trip.upstream.hanging
    assert not asking.cancelled
    asking.answer()
    result(opened)
    assert trip.body.is_awaited and not trip.body.dropped and len(trip.asked()) == 1
    trip.body.complete()
    assert trip.flight.state is State.LANDED


def test_a_flight_that_is_stopped_while_it_asks_ends() -> None:
    """Stopping is no reason to ask again."""
    trip = Trip()
    trip.upstream.hang("blob")
    trip.depart()
    trip.landing.cancel()
    assert trip.flight.state is State.FAILED and len(trip.upstream.asked("blob")) == 1


def test_a_flight_is_wanted_unless_it_is_said_otherwise() -> None:
    """A client's blob goes behind no other."""
    trip = Trip().depart()
    trip.body.complete()
    assert [call.background for call in trip.upstream.asked("blob")] == [False]
