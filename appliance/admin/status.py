"""How the appliance is: C{GET /api/v1/status}."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from appliance import __version__
from appliance.admin.route import Reply, Route, json
from appliance.bundle.inbox import Waiting
from appliance.cache.wants import Wants
from appliance.flow.clock import wall, wall_at
from appliance.index.repositories import Repositories
from appliance.interfaces import Condition, IBlobStore, IDocuments, RateLimit, UrlCondition
from appliance.oci.timestamps import timestamp
from appliance.settings import Settings, UpstreamSettings


class UrlStatus(msgspec.Struct, frozen=True, rename="camel"):
    """
    One URL of an upstream.

    @ivar health: C{up}, C{doubtful}, C{down} or C{resting}; C{None} while it is never contacted.
    @ivar since: when it became that, RFC 3339.
    @ivar fault: what went wrong, empty when nothing did since it was up.
    @ivar next: when it is looked at again, RFC 3339; C{None} while that is not needed, or is under way.
    """

    url: str
    health: str | None = None
    since: str | None = None
    fault: str = ""
    next: str | None = None


class RateLimitStatus(msgspec.Struct, frozen=True, rename="camel"):
    """
    What the upstream last said of its limit on pulls.

    @ivar limit: pulls in a window, and C{window}: its seconds; C{None} when not told. C{remaining}: those left.
    """

    limit: int | None
    remaining: int
    window: float | None


class UpstreamStatus(msgspec.Struct, frozen=True, rename="camel"):
    """
    One upstream.

    @ivar urls: in the order they are tried.
    @ivar offline: whether it is never contacted.
    @ivar resting: repositories that are not asked about for now, since it wanted fewer requests.
    """

    name: str
    aliases: list[str]
    urls: list[UrlStatus]
    kind: str
    offline: bool
    rate_limit: RateLimitStatus | None
    resting: list[str]


class Damaged(msgspec.Struct, frozen=True, rename="camel"):
    """A document that could not be understood, and where it was put."""

    document: str
    kept_as: str


class Unreadable(msgspec.Struct, frozen=True):
    """A document that the disk does not give; it is left as it is. C{reason}: the disk's words."""

    document: str
    reason: str


class Counts(msgspec.Struct, frozen=True):
    """How many there are. C{manifests}: indexes too."""

    repositories: int
    tags: int
    manifests: int
    wants: int


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """
    @ivar started: RFC 3339; C{uptime}: seconds since then.
    @ivar flights: blobs being fetched from upstreams.
    @ivar store_bytes: of all blobs held.
    @ivar damaged: documents that were set aside since the start.
    @ivar unreadable: documents whose last read failed; what they say is not counted.
    @ivar inbox: what lies in the inbox and cannot be imported now.
    """

    version: str
    site: str
    started: str
    uptime: float
    offline: bool
    upstreams: list[UpstreamStatus]
    flights: int
    store_bytes: int
    counts: Counts
    damaged: list[Damaged]
    unreadable: list[Unreadable]
    inbox: list[Waiting]


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
