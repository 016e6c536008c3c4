"""A disk that is full: what is pulled passes through, once for all who read together, and nothing of it is left."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from appliance.cache import intake, segments
from appliance.cache.bypass import BypassedRange
from appliance.cache.intake import LOOK
from appliance.cache.space import FULL, OK, SHORT, Space
from appliance.errors import NoSpace, UpstreamInvalid
from appliance.interfaces import IBlobReader
from appliance.oci.digest import Digest
from appliance.oci.ranges import Span
from appliance.settings import RetentionSettings
from appliance.store import window
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import failing, pending, result
from tests.doubles.pullthrough import Cache, clock_at
from tests.doubles.upstream import ScriptedUpstream
from tests.rooms.cache.blobpulls import HUB
from tests.rooms.cache.flying import BLOB, DIGEST, SIZE, Trip
from tests.rooms.cache.segmenting import SegmentedTrip

FULL_DISK = 1 << 63


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of a thousand bytes."""
    monkeypatch.setattr(window, "LIMIT", 1000)
    monkeypatch.setattr(window, "PACE", 100)


class Client:
    """Reads one flight, as much as it is asked to."""

    def __init__(self, trip: Trip, start: int = 0) -> None:
        result(trip.flight.opened())
        self.growth = trip.flight.growth
        self.reader: IBlobReader = trip.flight.reader(start)
        self.data = b""

    def read(self, most: int = SIZE) -> bytes:
        """What there is, up to so many bytes."""
        while most and (piece := result(self.reader.read(len(self.data), min(len(self.data) + most, self.reachable)))):
            self.data += piece
            most -= len(piece)
        return self.data

    @property
    def reachable(self) -> int:
        return self.growth.available


def full(**more: Any) -> Trip:
    """A flight on a disk that is full from the beginning."""
    return Trip(store=MemoryBlobStore(1000), **more).depart()


def filled(after: int = 900, **more: Any) -> tuple[Trip, Client]:
    """A flight whose disk is full when C{after} bytes are stored, and a client that has read them."""
    trip = Trip(**more).depart()
    trip.body.feed(after)
    client = Client(trip)
    client.read()
    trip.store.floor = FULL_DISK
    return trip, client


def in_pieces(trip: Trip, client: Client, piece: int = 500) -> None:
    """The rest comes, and the client reads it as it does."""
    for _ in range(0, SIZE, piece):
        trip.body.feed(piece)
        client.read()
    trip.body.complete()
    client.read()


def test_a_pull_passes_through_a_full_disk() -> None:
    """One request, every byte, and nothing of it is left; it is counted."""
    trip = full()
    client = Client(trip)
    assert not trip.flight.stored
    in_pieces(trip, client)
    assert client.data == BLOB
    assert trip.outcome == [None] and len(trip.asked()) == 1
    assert trip.store.size(DIGEST) is None and trip.store.unfinished() == []
    assert trip.space.unstored == SIZE
    client.reader.close()
    assert trip.store.free() == 1000
    assert trip.clock.getDelayedCalls() == []


def test_a_disk_that_fills_up_on_the_way_is_no_end() -> None:
    """What is in the file is read on, the rest passes by; no seam, no second request, nothing left."""
    trip, client = filled()
    in_pieces(trip, client)
    assert client.data == BLOB and trip.outcome == [None]
    assert len(trip.asked()) == 1 and trip.space.unstored == SIZE
    assert trip.store.size(DIGEST) is None and trip.store.unfinished() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EFBIG, None])
