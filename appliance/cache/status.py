"""Where an answer came from, as C{Cache-Status} says it (RFC 9211)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheStatus:
    """
    One member of the C{Cache-Status} list.

    @ivar hit: served without going forward.
    @ivar fwd: why the request went forward: C{uri-miss}, C{stale}, C{partial}...
    @ivar fwd_status: the status the upstream answered with, C{None} where it is not said.
    """

    hit: bool = False
    fwd: str | None = None
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None

    @property
    def label(self) -> str:
        """A short word for logs and metrics: C{hit}, C{stale}, C{revalidated}, C{collapsed} or C{miss}."""
        if self.hit:
            return "stale" if self.detail is not None and self.detail.startswith("stale") else "hit"
        if self.fwd == "stale" and self.fwd_status == 304:
            return "revalidated"
        return "collapsed" if self.collapsed else "miss"

    def __str__(self) -> str:
        parts = ["pullcache"]
        if self.hit:
            parts.append("hit")
        if self.fwd is not None:
            parts.append(f"fwd={self.fwd}")
        if self.fwd_status is not None:
            parts.append(f"fwd-status={self.fwd_status}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.detail is not None:
            parts.append(f"detail={self.detail}")
        return "; ".join(parts)


HIT = CacheStatus(hit=True)

LOCKED = CacheStatus(hit=True, detail="locked")
"""The upstream says another digest, which is not served: the tag is locked."""

NO_SPACE = "no-space"
"""The C{detail} of what was passed on and not stored, since the disk has no room for it."""
