"""
Asking an upstream again: one request for all who want to know meanwhile, and how long a client with a cached answer
waits for it.

===========================  ==============================================  ======================================
what is known                nothing is cached                               a stale answer is cached
===========================  ==============================================  ======================================
a 404 of a moment ago        said again                                      served at once
it may be asked, is well     asked, waited for                               asked, waited for C{revalidate_within}
it may be asked, is slow     asked, waited for                               asked, served at once
it may not be asked          asked: the upstream says at once why not        served at once
===========================  ==============================================  ======================================

What is cached and may not be served (C{serve_stale}, C{max_stale}) is as good as not cached.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache.access import RemoteRepository
from appliance.cache.freshness import NegativeCache, kind_of, may_serve_stale, remaining_wait, stale_until
from appliance.cache.status import CacheStatus
from appliance.errors import PullcacheError, UpstreamError, UpstreamMissing, UpstreamTimeout, UpstreamUnavailable
from appliance.flow.singleflight import SingleFlight
from appliance.oci.reference import ReferenceKey

T = TypeVar("T")


@dataclass(frozen=True)
class UpstreamQuery(Generic[T]):
    """
    Something to ask an upstream.

    @ivar identifier: tag, digest as text, or C{""} for the list of tags.
    @ivar run: asks, and keeps what comes; run once for all who want to know meanwhile.
    """

    remote: RemoteRepository
    identifier: str
    run: Callable[[], Coroutine[Any, Any, T]]


@dataclass(frozen=True)
class Fetched(Generic[T]):
    """
    What the upstream said.

    @ivar joined: whether another client's request for it was under way already.
    """

    value: T
    joined: bool

    def status(self, cached: bool) -> CacheStatus:
        """What C{Cache-Status} says of it; C{cached}: whether there was something older."""
        return CacheStatus(fwd="stale" if cached else "uri-miss", stored=not self.joined, collapsed=self.joined)


@dataclass(frozen=True)
class Stale:
    """
    Why the upstream said nothing, and what is cached is served instead.

    @ivar until: up to when, seconds of the clock, the same may be said again without asking; 0 when it may not.
    """

    fault: PullcacheError
    until: float

    @property
    def status(self) -> CacheStatus:
        """What C{Cache-Status} says of it."""
        return CacheStatus(hit=True, detail=f"stale-{kind_of(self.fault)}")

    @property
    def warning(self) -> str:
        """What C{Warning} says of it."""
        return f"stale: {self.fault}"


class Revalidator(Generic[T]):
    """The queries of one kind: at most one about one thing at a time."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._under_way: SingleFlight[ReferenceKey, T] = SingleFlight(OSError)
        self._began: dict[ReferenceKey, float] = {}
        self._missing = NegativeCache(clock)

    async def fetch(self, query: UpstreamQuery[T], believe_missing: bool = True) -> Fetched[T]:
        """
        What the upstream says, however long it takes: nothing is cached.

        @param believe_missing: whether a 404 of a moment ago is an answer; else the upstream is asked in any case.
        @raise UpstreamError: it says nothing. L{UpstreamMissing} also for a 404 that is believed.
        """
        key = query.remote.key(query.identifier)
        if believe_missing:
            self._missing.check(key)
        joined = key in self._under_way
        return Fetched(await self._ask(key, query), joined)

    async def revalidate(self, query: UpstreamQuery[T], checked_at: float) -> Fetched[T] | Stale:
        """
        What the upstream says, or why that of C{checked_at} has to do.

        @param checked_at: when it said what is cached, seconds of the clock; 0 when that is not known.
        @raise UpstreamError: it says nothing, and what is cached may not be served.
        """
        remote, key = query.remote, query.remote.key(query.identifier)
        missing = self._missing.get(key)
        if missing is not None:
            return self._stale(query, checked_at, missing.fault, missing.until)
        availability = remote.registry.availability(remote.name)
        # Why what is cached would be served without an answer of the upstream.
        reason: UpstreamError
        if availability.wait:
            reason = UpstreamTimeout(remote.upstream, f"no answer within {remote.settings.revalidate_within:g} s")
        else:
            reason = availability.fault or UpstreamUnavailable(remote.upstream, "it is not asked now")
        now = self._clock.seconds()
        # Where it may not be, no answer in time is no reason to serve it either; some other failure may be one.
        bounded = may_serve_stale(reason, checked_at, now, remote.settings)
        if bounded and not availability.ask:
            return self._stale(query, checked_at, reason, availability.until)
        joined = key in self._under_way
        answer = self._ask(key, query)
        try:
            if bounded:
                wait = remaining_wait(self._began.get(key, now), now, remote.settings) if availability.wait else 0.0
                return Fetched(await _within(answer, wait, self._clock), joined)
            return Fetched(await answer, joined)
        except DeferredTimeout:
            if availability.wait:
                remote.registry.overdue(remote.name)
            return self._stale(query, checked_at, reason)
        except PullcacheError as error:
            return self._stale(query, checked_at, error)
        except OSError as error:
            # Our own disk could not take the answer; what it has is still good.
            what = f"{remote.name} {query.identifier}".strip()
            why = f"what it says of {what} cannot be stored: {error.strerror}"
            return self._stale(query, checked_at, UpstreamUnavailable(remote.upstream, why))

    def _ask(self, key: ReferenceKey, query: UpstreamQuery[T]) -> Deferred[T]:
        """Join the run of the query, or begin it; it goes on when its clients leave."""
        return self._under_way.run(key, lambda: self._run(key, query))

    async def _run(self, key: ReferenceKey, query: UpstreamQuery[T]) -> T:
        self._began[key] = self._clock.seconds()
        try:
            value = await query.run()
        except UpstreamMissing as missing:
            self._missing.put(key, missing, query.remote.settings.missing_for)
            raise
        except OSError:
            self._log.failure("what {name} says cannot be stored", name=query.remote.name)
            raise
        finally:
            del self._began[key]
        self._missing.forget(key)
        return value

    def _stale(
        self, query: UpstreamQuery[T], checked_at: float, fault: PullcacheError, until: float | None = None
    ) -> Stale:
        settings = query.remote.settings
        if not may_serve_stale(fault, checked_at, self._clock.seconds(), settings):
            raise fault
        return Stale(fault, stale_until(until, checked_at, settings))


async def _within(answer: Deferred[T], seconds: float, clock: IReactorTime) -> T:
    """
    Await this client's own C{answer} for so long.

    @raise DeferredTimeout: it has not fired by then; what it stands for goes on.
    """
    if seconds <= 0 and not answer.called:
        answer.addErrback(lambda failure: failure.trap(CancelledError))
        answer.cancel()
        raise DeferredTimeout()
    return await answer.addTimeout(max(seconds, 0.0), clock)
