"""How the appliance is: C{GET /api/v1/status}."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request

from appliance import __version__
from appliance.admin.route import Reply, Route, json
from appliance.bundle.receipt import timestamp
from appliance.cache.wants import Wants
from appliance.index.repositories import Repositories
from appliance.interfaces import IBlobStore
from appliance.settings import Settings


class UpstreamStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One upstream. C{offline}: it is never contacted."""

    name: str
    aliases: list[str]
    urls: list[str]
    kind: str
    offline: bool


class Damaged(msgspec.Struct, frozen=True, rename="camel"):
    """A document that could not be read, and where it was put."""

    document: str
    kept_as: str


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


class StatusPage:
    """Answers with the L{Status}."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        store: IBlobStore,
        repositories: Repositories,
        wants: Wants,
        flights: Callable[[], int],
        site: str,
        clock: IReactorTime,
    ) -> None:
        """
        @param settings: gives what is in force.
        @param flights: gives the number of flights under way.
        """
        self._settings = settings
        self._store = store
        self._repositories = repositories
        self._wants = wants
        self._flights = flights
        self._site = site
        self._clock = clock
        self._started = clock.seconds()

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
                uptime=self._clock.seconds() - self._started,
                offline=settings.offline,
                upstreams=_upstreams(settings),
                flights=self._flights(),
                store_bytes=self._store.total(),
                counts=counts,
                damaged=[Damaged(document, kept_as) for document, kept_as in self._repositories.damaged],
            )
        )

    async def _counts(self) -> Counts:
        names = await self._repositories.names()
        tags = manifests = 0
        for upstream, name in names:
            repository = await self._repositories.get(upstream, name)
            tags += len(repository.tags)
            manifests += len(repository.manifests)
        return Counts(len(names), tags, manifests, len(self._wants))


def _upstreams(settings: Settings) -> list[UpstreamStatus]:
    return [
        UpstreamStatus(each.name, list(each.names()[1:]), list(each.urls), each.kind, settings.offline)
        for each in settings.upstreams.values()
    ]
