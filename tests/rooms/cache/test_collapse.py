"""Work that several clients want at once is done once, and each of them has a Deferred of its own."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance.cache.collapse import Collapsing
from appliance.errors import UpstreamUnavailable
from tests.doubles.pullthrough import clock_at, failing, result


class Work:
    """Counts its runs; each waits for the next of C{gates}."""

    def __init__(self) -> None:
        self.gates: list[Deferred[str]] = []

    async def __call__(self) -> str:
        self.gates.append(Deferred())
        return await self.gates[-1]


def test_everybody_gets_the_result_of_one_run() -> None:
    """Three ask, one run; only those who came later have joined."""
    work, runs = Work(), Collapsing[str, str](clock_at())
    shares = [runs.share("tag", work) for _ in range(3)]
    assert len(work.gates) == 1
    work.gates[0].callback("done")
    assert [result(share.result) for share in shares] == ["done"] * 3
    assert [share.joined for share in shares] == [False, True, True]


def test_another_key_is_another_run() -> None:
    """Two tags are two questions."""
    work, runs = Work(), Collapsing[str, str](clock_at())
    runs.share("one", work), runs.share("two", work)
    assert len(work.gates) == 2


def test_who_comes_after_the_end_begins_anew() -> None:
    """Nothing is remembered but by the cache itself; not even a failure."""
    work, runs = Work(), Collapsing[str, str](clock_at())
    first = runs.share("tag", work)
    work.gates[0].errback(UpstreamUnavailable("u", "gone"))
    failing(first.result, UpstreamUnavailable)
    second = runs.share("tag", work)
    assert not second.joined
    work.gates[1].callback("done")
    assert result(second.result) == "done"


def test_a_waiter_that_leaves_stops_nothing() -> None:
    """The client that began the run hangs up: the others get their answer, and the run is not cancelled."""
    work, runs = Work(), Collapsing[str, str](clock_at())
    first, second = runs.share("tag", work), runs.share("tag", work)
    first.result.cancel()
    failing(first.result, CancelledError)
    assert not work.gates[0].called
    work.gates[0].callback("done")
    assert result(second.result) == "done"


def test_a_run_that_everybody_left_goes_on() -> None:
    """Its result is of use to the next one; a later comer joins it."""
    work, runs = Work(), Collapsing[str, str](clock_at())
    first = runs.share("tag", work)
    first.result.addErrback(lambda failure: failure.trap(CancelledError))
    first.result.cancel()
    late = runs.share("tag", work)
    assert late.joined
    work.gates[0].callback("done")
    assert result(late.result) == "done"


def test_a_run_that_fails_for_nobody_leaves_no_trace() -> None:
    """An upstream's failure that no client waits for is not an error in the log."""
    work, runs = Work(), Collapsing[str, str](clock_at())
    first = runs.share("tag", work)
    first.result.addErrback(lambda failure: failure.trap(CancelledError))
    first.result.cancel()
    work.gates[0].errback(UpstreamUnavailable("u", "gone"))


def test_a_mistake_of_ours_is_logged_even_when_nobody_waits(logged_errors: list[dict[str, Any]]) -> None:
    """A programming error must not vanish with the client that saw it."""
    work, runs = Work(), Collapsing[str, str](clock_at())
    first = runs.share("tag", work)
    first.result.addErrback(lambda failure: failure.trap(CancelledError))
    first.result.cancel()
    work.gates[0].errback(ZeroDivisionError())
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_one_waiter_may_drop_another_while_it_is_told() -> None:
    """A callback that cancels its neighbour's wait does not break the telling."""
    work, runs = Work(), Collapsing[str, str](clock_at())
    first, second, third = (runs.share("tag", work) for _ in range(3))
    first.result.addCallback(lambda _: second.result.cancel())
    work.gates[0].callback("done")
    failing(second.result, CancelledError)
    assert result(third.result) == "done"


@pytest.mark.parametrize("seconds", [0.0, 7.0])
def test_a_share_says_when_its_run_began(seconds: float) -> None:
    """So that a late comer's wait can be counted from there."""
    clock = clock_at(100.0)
    work, runs = Work(), Collapsing[str, str](clock)
    runs.share("tag", work)
    clock.advance(seconds)
    assert runs.share("tag", work).began == 100.0
