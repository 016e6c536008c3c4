"""Parts of files that threads send: byte for byte, given back when asked, and nothing left open."""

from __future__ import annotations

import os
import queue
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.flow.pump import Pump, threads_for
from appliance.flow.sendfile import SendfileServer
from tests.rooms.flow.test_sendfile import FakeReactor, Port, Remembering

DATA = os.urandom(24 * 1024 * 1024)
#: Seconds after which something did not happen.
PATIENCE = 20.0


class Reactor(FakeReactor):
    """Does what threads ask of it when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.Queue()

    def callFromThread(self, function: Callable[..., None], *args: Any) -> None:
        self.asked.put((function, args))


class Connected:
    """A connection whose reactor has threads, and its client."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.pump = Pump(self.reactor, 2)
        self.pump.start()
        listening = socket.create_server(("127.0.0.1", 0))
        self.client = socket.create_connection(listening.getsockname())
        ours, peer = listening.accept()
        listening.close()
        for each in (ours, self.client):
            each.setblocking(False)
        port = Port()
        port.pump = self.pump
        self.protocol = Remembering()
        self.server = SendfileServer(ours, self.protocol, peer, port, 1, self.reactor)
        self.protocol.makeConnection(self.server)
        self.file = os.memfd_create("file")
        os.pwrite(self.file, DATA, 0)
        self.sent: list[int] = []
        self.failures: list[OSError] = []
        self.received = bytearray()

    def close(self) -> None:
        self.pump.stop()
        self.client.close()
        os.close(self.file)

    def send(self, start: int = 0, length: int = len(DATA)) -> None:
        self.server.send_file(self.file, start, length, self.sent.append, self.failures.append)

    def turn(self) -> None:
        """One turn of the reactor, which waits a little for a thread."""
        if self.server in self.reactor.writers:
            self.server.doWrite()
        try:
            function, args = self.reactor.asked.get(timeout=0.01)
        except queue.Empty:
            return
        function(*args)

    def run_until(self, done: Callable[[], bool]) -> None:
        for _ in range(int(PATIENCE / 0.01)):
            if done():
                return
            self.turn()
            try:
                while data := self.client.recv(1 << 20):
                    self.received += data
            except BlockingIOError:
                pass
        raise AssertionError("it did not happen")


@pytest.fixture
def connected() -> Iterator[Connected]:
    made = Connected()
    yield made
    made.close()


def test_a_thread_sends_the_file_behind_the_header(connected: Connected) -> None:
    """In order, all of it, and all of it is told."""
    connected.server.write(b"header")
    connected.send(7, len(DATA) - 7)
    connected.turn()
    assert connected.server._pumped is not None
    connected.run_until(lambda: sum(connected.sent) == len(DATA) - 7)
    connected.run_until(lambda: len(connected.received) == len(DATA) - 1)
    assert bytes(connected.received) == b"header" + DATA[7:]
    assert not any(thread.parts for thread in connected.pump._threads)
    assert connected.server.progress() == (len(DATA) - 1, False)


def test_there_is_a_thread_for_each_core_or_as_many_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none where there is one core."""
    for cores, wanted, threads in ((1, None, 0), (4, None, 4), (4, 0, 0), (1, 3, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert threads_for(wanted) == threads


def test_a_rate_that_comes_when_the_threads_have_ended_is_no_error(connected: Connected) -> None:
    """The reactor does not know yet that it has the file back; nothing is written to descriptors that are closed."""
    connected.send()
    connected.turn()
    connected.pump.stop()
    connected.server.slow_down()
    connected.run_until(lambda: sum(connected.sent) == len(DATA) == len(connected.received))
    assert bytes(connected.received) == DATA
