"""Bytes of an upstream that turn out to be wrong: no response is completed with them, and right ones are kept."""

from __future__ import annotations

import pytest
from twisted.python.failure import Failure

from appliance import errors
from appliance.cache.backoff import RETRY_DELAYS
from appliance.cache.flight import State
from appliance.interfaces import Origin
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import failing, result, step
from tests.rooms.cache.flying import BLOB, DIGEST, NAME, SIZE, Trip

# -- wrong bytes -----------------------------------------------------------------------------------------------------


def discarded(trip: Trip) -> bool:
    """Nothing is kept, readers got the failure, and they never had the last byte."""
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
    """The manifest says one size, the upstream another: neither is promised before the digest is known."""
    trip = Trip(size=size).depart()
    opened = trip.flight.opened()
    trip.body.feed(SIZE - 1)
    assert not opened.called and trip.flight.growth.available == 0
    trip.body.complete()
    assert result(opened) is None
    assert (trip.flight.size, trip.flight.growth.available) == (SIZE, SIZE)
    assert trip.store.size(DIGEST) == SIZE and len(trip.asked()) == 1


def test_a_size_unlike_the_descriptors_with_other_bytes_is_reported_before_anything_was_promised() -> None:
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
    """Nothing was promised yet: the failure is reported."""
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


# -- another writer brings the blob -----------------------------------------------------------------------------------


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
    """The line is cut: readers get the failure at once, and find the blob when they come again."""
    trip = Trip().depart()
    trip.body.feed(1000)
    brought_by_an_import(trip)
    trip.body.cut()
    assert isinstance(trip.error, errors.UpstreamUnavailable)
    assert trip.flight.growth.failure is not None
    assert len(trip.asked()) == 1
    assert trip.store.unfinished() == []
