"""
Asking an upstream again: one question for all who ask meanwhile, and how long somebody with a cached answer waits.

===========================  ==============================================  ======================================
what is known                nothing is cached                               a stale answer is cached
===========================  ==============================================  ======================================
a 404 of a moment ago        told again                                      served at once
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

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache import freshness
from appliance.cache.access import RemoteRepository
from appliance.cache.missing import Missing, Subject
from appliance.cache.status import CacheStatus
from appliance.cache.waiting import within
from appliance.errors import PullcacheError, UpstreamError, UpstreamMissing, UpstreamTimeout, UpstreamUnavailable
from appliance.flow.singleflight import SingleFlight
from appliance.upstream.interfaces import Availability

T = TypeVar("T")


@dataclass(frozen=True)
class Heard(Generic[T]):
    """
    The upstream's word.

    @ivar joined: whether somebody else had asked already.
    """

    news: T
    joined: bool


@dataclass(frozen=True)
class Stale:
    """
    Why there is no word of the upstream, and what is cached is served without.

    @ivar until: up to when, seconds of the clock, the same may be said again without asking; 0 when it may not.
    """

    fault: PullcacheError
    until: float

    @property
    def status(self) -> CacheStatus:
        """What C{Cache-Status} says of it."""
        return CacheStatus(hit=True, detail=f"stale-{freshness.kind_of(self.fault)}")

    @property
    def warning(self) -> str:
        """What C{Warning} says of it."""
        return f"stale: {self.fault}"


@dataclass(frozen=True)
class Question(Generic[T]):
    """
    Something to ask.

    @ivar reference: tag, digest as text, or C{""} for the list of tags.
    @ivar ask: asks, and keeps what comes; run once for all who ask meanwhile.
    """

    remote: RemoteRepository
    reference: str
    ask: Callable[[], Coroutine[Any, Any, T]]

    @property
    def subject(self) -> Subject:
        """What tells questions apart."""
        return self.remote.upstream, self.remote.name, self.reference


class Checks(Generic[T]):
    """The questions of one kind."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._under_way: SingleFlight[Subject, T] = SingleFlight()
        self._began: dict[Subject, float] = {}
        self._missing = Missing(clock)

    async def cold(self, question: Question[T]) -> Heard[T]:
        """
        The upstream's word, however long it takes: nothing is cached.

        @raise UpstreamError: there is none. L{UpstreamMissing} also while an earlier one is believed.
        """
        self._missing.refuse(question.subject)
        return await self.sure(question)

    async def sure(self, question: Question[T]) -> Heard[T]:
        """As L{cold}, whatever the upstream said earlier."""
        joined = question.subject in self._under_way
        return Heard(await self._share(question), joined)

    async def warm(self, question: Question[T], checked_at: float) -> Heard[T] | Stale:
        """
        The upstream's word, or why the one of C{checked_at} has to do.

        @raise UpstreamError: there is none, and what is cached may not be served.
        """
        absence = self._missing.recall(question.subject)
        if absence is not None:
            return self._stale(question, checked_at, absence.fault, absence.until)
        availability = question.remote.registry.availability(question.remote.name)
        doubt = _doubt(question, availability)
        if not self._may_serve(question, checked_at, doubt):
            return await self._unbounded(question, checked_at)
        if not availability.ask:
            return self._stale(question, checked_at, doubt, availability.until)
        return await self._bounded(question, checked_at, availability.wait, doubt)

    async def _bounded(
        self, question: Question[T], checked_at: float, wait: bool, doubt: UpstreamError
    ) -> Heard[T] | Stale:
        """Wait as long as a client with a cached answer does; the question goes on."""
        joined, now = question.subject in self._under_way, self._clock.seconds()
        news = self._share(question)
        began = self._began.get(question.subject, now)
        limit = freshness.remaining_wait(began, now, question.remote.settings) if wait else 0.0
        try:
            return Heard(await within(news, limit, self._clock), joined)
        except DeferredTimeout:
            if wait:
                question.remote.registry.overdue(question.remote.name)
            return self._stale(question, checked_at, doubt)
        except (PullcacheError, OSError) as error:
            return self._stale(question, checked_at, _fault(question, error))

    async def _unbounded(self, question: Question[T], checked_at: float) -> Heard[T] | Stale:
        """Wait as if nothing was cached: no answer in time is no reason to serve it. Some other failure may be one."""
        try:
            return await self.sure(question)
        except (PullcacheError, OSError) as error:
            return self._stale(question, checked_at, _fault(question, error))

    def _share(self, question: Question[T]) -> Deferred[T]:
        return self._under_way.run(question.subject, lambda: self._ask(question))

    async def _ask(self, question: Question[T]) -> T:
        self._began[question.subject] = self._clock.seconds()
        try:
            news = await question.ask()
        except UpstreamMissing as missing:
            self._missing.note(question.subject, missing, question.remote.settings.missing_for)
            raise
        except OSError:
            self._log.failure("what {name} says cannot be stored", name=question.remote.name)
            raise
        finally:
            del self._began[question.subject]
        self._missing.forget(question.subject)
        return news

    def _may_serve(self, question: Question[T], checked_at: float, fault: PullcacheError) -> bool:
        return freshness.may_serve_stale(fault, checked_at, self._clock.seconds(), question.remote.settings)

    def _stale(
        self, question: Question[T], checked_at: float, fault: PullcacheError, until: float | None = None
    ) -> Stale:
        if not self._may_serve(question, checked_at, fault):
            raise fault
        return Stale(fault, freshness.stale_until(until, checked_at, question.remote.settings))


def _doubt(question: Question[Any], availability: Availability) -> UpstreamError:
    """Why what is cached would be served without the upstream's word."""
    upstream = question.remote.upstream
    if availability.wait:
        return UpstreamTimeout(upstream, f"no answer within {question.remote.settings.revalidate_within:g} s")
    return availability.fault or UpstreamUnavailable(upstream, "it is not asked now")


def _fault(question: Question[Any], error: PullcacheError | OSError) -> PullcacheError:
    if isinstance(error, PullcacheError):
        return error
    # Our own disk could not take the news; what it has is still good.
    what = f"{question.remote.name} {question.reference}".strip()
    return UpstreamUnavailable(question.remote.upstream, f"what it says of {what} cannot be stored: {error.strerror}")
