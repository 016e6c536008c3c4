"""
The URLs of one upstream: which of them is asked, and what its answers, or their absence, say of it.

Those that are up come first, in the configured order, then the suspect ones; one that is down, or wanted fewer
requests, is passed over. No answer, or a wish for fewer requests, leads on to the next URL; every other answer stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime

from appliance.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from appliance.upstream.answer import Answer, Http, Request
from appliance.upstream.faults import retry_after, status_fault
from appliance.upstream.health import FORESIGHT, UrlHealth
from appliance.upstream.http.identity import HttpClient
from appliance.upstream.interfaces import Availability, Health, IAdapter, IUpstreamObserver
from appliance.upstream.ratelimit import RateLimitBudget, RepositoryLimits
from appliance.upstream.url import Url

T = TypeVar("T")

#: Repositories that are remembered to have kept a client waiting.
_REMEMBERED = 10_000
_ORDER = {Health.UP: 0, Health.SUSPECT: 1, Health.DOWN: 2, Health.RATE_LIMITED: 2}


class Endpoint:
    """
    One configured URL, judged by what comes of the requests to it.

    @ivar url: that URL, whose path comes before C{/v2/}.
    @ivar health: how it is.
    @ivar limits: the repositories for which it wanted fewer requests.
    """

    def __init__(
        self,
        url: Url,
        http: Http,
        plain: HttpClient,
        adapter: IAdapter,
        budget: RateLimitBudget,
        clock: IReactorTime,
        random: Callable[[], float],
        observer: IUpstreamObserver,
    ) -> None:
        """
        @param http: the whole stack for that URL; C{plain}: its layer that sends single requests.
        @param budget: where the adapter's reading of the limit on pulls is noted.
        @param random: gives numbers from 0 to 1.
        """
        self.url = url
        shown = url.shown.removesuffix("/")
        self.health = UrlHealth(plain.upstream, shown, self._ping, clock, random, observer)
        self.limits = RepositoryLimits(plain.upstream, clock)
        self._http = http
        self._plain = plain
        self._adapter = adapter
        self._budget = budget
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def question(self, repository: str) -> Iterator[None]:
        """While a question about C{repository}, which may take several requests, is under way here."""
        self._under_way[repository] += 1
        try:
            yield
        finally:
            self._under_way[repository] -= 1
            if not self._under_way[repository]:
                del self._under_way[repository]

    async def request(self, request: Request) -> Answer:
        """The answer of this URL, or of where it led, noted for its health. See L{Http}."""
        before = self._plain.answered
        try:
            answer = await self._http.request(request)
        except UpstreamError as fault:
            self._note_fault(fault, self._plain.answered > before)
            raise
        self._note(request.repository, answer)
        return answer

    def check(self, repository: str) -> None:
        """Raises L{UpstreamUnavailable} or L{UpstreamRateLimited} for a request that must not be sent now."""
        self.health.check()
        refusal = self.limits.refusal(repository)
        if refusal is not None:
            raise refusal

    def is_asked(self, repository: str) -> bool:
        """Whether a question about C{repository} is under way here."""
        return repository in self._under_way

    def availability(self, repository: str) -> Availability:
        """What to expect of a question here."""
        refusal = self.limits.refusal(repository)
        availability = self.health.availability(bool(self._under_way))
        if refusal is None or not availability.ask:
            return availability
        return Availability(False, False, refusal, self.limits.until(repository))

    async def _ping(self) -> int:
        """The status of C{/v2/} as any client sees it: one request, without redirects and credentials."""
        answer = await self._plain.request(Request("GET", self.url.below("/v2/")))
        answer.body.discard()
        return answer.status

    def _note_fault(self, fault: UpstreamError, answered: bool) -> None:
        """
        There was no answer, or none that can be used.

        @param answered: whether the URL itself answered since the request was sent: then it led to a host that did not
            answer, or it answered another request sent later, and is no worse for this.
        """
        if isinstance(fault, UpstreamRateLimited):
            # Only a token server's is raised, and without tokens no repository can be asked about.
            self.health.limited(fault)
        elif isinstance(fault, UpstreamUnavailable):
            if not answered:
                self.health.failed(fault)
        elif isinstance(fault, UpstreamInvalid) or (isinstance(fault, UpstreamDenied) and answered):
            self.health.answered()

    def _note(self, repository: str, answer: Answer) -> None:
        limit = None if answer.redirected else self._adapter.rate_limit(answer.headers)
        if limit is not None:
            self._budget.report(limit)
        if answer.status == 429:
            self.limits.limited(repository, retry_after(answer.headers))
            if self.limits.spread:
                what = f"{answer.what} answered 429, as others did before"
                self.health.limited(UpstreamRateLimited(answer.upstream, what, self.limits.longest()))
            else:
                self.health.answered()
        elif answer.redirected or answer.status < 500 or answer.status == 501:
            # 501 is about the method; and where the URL led elsewhere, it answered itself.
            self.health.answered()
            self.limits.answered(repository)
        else:
            fault = status_fault(answer.upstream, answer.what, answer.status, answer.headers, b"")
            if isinstance(fault, UpstreamRateLimited):
                self.health.limited(fault)
            else:
                self.health.erred(fault)


class Failover:
    """The endpoints of one upstream, and the repositories whose clients wait there too long."""

    def __init__(self, upstream: str, endpoints: Sequence[Endpoint], clock: IReactorTime) -> None:
        """
        @param endpoints: in the configured order; at least one.
        """
        self.endpoints = endpoints
        self._upstream = upstream
        self._clock = clock
        #: Repositories that a client waited for in vain and that were not answered for since; the oldest first.
        self._late: dict[str, None] = {}

    async def ask(self, repository: str, question: Callable[[Endpoint], Awaitable[T]]) -> T:
        """
        What C{question} comes to at the first endpoint that answers.

        @raise UpstreamError: of the first endpoint that was asked, or, when none may be, of the first one.
        """
        failures: list[UpstreamError] = []
        refusals: list[UpstreamError] = []
        for endpoint in sorted(self.endpoints, key=lambda endpoint: _ORDER[endpoint.health.state]):
            try:
                endpoint.check(repository)
            except UpstreamError as refusal:
                refusals.append(refusal)
                continue
            try:
                with endpoint.question(repository):
                    result = await question(endpoint)
            except (UpstreamUnavailable, UpstreamRateLimited) as failure:
                failures.append(failure)
            except UpstreamError:
                self._late.pop(repository, None)
                raise
            else:
                self._late.pop(repository, None)
                return result
        raise (failures or refusals)[0]

    def availability(self, repository: str) -> Availability:
        """What to expect of the best endpoint."""
        each = [endpoint.availability(repository) for endpoint in self.endpoints]
        best = max(each, key=lambda availability: (availability.ask, availability.wait))
        if best.wait and repository in self._late:
            return Availability(True, False, self._lateness(repository), self._clock.seconds() + FORESIGHT)
        if best.ask or len(each) == 1:
            return best
        until = min((availability.until for availability in each if availability.until is not None), default=None)
        return Availability(False, False, best.fault, until)

    def overdue(self, repository: str) -> None:
        """See L{IUpstream.overdue}; suspect become the endpoints where the question is under way."""
        self._late[repository] = None
        if len(self._late) > _REMEMBERED:
            del self._late[next(iter(self._late))]
        for endpoint in self.endpoints:
            if endpoint.is_asked(repository):
                endpoint.health.overdue(self._lateness(repository))

    def stop(self) -> None:
        """See L{IUpstream.stop}."""
        for endpoint in self.endpoints:
            endpoint.health.stop()

    def _lateness(self, repository: str) -> UpstreamTimeout:
        return UpstreamTimeout(self._upstream, f"a question about {repository} was not answered in time")
