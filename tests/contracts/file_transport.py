"""What every server connection promises that sends files, wherever it is cut."""

from __future__ import annotations

import os
import queue
import select
import socket
import struct
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from appliance.flow.pace import Pace
from appliance.flow.sendfile import SendfileServer
from appliance.interfaces import IFileTransport

SIZE = 24 * 1024 * 1024
"""Bytes: more than the buffers of both ends hold, so that a client that reads nothing holds it up in the middle."""

DATA = os.urandom(SIZE)
TURN = 0.005
"""Seconds that a turn of the reactor waits for threads."""

PATIENCE = 30.0
"""Seconds after which something did not happen."""


class LoopReactor(Clock):
    """Knows who wants to read and write, and what threads ask of it; a test says when it does any of that."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.asked: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.Queue()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        """See L{twisted.internet.interfaces.IReactorFromThreads}."""
        self.asked.put((function, args))

    def turn(self) -> None:
        """Everything that is to be done now; waits a little for threads."""
        self.advance(0)
        try:
            function, args = self.asked.get(timeout=TURN)
            function(*args)
        except queue.Empty:
            pass
        for each in list(self.writers):
            self._did(each, each.doWrite())
        for each in list(self.readers):
            if select.select([each.fileno()], [], [], 0)[0]:
                self._did(each, each.doRead())

    def _did(self, each: Any, why: Any) -> None:
        if why is None:
            return
        self.readers.discard(each)
        if type(why) is ConnectionDone and hasattr(each, "readConnectionLost"):
            each.readConnectionLost(Failure(why))
        else:
            self.writers.discard(each)
            each.connectionLost(Failure(why))


class Remembered(Protocol):
    """Remembers why its connection ended."""

    reason: Failure | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{Protocol.connectionLost}."""
        self.reason = reason


@implementer(IHalfCloseableProtocol)
class HalfOpen(Remembered):
    """Goes on when its client has nothing more to say."""

    def readConnectionLost(self) -> None:
        """See L{IHalfCloseableProtocol}."""

    def writeConnectionLost(self) -> None:
        """See L{IHalfCloseableProtocol}."""


