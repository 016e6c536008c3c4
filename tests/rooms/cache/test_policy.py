"""The pure decisions: how long an answer is good, how far a range is, and what Cache-Status says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import errors
from appliance.cache.bypass import NEAR, should_bypass
from appliance.cache.freshness import fresh_until, is_fresh, may_serve_stale, remaining_wait, stale_until
from appliance.cache.status import HIT, CacheStatus
from appliance.settings import StaleSettings, UpstreamSettings

CHECKED = 1000.0


def settings(**more: object) -> UpstreamSettings:
    return UpstreamSettings(name="docker.io", urls=("https://x",), fresh_for=60.0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "fresh"),
    [(999.9, False), (1000.0, True), (1059.9, True), (1060.0, False), (5000.0, False), (0.0, False)],
)
def test_a_tag_is_fresh_for_as_long_as_configured(now: float, fresh: bool) -> None:
    """From the check until fresh_for is over; what lies in the future, after a clock was set back, is not trusted."""
    assert is_fresh(CHECKED, now, settings()) is fresh


@pytest.mark.parametrize("now", [10.0, 1e9])
def test_what_was_received_at_an_unknown_time_is_neither_fresh_nor_young_enough_for_max_stale(now: float) -> None:
    """Also on a machine whose clock has begun at 1970 again."""
    assert not is_fresh(0.0, now, settings())
    down = errors.UpstreamUnavailable("u", "x")
    assert may_serve_stale(down, 0.0, now, settings())
    assert not may_serve_stale(down, 0.0, now, settings(max_stale=300.0))
    # What was received before the process began, where the clock was put right since.
    assert is_fresh(-20.0, now=10.0, settings=settings())
    assert may_serve_stale(down, -20.0, 10.0, settings(max_stale=300.0))


def test_fresh_for_nought_asks_every_time() -> None:
    """fresh_for: 0s means that nothing is ever fresh."""
    never = UpstreamSettings(name="x", urls=("https://x",), fresh_for=0.0)
    assert not is_fresh(CHECKED, CHECKED, never)
    assert fresh_until(CHECKED, never) == CHECKED


@pytest.mark.parametrize("now", [0.0, 999.0, 1000.0, 1e12])
def test_without_fresh_for_a_tag_never_gets_stale(now: float) -> None:
    """revalidate: never. Not even when the clock was set back, and whatever max_stale says."""
    for_ever = UpstreamSettings(name="x", urls=("https://x",), fresh_for=None, max_stale=0.0)
    assert is_fresh(CHECKED, now, for_ever) and fresh_until(CHECKED, for_ever) is None
    assert may_serve_stale(errors.UpstreamUnavailable("u", "x"), CHECKED, now, for_ever)


ERRORS = [
    (errors.UpstreamMissing("u", "x"), "missing"),
    (errors.UpstreamDenied("u", "x"), "denied"),
    (errors.UpstreamRateLimited("u", "x"), "rate_limited"),
    (errors.UpstreamUnavailable("u", "x"), "unavailable"),
    (errors.UpstreamTimeout("u", "x"), "unavailable"),
    (errors.UpstreamInvalid("u", "x"), "unavailable"),
    (errors.UpstreamRefused("u", "x"), "unavailable"),
    (errors.RangeIgnored("u", "x"), "unavailable"),
    (errors.Offline("x"), "unavailable"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("switch", ["missing", "denied", "rate_limited", "unavailable"])
def test_each_kind_of_trouble_has_its_switch(error: errors.PullcacheError, kind: str, switch: str) -> None:
    """serve_stale turns off exactly one class of failures each."""
    off = settings(serve_stale=StaleSettings(**{switch: False}))
    assert may_serve_stale(error, CHECKED, 2000.0, off) is (switch != kind)
    assert may_serve_stale(error, CHECKED, 2000.0, settings())


@pytest.mark.parametrize(("now", "may"), [(1060.0, True), (1360.0, True), (1360.1, False), (90000.0, False)])
def test_max_stale_counts_from_the_end_of_freshness(now: float, may: bool) -> None:
    """max_stale: 5m is five minutes longer than fresh_for."""
    assert may_serve_stale(errors.UpstreamUnavailable("u", "x"), CHECKED, now, settings(max_stale=300.0)) is may


@pytest.mark.parametrize(
    ("until", "max_stale", "repeated"),
    [(None, None, 0.0), (1100.0, None, 1100.0), (1100.0, 300.0, 1100.0), (1500.0, 300.0, 1360.0), (None, 300.0, 0.0)],
)
def test_a_stale_answer_is_repeated_no_longer_than_max_stale_allows(
    until: float | None, max_stale: float | None, repeated: float
) -> None:
    """Nor longer than its reason holds; an unknown end is none."""
    assert stale_until(until, CHECKED, settings(max_stale=max_stale)) == repeated


@pytest.mark.parametrize(("now", "left"), [(1000.0, 2.0), (1001.5, 0.5), (1002.0, 0.0), (1100.0, 0.0)])
def test_a_late_comer_waits_only_for_the_rest(now: float, left: float) -> None:
    """The bound counts from the check's beginning: who joins a hanging one later is not held up anew."""
    assert remaining_wait(1000.0, now, settings(revalidate_within=2.0)) == pytest.approx(left)


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("start", "head", "rate", "far"),
    [
        (0, 0, 0.0, False),
        (NEAR, 0, 0.0, False),
        (NEAR + 1, 0, 0.0, True),
        (50 * MIB, 60 * MIB, 0.0, False),
        (12 * MIB, 10 * MIB, 2.0 * MIB, False),
        (14 * MIB, 10 * MIB, 2.0 * MIB, False),
        (15 * MIB, 10 * MIB, 2.0 * MIB, True),
        (900 * MIB, 10 * MIB, 500.0 * MIB, False),
    ],
)
def test_only_a_range_that_would_take_long_should_bypass(start: int, head: int, rate: float, far: bool) -> None:
    """Near ones wait for the flight; so do those it will reach within two seconds."""
    assert should_bypass(start, head, rate) is far


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.floats(0, 1e9))
def test_what_has_arrived_is_never_far(start: int, head: int, rate: float) -> None:
    """No request is made for bytes that are here."""
    assert not (start <= head and should_bypass(start, head, rate))


