"""
A server connection that speaks TLS on its own socket: what is written is encrypted straight into the socket, and what
arrives is decrypted straight from it.

OpenSSL does the reading and writing. Between it and a L{SendfileServer} stands L{TlsSocket}, which has the manners of a
socket that does not block; so a connection over TLS differs from one without in how it begins, in how it ends, and in
that bytes of a file pass through this process.
"""

from __future__ import annotations

import select
import socket
from functools import partial
from typing import Any

from OpenSSL import SSL, crypto
from OpenSSL._util import lib
from twisted.internet import main
from twisted.internet.interfaces import IDelayedCall, ISSLTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.flow.clock import wall
from appliance.flow.pump import Step
from appliance.flow.sendfile import SendfileServer
from appliance.settings import SAN, SUBJECT
from appliance.tls.certificates import said_by
from appliance.tls.clients import names_in
from appliance.tls.proxied import LONGEST_HEADER, ProxiedConnection
from appliance.tls.server import TlsServer
from appliance.tls.socket import RECORD, TlsSocket

# Records that are read from one connection before the reactor looks at the next one.
_RECORDS = 4

CLOSED_WITHIN = 10.0
"""Seconds that a client has to answer that it closes the connection, too; one that is gone never does."""

# What OpenSSL calls a client that shows none.
_WITHOUT_CERTIFICATE = "peer did not return a certificate"

_TEXT = b"Client sent an HTTP request to an HTTPS server.\n"
_WITHOUT_TLS = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + _TEXT


