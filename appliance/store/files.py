"""Open files with several readers: of a held blob, of one under way, and of what came ahead of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from appliance.flow.singleflight import shielded
from appliance.interfaces import IBlobReader, IFileTransport, IThreads
from appliance.store.leases import Lease

T = TypeVar("T")

AT_ONCE = 256 * 1024
"""The most bytes that are read without a thread, which would cost more than the read."""


class SharedFile:
    """
    A file descriptor that is closed when its last user releases it.

    All use explicit offsets (C{os.pread}, C{os.sendfile}), so that one descriptor serves them all.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._users = 1

    def acquire(self) -> None:
        """Count one more user."""
        if self._users == 0:
            raise ValueError("the file is closed already")
        self._users += 1

    def release(self) -> None:
        """Count one user less; the last one closes the file."""
        if self._users == 0:
            raise ValueError("the file is closed already")
        self._users -= 1
        if self._users == 0:
            os.close(self.fd)


@implementer(IBlobReader)
class FileReader:
    """L{IBlobReader} on a file that is open for reading; ranges are sent by C{sendfile(2)}."""

    def __init__(self, file: SharedFile, threads: IThreads, lease: Lease | None = None) -> None:
        """
        @param file: acquired for this reader.
        @param lease: of the blob, for this reader.
        """
        self._file: SharedFile | None = file
        self._threads = threads
        self._lease = lease

    @property
    def size(self) -> int:
        """See L{IBlobReader}."""
        return os.fstat(self._fd).st_size

    def read(self, start: int, stop: int) -> Deferred[bytes]:
        """See L{IBlobReader.read}."""
        if self._file is None or stop - start <= AT_ONCE:
            return execute(lambda: os.pread(self._fd, stop - start, start))
        file = self._file
        file.acquire()

        def release(result: T) -> T:
            file.release()
            return result

        # Who gives up does not close the file under the thread.
        return shielded(self._threads.call(os.pread, file.fd, stop - start, start).addBoth(release))

    def send(
        self,
        start: int,
        stop: int,
        transport: IFileTransport,
        sent: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> bool:
        """See L{IBlobReader.send}."""
        transport.send_file(self._fd, start, stop - start, sent, failed)
        return True

    def prefetch(self, start: int, stop: int) -> None:
        """See L{IBlobReader.prefetch}."""
        try:
            # The advice looks at every page; whether the last byte is in memory is known for a hundredth of its price.
            os.preadv(self._fd, [bytearray(1)], stop - 1, os.RWF_NOWAIT)
        except OSError:
            os.posix_fadvise(self._fd, start, stop - start, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """See L{IBlobReader.close}."""
        file, self._file = self._file, None
        if file is not None:
            file.release()
            if self._lease is not None:
                self._lease.close()

    @property
    def _fd(self) -> int:
        # The number may be another file's by now.
        if self._file is None:
            raise OSError(errno.EBADF, "the reader is closed")
        return self._file.fd
