"""
The one place where the objects of all rooms are made and given to each other: for the service, and for the tests.

What differs between the two is passed in: the clock, the threads, the store, the documents, and what asks upstreams.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from appliance.admin.access import AccessPage
from appliance.admin.app import AdminApp
from appliance.admin.audit import AuditPage
from appliance.admin.collections import CollectionPages
from appliance.admin.exportplanner import Completion, ExportPlanner
from appliance.admin.exports import Exports
from appliance.admin.images import Images
from appliance.admin.imports import Imports
from appliance.admin.inventory import InventoryPage
from appliance.admin.metrics import Metrics
from appliance.admin.pins import PinPages
from appliance.admin.reload import Reload, ReloadPage
from appliance.admin.scrubs import ScrubPages, report_of
from appliance.admin.status import StatusPage
from appliance.api import ScrubReport
from appliance.bundle.exporter import Exporter
from appliance.bundle.importer import Importer, ImportOptions, ImportProgress
from appliance.bundle.inbox import Inbox
from appliance.bundle.minisign import PublicKey, TrustPolicy
from appliance.bundle.names import Names, is_own_host, listener_at
from appliance.bundle.publication import Publication
from appliance.bundle.receipt import Change, Receipt, Receipts
from appliance.cache.access import Access, Remote, RemoteRepository
from appliance.cache.blobs import Blobs
from appliance.cache.collection import Collected, Collection
from appliance.cache.departure import Departures, Gone
from appliance.cache.flights import Flights
from appliance.cache.leftovers import Leftovers
from appliance.cache.manifests import Manifests
from appliance.cache.marks import Marks
from appliance.cache.moves import Moves
from appliance.cache.pins import Pins
from appliance.cache.prefetch import Prefetch
from appliance.cache.prefetchrun import PrefetchSources
from appliance.cache.pullthrough import PullThrough
from appliance.cache.referrers import ReferrerCache
from appliance.cache.removal import ImageRemoval
from appliance.cache.repair import Repair
from appliance.cache.rules import AccessRules
from appliance.cache.schedule import CollectionSchedule
from appliance.cache.scrub import Scrub
from appliance.cache.space import Space
from appliance.cache.tags import Tags
from appliance.cache.usage import Usage
from appliance.cache.wants import HeldReferences, Wants
from appliance.errors import StoreError
from appliance.flow.clock import SleepingClock
from appliance.flow.connections import Connections
from appliance.flow.disk import InlineThreads
from appliance.flow.rates import ClientRates
from appliance.identity.passwords import Passwords, make_checker
from appliance.index.documents import FilesystemDocuments
from appliance.index.graph import ManifestGraph
from appliance.index.lists import ReferrerLists, TagLists
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IAudit, IBlobStore, IDocuments, IThreads
from appliance.oci.digest import Digest
from appliance.registry.listener import Listener
from appliance.settings import LOGIN_NONE, ListenSettings, ScrubSettings, Settings, UpstreamSettings
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership
from appliance.tls.endpoints import Endpoints
from appliance.upstream.interfaces import IUpstream

MakeUpstream = Callable[[UpstreamSettings, bool], IUpstream]
"""
Makes what asks the upstream of these settings; the flag says that it is never contacted. Raises L{ConfigError} when
the settings cannot be used.
"""


IMPORT_PATIENCE = 600.0
"""Seconds that an import waits until room was made for it."""


class Services:
    """
    All objects of one appliance.

    Making them reads, writes and contacts nothing.

    @ivar settings: those in force; L{configure} replaces them.
    @ivar access: the configured upstreams, and what may be read of them.
    @ivar cache: what clients are served from.
    @ivar listeners: one for each address of C{settings.listen}, in that order.
    @ivar admin: the admin endpoint, C{None} when the configuration has none.
    @ivar inbox: imports what is put into a folder, C{None} when the configuration names none.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Any,
        threads: IThreads,
        store: IBlobStore,
        documents: IDocuments,
        state: IDocuments,
        probe: Callable[[], Deferred[None]],
        make_upstream: MakeUpstream,
        metrics: Metrics,
        audit: IAudit,
        reload: Reload = lambda operator: (),
        endpoints: Endpoints | None = None,
    ) -> None:
        """
        @param clock: the reactor, or what stands for its C{IReactorTime}.
        @param documents: of the repositories; C{state}: of the appliance itself.
        @param probe: fires when what is held can be served; fails with the reason why not.
        @param reload: see L{ReloadPage}.
        @param endpoints: those that are opened, C{None} where none is.
        @raise ConfigError: an upstream cannot be made, or a file of the admin endpoint cannot be used.
        """
        self.settings = settings
        self.clock = clock
        self.store = store
        self.documents = documents
        self.state = state
        self.metrics = metrics
        self.audit = audit
        self._make_upstream = make_upstream

        remotes = {each.name: self._remote(settings, each) for each in settings.upstreams.values()}
        self.access = access = Access(remotes, AccessRules.of(settings))

        # What is held, and what is fetched of the rest.
        self.space = space = Space(store, clock, settings.retention, metrics.unstored)
        self.repositories = repositories = Repositories(
            documents, clock=clock, threads=threads, refused=space.refused
        )
        self.flights = flights = Flights(store, clock, repositories, space)
        self.wants = wants = Wants(state, clock, repositories.holds)
        self.usage = usage = Usage(state, clock, threads)
        graph, lists = ManifestGraph(store, threads), ReferrerLists(documents)
        self.moves = moves = Moves(state, clock, usage.inherit)
        self.repair = repair = Repair(store, repositories, graph, wants, access, self._fetch, self._forget)
        graph.damaged = repair.suspect
        self.scrub = Scrub(store, repair, state, clock, lambda: self.settings.scrub)
        self._manifests = manifests = Manifests(store, repositories, graph, moves, repair, space, clock)
        self.blobs = blobs = Blobs(store, repositories, graph, flights, repair, space, clock)
        referrers = ReferrerCache(repositories, lists, graph, space, clock)
        self.prefetch = Prefetch(
            PrefetchSources(
                access,
                repositories,
                store,
                graph.manifests,
                flights,
                manifests,
                blobs,
                referrers,
                usage,
                wants,
                space,
                metrics.prefetched,
            ),
            clock,
            state,
        )
        self.cache = cache = PullThrough(
            access,
            manifests,
            blobs,
            Tags(repositories, TagLists(documents), space, clock),
            referrers,
            wants,
            usage,
            self.prefetch,
        )

        marks = Marks(store, repositories, usage, lambda: self.settings, clock, threads)
        departures = Departures(store, repositories, graph, self._left)
        self.collection = Collection(
            store,
            repositories,
            marks,
            departures,
            usage,
            lambda: self.settings,
            clock,
            threads,
            self.note_pulls,
            self._collected,
        )
        self.schedule = CollectionSchedule(self.collection, store, lambda: self.settings, clock)
        space.collect = lambda octets: self.collection.run(room=octets)

        # What clients connect to.
        self.connections = Connections(clock, settings.connections, metrics.dropped)
        self.rates = rates = ClientRates(clock, settings.client_rate, metrics.limited_client)
        self._threads = threads
        self._passwords: dict[tuple[str, ...], Passwords] = {}
        self._passwords = self._passwords_for(settings)
        common = (metrics, audit, clock, self.connections)
        self.listeners = [
            Listener(cache, settings, listen, *common, self._passwords_of(listen), rates) for listen in settings.listen
        ]

        # What crosses the gap, and what operators ask for.
        bundles = settings.bundles
        site = bundles.site or socket.gethostname()
        names = Names(
            self._upstream_named,
            lambda host: listener_at(self.settings, bundles.aliases, host, is_own_host),
            self._permits,
        )
        receipts = Receipts(state)
        self._publication = Publication(repositories, state, receipts, self._published)
        trusted = tuple(map(PublicKey.parse, bundles.trust))
        policy = TrustPolicy(trusted, bundles.require_signature, bundles.accept_callers_keys)
        # An import waits for the collection as long as that takes, within reason.
        room = partial(space.room, patience=IMPORT_PATIENCE)
        importer = Importer(store, self._publication, threads, policy, names, clock, site, lists, room)
        exporter = Exporter(
            store, repositories, threads, site, self._upstream_named, usage.last_pulled, lists, access.asks
        )
        self.inbox = None
        if bundles.inbox is not None:
            self.inbox = Inbox(bundles.inbox, self._receive, threads, clock, state, audit)
        self.imports = Imports(
            importer,
            receipts,
            wants,
            HeldReferences(store, repositories, graph, access.asks),
            clock,
            self._imported,
            threads,
            audit,
        )
        planner = ExportPlanner(exporter, Completion(cache), flights, names)
        self.exports = Exports(planner, store, repair.examine, clock)
        self.images = Images(
            store,
            threads,
            repositories,
            graph,
            usage,
            moves,
            names,
            referrers.known,
            self.prefetch.is_fetching,
            access.asks,
        )
        removal = ImageRemoval(store, repositories, graph, marks, departures)
        self.pins = PinPages(Pins(repositories, graph, moves), removal, names)
        self.inventory = InventoryPage(store, repositories, wants, threads, site, clock)
        self.leftovers = leftovers = Leftovers(store, (documents, state), flights, lambda: repair.lacking, clock)
        self.status = StatusPage(
            lambda: self.settings,
            lambda: {name: remote.registry.condition() for name, remote in access.remotes.items()},
            store,
            space,
            repositories,
            (documents, state),
            wants,
            lambda: len(flights),
            site,
            clock,
            lambda: [] if self.inbox is None else self.inbox.waiting(),
            repair,
            self.scrub,
            leftovers,
            moves,
            self.collection,
            endpoints,
        )
        collections = CollectionPages(self.collection, threads)
        self.admin = None
        if settings.admin is not None:
            scrubs = ScrubPages(self.scrub, clock)
            audits = AuditPage(audit, threads, clock)
            explained = AccessPage(access, lambda: self.settings, names)
            pages = (self.status, audits, explained, self.images, self.pins, collections, scrubs, self.inventory)
            parts = (*pages, self.exports, self.imports, ReloadPage(reload))
            self.admin = AdminApp(metrics, probe, audit, [part.routes() for part in parts], settings.admin)

        watch = metrics.watch
        watch("flights", "Blobs being fetched from upstreams.", lambda: len(flights))
        watch("audit_lines_waiting", "Lines of the audit log that the disk has not taken.", audit.waiting)
        watch("connections", "Connections open.", lambda: len(self.connections))
        watch("clients_sending", "Clients to which blobs are being sent.", lambda: self.rates.sending)
        watch(
            "client_level_bytes",
            "Bytes a second that no client gets more than, so that others get theirs; 0 while none is held back.",
            lambda: self.rates.level or 0.0,
        )
        watch("prefetches", "Images whose referrers are being fetched.", lambda: self.prefetch.referrers)
        watch("images_incomplete", "Images pulled and not known to be whole.", lambda: self.prefetch.images)
        watch(
            "collection_timestamp_seconds",
            "When the last collection began; 0 before the first.",
            lambda: 0.0 if self.collection.last is None else self.collection.last.started,
        )
        watch("store_bytes", "Bytes of all blobs held.", store.total)
        watch("moves_refused", "Locked tags whose upstream says something else.", lambda: len(moves.all_refused))
        watch("disk_free_bytes", "Bytes of the store's disk that are free.", space.free)
        watch("wants", "References asked for and not served.", lambda: len(wants))
        watch("damaged_blobs", "Blobs found damaged and not held again.", lambda: len(repair.lacking))
        watch("documents_damaged", "Documents set aside.", lambda: len(documents.damaged) + len(state.damaged))
        watch(
            "documents_unreadable",
            "Documents whose last read failed.",
            lambda: len(documents.unreadable) + len(state.unreadable),
        )

    @property
    def busy(self) -> bool:
        """Whether a client is being answered, or an export is being sent."""
        return self.exports.sending > 0 or any(listener.busy for listener in self.listeners)

    async def start_imports(self) -> None:
        """Finish what was being published when the process was cut, then watch the inbox."""
        try:
            await self._publication.recover()
            self.collection.is_ready = True
        finally:
            if self.inbox is not None:
                self.inbox.start()

    async def stop_imports(self) -> None:
        """Cut the imports under way; what they stored is kept."""
        if self.inbox is not None:
            await self.inbox.stop()
        await self.imports.stop()

    def leave_upstreams(self) -> None:
        """Ask none of them any more."""
        for remote in self.access.remotes.values():
            remote.registry.stop()

    def configure(self, settings: Settings) -> None:
        """
        Follow a configuration that was read again. Upstreams that did not change keep their connections and tokens;
        what is under way goes on, but for what comes from an upstream that may not be contacted any more.

        @param settings: with as many listeners as there are; the store, their endpoints, the admin endpoint and what
            C{bundles} says stay as they are.
        @raise ConfigError: an upstream cannot be made, or a file of the admin endpoint cannot be used; then nothing has
            changed.
        """
        passwords = self._passwords_for(settings)
        before = self.access.remotes
        remotes = {}
        for each in settings.upstreams.values():
            is_same = self.settings.upstreams.get(each.name) == each and self.settings.offline == settings.offline
            remote = before[each.name] if is_same else self._remote(settings, each)
            guarded = bool(settings.access)
            remotes[each.name] = remote if remote.guarded == guarded else replace(remote, guarded=guarded)
        if self.admin is not None and settings.admin is not None:
            self.admin.configure(settings.admin)
        self.settings = settings
        self.access.remotes = remotes
        self.access.rules = AccessRules.of(settings)
        self.space.configure(settings.retention)
        self.flights.configure(self.access)
        for name, remote in before.items():
            now = remotes.get(name)
            if now is None or now.offline:
                remote.registry.disconnect()
            elif now.registry is not remote.registry:
                remote.registry.stop()
        self._passwords = passwords
        for users in passwords.values():
            users.reconsider()
        self.rates.limits = settings.client_rate
        for listener, listen in zip(self.listeners, settings.listen, strict=True):
            listener.configure(settings, listen, self._passwords_of(listen))
        self.prefetch.reconsider()
        self.repair.reconsider()
        self.schedule.want()
        if self.inbox is not None:
            self.inbox.configured()

    def _passwords_for(self, settings: Settings) -> dict[tuple[str, ...], Passwords]:
        """Of all listeners, by their checkers; those that are there already are taken again."""
        found: dict[tuple[str, ...], Passwords] = {}
        for listen in settings.listen:
            named = settings.checkers_of(listen)
            if named and listen.login != LOGIN_NONE and named not in found:
                known = self._passwords.get(named)
                found[named] = known or Passwords([make_checker(each) for each in named], self.clock, self._threads)
        return found

    def _passwords_of(self, listen: ListenSettings) -> Passwords | None:
        return self._passwords.get(self.settings.checkers_of(listen))

    def note_pulls(self) -> None:
        """Note what was pulled by prepared answers since the last call."""
        for listener in self.listeners:
            for pull in listener.take_pulls():
                self.cache.note_pulls(*pull)

    def _left(self, repository: Repository, gone: Gone) -> None:
        """Images have left a repository: no answer is given from memory."""
        for tag in gone.tags:
            self.moves.settle(*repository.place, tag)
        for digest in gone.manifests:
            self._manifests.forget(digest)
        for listener in self.listeners:
            listener.forget_repository(*repository.place)

    def forget_answers(self) -> None:
        """Tags may mean something else by now, though no upstream said so: prepared answers are dropped."""
        for listener in self.listeners:
            listener.forget_answers()

    def _fetch(self, remote: RemoteRepository, digest: Digest, is_manifest: bool) -> Awaitable[object]:
        """Fetch what was damaged, behind whatever a client waits for."""
        if is_manifest:
            return self._manifests.by_digest(remote, digest)
        return self.blobs.fetch(remote, digest, background=True)

    def _forget(self, digest: Digest) -> None:
        """It was set aside: no answer is given from memory."""
        self._manifests.forget(digest)
        self.forget_answers()

    def _remote(self, settings: Settings, upstream: UpstreamSettings) -> Remote:
        offline = settings.offline or upstream.offline
        return Remote(upstream, self._make_upstream(upstream, offline), offline, bool(settings.access))

    async def _receive(self, files: list[Path], progress: Callable[[ImportProgress], None]) -> Receipt:
        """Import what the inbox found."""
        return await self.imports.run(files, ImportOptions(follow_links=False), progress)

    def _published(self, bundle: str, now: float, changes: Sequence[Change]) -> None:
        for each in changes:
            if each.tag is not None and each.previous is not None and each.outcome == "moved":
                place = (each.upstream, each.repository, each.tag)
                self.moves.note(*place, each.previous, each.digest, bundle, now)
        self.forget_answers()

    def _imported(self) -> None:
        self.schedule.want()
        if self.inbox is not None:
            self.inbox.imported()

    def _collected(self, found: Collected) -> None:
        """A collection has ended."""
        self.metrics.collected(found.freed)
        if found.images or found.blobs:
            what = f"{len(found.images)} images, {len(found.blobs)} blobs, {found.freed} bytes"
            self.audit.note("collect", what, "done", why=", ".join(f"{each.name}: {each.why}" for each in found.images))

    def _upstream_named(self, name: str) -> str | None:
        return self.settings.upstream_for(name)

    def _permits(self, upstream: str, repository: str) -> bool:
        configured = self.settings.upstreams.get(upstream)
        return configured is None or configured.permits(repository)


