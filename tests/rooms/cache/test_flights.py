"""All flights of the process: one for a digest, stopped and taken up again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.logger import globalLogPublisher

from appliance.cache import segments
from appliance.cache.access import Access, Remote
from appliance.cache.flight import State
from appliance.cache.flights import RESUMED_AT_ONCE, Flights
from appliance.cache.space import Space
from appliance.errors import Offline, UpstreamUnavailable
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import Repositories
from appliance.interfaces import IIngest, Origin
from appliance.oci.digest import Digest
from appliance.settings import RetentionSettings, UpstreamSettings
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import begin, failing, result
from tests.doubles.pullthrough import Cache, clock_at
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


def flights_over(store: MemoryBlobStore) -> Flights:
    clock = clock_at()
    return Flights(store, clock, Repositories(MemoryDocuments()), Space(store, clock, RetentionSettings()))


def test_a_digest_has_one_flight() -> None:
    """A second one is a mistake of ours; after the end there is none."""
    asked, flights = upstream(), flights_over(MemoryBlobStore())
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
    flights = flights_over(store)
    for blob in BLOBS[:3]:
        flights.start(asked, NAME, Digest.of(blob), 1000)
        asked.bodies[-1].feed(300)
    assert result(flights.stop()) is None
    assert len(flights) == 0
    assert all(body.dropped for body in asked.bodies)
    assert store.unfinished() == sorted(Digest.of(blob) for blob in BLOBS[:3])


def test_a_stop_with_nothing_under_way_is_done_at_once() -> None:
    """Nothing to wait for."""
    assert result(flights_over(MemoryBlobStore()).stop()) is None


def test_a_restart_takes_up_what_was_cut_a_few_at_a_time() -> None:
    """At most four fetches at once, each from where it stopped and with its validator, until none is left."""
    asked = upstream()
    asked.validator = '"v1"'
    cache = Cache(asked)
    left_behind(cache.store, BLOBS)
    done = begin(cache.flights.resume(cache.access))
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
    done = begin(cache.flights.resume(cache.access))
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
    done = begin(cache.flights.resume(cache.access))
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
    assert result(begin(cache.flights.resume(cache.access))) is None
    assert len(asked.asked("blob")) == len(BLOBS)
    assert len(cache.store.unfinished()) == len(BLOBS)


def test_an_offline_appliance_resumes_nothing() -> None:
    """No packet leaves; nor for an upstream that is no longer configured."""
    asked = upstream()
    cache = Cache(asked, offline=True)
    left_behind(cache.store, BLOBS[:2])
    left_behind(cache.store, BLOBS[2:3], "gone.example")
    assert result(begin(cache.flights.resume(cache.access))) is None
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
    assert result(begin(cache.flights.resume(cache.access))) is None
    assert sum(store.size(Digest.of(blob)) is not None for blob in BLOBS) == 5


def test_the_end_of_a_flight_can_be_waited_for() -> None:
    """Also of one that is not there."""
    asked, flights = upstream(), flights_over(MemoryBlobStore())
    digest = Digest.of(BLOBS[0])
    assert result(flights.ended(digest)) is None
    flights.start(asked, NAME, digest, 1000)
    ended = flights.ended(digest)
    assert not ended.called
    asked.bodies[0].complete()
    assert result(ended) is None
    assert flights.get(digest) is None


# -- what an earlier process left -----------------------------------------------------------------------------------

WEEK = 7 * 24 * 3600.0


@pytest.fixture
def captured_logs() -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile."""
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def whole(store: MemoryBlobStore, blob: bytes, origin: Origin | None, sent: bytes | None = None) -> Digest:
    """All bytes came, and the process was killed before they were a blob."""
    ingest = result(store.ingest(Digest.of(blob)))
    result(ingest.write([blob if sent is None else sent]))
    if origin is not None:
        result(ingest.note(origin))
    ingest.close()
    return Digest.of(blob)


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("name", ["docker.io", "gone.example", None])
def test_what_is_whole_becomes_a_blob_and_no_upstream_is_asked(name: str | None, offline: bool) -> None:
    """A kill came between the last byte and the blob: after a start it is held, whatever became of its upstream."""
    asked = upstream()
    cache = Cache(asked, offline=offline)
    digest = whole(cache.store, BLOBS[0], Origin(name, NAME, 1000))
    assert result(begin(cache.flights.resume(cache.access))) is None
    assert cache.store.size(digest) == 1000
    assert cache.store.unfinished() == [] and asked.calls == []


def test_what_has_the_size_and_not_the_bytes_is_fetched() -> None:
    """A power cut left zeros: they become no blob, and go as the upstream is asked for what is right."""
    asked = upstream()
    asked.by_hand = False
    cache = Cache(asked)
    digest = whole(cache.store, BLOBS[1], Origin("docker.io", NAME, 1000), bytes(1000))
    assert not result(begin(cache.flights.complete(digest)))
    assert cache.store.size(digest) is None and asked.calls == []
    result(cache.flights.resume(cache.access))
    assert result(cache.store.read(digest, 1000)) == BLOBS[1]
    assert [call.start for call in asked.asked("blob")] == [1000, 0]


