"""
A server connection that speaks TLS on its own socket: what is written is encrypted straight into the socket, and what
arrives is decrypted straight from it.

OpenSSL does the reading and writing. Between it and a L{SendfileServer} stands L{TlsSocket}, which has the manners of a
socket that does not block; so a connection over TLS differs from one without in how it begins, in how it ends, and in
that bytes of a file pass through this process.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from errno import EINTR, EWOULDBLOCK
from functools import partial
from typing import Any, NoReturn

from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib
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

RECORD = 16 * 1024
"""The most bytes that one record of TLS carries (RFC 8446 section 5.1)."""

# Records that are read from one connection before the reactor looks at the next one.
_RECORDS = 4
# Bytes of a file that are encrypted by one call.
_PIECE = 256 * 1024

CLOSED_WITHIN = 10.0
"""Seconds that a client has to answer that it closes the connection, too; one that is gone never does."""

# What OpenSSL calls a client that shows none.
_WITHOUT_CERTIFICATE = "peer did not return a certificate"

_TEXT = b"Client sent an HTTP request to an HTTPS server.\n"
_WITHOUT_TLS = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + _TEXT


class _PieceBuffer(threading.local):
    """The bytes between a file or a client and this process: those of one call, of one thread."""

    def __init__(self) -> None:
        self.bytes = memoryview(bytearray(_PIECE))
        self.start = ffi.from_buffer(self.bytes)


_buffer = _PieceBuffer()


class TlsSocket(SSL.Connection):
    """
    OpenSSL's connection with the manners of a socket: what would block is a L{BlockingIOError}, a connection that has
    failed is a L{ConnectionError}, and where the other end has closed there is nothing to be read.

    @ivar unfinished: bytes that the next L{send} has to offer again at the least, the same ones: OpenSSL has encrypted
        some of them already, and the network did not take them.
    @ivar plain: the socket.
    @ivar reads_first: that L{send} waits until something can be read, as it says by an L{InterruptedError};
        C{writes_first} is the other way round. A client may bring that about whenever it likes (RFC 8446 section
        4.6.3), so that neither may be waited for by what the network is ready for anyway.

    It is used by one thread at a time: between L{lend} and L{take_back} by another one than the reactor's.
    """

    unfinished = 0
    reads_first = False
    writes_first = False
    _is_lent = False
    # Whether the other end was told that nothing follows.
    _is_told = False

    def __init__(self, context: SSL.Context, plain: socket.socket) -> None:
        super().__init__(context, plain)
        self.plain = plain
        # Without this mode one call encrypts all that it is given. With it, it comes back after each record, and
        # several threads spend their time in waiting for the interpreter: 80 MB to 4 clients went from 1,120-1,350 MB/s
        # to 1,540-1,620, to one from 1,025 to 1,390.
        # With the other one, a call that reads goes on while all that comes are changes of keys, and a client can send
        # these for as long as it likes.
        lib.SSL_clear_mode(self._ssl, lib.SSL_MODE_ENABLE_PARTIAL_WRITE | lib.SSL_MODE_AUTO_RETRY)
        self.set_accept_state()

    def recv(self, size: int, flags: int | None = None) -> bytes:
        """As C{socket.recv}: what one record carries. Nothing of it stays inside OpenSSL where C{size} is L{RECORD}."""
        # As pyOpenSSL has it, but for what it allocates and asks each time.
        count = lib.SSL_read(self._ssl, _buffer.start, size)
        if count > 0:
            return bytes(_buffer.bytes[:count])
        try:
            self._raise_ssl_error(self._ssl, count)
        except SSL.WantReadError:
            pass
        except SSL.WantWriteError:
            self.writes_first = True
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            self._fail(error)
        raise BlockingIOError(EWOULDBLOCK, "nothing has come")

    def send(self, data: Any, flags: int = 0) -> int:
        """As C{socket.send}; bytes of the payload are counted."""
        if not data:
            return 0
        if len(data) > _PIECE:
            data = memoryview(data)[: max(_PIECE, self.unfinished)]
        count: int = lib.SSL_write(self._ssl, ffi.from_buffer(data), len(data))
        if count > 0:
            self.unfinished = 0
            return count
        self.unfinished = len(data)
        try:
            self._raise_ssl_error(self._ssl, count)
        except SSL.WantWriteError:
            pass
        except SSL.WantReadError:
            self.reads_first = True
            raise InterruptedError(EINTR, "something is to be read first") from None
        except SSL.Error as error:
            self._fail(error)
        raise BlockingIOError(EWOULDBLOCK, "the network takes nothing")

    def sendfile(self, file: int, offset: int, count: int) -> int:
        """As C{os.sendfile}, but no more than a piece."""
        piece = _buffer.bytes[: max(min(count, _PIECE), self.unfinished)]
        return self.send(piece[: os.preadv(file, [piece], offset)])

    def lend(self, fd: int) -> None:
        """From now on another thread uses it, on a descriptor of its own."""
        self._is_lent = True
        lib.SSL_set_fd(self._ssl, fd)

    def take_back(self) -> None:
        """That thread uses it no more."""
        if self._is_lent:
            self._is_lent = False
            lib.SSL_set_fd(self._ssl, self.plain.fileno())

    def shutdown(self, how: int = socket.SHUT_WR) -> bool:
        """As C{socket.shutdown}, but the other end is told first that nothing follows (RFC 8446 section 6.1)."""
        try:
            if not self._is_lent and not self._is_told:
                super().shutdown()
                self._is_told = True
        except (SSL.WantWriteError, SSL.WantReadError):
            raise BlockingIOError(EWOULDBLOCK, "the network takes nothing") from None
        except SSL.Error:
            # It is gone, or was never there.
            lib.ERR_clear_error()
        self.plain.shutdown(how)
        return True

    @staticmethod
    def _fail(error: SSL.Error) -> NoReturn:
        # OpenSSL keeps a list of errors for each thread. What was left there by this connection would be taken for the
        # error of the next one whose bytes have not come yet.
        lib.ERR_clear_error()
        raise ConnectionResetError(str(error)) from error


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