@implementer(ISSLTransport)
class TlsConnection(SendfileServer):
    """
    One connection over TLS. Bytes of the payload are counted and paced, without what TLS adds (22 for each 16 KiB).

    @ivar tls: what it shows, and whom it believes.
    @ivar trust: whom its client's certificate was last verified by.
    """

    socket: Any
    _shown: crypto.X509 | None = None
    _shown_until = 0.0
    _is_anonymous = False
    _is_refused = False
    # Whether nothing has come yet, and whether the handshake is done; what runs when all has been said.
    _is_first = True
    _is_open = False
    # Whether bytes are wanted, and whether OpenSSL cannot be asked for them now.
    _is_reading = False
    _is_reading_later = False
    _closing: IDelayedCall | None = None

    def __init__(self, tls: TlsServer, plain: socket.socket, protocol: Any, *of_port: Any) -> None:
        super().__init__(plain, protocol, *of_port)
        self.tls, self.trust = tls, tls.trust
        self.socket = TlsSocket(tls.front, plain)
        self.socket.set_app_data(self)
        # Where a balancer says first for whom the connection is.
        self._proxied = protocol if isinstance(protocol, ProxiedConnection) else None

    # -- the beginning ------------------------------------------------------------------------------------------------

    def _shake_hands(self) -> Any:
        """Go on with what stands before the first byte of the payload; C{None} when that is to be waited for, too."""
        if self._proxied is not None and self._proxied.is_waiting:
            return self._take_header(self._proxied)
        try:
            if self._is_first:
                # A handshake begins with 0x16, a request with the letters of its method.
                if self.socket.plain.recv(1, socket.MSG_PEEK).isalpha():
                    return self._tell_of_tls()
                self._is_first = False
            self.socket.do_handshake()
        except (BlockingIOError, SSL.WantReadError):
            self.stopWriting()
        except SSL.WantWriteError:
            self.startWriting()
        except (OSError, SSL.Error) as error:
            lib.ERR_clear_error()
            why = said_by(error)
            if why == _WITHOUT_CERTIFICATE:
                self.refuse("certificate", "it has shown none, and one is required")
            elif why:
                # One that the client left is not told of.
                self.refuse("handshake", why)
            return main.CONNECTION_LOST
        else:
            self._is_open = True
            if self._has_more or self.disconnecting or self._writeDisconnecting:
                self.startWriting()
            else:
                self.stopWriting()
        return None

    def _take_header(self, proxied: ProxiedConnection) -> Any:
        """Take the header of a balancer from the socket, and not a byte of what follows: that is for OpenSSL."""
        plain = self.socket.plain
        try:
            data = plain.recv(LONGEST_HEADER, socket.MSG_PEEK)
            if not data:
                return main.CONNECTION_DONE
            plain.recv(proxied.take(data))
        except BlockingIOError:
            pass
        except OSError:
            return main.CONNECTION_LOST
        return None

    def _tell_of_tls(self) -> None:
        """Who speaks HTTP without TLS is told so, as Go's servers do."""
        plain = self.socket.plain
        plain.recv(RECORD)
        plain.send(_WITHOUT_TLS)
        plain.shutdown(socket.SHUT_WR)
        self._await_end()

    def refuse(self, what: str, why: str) -> None:
        """The handshake fails for this reason, which the client is not told in these words; see L{Refused}."""
        if not self._is_refused:
            self._is_refused = True
            self.tls.refused(what, str(getattr(self.client_end.getPeer(), "host", "-")), why)

    @property
    def client_end(self) -> Any:
        """What says who the client is and where it connected to, by C{getPeer} and C{getHost}."""
        return self._proxied or self

    # -- in between ---------------------------------------------------------------------------------------------------

    def doRead(self) -> Any:
        """Take a record, or several where a client sends full ones."""
        if self._closing is not None:
            return self._read_end()
        result: Any = None
        if not self._is_open:
            result = self._shake_hands()
            if not self._is_open:
                return result
        pieces: list[bytes] = []
        try:
            # Of bytes that have not come OpenSSL is not asked in vain: full records come one after another, and what
            # is shorter is the end.
            while not pieces or (len(pieces[-1]) == RECORD and len(pieces) < _RECORDS):
                data = self.socket.recv(RECORD)
                if not data:
                    # A protocol that goes on all the same reads no more.
                    self.stopReading()
                    result = main.CONNECTION_DONE
                    break
                pieces.append(data)
        except BlockingIOError:
            if self.socket.writes_first:
                self._read_later()
                self.startWriting()
        except ConnectionError:
            result = main.CONNECTION_LOST
        if self.socket.reads_first:
            self.socket.reads_first = False
            self.startWriting()
        if pieces:
            self.protocol.dataReceived(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return result

    def startReading(self) -> None:
        """As Twisted's; it is begun when OpenSSL can be asked."""
        self._is_reading = True
        if not self._is_reading_later:
            super().startReading()

    def stopReading(self) -> None:
        """As Twisted's."""
        self._is_reading = False
        super().stopReading()

    def _read_later(self) -> None:
        self._is_reading_later = True
        super().stopReading()

    def _read_again(self) -> None:
        self._is_reading_later = False
        if self._is_reading and self.connected:
            super().startReading()

    def doWrite(self) -> Any:
        """See L{SendfileServer.doWrite}."""
        if not self._is_open:
            return main.CONNECTION_DONE if self.disconnecting else self._shake_hands()
        if self.socket.writes_first:
            self.socket.writes_first = False
            self._read_again()
        result = super().doWrite()
        if self.socket.reads_first:
            self.stopWriting()
        return result

    def writeSomeData(self, data: bytes) -> Any:
        """See L{SendfileServer.writeSomeData}; what OpenSSL wants to be offered again goes before any limit."""
        limit = max(self.SEND_LIMIT if self._pace is None else self._granted, self.socket.unfinished)
        try:
            count = self.socket.send(memoryview(data)[:limit])
        except (BlockingIOError, InterruptedError):
            return 0
        except ConnectionError:
            return main.CONNECTION_LOST
        self._count(count)
        return count

    def _send_piece(self, fd: int, start: int, length: int) -> int:
        count: int = self.socket.sendfile(fd, start, length)
        return count

    # While a thread sends, it alone uses OpenSSL. So nothing is read meanwhile: as soon as something comes, or the
    # client closes, the rest is the reactor's to send.

    @property
    def _gives_way_to(self) -> int:  # type: ignore[override]
        return select.EPOLLIN | select.EPOLLRDHUP if self._is_reading else 0

    def _make_step(self, out: int, file: int) -> Step:
        self.socket.lend(out)
        return partial(self.socket.sendfile, file)

    def _hand_over(self, part: Any) -> bool:
        is_over = super()._hand_over(part)
        if is_over:
            self._read_later()
        else:
            self.socket.take_back()
        return is_over

    def _take_back(self) -> None:
        super()._take_back()
        self.socket.take_back()
        self._read_again()

    def getPeerCertificate(self) -> crypto.X509 | None:
        """See L{ISSLTransport.getPeerCertificate}."""
        certificate: crypto.X509 | None = self.socket.get_peer_certificate() if self._is_open else None
        return certificate

    def client_names(self, which: str) -> tuple[str, ...] | None:
        """See L{appliance.tls.peers.names_of}."""
        trust = self.tls.trust
        if trust is None or self._is_anonymous or not self._is_open or not self.connected:
            return None
        if self._shown is None:
            self._shown = self.socket.get_peer_certificate()
            if self._shown is None:
                self._is_anonymous = True
                return None
            certificate = self._shown.to_cryptography()
            self._shown_until = certificate.not_valid_after_utc.timestamp()
            self._names = {each: names_in(certificate, each) for each in (SUBJECT, SAN)}
        now = wall(self.tls.clock)
        if now >= self._shown_until:
            return None
        if self.trust is not trust or (trust.until is not None and now >= trust.until):
            # A handshake would end otherwise by now.
            if not trust.believes(self._shown, self.socket.get_peer_cert_chain() or (), now):
                return None
            self.trust = trust
        return self._names[which]

    # -- the end ------------------------------------------------------------------------------------------------------

    def _postLoseConnection(self) -> BaseException | None:
        """All was handed over: that is said, too, and the other end has some time to say the same."""
        result = super()._postLoseConnection()
        if result is None:
            return None
        try:
            self.socket.shutdown()
        except BlockingIOError:
            self.startWriting()
        except OSError:
            return result
        else:
            self._await_end()
        return None

    def _closeWriteConnection(self) -> None:
        # Twisted's calls it closed, too, where the network did not take that this is the end.
        try:
            if self._range is None:
                self.socket.shutdown()
        except BlockingIOError:
            self._writeDisconnected = False
            self.startWriting()
        except OSError:
            # It is gone, which is found when it is read.
            pass
        else:
            super()._closeWriteConnection()

    def _await_end(self) -> None:
        # Closed at once, what the client sends meanwhile would reset the connection, and it might not read the last.
        self._closing = self.tls.clock.callLater(CLOSED_WITHIN, self.connectionLost, Failure(main.CONNECTION_DONE))
        self.stopWriting()
        self.startReading()

    def _read_end(self) -> Any:
        try:
            return None if self.socket.plain.recv(RECORD) else main.CONNECTION_DONE
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_DONE

    def connectionLost(self, reason: Failure) -> None:
        """See L{SendfileServer.connectionLost}."""
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        super().connectionLost(reason)
