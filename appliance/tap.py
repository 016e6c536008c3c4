"""
C{twistd pullcache}: options, and the service that wires the rooms together.

This is the one module that meets the reactor; everything else is given what it needs of it.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from appliance.admin.accesslog import AccessLog, writer_to
from appliance.admin.api import Api, Premises
from appliance.admin.app import AdminApp
from appliance.admin.metrics import Metrics
from appliance.cache.blobs import Blobs
from appliance.cache.flights import Flights
from appliance.cache.manifests import Manifests
from appliance.cache.prefetch import Prefetch
from appliance.cache.pullthrough import PullThrough
from appliance.cache.recent import Recent
from appliance.cache.referrers import ReferrerCache
from appliance.cache.remote import Remote
from appliance.cache.sources import Sources
from appliance.cache.tags import Tags
from appliance.cache.usage import Usage
from appliance.cache.wants import Wants
from appliance.config import load, overridden
from appliance.description import describe, warnings
from appliance.errors import ConfigError, PullcacheError
from appliance.flow.clock import keep_time, wall
from appliance.flow.connections import Connections, make_room
from appliance.flow.ports import Ports, check_endpoints
from appliance.flow.threads import THREADS, DiskThreads
from appliance.index.documents import FilesystemDocuments
from appliance.index.graph import ManifestGraph
from appliance.index.listings import Listings
from appliance.index.referrers import ReferrerLists
from appliance.index.repositories import Repositories
from appliance.interfaces import IUpstream
from appliance.registry.listener import Listener
from appliance.settings import Settings
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership
from appliance.units import duration
from appliance.upstream.table import check_upstreams, offline_upstream_for, upstream_for

# How often what is cheap to lose is written.
FLUSH_INTERVAL = 5.0
# How often beginnings of blobs that nobody goes on with are looked for.
SWEEP_INTERVAL = 24 * 3600.0


class Options(usage.Options):
    """Each option overrides the key of the same name."""

    synopsis = "[options]"
    longdesc = "A pull-through cache of OCI registries that goes on serving without them."
    optParameters = [
        ["config", "c", "/etc/pullcache/pullcache.yaml", "The configuration file."],
        ["store", None, None, "The folder of the store."],
        ["admin", None, None, "Twisted endpoint string of the admin endpoint."],
    ]
    optFlags = [
        ["offline", None, "Contact no upstream, ever."],
        ["check", None, "Read the configuration, print what it means, and exit."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Twisted endpoint string to serve clients on; may be repeated."""
        self["listen"].append(endpoint)

    def settings(self) -> Settings:
        """
        The configuration with the options in force.

        @raise ConfigError: it cannot be used.
        """
        return overridden(
            load(self["config"]),
            store=self["store"],
            listen=tuple(self["listen"]),
            admin=self["admin"],
            offline=bool(self["offline"]),
        )

    def postOptions(self) -> None:
        """Read the configuration; C{--check} ends here."""
        try:
            self["settings"] = self.settings()
            _check_endpoints(self["settings"], self["config"])
            check_upstreams(self["settings"], self["config"])
        except ConfigError as error:
            raise _refusal(error) from None
        if self["check"]:
            print(describe(self["settings"]), end="")
            raise SystemExit(0)


