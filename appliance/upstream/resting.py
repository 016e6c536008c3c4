"""
Fewer requests, where an upstream asked for them: repositories that rest, and pulls that are left to others.

A 429 is about one repository as long as only a few have had one; L{RepositoryRests.spread} says when it is about more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.interfaces import IReactorTime

from appliance.errors import UpstreamRateLimited
from appliance.interfaces import RateLimit
from appliance.upstream.observer import IUpstreamObserver

#: Seconds of a rest when the upstream does not say how long it should be: the first, and the longest of the following.
FIRST_REST = 1.0
LONGEST_REST = 300.0
#: Repositories that rest at once before it is the URL that rests.
MANY = 3
#: Repositories whose rests are remembered.
_REMEMBERED = 10_000
#: Seconds of a window whose length was not told: Docker Hub's.
USUAL_WINDOW = 6 * 3600.0
#: Seconds after which what was heard of a limit is old enough to ask again before somebody is refused for it.
STALE_AFTER = 60.0


def next_rest(told: float | None, before: int) -> float:
    """
    Seconds to rest.

    @param told: what the upstream asked for, C{None} when it did not say.
    @param before: how many rests there were since it last answered.
    """
    seconds = min(FIRST_REST * 2.0 ** min(before, 20), LONGEST_REST) if told is None else told
    return max(FIRST_REST, seconds)


class RepositoryRests:
    """Which repositories one URL is not asked about, and until when."""

    def __init__(self, upstream: str, clock: IReactorTime) -> None:
        self._upstream = upstream
        self._clock = clock
        #: When the rest ends, and how many there were since the repository was last answered for; the oldest first.
        self._rests: dict[str, tuple[float, int]] = {}

    def limited(self, repository: str, told: float | None) -> None:
        """A 429 for C{repository}; C{told}: its Retry-After in seconds. A longer rest that is under way goes on."""
        until, before = self._rests.pop(repository, (0.0, 0))
        now = self._clock.seconds()
        # Of many requests that are refused together only the first is told something new.
        again = before if until > now else before + 1
        self._rests[repository] = max(until, now + next_rest(told, again - 1)), again
        if len(self._rests) > _REMEMBERED:
            del self._rests[next(iter(self._rests))]

    def answered(self, repository: str) -> None:
        """C{repository} was answered for: its next rest is a first one. One that is under way goes on."""
        if repository in self._rests and self.left(repository) <= 0:
            del self._rests[repository]

    def left(self, repository: str) -> float:
        """Seconds for which C{repository} is not to be asked about, 0 when it may be."""
        until, _ = self._rests.get(repository, (0.0, 0))
        return max(0.0, until - self._clock.seconds())

    def until(self, repository: str) -> float:
        """Seconds of the clock up to which it is not."""
        return self._clock.seconds() + self.left(repository)

    def refusal(self, repository: str) -> UpstreamRateLimited | None:
        """Why C{repository} must not be asked about, C{None} when it may be."""
        left = self.left(repository)
        if left <= 0:
            return None
        what = f"fewer requests were wanted for {repository}, which is not asked about for another {left:.0f} s"
        return UpstreamRateLimited(self._upstream, what, left)

    def names(self) -> list[str]:
        """The repositories that rest now, sorted."""
        return sorted(name for name in self._rests if self.left(name) > 0)

    def longest(self) -> float:
        """Seconds until none rests any more."""
        return max(map(self.left, self._rests), default=0.0)

    @property
    def spread(self) -> bool:
        """Whether so many rest that it is about more than them."""
        return len(self._rests) >= MANY and len(self.names()) >= MANY


class Allowance:
    """What an upstream last said of its limit on pulls, and how many of them are left to others."""

    def __init__(self, upstream: str, keep: int, clock: IReactorTime, observer: IUpstreamObserver) -> None:
        """
        @param keep: pulls that are not used here, 0 when the limit is nobody's concern but the upstream's.
        """
        self._upstream = upstream
        self._keep = keep
        self._clock = clock
        self._observer = observer
        self._limit: RateLimit | None = None
        self._heard = 0.0
        self._under_way = 0

    def hear(self, limit: RateLimit) -> None:
        """The upstream said so with an answer."""
        self._limit, self._heard = limit, self._clock.seconds()
        self._observer.limited(self._upstream, limit)

    @property
    def limit(self) -> RateLimit | None:
        """As last heard, C{None} when its window is over."""
        limit = self._limit
        if limit is not None and self._clock.seconds() >= self._heard + (limit.window or USUAL_WINDOW):
            limit = self._limit = None
        return limit

    @property
    def doubtful(self) -> bool:
        """Whether a pull would be refused for something that was heard so long ago that asking is worth it."""
        return self._is_short() and self._clock.seconds() >= self._heard + STALE_AFTER

    @contextmanager
    def pull(self) -> Iterator[None]:
        """
        One pull is being made.

        @raise UpstreamRateLimited: those left are to be kept; pulls under way are counted as made.
        """
        if self._is_short():
            raise self._refusal()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _is_short(self) -> bool:
        limit = self.limit
        return self._keep > 0 and limit is not None and limit.remaining - self._under_way <= self._keep

    def _refusal(self) -> UpstreamRateLimited:
        remaining = 0 if self._limit is None else self._limit.remaining
        what = f"it grants {remaining} more pulls, and keep_pulls leaves {self._keep} of them to others"
        return UpstreamRateLimited(self._upstream, what, max(1.0, self._heard + STALE_AFTER - self._clock.seconds()))
