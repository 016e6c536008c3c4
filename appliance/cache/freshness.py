"""
When a tag may be served without asking, and when although asking failed. Pure functions of values.

A manifest by digest is fresh for ever; only what a tag means can go stale (RFC 9111 section 4.2).
"""

from __future__ import annotations

from appliance.errors import PullcacheError, UpstreamError
from appliance.settings import UpstreamSettings


def fresh_until(checked_at: float, settings: UpstreamSettings) -> float:
    """The moment, seconds since the epoch, up to which the upstream's word of C{checked_at} needs no repetition."""
    return checked_at + settings.fresh_for


def is_fresh(checked_at: float, now: float, settings: UpstreamSettings) -> bool:
    """Whether the upstream's word is recent enough. A word from the future (a clock set back) is not."""
    return checked_at <= now < fresh_until(checked_at, settings)


def may_serve_stale(error: PullcacheError, checked_at: float, now: float, settings: UpstreamSettings) -> bool:
    """Whether what is cached may be served although the upstream answered with C{error}."""
    if settings.max_stale is not None and now - fresh_until(checked_at, settings) > settings.max_stale:
        return False
    kind = error.kind if isinstance(error, UpstreamError) else "unavailable"
    return bool(getattr(settings.serve_stale, kind))


def remaining_wait(began: float, now: float, settings: UpstreamSettings) -> float:
    """Seconds a client with a cached answer still waits for a check that began at C{began}; 0 when it had its time."""
    return max(0.0, settings.revalidate_within - (now - began))
