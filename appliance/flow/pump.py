"""
Threads that send parts of files, so that large ones go out on every core: C{sendfile(2)} lets go of the interpreter.

Who reads a connection, and decides what is sent on it, stays with the reactor. It hands over one part of a file at a
time, and takes it back when all has gone, when it wants to, or when a thread can do nothing more with it.

A thread waits for the sockets of its parts, and sends a piece of one in turns. It uses descriptors of its own (C{dup}),
which it closes itself: a number that the reactor's side closes may mean another file a moment later, and bytes of that
would be sent, or bytes sent there.

A disk that is waited for holds the parts of that one thread meanwhile, and no others; that is why files are read ahead.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from time import monotonic

from twisted.internet.interfaces import IReactorFromThreads

PIECE = 8 * 1024 * 1024
"""The most bytes of a part that are sent before the next one's turn."""

LUMP, LUMP_SECONDS = 8 * 1024 * 1024, 0.05
"""The reactor is told when so many bytes more have gone, or so much time after it was told last; and of the end."""

NEAR_BUFFER = 200_000
"""Bytes that lie in the socket of a client on this machine; Linux takes twice as many."""

Step = Callable[[int, int], int]
"""
Send bytes of the file: (offset, the most of them) -> how many went. On the thread. Raises L{BlockingIOError} while the
network takes none; whatever else it raises, and 0, gives the part back.
"""


def threads_for(wanted: int | None) -> int:
    """How many threads: C{wanted}, else as many as this process may use cores; with one the reactor is as fast."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0))
    return cores if cores > 1 else 0


class PumpedPart:
    """
    A part of a file while a thread sends it.

    @ivar offset: of the first byte that has not gone; C{stop}: of the first one that is not to. The thread's, and may
        be read at any time.
    @ivar is_back: whether the thread has nothing to do with it any more.
    @ivar error: what it was given back for, C{None} where all has gone or it was asked back.
    """

    def __init__(
        self,
        thread: PumpThread,
        out: socket.socket,
        file: int,
        step: Step,
        start: int,
        stop: int,
        progressed: Callable[[PumpedPart], None],
        gives_way_to: int,
    ) -> None:
        self._thread = thread
        self._out = out
        self.out = out.fileno()
        self.file = file
        self.step = step
        self.offset = start
        self.stop = stop
        self.progressed = progressed
        self.gives_way_to = gives_way_to
        self.is_back = False
        self.error: Exception | None = None
        self.is_wanted_back = False
        # Where it was and when, when the reactor was told last; the thread's.
        self.told, self.told_at = start, 0.0

    def give_back(self) -> None:
        """Ask for it, before the next piece. On the reactor's thread; nothing where it is back already."""
        if not self.is_back:
            self._thread.give_back(self)

    def cork(self, is_corked: bool) -> None:
        """
        Whether only whole packets leave, but for the last one. Otherwise C{sendfile(2)} lets one that is nearly empty
        follow each 64 KiB.
        """
        with suppress(OSError):
            self._out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, is_corked)

    def keep_near(self) -> None:
        """
        Let little lie in the socket of a client on this machine: what is sent is still in the processor's cache when it
        is taken. With this and L{cork} four of them got 4,022 MB/s instead of 2,245.

        To any other the buffer stays as the system makes it. It holds what a round trip takes, which on a network is
        short while it is idle and milliseconds while it is busy; the option stays for all that the connection sends.
        """
        with suppress(OSError):
            if self._out.getpeername()[0] == self._out.getsockname()[0]:
                self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEAR_BUFFER)

    def close(self) -> None:
        """Let go of the descriptors."""
        self._out.close()
        os.close(self.file)


