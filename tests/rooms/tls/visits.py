"""Clients that speak TLS with the connections of an endpoint, over a pair of sockets."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from OpenSSL._util import lib
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from appliance.flow.disk import InlineThreads
from appliance.tls.certificates import CertificateFolder, CertificateSource, NamedFiles
from appliance.tls.clients import ClientFiles
from appliance.tls.server import NO_DEMANDS, ClientDemands, TlsServer
from appliance.tls.transport import TlsConnection
from tests.doubles.certificates import Identity
from tests.doubles.deferreds import result


class Echo(Protocol):
    """Gives back what it gets; C{last} is the newest one."""

    last: Echo | None = None
    lost = False

    def connectionMade(self) -> None:
        type(self).last = self

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


class Turning(Clock):
    """A reactor whose connections do what there is to be done when L{turn} says so."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = time.time()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def turn(self, connection: Any) -> None:
        """Read and write once, as far as it wants to, and end it when it is over."""
        for wanting, act in ((self.readers, "doRead"), (self.writers, "doWrite")):
            if connection in wanting:
                why = getattr(connection, act)()
                if why is not None:
                    connection.connectionLost(Failure(why))


class Port:
    """What a server connection asks of its port."""

    _realPortNumber = 443
    pump = None


class Site:
    """
    An endpoint's TLS over files.

    @ivar refused: the addresses of who was turned away, and why.
    """

    def __init__(self, source: CertificateSource, demands: ClientDemands = NO_DEMANDS) -> None:
        self.clock = Turning()
        self.refused: list[tuple[str, str, str]] = []
        self.server = TlsServer(source, demands, self.clock, lambda *what: self.refused.append(what))
        self.factory: Any = Factory.forProtocol(Echo)

    @classmethod
    def of(cls, folder: Path, identity: Identity, demands: ClientDemands = NO_DEMANDS) -> Site:
        """One that shows C{identity} from C{folder/site.pem} and C{folder/site.key}."""
        return cls(NamedFiles(*identity.write(folder, "site")), demands)

    @classmethod
    def in_folder(cls, folder: Path) -> Site:
        """One that shows what is in a folder."""
        return cls(CertificateFolder(folder))

    def look(self) -> bool:
        """Look at the files now."""
        changed: bool = result(self.server.look(InlineThreads()))
        return changed


class Line:
    """
    The network between a connection of C{site} and its client.

    @ivar is_over: whether the other end has closed it.
    """

    def __init__(self, site: Site, address: str = "192.0.2.7", connected_to: str = "192.0.2.1") -> None:
        ours, self.network = socket.socketpair()
        self.network.setblocking(False)
        self._clock = site.clock
        protocol = site.factory.buildProtocol(None)
        client: Any = address, 50000
        port: Any = Port()
        self.connection = TlsConnection(site.server, ours, protocol, client, port, 1, site.clock)
        host = IPv4Address("TCP", connected_to, 443)
        self.connection.getHost = lambda: host  # type: ignore[method-assign]
        self.is_over = False
        protocol.makeConnection(self.connection)

    def carry(self, data: bytes = b"") -> bytes:
        """Send it, and return what comes back."""
        received = b""
        try:
            self.network.sendall(data)
        except OSError:
            pass
        for _ in range(3):
            self._clock.turn(self.connection)
            self._clock.advance(0)
            try:
                while more := self.network.recv(1 << 20):
                    received += more
                self.is_over = True
            except BlockingIOError:
                pass
            except OSError:
                self.is_over = True
        return received


class Visitor:
    """
    A client: shakes hands when it is made; C{returning} is the same one with the session of its first visit, and
    C{before} is sent in front of all, piece by piece.

    @ivar error: why that, or what came after, failed; C{None}.
    """

    def __init__(
        self,
        site: Site,
        name: str | None = None,
        *,
        trusts: Identity | None = None,
        shows: Identity | None = None,
        returning: Visitor | None = None,
        speaks: tuple[bytes, ...] = (),
        versions: tuple[int, int] | None = None,
        address: str = "192.0.2.7",
        connected_to: str = "192.0.2.1",
        before: tuple[bytes, ...] = (),
    ) -> None:
        context = self._context = SSL.Context(SSL.TLS_METHOD) if returning is None else returning._context
        if returning is None:
            self._set_up(context, trusts, shows, speaks, versions)
        self.tls = SSL.Connection(context)
        if name is not None:
            self.tls.set_tlsext_host_name(name.encode("ascii"))
        if returning is not None:
            session = returning.tls.get_session()
            assert session is not None
            self.tls.set_session(session)
        self.tls.set_connect_state()
        self.error: Exception | None = None
        self.received = b""
        self.line = Line(site, address, connected_to)
        self.connection = self.line.connection
        for piece in before[:-1]:
            self.line.carry(piece)
        for piece in before[-1:]:
            # In one with the first bytes of the handshake.
            self.line.network.sendall(piece)
        self._step(self.tls.do_handshake)
        self.say(b"")

    def _set_up(
        self,
        context: SSL.Context,
        trusts: Identity | None,
        shows: Identity | None,
        speaks: tuple[bytes, ...],
        versions: tuple[int, int] | None,
    ) -> None:
        if versions is not None:
            context.set_min_proto_version(versions[0])
            context.set_max_proto_version(versions[1])
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
        if trusts is not None:
            store = context.get_cert_store()
            assert store is not None
            store.add_cert(crypto.X509.from_cryptography(trusts.certificate))
            context.set_verify(SSL.VERIFY_PEER)
        if shows is not None:
            context.use_certificate(shows.certificate)
            context.use_privatekey(shows.key)
            for each in shows.chain:
                context.add_extra_chain_cert(each)
        if speaks:
            context.set_alpn_protos(list(speaks))

    def _step(self, act: Any) -> None:
        """Do it, and carry bytes to and fro until it needs no more of them."""
        for _ in range(20):
            try:
                act()
                done = True
            except SSL.WantReadError:
                done = False
            except SSL.Error as error:
                self.error, done = error, True
            self._carry()
            if done:
                return

    def _carry(self) -> None:
        try:
            told = self.tls.bio_read(1 << 20)
        except SSL.WantReadError:
            told = b""
        answered = self.line.carry(told)
        if answered:
            self.tls.bio_write(answered)

    def say(self, data: bytes) -> bytes:
        """Send it, and return what comes back."""
        if self.error is not None:
            return b""
        self._step(lambda: self.tls.sendall(data) if data else None)
        received = b""
        try:
            while True:
                received += self.tls.recv(65536)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.error = error
        return received

    @property
    def shown(self) -> Any:
        """The certificate that the server has shown."""
        certificate = self.tls.get_peer_certificate()
        return None if certificate is None else certificate.to_cryptography()

    @property
    def is_resumed(self) -> bool:
        """Whether the session was taken up that it came with."""
        return bool(lib.SSL_session_reused(self.tls._ssl))


def client_files(folder: Path, authority: Identity, revoked: bytes | None = None) -> ClientFiles:
    """The files of C{authority} in a folder, and of what it has revoked."""
    paths = folder / "clients.pem", folder / "revoked.pem"
    paths[0].write_bytes(authority.certificates)
    if revoked is None:
        return ClientFiles(paths[0])
    paths[1].write_bytes(revoked)
    return ClientFiles(*paths)


def replace(path: Path, content: bytes) -> None:
    """Write a file anew, as another file of the same name."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.rename(path)
