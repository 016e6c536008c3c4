"""The transport that sends files: in order with what is written, whole or not at all, and never past TLS."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any
from unittest import mock

from twisted.internet import main
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from appliance.flow import sendfile
from appliance.flow.pace import Pace
from appliance.flow.sendfile import SendfilePort, SendfileReactor, SendfileServer, file_transport
from appliance.interfaces import IFileTransport

DATA = os.urandom(3 * 1024 * 1024)


class FakeReactor(Clock):
    """Knows who wants to read and write, and never does it by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.adopted: list[tuple[int, int]] = []
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def adoptStreamPort(self, fileno: int, family: int, factory: Factory) -> str:
        self.adopted.append((fileno, family))
        return "the reactor's own"


class Remembering(Protocol):
    """Remembers why its connection ended."""

    reason: Failure | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


class Port:
    """What a server connection asks of its port."""

    _realPortNumber = 5000
    pump = None


class ServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        ours, self.client = socket.socketpair()
        for each in (ours, self.client):
            each.setblocking(False)
            self.addCleanup(each.close)
        self.reactor = FakeReactor()
        self.protocol = Remembering()
        self.server = SendfileServer(ours, self.protocol, ("192.0.2.1", 1), Port(), 1, self.reactor)
        self.protocol.makeConnection(self.server)
        self.file = os.memfd_create("file")
        self.addCleanup(os.close, self.file)
        os.pwrite(self.file, DATA, 0)
        self.sent: list[int] = []
        self.failures: list[OSError] = []
        self.received = bytearray()

    def turn(self) -> None:
        """One turn of the reactor: the connection may write, if it wants to."""
        if self.server in self.reactor.writers:
            result = self.server.doWrite()
            if result is not None:
                self.server.connectionLost(Failure(result))

    def read(self) -> bool:
        """The client takes what there is; whether that was anything, the end included."""
        try:
            data = self.client.recv(1 << 20)
        except BlockingIOError:
            return False
        self.received += data
        return bool(data)

    def run_all(self) -> None:
        """Until there is nothing more to do."""
        while self.server in self.reactor.writers:
            self.turn()
            while self.read():
                pass

    def send(self, start: int = 0, length: int = len(DATA)) -> None:
        self.server.send_file(self.file, start, length, self.sent.append, self.failures.append)

    def test_provides_the_interface(self) -> None:
        """By zope's C{verifyObject}."""
        verifyObject(IFileTransport, self.server)
        self.assertIs(file_transport(self.server), self.server)

    def test_a_header_and_a_small_file_are_one_packet(self) -> None:
        """The client is not woken for the header alone."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        self.addCleanup(client.close)
        self.addCleanup(ours.close)
        ours.setblocking(False)
        self.server = SendfileServer(ours, self.protocol, ("192.0.2.1", 1), Port(), 1, self.reactor)
        self.server.writeSequence([b"head", b"er"])
        self.send(0, 100)
        while self.server in self.reactor.writers:
            self.turn()
        self.assertEqual(client.recv(1000), b"header" + DATA[:100])
        # tcpi_data_segs_out of struct tcp_info (linux/tcp.h).
        self.assertEqual(struct.unpack_from("I", ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160), 156), (1,))

    def test_a_header_goes_before_its_file(self) -> None:
        """Whatever the network takes at a time, the client gets one after the other and all of it."""
        header = b"HTTP/1.1 200 OK\r\n" + b"x" * 300_000 + b"\r\n\r\n"
        self.server.write(header)
        self.send(10, len(DATA) - 10)
        self.run_all()
        self.assertEqual(bytes(self.received), header + DATA[10:])
        self.assertEqual(sum(self.sent), len(DATA) - 10)
        self.assertNotIn(self.server, self.reactor.writers)

    def test_a_client_that_takes_nothing_keeps_no_thread_busy(self) -> None:
        """A full socket is no error and no byte is counted that did not leave."""
        self.send()
        for _ in range(50):
            self.turn()
        self.assertLess(sum(self.sent), len(DATA))
        self.assertIsNone(self.protocol.reason)
        self.run_all()
        self.assertEqual(bytes(self.received), DATA)
        self.assertEqual(sum(self.sent), len(DATA))

    def test_a_connection_sends_a_piece_at_a_time(self) -> None:
        """One fast client with a large layer does not keep the others waiting."""
        asked: list[int] = []

        def fast(out: int, fd: int, start: int, count: int) -> int:
            asked.append(count)
            return count

        with mock.patch.object(os, "sendfile", fast):
            self.send()
            self.turn()
            self.assertEqual(asked, [sendfile.PIECE])

    def test_a_paced_connection_sends_what_it_may_and_goes_on_by_itself(self) -> None:
        """Header and file alike, in order, at the rate that its client has; it is not seen to stand still."""
        pace = Pace(self.reactor)
        pace.rate = 1_000_000
        self.server.pace = pace
        header = b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000 + b"\r\n\r\n"
        self.server.write(header)
        self.send()
        for _ in range(50):
            self.turn()
            self.read()
        self.assertLess(len(self.received), 200_000)
        self.assertTrue(self.server.held)
        self.assertFalse(self.server.progress().waiting)
        began = self.reactor.seconds()
        while self.server.progress().waiting or self.server.held:
            self.reactor.advance(0.01)
            self.turn()
            self.read()
        while self.read():
            pass
        self.assertEqual(bytes(self.received), header + DATA)
        self.assertGreater(self.reactor.seconds() - began, 2.5)

    def test_one_that_is_held_can_be_closed_and_lost(self) -> None:
        """What is asked for meanwhile is done in its turn; who leaves takes up no turn."""
        pace = Pace(self.reactor)
        pace.rate = 100_000
        pace.owe(100_000)
        self.server.pace = pace
        self.server.write(b"last words")
        self.turn()
        self.assertTrue(self.server.held)
        self.server.loseConnection()
        for _ in range(200):
            self.reactor.advance(0.01)
            self.turn()
        self.read()
        self.assertEqual(bytes(self.received), b"last words")
        self.assertTrue(self.protocol.reason is not None and self.protocol.reason.check(ConnectionDone))
        self.assertFalse(pace.users)

    def test_a_pace_that_is_taken_away_holds_no_longer(self) -> None:
        """The link is not full any more."""
        pace = Pace(self.reactor)
        pace.rate = 1_000
        pace.owe(1_000_000)
        self.server.pace = pace
        self.send()
        self.turn()
        self.assertTrue(self.server.held)
        self.server.pace = None
        self.run_all()
        self.assertEqual(bytes(self.received), DATA)

    def test_what_is_written_after_a_file_comes_after_it(self) -> None:
        """The next part of a multi-range answer, and the next file, from within the report of the last."""
        ranges = [(0, 5), (7, 9)]

        def sent(count: int) -> None:
            self.server.write(b"--")
            if ranges:
                start, stop = ranges.pop(0)
                self.server.send_file(self.file, start, stop - start, sent, self.failures.append)

        sent(0)
        self.run_all()
        self.assertEqual(bytes(self.received), b"--" + DATA[0:5] + b"--" + DATA[7:9] + b"--")

    def test_one_file_at_a_time(self) -> None:
        """A second one before the first has gone is a mistake that is raised."""
        self.send()
        self.assertRaises(ValueError, self.send)

    def test_a_file_shorter_than_promised_is_reported_to_its_sender(self) -> None:
        """He aborts the connection: the client sees a cut, never a whole response with bytes missing."""
        self.send(0, len(DATA) + 1)
        self.run_all()
        told = [f"[Errno 5] the file ends at {len(DATA)}, 1 bytes too early"]
        self.assertEqual([str(error) for error in self.failures], told)
        self.assertEqual(bytes(self.received), DATA)
        self.assertFalse(self.server.progress().waiting)
        self.server.abortConnection()
        self.reactor.advance(0)
        assert self.protocol.reason is not None
        self.protocol.reason.trap(ConnectionAborted)

    def test_a_disk_that_cannot_be_read_is_reported_to_the_files_sender(self) -> None:
        """It is no fault of the client's, and nothing more of the file is sent."""
        self.send()
        with mock.patch.object(os, "sendfile", side_effect=OSError(5, "Input/output error")):
            self.assertIsNone(self.server.doWrite())
        self.assertEqual([error.errno for error in self.failures], [5])
        self.assertNotIn(self.server, self.reactor.writers)
        self.assertIsNone(self.protocol.reason)

    def test_what_is_written_to_an_idle_connection_leaves_at_once(self) -> None:
        """An answer from memory waits for no turn of the reactor."""
        self.server.write(b"answer")
        self.assertEqual(self.server.progress(), (6, False))
        self.assertNotIn(self.server, self.reactor.writers)
        self.read()
        self.assertEqual(bytes(self.received), b"answer")

    def test_what_the_network_does_not_take_is_kept_in_order(self) -> None:
        """The producer is paused meanwhile, and goes on when it has gone."""
        producer = mock.Mock()
        self.server.registerProducer(producer, True)
        self.server.write(DATA)
        self.server.write(b"the end")
        producer.pauseProducing.assert_called()
        self.assertTrue(self.server.progress().waiting)
        self.run_all()
        self.assertEqual(bytes(self.received), DATA + b"the end")
        self.assertEqual(self.server.progress(), (len(DATA) + 7, False))
        producer.resumeProducing.assert_called()

    def test_what_is_written_to_a_client_that_left_is_an_end_and_no_error(self) -> None:
        """Its protocol hears of that from the reactor, never from within what it writes."""
        self.client.close()
        self.server.write(b"answer")
        self.assertIsNone(self.protocol.reason)
        self.turn()
        self.assertIsNotNone(self.protocol.reason)

    def test_a_producer_that_is_pulled_is_asked_for_more(self) -> None:
        """Though all that it wrote has left."""
        pieces = [b"c", b"b", b"a"]
        producer = mock.Mock()
        producer.resumeProducing = lambda: self.server.write(pieces.pop()) if pieces else None
        self.server.registerProducer(producer, False)
        self.run_all()
        self.assertEqual(bytes(self.received), b"abc")

    def test_nothing_is_written_after_the_end(self) -> None:
        """Neither to one that is aborted, nor after our half was closed."""
        self.server.loseWriteConnection()
        self.run_all()
        self.server.write(b"late")
        self.server.abortConnection()
        self.server.write(b"later")
        self.run_all()
        self.assertEqual(bytes(self.received), b"")

    def test_what_left_is_counted_and_what_waits_is_seen(self) -> None:
        """Bytes of both kinds, so that a client that takes nothing differs from one with nothing to take."""
        self.assertEqual(self.server.progress(), (0, False))
        self.server.writeSequence([b"head", b"er"])
        self.assertEqual(self.server.progress(), (0, True))
        self.send()
        for _ in range(50):
            self.turn()
        stuck = self.server.progress()
        self.assertEqual(stuck, (6 + sum(self.sent), True))
        self.turn()
        self.assertEqual(self.server.progress(), stuck)
        self.run_all()
        self.assertEqual(self.server.progress(), (6 + len(DATA), False))

    def test_a_client_that_left_loses_the_connection(self) -> None:
        """The producer is stopped by the connection, and the file is not touched again."""
        self.client.close()
        producer = mock.Mock()
        self.server.registerProducer(producer, True)
        self.send()
        self.turn()
        assert self.protocol.reason is not None
        producer.stopProducing.assert_called_once_with()
        self.assertIsNone(self.server._range)
        self.send()
        self.assertIsNone(self.server._range)
        self.assertNotIn(self.server, self.reactor.writers)

    def test_closing_waits_for_the_file_under_way(self) -> None:
        """Whether asked for before the header has gone, in the middle of the file, or with its last byte."""
        for moment in ("at once", "in the middle", "at the end"):
            self.setUp()
            self.server.write(b"header")
            if moment == "at the end":
                self.server.send_file(self.file, 0, len(DATA), self._close_after(len(DATA)), self.failures.append)
            else:
                self.send()
            if moment == "in the middle":
                self.turn()
                self.turn()
            if moment != "at the end":
                self.server.loseConnection()
            self.run_all()
            self.assertEqual(bytes(self.received), b"header" + DATA, moment)
            assert self.protocol.reason is not None, moment
            self.protocol.reason.trap(ConnectionDone)

    def _close_after(self, left: int) -> Any:
        def sent(count: int) -> None:
            nonlocal left
            left -= count
            if not left:
                self.server.loseConnection()

        return sent

    def test_half_closing_waits_for_the_file_under_way(self) -> None:
        """The end of our bytes comes after the last of them, and the other direction stays open."""
        self.server.write(b"header")
        self.send()
        self.server.loseWriteConnection()
        self.run_all()
        self.assertEqual(bytes(self.received), b"header" + DATA)
        self.assertEqual(self.client.recv(1), b"")
        self.assertIsNone(self.protocol.reason)

    def test_an_aborted_connection_sends_nothing_more(self) -> None:
        """The file may be closed by its owner at once."""
        self.send()
        self.turn()
        before = sum(self.sent)
        self.server.abortConnection()
        with mock.patch.object(os, "sendfile", side_effect=AssertionError):
            self.server.doWrite()
            self.reactor.advance(0)
        self.assertEqual(sum(self.sent), before)
        self.assertIsNone(self.server._range)
        self.assertNotIn(self.server, self.reactor.writers)

    def test_a_signal_is_no_error(self) -> None:
        """An interrupted call is made again; a network that is gone loses the connection."""
        self.send()
        with mock.patch.object(os, "sendfile", side_effect=InterruptedError):
            self.assertIsNone(self.server.doWrite())
        for gone in (BrokenPipeError(32, "Broken pipe"), OSError(107, "Transport endpoint is not connected")):
            with mock.patch.object(os, "sendfile", side_effect=gone):
                self.assertIs(self.server.doWrite(), main.CONNECTION_LOST)
        self.assertEqual(self.failures, [])

    def test_bytes_of_a_file_never_go_past_tls(self) -> None:
        """A TLS wrapper claims to be a file transport when what it wraps is one; it is not taken at its word."""
        factory = Factory.forProtocol(Protocol)
        wrapper = TLSMemoryBIOFactory(CertificateOptions(), True, factory, self.reactor).buildProtocol(None)
        wrapper.makeConnection(self.server)
        self.assertTrue(IFileTransport.providedBy(wrapper), "else file_transport need not look further")
        self.assertTrue(ISSLTransport.providedBy(wrapper))
        self.assertIsNone(file_transport(wrapper))

    def test_other_transports_send_no_files(self) -> None:
        """Not every transport is ours."""
        self.assertIsNone(file_transport(object()))


class ReactorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.facade = SendfileReactor(self.reactor)

    def test_a_port_makes_connections_that_send_files(self) -> None:
        """Whatever the endpoint's description says."""
        port = self.facade.listenTCP(0, Factory(), interface="127.0.0.1")
        assert isinstance(port, SendfilePort)
        self.addCleanup(port._closeSocket, False)
        self.assertIs(port.transport, SendfileServer)
        self.assertEqual(port.backlog, sendfile.BACKLOG)
        self.assertEqual(self.facade.getReaders(), [port])
        self.assertIn(self.facade, self.reactor.readers)

    def test_an_inherited_socket_is_such_a_port(self) -> None:
        """Socket activation is as fast as a port of our own."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        listening.setblocking(False)
        port = self.facade.adoptStreamPort(listening.fileno(), socket.AF_INET, Factory())
        assert isinstance(port, SendfilePort)
        self.addCleanup(port._closeSocket, False)
        self.assertEqual(port.getHost().port, listening.getsockname()[1])
        self.assertEqual(self.facade.getReaders(), [port])

    def test_an_inherited_unix_socket_is_left_to_the_reactor(self) -> None:
        """It is no TCP port, and works as it does anywhere else."""
        self.assertEqual(self.facade.adoptStreamPort(3, socket.AF_UNIX, Factory()), "the reactor's own")
        self.assertEqual(self.reactor.adopted, [(3, socket.AF_UNIX)])

    def test_everything_else_is_the_reactors(self) -> None:
        """The facade is a reactor in all that endpoints use."""
        self.assertEqual(self.facade.seconds(), 0.0)