class PumpThread(Thread):
    """
    One of the threads.

    @ivar parts: those that it sends, by the descriptor of the socket.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._reactor = reactor
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._bell, select.EPOLLIN)
        self._wanted_back: deque[PumpedPart] = deque()
        self._is_ending = False
        self.parts: dict[int, PumpedPart] = {}

    # -- on the reactor's thread --------------------------------------------------------------------------------------

    def take(self, part: PumpedPart) -> None:
        """Send it. Raises L{OSError} where it cannot be."""
        self.parts[part.out] = part
        try:
            self._poll.register(part.out, select.EPOLLOUT | part.gives_way_to)
        except OSError:
            del self.parts[part.out]
            raise

    def give_back(self, part: PumpedPart) -> None:
        """See L{PumpedPart.give_back}."""
        part.is_wanted_back = True
        self._wanted_back.append(part)
        os.eventfd_write(self._bell, 1)

    def end(self) -> None:
        """Give all back; the thread has ended when this returns."""
        self._is_ending = True
        os.eventfd_write(self._bell, 1)
        self.join()
        self._poll.close()
        os.close(self._bell)

    # -- on its own ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """See L{Thread.run}."""
        while not self._is_ending:
            for fd, events in self._poll.poll():
                if fd == self._bell:
                    os.eventfd_read(fd)
                    while self._wanted_back:
                        self._let_go(self._wanted_back.popleft())
                    continue
                # It may have been given back since.
                part = self.parts.get(fd)
                if part is not None:
                    self._send(part, events)
        for part in list(self.parts.values()):
            self._let_go(part)

    def _send(self, part: PumpedPart, events: int) -> None:
        if part.is_wanted_back or events & part.gives_way_to:
            self._let_go(part)
            return
        try:
            count = part.step(part.offset, min(PIECE, part.stop - part.offset))
        except BlockingIOError:
            return
        except Exception as error:
            part.error = error
            self._let_go(part)
            return
        part.offset += count
        if count == 0 or part.offset == part.stop:
            self._let_go(part)
        elif part.offset - part.told >= LUMP or monotonic() - part.told_at >= LUMP_SECONDS:
            part.told, part.told_at = part.offset, monotonic()
            self._reactor.callFromThread(part.progressed, part)

    def _let_go(self, part: PumpedPart) -> None:
        # The number may be another part's by now, where this one is back already.
        if self.parts.get(part.out) is part:
            self._poll.unregister(part.out)
            del self.parts[part.out]
            part.cork(False)
            part.close()
            part.is_back = True
            self._reactor.callFromThread(part.progressed, part)


class Pump:
    """The threads. They run from L{start} to L{stop}; before and after it takes nothing."""

    def __init__(self, reactor: IReactorFromThreads, threads: int) -> None:
        self._reactor = reactor
        self._wanted = threads
        self._threads: list[PumpThread] = []

    def start(self) -> None:
        """Begin."""
        self._threads = [PumpThread(self._reactor, f"pump-{number}") for number in range(self._wanted)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """All parts are given back, and the threads have ended, when this returns."""
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.end()

    def send(
        self,
        connected: int,
        file: int,
        make_step: Callable[[int, int], Step],
        start: int,
        length: int,
        progressed: Callable[[PumpedPart], None],
        gives_way_to: int = 0,
    ) -> PumpedPart | None:
        """
        Send C{length} bytes of the open file C{file} from offset C{start} to a socket that does not block.

        @param make_step: makes what sends them, of the descriptors that it is to use for socket and file.
        @param progressed: called with the part on the reactor's thread, from time to time and when it is back. It may
            be called once more after that.
        @param gives_way_to: events of epoll(7) for which the part is given back, such as C{EPOLLIN}.
        @return: C{None} where no thread takes it.
        """
        if not self._threads:
            return None
        try:
            # The family is not looked at.
            out = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, os.dup(connected))
        except OSError:
            return None
        try:
            own = os.dup(file)
        except OSError:
            out.close()
            return None
        thread = min(self._threads, key=lambda each: len(each.parts))
        step = make_step(out.fileno(), own)
        part = PumpedPart(thread, out, own, step, start, start + length, progressed, gives_way_to)
        part.cork(True)
        part.keep_near()
        try:
            thread.take(part)
        except OSError:
            part.close()
            return None
        return part
