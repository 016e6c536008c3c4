"""Moments as OCI documents write them: RFC 3339 (image-spec, annotations.md)."""

from __future__ import annotations

from datetime import UTC, datetime


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, to the second, of seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float:
    """Seconds since the epoch of a moment in RFC 3339. Raises L{ValueError}, also for the 30th of February."""
    return datetime.fromisoformat(text).timestamp()