class StoppedProducer:
    """Whether it was stopped."""

    stopped = 0

    def stopProducing(self) -> None:
        """The connection is gone."""
        self.stopped += 1

    def pauseProducing(self) -> None:
        """Nothing is produced."""

    def resumeProducing(self) -> None:
        """Nothing is produced."""


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class FileTransportContract(SynchronousTestCase):
    """Mix in, and say how to make the provider."""

    # The mixin itself holds no promise.
    __test__ = False

    @abstractmethod
    def begin(self) -> None:
        """Get ready what the connections of one test need."""

    @abstractmethod
    def make(self, ours: socket.socket, protocol: Protocol) -> SendfileServer:
        """A connection over that socket, made to the protocol."""

    @abstractmethod
    def stop(self) -> None:
        """End what L{begin} began, as the service does when it stops. Twice is no error."""

    def setUp(self) -> None:
        self.reactor = LoopReactor()
        self.opened = open_files()
        self.begin()
        self.file = os.memfd_create("file")
        os.pwrite(self.file, DATA, 0)
        self.sent: list[int] = []
        self.failures: list[OSError] = []
        self.received = bytearray()
        self.ended: str | None = None
        self.connect(Remembered())

    def connect(self, protocol: Remembered) -> None:
        """The connection of the test, with its client's end."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        ours.setblocking(False)
        self.client.setblocking(False)
        self.protocol = protocol
        self.server = self.make(ours, protocol)
        self.protocol.makeConnection(self.server)
        self.addCleanup(self.close, self.server, self.client)

    def close(self, server: SendfileServer, client: socket.socket) -> None:
        client.close()
        server.abortConnection()

    def tearDown(self) -> None:
        """Nothing of it stays open, whatever has happened to it."""
        os.close(self.file)
        self.addCleanup(self.nothing_is_open)

    def nothing_is_open(self) -> None:
        # Cleanups are called in the opposite order; those that close come after this one.
        self.doCleanups()
        self.reactor.advance(0)
        self.stop()
        while not self.reactor.asked.empty():
            function, args = self.reactor.asked.get()
            function(*args)
        self.assertEqual(open_files(), self.opened)

    def run_until(self, done: Callable[[], Any], is_reading: bool = True) -> None:
        for _ in range(int(PATIENCE / TURN)):
            if done():
                return
            self.reactor.turn()
            if is_reading:
                self.read()
        raise AssertionError("it did not happen")

    def read(self) -> None:
        """The client takes what there is."""
        try:
            while self.ended is None:
                data = self.client.recv(1 << 20)
                self.received += data
                if not data:
                    self.ended = "end"
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = "reset"

    def send(self, start: int = 0, length: int = SIZE) -> None:
        self.server.send_file(self.file, start, length, self.sent.append, self.failures.append)

    def get_stuck(self) -> None:
        """Send until the client, which takes nothing, holds it up."""
        seen, same = -1, 0

        def is_stuck() -> bool:
            nonlocal seen, same
            now = self.server.progress().octets
            same = same + 1 if now == seen and now else 0
            seen = now
            return same == 20

        self.run_until(is_stuck, is_reading=False)
        self.assertLess(seen, SIZE)
        self.assertTrue(self.server.progress().waiting)

    def reset(self) -> None:
        """The client is gone at once (SO_LINGER)."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()
        self.ended = "reset"

    # -- what is sent -------------------------------------------------------------------------------------------------

    def test_provides_the_interface(self) -> None:
        """By zope's C{verifyObject}."""
        verifyObject(IFileTransport, self.server)

    def test_the_file_comes_behind_its_header_and_all_of_it_is_told(self) -> None:
        """Byte for byte; what was told, and what is counted, is what has gone."""
        self.server.write(b"header")
        self.send(7, SIZE - 7)
        self.run_until(lambda: len(self.received) == SIZE - 1 and sum(self.sent) == SIZE - 7)
        self.assertEqual(bytes(self.received), b"header" + DATA[7:])
        self.assertEqual(self.server.progress(), (SIZE - 1, False))

    def test_a_connection_is_used_again(self) -> None:
        """One range after the other, large and small, and what is written between them: a connection that is kept."""
        expected = b""
        for number, (start, length) in enumerate(((0, SIZE), (5, 1), (1 << 20, 1 << 20), (9, 3 << 20), (1, 70_000))):
            self.server.write(b"%d" % number)
            self.sent.clear()
            self.send(start, length)
            self.run_until(lambda length=length: sum(self.sent) == length)  # type: ignore[misc]
            expected += b"%d" % number + DATA[start : start + length]
        self.run_until(lambda: len(self.received) == len(expected))
        self.assertEqual(bytes(self.received), expected)

    def test_what_follows_from_within_the_report_comes_behind(self) -> None:
        """The answer to a request that was sent before this one was answered, and the next part of several."""
        left, ranges = 4 << 20, [(100, 2 << 20), (50, 9)]

        def sent(count: int) -> None:
            nonlocal left
            left -= count
            if not left:
                self.server.write(b"--")
                if ranges:
                    start, left = ranges.pop(0)
                    self.server.send_file(self.file, start, left, sent, self.failures.append)

        self.server.send_file(self.file, 0, left, sent, self.failures.append)
        expected = DATA[: 4 << 20] + b"--" + DATA[100 : 100 + (2 << 20)] + b"--" + DATA[50:59] + b"--"
        self.run_until(lambda: len(self.received) == len(expected))
        self.assertEqual(bytes(self.received), expected)

    def test_one_file_at_a_time(self) -> None:
        """A second one before the first has gone is a mistake that is raised."""
        self.send()
        self.reactor.turn()
        self.assertRaises(ValueError, self.send)

    def test_what_a_client_does_not_take_waits(self) -> None:
        """It is seen to stand still, counted as far as it went, and goes on when the client does."""
        self.send()
        self.get_stuck()
        stuck = self.server.progress()
        for _ in range(20):
            self.reactor.turn()
        self.assertEqual(self.server.progress(), stuck)
        self.run_until(lambda: sum(self.sent) == SIZE)
        self.run_until(lambda: len(self.received) == SIZE)
        self.assertEqual(bytes(self.received), DATA)

    # -- the client's end ---------------------------------------------------------------------------------------------

    def test_a_client_may_be_gone_before_the_first_byte(self) -> None:
        """The connection is lost, its producer stopped once, and nobody is told of a fault of the file."""
        producer = StoppedProducer()
        self.server.registerProducer(producer, True)
        self.reset()
        self.send()
        self.run_until(lambda: self.protocol.reason, is_reading=False)
        self.assertEqual((producer.stopped, self.failures), (1, []))

    def test_a_client_may_be_gone_in_the_middle(self) -> None:
        """The same; what had gone by then was told before the producer was stopped."""
        told: list[int] = []
        producer = StoppedProducer()
        producer.stopProducing = lambda: told.append(sum(self.sent))  # type: ignore[method-assign]
        self.server.registerProducer(producer, True)
        self.send()
        self.get_stuck()
        gone = self.server.progress().octets
        self.reset()
        self.run_until(lambda: self.protocol.reason, is_reading=False)
        self.assertEqual((told, self.failures), ([gone], []))

    def test_a_client_that_says_no_more_gets_everything(self) -> None:
        """It has closed its half in the middle, where the protocol takes that."""
        self.connect(HalfOpen())
        self.send()
        self.get_stuck()
        self.client.shutdown(socket.SHUT_WR)
        self.run_until(lambda: len(self.received) == SIZE)
        self.assertEqual(bytes(self.received), DATA)
        self.assertIsNone(self.protocol.reason)

    # -- our end ------------------------------------------------------------------------------------------------------

    def test_closing_waits_for_the_file(self) -> None:
        """Asked for before the first byte or in the middle: all comes, and then the end."""
        for moment in ("at once", "in the middle"):
            self.connect(Remembered())
            self.received.clear()
            self.ended = None
            self.server.write(b"header")
            self.send()
            if moment == "in the middle":
                self.get_stuck()
            self.server.loseConnection()
            self.run_until(lambda: self.ended)
            self.assertEqual((bytes(self.received), self.ended), (b"header" + DATA, "end"), moment)
            self.run_until(lambda: self.protocol.reason)
            assert self.protocol.reason is not None
            self.protocol.reason.trap(ConnectionDone)

    def test_closing_in_the_middle_finds_a_client_that_goes(self) -> None:
        """We do not read any more then, and see it all the same."""
        self.send()
        self.get_stuck()
        self.server.loseConnection()
        self.reset()
        self.run_until(lambda: self.protocol.reason, is_reading=False)

    def test_half_closing_waits_for_the_file(self) -> None:
        """The end of our bytes comes behind the last of them, and the other direction stays open."""
        self.connect(HalfOpen())
        self.send()
        self.get_stuck()
        self.server.loseWriteConnection()
        self.run_until(lambda: self.ended)
        self.assertEqual((bytes(self.received), self.ended), (DATA, "end"))
        self.assertIsNone(self.protocol.reason)

    def test_an_abort_is_seen_at_once_also_by_a_client_that_stands_still(self) -> None:
        """A reset, no end that could be taken for that of the file; what had gone by then is told, and no more."""
        self.send()
        self.get_stuck()
        gone = self.server.progress().octets
        self.server.abortConnection()
        self.assertEqual(sum(self.sent), gone)
        self.run_until(lambda: self.ended)
        self.assertEqual(self.ended, "reset")
        self.assertTrue(DATA.startswith(self.received))
        assert self.protocol.reason is not None
        self.protocol.reason.trap(ConnectionAborted)
        self.assertEqual(sum(self.sent), gone)

    def test_a_file_that_was_closed_is_never_another_one(self) -> None:
        """After an abort its number may mean something else at once: nothing of that is sent."""
        for _ in range(20):
            self.connect(Remembered())
            self.received.clear()
            self.ended = None
            file = os.dup(self.file)
            self.server.send_file(file, 0, SIZE, self.sent.append, self.failures.append)
            self.run_until(lambda: self.received)
            self.server.abortConnection()
            os.close(file)
            other = os.memfd_create("other")
            os.truncate(other, SIZE)
            self.run_until(lambda: self.ended)
            os.close(other)
            self.assertTrue(DATA.startswith(self.received))

    def test_a_stop_of_the_service_waits_for_no_client(self) -> None:
        """One that takes nothing does not hold it up; who takes something, gets all while the process is there."""
        self.send()
        self.get_stuck()
        self.stop()
        self.run_until(lambda: len(self.received) == SIZE and sum(self.sent) == SIZE)
        self.assertEqual(bytes(self.received), DATA)

    # -- the file -----------------------------------------------------------------------------------------------------

    def test_a_file_shorter_than_promised_is_a_fault(self) -> None:
        """Told once, behind all that there was; the connection is its sender's to abort."""
        self.send(0, SIZE + 1)
        self.run_until(lambda: self.failures and len(self.received) == SIZE)
        told = [f"[Errno 5] the file ends at {SIZE}, 1 bytes too early"]
        self.assertEqual([str(each) for each in self.failures], told)
        self.assertEqual((bytes(self.received), sum(self.sent)), (DATA, SIZE))
        self.assertFalse(self.server.progress().waiting)
        self.assertIsNone(self.protocol.reason)

    def test_a_file_that_cannot_be_read_is_a_fault(self) -> None:
        """Of the file, and not of the network."""
        unreadable = os.open(f"/proc/self/fd/{self.file}", os.O_WRONLY)
        self.server.send_file(unreadable, 0, SIZE, self.sent.append, self.failures.append)
        self.run_until(lambda: self.failures)
        os.close(unreadable)
        self.assertEqual((self.sent, len(self.failures)), ([], 1))
        self.assertIsNone(self.protocol.reason)

    # -- rates --------------------------------------------------------------------------------------------------------

    def test_a_rate_holds_for_what_is_under_way(self) -> None:
        """It comes in the middle of a file; when it is gone again, the rest comes as before. No byte twice."""
        pace = Pace(self.reactor)
        self.server.pace = pace
        self.send()
        self.get_stuck()
        pace.rate = 1_000_000
        self.run_until(lambda: self.server.held)
        before = self.server.progress().octets
        began = self.reactor.seconds()
        for _ in range(100):
            self.reactor.advance(0.01)
            self.reactor.turn()
            self.read()
        allowed = (self.reactor.seconds() - began + 0.1) * 1_000_000
        self.assertLess(self.server.progress().octets - before, allowed)
        pace.rate = None
        self.run_until(lambda: len(self.received) == SIZE and sum(self.sent) == SIZE)
        self.assertEqual(bytes(self.received), DATA)
