"""Connections in an epoll of their own: each gets its events and nobody else's, and one that fails fails alone."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import main
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet, IReadDescriptor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from appliance.flow.epoll import _EVENTS, Epoll
from appliance.flow.sendfile import ACCEPTS, SendfileReactor


class FakeReactor(Clock):
    """Knows who wants to read."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard


@implementer(IHalfCloseableDescriptor)
class Descriptor:
    """One end of a pair of sockets, that does what a test says when it may read or write."""

    def __init__(self, epoll: Epoll, log: list[str], name: str) -> None:
        self.epoll, self.log, self.name = epoll, log, name
        self.socket, self.other = socket.socketpair()
        self.socket.setblocking(False)
        self.fileno = self.socket.fileno
        self.reads: Callable[[], object] = lambda: self.socket.recv(100) and None
        self.writes: Callable[[], object] = lambda: None

    def doRead(self) -> object:
        self.log.append(f"{self.name} reads")
        return self.reads()

    def doWrite(self) -> object:
        self.log.append(f"{self.name} writes")
        return self.writes()

    def readConnectionLost(self, reason: Failure) -> None:
        self.log.append(f"{self.name} reads no more")

    def connectionLost(self, reason: Failure) -> None:
        self.log.append(f"{self.name} {reason.type.__name__}")
        self.close()

    def close(self) -> None:
        self.epoll.removeReader(self)
        self.epoll.removeWriter(self)
        self.socket.close()


class Room:
    """An epoll, its reactor, and what happened."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.epoll = Epoll(self.reactor)
        self.log: list[str] = []
        self.made: list[Descriptor] = []

    def descriptor(self, name: str, reads: bool = True) -> Descriptor:
        made = Descriptor(self.epoll, self.log, name)
        self.made.append(made)
        if reads:
            self.epoll.addReader(made)
        return made


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    for each in made.made:
        each.socket.close()
        each.other.close()


def test_it_is_what_descriptors_take_for_a_reactor(room: Room) -> None:
    """And what the reactor takes for a descriptor; time is the reactor's."""
    verifyObject(IReactorFDSet, room.epoll)
    verifyObject(IReadDescriptor, room.epoll)
    called: list[int] = []
    room.epoll.callLater(1, called.append, 1)
    room.reactor.advance(1)
    assert called == [1]


def test_the_reactor_looks_only_while_there_is_something(room: Room) -> None:
    """Nothing is left in it when the last connection is gone, and it begins anew with the next."""
    assert room.reactor.readers == set() and room.epoll.fileno() == -1
    for _ in range(2):
        first, second = room.descriptor("first"), room.descriptor("second")
        assert room.reactor.readers == {room.epoll} and room.epoll.fileno() >= 0
        first.close()
        assert room.reactor.readers == {room.epoll}
        second.close()
        assert room.reactor.readers == set()


def test_each_gets_what_it_asked_for(room: Room) -> None:
    """Reading and writing, one without the other, and neither any more."""
    reader, writer, both = room.descriptor("reader"), room.descriptor("writer", False), room.descriptor("both")
    room.epoll.addWriter(writer)
    room.epoll.addWriter(both)
    assert set(room.epoll.getReaders()) == {reader, both} and set(room.epoll.getWriters()) == {writer, both}
    for each in room.made:
        each.other.send(b"x")
    room.epoll.doRead()
    assert sorted(room.log) == ["both reads", "both writes", "reader reads", "writer writes"]
    room.log.clear()
    room.epoll.removeWriter(both)
    room.epoll.removeWriter(writer)
    room.epoll.removeReader(reader)
    assert select.select([room.epoll], [], [], 0) == ([], [], [])
    for each in room.made:
        each.other.send(b"x")
    room.epoll.doRead()
    assert room.log == ["both reads"]
    assert room.epoll.removeAll() == [both] and room.reactor.readers == set()


def test_a_turn_is_bounded_and_each_has_its_own_before_anyone_a_second_one(room: Room) -> None:
    """However busy some are, though every one of them has more to be read each time."""
    many = 2 * _EVENTS + 10
    for number in range(many):
        made = room.descriptor(str(number))
        made.reads = lambda: None
        made.other.send(b"x")
    room.epoll.doRead()
    assert len(room.log) == _EVENTS
    room.epoll.doRead()
    room.epoll.doRead()
    assert len(set(room.log[:many])) == many


def test_who_stopped_in_this_turn_is_not_called_any_more(room: Room) -> None:
    """Another connection's event paused it, whether something is to be written to it or not."""
    first, second, third = room.descriptor("first"), room.descriptor("second"), room.descriptor("third")

    def pause() -> None:
        room.epoll.removeReader(second)
        room.epoll.addWriter(third)
        room.epoll.removeReader(third)

    first.reads = pause
    for each in room.made:
        each.other.send(b"x")
    room.epoll.doRead()
    assert room.log == ["first reads"]


