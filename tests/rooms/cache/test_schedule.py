"""When the collection runs by itself, and when it does not although it could."""

from __future__ import annotations

import pytest

from appliance.cache.schedule import FRUITLESS, LEAST, MOST, CollectionSchedule
from tests.rooms.cache.collecting import DAY, Depot

BIG = 100_000


class Watched:
    """A depot whose collection is begun by its schedule; C{look} is called every five seconds."""

    def __init__(self, retention: str, depot: Depot | None = None) -> None:
        self.depot = depot = depot or Depot(retention)
        self.schedule = CollectionSchedule(depot.collection, depot.store, lambda: depot.settings, depot.clock)
        self.runs = 0
        run = depot.collection.run

        def counted(*arguments: bool, **named: bool) -> object:
            self.runs += 1
            return run(*arguments, **named)

        depot.collection.run = counted  # type: ignore[method-assign, assignment]
        self.schedule.look()

    def passes(self, seconds: float) -> int:
        """How often it runs in that time."""
        before = self.runs
        for _ in range(int(seconds // 5)):
            self.depot.clock.advance(5)
            self.schedule.look()
        return self.runs - before


def test_what_nothing_refers_to_goes_within_the_hour() -> None:
    """And an idle appliance does not look all the time."""
    watched = Watched("")
    watched.depot.put(b"left over")
    assert watched.passes(MOST - 60) == 0
    assert watched.passes(120) == 1
    assert watched.depot.store.total() == 0
    assert watched.passes(MOST - 120) == 0


def test_a_dry_run_is_followed_by_a_run_that_does_the_same() -> None:
    """A start, an import and a new configuration come in between, and what is too old is still there."""
    depot = Depot()
    depot.pull("r", "1", b"x" * BIG)
    depot.put(b"left over")
    watched = Watched("", depot)
    assert watched.passes(MOST - 5) == 0
    depot.configure("keep_for: 2s, max_size: 1GB")
    watched.schedule.want()
    assert watched.passes(60) == 0
    told = depot.collect(dry_run=True)
    watched.schedule.want()
    assert watched.passes(LEAST - 120) == 0
    done = depot.collect()
    assert (told.images, told.blobs) == (done.images, done.blobs)
    assert [each.why for each in done.images] == ["keep_for"] and len(done.blobs) == 4


def test_it_does_not_run_before_all_that_is_held_is_known() -> None:
    """An import that was cut while it was published comes first."""
    depot = Depot("max_size: 1B")
    depot.pull("r", "1", b"x" * BIG)
    depot.collection.is_ready = False
    assert Watched("", depot).passes(2 * MOST) == 0


def test_a_budget_is_kept_from_the_start() -> None:
    """What the process before left is too much for the budget of this one."""
    depot = Depot(f"max_size: {2 * BIG}B")
    for word in (b"a", b"b", b"c"):
        depot.pull("r", word.decode(), word * BIG)
    assert Watched("", depot).runs == 1
    assert depot.store.total() <= 2 * BIG


def test_a_budget_is_kept_within_seconds() -> None:
    """A pull that exceeds it has the collection run at the next look, and once."""
    watched = Watched(f"max_size: {2 * BIG}B")
    for word in (b"a", b"b", b"c"):
        watched.depot.pull("r", word.decode(), word * BIG)
    assert watched.passes(10) == 1
    assert watched.depot.store.total() <= 2 * BIG
    assert watched.passes(MOST - 60) == 0


def test_an_upstreams_budget_is_looked_at_when_something_came() -> None:
    """And not again before that."""
    watched = Watched(f"|max_size: {BIG}B")
    watched.depot.pull("quay.io//r", "1", b"x" * BIG)
    assert watched.passes(10) == 1
    assert watched.depot.store.total() == 0
    assert watched.passes(60) == 0


def test_nothing_goes_while_an_upstreams_budget_is_kept() -> None:
    """Neither what is too old nor what nothing refers to; and the status does not speak of a collection."""
    watched = Watched(f"keep_for: 1s|max_size: {2 * BIG}B")
    watched.depot.pull("quay.io//r", "1", b"x" * BIG)
    watched.depot.put(b"left over" * BIG)
    before = watched.depot.store.total()
    assert watched.passes(60) == 1
    assert watched.depot.store.total() == before and watched.depot.collection.last is None
    watched.depot.pull("quay.io//r", "2", b"y" * BIG)
    assert watched.passes(10) == 1
    assert watched.depot.store.total() == 0


@pytest.mark.parametrize("retention", [f"max_size: {BIG}B", f"|max_size: {BIG}B"])
def test_a_budget_that_cannot_be_kept_is_no_reason_to_run_on_and_on(retention: str) -> None:
    """It is tried again now and then: what came a moment ago is old enough some time."""
    watched = Watched(retention)
    watched.depot.pull("quay.io//r", "1", b"x" * 2 * BIG, pinned="bundle")
    assert watched.passes(10) == 1
    assert 1 < watched.passes(600) <= 600 / FRUITLESS + 1


@pytest.mark.parametrize(("keep_for", "period"), [("20s", LEAST), ("1h", 900), ("1d", MOST)])
def test_what_grows_old_is_found_by_and_by(keep_for: str, period: float) -> None:
    """Within a quarter of the time for which it is kept, ten minutes at least and an hour at most."""
    watched = Watched(f"keep_for: {keep_for}")
    watched.depot.pull("r", "1", b"x")
    for _ in range(20_000):
        if watched.depot.store.total() == 0:
            break
        watched.passes(5)
    old = watched.depot.clock.wall() - 1_800_000_000
    kept = {"20s": 20, "1h": 3600, "1d": DAY}[keep_for]
    assert kept < old <= kept + period + 15


def test_a_smaller_budget_holds_at_once() -> None:
    """Within seconds of the new configuration."""
    watched = Watched("")
    watched.depot.pull("r", "1", b"x" * BIG)
    assert watched.passes(60) == 0
    watched.depot.configure("max_size: 1B")
    watched.schedule.want()
    assert watched.passes(5) == 1
    assert watched.depot.store.total() == 0


def test_a_collection_that_fails_is_tried_again(logged_errors: list[object]) -> None:
    """What the disk does not give now may be there later; the log says why."""
    watched = Watched("max_size: 1B")
    walk = watched.depot.store.walk

    def broken() -> object:
        raise OSError(5, "Input/output error")

    watched.depot.store.walk = broken  # type: ignore[method-assign, assignment]
    watched.depot.put(b"left over")
    assert watched.passes(5) == 1
    watched.depot.store.walk = walk  # type: ignore[method-assign]
    assert watched.passes(FRUITLESS + 10) == 1
    assert watched.depot.store.total() == 0
