"""
The endpoints that clients and operators connect to, by their descriptions (Twisted's endpoint strings).

C{ssl:} and C{tls:} are spoken here, for certificates are read again while they are in use, and so is C{haproxy:}, whose
header stands in front of TLS. What is behind them, and every other endpoint, is Twisted's::

    ssl:port=5000:privateKey=KEY:certKey=CERTIFICATE[:extraCertChain=FILE][:interface=ADDRESS][:backlog=N]
    tls:FOLDER:port=5000[:interface=ADDRESS][:backlog=N]
    haproxy:ENDPOINT
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from appliance.errors import ConfigError
from appliance.fields import endpoint_parts
from appliance.flow.clock import wall
from appliance.flow.ports import server_endpoint
from appliance.interfaces import IAudit, IThreads
from appliance.settings import LOGIN_REQUIRED, AdminSettings, ListenSettings, Settings
from appliance.tls.authority import is_due, renew
from appliance.tls.certificates import CertificateFolder, CertificateSource, NamedFiles, ServerCertificate, day_of
from appliance.tls.clients import ClientFiles
from appliance.tls.proxied import ProxiedFactory
from appliance.tls.server import NO_DEMANDS, ClientDemands, Refused, TlsServer
from appliance.tls.transport import TlsConnection

Networks = tuple[IPv4Network | IPv6Network, ...]

LOG_EVERY = 1.0
"""Seconds between two lines in the log about connections that are turned away."""

_SSL = frozenset({"port", "privateKey", "certKey", "extraCertChain", "interface", "backlog"})
_TLS = frozenset({"path", "port", "interface", "backlog"})


@implementer(IStreamServerEndpoint)
class ListeningEndpoint:
    """
    One of them.

    @ivar description: as it is written.
    @ivar tls: what it shows, and whom it believes; C{None} where it does not speak TLS.
    @ivar proxies: who may say for whom a connection is, where it begins with that; none for whoever connects.
    """

    def __init__(
        self,
        reactor: Any,
        description: str,
        demands: ClientDemands = NO_DEMANDS,
        proxies: Networks = (),
        refused: Refused | None = None,
    ) -> None:
        """
        Reads its files; nothing is opened.

        @raise ConfigError: the description means nothing, or a file it names cannot be used.
        """
        self.description = description
        self.proxies = proxies
        self.tls: TlsServer | None = None
        self._reactor = reactor
        self._refused: Refused = refused or (lambda what, address, why: None)
        self._is_proxied = description.startswith("haproxy:")
        inner = description.removeprefix("haproxy:") if self._is_proxied else description
        kind = endpoint_parts(inner)[0]
        try:
            if kind in ("ssl", "tls"):
                source, self._below = self._tls_parts(inner)
                self.tls = TlsServer(source, demands, reactor, refused)
            else:
                self._below = server_endpoint(reactor, inner)
        except ConfigError as error:
            raise ConfigError(f"{description}: {str(error).removeprefix(f'{inner}: ')}") from None

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See L{IStreamServerEndpoint.listen}."""
        if self._is_proxied:
            factory = ProxiedFactory(factory, self._reactor, self._is_proxy, self._refused)
        listening = self._below.listen(factory)
        if self.tls is None:
            return listening
        connection = partial(TlsConnection, self.tls)

        def speak(port: Any) -> Any:
            # So a port of Twisted's makes other connections than its own; it has accepted none yet.
            port.transport = connection
            return port

        return listening.addCallback(speak)

    def prepared(self, demands: ClientDemands, proxies: Networks) -> Callable[[], None]:
        """
        Read what is to be asked of clients.

        @return: lets it be in force.
        @raise ConfigError: it cannot be used.
        """
        tls = self.tls
        read = None if tls is None or tls.demands == demands else tls.prepared(demands)

        def follow() -> None:
            self.proxies = proxies
            if tls is not None and read is not None:
                tls.use(read)

        return follow

    def _is_proxy(self, address: str) -> bool:
        return not self.proxies or any(ip_address(address) in network for network in self.proxies)

    def _tls_parts(self, description: str) -> tuple[CertificateSource, IStreamServerEndpoint]:
        kind, *arguments = (_plain(part) for part in endpoint_parts(description))
        names = ("port",) if kind == "ssl" else ("path", "port")
        given = dict(zip(names, [each for each in arguments if "=" not in each], strict=False))
        given |= {name: value for name, _, value in (each.partition("=") for each in arguments if "=" in each)}
        for key in given.keys() - (_SSL if kind == "ssl" else _TLS):
            raise ConfigError(f"{key} is not taken: TLS 1.2 and newer is spoken, with what OpenSSL holds for safe")
        backlog, port = given.get("backlog", "50"), given.get("port", "443")
        if not (backlog.isdecimal() and port.isdecimal() and int(port) <= 65535):
            raise ConfigError("port and backlog are numbers")
        source: CertificateSource
        if kind == "ssl":
            key = given.get("privateKey", "server.pem")
            between = given.get("extraCertChain")
            source = NamedFiles(Path(given.get("certKey", key)), Path(key), None if between is None else Path(between))
            interface = given.get("interface", "")
        else:
            if "path" not in given:
                raise ConfigError("names no folder; write tls:FOLDER:port=5000")
            source = CertificateFolder(Path(given["path"]))
            interface = given.get("interface", "::" if socket.has_dualstack_ipv6() else "")
        endpoint = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
        return source, endpoint(self._reactor, int(port), int(backlog), interface)


def _plain(part: str) -> str:
    """A part of a description without its backslashes."""
    return re.sub(r"\\(.)", r"\1", part)


