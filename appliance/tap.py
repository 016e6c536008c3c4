"""
C{twistd pullcache}: options, and the service that is started, reloaded by SIGHUP and stopped.

This is the one module that meets the reactor; L{appliance.wiring} makes everything else, and is given what it needs.
"""

from __future__ import annotations

import errno
import gc
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from appliance import __version__
from appliance.admin.accesslog import AccessLog, writer_to
from appliance.admin.audit import Audit
from appliance.admin.auditfile import audit_file
from appliance.admin.metrics import Metrics
from appliance.config import followed, load, overridden
from appliance.errors import ConfigError, PullcacheError
from appliance.explain import describe, is_open, warnings
from appliance.flow.clock import keep_time
from appliance.flow.connections import make_room
from appliance.flow.disk import THREADS, DiskThreads, share_memory
from appliance.flow.ports import Ports
from appliance.flow.pump import Pump, threads_for
from appliance.flow.sendfile import SendfileReactor
from appliance.identity.passwords import check_checkers, strangers
from appliance.identity.roles import Operator, OperatorTokens
from appliance.index.documents import FilesystemDocuments
from appliance.settings import AdminSettings, Settings, UpstreamSettings
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership
from appliance.tls.endpoints import Endpoints
from appliance.upstream.interfaces import IUpstream
from appliance.upstream.table import check_upstreams, offline_upstream_for, upstream_for
from appliance.wiring import Services

# Seconds between two writes of what is cheap to lose.
FLUSH_INTERVAL = 5.0
# Seconds between two looks at the files of certificates; what is new there is to be in force within ten.
READ_INTERVAL = 4.0
# Seconds between two looks whether a certificate of our own making is to be renewed.
RENEW_INTERVAL = 3600.0
# Seconds between two looks whether it is time to hash what is held; the first is so long after the start.
SCRUB_INTERVAL = 600.0
# Seconds after which a thread that runs Python lets another have the interpreter. With Python's own 5 ms, those that
# hash and write eight cold blobs held the reactor up: the 99th percentile of a warm manifest meanwhile was 48 and 29
# ms, with 1 ms 25 and 16, and the blobs came in 2.9 s instead of 3.4.
SWITCH_INTERVAL = 0.001
_OF_THE_WHOLE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
# Seconds between two searches for beginnings of blobs that are not being fetched any more.
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
            endpoints = _endpoints(self["settings"], self["config"])
            _check(self["settings"], self["config"])
        except ConfigError as error:
            raise _refusal(error) from None
        if self["check"]:
            settings = self["settings"]
            print(describe(settings, strangers(settings), endpoints.warnings()), end="")
            raise SystemExit(0)