def test_an_event_is_not_given_to_who_got_the_number_of_one_that_was_closed(room: Room) -> None:
    """A connection is closed by another's event, and the next one that is accepted has its number, in one turn."""
    first, second = room.descriptor("first"), room.descriptor("second")
    number = second.fileno()

    def replace() -> None:
        second.close()
        new = Descriptor(room.epoll, room.log, "new")
        room.made.append(new)
        if new.fileno() != number:
            # The number is wanted.
            old, new.socket = new.socket, socket.fromfd(new.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
            old.close()
            new.fileno = new.socket.fileno
        assert new.fileno() == number
        room.epoll.addReader(new)
        room.epoll.addWriter(new)

    first.reads = replace
    first.other.send(b"x")
    second.other.close()
    room.epoll.doRead()
    assert room.log == ["first reads"]
    room.epoll.removeReader(first)
    room.log.clear()
    room.epoll.doRead()
    assert room.log == ["new writes"]


def test_an_error_ends_its_own_connection_only_and_is_logged(
    room: Room, logged_errors: list[dict[str, Any]]
) -> None:
    """Whatever it is, and whether it is one in reading, in writing or in closing."""
    for name in ("raises", "stands", "leaves"):
        room.descriptor(name).other.send(b"x")
    raises, stands, leaves = room.made

    def fail(*_: object) -> None:
        raise SystemExit("an error of ours")

    raises.reads, leaves.writes = fail, lambda: main.CONNECTION_LOST
    room.epoll.addWriter(leaves)
    leaves.connectionLost = fail  # type: ignore[method-assign]
    room.epoll.doRead()
    assert sorted(room.log) == ["leaves reads", "leaves writes", "raises SystemExit", "raises reads", "stands reads"]
    assert len(logged_errors) == 2
    logged_errors.clear()
    assert room.epoll.getReaders() == [stands] and room.epoll.getWriters() == []


def test_the_end_of_what_is_read_is_a_half_close(room: Room) -> None:
    """What is written may go on; a connection that was reset, or that nobody reads, is over."""
    half, reset = room.descriptor("half"), room.descriptor("reset", False)
    half.other.shutdown(socket.SHUT_WR)
    half.reads = lambda: main.CONNECTION_DONE
    room.epoll.addWriter(half)
    room.epoll.addWriter(reset)
    reset.other.close()
    room.epoll.doRead()
    room.epoll.doRead()
    assert room.log == ["half reads", "half reads no more", f"reset {ConnectionLost.__name__}", "half writes"]


def test_all_connections_end_with_the_reactor(room: Room, logged_errors: list[dict[str, Any]]) -> None:
    """One that does not close well keeps none of the others."""
    for name in ("first", "second"):
        room.descriptor(name)

    def fail(reason: Failure) -> None:
        raise ValueError

    room.made[0].connectionLost = fail  # type: ignore[method-assign]
    room.epoll.connectionLost(Failure(ConnectionDone()))
    assert room.log == ["second ConnectionDone"] and len(logged_errors) == 1
    logged_errors.clear()
    assert room.epoll.removeAll() == [] and room.reactor.readers == set()


def test_one_that_closed_its_socket_itself_can_still_be_removed(room: Room) -> None:
    """Its number is gone by then."""
    closed = room.descriptor("closed")
    closed.socket.close()
    room.epoll.removeReader(closed)
    assert room.epoll.getReaders() == [] and room.reactor.readers == set()


class Echo(Protocol):
    """Sends back what it gets; the end of that ends it."""

    def dataReceived(self, data: bytes) -> None:
        if data == b"fail":
            raise ValueError(data)
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert isinstance(self.factory, Echoes)
        self.factory.ended.append(reason)


class Echoes(Factory):
    protocol = Echo
    noisy = False

    def __init__(self) -> None:
        self.ended: list[Failure] = []


def test_connections_of_a_port_come_and_go(room: Room, logged_errors: list[dict[str, Any]]) -> None:
    """Many are accepted in a turn, but no more than some; each is answered; the port closes."""
    facade, factory = SendfileReactor(room.reactor), Echoes()
    port = facade.listenTCP(0, factory, backlog=3 * ACCEPTS, interface="127.0.0.1")
    address = port.getHost()
    clients = [socket.create_connection((address.host, address.port)) for _ in range(2 * ACCEPTS + 1)]
    facade.doRead()
    assert len(facade.getReaders()) == 1 + ACCEPTS
    turns(facade, lambda: len(facade.getReaders()) == 1 + len(clients))
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)
    turns(facade, lambda: all(_has_data(client) for client in clients))
    assert [client.recv(10) for client in clients] == [b"%d" % number for number in range(len(clients))]
    clients[0].sendall(b"fail")
    clients[1].close()
    clients[2].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    clients[2].close()
    turns(facade, lambda: len(factory.ended) >= 3)
    assert len(logged_errors) == 1
    logged_errors.clear()
    assert {str(each.type.__name__) for each in factory.ended} == {"ValueError", "ConnectionDone", "ConnectionLost"}
    port.stopListening()
    room.reactor.advance(0)
    facade.connectionLost(Failure(main.CONNECTION_LOST))
    assert len(factory.ended) == len(clients) and room.reactor.readers == set()
    for client in clients:
        client.close()


def turns(epoll: Epoll, happened: Callable[[], bool]) -> None:
    """As many turns as that takes, within reason."""
    for _ in range(10_000):
        if happened():
            return
        epoll.doRead()
    raise AssertionError("it does not happen")


def _has_data(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def test_a_copy_of_a_socket_brings_no_event_of_it_back(room: Room) -> None:
    """Whoever sends a file holds a copy of the descriptor; the kernel would go on telling of the closed one."""
    first = room.descriptor("first")
    copy = os.dup(first.fileno())
    first.close()
    first.other.send(b"x")
    room.descriptor("second", False)
    room.epoll.addReader(room.made[1])
    room.epoll.doRead()
    os.close(copy)
    assert room.log == []
