"""Repositories that rest after a 429, and pulls that are left to others."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from appliance.errors import UpstreamRateLimited
from appliance.upstream.interfaces import RateLimit
from appliance.upstream.ratelimit import RateLimitBudget, RepositoryLimits, next_wait
from tests.rooms.upstream.net import SilentObserver


class Hearing(SilentObserver):
    """Remembers the limits it was told of."""

    def __init__(self) -> None:
        self.limits: list[RateLimit] = []

    def limited(self, upstream: str, limit: RateLimit) -> None:
        assert upstream == "up.example"
        self.limits.append(limit)


def rests() -> tuple[RepositoryLimits, Clock]:
    clock = Clock()
    return RepositoryLimits("up.example", clock), clock


def allowance(keep: int) -> tuple[RateLimitBudget, Clock, Hearing]:
    clock, hearing = Clock(), Hearing()
    return RateLimitBudget("up.example", keep, clock, hearing), clock, hearing


@pytest.mark.parametrize(
    ("told", "before", "seconds"),
    [(7.0, 0, 7.0), (7.0, 9, 7.0), (0.0, 0, 1.0), (3600.0, 0, 3600.0), (None, 0, 1.0), (None, 3, 8.0)]
    + [(None, 9, 300.0), (None, 10_000, 300.0)],
)
def test_a_rest_is_as_long_as_it_was_asked_for(told: float | None, before: int, seconds: float) -> None:
    """Never shorter than a second; of unknown length, a second doubling to five minutes."""
    assert next_wait(told, before) == seconds


def test_one_repository_rests_and_others_do_not() -> None:
    """A limit on one image is no limit on all."""
    resting, clock = rests()
    resting.limited("a", 30.0)
    clock.advance(10)
    refusal = resting.refusal("a")
    assert refusal is not None and refusal.retry_after == 20 and "a" in refusal.detail
    assert resting.refusal("b") is None
    assert resting.names() == ["a"]
    clock.advance(20)
    assert resting.refusal("a") is None and resting.names() == []


def test_rests_grow_until_there_is_an_answer() -> None:
    """Of a repository that goes on being refused without a word of how long."""
    resting, clock = rests()
    lengths = []
    for _ in range(10):
        resting.limited("a", None)
        lengths.append(resting.left("a"))
        clock.advance(lengths[-1])
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    resting.answered("a")
    resting.limited("a", None)
    assert resting.left("a") == 1


def test_requests_that_are_refused_together_are_one_refusal() -> None:
    """Twenty layers asked for at once do not make the rest twenty times as long."""
    resting, _ = rests()
    for _ in range(20):
        resting.limited("a", None)
    assert resting.left("a") == 1


def test_an_answer_does_not_end_a_rest_that_was_asked_for() -> None:
    """Of two requests under way one was refused and one was answered, in this order."""
    resting, _ = rests()
    resting.limited("a", 30.0)
    resting.answered("a")
    resting.limited("a", 5.0)
    assert resting.left("a") == 30


def test_three_resting_repositories_are_about_more_than_them() -> None:
    """Only while they rest at the same time."""
    resting, clock = rests()
    resting.limited("a", 10.0)
    clock.advance(10)
    resting.limited("b", 10.0)
    resting.limited("c", 40.0)
    assert not resting.spread
    resting.limited("a", 10.0)
    assert resting.spread
    assert resting.longest() == 40


def test_only_so_many_repositories_are_remembered() -> None:
    """A client that asks for any number of names fills no memory."""
    resting, _ = rests()
    for number in range(10_050):
        resting.limited(f"r{number}", 3600.0)
    assert len(resting._waits) == 10_000
    assert resting.left("r10049") == 3600


def test_a_limit_is_known_until_its_window_is_over() -> None:
    """Six hours where the window was not told; and it is passed on as heard."""
    for window, length in ((60.0, 60.0), (None, 21600.0)):
        known, clock, hearing = allowance(0)
        limit = RateLimit(100, 20, window)
        known.report(limit)
        assert hearing.limits == [limit] and known.limit == limit
        clock.advance(length - 0.5)
        assert known.limit == limit
        clock.advance(0.5)
        assert known.limit is None


def test_pulls_are_left_to_others() -> None:
    """As many as the configuration says; the message names its key."""
    known, _, _ = allowance(10)
    with known.pull():
        pass
    known.report(RateLimit(100, 11, 21600.0))
    with known.pull():
        pass
    known.report(RateLimit(100, 10, 21600.0))
    with pytest.raises(UpstreamRateLimited, match="keep_pulls leaves 10") as refused, known.pull():
        raise AssertionError("it is not asked")
    assert refused.value.retry_after == 60


def test_pulls_under_way_are_counted_as_made() -> None:
    """Twenty at once do not use up what is to be kept."""
    known, _, _ = allowance(10)
    known.report(RateLimit(100, 12, None))
    with known.pull(), known.pull():
        with pytest.raises(UpstreamRateLimited), known.pull():
            raise AssertionError("it is not asked")
    with known.pull():
        pass


def test_without_keep_pulls_the_upstream_decides() -> None:
    """A limit that is used up may not be ours any more: it is the upstream's to say so."""
    known, _, _ = allowance(0)
    known.report(RateLimit(100, 0, None))
    with known.pull():
        assert not known.is_stale


def test_what_was_heard_long_ago_is_asked_again_first() -> None:
    """A window slides: a minute later more may be left."""
    known, clock, _ = allowance(10)
    known.report(RateLimit(100, 5, 21600.0))
    clock.advance(59)
    assert not known.is_stale
    clock.advance(1)
    assert known.is_stale
    known.report(RateLimit(100, 50, 21600.0))
    assert not known.is_stale