@pytest.mark.parametrize("refused", ["ingest", "write", "note", "commit"])
def test_no_refusal_of_the_disk_fails_a_pull(number: int | None, refused: str) -> None:
    """Whatever it says, if anything, and wherever: at the file, at a byte, at the note, when all is there."""
    error = OSError(number, "no")

    class Refusing(MemoryBlobStore):
        def ingest(self, digest: Digest, keep: bool = True) -> Deferred[Any]:
            if refused == "ingest" and keep:
                return fail(error)
            return super().ingest(digest, keep).addCallback(self._refusing)

        def _refusing(self, ingest: Any) -> Any:
            if refused != "ingest":
                given = getattr(ingest, refused)
                setattr(ingest, refused, lambda *args: fail(error) if ingest.stored else given(*args))
            return ingest

    trip = Trip(store=Refusing()).depart()
    trip.body.feed(500)
    client = Client(trip)
    in_pieces(trip, client)
    assert client.data == BLOB and len(trip.asked()) == 1
    assert (trip.store.size(DIGEST) is not None) is (refused == "note")
    assert trip.space.refusal == (None if refused == "commit" else error)


def test_a_pull_that_can_be_stored_is() -> None:
    """With room for it and the reserve, and no look at the disk on the way says otherwise."""
    trip = Trip(store=MemoryBlobStore(SIZE * 2)).depart()
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE and trip.space.unstored == 0


def test_the_upstream_waits_for_the_slowest() -> None:
    """All read together: the window is bounded, and each gets every byte once it goes on."""
    trip = full()
    fast, slow = Client(trip), Client(trip)
    # The file takes some, then there is only memory.
    while not trip.flight._ingest._window.is_open:  # type: ignore[union-attr]
        trip.body.feed(100)
        fast.read(), slow.read()
    for _ in range(100):
        trip.body.feed(100)
        fast.read()
    before = trip.flight.growth.available
    assert before < SIZE - 1
    slow.read()
    assert trip.flight.growth.available > before
    trip.body.complete()
    for _ in range(20):
        fast.read(), slow.read()
    assert fast.data == slow.data == BLOB and len(trip.asked()) == 1


def test_who_stands_still_while_others_wait_is_given_up() -> None:
    """The others get all of it, after a while that is bounded."""
    trip = full()
    fast, still = Client(trip), Client(trip)
    for _ in range(0, SIZE, 100):
        trip.body.feed(100)
        fast.read()
    assert len(fast.data) < SIZE - 1
    trip.clock.advance(LOOK)
    trip.clock.advance(LOOK)
    fast.read()
    trip.body.complete()
    fast.read()
    assert fast.data == BLOB
    assert isinstance(failing(still.reader.read(0, 10)), OSError)


def test_a_flight_that_no_client_reads_any_more_ends() -> None:
    """It would pass through for no use; the upstream's line is closed, and memory is free."""
    trip, client = filled()
    trip.body.feed(5000)
    client.reader.close()
    trip.clock.advance(LOOK)
    trip.clock.advance(LOOK)
    trip.clock.advance(LOOK)
    assert trip.body.dropped and isinstance(trip.flight.ending, NoSpace)
    assert trip.clock.getDelayedCalls() == []
    assert trip.store.unfinished() == []


def test_a_flight_lives_while_its_client_waits_for_the_upstream() -> None:
    """A slow upstream is no reason to end it."""
    trip = Trip(store=MemoryBlobStore(1000))
    trip.upstream.hang("blob")
    trip.depart()
    opened = trip.flight.opened()
    trip.clock.pump([LOOK] * 10)
    assert pending(opened)
    trip.upstream.hanging[0].answer()
    client = Client(trip)
    trip.clock.pump([LOOK] * 10)
    in_pieces(trip, client)
    assert client.data == BLOB


def test_a_line_that_is_cut_is_taken_up_again_unstored() -> None:
    """With a Range from where it stopped, when the readers have left room for more."""
    trip = full()
    client = Client(trip)
    trip.body.feed(5000)
    trip.body.cut()
    trip.clock.advance(0.1)
    assert len(trip.asked()) == 1, "memory is full"
    client.read()
    assert trip.asked()[1][0] == 5000
    in_pieces(trip, client)
    assert client.data == BLOB


