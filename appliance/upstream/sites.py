"""
The URLs of one upstream: which of them is asked, and what its answers, or their absence, say of it.

Those that are up come first, in the configured order, then the doubtful ones; one that is down, or wanted fewer
requests, is passed over. Having no answer, or being asked for fewer requests, leads on to the next URL; every other
answer stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from appliance.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from appliance.interfaces import Availability, Health, RateLimit
from appliance.upstream.faults import retry_after, status_fault
from appliance.upstream.health import FORESIGHT, UrlHealth
from appliance.upstream.redirects import Answer
from appliance.upstream.resting import RepositoryRests
from appliance.upstream.site import Site
from appliance.upstream.url import Url

T = TypeVar("T")

#: Repositories that are remembered to have kept somebody waiting.
_REMEMBERED = 10_000
_ORDER = {Health.UP: 0, Health.SUSPECT: 1, Health.DOWN: 2, Health.RATE_LIMITED: 2}


@implementer(IAgent)
class HeardAgent:
    """
    Counts the answers that come through another agent, those left out that are failures of the server's own.

    @ivar heard: how many there were.
    """

    def __init__(self, agent: IAgent) -> None:
        self.heard = 0
        self._agent = agent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See L{IAgent}."""
        requested: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return requested.addCallback(self._noted)

    def _noted(self, response: IResponse) -> IResponse:
        self.heard += response.code < 500
        return response


class Place:
    """
    One configured URL, asked through its L{Site} and judged by what comes of it.

    @ivar url: that URL.
    """

    def __init__(
        self,
        upstream: str,
        site: Site,
        own: HeardAgent,
        health: UrlHealth,
        rests: RepositoryRests,
        limit_of: Callable[[Headers], RateLimit | None],
        limit_heard: Callable[[RateLimit], None],
    ) -> None:
        """
        @param own: through which C{site} asks its own URL.
        @param limit_of: what an answer's header fields say of the limit on pulls; C{limit_heard} is told.
        """
        self.url = site.url
        self.health = health
        self.rests = rests
        self._upstream = upstream
        self._site = site
        self._own = own
        self._limit_of = limit_of
        self._limit_heard = limit_heard
        self._under_way: Counter[str] = Counter()

    def check(self, repository: str) -> None:
        """Raises L{UpstreamUnavailable} or L{UpstreamRateLimited} for a question that must not be asked now."""
        self.health.check()
        refusal = self.rests.refusal(repository)
        if refusal is not None:
            raise refusal

    @contextmanager
    def question(self, repository: str) -> Iterator[None]:
        """While a question about C{repository} is under way here."""
        self._under_way[repository] += 1
        try:
            yield
        finally:
            self._under_way[repository] -= 1
            if not self._under_way[repository]:
                del self._under_way[repository]

    def is_asked(self, repository: str) -> bool:
        """Whether a question about C{repository} is under way here."""
        return repository in self._under_way

    def availability(self, repository: str) -> Availability:
        """What to expect of a question here."""
        refusal = self.rests.refusal(repository)
        availability = self.health.availability(bool(self._under_way))
        if refusal is None or not availability.ask:
            return availability
        return Availability(False, False, refusal, self.rests.until(repository))

    async def ask(
        self, method: str, url: Url, repository: str, fields: Mapping[str, str], may_leave: bool = True
    ) -> Answer:
        """See L{Site.ask}."""
        heard = self._own.heard
        try:
            answer = await self._site.ask(method, url, repository, fields, may_leave)
        except UpstreamError as fault:
            self._note_fault(fault, self._own.heard > heard)
            raise
        self._note(repository, answer)
        return answer

    def _note_fault(self, fault: UpstreamError, heard: bool) -> None:
        """
        Nothing was answered, or nothing that can be used.

        @param heard: whether an answer came from the URL since the question was asked: then it led to somebody who did
            not answer, or it was asked something else later and did answer, and is no worse for this.
        """
        if isinstance(fault, UpstreamRateLimited):
            # Only a token server's is raised, and without tokens no repository can be asked about.
            self.health.limited(fault)
        elif isinstance(fault, UpstreamUnavailable):
            if not heard:
                self.health.failed(fault)
        elif isinstance(fault, UpstreamInvalid) or (isinstance(fault, UpstreamDenied) and heard):
            self.health.answered()

    def _note(self, repository: str, answer: Answer) -> None:
        limit = None if answer.led else self._limit_of(answer.response.headers)
        if limit is not None:
            self._limit_heard(limit)
        if answer.status == 429:
            self._note_limited(repository, answer)
        elif answer.led or answer.status < 500 or answer.status == 501:
            # 501 is about the method; and whoever the URL led to, it led there itself.
            self.health.answered()
            self.rests.answered(repository)
        else:
            self._note_failure(answer)

    def _note_limited(self, repository: str, answer: Answer) -> None:
        self.rests.limited(repository, retry_after(answer.response.headers))
        if self.rests.spread:
            what = f"{answer.what} answered 429, as others did before"
            self.health.limited(UpstreamRateLimited(self._upstream, what, self.rests.longest()))
        else:
            self.health.answered()

    def _note_failure(self, answer: Answer) -> None:
        fault = status_fault(self._upstream, answer.what, answer.status, answer.response.headers, b"")
        if isinstance(fault, UpstreamRateLimited):
            self.health.limited(fault)
        else:
            self.health.erred(fault)


