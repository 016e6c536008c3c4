"""
A TCP server transport that sends files with C{sendfile(2)}, and the reactor facade that installs it.

The transport is chosen by L{twisted.internet.tcp.Port}, and the Port by C{reactor.listenTCP}; so an endpoint built on
L{SendfileReactor} listens with it, whatever its description says. The connections of a TLS endpoint are a kind of it:
see L{appliance.tls.transport}.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import termios
from collections.abc import Callable
from fcntl import ioctl
from functools import partial
from typing import Any, NamedTuple

from twisted.internet import main, tcp
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, ISSLTransport
from twisted.python.compat import lazyByteSlice
from zope.interface import implementer

from appliance.flow.epoll import Epoll
from appliance.flow.pace import Pace
from appliance.flow.pump import Pump, PumpedPart, Step
from appliance.interfaces import IFileTransport

# The most one connection sends before the reactor looks at the next one.
PIECE = 1024 * 1024
# Connections that wait to be accepted, where Twisted has 50: of a thousand that come at once the others would send
# their first request again, 0.2 s or more later. The kernel has its own limit (net.core.somaxconn).
BACKLOG = 1024
# The most connections that are accepted before those that are open are looked at: one takes 0.1 ms.
ACCEPTS = 32
# The least of a range that is left to a thread: handing over and taking back costs more than sending less.
PUMPED = 2 * 1024 * 1024
# What sendfile(2) says of the network, beside what Python has names for; everything else is about the file.
_NETWORK = frozenset({errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH})


class _FileRange(NamedTuple):
    fd: int
    start: int
    length: int
    sent: Callable[[int], None]
    failed: Callable[[OSError], None]
    # Whether threads may send it: not once one could not.
    is_for_threads: bool = True


class Progress(NamedTuple):
    """
    How far a connection is.

    @ivar octets: bytes handed to the network since it was made.
    @ivar waiting: whether more are to be, which the network does not take now.
    """

    octets: int
    waiting: bool


@implementer(IFileTransport)
class SendfileServer(tcp.Server):
    """
    A server connection that, once its own buffer is empty, sends a range of a file. Where it has a L{Pace}, it asks
    that before whatever it sends; where it has none, or that has no rate, a L{Pump} sends a large range for it.

    @ivar pump: that of its port.
    """

    _range: _FileRange | None = None
    # The range, while a thread sends it, and how far it was when that was last counted.
    _pumped: PumpedPart | None = None
    _counted = 0
    _octets = 0
    _pace: Pace | None = None
    _held = False
    # Bytes that may be sent by this call of doWrite.
    _granted = 0

    # Events for which a thread gives a range back.
    _gives_way_to = 0

    # Twisted knows a port of its own kind only.
    server: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pump: Pump | None = self.server.pump

    def send_file(
        self,
        fd: int,
        start: int,
        length: int,
        sent: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> None:
        """See L{IFileTransport.send_file}."""
        if self._range is not None:
            raise ValueError("a file range is under way already")
        if length > 0 and self.connected:
            self._range = _FileRange(fd, start, length, sent, failed)
            self.startWriting()

    def progress(self) -> Progress:
        """How far it is. Immediate."""
        pumped = 0 if self._pumped is None else self._pumped.offset - self._counted
        return Progress(self._octets + pumped, self._has_more and not self._held)

    @property
    def held(self) -> bool:
        """Whether there is more to be sent, which waits for its turn and not for the network."""
        return self._held and self._has_more

    def unacknowledged(self) -> int:
        """Bytes that were handed to the system, and have not reached the other end as far as is known. Immediate."""
        try:
            return int(struct.unpack("i", ioctl(self.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
        except OSError:
            # It is closed, or no TCP.
            return 0

    @property
    def pace(self) -> Pace | None:
        """What is asked before anything is sent, C{None} for nothing; may be set at any time."""
        return self._pace

    @pace.setter
    def pace(self, pace: Pace | None) -> None:
        if pace is self._pace:
            return
        if self._pace is not None:
            self._pace.leave(self)
        self._pace = pace if self.connected else None
        if self._pace is not None:
            self._pace.join(self)
        self.go_on()

    def go_on(self) -> None:
        """It was held back, and may ask again."""
        if self._held:
            self._held = False
            if self.connected:
                self.startWriting()

    def slow_down(self) -> None:
        """There is a rate from now on: it asks before the next piece."""
        if self._pumped is not None:
            self._count_pumped(self._pumped)
            self._pumped.give_back()

    def startWriting(self) -> None:
        """As Twisted's; one that is held back, or whose range a thread sends, waits for that whatever there is."""
        if not self._held and self._pumped is None:
            super().startWriting()

    @property
    def _has_more(self) -> bool:
        return self._range is not None or bool(self.dataBuffer) or self._tempDataLen > 0

    def write(self, data: bytes) -> None:
        """
        As Twisted's, but sent at once where nothing stands before it, which saves two calls of the system and a turn
        of the reactor. What the network does not take is kept; what is wrong with it is found when that is sent, so
        that nothing here calls the protocol.
        """
        if (
            self._tempDataLen
            or self.dataBuffer
            or self._range is not None
            or not self.connected
            or self._aborting
            or self._writeDisconnecting
            or self.TLS
            or (self._pace is not None and self._pace.rate is not None)
            # One that is pulled is asked for more when its data has been written.
            or (self.producer is not None and not self.streamingProducer)
        ):
            super().write(data)
            return
        try:
            count = self.socket.send(data)
        except OSError:
            super().write(data)
            return
        self._count(count)
        if count < len(data):
            super().write(data[count:])

    def doRead(self) -> Any:
        """As Twisted's, without a call between."""
        try:
            data = self.socket.recv(self.bufferSize)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def writeSomeData(self, data: bytes) -> Any:
        """
        As Twisted's; what the network takes is counted. A head goes out in one packet with the beginning of its range:
        alone it would wake the client one time more.
        """
        if self._pace is not None:
            data = lazyByteSlice(data, 0, self._granted)
        more = 0 if self._range is None else socket.MSG_MORE
        try:
            count = self.socket.send(memoryview(data)[: self.SEND_LIMIT], more)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            return 0 if error.errno == errno.ENOBUFS else main.CONNECTION_LOST
        self._count(count)
        return count

    def _count(self, octets: int) -> None:
        self._octets += octets
        if self._pace is not None:
            self._pace.spend(octets)

    def doWrite(self) -> Any:
        """Send what was written first, then the file range; both at once where the network takes them."""
        if self._pace is not None and self._has_more:
            self._granted = self._pace.grant(self)
            if not self._granted:
                self.stopWriting()
                self._held = True
                return None
        if self._range is None or self.dataBuffer or self._tempDataLen:
            result = super().doWrite()
            if result is not None or self._range is None or not self.connected:
                return result
            # Twisted's has stopped writing when nothing was left of what was written.
            self.startWriting()
            if self.dataBuffer or self._tempDataLen:
                return None
        return self._send_range(self._range)

    # -- by a thread --------------------------------------------------------------------------------------------------

    def _hand_over(self, part: _FileRange) -> bool:
        """Let a thread send it; whether one does."""
        if self.pump is None or (self._pace is not None and self._pace.rate is not None):
            return False
        self._pumped = self.pump.send(
            self.fileno(), part.fd, self._make_step, part.start, part.length, self._pump_progressed, self._gives_way_to
        )
        if self._pumped is None:
            return False
        self._counted = part.start
        self.stopWriting()
        return True

    def _make_step(self, out: int, file: int) -> Step:
        return partial(os.sendfile, out, file)

    def _pump_progressed(self, pumped: PumpedPart) -> None:
        part = self._range
        if pumped is not self._pumped or part is None:
            return
        is_back = pumped.is_back
        self._count_pumped(pumped)
        rest = pumped.stop - self._counted
        # What the thread failed with is met again, and answered, by the reactor's own attempt.
        is_for_threads = not is_back or pumped.is_wanted_back
        self._range = part._replace(start=self._counted, length=rest, is_for_threads=is_for_threads) if rest else None
        if is_back or not rest:
            self._take_back()
            if self._has_more or self.disconnecting or self._writeDisconnecting:
                self.startWriting()
        if self._counted > part.start:
            part.sent(self._counted - part.start)

    def _take_back(self) -> None:
        """The thread sends nothing more of it."""
        self._pumped = None

    def _count_pumped(self, pumped: PumpedPart) -> None:
        now = pumped.offset
        octets, self._counted = now - self._counted, now
        self._count(octets)

    def _stop_pumping(self) -> None:
        """The connection ends: what has gone is told, and nothing more goes after the piece under way."""
        if self._pumped is not None:
            self._pump_progressed(self._pumped)
        if self._pumped is not None:
            self._pumped.give_back()
            self._pumped = None

    # -- by the reactor -----------------------------------------------------------------------------------------------

    def _send_range(self, part: _FileRange) -> BaseException | None:
        if part.length >= PUMPED and part.is_for_threads and self._hand_over(part):
            return None
        try:
            most = PIECE if self._pace is None else min(PIECE, self._granted)
            count = self._send_piece(part.fd, part.start, min(part.length, most))
        except (BlockingIOError, InterruptedError):
            return None
        except (ConnectionError, TimeoutError):
            return main.CONNECTION_LOST
        except OSError as error:
            if error.errno in _NETWORK:
                return main.CONNECTION_LOST
            self._fail(part, error)
            return None
        if count == 0:
            self._fail(part, OSError(errno.EIO, f"the file ends at {part.start}, {part.length} bytes too early"))
            return None
        self._count(count)
        if count == part.length:
            self._range = None
            # What was asked for meanwhile, to close, is done by the next call.
            if not (self.disconnecting or self._writeDisconnecting):
                self.stopWriting()
        else:
            self._range = part._replace(start=part.start + count, length=part.length - count)
        part.sent(count)
        return None

    def _send_piece(self, fd: int, start: int, length: int) -> int:
        """Hand bytes of the file to the network; how many."""
        return os.sendfile(self.fileno(), fd, start, length)

    def _fail(self, part: _FileRange, error: OSError) -> None:
        """The file cannot be read: nothing more of it is sent, and the response cannot be completed."""
        self._range = None
        self.stopWriting()
        part.failed(error)

    def _postLoseConnection(self) -> BaseException | None:
        # A range under way is data to be written before the connection closes.
        return None if self._range is not None else super()._postLoseConnection()

    def _closeWriteConnection(self) -> None:
        if self._range is not None:
            self._writeDisconnected = False
        else:
            super()._closeWriteConnection()

    def abortConnection(self) -> None:
        """As Twisted's; a thread stops as soon as it can."""
        self._stop_pumping()
        super().abortConnection()

    def connectionLost(self, reason: Any) -> None:
        """Drop the range; the producer is stopped by the connection that it is registered with."""
        self._stop_pumping()
        self._range = None
        self.pace = None
        super().connectionLost(reason)


