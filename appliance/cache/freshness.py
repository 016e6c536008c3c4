"""
When a tag may be served without asking, and when although asking failed. Pure functions of values.

A manifest by digest is fresh for ever; only what a tag means can go stale (RFC 9111 section 4.2). Moments are seconds
of the clock that nobody can set (L{appliance.cache.moments}), 0 for one that is not known; C{None} stands for the end
of time.
"""

from __future__ import annotations

from appliance.errors import PullcacheError, UpstreamError
from appliance.settings import UpstreamSettings

OFFLINE_FRESH_FOR = 60.0
"""Seconds that an answer of an upstream that is never asked may be repeated; an import ends it earlier."""


def fresh_until(checked_at: float, settings: UpstreamSettings) -> float | None:
    """The moment up to which the upstream's word of C{checked_at} needs no repetition."""
    return None if settings.fresh_for is None else checked_at + settings.fresh_for


def is_fresh(checked_at: float, now: float, settings: UpstreamSettings) -> bool:
    """
    Whether the upstream's word is recent enough. A word from the future (a clock set back) is not, nor one of a moment
    that is not known, unless its age does not matter.
    """
    until = fresh_until(checked_at, settings)
    return until is None or (checked_at != 0 and checked_at <= now < until)


def servable_until(checked_at: float, settings: UpstreamSettings) -> float | None:
    """The moment up to which C{max_stale} lets the upstream's word of C{checked_at} be served."""
    until = fresh_until(checked_at, settings)
    return None if until is None or settings.max_stale is None else until + settings.max_stale


def kind_of(error: PullcacheError) -> str:
    """Which class of C{serve_stale} a failure belongs to: what no upstream said is nothing that it could not give."""
    return error.kind if isinstance(error, UpstreamError) else "unavailable"


def may_serve_stale(error: PullcacheError, checked_at: float, now: float, settings: UpstreamSettings) -> bool:
    """Whether what is cached may be served although the upstream answered with C{error}."""
    until = servable_until(checked_at, settings)
    if until is not None and (checked_at == 0 or now > until):
        return False
    return bool(getattr(settings.serve_stale, kind_of(error)))


def stale_until(until: float | None, checked_at: float, settings: UpstreamSettings) -> float:
    """
    Up to when a stale answer may be repeated without a look at anything: not longer than C{max_stale} allows.

    @param until: up to when its reason holds, C{None} when that may change at any moment.
    @return: the moment, 0 when it may not be repeated.
    """
    bound = servable_until(checked_at, settings)
    return until or 0.0 if bound is None else min(until or 0.0, bound)


def remaining_wait(began: float, now: float, settings: UpstreamSettings) -> float:
    """Seconds a client with a cached answer still waits for a check that began at C{began}; 0 when it had its time."""
    return max(0.0, settings.revalidate_within - (now - began))
