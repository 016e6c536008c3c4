"""Repositories that wait after a 429, and pulls that are left to others."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from appliance.errors import UpstreamRateLimited
from appliance.upstream.interfaces import RateLimit
from appliance.upstream.ratelimit import RateLimitBudget, RepositoryLimits, next_wait
from tests.rooms.upstream.net import SilentObserver


class Observer(SilentObserver):
    """Remembers the limits that are reported."""

    def __init__(self) -> None:
        self.limits: list[RateLimit] = []

    def limited(self, upstream: str, limit: RateLimit) -> None:
        assert upstream == "up.example"
        self.limits.append(limit)


def repository_limits() -> tuple[RepositoryLimits, Clock]:
    clock = Clock()
    return RepositoryLimits("up.example", clock), clock


def budget_of(keep: int) -> tuple[RateLimitBudget, Clock, Observer]:
    clock, observer = Clock(), Observer()
    return RateLimitBudget("up.example", keep, clock, observer), clock, observer


@pytest.mark.parametrize(
    ("retry_after", "before", "seconds"),
    [(7.0, 0, 7.0), (7.0, 9, 7.0), (0.0, 0, 1.0), (3600.0, 0, 3600.0), (None, 0, 1.0), (None, 3, 8.0)]
    + [(None, 9, 300.0), (None, 10_000, 300.0)],
)
def test_a_wait_is_as_long_as_it_was_asked_for(retry_after: float | None, before: int, seconds: float) -> None:
    """Never shorter than a second; of unknown length, a second doubling to five minutes."""
    assert next_wait(retry_after, before) == seconds


def test_one_repository_waits_and_others_do_not() -> None:
    """A limit on one image is no limit on all."""
    limits, clock = repository_limits()
    limits.limited("a", 30.0)
    clock.advance(10)
    refusal = limits.refusal("a")
    assert refusal is not None and refusal.retry_after == 20 and "a" in refusal.detail
    assert limits.refusal("b") is None
    assert limits.names() == ["a"]
    clock.advance(20)
    assert limits.refusal("a") is None and limits.names() == []


def test_waits_grow_until_there_is_an_answer() -> None:
    """Of a repository that goes on being refused without a word of how long."""
    limits, clock = repository_limits()
    lengths = []
    for _ in range(10):
        limits.limited("a", None)
        lengths.append(limits.left("a"))
        clock.advance(lengths[-1])
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    limits.answered("a")
    limits.limited("a", None)
    assert limits.left("a") == 1


def test_requests_that_are_refused_together_are_one_refusal() -> None:
    """Twenty layers asked for at once do not make the wait twenty times as long."""
    limits, _ = repository_limits()
    for _ in range(20):
        limits.limited("a", None)
    assert limits.left("a") == 1


def test_an_answer_does_not_end_a_wait_that_was_asked_for() -> None:
    """Of two requests under way one was refused and one was answered, in this order."""
    limits, _ = repository_limits()
    limits.limited("a", 30.0)
    limits.answered("a")
    limits.limited("a", 5.0)
    assert limits.left("a") == 30


def test_three_waiting_repositories_are_about_more_than_them() -> None:
    """Only while they wait at the same time."""
    limits, clock = repository_limits()
    limits.limited("a", 10.0)
    clock.advance(10)
    limits.limited("b", 10.0)
    limits.limited("c", 40.0)
    assert not limits.spread
    limits.limited("a", 10.0)
    assert limits.spread
    assert limits.longest() == 40


def test_only_so_many_repositories_are_remembered() -> None:
    """A client that asks for any number of names fills no memory."""
    limits, _ = repository_limits()
    for number in range(10_050):
        limits.limited(f"r{number}", 3600.0)
    assert len(limits._waits) == 10_000
    assert limits.left("r10049") == 3600


def test_a_limit_is_known_until_its_window_is_over() -> None:
    """Six hours where the window was not reported; and it is passed on as it came."""
    for window, length in ((60.0, 60.0), (None, 21600.0)):
        budget, clock, observer = budget_of(0)
        limit = RateLimit(100, 20, window)
        budget.report(limit)
        assert observer.limits == [limit] and budget.limit == limit
        clock.advance(length - 0.5)
        assert budget.limit == limit
        clock.advance(0.5)
        assert budget.limit is None


def test_pulls_are_left_to_others() -> None:
    """As many as the configuration says; the message names its key."""
    budget, _, _ = budget_of(10)
    with budget.pull():
        pass
    budget.report(RateLimit(100, 11, 21600.0))
    with budget.pull():
        pass
    budget.report(RateLimit(100, 10, 21600.0))
    with pytest.raises(UpstreamRateLimited, match="keep_pulls leaves 10") as refused, budget.pull():
        raise AssertionError("it is not asked")
    assert refused.value.retry_after == 60


def test_pulls_under_way_are_counted_as_made() -> None:
    """Twenty at once do not use up what is to be kept."""
    budget, _, _ = budget_of(10)
    budget.report(RateLimit(100, 12, None))
    with budget.pull(), budget.pull():
        with pytest.raises(UpstreamRateLimited), budget.pull():
            raise AssertionError("it is not asked")
    with budget.pull():
        pass


def test_without_keep_pulls_the_upstream_decides() -> None:
    """A limit that is used up may not be ours any more: it is the upstream's to say so."""
    budget, _, _ = budget_of(0)
    budget.report(RateLimit(100, 0, None))
    with budget.pull():
        assert not budget.is_stale


def test_an_old_report_is_renewed_before_it_counts() -> None:
    """A window slides: a minute later more may be left."""
    budget, clock, _ = budget_of(10)
    budget.report(RateLimit(100, 5, 21600.0))
    clock.advance(59)
    assert not budget.is_stale
    clock.advance(1)
    assert budget.is_stale
    budget.report(RateLimit(100, 50, 21600.0))
    assert not budget.is_stale
