"""All flights of the process: one for a digest, stopped and taken up again."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail

from appliance.cache import segments
from appliance.cache.flights import RESUMED_AT_ONCE, Flights
from appliance.errors import UpstreamUnavailable
from appliance.interfaces import IIngest, Origin
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.pullthrough import Cache, begin, clock_at, result
from tests.doubles.upstream import ScriptedUpstream

NAME = "library/app"
BLOBS = [bytes([number]) * 1000 for number in range(10)]


def upstream() -> ScriptedUpstream:
    found = ScriptedUpstream()
    found.by_hand = True
    for blob in BLOBS:
        found.add_blob(NAME, blob)
    return found


def left_behind(store: MemoryBlobStore, blobs: list[bytes], name: str = "docker.io") -> None:
    """Partial blobs of an earlier run."""
    for blob in blobs:
        ingest = result(store.ingest(Digest.of(blob)))
        result(ingest.write([blob[:100]]))
        result(ingest.note(Origin(name, NAME, len(blob), '"v1"')))
        ingest.close()


def test_a_digest_has_one_flight() -> None:
    """A second one is a mistake of ours; after the end there is none."""
    asked, flights = upstream(), Flights(MemoryBlobStore(), clock_at())
    digest = Digest.of(BLOBS[0])
    flight = flights.start(asked, NAME, digest, 1000)
    assert flights.get(digest) is flight and len(flights) == 1
    with pytest.raises(ValueError, match="under way"):
        flights.start(asked, NAME, digest, 1000)
    asked.bodies[0].complete()
    assert flights.get(digest) is None and len(flights) == 0


def test_a_stop_keeps_what_came() -> None:
    """Every connection is dropped, every file closed, and nothing is thrown away."""
    asked, store = upstream(), MemoryBlobStore()
    flights = Flights(store, clock_at())
    for blob in BLOBS[:3]:
        flights.start(asked, NAME, Digest.of(blob), 1000)
        asked.bodies[-1].feed(300)
    assert result(flights.stop()) is None
    assert len(flights) == 0
    assert all(body.dropped for body in asked.bodies)
    assert store.unfinished() == sorted(Digest.of(blob) for blob in BLOBS[:3])


def test_a_stop_with_nothing_under_way_is_done_at_once() -> None:
    """Nothing to wait for."""
    assert result(Flights(MemoryBlobStore(), clock_at()).stop()) is None


def test_a_restart_takes_up_what_was_cut_a_few_at_a_time() -> None:
    """At most four fetches at once, each from where it stopped and with its validator, until none is left."""
    asked = upstream()
    asked.validator = '"v1"'
    cache = Cache(asked)
    left_behind(cache.store, BLOBS)
    done = begin(cache.flights.resume(cache.remotes))
    assert len(asked.bodies) == RESUMED_AT_ONCE == 4
    for number in range(len(BLOBS)):
        asked.bodies[number].complete()
        assert len(cache.flights) <= 4
    assert result(done) is None
    assert {(call.start, call.validator) for call in asked.asked("blob")} == {(100, '"v1"')}
    assert all(cache.store.size(Digest.of(blob)) == 1000 for blob in BLOBS)
    assert cache.store.unfinished() == []


def test_what_a_restart_takes_up_goes_behind_what_clients_wait_for() -> None:
    """Until a client wants it: what is asked for after that is no background work."""
    asked = upstream()
    cache = Cache(asked)
    left_behind(cache.store, BLOBS[:1])
    done = begin(cache.flights.resume(cache.remotes))
    flight = cache.flights.get(Digest.of(BLOBS[0]))
    assert flight is not None
    assert result(flight.opened()) is None
    asked.bodies[0].cut()
    cache.clock.advance(1.0)
    assert [call.background for call in asked.asked("blob")] == [True, False]
    asked.bodies[1].complete()
    assert result(done) is None


def test_a_restart_fetches_over_as_many_lines_as_the_upstream_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """C{segments} of the configuration holds for what is resumed, too."""
    monkeypatch.setattr(segments, "PIECE", 300)
    monkeypatch.setattr(segments, "SEGMENT_FROM", 900)
    asked = upstream()
    asked.validator = '"v1"'
    cache = Cache(asked, segments=2)
    left_behind(cache.store, BLOBS[:1])
    done = begin(cache.flights.resume(cache.remotes))
    assert [(call.start, call.stop) for call in asked.asked("blob")] == [(100, 400), (400, 700)]
    for body in asked.bodies:
        body.complete()
    assert result(done) is None
    assert cache.store.size(Digest.of(BLOBS[0])) == 1000


def test_what_cannot_be_resumed_waits_for_its_next_reader() -> None:
    """The upstream is down after the restart: nothing is lost, and the others are still tried."""
    asked = upstream()
    cache = Cache(asked)
    left_behind(cache.store, BLOBS)
    asked.fail(UpstreamUnavailable("docker.io", "down"))
    assert result(begin(cache.flights.resume(cache.remotes))) is None
    assert len(asked.asked("blob")) == len(BLOBS)
    assert len(cache.store.unfinished()) == len(BLOBS)


def test_an_offline_appliance_resumes_nothing() -> None:
    """No packet leaves; nor for an upstream that is no longer configured."""
    asked = upstream()
    cache = Cache(asked, offline=True)
    left_behind(cache.store, BLOBS[:2])
    left_behind(cache.store, BLOBS[2:3], "gone.example")
    assert result(begin(cache.flights.resume(cache.remotes))) is None
    assert asked.calls == []
    assert len(cache.store.unfinished()) == 3


class UnreadablePartials(MemoryBlobStore):
    """A store whose first partials cannot be opened."""

    broken = 5

    def ingest(self, digest: Digest) -> Deferred[IIngest]:
        if self.broken:
            self.broken -= 1
            return fail(OSError(5, "Input/output error"))
        return super().ingest(digest)


def test_partials_that_cannot_be_read_do_not_hold_up_the_others() -> None:
    """A bad sector under five of them: the other five are fetched."""
    asked = upstream()
    asked.by_hand = False
    store = UnreadablePartials()
    store.broken = 0
    left_behind(store, BLOBS)
    store.broken = 5
    cache = Cache(asked, store=store)
    assert result(begin(cache.flights.resume(cache.remotes))) is None
    assert sum(store.size(Digest.of(blob)) is not None for blob in BLOBS) == 5


def test_the_end_of_a_flight_can_be_waited_for() -> None:
    """Also of one that is not there."""
    asked, flights = upstream(), Flights(MemoryBlobStore(), clock_at())
    digest = Digest.of(BLOBS[0])
    assert result(flights.ended(digest)) is None
    flights.start(asked, NAME, digest, 1000)
    ended = flights.ended(digest)
    assert not ended.called
    asked.bodies[0].complete()
    assert result(ended) is None
    assert flights.get(digest) is None
