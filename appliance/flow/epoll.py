"""
The connections of clients, watched by an C{epoll(7)} of their own, which is one descriptor of the reactor's.

Twisted's reactors enter a logging context for every event and ask what its descriptor is about. Here the events of one
turn are a plain loop: with that, and with what is written being sent at once, an answer from memory takes 13.4
microseconds of processor time instead of 23.9. What is done about an event, and about an error, is what Twisted does.
The reactor may be any that reads descriptors.
"""

from __future__ import annotations

from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, epoll
from typing import Any

from twisted.internet import main
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

# The most events of a turn: the reactor's timers, and what is not here, wait for no more. Those left over come first
# in the next one, as the kernel turns its list.
_EVENTS = 128
_GONE = EPOLLHUP | EPOLLERR


class _Watched:
    """
    @ivar events: what is waited for, 0 for nothing any more.
    """

    __slots__ = ("descriptor", "events", "fd")

    def __init__(self, fd: int, descriptor: Any, events: int) -> None:
        self.fd = fd
        self.descriptor = descriptor
        self.events = events


@implementer(IReactorFDSet, IReadDescriptor)
class Epoll:
    """
    A reactor as descriptors see it that watches them itself; all else is the reactor's.

    It is a reader of the reactor's while it watches anything.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll: epoll | None = None
        self._watched: dict[int, _Watched] = {}
        # Numbers that were taken up in this turn: an event that was fetched before may be about what had that number
        # then, and was closed since.
        self._new: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    # -- what is watched --------------------------------------------------------------------------------------------

    def addReader(self, reader: Any) -> None:
        """See L{IReactorFDSet.addReader}."""
        self._want(reader, EPOLLIN)

    def addWriter(self, writer: Any) -> None:
        """See L{IReactorFDSet.addWriter}."""
        self._want(writer, EPOLLOUT)

    def removeReader(self, reader: Any) -> None:
        """See L{IReactorFDSet.removeReader}."""
        self._want_not(reader, EPOLLIN)

    def removeWriter(self, writer: Any) -> None:
        """See L{IReactorFDSet.removeWriter}."""
        self._want_not(writer, EPOLLOUT)

    def removeAll(self) -> list[Any]:
        """See L{IReactorFDSet.removeAll}."""
        every = [each.descriptor for each in self._watched.values()]
        for each in list(self._watched.values()):
            self._drop(each)
        return every

    def getReaders(self) -> list[Any]:
        """See L{IReactorFDSet.getReaders}."""
        return [each.descriptor for each in self._watched.values() if each.events & EPOLLIN]

    def getWriters(self) -> list[Any]:
        """See L{IReactorFDSet.getWriters}."""
        return [each.descriptor for each in self._watched.values() if each.events & EPOLLOUT]

    def _want(self, descriptor: Any, event: int) -> None:
        fd = descriptor.fileno()
        watched = self._watched.get(fd)
        if self._epoll is None:
            self._epoll = epoll()
        if watched is None or watched.descriptor is not descriptor:
            self._epoll.register(fd, event)
            if not self._watched:
                self._reactor.addReader(self)
            self._watched[fd] = _Watched(fd, descriptor, event)
            self._new.add(fd)
        elif not watched.events & event:
            self._epoll.modify(fd, watched.events | event)
            watched.events |= event

    def _want_not(self, descriptor: Any, event: int) -> None:
        fd = descriptor.fileno()
        if fd == -1:
            # Closed before it was removed; the servers here never are.
            fd = next((fd for fd, each in self._watched.items() if each.descriptor is descriptor), -1)
        watched = self._watched.get(fd)
        if watched is None or watched.descriptor is not descriptor or not watched.events & event:
            return
        if watched.events == event:
            self._drop(watched)
        else:
            assert self._epoll is not None
            self._epoll.modify(watched.fd, watched.events & ~event)
            watched.events &= ~event

    def _drop(self, watched: _Watched) -> None:
        assert self._epoll is not None
        watched.events = 0
        del self._watched[watched.fd]
        try:
            self._epoll.unregister(watched.fd)
        except OSError:
            # Closed before: the kernel has forgotten it then.
            pass
        if not self._watched:
            self._reactor.removeReader(self)

    # -- as a reader of the reactor's -------------------------------------------------------------------------------

    def fileno(self) -> int:
        """See L{IReadDescriptor}."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def logPrefix(self) -> str:
        """See L{IReadDescriptor}."""
        return "clients"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends: so do the connections."""
        for each in self.removeAll():
            try:
                each.connectionLost(reason)
            except BaseException:
                self._log.failure("{connection} was not closed as it should be", connection=each)

    def doRead(self) -> None:
        """Do what there is to be done, a turn of it."""
        assert self._epoll is not None
        watched, new = self._watched, self._new
        new.clear()
        for fd, event in self._epoll.poll(0, _EVENTS):
            each = watched.get(fd)
            if each is None or fd in new:
                continue
            descriptor = each.descriptor
            why: Any = None
            is_read = False
            try:
                if event & _GONE and not event & EPOLLIN:
                    # Nobody reads it; of one that is read, reading tells.
                    why = main.CONNECTION_LOST
                else:
                    if event & each.events & EPOLLIN:
                        is_read = True
                        why = descriptor.doRead()
                    if event & each.events & EPOLLOUT and not why:
                        is_read = False
                        why = descriptor.doWrite()
            except BaseException as error:
                # As in any reactor: whatever is wrong in one connection ends that one.
                self._log.failure("{connection} is closed for an error", connection=descriptor)
                why = error
            if why:
                self._end(descriptor, why, is_read)

    def _end(self, descriptor: Any, why: Any, is_read: bool) -> None:
        """The connection is over, or its other end sends no more."""
        try:
            self.removeReader(descriptor)
            if is_read and type(why) is ConnectionDone and IHalfCloseableDescriptor.providedBy(descriptor):
                descriptor.readConnectionLost(Failure(why))
            else:
                self.removeWriter(descriptor)
                descriptor.connectionLost(Failure(why))
        except BaseException:
            self._log.failure("{connection} was not closed as it should be", connection=descriptor)