def test_a_stop_does_not_wait_for_readers() -> None:
    """However full the window is."""
    trip, client = filled()
    trip.body.feed(8000)
    assert trip.flight.growth.available < SIZE - 1
    trip.landing.cancel()
    assert trip.outcome[0].check(CancelledError) and trip.body.dropped
    assert client.growth.failure is not None


def test_wrong_bytes_are_never_whole_unstored_either() -> None:
    """The last byte is withheld; the response is broken off."""
    trip = full(blob=BLOB[:-1] + b"!")
    client = Client(trip)
    in_pieces(trip, client)
    assert client.data == BLOB[:-1]
    assert isinstance(trip.error, UpstreamInvalid) and client.growth.failure is not None


def test_what_no_client_waits_for_is_not_fetched_in_vain() -> None:
    """Nor is a beginning of it left on the full disk."""
    trip = full(background=True)
    assert isinstance(trip.error, NoSpace) and trip.asked() == []
    trip = Trip(background=True).depart()
    trip.body.feed(900)
    trip.store.floor = FULL_DISK
    trip.body.feed(900)
    assert isinstance(trip.error, NoSpace) and trip.body.dropped
    assert trip.store.unfinished() == []


def test_a_wrong_beginning_that_cannot_be_removed_is_no_end() -> None:
    """An earlier process left it, and the disk is broken: the blob passes by."""

    class Stuck(MemoryBlobStore):
        def ingest(self, digest: Digest, keep: bool = True) -> Deferred[Any]:
            return super().ingest(digest, keep).addCallback(self._stuck)

        def _stuck(self, ingest: Any) -> Any:
            if ingest.stored:
                ingest.discard = lambda: fail(OSError(errno.EIO, "no"))
            return ingest

    trip = Trip(store=Stuck())
    left = result(trip.store.ingest(DIGEST))
    result(left.write([b"!" * SIZE]))
    left.close()
    trip.depart()
    client = Client(trip)
    in_pieces(trip, client)
    assert client.data == BLOB and trip.outcome == [None] and not trip.flight.stored


