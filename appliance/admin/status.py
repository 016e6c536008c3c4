"""How the appliance is: C{GET /api/v1/status}."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from appliance import __version__
from appliance.admin.route import Reply, Route, json
from appliance.api import Counts, Damaged, RateLimitStatus, Status, Unreadable, UpstreamStatus, UrlStatus
from appliance.bundle.inbox import Waiting
from appliance.cache.wants import Wants
from appliance.flow.clock import wall, wall_at
from appliance.index.repositories import Repositories
from appliance.interfaces import Condition, IBlobStore, IDocuments, RateLimit, UrlCondition
from appliance.oci.timestamps import timestamp
from appliance.settings import Settings, UpstreamSettings


class StatusPage:
    """Answers with the L{Status}."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        conditions: Callable[[], Mapping[str, Condition]],
        store: IBlobStore,
        repositories: Repositories,
        documents: Sequence[IDocuments],
        wants: Wants,
        flights: Callable[[], int],
        site: str,
        clock: IReactorTime,
        inbox: Callable[[], list[Waiting]],
    ) -> None:
        """
        @param documents: all that there are, the repositories' too.
        @param settings: gives what is in force.
        @param conditions: gives how the upstreams are, by name.
        @param flights: gives the number of flights under way.
        @param inbox: gives what waits in the inbox.
        """
        self._settings = settings
        self._conditions = conditions
        self._store = store
        self._repositories = repositories
        self._documents = documents
        self._wants = wants
        self._flights = flights
        self._site = site
        self._clock = clock
        self._inbox = inbox
        self._began, self._started = clock.seconds(), wall(clock)

    def routes(self) -> list[Route]:
        """What is offered."""
        return [Route("GET", "/api/v1/status", self.status, "How the appliance is.", Status)]

    async def status(self, request: Request) -> Reply:
        """Everything at once; the first time every repository is read."""
        counts = await self._counts()
        settings = self._settings()
        return json(
            Status(
                version=__version__,
                site=self._site,
                started=timestamp(self._started),
                uptime=self._clock.seconds() - self._began,
                offline=settings.offline,
                upstreams=_upstreams(settings, self._conditions(), self._clock),
                flights=self._flights(),
                store_bytes=self._store.total(),
                counts=counts,
                damaged=[Damaged(*each) for every in self._documents for each in every.damaged],
                unreadable=[Unreadable(*each) for every in self._documents for each in every.unreadable.items()],
                inbox=self._inbox(),
            )
        )

    async def _counts(self) -> Counts:
        names = await self._repositories.names()
        tags = manifests = 0
        for upstream, name in names:
            try:
                held = await self._repositories.counts(upstream, name)
            except OSError:
                # This page says so, instead of failing for it.
                continue
            tags, manifests = tags + held[0], manifests + held[1]
        return Counts(len(names), tags, manifests, len(self._wants))


def _upstreams(settings: Settings, conditions: Mapping[str, Condition], clock: IReactorTime) -> list[UpstreamStatus]:
    nothing = Condition()
    return [
        _upstream(each, settings.offline or each.offline, conditions.get(each.name, nothing), clock)
        for each in settings.upstreams.values()
    ]


def _upstream(settings: UpstreamSettings, offline: bool, condition: Condition, clock: IReactorTime) -> UpstreamStatus:
    return UpstreamStatus(
        name=settings.name,
        aliases=list(settings.names()[1:]),
        urls=[_url(each, clock) for each in condition.urls] or [*map(UrlStatus, settings.urls)],
        kind=settings.kind,
        offline=offline,
        rate_limit=_limit(condition.rate_limit),
        resting=list(condition.resting),
    )


def _url(condition: UrlCondition, clock: IReactorTime) -> UrlStatus:
    since = timestamp(wall_at(clock, condition.since))
    later = None if condition.until is None else timestamp(wall_at(clock, condition.until))
    return UrlStatus(condition.url, condition.health.value, since, condition.fault, later)


def _limit(limit: RateLimit | None) -> RateLimitStatus | None:
    return None if limit is None else RateLimitStatus(limit.limit, limit.remaining, limit.window)