class Sites:
    """The places of one upstream, and who is waited for there."""

    def __init__(self, upstream: str, places: Sequence[Place], clock: IReactorTime) -> None:
        """
        @param places: in the configured order; at least one.
        """
        self.places = places
        self._upstream = upstream
        self._clock = clock
        #: Repositories that somebody waited for in vain and that were not answered for since; the oldest first.
        self._late: dict[str, None] = {}

    async def ask(self, repository: str, question: Callable[[Place], Awaitable[T]]) -> T:
        """
        The first answer.

        @raise UpstreamError: of the first URL that was asked, or, when none may be, of the first one.
        """
        failures: list[UpstreamError] = []
        refusals: list[UpstreamError] = []
        for place in sorted(self.places, key=lambda place: _ORDER[place.health.state]):
            try:
                place.check(repository)
            except UpstreamError as refusal:
                refusals.append(refusal)
                continue
            try:
                with place.question(repository):
                    return await self._answered(repository, question(place))
            except (UpstreamUnavailable, UpstreamRateLimited) as failure:
                failures.append(failure)
        raise (failures or refusals)[0]

    async def _answered(self, repository: str, question: Awaitable[T]) -> T:
        try:
            answer = await question
        except (UpstreamUnavailable, UpstreamRateLimited):
            raise
        except UpstreamError:
            self._late.pop(repository, None)
            raise
        self._late.pop(repository, None)
        return answer

    def availability(self, repository: str) -> Availability:
        """What to expect of the best place."""
        availabilities = [place.availability(repository) for place in self.places]
        best = max(availabilities, key=lambda availability: (availability.ask, availability.wait))
        if best.wait and repository in self._late:
            return Availability(True, False, self._lateness(repository), self._clock.seconds() + FORESIGHT)
        if best.ask or len(availabilities) == 1:
            return best
        until = min((each.until for each in availabilities if each.until is not None), default=None)
        return Availability(False, False, best.fault, until)

    def overdue(self, repository: str) -> None:
        """See L{IUpstream.overdue}; doubtful become the places where the question is under way."""
        self._late[repository] = None
        if len(self._late) > _REMEMBERED:
            del self._late[next(iter(self._late))]
        for place in self.places:
            if place.is_asked(repository):
                place.health.overdue(self._lateness(repository))

    def stop(self) -> None:
        """See L{IUpstream.stop}."""
        for place in self.places:
            place.health.stop()

    def _lateness(self, repository: str) -> UpstreamTimeout:
        return UpstreamTimeout(self._upstream, f"a question about {repository} was not answered in time")
