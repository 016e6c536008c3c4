"""
Fewer requests, where an upstream asked for them: repositories that wait after a 429, and pulls that are left to others.

A 429 is about one repository as long as only a few have had one; L{RepositoryLimits.spread} says when it is about more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.interfaces import IReactorTime

from appliance.errors import UpstreamRateLimited
from appliance.upstream.interfaces import IUpstreamObserver, RateLimit

#: Seconds to wait when the upstream does not say how long: the first time, and at most the following times.
FIRST_WAIT = 1.0
LONGEST_WAIT = 300.0
#: Repositories that wait at once before the whole URL does.
MANY = 3
#: Repositories whose waits are remembered.
_REMEMBERED = 10_000
#: Seconds of a window whose length is not known: Docker Hub's.
USUAL_WINDOW = 6 * 3600.0
#: Seconds after which a reported limit is old enough to ask for it again before a pull is refused because of it.
STALE_AFTER = 60.0


def next_wait(retry_after: float | None, before: int) -> float:
    """
    Seconds to wait.

    @param retry_after: what the upstream asked for, C{None} when it did not say.
    @param before: how many waits there were since it last answered.
    """
    seconds = min(FIRST_WAIT * 2.0 ** min(before, 20), LONGEST_WAIT) if retry_after is None else retry_after
    return max(FIRST_WAIT, seconds)


class RepositoryLimits:
    """Which repositories one URL is not asked about, and until when."""

    def __init__(self, upstream: str, clock: IReactorTime) -> None:
        self._upstream = upstream
        self._clock = clock
        #: When the wait ends, and how many there were since the repository was last answered for; the oldest first.
        self._waits: dict[str, tuple[float, int]] = {}

    def limited(self, repository: str, retry_after: float | None) -> None:
        """A 429 for C{repository}, with its Retry-After in seconds. A longer wait that is under way goes on."""
        until, before = self._waits.pop(repository, (0.0, 0))
        now = self._clock.seconds()
        # Of many requests that are refused together only the first brings something new.
        again = before if until > now else before + 1
        self._waits[repository] = max(until, now + next_wait(retry_after, again - 1)), again
        if len(self._waits) > _REMEMBERED:
            del self._waits[next(iter(self._waits))]

    def answered(self, repository: str) -> None:
        """C{repository} was answered for: its next wait is a first one. One that is under way goes on."""
        if repository in self._waits and self.left(repository) <= 0:
            del self._waits[repository]

    def left(self, repository: str) -> float:
        """Seconds for which C{repository} is not to be asked about, 0 when it may be."""
        until, _ = self._waits.get(repository, (0.0, 0))
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
        """The repositories that wait now, sorted."""
        return sorted(name for name in self._waits if self.left(name) > 0)

    def longest(self) -> float:
        """Seconds until none waits any more."""
        return max(map(self.left, self._waits), default=0.0)

    @property
    def spread(self) -> bool:
        """Whether so many wait that it is about more than them."""
        return len(self._waits) >= MANY and len(self.names()) >= MANY


class RateLimitBudget:
    """What an upstream last reported of its limit on pulls, and how many of them are left to others."""

    def __init__(self, upstream: str, keep: int, clock: IReactorTime, observer: IUpstreamObserver) -> None:
        """
        @param keep: pulls that are not used here, 0 when only the upstream enforces its limit.
        """
        self._upstream = upstream
        self._keep = keep
        self._clock = clock
        self._observer = observer
        self._limit: RateLimit | None = None
        self._reported = 0.0
        self._under_way = 0

    def report(self, limit: RateLimit) -> None:
        """The upstream reported it with an answer."""
        self._limit, self._reported = limit, self._clock.seconds()
        self._observer.limited(self._upstream, limit)

    @property
    def limit(self) -> RateLimit | None:
        """As last reported, C{None} when it was not, or when its window is over."""
        limit = self._limit
        if limit is not None and self._clock.seconds() >= self._reported + (limit.window or USUAL_WINDOW):
            limit = self._limit = None
        return limit

    @property
    def is_stale(self) -> bool:
        """Whether a pull would be refused because of a report so old that asking for another is worth it."""
        return self._is_short() and self._clock.seconds() >= self._reported + STALE_AFTER

    @contextmanager
    def pull(self) -> Iterator[None]:
        """
        One pull is being made.

        @raise UpstreamRateLimited: those left are to be kept; pulls under way are counted as made.
        """
        if self._is_short():
            remaining = 0 if self._limit is None else self._limit.remaining
            what = f"it grants {remaining} more pulls, and keep_pulls leaves {self._keep} of them to others"
            wait = max(1.0, self._reported + STALE_AFTER - self._clock.seconds())
            raise UpstreamRateLimited(self._upstream, what, wait)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _is_short(self) -> bool:
        limit = self.limit
        return self._keep > 0 and limit is not None and limit.remaining - self._under_way <= self._keep
