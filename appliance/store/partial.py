"""
A blob under way, on disk.

::

    partial/<alg>-<hex>         the bytes received so far
    partial/<alg>-<hex>.json    where they come from, for a resumption after a restart

The bytes are not synced while they come: after a power cut the file may hold less, or zeros, and the digest finds out.
Those that are written ahead lie elsewhere until they are absorbed (L{appliance.store.ahead}), so that the file holds a
beginning of the blob at every moment.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, execute, fail
from zope.interface import implementer

from appliance.errors import BlobDamaged
from appliance.flow.durable import fsync_folder
from appliance.flow.sharedfile import SharedFile
from appliance.interfaces import IIngest, IOpenFile, IThreads, Origin
from appliance.oci.digest import Digest
from appliance.store.ahead import Ahead, Stretch, gathered, write_pieces

T = TypeVar("T")

PARTIAL = "partial"
READ = 4 * 1024 * 1024
# What is absorbed at once; small enough to be hashed while a processor's cache still has it.
ABSORBED = 1024 * 1024


@implementer(IIngest)
class PartialBlob:
    """See L{IIngest}; L{load} first."""

    file: IOpenFile

    def __init__(
        self, folder: Path, final: Path, digest: Digest, threads: IThreads, counted: Callable[[int], None]
    ) -> None:
        self._path = folder / digest.file_name
        self._note = folder / f"{digest.file_name}.json"
        self._final = final
        self._threads = threads
        self._counted = counted
        self._hasher: Any = digest.hasher()
        self._ahead = Ahead(folder, digest.file_name)
        self._fd = -1
        self.digest = digest
        self.size = 0
        self.origin: Origin | None = None

    def load(self) -> Deferred[IIngest]:
        """Open the file and hash what it holds; fires with this object."""
        # A file that is not there yet is made at once: a client waits for its first byte.
        return self._threads.call(self._load) if self._path.exists() else execute(self._load)

    def write(self, data: list[bytes]) -> Deferred[None]:
        """See L{IIngest.write}."""
        return self._on_files([], self._append, self._fd, data)

    def write_ahead(self, offset: int, data: list[bytes]) -> Deferred[None]:
        """See L{IIngest.write_ahead}."""
        try:
            if self._fd < 0:
                raise OSError(errno.EBADF, f"{self.digest}: the file is closed")
            stretch = self._ahead.begin(offset)
        except OSError as error:
            return fail(error)
        return self._on_files([stretch], stretch.put, data)

    def absorb(self, stop: int) -> Deferred[None]:
        """See L{IIngest.absorb}. Fails with L{ValueError}, and absorbs nothing, when some was not written ahead."""
        try:
            parts = self._ahead.between(self.size, stop)
        except ValueError as error:
            return fail(error)
        return self._on_files([stretch for stretch, _, _ in parts], self._append_parts, self._fd, parts)

    def note(self, origin: Origin) -> Deferred[None]:
        """See L{IIngest.note}."""
        self.origin = origin
        return self._threads.call(self._write_note, msgspec.json.encode(origin))

    def verify(self) -> bool:
        """See L{IIngest.verify}."""
        return bool(self._hasher.hexdigest() == self.digest.encoded)

    def commit(self) -> Deferred[None]:
        """See L{IIngest.commit}."""
        return self._on_files([], self._commit, self._fd).addBoth(self._closed)

    def discard(self) -> Deferred[None]:
        """See L{IIngest.discard}."""
        return self._threads.call(self._discard).addBoth(self._closed)

    def close(self) -> None:
        """See L{IIngest.close}."""
        if self._fd >= 0:
            self._fd = -1
            self._ahead.close()
            self.file.release()

    def _load(self) -> PartialBlob:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.file = SharedFile(self._fd)
        try:
            while piece := os.pread(self._fd, READ, self.size):
                self._hasher.update(piece)
                self.size += len(piece)
        except BaseException:
            self.close()
            raise
        self.origin = self._read_note()
        return self

    def _on_files(self, stretches: list[Stretch], function: Callable[..., None], *args: Any) -> Deferred[None]:
        """Run C{function} on a thread, which has its own hold on the files until it is done."""
        # Neither a close meanwhile nor a cancellation may free a descriptor under its feet.
        files = [self.file, *(stretch.file for stretch in stretches)]
        for file in files:
            file.acquire()
        result: Deferred[None] = Deferred()
        done = self._threads.call(function, *args)
        done.addBoth(self._released, files)
        done.chainDeferred(result)
        return result

    def _released(self, result: T, files: list[IOpenFile]) -> T:
        if self._fd >= 0:
            self._ahead.forget(self.size)
        for file in files:
            file.release()
        return result

    def _append(self, fd: int, data: Sequence[bytes | memoryview]) -> None:
        pieces = gathered(data)
        length = write_pieces(fd, pieces, self.size)
        for piece in pieces:
            self._hasher.update(piece)
        self.size += length

    def _append_parts(self, fd: int, parts: list[tuple[Stretch, int, int]]) -> None:
        buffer = memoryview(bytearray(ABSORBED))
        for stretch, start, stop in parts:
            while start < stop:
                piece = stretch.read(start, buffer[: stop - start])
                self._append(fd, [piece])
                start += len(piece)

    def _read_note(self) -> Origin | None:
        try:
            return msgspec.json.decode(self._note.read_bytes(), type=Origin)
        # UnicodeDecodeError among others.
        except (OSError, ValueError):
            return None

    def _write_note(self, data: bytes) -> None:
        # Not synced: losing it costs only the resumption after a power cut.
        temporary = self._note.with_suffix(".note.tmp")
        temporary.write_bytes(data)
        temporary.rename(self._note)

    def _commit(self, fd: int) -> None:
        if not self.verify():
            self._discard()
            raise BlobDamaged(f"{self.size} bytes do not have the digest {self.digest}")
        os.fsync(fd)
        held = self._final.exists()
        try:
            os.rename(self._path, self._final)
        except FileNotFoundError:
            # An import and a flight may bring the same blob at once, into the same file; one of them was first.
            if not held:
                raise
        fsync_folder(self._final.parent)
        self._note.unlink(missing_ok=True)
        if not held:
            self._counted(self.size)

    def _discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _closed(self, result: T) -> T:
        # On the reactor's thread: readers of the file are counted there.
        self.close()
        return result
