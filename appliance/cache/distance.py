"""
How far a requested range is ahead of a flight, and whether to wait for it. Pure.

Waiting costs the upstream nothing, so near ranges wait: a runtime that reads a layer in parallel pieces follows the
write head closely. A far one is fetched on the side. A lazy puller (stargz, SOCI) reads the table of contents at the
end of a large layer first, some kilobytes: such a range does not wait for what a request of its own brings sooner. A
range of many megabytes is a pull, which the flight serves unless that would take long.
"""

from __future__ import annotations

PATIENCE = 2.0
"""Seconds a large range waits before the flight's rate says anything, and the longest wait it is left with after."""

ROUND_TRIP = 0.25
"""Seconds a request on the side takes, roughly: the longest wait a small range is left with."""

SMALL = 4 * 1024 * 1024
"""Bytes of the largest range that is a look into a blob, and no pull of it."""

NEAR = 1024 * 1024
"""Bytes ahead that are never worth a request of their own."""


def patience(length: int) -> float:
    """Seconds that a range of C{length} bytes waits for a flight to come near."""
    return ROUND_TRIP if length <= SMALL else PATIENCE


def is_far(start: int, head: int, rate: float, wait: float = PATIENCE) -> bool:
    """
    Whether to fetch on the side a range that begins at C{start}.

    @param head: bytes the flight has.
    @param rate: bytes a second it has been getting; 0 where it has got none yet.
    @param wait: seconds that waiting may take.
    """
    ahead = start - head
    if ahead <= NEAR:
        return False
    return rate <= 0 or ahead / rate > wait
