"""
How far a requested range is ahead of a flight, and whether to wait for it. Pure.

Waiting costs the upstream nothing, so near ranges wait: a runtime that reads a layer in parallel pieces follows the
write head closely. A far one (the table of contents at the end of a large layer) is fetched on the side.
"""

from __future__ import annotations

PATIENCE = 2.0
"""Seconds a ranged reader waits before the flight's rate says anything, and the longest wait it is left with after."""

NEAR = 1024 * 1024
"""Bytes ahead that are never worth a request of their own."""


def is_far(start: int, head: int, rate: float) -> bool:
    """
    Whether to fetch on the side a range that begins at C{start}.

    @param head: bytes the flight has.
    @param rate: bytes a second it has been getting.
    """
    ahead = start - head
    if ahead <= NEAR:
        return False
    return rate <= 0 or ahead / rate > PATIENCE
