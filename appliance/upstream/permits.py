"""So many answers of one upstream at once, and who is next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from twisted.internet.defer import Deferred


class Rank(IntEnum):
    """Who goes first."""

    #: Manifests, tags and sizes: small, and nothing of an image can begin without them.
    QUESTION = 0
    #: Blobs that somebody waits for.
    BLOB = 1
    #: What nobody waits for.
    BACKGROUND = 2


class Permit:
    """Leave to have one answer open."""

    def __init__(self, permits: Permits, rank: Rank) -> None:
        self.rank = rank
        self._permits: Permits | None = permits

    def release(self) -> None:
        """The answer is over; may be said more than once."""
        permits, self._permits = self._permits, None
        if permits is not None:
            permits.returned(self)


class Permits:
    """
    Gives out up to C{limit} at once: the lowest rank first, and within a rank in order.

    Blobs take long. So one permit is never theirs, and another is no background work's, as far as there are that many:
    a manifest waits for manifests only.

    @ivar free: says whether an answer costs nothing for now; then nobody waits.
    """

    def __init__(self, limit: int) -> None:
        """
        @raise ValueError: C{limit} is less than 1.
        """
        if limit < 1:
            raise ValueError(f"{limit} permits: at least 1 is needed")
        self.free: Callable[[], bool] = lambda: False
        self._limit = limit
        self._given = dict.fromkeys(Rank, 0)
        self._waiting: dict[Rank, deque[Deferred[Permit]]] = {rank: deque() for rank in Rank}
        self._granting = False

    @property
    def in_use(self) -> int:
        """Permits given out and not returned."""
        return sum(self._given.values())

    @property
    def waiting(self) -> int:
        """Those who wait for one."""
        return sum(map(len, self._waiting.values()))

    def acquire(self, rank: Rank) -> Deferred[Permit]:
        """Fires with a L{Permit}, which is to be released. Cancelling it leaves the queue."""
        queue = self._waiting[rank]
        waiter: Deferred[Permit] = Deferred(queue.remove)
        queue.append(waiter)
        self._grant()
        return waiter

    def returned(self, permit: Permit) -> None:
        """For L{Permit.release}."""
        self._given[permit.rank] -= 1
        self._grant()

    def _grant(self) -> None:
        # Whoever gets a permit may at once return it: a loop goes on with the next, where a call within a call within
        # a call would end at the depth of Python's stack.
        if self._granting:
            return
        self._granting = True
        try:
            while (rank := self._next()) is not None:
                self._given[rank] += 1
                self._waiting[rank].popleft().callback(Permit(self, rank))
        finally:
            self._granting = False

    def _next(self) -> Rank | None:
        return next((rank for rank in Rank if self._waiting[rank] and self._may(rank)), None)

    def _may(self, rank: Rank) -> bool:
        """Whether there is a permit for C{rank}: those of it and behind it hold fewer than is theirs."""
        theirs = sum(given for other, given in self._given.items() if other >= rank)
        return (self.in_use < self._limit and theirs < max(1, self._limit - rank)) or self.free()
