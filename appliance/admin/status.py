"""How the appliance is: C{GET /api/v1/status}."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from appliance import __version__
from appliance.admin.route import Reply, Route, json
from appliance.api import (
    CertificateStatus,
    Counts,
    Damaged,
    DiskStatus,
    Files,
    LastCollection,
    LeftOver,
    RateLimitStatus,
    ScrubStatus,
    Status,
    Unreadable,
    UpstreamSays,
    UpstreamStatus,
    UrlStatus,
)
from appliance.bundle.receipt import Waiting
from appliance.cache.collection import Collection
from appliance.cache.leftovers import Amount, LeftoverCounts, Leftovers
from appliance.cache.moves import Moves
from appliance.cache.repair import Repair
from appliance.cache.scrub import Scrub
from appliance.cache.space import Space
from appliance.cache.wants import Wants
from appliance.flow.clock import wall, wall_at
from appliance.index.repositories import Repositories
from appliance.interfaces import IBlobStore, IDocuments
from appliance.oci.reference import full_name
from appliance.oci.timestamps import timestamp
from appliance.settings import Settings, UpstreamSettings
from appliance.tls.endpoints import Endpoints
from appliance.upstream.interfaces import Condition

MOST_REFUSED = 1000
"""The most locked tags that are told of."""


class StatusPage:
    """Answers with the L{Status}."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        conditions: Callable[[], Mapping[str, Condition]],
        store: IBlobStore,
        space: Space,
        repositories: Repositories,
        documents: Sequence[IDocuments],
        wants: Wants,
        flights: Callable[[], int],
        site: str,
        clock: IReactorTime,
        inbox: Callable[[], list[Waiting]],
        repair: Repair,
        scrub: Scrub,
        leftovers: Leftovers,
        moves: Moves,
        collection: Collection,
        endpoints: Endpoints | None = None,
    ) -> None:
        """
        @param settings: gives those in force.
        @param conditions: gives how the upstreams are, by name.
        @param documents: all that there are, the repositories' too.
        @param flights: gives the number of flights under way.
        @param inbox: gives what waits in the inbox.
        @param endpoints: those that are open, C{None} where nothing is.
        """
        self._collection = collection
        self._endpoints = endpoints
        self._settings = settings
        self._conditions = conditions
        self._store = store
        self._space = space
        self._repositories = repositories
        self._documents = documents
        self._wants = wants
        self._flights = flights
        self._site = site
        self._clock = clock
        self._inbox = inbox
        self._repair = repair
        self._scrub = scrub
        self._leftovers = leftovers
        self._moves = moves
        self._began, self._started = clock.seconds(), wall(clock)

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [Route("GET", "/api/v1/status", self.status, "How the appliance is.", Status)]

    async def status(self, request: Request) -> Reply:
        """Everything at once; the first time every repository is read."""
        names = await self._repositories.names()
        tags = manifests = 0
        for upstream, name in names:
            # A document that the disk does not give is among the unreadable ones below.
            with suppress(OSError):
                held = await self._repositories.counts(upstream, name)
                tags, manifests = tags + held[0], manifests + held[1]
        left_over = LeftOver()
        with suppress(OSError):
            left_over = _left_over(await self._leftovers.counts())
        settings, conditions = self._settings(), self._conditions()
        return json(
            Status(
                version=__version__,
                site=self._site,
                started=timestamp(self._started),
                uptime=self._clock.seconds() - self._began,
                offline=settings.offline,
                upstreams=[
                    self._upstream(each, settings.offline or each.offline, conditions.get(each.name, Condition()))
                    for each in settings.upstreams.values()
                ],
                flights=self._flights(),
                store_bytes=self._store.total(),
                disk=self._disk(),
                counts=Counts(len(names), tags, manifests, len(self._wants)),
                damaged=[Damaged(*each) for every in self._documents for each in every.damaged],
                unreadable=[Unreadable(*each) for every in self._documents for each in every.unreadable.items()],
                inbox=self._inbox(),
                damaged_blobs=list(map(str, self._repair.lacking)),
                scrub=self._scrubbed(),
                left_over=left_over,
                collection=self._collected(),
                certificates=self._certificates(),
                certificate_warnings=[] if self._endpoints is None else self._endpoints.warnings(),
                refused=[
                    UpstreamSays(full_name(*key), each.target, timestamp(each.at))
                    for key, each in sorted(islice(self._moves.all_refused.items(), MOST_REFUSED))
                ],
            )
        )

    def _scrubbed(self) -> ScrubStatus:
        last = self._scrub.last
        if last is None or last.finished is None:
            return ScrubStatus(self._scrub.is_under_way)
        return ScrubStatus(self._scrub.is_under_way, timestamp(last.finished), len(last.damaged))

    def _certificates(self) -> list[CertificateStatus]:
        shown = [] if self._endpoints is None else self._endpoints.certificates()
        return [CertificateStatus(str(each.path), list(each.names), timestamp(each.until)) for each in shown]

    def _collected(self) -> LastCollection:
        last = self._collection.last
        if last is None:
            return LastCollection()
        return LastCollection(timestamp(last.started), len(last.images), last.freed, last.notes)

    def _disk(self) -> DiskStatus:
        space, refusal = self._space, self._space.refusal
        reason = "" if refusal is None else refusal.strerror or str(refusal)
        return DiskStatus(space.capacity, space.free(), space.reserve, space.state, space.unstored, reason)

    def _upstream(self, settings: UpstreamSettings, offline: bool, condition: Condition) -> UpstreamStatus:
        urls = [UrlStatus(url) for url in settings.urls]
        if condition.urls:
            urls = [
                UrlStatus(each.url, each.health.value, self._moment(each.since), each.fault, self._moment(each.until))
                for each in condition.urls
            ]
        limit = condition.rate_limit
        return UpstreamStatus(
            name=settings.name,
            aliases=list(settings.names()[1:]),
            urls=urls,
            kind=settings.kind,
            offline=offline,
            rate_limit=None if limit is None else RateLimitStatus(limit.limit, limit.remaining, limit.window),
            resting=list(condition.resting),
        )

    def _moment(self, seconds: float | None) -> str | None:
        return None if seconds is None else timestamp(wall_at(self._clock, seconds))


def _left_over(counts: LeftoverCounts) -> LeftOver:
    def files(amount: Amount) -> Files:
        return Files(amount.count, amount.octets)

    return LeftOver(files(counts.beginnings), files(counts.staged), files(counts.documents), files(counts.damaged))