@pytest.mark.parametrize("stored", [True, False])
def test_little_waits_in_front_of_a_full_window(stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a flight may have in front of a slow disk: its upstream waits, from the beginning or the middle."""
    monkeypatch.setattr(intake, "LITTLE", 1000)
    trip = filled()[0] if stored else full()
    Client(trip)
    for _ in range(0, SIZE // 2, 100):
        trip.body.feed(100)
    held = trip.flight._ingest._window  # type: ignore[union-attr]
    assert held.stop - held.start <= 1100 and trip.body.paused


def test_segments_give_way_to_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes ahead need room that there is not: the rest comes in order, and passes by."""
    monkeypatch.setattr(segments, "PIECE", 100)
    monkeypatch.setattr(segments, "SEGMENT_FROM", 200)
    trip = SegmentedTrip().depart()
    trip.bodies[0].feed(50)
    trip.reader = trip.flight.reader()
    trip.store.floor = FULL_DISK
    trip.bodies[1].feed(10)
    assert all(body.dropped for body in trip.bodies)
    trip.clock.advance(0.1)
    assert trip.ranges()[-1] == (50, None)
    trip.bodies[-1].complete()
    assert trip.available() == len(trip.readable()) and trip.outcome == [None]
    assert not trip.flight.stored and trip.store.unfinished() == []


def test_without_a_size_as_much_as_memory_takes_can_be_passed_on() -> None:
    """No length can be promised before the end, so no byte can leave the window: beyond that clients get an error."""
    for blob, whole in ((BLOB[:900], True), (BLOB, False)):
        digest = Digest.of(blob)
        trip = Trip(size=None, store=MemoryBlobStore(1000), blob=blob, digest=digest)
        trip.store.floor = FULL_DISK
        trip.upstream.tells_size = False
        trip.depart()
        opened = trip.flight.opened()
        trip.body.complete()
        if whole:
            result(opened)
        else:
            assert isinstance(failing(opened), NoSpace)


# -- several clients --------------------------------------------------------------------------------------------------


class Counter:
    """A cache on a full disk, before an upstream with one large blob."""

    def __init__(self) -> None:
        self.upstream = ScriptedUpstream()
        self.upstream.by_hand = True
        self.upstream.add_blob("app", BLOB)
        self.cache = Cache(self.upstream, store=MemoryBlobStore(1000))

    def pull(self, span: Span | None = None) -> Any:
        """What a client gets, now."""
        return self.cache.blobs.open(self.cache.at(HUB, "app"), DIGEST, None if span is None else lambda _: span)

    def asked(self) -> list[tuple[int, int | None]]:
        return [(call.start, call.stop) for call in self.upstream.asked("blob")]


def test_clients_who_come_together_share_one_fetch() -> None:
    """Each is told that it is not stored."""
    counter = Counter()
    answers = [result(counter.pull()) for _ in range(20)]
    assert len(counter.asked()) == 1
    assert str(answers[0].status) == "pullcache; fwd=uri-miss; detail=no-space"
    assert str(answers[1].status) == "pullcache; fwd=uri-miss; collapsed; detail=no-space"
    read = [b""] * 20
    for _ in range(0, SIZE, 500):
        counter.upstream.bodies[0].feed(500)
        if len(counter.upstream.bodies[0]._rest) <= 500:
            counter.upstream.bodies[0].complete()
        for number, answer in enumerate(answers):
            stop = answer.growth.available
            while len(read[number]) < stop:
                read[number] += result(answer.reader.read(len(read[number]), stop))
    assert read == [BLOB] * 20 and len(counter.asked()) == 1


def test_who_comes_when_the_first_bytes_are_gone_gets_another_fetch() -> None:
    """It is shared by all who come then; a range is asked for by itself; the first client goes on."""
    counter = Counter()
    first = result(counter.pull())
    for stop in range(500, 5500, 500):
        counter.upstream.bodies[0].feed(500)
        result(first.reader.read(stop - 500, stop))
        result(first.reader.read(first.reader.position, stop))
    late = [result(counter.pull()) for _ in range(2)]
    assert counter.asked() == [(0, None), (0, None)]
    assert late[1].status.collapsed and len(counter.cache.flights) == 2
    counter.upstream.bodies[1].feed(500)
    assert result(late[1].reader.read(0, 500)) == BLOB[:500]
    old = counter.cache.flights._overtaken
    assert len(old) == 1
    part = result(counter.pull(Span(5000, 5100)))
    part.close()
    assert counter.asked()[2:] == ([(5000, 5100)] if isinstance(part, BypassedRange) else [])
    counter.upstream.bodies[0].feed(500)
    assert result(first.reader.read(5000, 5500)) == BLOB[5000:5500]
    for each in (first, *late):
        each.close()
    result(counter.cache.flights.stop())
    assert len(counter.cache.flights) == 0


def test_what_must_be_stored_says_why_it_is_not() -> None:
    """An export, or what is fetched ahead, is of no use without it."""
    counter = Counter()
    error = failing(counter.cache.blobs.fetch(counter.cache.at(HUB, "app"), DIGEST))
    assert isinstance(error, NoSpace) and "no room" in str(error)
    error = failing(counter.cache.blobs.fetch(counter.cache.at(HUB, "app"), DIGEST, background=True))
    assert isinstance(error, NoSpace)


# -- room -------------------------------------------------------------------------------------------------------------


def test_the_collection_is_asked_before_a_pull_passes_through() -> None:
    """What it frees is used: the blob is stored."""
    trip = Trip(store=MemoryBlobStore(SIZE + 2000))
    old = Digest.of(bytes(5000))
    result(trip.store.put(old, bytes(5000)))
    asked = []

    def collect(wanted: int) -> Deferred[None]:
        asked.append(wanted)
        return trip.store.delete(old)  # type: ignore[no-any-return]

    trip.space.collect = collect
    trip.depart()
    assert asked == [trip.space.reserve + SIZE]
    trip.body.complete()
    assert trip.store.size(DIGEST) == SIZE


def test_a_client_does_not_wait_long_for_the_collection() -> None:
    """It may have a lot to look at; a collection that freed nothing is not asked again for a while."""
    trip = Trip(store=MemoryBlobStore(2000))
    space = trip.space
    result(trip.store.put(Digest.of(bytes(1900)), bytes(1900)))
    asked: list[Deferred[None]] = []

    def collect(wanted: int) -> Deferred[None]:
        asked.append(Deferred())
        return asked[-1]

    space.collect = collect
    room = Deferred.fromCoroutine(space.room(500))
    assert pending(room)
    trip.clock.advance(2)
    assert result(room) is False
    asked[0].callback(None)
    assert result(space.room(500)) is False and len(asked) == 1
    trip.clock.advance(60)
    again = Deferred.fromCoroutine(space.room(500))
    assert pending(again) and len(asked) == 2
    asked[1].callback(None)
    result(again)


def test_a_client_that_leaves_while_it_waits_for_the_collection_leaves_nothing_behind() -> None:
    """Its wait ends as cancelled, with no timer; the collection goes on, and the next one that asks waits for it."""
    store, clock = MemoryBlobStore(2000), clock_at()
    space = Space(store, clock, RetentionSettings())
    result(store.put(Digest.of(bytes(1900)), bytes(1900)))
    asked: list[Deferred[None]] = []

    def collect(wanted: int) -> Deferred[None]:
        asked.append(Deferred())
        return asked[-1]

    space.collect = collect
    room = Deferred.fromCoroutine(space.room(500))
    room.cancel()
    assert isinstance(failing(room), CancelledError) and clock.getDelayedCalls() == []
    space.look()
    again = Deferred.fromCoroutine(space.room(500))
    assert pending(again) and len(asked) == 1 and not asked[0].called
    asked[0].callback(None)
    assert result(again) is False and clock.getDelayedCalls() == []


def test_nothing_is_collected_for_what_fits_on_no_disk() -> None:
    """A blob as large as the disk would take every image with it, and not fit all the same."""
    space = Space(MemoryBlobStore(1000), clock_at(), RetentionSettings())
    space.collect = lambda _: succeed(None).addCallback(lambda _: pytest.fail("asked"))
    assert result(space.room(990)) is False


def test_the_state_of_the_disk_is_told() -> None:
    """By how much is free, and by what it refused lately."""
    store, clock = MemoryBlobStore(1000), clock_at()
    space = Space(store, clock, RetentionSettings())
    assert (space.state, space.reserve, store.floor, space.free()) == (OK, 50, 25, 1000)
    result(store.put(Digest.of(bytes(960)), bytes(960)))
    assert space.state == SHORT and space.is_short()
    space.refused(OSError(errno.EDQUOT, "quota"))
    assert space.state == FULL
    clock.advance(60)
    assert space.state == SHORT
    space.refused(OSError(errno.EROFS, "read-only"))
    assert space.state == "read-only"


def test_flights_under_way_count_with_what_is_still_to_come() -> None:
    """Two blobs that fit one by one, and not together: the second passes through."""
    upstream = ScriptedUpstream()
    upstream.by_hand = True
    blobs = [bytes([number]) * 600 for number in range(2)]
    cache = Cache(upstream, store=MemoryBlobStore(1000))
    for blob in blobs:
        upstream.add_blob("app", blob)
        cache.flights.start(upstream, "app", Digest.of(blob), len(blob))
    assert [cache.flights.get(Digest.of(blob)).stored for blob in blobs] == [True, False]  # type: ignore[union-attr]
    result(cache.flights.stop())