class SendfilePort(tcp.Port):
    """
    A listening TCP port whose connections can send files.

    @ivar pump: sends large parts of them, C{None} where the reactor does.
    """

    transport: Any = SendfileServer
    pump: Pump | None = None

    def doRead(self) -> None:
        """Accept connections, as many as wait and no more than C{ACCEPTS}: the others are served meanwhile."""
        self.numberAccepts = min(self.numberAccepts, ACCEPTS)
        super().doRead()


class SendfileReactor(Epoll):
    """
    The reactor as server endpoints see it, with L{SendfilePort} for every TCP port, given descriptors included. It
    watches these and their connections itself.
    """

    def __init__(self, reactor: Any, pump: Pump | None = None) -> None:
        super().__init__(reactor)
        self._pump = pump

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        """See L{twisted.internet.interfaces.IReactorTCP.listenTCP}."""
        listening = SendfilePort(port, factory, max(backlog, BACKLOG), interface, self)
        listening.pump = self._pump
        listening.startListening()
        return listening

    def adoptStreamPort(self, fileno: int, family: int, factory: IProtocolFactory) -> IListeningPort:
        """See L{twisted.internet.interfaces.IReactorSocket.adoptStreamPort} (socket activation)."""
        if family == socket.AF_UNIX:
            adopted: IListeningPort = self._reactor.adoptStreamPort(fileno, family, factory)
            return adopted
        listening: SendfilePort = SendfilePort._fromListeningDescriptor(self, fileno, family, factory)
        listening.pump = self._pump
        listening.startListening()
        return listening


def connection_of(transport: Any) -> SendfileServer | None:
    """The connection itself, whatever stands before its socket (TLS, PROXY); C{None} where it is none of ours."""
    while transport is not None and not isinstance(transport, SendfileServer):
        transport = getattr(transport, "transport", None)
    return transport


def progress(transport: Any) -> Progress | None:
    """How far a connection is, whatever stands before its socket; C{None} when that is not known."""
    connection = connection_of(transport)
    return None if connection is None else connection.progress()


def file_transport(transport: object) -> IFileTransport | None:
    """
    The transport's L{IFileTransport} when bytes of a file reach the client as what is written does.

    Twisted's TLS, such as an endpoint of a plugin may have, claims every interface of the transport below it, so that
    being asked alone is not enough.
    """
    is_encrypted = ISSLTransport.providedBy(transport)
    if IFileTransport.providedBy(transport) and is_encrypted == ISSLTransport.providedBy(connection_of(transport)):
        return transport
    return None
