"""Work that several callers want at once is done once, and each of them has a Deferred of its own."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from appliance.errors import UpstreamUnavailable
from appliance.flow.singleflight import SingleFlight, Waiters, ended, shielded
from tests.doubles.deferreds import failing, result


class Work:
    """Counts its runs; each waits for the next of C{gates}."""

    def __init__(self) -> None:
        self.gates: list[Deferred[str]] = []

    async def __call__(self) -> str:
        self.gates.append(Deferred())
        return await self.gates[-1]


async def instant() -> str:
    return "done"


def leave(waiter: Deferred[Any]) -> None:
    waiter.addErrback(lambda failure: failure.trap(CancelledError))
    waiter.cancel()


# -- one run for all who ask ------------------------------------------------------------------------------------------


def test_all_who_wait_get_the_result_of_one_run() -> None:
    """Three ask, one run; while it lasts, it says that it is under way."""
    work, runs = Work(), SingleFlight[str, str]()
    assert "tag" not in runs
    waiters = []
    for _ in range(3):
        waiters.append(runs.run("tag", work))
        assert "tag" in runs
    assert len(work.gates) == 1
    work.gates[0].callback("done")
    assert [result(waiter) for waiter in waiters] == ["done"] * 3
    assert "tag" not in runs


def test_another_key_is_another_run() -> None:
    """Two tags are two questions."""
    work, runs = Work(), SingleFlight[str, str]()
    one, two = runs.run("one", work), runs.run("two", work)
    assert len(work.gates) == 2
    work.gates[1].callback("second")
    assert not one.called
    assert result(two) == "second"


def test_a_failure_goes_to_all_who_wait() -> None:
    """Each waiter gets it by itself: one that has dealt with it has not done so for the others."""
    work, runs = Work(), SingleFlight[str, str]()
    waiters = [runs.run("tag", work) for _ in range(3)]
    work.gates[0].errback(UpstreamUnavailable("u", "gone"))
    for waiter in waiters:
        failing(waiter, UpstreamUnavailable)


def test_who_comes_after_the_end_begins_anew() -> None:
    """Nothing is remembered but by the cache itself; not even a failure."""
    work, runs = Work(), SingleFlight[str, str]()
    first = runs.run("tag", work)
    work.gates[0].errback(UpstreamUnavailable("u", "gone"))
    failing(first, UpstreamUnavailable)
    assert "tag" not in runs
    second = runs.run("tag", work)
    work.gates[1].callback("done")
    assert result(second) == "done"


def test_work_that_is_done_at_once_has_no_run_left() -> None:
    """Nothing was waited for, and the next one begins anew."""
    runs = SingleFlight[str, str]()
    for _ in range(2):
        assert result(runs.run("tag", instant)) == "done"
        assert "tag" not in runs


# -- cancellation -----------------------------------------------------------------------------------------------------


def test_a_waiter_that_leaves_stops_nothing() -> None:
    """The client that began the run hangs up: the others get their answer, and the run is not cancelled."""
    work, runs = Work(), SingleFlight[str, str]()
    first, second = runs.run("tag", work), runs.run("tag", work)
    first.cancel()
    failing(first, CancelledError)
    assert not work.gates[0].called
    work.gates[0].callback("done")
    assert result(second) == "done"


def test_a_run_that_all_have_left_goes_on() -> None:
    """Its result is of use to the next one; a later comer joins it."""
    work, runs = Work(), SingleFlight[str, str]()
    leave(runs.run("tag", work))
    assert "tag" in runs
    late = runs.run("tag", work)
    assert len(work.gates) == 1
    work.gates[0].callback("done")
    assert result(late) == "done"


def test_a_run_that_fails_when_none_waits_leaves_no_trace() -> None:
    """An upstream's failure that no client waits for is not an error in the log."""
    work, runs = Work(), SingleFlight[str, str]()
    leave(runs.run("tag", work))
    work.gates[0].errback(UpstreamUnavailable("u", "gone"))


def test_a_mistake_of_ours_is_logged_even_when_none_waits(logged_errors: list[dict[str, Any]]) -> None:
    """A programming error must not vanish with the client that saw it."""
    work, runs = Work(), SingleFlight[str, str]()
    leave(runs.run("tag", work))
    work.gates[0].errback(ZeroDivisionError())
    assert len(logged_errors) == 1
    logged_errors.clear()


# -- from within ------------------------------------------------------------------------------------------------------


def test_one_waiter_may_drop_another_while_it_gets_the_result() -> None:
    """A callback that cancels its neighbour's wait does not break the telling."""
    work, runs = Work(), SingleFlight[str, str]()
    first, second, third = (runs.run("tag", work) for _ in range(3))
    first.addCallback(lambda _: second.cancel())
    work.gates[0].callback("done")
    failing(second, CancelledError)
    assert result(third) == "done"


def test_one_waiter_may_begin_the_next_run_while_it_gets_the_result() -> None:
    """It gets the new run's result; those of the old run get theirs."""
    work, runs = Work(), SingleFlight[str, str]()
    first, second = runs.run("tag", work), runs.run("tag", work)
    first.addCallback(lambda _: runs.run("tag", work))
    work.gates[0].callback("old")
    assert result(second) == "old"
    assert len(work.gates) == 2
    work.gates[1].callback("new")
    assert result(first) == "new"


def test_work_may_ask_for_other_work() -> None:
    """A run that waits for a run of another key."""
    runs = SingleFlight[str, str]()

    async def outer() -> str:
        return await runs.run("inner", instant)

    assert result(runs.run("outer", outer)) == "done"


# -- waiters and ends -------------------------------------------------------------------------------------------------


def test_those_who_wait_are_called_once_and_those_who_come_then_the_next_time() -> None:
    """What is waited for may come again and again."""
    waiters: Waiters[int] = Waiters()
    again: list[Deferred[int]] = []
    first, second = waiters.wait(), waiters.wait()
    first.addCallback(lambda number: again.append(waiters.wait()) or number)
    assert len(waiters) == 2
    waiters.fire(1)
    assert (result(first), result(second), len(waiters)) == (1, 1, 1)
    waiters.fire(Failure(UpstreamUnavailable("u", "gone")))
    failing(again[0], UpstreamUnavailable)
    assert len(waiters) == 0


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_waiter_that_left_is_called_no_more(left: int) -> None:
    """Whichever it was."""
    waiters: Waiters[int] = Waiters()
    waiting = [waiters.wait() for _ in range(3)]
    leave(waiting[left])
    waiters.fire(1)
    assert [result(waiter) for waiter in waiting if waiter is not waiting[left]] == [1, 1]


def test_a_shielded_waiter_stops_nothing() -> None:
    """It gives up; the work goes on, and those who stay get what it comes to."""
    work: Deferred[int] = Deferred()
    waiter = shielded(work)
    waiter.cancel()
    failing(waiter, CancelledError)
    work.callback(1)
    for outcome in (1, Failure(UpstreamUnavailable("u", "gone"))):
        work = Deferred()
        waiter = shielded(work)
        work.callback(outcome)
        if outcome == 1:
            assert result(waiter) == 1
        else:
            failing(waiter, UpstreamUnavailable)


def test_the_end_of_work_is_known_beside_its_result() -> None:
    """Who stops it waits for the end, who ordered it has the result or the failure."""
    for outcome in (1, Failure(UpstreamUnavailable("u", "gone"))):
        work: Deferred[int] = Deferred()
        over = ended(work)
        assert not over.called
        work.callback(outcome)
        assert result(over) is None
        if outcome == 1:
            assert result(work) == 1
        else:
            failing(work, UpstreamUnavailable)