class PullcacheService(Service):
    """The appliance as twistd starts and stops it."""

    name = "pullcache"
    _log = Logger()

    def __init__(self, options: Options, reactor: Any) -> None:
        self._options = options
        self._settings: Settings = options["settings"]
        self._reactor = reactor
        self._ports = Ports(reactor)
        self._pool = ThreadPool(minthreads=1, maxthreads=THREADS, name="disk")
        self._log_lines = AccessLog(writer_to(self._settings.access_log), reactor)
        self._metrics = Metrics(reactor, self._log_lines)
        self._flushing = LoopingCall(self._flush)
        self._sweeping = LoopingCall(self._sweep)
        self._flushing.clock = self._sweeping.clock = reactor

    def privilegedStartService(self) -> None:
        """Claim the store and the ports, while this process may still bind low ones."""
        super().privilegedStartService()
        try:
            self._ownership = Ownership.claim(self._settings.store)
            self._wire()
            self._listen()
        except PullcacheError as error:
            raise _refusal(error) from None

    def startService(self) -> None:
        """Take up what was cut, and follow SIGHUP."""
        super().startService()
        for warning in warnings(self._settings):
            self._log.warn("{warning}", warning=warning)
        self._pool.start()
        for kept, what in (
            (self._wants, "reading the wants"),
            (self._usage, "reading the usage"),
            (self._prefetch, "reading what is to be fetched"),
        ):
            Deferred.fromCoroutine(kept.load()).addErrback(self._failed, what)
        starting = Deferred.fromCoroutine(self._api.start()).addErrback(self._failed, "finishing an import")
        # Nobody is let in before an import that was cut half way through its publication is finished.
        starting.addBoth(lambda _: self._ports.accept())
        self._store.measure().addErrback(self._failed, "measuring the store")
        Deferred.fromCoroutine(self._flights.resume(self._cache.remotes)).addErrback(self._failed, "resuming")
        self._sweeping.start(SWEEP_INTERVAL)
        self._flushing.start(FLUSH_INTERVAL, now=False)
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))

    async def _stop(self) -> None:
        self._flushing.stop()
        self._sweeping.stop()
        await self._api.stop()
        await self._prefetch.stop()
        await self._ports.close()
        await self._let_transfers_end()
        for remote in self._cache.remotes.values():
            remote.registry.stop()
        await self._flights.stop()
        await self._flush()
        await Deferred.fromCoroutine(self._usage.flush(now=True)).addErrback(self._failed, "saving the usage")
        self._log_lines.flush()
        self._pool.stop()
        self._ownership.release()

    def stopService(self) -> Deferred[None]:
        """
        Fires when transfers under way have ended, or C{shutdown_grace} has, and everything is on disk.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def reload(self) -> None:
        """Read the configuration again; a bad one is reported and the old one stays in force."""
        try:
            settings = self._options.settings()
            check_upstreams(settings, self._options["config"])
            remotes = self._remotes(settings, self._settings)
        except ConfigError as error:
            self._log.error("the configuration was not read again, the old one stays in force: {error}", error=error)
            return
        for key in ("store", "admin", "access_log", "bundles"):
            if getattr(settings, key) != getattr(self._settings, key):
                self._log.warn("{key} changed: that takes effect with a restart", key=key)
        if [each.endpoint for each in settings.listen] != [each.endpoint for each in self._settings.listen]:
            self._log.warn("the listeners' endpoints changed: that takes effect with a restart")
            settings = _with_listeners_of(settings, self._settings)
        before, self._cache.remotes = self._cache.remotes, remotes
        self._settings = settings
        self._flights.configure(remotes)
        for name, remote in before.items():
            now = remotes.get(name)
            if now is None or now.offline:
                remote.registry.disconnect()
            elif now.registry is not remote.registry:
                # What is under way goes on.
                remote.registry.stop()
        self._limit_connections(settings)
        for listener, listen in zip(self._listeners, settings.listen, strict=True):
            listener.configure(settings, listen)
        self._prefetch.reconsider()
        self._api.configured()
        self._log.info("the configuration was read again")

    # -- wiring -----------------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        settings, clock = self._settings, self._reactor
        self._threads = threads = DiskThreads(self._reactor, self._pool)
        self._store = store = FilesystemBlobStore(settings.store, threads)
        self._documents = documents = FilesystemDocuments(settings.store, threads)
        self._repositories = repositories = Repositories(documents, clock=clock)
        self._flights = flights = Flights(store, clock, repositories)
        graph = ManifestGraph(store)
        state = FilesystemDocuments(settings.store, threads, "state")
        self._wants, self._usage = Wants(state, clock, repositories.holds), Usage(state, clock)
        manifests = Manifests(store, repositories, graph, clock, Recent())
        blobs = Blobs(store, repositories, graph, flights, clock)
        lists = ReferrerLists(documents)
        referrers = ReferrerCache(repositories, lists, graph, clock)
        sources = Sources(
            lambda: self._cache.remotes,
            repositories,
            store,
            flights,
            manifests,
            blobs,
            referrers,
            self._usage,
            self._wants,
            self._metrics.prefetched,
        )
        self._prefetch = Prefetch(sources, clock, state)
        self._cache = PullThrough(
            self._remotes(settings, None),
            manifests,
            blobs,
            Tags(repositories, Listings(documents), clock),
            referrers,
            self._wants,
            self._usage,
            self._prefetch,
        )
        self._connections = Connections(clock, settings.connections, self._metrics.dropped)
        self._limit_connections(settings)
        self._listeners = [
            Listener(self._cache, settings, listen, self._metrics, self._reactor, self._connections)
            for listen in settings.listen
        ]
        self._api = Api(
            Premises(
                settings=lambda: self._settings,
                store=store,
                repositories=repositories,
                graph=graph,
                lists=lists,
                cache=self._cache,
                wants=self._wants,
                usage=self._usage,
                documents=documents,
                state=state,
                threads=threads,
                clock=clock,
                flights=flights,
                site=settings.bundles.site or socket.gethostname(),
                duration=duration,
                published=self._forget_answers,
            )
        )
        metrics = self._metrics
        metrics.watch("flights", "Blobs being fetched from upstreams.", lambda: len(flights))
        metrics.watch("connections", "Connections open.", lambda: len(self._connections))
        metrics.watch("prefetches", "Images whose referrers are being fetched.", lambda: self._prefetch.referrers)
        metrics.watch("images_incomplete", "Images pulled and not known to be whole.", lambda: self._prefetch.images)
        metrics.watch("store_bytes", "Bytes of all blobs held.", store.total)
        metrics.watch("wants", "References asked for and not served.", lambda: len(self._wants))
        metrics.watch("documents_damaged", "Documents set aside.", lambda: len(documents.damaged) + len(state.damaged))
        metrics.watch(
            "documents_unreadable",
            "Documents whose last read failed.",
            lambda: len(documents.unreadable) + len(state.unreadable),
        )

    def _limit_connections(self, settings: Settings) -> None:
        wanted = settings.connections
        fits = make_room(wanted.max)
        if fits < wanted.max:
            what = "connections.max of {max} takes more files than this process may open: {fits} fit; raise LimitNOFILE"
            self._log.warn(what, max=wanted.max, fits=fits)
        self._connections.limits = msgspec.structs.replace(wanted, max=fits)

    def _remotes(self, settings: Settings, before: Settings | None) -> dict[str, Remote]:
        """What may be asked; upstreams that did not change keep their connections and tokens."""
        remotes = {}
        for name, upstream in settings.upstreams.items():
            offline = settings.offline or upstream.offline
            registry: IUpstream
            if before is not None and before.upstreams.get(name) == upstream and before.offline == settings.offline:
                registry = self._cache.remotes[name].registry
            elif offline:
                registry = offline_upstream_for(upstream)
            else:
                registry = upstream_for(upstream, self._reactor, self._metrics, self._threads)
            remotes[name] = Remote(upstream, registry, offline)
        return remotes

    def _listen(self) -> None:
        for listener, listen in zip(self._listeners, self._settings.listen, strict=True):
            self._ports.open(listen.endpoint, listener.site)
        if (admin := self._settings.admin) is not None:
            app = AdminApp(self._metrics, self._probe, [self._api.routes()], admin.hosts)
            self._ports.open(admin.endpoint, app.site(self._connections))

    def _forget_answers(self) -> None:
        for listener in self._listeners:
            listener.forget_answers()

    def _probe(self) -> Deferred[None]:
        return self._store.probe().addCallback(lambda _: self._documents.probe())

    # -- stopping ---------------------------------------------------------------------------------------------------

    async def _let_transfers_end(self) -> None:
        deadline = self._reactor.seconds() + self._settings.shutdown_grace
        for listener in self._listeners:
            listener.close_idle()
        while (self._api.busy or any(each.busy for each in self._listeners)) and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05)

    def _flush(self) -> Deferred[None]:
        """Write what is cheap to lose; fires when it is written, or not, which is logged."""
        for listener in self._listeners:
            for pull, times in listener.take_pulls().items():
                self._cache.note_pulls(*pull, times)
        writes = [
            self._repositories.flush().addErrback(self._failed, "saving repositories"),
            Deferred.fromCoroutine(self._wants.flush()).addErrback(self._failed, "saving the wants"),
            Deferred.fromCoroutine(self._usage.flush()).addErrback(self._failed, "saving the usage"),
            Deferred.fromCoroutine(self._prefetch.flush()).addErrback(self._failed, "saving what is to be fetched"),
        ]
        return DeferredList(writes).addCallback(lambda _: None)

    def _sweep(self) -> Deferred[None]:
        """Throw away beginnings of blobs that nobody goes on with; fires when it is done, or not, which is logged."""
        sweeping = Deferred.fromCoroutine(self._flights.sweep(self._cache.remotes, wall(self._reactor)))
        return sweeping.addErrback(self._failed, "sweeping what is unfinished")

    def _failed(self, failure: Failure, what: str) -> None:
        if failure.check(OSError, PullcacheError):
            # A full disk says so every few seconds, and where in the program it does says nothing.
            self._log.warn("{what}: {error}", what=what, error=failure.value)
        else:
            self._log.failure(what, failure)


def _check_endpoints(settings: Settings, source: str) -> None:
    from twisted.internet import reactor

    endpoints = {f"listen[{number}].endpoint": each.endpoint for number, each in enumerate(settings.listen)}
    if settings.admin is not None:
        endpoints["admin.endpoint"] = settings.admin.endpoint
    check_endpoints(reactor, endpoints, source)


def makeService(options: Options) -> PullcacheService:
    """What twistd runs (L{twisted.application.service.IServiceMaker})."""
    from twisted.internet import reactor

    keep_time(reactor)
    return PullcacheService(options, reactor)


def _with_listeners_of(settings: Settings, before: Settings) -> Settings:
    """C{settings} with the endpoints that are open; a default that is no upstream any more means none."""
    listeners = tuple(
        listen
        if listen.default_upstream in settings.upstreams
        else msgspec.structs.replace(listen, default_upstream=None)
        for listen in before.listen
    )
    return msgspec.structs.replace(settings, listen=listeners)


def _refusal(error: object) -> SystemExit:
    """Say what is wrong in one line, where the person who starts the service looks."""
    print(f"pullcache: {error}", file=sys.__stderr__)
    return SystemExit(1)
