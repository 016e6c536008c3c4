"""Which request to an upstream is next."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance.upstream.concurrency import ConcurrencyLimit, Permit, Priority
from tests.doubles.deferreds import failing, pending, result

METADATA, BLOB, BACKGROUND = Priority.METADATA, Priority.BLOB, Priority.BACKGROUND


def taken(permits: ConcurrencyLimit, *ranks: Priority) -> list[Permit]:
    return [result(permits.acquire(rank)) for rank in ranks]


@pytest.mark.parametrize(
    ("limit", "questions", "blobs", "background"),
    [(1, 1, 1, 1), (2, 2, 1, 1), (3, 3, 2, 1), (4, 4, 3, 2), (8, 8, 7, 6)],
)
def test_the_last_connections_are_kept_for_what_is_urgent(
    limit: int, questions: int, blobs: int, background: int
) -> None:
    """All for manifests, all but one for blobs, all but two for background work; one at least for each."""
    for rank, most in ((METADATA, questions), (BLOB, blobs), (BACKGROUND, background)):
        permits = ConcurrencyLimit(limit)
        asked = [permits.acquire(rank) for _ in range(limit + 3)]
        assert sum(not pending(each) for each in asked) == most
        assert (permits.in_use, permits.waiting) == (most, limit + 3 - most)


def test_background_and_blobs_together_leave_one_to_manifests() -> None:
    """In whatever order the two came."""
    permits = ConcurrencyLimit(3)
    taken(permits, BACKGROUND, BLOB)
    waiting = permits.acquire(BLOB)
    assert pending(waiting)
    taken(permits, METADATA)
    assert permits.in_use == 3


def test_manifests_in_flight_do_not_count_against_a_blobs_part() -> None:
    """Its own part is what it may not exceed."""
    permits = ConcurrencyLimit(3)
    taken(permits, METADATA, BLOB, BLOB)
    assert permits.in_use == 3


def test_the_urgent_goes_before_who_waits_longer() -> None:
    """And within a priority it is first come, first served."""
    permits = ConcurrencyLimit(1)
    held = taken(permits, METADATA)
    order: list[str] = []

    def wait(rank: Priority, name: str) -> None:
        def served(permit: Permit) -> None:
            order.append(name)
            permit.release()

        permits.acquire(rank).addCallback(served)

    for rank, name in (
        (BACKGROUND, "background"),
        (BLOB, "first blob"),
        (BLOB, "second blob"),
        (METADATA, "first manifest"),
        (METADATA, "second manifest"),
    ):
        wait(rank, name)
    assert order == []
    held[0].release()
    assert order == ["first manifest", "second manifest", "first blob", "second blob", "background"]
    assert (permits.in_use, permits.waiting) == (0, 0)


def test_a_permit_is_returned_once() -> None:
    """However often it is said: else one answer would make room for two."""
    permits = ConcurrencyLimit(2)
    first, _ = taken(permits, METADATA, METADATA)
    first.release()
    first.release()
    assert permits.in_use == 1


def test_who_does_not_want_to_wait_any_more_leaves_the_queue() -> None:
    """And gives up no permit of another."""
    permits = ConcurrencyLimit(1)
    held = taken(permits, METADATA)
    gone, stays = permits.acquire(METADATA), permits.acquire(METADATA)
    gone.cancel()
    assert type(failing(gone)) is CancelledError
    assert permits.waiting == 1
    held[0].release()
    assert not pending(stays)
    assert permits.in_use == 1


def test_a_long_queue_of_quick_answers_is_no_depth() -> None:
    """Ten thousand questions that fail at once, one after the other, do not exhaust the stack."""
    permits = ConcurrencyLimit(1)
    held = taken(permits, METADATA)
    served: list[Deferred[None]] = [permits.acquire(METADATA).addCallback(Permit.release) for _ in range(10_000)]
    held[0].release()
    assert all(not pending(each) for each in served)
    assert (permits.in_use, permits.waiting) == (0, 0)


def test_what_costs_nothing_needs_no_waiting() -> None:
    """No request queues for a failure that is certain, not even one that came before that was known."""
    permits = ConcurrencyLimit(1)
    taken(permits, BLOB)
    waiting = [permits.acquire(BLOB).addCallback(Permit.release) for _ in range(3)]
    permits.free = lambda: True
    permits.acquire(METADATA).addCallback(Permit.release)
    assert not any(pending(each) for each in waiting)
    assert permits.in_use == 1


@pytest.mark.parametrize("limit", [0, -1])
def test_no_permits_at_all_is_a_mistake(limit: int) -> None:
    """Every request would wait for ever."""
    with pytest.raises(ValueError, match="at least 1"):
        ConcurrencyLimit(limit)