class Reading(MemoryBlobStore):
    """A store that counts what is read of what is under way, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.read_again: list[Digest] = []
        self.held_up: Deferred[None] | None = None

    def ingest(self, digest: Digest) -> Deferred[IIngest]:
        if digest in self._partial:
            self.read_again.append(digest)
        opening: Deferred[IIngest] = super().ingest(digest)
        if self.held_up is None:
            return opening
        return self.held_up.addCallback(lambda _: opening)


def test_a_start_reads_nothing_that_it_does_not_use() -> None:
    """Gigabytes of beginnings, offline or from upstreams that are gone: their bytes are not read."""
    store = Reading()
    cache = Cache(upstream(), offline=True, store=store)
    left_behind(store, BLOBS[:3])
    left_behind(store, BLOBS[3:5], "gone.example")
    store.read_again.clear()
    result(begin(cache.flights.resume(cache.access)))
    result(begin(cache.flights.sweep(cache.access, WEEK - 1)))
    assert store.read_again == []
    assert len(store.unfinished()) == 5


def known(cache: Cache, digest: Digest) -> None:
    """The repository is known to have the blob."""
    repository = result(cache.repositories.get("docker.io", NAME))
    repository.link(digest, 1000)
    result(cache.repositories.save(repository))


@pytest.mark.parametrize("offline", [False, True])
def test_what_is_being_completed_is_waited_for(offline: bool) -> None:
    """Who asks for the blob while a start still hashes it gets it, and no upstream is asked."""
    store, asked = Reading(), upstream()
    cache = Cache(asked, offline=offline, store=store)
    digest = whole(store, BLOBS[0], Origin("docker.io", NAME, 1000))
    known(cache, digest)
    store.held_up = Deferred()
    done = begin(cache.flights.resume(cache.access))
    opening = begin(cache.through.blob(cache.at("docker.io", NAME), digest))
    looking = begin(cache.through.blob_size(cache.at("docker.io", NAME), digest))
    committed = cache.flights.committed()
    assert cache.flights.is_completing(digest)
    assert not (opening.called or looking.called or committed.called)
    store.held_up.callback(None)
    answer = result(opening)
    assert (answer.size, answer.growth, result(looking).size) == (1000, None, 1000)
    answer.close()
    assert result(done) is None and result(committed) is None
    assert asked.calls == []


def test_offline_a_blob_that_lies_whole_without_a_note_is_found_when_it_is_asked_for() -> None:
    """A manifest says how long it is; what is not whole is not held, and is not hashed twice."""
    store = Reading()
    cache = Cache(upstream(), offline=True, store=store)
    found, wrong = whole(store, BLOBS[0], None), whole(store, BLOBS[1], None, bytes(1000))
    left_behind(store, BLOBS[2:3])
    store.read_again.clear()
    result(cache.flights.resume(cache.access))
    assert store.read_again == []
    for digest in (found, wrong, Digest.of(BLOBS[2])):
        known(cache, digest)
    result(cache.through.blob(cache.at("docker.io", NAME), found)).close()
    for digest in (wrong, Digest.of(BLOBS[2])) * 2:
        failing(cache.through.blob(cache.at("docker.io", NAME), digest), Offline)
    assert store.read_again == [found, wrong]
    assert store.unfinished() == sorted([wrong, Digest.of(BLOBS[2])])


def test_what_no_upstream_can_go_on_with_is_thrown_away_after_a_week(captured_logs: list[dict[str, Any]]) -> None:
    """And told; what an upstream has that is offline, or that is whole, is kept, whatever its age."""
    store = MemoryBlobStore()
    cache = Cache(upstream(), offline=True, store=store)
    left_behind(store, BLOBS[:1])
    left_behind(store, BLOBS[1:2], "gone.example")
    left_behind(store, BLOBS[2:3])
    result(store.ingest(Digest.of(BLOBS[3]))).close()
    complete = whole(store, BLOBS[4], Origin(None, "", 1000))
    gone = [Digest.of(BLOBS[1]), Digest.of(BLOBS[3])]
    receiving = result(store.ingest(Digest.of(BLOBS[5])))
    result(cache.flights.sweep(cache.access, WEEK - 1))
    assert len(store.unfinished()) == 6
    result(cache.flights.sweep(cache.access, WEEK + 1))
    assert store.unfinished() == sorted(Digest.of(BLOBS[number]) for number in (0, 2, 5))
    assert store.size(complete) == 1000
    told = {str(event["digest"]): event["origin"] for event in captured_logs if "days" in event}
    assert told == {str(gone[0]): "gone.example", str(gone[1]): "it is not known"}
    receiving.close()


def test_what_may_not_be_pulled_any_more_is_swept_too() -> None:
    """C{deny} has come to cover its repository."""
    cache = Cache(upstream(), deny=("library/**",))
    left_behind(cache.store, BLOBS[:1])
    result(cache.flights.resume(cache.access))
    assert len(cache.flights) == 0
    result(cache.flights.sweep(cache.access, WEEK + 1))
    assert cache.store.unfinished() == []


def test_a_stop_begins_nothing_that_waited_to_be_resumed() -> None:
    """The flights that are cut make room for others, which must not take off."""
    asked = upstream()
    cache = Cache(asked)
    left_behind(cache.store, BLOBS)
    done = begin(cache.flights.resume(cache.access))
    result(cache.flights.stop())
    assert result(done) is None
    assert len(asked.bodies) == RESUMED_AT_ONCE and len(cache.flights) == 0


def test_a_stop_does_not_wait_for_what_is_hashed() -> None:
    """What was being completed is as it was, and the next start goes on."""
    store = Reading()
    cache = Cache(upstream(), offline=True, store=store)
    whole(store, BLOBS[0], Origin("docker.io", NAME, 1000))
    store.held_up = Deferred()
    done = begin(cache.flights.resume(cache.access))
    result(cache.flights.stop())
    assert result(done) is None
    assert len(store.unfinished()) == 1


# -- another configuration ------------------------------------------------------------------------------------------


def under(cache: Cache, registry: ScriptedUpstream, offline: bool = False, **settings: Any) -> Access:
    """The cache's upstream, otherwise configured."""
    changed = UpstreamSettings(name="docker.io", urls=("https://x",), **settings)
    return Access({**cache.remotes, "docker.io": Remote(changed, registry, offline)})


