"""
A blob under way, on disk.

::

    partial/<alg>-<hex>          the bytes received so far
    partial/<alg>-<hex>.json     where they come from, for a resumption after a restart
    partial/<alg>-<hex>.<n>.tmp  the same blob from elsewhere, while the first file has a writer; not resumed

Each file has one writer. The bytes are not synced while they come: after a power cut the file may hold less, or zeros,
and the digest finds out. Those that are written ahead lie elsewhere until they are absorbed (L{appliance.store.ahead}),
so that the file holds a beginning of the blob at every moment.

Readers have another descriptor, which cannot write. The writer's is closed before the file gets the blob's name.

What is I{unstored} has a file without a name, and behind it a window in memory (L{appliance.store.window}) from where
the disk takes no more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredLock, execute, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.errors import BlobDamaged
from appliance.flow.disk import is_refusal, write_new
from appliance.flow.singleflight import shielded
from appliance.interfaces import IBlobReader, IIngest, IThreads, Origin
from appliance.oci.digest import Digest
from appliance.store.ahead import Ahead, Stretch, write_pieces
from appliance.store.files import FileReader, SharedFile
from appliance.store.leases import Leases
from appliance.store.window import Memory, Window

T = TypeVar("T")

PARTIAL = "partial"
READ = 4 * 1024 * 1024
# What is absorbed at once; small enough to be hashed while a processor's cache still has it.
ABSORBED = 1024 * 1024
# From so many bytes on hashing and writing take a thread each: less than the second one costs, and one line brings what
# is less so slowly that it does not wait.
BESIDE = 512 * 1024
# Bytes between two looks at how much room the disk has.
CLAIMED = 256 * 1024


@implementer(IIngest)
class PartialBlob:
    """See L{IIngest}; L{load} first."""

    _file: SharedFile

    def __init__(
        self,
        path: Path,
        final: Path,
        digest: Digest,
        threads: IThreads,
        publish: Callable[[Path, Digest, int], None],
        admit: Callable[[int], None],
        memory: Memory,
        leases: Leases,
        closed: Callable[[], None] = lambda: None,
        keep: bool = True,
    ) -> None:
        """
        @param path: the file, which has no other writer; when it is a C{.tmp} it is gone after L{close}.
        @param final: where the blob is, once it is held.
        @param publish: gives a whole and synced file of that digest and size its name, on a thread.
        @param admit: raises L{OSError} when so many more bytes may not be written, on a thread.
        @param memory: shared by all of the store.
        @param leases: where the blob counts as in use until L{close}.
        @param closed: called when the file may have another writer.
        @param keep: whether it can become a blob; else C{path} is a C{.tmp}, and its name goes at once.
        """
        self._path = path
        self._final = final
        self._note = _note_of(path)
        self._is_kept = path.suffix != ".tmp"
        self._threads = threads
        self._publish = publish
        self._admit = admit
        # Not looked at before each small piece.
        self._unadmitted = 0
        self._window = Window(memory)
        self._leases = leases
        self._lease = leases.take((digest,))
        self._when_closed = closed
        self._hasher: Any = digest.hasher()
        self._ahead = Ahead(path.parent, digest.file_name)
        # One at a time, also where one was cancelled: its thread goes on. A note does not hold up the bytes.
        self._turn, self._noting = DeferredLock(), DeferredLock()
        self._is_open = True
        self._fd = -1
        self.digest = digest
        self.size = 0
        self.origin: Origin | None = None
        self.stored = keep

    @property
    def start(self) -> int:
        """See L{IIngest}."""
        return self._window.start if self._window.is_open and self._window.start > self._window.begin else 0

    @property
    def readers(self) -> int:
        """See L{IIngest}."""
        return self._window.readers

    def load(self) -> Deferred[IIngest]:
        """Open the file and hash what it holds; fires with this object. Cancelling closes it."""
        # A file that is not there yet is made at once: a client waits for its first byte.
        loading = self._in_turn(lambda: self._threads.call(self._load)) if self._path.exists() else execute(self._load)
        return loading.addErrback(self._closed)

    def write(self, data: list[bytes]) -> Deferred[None]:
        """See L{IIngest.write}."""

        def begin() -> Deferred[None]:
            if self._window.is_open:
                return self._put(data)
            is_much = sum(map(len, data)) >= BESIDE
            appended: Deferred[Any] = (
                self._append_beside(data) if is_much else self._threads.call(self._append, data)
            )
            return appended.addErrback(self._not_appended, data).addBoth(self._counted)

        return self._in_turn(begin)

    def unstore(self) -> None:
        """See L{IIngest.unstore}."""
        if self.stored and self._is_open:
            self.stored = False
            # Readers have it open. What cannot be removed now is found at the next start.
            with suppress(OSError):
                unlink(self._path)
            self._ended()

    def room(self) -> Deferred[None]:
        """See L{IIngest.room}."""
        return self._window.room()

    def shed(self) -> int:
        """See L{IIngest.shed}."""
        return self._window.shed()

    def write_ahead(self, offset: int, data: list[bytes]) -> Deferred[None]:
        """See L{IIngest.write_ahead}."""
        try:
            self._check_file()
            stretch = self._ahead.begin(offset)
        except OSError as error:
            return fail(error)
        stretch.file.acquire()
        return shielded(self._threads.call(self._put_ahead, stretch, data).addBoth(self._counted, [stretch]))

    def absorb(self, stop: int) -> Deferred[None]:
        """See L{IIngest.absorb}. Fails with L{ValueError}, and absorbs nothing, when some was not written ahead."""

        def begin() -> Deferred[None]:
            self._check_file()
            parts = self._ahead.between(self.size, stop)
            stretches = [stretch for stretch, _, _ in parts]
            for stretch in stretches:
                stretch.file.acquire()
            return self._threads.call(self._append_parts, parts).addBoth(self._counted, stretches)

        return self._in_turn(begin)

    def note(self, origin: Origin) -> Deferred[None]:
        """See L{IIngest.note}."""
        self.origin = origin
        data = msgspec.json.encode(origin)
        return shielded(self._noting.run(self._threads.call, self._write_note, data))

    def reader(self, start: int = 0) -> IBlobReader:
        """See L{IIngest.reader}."""
        if not self._is_open:
            raise self._no_file()
        if not hasattr(self, "_file"):
            return self._window.reader(None, start)
        self._file.acquire()
        lease = self._leases.take((self.digest,))
        return self._window.reader(FileReader(self._file, self._threads, lease), start)

    def verify(self) -> bool:
        """See L{IIngest.verify}."""
        return bool(self._hasher.hexdigest() == self.digest.encoded)

    def commit(self) -> Deferred[None]:
        """See L{IIngest.commit}."""
        return self._in_turn(lambda: self._noting.run(self._threads.call, self._commit)).addBoth(self._closed)

    def discard(self) -> Deferred[None]:
        """See L{IIngest.discard}."""
        return self._in_turn(lambda: self._noting.run(self._threads.call, self._discard)).addBoth(self._closed)

    def close(self) -> None:
        """See L{IIngest.close}."""
        if not self._is_open:
            return
        self._is_open = False
        if self._turn.locked or self._noting.locked:
            self._turn.run(self._noting.run, self._end)
        else:
            self._end()

    def _end(self) -> Deferred[None]:
        # On the reactor's thread: readers of the files are counted there.
        self._ahead.close()
        self._window.close()
        if hasattr(self, "_file"):
            self._file.release()
        over: Deferred[None] = succeed(None)
        if self._fd >= 0:
            self._close_for_writing()
            # The beginning of a blob that has come from elsewhere meanwhile is of no use.
            if self.stored and (not self._is_kept or self._final.exists()):
                over = self._threads.call(unlink, self._path).addErrback(lambda _: None)

        def closed(_: None) -> None:
            self._lease.close()
            self._ended()

        return over.addCallback(closed)

    def _ended(self) -> None:
        """The file may have another writer: said once."""
        closed, self._when_closed = self._when_closed, lambda: None
        closed()

    def _load(self) -> IIngest:
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._file = SharedFile(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))
            if not self.stored:
                unlink(self._path)
        except OSError as error:
            if self.stored or not is_refusal(error):
                raise
            self._window.open(0)
            return self
        # A stop does not wait for the hash of a large file.
        while self._is_open and (piece := os.pread(self._file.fd, READ, self.size)):
            self._hasher.update(piece)
            self.size += len(piece)
        self.origin = read_note(self._path)
        return self

    def _in_turn(self, begin: Callable[[], Deferred[T]]) -> Deferred[T]:
        """What C{begin} gives, called when what was begun before has ended; a cancellation stops neither."""
        return shielded(self._turn.run(begin))

    def _counted(self, result: T, stretches: Sequence[Stretch] = ()) -> T:
        if self._is_open:
            self._ahead.forget(self.size)
        for stretch in stretches:
            stretch.file.release()
        return result

    def _not_appended(self, failure: Failure, data: list[bytes]) -> Failure | Deferred[None]:
        if self.stored or not is_refusal(failure.value):
            return failure
        self._window.open(self.size)
        return self._put(data)

    def _put(self, data: list[bytes]) -> Deferred[None]:
        """Hash C{data} and add it to what is in memory."""
        if not self._is_open:
            return fail(self._no_file())

        def hashed(joined: bytes) -> None:
            self._window.put(joined)
            self.size = self._window.stop

        return self._threads.call(self._joined, data).addCallback(hashed)

    def _joined(self, data: list[bytes]) -> bytes:
        joined = b"".join(data)
        self._hasher.update(joined)
        return joined

    def _append_beside(self, data: list[bytes]) -> Deferred[Any]:
        """As L{_append}, and on two threads: one hashes while the other writes."""
        # What is written is counted, and what is not may be given again, as other bytes: so a copy is hashed with.
        hasher = self._hasher.copy()
        hashing = self._threads.call(_hash, hasher, data)
        written: list[int] = []

        def count(_: None) -> None:
            self._hasher = hasher
            self.size += written[0]

        writing = self._threads.call(self._write, data).addCallback(written.append)
        return writing.addCallback(lambda _: hashing).addCallback(count)

    def _append(self, data: Sequence[bytes | memoryview]) -> None:
        length = self._write(data)
        _hash(self._hasher, data)
        self.size += length

    def _write(self, data: Sequence[bytes | memoryview]) -> int:
        if self._fd < 0:
            raise self._no_file()
        self._claim(sum(map(len, data)))
        return write_pieces(self._fd, data, self.size)

    def _claim(self, length: int) -> None:
        """Raises L{OSError} when C{length} more bytes may not be written."""
        if self._unadmitted <= 0:
            self._admit(max(length, CLAIMED))
            self._unadmitted = CLAIMED
        self._unadmitted -= length

    def _put_ahead(self, stretch: Stretch, data: list[bytes]) -> None:
        try:
            self._admit(sum(map(len, data)))
        except OSError:
            stretch.busy = False
            raise
        stretch.put(data)

    def _append_parts(self, parts: list[tuple[Stretch, int, int]]) -> None:
        buffer = memoryview(bytearray(ABSORBED))
        for stretch, start, stop in parts:
            while start < stop:
                piece = stretch.read(start, buffer[: stop - start])
                self._append([piece])
                start += len(piece)

    def _write_note(self, data: bytes) -> None:
        if self._fd < 0 or not self._is_kept or not self.stored:
            return
        # Not synced: losing it costs only the resumption after a power cut.
        temporary = self._note.with_suffix(".note.tmp")
        write_new(temporary, data, synced=False)
        temporary.rename(self._note)

    def _commit(self) -> None:
        if not self.stored:
            raise OSError(errno.ENOSPC, f"{self.digest}: it is unstored")
        if self._fd < 0:
            raise self._no_file()
        if not self.verify():
            unlink(self._path)
            raise BlobDamaged(f"{self.size} bytes do not have the digest {self.digest}")
        if (length := os.fstat(self._fd).st_size) < self.size:
            unlink(self._path)
            raise BlobDamaged(f"{self.size} bytes were written of {self.digest}, and {length} are in its file")
        if length > self.size:
            # A write that failed half way has left some behind what was hashed.
            os.ftruncate(self._fd, self.size)
        try:
            os.fsync(self._fd)
            self._close_for_writing()
            self._publish(self._path, self.digest, self.size)
        except OSError:
            # What fsync failed for is read from memory now and may be gone later, and a second call would not tell.
            with suppress(OSError):
                unlink(self._path)
            raise
        # It is a blob by now; a note that stays goes at the next start.
        with suppress(OSError):
            self._note.unlink(missing_ok=True)

    def _discard(self) -> None:
        # After the end the file of that name is another ingest's.
        if self._fd >= 0 and self.stored:
            unlink(self._path)

    def _close_for_writing(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _check_file(self) -> None:
        """Raises L{OSError} when nothing more goes into the file."""
        if not self._is_open:
            raise self._no_file()
        if self._window.is_open:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _no_file(self) -> OSError:
        return OSError(errno.EBADF, f"{self.digest}: the file is closed")

    def _closed(self, result: T) -> T:
        self.close()
        return result


def _hash(hasher: Any, data: Sequence[bytes | memoryview]) -> None:
    for piece in data:
        hasher.update(piece)


def read_note(path: Path) -> Origin | None:
    """Where the bytes in the file C{path} come from, C{None} where no note can be read."""
    try:
        return msgspec.json.decode(_note_of(path).read_bytes(), type=Origin)
    # UnicodeDecodeError among others.
    except (OSError, ValueError):
        return None


def unlink(path: Path) -> None:
    """Remove the file C{path} of a blob under way, and its note."""
    path.unlink(missing_ok=True)
    _note_of(path).unlink(missing_ok=True)


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
