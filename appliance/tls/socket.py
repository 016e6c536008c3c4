"""OpenSSL's connection as a socket: what a transport reads, writes and sends files with."""

from __future__ import annotations

import os
import socket
import threading
from errno import EINTR, EWOULDBLOCK
from typing import Any, NoReturn

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

RECORD = 16 * 1024
"""The most bytes that one record of TLS carries (RFC 8446 section 5.1)."""

# Bytes of a file that are encrypted by one call.
_PIECE = 256 * 1024


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