@pytest.mark.parametrize("change", ["offline", "removed", "denied"])
def test_a_flight_ends_when_its_upstream_may_not_be_asked_any_more(change: str) -> None:
    """Its bytes are kept, its readers get the failure, and it is neither asked again nor resumed."""
    asked = upstream()
    cache = Cache(asked)
    left_behind(cache.store, BLOBS[3:])
    resuming = begin(cache.flights.resume(cache.access))
    flying, pausing, opening = (cache.flights.start(asked, NAME, Digest.of(blob), 1000) for blob in BLOBS[:3])
    asked.bodies[-1].feed(1)
    readers = []
    for flight, body in zip((flying, pausing), asked.bodies[-3:-1], strict=True):
        body.feed(300)
        readers.append(flight.reader())
    asked.bodies[-2].cut()
    asked.hang("blob")
    waiting = cache.flights.start(asked, "library/other", Digest.of(b"other"), 5).opened()
    number = len(asked.calls)
    after = {
        "offline": under(cache, asked, True),
        "removed": Access({}),
        "denied": under(cache, asked, deny=("library/**",)),
    }[change]
    cache.flights.configure(after)
    assert len(cache.flights) == 0 and result(resuming) is None
    for flight in (flying, pausing, opening):
        assert flight.growth.failure is not None and flight.growth.failure.check(Offline)
    failing(waiting, Offline)
    cache.clock.advance(100)
    assert len(asked.calls) == number and asked.bodies[-3].dropped and asked.bodies[-1].dropped
    kept = {digest: result(cache.store.inspect(digest)) for digest in cache.store.unfinished()}
    assert kept[flying.digest].size == kept[pausing.digest].size == 300 and len(kept) >= len(BLOBS)
    for reader in readers:
        assert len(result(reader.read(0, 1000))) == 300
        reader.close()


def test_a_flight_goes_on_with_what_its_upstream_is_now() -> None:
    """Another URL or secret: what is being sent is not cut, and what is still to be asked is asked there."""
    asked, now = upstream(), upstream()
    cache = Cache(asked)
    flight = cache.flights.start(asked, NAME, Digest.of(BLOBS[0]), 1000)
    asked.bodies[0].feed(300)
    cache.flights.configure(under(cache, now, max_connections=3))
    asked.bodies[0].feed(300)
    assert flight.growth.available == 600
    asked.bodies[0].cut()
    cache.clock.advance(1.0)
    assert [call.start for call in now.asked("blob")] == [600] and len(asked.asked("blob")) == 1
    now.bodies[0].complete()
    assert cache.store.size(Digest.of(BLOBS[0])) == 1000


def test_what_has_landed_is_stored_although_its_upstream_goes_offline() -> None:
    """A client has it whole; it only has to be made durable."""
    asked, store = upstream(), Committing()
    cache = Cache(asked, store=store)
    flight = cache.flights.start(asked, NAME, Digest.of(BLOBS[0]), 1000)
    asked.bodies[0].complete()
    assert flight.state is State.LANDED and store.size(flight.digest) is None
    cache.flights.configure(under(cache, asked, True))
    store.committing.callback(None)
    assert store.size(flight.digest) == 1000 and len(cache.flights) == 0


class Committing(MemoryBlobStore):
    """A store whose commits wait for L{committing}."""

    def __init__(self) -> None:
        super().__init__()
        self.committing: Deferred[None] = Deferred()

    def ingest(self, digest: Digest) -> Deferred[IIngest]:
        def slow(ingest: Any) -> IIngest:
            commit = ingest.commit
            ingest.commit = lambda: self.committing.addCallback(lambda _: commit())
            return cast(IIngest, ingest)

        return super().ingest(digest).addCallback(slow)
