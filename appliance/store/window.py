"""
The latest bytes of a blob that the disk does not take, in memory, for those who read them at about the same pace.

::

    |==== in a file, as far as the disk took it ====|--- gone ---|==== in memory ====|
    0                                               begin        start               stop

What every reader has is dropped. Where they leave no room, the upstream waits (L{Window.room}); who stands still while
others wait is given up (L{Window.shed}).
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from appliance.flow.singleflight import Waiters
from appliance.interfaces import IBlobReader, IFileTransport

LIMIT = 8 * 1024 * 1024
"""The most bytes of one blob in memory, and what one write brings on top."""

TOGETHER = 64 * 1024 * 1024
"""The most bytes in memory of all blobs of a store, before each may have L{LEAST} only."""

LEAST = 256 * 1024
"""What each blob may have in any case: with less nothing moves on."""

PACE = 512 * 1024
"""The bytes that a reader takes between two calls of L{Window.shed} so as not to stand still."""


class Memory:
    """What the windows of one store hold together: C{octets}."""

    octets = 0


class Window:
    """
    See the module. Not for threads.

    @ivar is_open: whether something lies in memory, or may; until then there is a file only.
    @ivar begin: bytes in the file.
    @ivar start: offset of the first byte in memory.
    @ivar stop: offset behind the last one.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._data = bytearray()
        self._readers: set[WindowReader] = set()
        self._room: Waiters[None] = Waiters()
        self._is_fed = True
        self.is_open = False
        self.begin = self.start = 0

    @property
    def stop(self) -> int:
        """See above."""
        return self.start + len(self._data)

    @property
    def readers(self) -> int:
        """How many there are."""
        return len(self._readers)

    def open(self, begin: int) -> None:
        """From C{begin} on the bytes are put here."""
        self.is_open = True
        self.begin = self.start = begin

    def put(self, data: bytes) -> None:
        """Add bytes at the end."""
        self._data += data
        self._memory.octets += len(data)
        self._trim()

    def room(self) -> Deferred[None]:
        """Fires when the readers have left room for more. The caller's own, to be cancelled at will."""
        return self._room.wait() if self._is_full else succeed(None)

    def reader(self, file: IBlobReader | None, start: int) -> IBlobReader:
        """
        A reader of what there is from C{start} on, and of what comes.

        @param file: reads what is in the file; closed with the reader. C{None}: there is no file.
        """
        reader = WindowReader(self, file, start)
        self._readers.add(reader)
        return reader

    def shed(self) -> int:
        """
        Give up the readers that have stood still since the last call and keep others waiting: their reads fail from now
        on. How many they are.
        """
        is_awaited = self._is_full and any(reader.position >= self.stop for reader in self._readers)
        slow = []
        for reader in self._readers:
            stood = reader.marked is not None and reader.position - reader.marked < PACE
            reader.marked = reader.position
            if is_awaited and stood and reader.position < self.stop - len(self._data) // 2:
                slow.append(reader)
        for reader in slow:
            reader.is_lost = True
            self.left(reader)
        return len(slow)

    def close(self) -> None:
        """Nothing more comes; what the readers have not read yet stays for them."""
        self._is_fed = False
        self._trim()

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from C{start} to before C{stop}, as far as they are here. Raises L{OSError} when they are gone."""
        if start < self.start:
            raise OSError(errno.ESTALE, f"byte {start} is not kept any more: the disk is full")
        return bytes(self._data[start - self.start : max(start, stop) - self.start])

    def moved(self) -> None:
        """A reader has gone on."""
        if self.is_open:
            self._trim()

    def left(self, reader: WindowReader) -> None:
        """The reader reads no more."""
        self._readers.discard(reader)
        self._trim()

    @property
    def _is_full(self) -> bool:
        return len(self._data) > (LIMIT if self._memory.octets <= TOGETHER else LEAST)

    def _trim(self) -> None:
        if self._readers:
            wanted = min(reader.position for reader in self._readers)
        else:
            # Who comes before the first byte is dropped still reads it.
            wanted = self.start if self._is_fed else self.stop
        count = min(wanted, self.stop) - self.start
        if count > 0:
            del self._data[:count]
            self.start += count
            self._memory.octets -= count
        if not self._is_full:
            self._room.fire(None)


@implementer(IBlobReader)
class WindowReader:
    """
    L{IBlobReader} of a file, and of the window behind it once that is open.

    @ivar position: in front of it nothing is wanted any more; C{marked}: where it was when L{Window.shed} last looked.
    @ivar is_lost: whether it was given up.
    """

    def __init__(self, window: Window, file: IBlobReader | None, start: int) -> None:
        self._window = window
        self._file = file
        self._is_open = True
        self.position = start
        self.marked: int | None = None
        self.is_lost = False

    @property
    def size(self) -> int:
        """See L{IBlobReader}."""
        if self._window.is_open or self._file is None:
            return self._window.stop
        return int(self._file.size)

    def read(self, start: int, stop: int) -> Deferred[bytes]:
        """See L{IBlobReader.read}. Fails with L{OSError} also when it was given up, or the bytes are gone."""
        try:
            self._check()
            self._move(start)
            if self._file is not None and (not self._window.is_open or start < self._window.begin):
                end = min(stop, self._window.begin) if self._window.is_open else stop
                reading: Deferred[bytes] = self._file.read(start, end)
                return reading
            data = self._window.read(start, stop)
        except OSError as error:
            return fail(error)
        self._move(start + len(data))
        return succeed(data)

    def send(
        self,
        start: int,
        stop: int,
        transport: IFileTransport,
        sent: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> bool:
        """See L{IBlobReader.send}."""
        self._check()
        self._move(start)
        if self._file is None or (self._window.is_open and stop > self._window.begin):
            return False

        def went(count: int) -> None:
            self._move(self.position + count)
            sent(count)

        return bool(self._file.send(start, stop, transport, went, failed))

    def prefetch(self, start: int, stop: int) -> None:
        """See L{IBlobReader.prefetch}."""
        self._check()
        if self._file is not None and (not self._window.is_open or start < self._window.begin):
            self._file.prefetch(start, stop)

    def close(self) -> None:
        """See L{IBlobReader.close}."""
        if self._is_open:
            self._is_open = False
            self._window.left(self)
            if self._file is not None:
                self._file.close()

    def _check(self) -> None:
        if not self._is_open:
            raise OSError(errno.EBADF, "the reader is closed")
        if self.is_lost:
            raise OSError(errno.ESTALE, "too slow for the others who read the same blob while the disk is full")

    def _move(self, position: int) -> None:
        self.position = position
        self._window.moved()