class Endpoints:
    """
    Those of one appliance.

    @ivar listeners: in the order of the settings.
    @ivar admin: that of operators, C{None} where there is none.
    """

    _log = Logger()

    def __init__(self, reactor: Any, settings: Settings, source: str, audit: IAudit | None = None) -> None:
        """
        @param source: the file that the settings are from, for errors.
        @param audit: is told of connections that are turned away in front of HTTP, and of certificates.
        @raise ConfigError: one means nothing, or names a file that cannot be used.
        """
        self._settings = settings
        self._source = source
        self._audit = audit
        self._clock: IReactorTime = reactor
        self._looking = DeferredLock()
        self._logged_at = float("-inf")
        self._unlogged = 0
        refused = self._turned_away
        self.listeners = []
        for number, listen in enumerate(settings.listen):
            with _named(f"{source}: listen[{number}].endpoint"):
                asked = _asked_by(listen, settings), settings.proxies_of(listen)
                self.listeners.append(ListeningEndpoint(reactor, listen.endpoint, *asked, refused))
        self.admin: ListeningEndpoint | None = None
        if (admin := settings.admin) is not None:
            with _named(f"{source}: admin.endpoint"):
                asked = _asked_by(admin, settings), settings.trusted_proxies
                self.admin = ListeningEndpoint(reactor, admin.endpoint, *asked, refused)

    @property
    def tls(self) -> list[TlsServer]:
        """What those of them show that speak TLS."""
        every = [*self.listeners, *([] if self.admin is None else [self.admin])]
        return [each.tls for each in every if each.tls is not None]

    def certificates(self) -> list[ServerCertificate]:
        """All that are shown, each once."""
        return list({(each.path, each.own): each for server in self.tls for each in server.certificates}.values())

    def warnings(self) -> list[str]:
        """What operators should know of the files, a line each. Looks at permissions."""
        now = wall(self._clock)
        found = [line for server in self.tls for line in server.warnings(now)]
        for number, (endpoint, listen) in enumerate(zip(self.listeners, self._settings.listen, strict=True)):
            shown = () if endpoint.tls is None else endpoint.tls.certificates
            # Without a port; an address of IPv6 is in brackets.
            hosts = [host[1:].partition("]")[0] if host[0] == "[" else host.partition(":")[0] for host in listen.hosts]
            other = [host for host in hosts if shown and not any(each.covers(host) for each in shown)]
            if other:
                what = f"no certificate of {endpoint.description} is for {', '.join(other)}; clients refuse it"
                found.append(f"{self._source}: listen[{number}].hosts: {what}")
        return list(dict.fromkeys(found))

    async def look(self, threads: IThreads) -> None:
        """Read the files again that have changed."""
        # What was read first is never put in place of what was read later.
        async with self._looking:
            for each in self.tls:
                known = [one.own for one in each.certificates]
                if await each.look(threads):
                    for one in each.certificates:
                        if one.own not in known:
                            self._note(f"{one.path}: {', '.join(one.names)}", "done", f"until {day_of(one.until)}")

    async def renew(self, threads: IThreads) -> None:
        """Make those anew that L{appliance.tls.authority} has made and that end before long; L{look} finds them."""
        now = wall(self._clock)
        for folder in dict.fromkeys(server.source.folder for server in self.tls):
            try:
                if await threads.call(is_due, folder, now):
                    made = await threads.call(renew, folder, now)
                    self._log.info("{folder}: the certificate was renewed", folder=made.folder)
            except ConfigError as error:
                self._log.warn("{folder}: the certificate was not renewed: {error}", folder=folder, error=error)
                self._note(str(folder), "failed", str(error))

    def _turned_away(self, action: str, address: str, why: str) -> None:
        """A connection never came as far as HTTP. However many come, a line a second is logged."""
        if self._audit is not None:
            self._audit.note(action, "", "refused", address=address, why=why)
        if self._clock.seconds() - self._logged_at < LOG_EVERY:
            self._unlogged += 1
            return
        more = f" ({self._unlogged} more since the last line)" if self._unlogged else ""
        self._logged_at, self._unlogged = self._clock.seconds(), 0
        self._log.warn(
            "{address} was turned away: {action}: {why}{more}", address=address, action=action, why=why, more=more
        )

    def _note(self, what: str, outcome: str, why: str) -> None:
        if self._audit is not None:
            self._audit.note("certificate", what, outcome, why=why)

    def prepared(self, settings: Settings) -> Callable[[], None]:
        """
        Read what other settings ask of clients; of their endpoints nothing is followed.

        @return: lets it be in force.
        @raise ConfigError: it cannot be used.
        """
        steps: list[Callable[[], None]] = []
        for number, (endpoint, listen) in enumerate(zip(self.listeners, settings.listen, strict=True)):
            with _named(f"{self._source}: listen[{number}]"):
                steps.append(endpoint.prepared(_asked_by(listen, settings), settings.proxies_of(listen)))
        if self.admin is not None and settings.admin is not None:
            with _named(f"{self._source}: admin"):
                steps.append(self.admin.prepared(_asked_by(settings.admin, settings), settings.trusted_proxies))

        def follow() -> None:
            self._settings = settings
            for step in steps:
                step()

        return follow


def _asked_by(section: ListenSettings | AdminSettings, settings: Settings) -> ClientDemands:
    if section.client_ca_file is None:
        return NO_DEMANDS
    required = False
    if isinstance(section, ListenSettings):
        # A client that may give a password instead needs no certificate.
        required = section.login == LOGIN_REQUIRED and not settings.checkers_of(section)
    return ClientDemands(ClientFiles(section.client_ca_file, section.client_crl_file), required)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Errors begin with the place in the configuration."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