class PullcacheService(Service):
    """The appliance as twistd starts and stops it."""

    name = "pullcache"
    _log = Logger()

    def __init__(self, options: Options, reactor: Any) -> None:
        self._options = options
        self._settings: Settings = options["settings"]
        self._reactor = reactor
        self._pump = Pump(reactor, threads_for(self._settings.send_threads))
        self._listening_reactor = SendfileReactor(reactor, self._pump)
        self._ports = Ports(self._listening_reactor)
        self._pool = ThreadPool(minthreads=1, maxthreads=THREADS, name="disk")
        self._threads = DiskThreads(reactor, self._pool)
        self._log_lines = AccessLog(writer_to(self._settings.access_log), reactor)
        self._metrics = Metrics(reactor, self._log_lines)
        self._audit = Audit(audit_file(self._settings), self._threads, reactor)
        self._timers: list[LoopingCall] = []

    def privilegedStartService(self) -> None:
        """Claim the store and the ports, while this process may still bind low ones."""
        super().privilegedStartService()
        try:
            self._ownership = Ownership.claim(self._settings.store)
            self._services = services = self.wire()
            self._limit_connections(self._settings)
            endpoints = self._endpoints
            for listener, endpoint in zip(services.listeners, endpoints.listeners, strict=True):
                self._ports.open(endpoint.description, listener.site, endpoint)
            if services.admin is not None and endpoints.admin is not None:
                self._admin_site = services.admin.site(services.connections)
                self._ports.open(endpoints.admin.description, self._admin_site, endpoints.admin)
        except PullcacheError as error:
            raise _refusal(error) from None

    def _open_socket(self) -> None:
        """Listen on the admin socket; where the default one cannot be had, that is a line in the log."""
        admin = self._settings.admin
        if admin is None or admin.socket is None:
            return
        try:
            self._ports.open_socket(admin.socket.removeprefix("unix:"), self._admin_site)
        except ConfigError as error:
            if admin.socket != AdminSettings().socket:
                raise _refusal(error) from None
            self._log.info("no admin socket: {error}", error=error)

    def wire(self) -> Services:
        """
        The appliance over the store on disk and the network.

        @raise ConfigError: an upstream cannot be asked with what the configuration says, or an endpoint not opened.
        """
        self._endpoints = Endpoints(self._listening_reactor, self._settings, self._options["config"], self._audit)
        folder, threads = self._settings.store, self._threads
        self._store = store = FilesystemBlobStore(folder, threads)
        documents = FilesystemDocuments(folder, threads)

        def make_upstream(upstream: UpstreamSettings, offline: bool) -> IUpstream:
            if offline:
                return offline_upstream_for(upstream)
            return upstream_for(upstream, self._reactor, self._metrics, threads)

        return Services(
            self._settings,
            clock=self._reactor,
            threads=threads,
            store=store,
            documents=documents,
            probe=lambda: store.probe().addCallback(lambda _: documents.probe()),
            state=FilesystemDocuments(folder, threads, "state"),
            make_upstream=make_upstream,
            metrics=self._metrics,
            audit=self._audit,
            reload=self.read_again,
            endpoints=self._endpoints,
        )

    def startService(self) -> None:
        """Take up what was cut, and follow SIGHUP."""
        super().startService()
        # Only now, as the user and the group that this process keeps (twistd --uid): they are to own it, and remove it.
        self._open_socket()
        self._audit.note("start", f"pullcache {__version__}", "done")
        # Modules and the like stay to the end: looking through them again and again costs 25 ms each time.
        gc.freeze()
        for warning in (*warnings(self._settings), *self._endpoints.warnings()):
            self._log.warn("{warning}", warning=warning)
        share_memory()
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._pool.start()
        self._pump.start()
        services = self._services
        for kept, what in (
            (services.wants, "reading the wants"),
            (services.usage, "reading the usage"),
            (services.moves, "reading the moves of tags"),
            (services.prefetch, "reading what is to be fetched"),
            (services.scrub, "reading when what is held was hashed"),
        ):
            Deferred.fromCoroutine(kept.load()).addErrback(self._failed, what)
        recovering = Deferred.fromCoroutine(services.start_imports()).addErrback(self._failed, "finishing an import")
        # No client is let in before an import that was cut half way through its publication is finished.
        recovering.addBoth(lambda _: self._ports.accept())
        self._store.measure().addErrback(self._failed, "measuring the store")
        Deferred.fromCoroutine(services.flights.resume(services.access)).addErrback(self._failed, "resuming")
        self._every(SWEEP_INTERVAL, self._sweep, "sweeping what is left over", now=True)
        self._every(RENEW_INTERVAL, self._renew_certificates, "renewing certificates", now=True)
        self._every(READ_INTERVAL, self._read_certificates, "reading certificates")
        self._every(FLUSH_INTERVAL, self._flush, "saving")
        self._every(SCRUB_INTERVAL, self._scrub, "hashing what is held")
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))

    def _every(self, seconds: float, job: Callable[[], Any], what: str, now: bool = False) -> None:
        """Do it again and again, so many seconds from one begin to the next; what fails is logged, and tried again."""
        timer = LoopingCall(lambda: maybeDeferred(job).addErrback(self._failed, what))
        timer.clock = self._reactor
        timer.start(seconds, now=now)
        self._timers.append(timer)

    def stopService(self) -> Deferred[None]:
        """
        Fires when transfers under way have ended, or C{shutdown_grace} has, and everything is on disk.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        services = self._services
        for timer in self._timers:
            if timer.running:
                timer.stop()
        # What fails keeps nothing from being saved, nor the process from ending: it does not while there are threads.
        for what, step in (
            ("stopping the scrub", services.scrub.stop),
            ("stopping imports", services.stop_imports),
            ("stopping what is fetched of images", services.prefetch.stop),
            ("stopping the repair", services.repair.stop),
            ("closing the ports", self._ports.close),
            ("waiting for transfers", self._wait_for_clients),
            ("leaving the upstreams", services.leave_upstreams),
            ("cutting what is fetched", services.flights.stop),
            ("saving", self._flush),
            ("saving repositories", lambda: services.repositories.flush(whole=True)),
            ("saving the usage", lambda: services.usage.flush(now=True)),
            ("writing the access log", self._log_lines.flush),
            ("writing the audit log", self._end_audit),
            ("ending the threads that send", self._pump.stop),
            ("ending the threads", self._pool.stop),
            ("giving back the store", self._ownership.release),
        ):
            await maybeDeferred(step).addErrback(self._failed, what)

    async def _wait_for_clients(self) -> None:
        """Until they are answered, or C{shutdown_grace} is over."""
        services, deadline = self._services, self._reactor.seconds() + self._settings.shutdown_grace
        for listener in services.listeners:
            listener.close_idle()
        while services.busy and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.05)

    def _end_audit(self) -> Deferred[None]:
        self._audit.note("stop", "", "done")
        return self._audit.flush()

    def reload(self) -> None:
        """Read the configuration again; a bad one is reported and the old one stays in force."""
        with suppress(ConfigError):
            self.read_again()

    def read_again(self, operator: Operator | None = None) -> list[str]:
        """
        As L{reload}.

        @param operator: who asks, C{None} for a signal.
        @return: the keys that changed and take effect with a restart only.
        @raise ConfigError: what is wrong with the new one, which the log has, too.
        """
        source = self._options["config"]
        who = {} if operator is None else operator.noted
        try:
            settings, later = followed(self._options.settings(), self._settings)
            _check(settings, source)
            follow = self._endpoints.prepared(settings)
            self._services.configure(settings)
            follow()
        except ConfigError as error:
            self._log.error("the configuration was not read again, the old one stays in force: {error}", error=error)
            self._audit.note("reload", source, "failed", why=str(error), **who)
            raise
        for key in later:
            self._log.warn("{key} changed: that takes effect with a restart", key=key)
        self._settings = settings
        self._limit_connections(settings)
        self._audit.note("reload", source, "done", **who)
        self._audit.file = audit_file(settings, self._audit.file)
        self._log.info("the configuration was read again")
        return later

    def _limit_connections(self, settings: Settings) -> None:
        wanted = settings.connections
        fits = make_room(wanted.max)
        if fits < wanted.max:
            what = "connections.max of {max} takes more files than this process may open: {fits} fit; raise LimitNOFILE"
            self._log.warn(what, max=wanted.max, fits=fits)
        self._services.connections.limits = msgspec.structs.replace(wanted, max=fits)

    def _flush(self) -> Deferred[None]:
        """Write what is cheap to lose; fires when it is written, or not, which is logged."""
        services = self._services
        services.note_pulls()
        services.schedule.look()
        if self.running:
            services.space.look()
        writes = [
            services.repositories.flush().addErrback(self._failed, "saving repositories"),
            Deferred.fromCoroutine(services.wants.flush()).addErrback(self._failed, "saving the wants"),
            Deferred.fromCoroutine(services.scrub.flush()).addErrback(self._failed, "saving how far the scrub is"),
            Deferred.fromCoroutine(services.usage.flush()).addErrback(self._failed, "saving the usage"),
            Deferred.fromCoroutine(services.moves.flush()).addErrback(self._failed, "saving the moves of tags"),
            Deferred.fromCoroutine(services.prefetch.flush()).addErrback(self._failed, "saving what is to be fetched"),
        ]
        return DeferredList(writes).addCallback(lambda _: None)

    async def _sweep(self) -> None:
        """Remove what is left over and old, and try again what is damaged."""
        services = self._services
        mending = Deferred.fromCoroutine(services.repair.resume())
        mending.addErrback(self._failed, "finding what was set aside")
        await services.leftovers.sweep(services.access)
        await mending

    async def _read_certificates(self) -> None:
        """Read certificates again that have changed, and say when they end."""
        await self._endpoints.look(self._threads)
        self._metrics.shows({str(each.path): each.until for each in self._endpoints.certificates()})

    async def _renew_certificates(self) -> None:
        """Renew what is ours to renew."""
        await self._endpoints.renew(self._threads)
        await self._read_certificates()

    async def _scrub(self) -> None:
        """Hash what is held, if it is time."""
        run = await self._services.scrub.job()
        if run is not None:
            self._audit.note("scrub", f"{run.checked} blobs, {len(run.damaged)} damaged", "done")

    def _failed(self, failure: Failure, what: str) -> None:
        if isinstance(failure.value, OSError) and failure.value.errno in _OF_THE_WHOLE_DISK:
            # Whatever was to be saved: one line a minute says it.
            self._services.space.refused(failure.value)
        elif failure.check(OSError, PullcacheError):
            # It is said every few seconds, and where in the program it was says nothing.
            self._log.warn("{what}: {error}", what=what, error=failure.value)
        else:
            self._log.failure(what, failure)


def _endpoints(settings: Settings, source: str) -> Endpoints:
    from twisted.internet import reactor

    return Endpoints(reactor, settings, source)


def makeService(options: Options) -> PullcacheService:
    """What twistd runs (L{twisted.application.service.IServiceMaker})."""
    from twisted.internet import reactor

    keep_time(reactor)
    return PullcacheService(options, reactor)


def _check(settings: Settings, source: str) -> None:
    """Raises L{ConfigError} for what no part of the appliance can be made of."""
    check_upstreams(settings, source)
    check_checkers(settings, source)
    check_admin(settings, source)


def check_admin(settings: Settings, source: str) -> None:
    """
    Raises L{ConfigError} where other machines may reach the admin endpoint and are not asked who they are, and where
    what they are asked for is of no use.
    """
    admin = settings.admin
    if admin is None:
        return
    if is_open(admin.endpoint) and not admin.asks:
        raise ConfigError(
            f"{source}: admin.endpoint: {admin.endpoint} can be reached from other machines, and asks them for nothing:"
            " give it admin: {token_file: PATH}, with a line ROLE TOKEN for each who may ask, or listen on 127.0.0.1"
        )
    if admin.client_ca_file is not None and not admin.is_tls:
        raise ConfigError(f"{source}: admin.client_ca_file: needs an admin.endpoint that begins with tls: or ssl:")
    if admin.client_ca_file is not None and not admin.client_roles:
        raise ConfigError(
            f"{source}: admin.client_ca_file: gives nobody a role; write admin: {{client_roles: {{NAME: ROLE}}}}"
        )
    if admin.token_file is not None:
        OperatorTokens(admin.token_file)


def _refusal(error: object) -> SystemExit:
    """Say what is wrong in one line, where the person who starts the service looks."""
    print(f"pullcache: {error}", file=sys.__stderr__)
    return SystemExit(1)