@pytest.mark.parametrize(
    ("status", "text", "label"),
    [
        (HIT, "pullcache; hit", "hit"),
        (CacheStatus(fwd="uri-miss", stored=True), "pullcache; fwd=uri-miss; stored", "miss"),
        (CacheStatus(fwd="stale", fwd_status=304), "pullcache; fwd=stale; fwd-status=304", "revalidated"),
        (CacheStatus(fwd="stale", fwd_status=200, stored=True), "pullcache; fwd=stale; fwd-status=200; stored", "miss"),
        (CacheStatus(fwd="uri-miss", collapsed=True), "pullcache; fwd=uri-miss; collapsed", "collapsed"),
        (CacheStatus(hit=True, detail="stale-unavailable"), "pullcache; hit; detail=stale-unavailable", "stale"),
        (CacheStatus(hit=True, detail="descriptor"), "pullcache; hit; detail=descriptor", "hit"),
        (CacheStatus(hit=True, detail="missing"), "pullcache; hit; detail=missing", "hit"),
        (CacheStatus(fwd="uri-miss", fwd_status=404), "pullcache; fwd=uri-miss; fwd-status=404", "miss"),
        (CacheStatus(detail="offline"), "pullcache; detail=offline", "miss"),
    ],
)
def test_where_an_answer_came_from_is_said_in_the_words_of_the_rfc(status: CacheStatus, text: str, label: str) -> None:
    """RFC 9211 in the header, one short word in logs and metrics."""
    assert str(status) == text
    assert status.label == label
