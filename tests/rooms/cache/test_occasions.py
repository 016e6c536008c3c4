"""When the collection runs by itself, and when it does not although it could."""

from __future__ import annotations

import pytest

from appliance.cache.occasions import EVERY, FRUITLESS, Occasions
from tests.rooms.cache.collecting import DAY, Depot

BIG = 100_000


class Watched:
    """A depot whose collection is begun by its occasions; C{look} is called every five seconds."""

    def __init__(self, retention: str) -> None:
        self.depot = depot = Depot(retention)
        self.occasions = Occasions(depot.collection, depot.store, lambda: depot.settings, depot.clock)
        self.runs = 0
        run = depot.collection.run

        def counted(*arguments: object) -> object:
            self.runs += 1
            return run(*arguments)  # type: ignore[arg-type]

        depot.collection.run = counted  # type: ignore[method-assign, assignment]
        self.occasions.begin()

    def passes(self, seconds: float) -> int:
        """How often it runs in that time."""
        before = self.runs
        for _ in range(int(seconds // 5)):
            self.depot.clock.advance(5)
            self.occasions.look()
        return self.runs - before


def test_it_runs_at_the_start_and_then_now_and_then() -> None:
    """What nothing refers to goes within the hour, and an idle appliance does not look all the time."""
    watched = Watched("")
    assert watched.runs == 1
    assert watched.passes(EVERY - 60) == 0
    assert watched.passes(120) == 1


def test_it_does_not_run_before_all_that_is_held_is_known() -> None:
    """An import that was cut while it was published comes first."""
    watched = Watched("")
    watched.depot.collection.is_ready = False
    watched.occasions.want()
    assert watched.passes(2 * EVERY) == 0


def test_a_budget_is_kept_within_seconds() -> None:
    """A pull that exceeds it has the collection run at the next look, and once."""
    watched = Watched(f"max_size: {2 * BIG}B")
    for word in (b"a", b"b", b"c"):
        watched.depot.pull("r", word.decode(), word * BIG)
    assert watched.passes(10) == 1
    assert watched.depot.store.total() <= 2 * BIG
    assert watched.passes(EVERY - 60) == 0


def test_an_upstreams_budget_is_looked_at_when_something_came() -> None:
    """And not again before that."""
    watched = Watched(f"|max_size: {BIG}B")
    watched.depot.pull("quay.io//r", "1", b"x" * BIG)
    assert watched.passes(10) == 1
    assert watched.depot.store.total() == 0
    assert watched.passes(60) == 0


def test_a_budget_that_cannot_be_kept_is_no_reason_to_run_on_and_on() -> None:
    """It is tried again now and then: what came a moment ago is old enough some time."""
    watched = Watched(f"max_size: {BIG}B")
    watched.depot.pull("r", "1", b"x" * 2 * BIG, pinned="bundle")
    assert watched.passes(10) == 1
    assert watched.passes(600) <= 600 / FRUITLESS + 1


@pytest.mark.parametrize("keep_for", ["20s", "1d"])
def test_what_grows_old_is_found_soon(keep_for: str) -> None:
    """Within a quarter of the time for which it is kept, an hour at most."""
    watched = Watched(f"keep_for: {keep_for}")
    watched.depot.pull("r", "1", b"x")
    for _ in range(20_000):
        if watched.depot.store.total() == 0:
            break
        watched.passes(5)
    old = watched.depot.clock.wall() - 1_800_000_000
    kept = 20 if keep_for == "20s" else DAY
    assert kept < old <= kept + min(kept / 4 + 15, EVERY + 15)


def test_a_new_configuration_holds_at_once() -> None:
    """A budget that was made smaller is kept within seconds."""
    watched = Watched("")
    watched.depot.pull("r", "1", b"x" * BIG)
    assert watched.passes(60) == 0
    watched.depot.configure("max_size: 1B")
    watched.occasions.want()
    assert watched.passes(5) == 1
    assert watched.depot.store.total() == 0


def test_a_collection_that_fails_is_tried_again(logged_errors: list[object]) -> None:
    """What the disk does not give now may be there in an hour; the log says why."""
    watched = Watched("")
    walk = watched.depot.store.walk

    def broken() -> object:
        raise OSError(5, "Input/output error")

    watched.depot.store.walk = broken  # type: ignore[method-assign, assignment]
    watched.occasions.want()
    assert watched.passes(5) == 1
    watched.depot.store.walk = walk  # type: ignore[method-assign]
    watched.depot.put(b"left over")
    assert watched.passes(EVERY + 10) == 1
    assert watched.depot.store.total() == 0
