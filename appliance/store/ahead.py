"""
Bytes of a blob under way that came before those in front of them.

They lie in files without a name, a file for each stretch, and are copied to the end of the blob's own file when all in
front of them is there. So that file never has a hole, and what is ahead is gone with the process, whichever way that
ends: nothing has to be noted, swept or found out at the next start. In the blob's file itself, behind its end, they
would need a record of how far it is whole, kept in step with each write and heeded by all who open it meanwhile,
as an import may. The price is that such bytes are written twice, seldom further than to the page cache; they are read
once in any case, to be hashed in their order.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from appliance.store.files import SharedFile

# What is written by one call: larger ones win nothing, and for calls of megabytes the kernel takes memory in blocks of
# megabytes, whose first touch is slow in a virtual machine.
WRITTEN = 256 * 1024
# Pieces that one system call takes, with room to spare (IOV_MAX).
_VECTORS = 1000


class Stretch:
    """
    Bytes from offset C{start} to before C{stop} of the blob, from the beginning of C{file} on.

    @ivar busy: whether some are being written behind C{stop} right now.
    """

    def __init__(self, file: SharedFile, start: int) -> None:
        self.file = file
        self.start = start
        self.stop = start
        self.busy = True

    def put(self, data: list[bytes]) -> None:
        """Write C{data} at C{stop}; on a thread. Raises L{OSError}, and nothing has been added then."""
        try:
            self.stop += write_pieces(self.file.fd, data, self.stop - self.start)
        finally:
            self.busy = False

    def read(self, offset: int, buffer: memoryview) -> memoryview:
        """The beginning of C{buffer}, filled with some of the bytes at C{offset}; on a thread. Raises L{OSError}."""
        count = os.preadv(self.file.fd, [buffer[: self.stop - offset]], offset - self.start)
        if not count:
            raise OSError(f"bytes {offset} to {self.stop} of a blob were written ahead and cannot be read")
        return buffer[:count]


class Ahead:
    """
    What is ahead of one blob's file. Not for threads; L{close} it.

    C{folder} holds the files for the moment in which they have a name, as C{<name>.<random>.tmp}.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._stretches: list[Stretch] = []
        # A file that was read to its end serves the next stretch: its pages are there already.
        self._spare: list[SharedFile] = []

    def begin(self, offset: int) -> Stretch:
        """Where to L{Stretch.put} what comes at C{offset}: it is busy until that has been done. Raises L{OSError}."""
        for stretch in self._stretches:
            # A thread that has just moved C{stop} may not be done yet.
            if stretch.stop == offset and not stretch.busy:
                stretch.busy = True
                return stretch
        if self._spare:
            file = self._spare.pop()
        else:
            # It has no name, so that the kernel removes it however the process ends.
            fd, path = tempfile.mkstemp(".tmp", f"{self._name}.", self._folder)
            os.unlink(path)
            file = SharedFile(fd)
        self._stretches.append(Stretch(file, offset))
        return self._stretches[-1]

    def between(self, start: int, stop: int) -> list[tuple[Stretch, int, int]]:
        """Where the bytes from C{start} to before C{stop} are, in order. Raises L{ValueError} when some are not."""
        parts = []
        while start < stop:
            found = next((each for each in self._stretches if each.start <= start < each.stop), None)
            if found is None:
                raise ValueError(f"byte {start} was not written ahead")
            parts.append((found, start, min(stop, found.stop)))
            start = found.stop
        return parts

    def forget(self, before: int) -> None:
        """Everything in front of offset C{before} is wanted no more."""
        if not self._stretches:
            return
        over = [each for each in self._stretches if each.stop <= before and not each.busy]
        self._stretches = [each for each in self._stretches if each not in over]
        self._spare += [each.file for each in over]

    def close(self) -> None:
        """Forget everything; what a thread is at goes on to its end."""
        for file in (*(each.file for each in self._stretches), *self._spare):
            file.release()
        self._stretches, self._spare = [], []


def write_pieces(fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
    """Write all of C{pieces} at C{offset}; how many bytes that are. Raises L{OSError}."""
    start, octets = offset, 0
    batch: list[memoryview] = []
    for piece in (memoryview(each)[at : at + WRITTEN] for each in pieces for at in range(0, len(each), WRITTEN)):
        # One pwritev for many small pieces: a copy into one buffer would cost more than the call.
        if octets + len(piece) > WRITTEN or len(batch) == _VECTORS:
            start += _write_batch(fd, batch, octets, start)
            batch, octets = [], 0
        batch.append(piece)
        octets += len(piece)
    return start + _write_batch(fd, batch, octets, start) - offset


def _write_batch(fd: int, pieces: Sequence[memoryview], length: int, offset: int) -> int:
    written = os.pwritev(fd, pieces, offset) if pieces else 0
    if written < length:
        rest = b"".join(pieces)[written:]
        while rest:
            count = os.pwrite(fd, rest, offset + length - len(rest))
            rest = rest[count:]
    return length
