"""
TLS as one endpoint speaks it: what it shows, whom it believes, and both as their files say now.

A connection begins with the context of the I{front}, which has no certificate. When the client has said which host it
wants, the callback for its name (SNI, RFC 6066 section 3) puts the context of a certificate in its place. The key that
session tickets are sealed with belongs to the front; so tickets go on being taken when certificates are replaced. With
other authorities for clients comes another front: what they decided before is not taken from a ticket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger

from appliance.errors import ConfigError
from appliance.flow.clock import wall
from appliance.flow.disk import FileStamp
from appliance.interfaces import IThreads
from appliance.tls.certificates import CertificateSource, ServerCertificate, address_of, chosen, day_of
from appliance.tls.clients import ClientFiles, ClientTrust, reason

#: Called for a client that is turned away before it could ask for anything: whether for its C{certificate}, in the
#: C{handshake} or as a C{proxy}, its address, and why.
Refused = Callable[[str, str, str], None]

PROTOCOL = b"http/1.1"

# Lists of revoked certificates are made anew each day or each week.
_CRL_ENDS_SOON = 2 * 86400.0

FRONT_FOR = 24 * 3600.0
"""Seconds after which tickets are sealed with another key; those before are not taken any more then."""


@dataclass(frozen=True)
class ClientDemands:
    """
    What is asked of clients.

    @ivar files: whom they may be vouched for by; C{None}: no certificate is asked for.
    @ivar required: whether a client without one is not let in.
    """

    files: ClientFiles | None = None
    required: bool = False


NO_DEMANDS = ClientDemands()

_Prepared = tuple[ClientDemands, dict[Path, FileStamp | None], ClientTrust | None]


class TlsServer:
    """
    The certificates of one endpoint, and what its connections begin with.

    @ivar certificates: those in force, one at least.
    @ivar source: where they stand.
    @ivar faults: what of the files cannot be used as it is now.
    @ivar front: the context of the next connection.
    @ivar trust: whom clients are vouched for by; C{None}: they are asked for no certificate.
    """

    _log = Logger()

    def __init__(
        self, source: CertificateSource, demands: ClientDemands, clock: IReactorTime, refused: Refused | None = None
    ) -> None:
        """
        Reads the files.

        @raise ConfigError: they cannot be used.
        """
        self.clock = clock
        self.source = source
        self.refused: Refused = refused or (lambda what, address, why: None)
        self._shown_stamps = source.stamps()
        self.certificates, self.faults = source.read(())
        self._contexts: dict[ServerCertificate, SSL.Context] = {}
        self._trust_faults: list[str] = []
        self.trust: ClientTrust | None = None
        self.use(self.prepared(demands))

    # -- what the files say -----------------------------------------------------------------------------------------

    def prepared(self, demands: ClientDemands) -> _Prepared:
        """
        Read what C{demands} names, for L{use}. Blocks; nothing changes.

        @raise ConfigError: it cannot be used.
        """
        files = demands.files
        if files is None:
            return demands, {}, None
        return demands, files.stamps(), files.read()

    def use(self, prepared: _Prepared) -> None:
        """From now on ask this of new connections."""
        self.demands, self._trust_stamps, self.trust = prepared
        self._trust_faults = []
        self._renew_front()

    async def look(self, threads: IThreads) -> bool:
        """
        Read again what has changed. What cannot be used is logged once, and what was read before stays in force.

        @return: whether something else is in force now.
        """
        if wall(self.clock) - self._front_since >= FRONT_FOR:
            self._renew_front()
        shown = await self._look_at_certificates(threads)
        return await self._look_at_clients(threads) or shown

    async def _look_at_certificates(self, threads: IThreads) -> bool:
        try:
            stamps = await threads.call(self.source.stamps)
        except ConfigError as error:
            self._report([str(error)], self.faults)
            self.faults = [str(error)]
            # When it is back it is read, also where it is as it was.
            self._shown_stamps = {}
            return False
        if stamps == self._shown_stamps:
            return False
        self._shown_stamps = stamps
        try:
            certificates, faults = await threads.call(self.source.read, self.certificates)
        except ConfigError as error:
            certificates, faults = self.certificates, [str(error)]
        self._report(faults, self.faults)
        self.faults = faults
        known = {each.chain: each for each in self.certificates}
        if {each.chain for each in certificates} == known.keys():
            return False
        certificates = [known.get(each.chain, each) for each in certificates]
        self._contexts = {each: self._contexts.get(each) or self._context(each) for each in certificates}
        self.certificates = certificates
        for each in self.certificates:
            if each.chain not in known:
                names, until = ", ".join(each.names), each.own.not_valid_after_utc
                self._log.info(
                    "{path}: a certificate for {names}, until {until}", path=each.path, names=names, until=until
                )
        return True

    async def _look_at_clients(self, threads: IThreads) -> bool:
        demands = self.demands
        if demands.files is None:
            return False
        stamps = await threads.call(demands.files.stamps)
        if stamps == self._trust_stamps or demands is not self.demands:
            return False
        self._trust_stamps = stamps
        try:
            trust = await threads.call(demands.files.read)
        except ConfigError as error:
            self._report([str(error)], self._trust_faults)
            self._trust_faults = [str(error)]
            return False
        if demands is not self.demands:
            # Another configuration came meanwhile.
            return False
        self.use((demands, stamps, trust))
        self._log.info("{path} was read again", path=demands.files.authorities)
        return True

    def _report(self, faults: Sequence[str], known: Sequence[str]) -> None:
        for fault in faults:
            if fault not in known:
                self._log.warn("{fault}; what was read before stays in force", fault=fault)

    def warnings(self, now: float) -> list[str]:
        """What its operator should know of the files by C{now}, seconds of the wall clock. Looks at permissions."""
        found = [*self.faults, *self._trust_faults]
        for each in self.certificates:
            found += each.warnings(now)
        if self.trust is not None and self.trust.until is not None and self.trust.until - now < _CRL_ENDS_SOON:
            what = "ends" if self.trust.until > now else "has ended: no client's certificate is believed"
            found.append(f"client_crl_file: the list of revoked certificates {what} ({day_of(self.trust.until)})")
        return found

    # -- connections ------------------------------------------------------------------------------------------------

    def _renew_front(self) -> None:
        self.front = self._context(None)
        self.front.set_tlsext_servername_callback(self._choose)
        self._front_since = wall(self.clock)
        self._contexts = {each: self._context(each) for each in self.certificates}

    def _choose(self, connection: SSL.Connection) -> None:
        """The client has said which host it wants, or that it does not say."""
        name = connection.get_servername()
        host = address_of(getattr(connection.get_app_data().client_end.getHost(), "host", None))
        wanted = None if name is None else name.decode("ascii", "replace")
        shown = chosen(self.certificates, wanted, host, wall(self.clock))
        connection.set_context(self._contexts[shown])

    def _context(self, shown: ServerCertificate | None) -> SSL.Context:
        own = {} if shown is None else shown.options()
        # Tickets need no memory here; a cache of sessions would give anonymous clients as much as they like.
        options = CertificateOptions(
            raiseMinimumTo=TLSVersion.TLSv1_2, enableSessions=False, enableSessionTickets=True, **own
        )
        context = options.getContext()
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        context.set_alpn_select_callback(_select)
        if self.trust is not None:
            mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if self.demands.required else 0)
            context.set_verify(mode, _verified)
            store = context.get_cert_store()
            assert store is not None
            self.trust.fill(store)
            for each in self.trust.authorities:
                context.add_client_ca(each)
        return context


def _select(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """Which protocol is spoken (RFC 7301); a client that offers no other one than these is let in all the same."""
    return PROTOCOL if PROTOCOL in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _verified(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, is_right: int) -> bool:
    """OpenSSL has looked at one certificate of a client's chain."""
    if not is_right:
        # Not its names: whatever a stranger wrote there would be in the log.
        connection.get_app_data().refuse("certificate", f"{certificate.get_serial_number():x}: {reason(error)}")
    return bool(is_right)
