"""The API as a whole: what its parts are made of, and how they begin and end together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from appliance.admin.exports import Exports
from appliance.admin.holdings import Holdings
from appliance.admin.imports import Imports
from appliance.admin.ordering import Ordering
from appliance.admin.returnpath import ReturnPath
from appliance.admin.route import Route
from appliance.admin.status import StatusPage
from appliance.bundle.exporter import Exporter
from appliance.bundle.importer import Importer, ImportOptions, Progress
from appliance.bundle.inbox import Inbox
from appliance.bundle.minisign import PublicKey
from appliance.bundle.names import Names, is_own_host, listener_at
from appliance.bundle.policy import Policy
from appliance.bundle.publication import Publication
from appliance.bundle.receipt import Receipt, Receipts
from appliance.cache.completion import Completion
from appliance.cache.flights import Flights
from appliance.cache.held import Held
from appliance.cache.pullthrough import PullThrough
from appliance.cache.usage import Usage
from appliance.cache.wants import Wants
from appliance.index.graph import ManifestGraph
from appliance.index.referrers import ReferrerLists
from appliance.index.repositories import Repositories
from appliance.interfaces import Condition, IBlobStore, IDocuments, IThreads
from appliance.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Premises:
    """
    What the API works on.

    @ivar settings: gives what is in force; trusted keys, inbox, site and aliases are taken from it once.
    @ivar documents: the repositories'; C{state}: those of the appliance itself.
    @ivar site: what this appliance is called.
    @ivar duration: seconds of C{7d}; raises L{ConfigError}.
    @ivar published: told, in the same turn of the reactor, that tags may mean something else by now.
    """

    settings: Callable[[], Settings]
    store: IBlobStore
    repositories: Repositories
    graph: ManifestGraph
    lists: ReferrerLists
    cache: PullThrough
    wants: Wants
    usage: Usage
    documents: IDocuments
    state: IDocuments
    threads: IThreads
    clock: IReactorTime
    flights: Flights
    site: str
    duration: Callable[[str], float]
    published: Callable[[], None]


class Api:
    """Everything below C{/api/v1/}, and the inbox, which imports as the API does."""

    def __init__(self, premises: Premises) -> None:
        p = self._premises = premises
        receipts = Receipts(p.state)
        aliases = p.settings().bundles.aliases
        names = Names(
            self._upstream_for, lambda host: listener_at(p.settings(), aliases, host, is_own_host), self._permits
        )
        self._publication = Publication(p.repositories, p.state, receipts, lambda _: p.published())
        importer = Importer(p.store, self._publication, p.threads, self._policy(), names, p.clock, p.site, p.lists)
        exporter = Exporter(
            p.store, p.repositories, p.threads, p.site, self._upstream_for, p.usage.last_pulled, p.lists, p.cache.asks
        )
        ordering = Ordering(exporter, Completion(p.cache, p.flights), names)
        held = Held(p.store, p.repositories, p.graph, p.cache.asks)
        self._imports = Imports(importer, receipts, p.wants, held, p.clock, self._imported)
        self._exports = Exports(ordering, p.store, p.clock, p.duration)
        self._holdings = Holdings(
            p.store, p.repositories, p.usage, names, p.cache.known_referrers, p.cache.is_fetching, p.cache.asks
        )
        self._return_path = ReturnPath(p.store, p.repositories, p.wants, p.threads, p.site, p.clock)
        self._status = StatusPage(
            p.settings,
            self._conditions,
            p.store,
            p.repositories,
            (p.documents, p.state),
            p.wants,
            lambda: len(p.flights),
            p.site,
            p.clock,
            lambda: [] if self._inbox is None else self._inbox.waiting(),
        )
        inbox = p.settings().bundles.inbox
        self._inbox = None if inbox is None else Inbox(inbox, self._received, p.threads, p.clock, p.state)

    def routes(self) -> list[Route]:
        """Everything that is offered."""
        parts = (self._status, self._holdings, self._return_path, self._exports, self._imports)
        return [route for part in parts for route in part.routes()]

    @property
    def busy(self) -> bool:
        """Whether an export is being sent."""
        return self._exports.sending > 0

    async def start(self) -> None:
        """Finish what was being published when the process was cut, then watch the inbox."""
        try:
            await self._publication.recover()
        finally:
            if self._inbox is not None:
                self._inbox.start()

    def configured(self) -> None:
        """The configuration was read again."""
        if self._inbox is not None:
            self._inbox.configured()

    async def stop(self) -> None:
        """Cut the imports under way; what they stored is kept."""
        if self._inbox is not None:
            await self._inbox.stop()
        await self._imports.stop()

    async def _received(self, files: list[Path], progress: Callable[[Progress], None]) -> Receipt:
        return await self._imports.run(files, ImportOptions(follow_links=False), progress)

    def _imported(self) -> None:
        if self._inbox is not None:
            self._inbox.imported()

    def _policy(self) -> Policy:
        bundles = self._premises.settings().bundles
        keys = tuple(map(PublicKey.parse, bundles.trust))
        return Policy(keys, bundles.require_signature, bundles.accept_callers_keys)

    def _conditions(self) -> dict[str, Condition]:
        return {name: remote.registry.condition() for name, remote in self._premises.cache.remotes.items()}

    def _permits(self, upstream: str, repository: str) -> bool:
        configured = self._premises.settings().upstreams.get(upstream)
        return configured is None or configured.permits(repository)

    def _upstream_for(self, name: str) -> str | None:
        return self._premises.settings().upstream_for(name)