def scrub_stopped(
    folder: Path, rate: int | None, progress: Callable[[str, int, int], None]
) -> tuple[ScrubReport, OSError | None]:
    """
    Hash what a stopped appliance holds; what is damaged is set aside and noted among its wants. Needs no reactor.

    @param rate: bytes per second, C{None} for any number.
    @param progress: is given what is being done, and how much of how much.
    @return: what was found, and why that could not be noted in the store, if so.
    @raise StoreLocked: its appliance runs.
    @raise StoreError: it is no store, or is not to be written by this user.
    """
    if not (folder / "VERSION").is_file():
        raise StoreError(f"{folder}: is no store of pullcache; give the folder that store: names in the configuration")
    ownership = Ownership.claim(folder)
    try:
        threads, clock = InlineThreads(), SleepingClock()
        store, state = FilesystemBlobStore(folder, threads), FilesystemDocuments(folder, threads, "state")
        repositories = Repositories(FilesystemDocuments(folder, threads))
        wants, graph = Wants(state, clock), ManifestGraph(store, threads)
        # There are no upstreams: nothing is fetched, all is wanted.
        repair = Repair(store, repositories, graph, wants, Access({}), lambda *what: succeed(None), lambda digest: None)
        scrub = Scrub(store, repair, state, clock, lambda: ScrubSettings(rate=rate or 10**18))

        async def run() -> tuple[ScrubReport, OSError | None]:
            await wants.load()
            await scrub.load()
            found = report_of(await scrub.run(progress=lambda at: progress(at.stage, at.done, at.total)))
            try:
                await wants.flush()
                await scrub.flush()
            except OSError as error:
                return found, error
            return found, None

        outcome: list[tuple[ScrubReport, OSError | None] | Failure] = []
        Deferred.fromCoroutine(run()).addBoth(outcome.append)
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]
    finally:
        ownership.give_back()
        ownership.release()
