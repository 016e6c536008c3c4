"""
Blobs by digest in the file system: C{blobs/<algorithm>/<hex>}, immutable once there. Those that were found damaged are
moved to C{damaged/<algorithm>-<hex>}.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakSet

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from appliance.errors import BlobDamaged, DigestInvalid, NotHeld
from appliance.flow.disk import fsync_folder, make_folder, write_new
from appliance.flow.singleflight import ended, shielded
from appliance.interfaces import IBlobReader, IBlobStore, IIngest, IThreads, SetAside, Stored, Unfinished
from appliance.oci.digest import Digest
from appliance.store.files import FileReader, SharedFile
from appliance.store.leases import Leases
from appliance.store.partial import PARTIAL, READ, PartialBlob, read_note, unlink
from appliance.store.walk import Walk
from appliance.store.window import Memory

T = TypeVar("T")

DAMAGED = "damaged"
"""The folder of what was set aside."""

_DISK_FAULTS = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
"""What a disk says of bytes that it has lost, and a file system of those whose checksum is wrong."""


@implementer(IBlobStore)
class FilesystemBlobStore:
    """L{IBlobStore} on a folder that this process owns (L{appliance.store.ownership})."""

    def __init__(self, root: Path, threads: IThreads) -> None:
        self._blobs = root / "blobs"
        self._folder = str(self._blobs)
        self._partial = root / PARTIAL
        self._damaged = root / DAMAGED
        self._threads = threads
        self._total = 0
        self._naming = Lock()
        # Those that go on have to know what gets its name or loses it meanwhile.
        self._walks: WeakSet[Walk] = WeakSet()
        self._leaving: dict[Digest, Deferred[None]] = {}
        self.leases = Leases()
        self._temporaries = count(1)
        self._receiving: set[Digest] = set()
        self._memory = Memory()
        self.floor = 0

    def measure(self) -> Deferred[None]:
        """Add up what the folder holds, once at start; until it fires L{total} counts only what came since."""

        async def measure() -> None:
            async for _ in self.walk():
                pass

        return Deferred.fromCoroutine(measure())

    def probe(self) -> Deferred[None]:
        """
        Fires when the store can be read, and written unless its disk is full or read-only; fails with L{OSError} when
        it cannot.
        """
        return self._threads.call(self._probe)

    def size(self, digest: Digest) -> int | None:
        """See L{IBlobStore.size}."""
        if digest in self._leaving:
            return None
        # A list of images asks for a hundred thousand: joining a Path costs more than the system call.
        try:
            return os.stat(f"{self._folder}/{digest.algorithm}/{digest.encoded}").st_size
        except FileNotFoundError:
            return None

    def open(self, digest: Digest) -> IBlobReader:
        """See L{IBlobStore.open}."""
        return FileReader(self._opened(digest), self._threads, self.leases.take((digest,)))

    def read(self, digest: Digest, limit: int) -> Deferred[bytes]:
        """See L{IBlobStore.read}."""
        return self._threads.call(self._read, digest, limit)

    def read_all(self, digests: Sequence[Digest], limit: int) -> Deferred[dict[Digest, bytes]]:
        """See L{IBlobStore.read_all}."""
        return self._threads.call(self._read_all, digests, limit)

    def put(self, digest: Digest, data: bytes) -> Deferred[None]:
        """See L{IBlobStore.put}."""
        lease = self.leases.take((digest,))

        def over(result: T) -> T:
            lease.close()
            return result

        return self._settled(digest).addCallback(lambda _: self._threads.call(self._put, digest, data)).addBoth(over)

    def ingest(self, digest: Digest, keep: bool = True) -> Deferred[IIngest]:
        """See L{IBlobStore.ingest}."""
        return self._settled(digest).addCallback(lambda _: self._ingest(digest, keep))

    def _ingest(self, digest: Digest, keep: bool) -> Deferred[IIngest]:
        path, closed = self._temporary(digest), _nothing
        if keep and digest not in self._receiving:
            self._receiving.add(digest)
            path, closed = self._partial / digest.file_name, partial(self._receiving.discard, digest)
        shared = (self._threads, self._publish, self._admit, self._memory, self.leases)
        return PartialBlob(path, self._path(digest), digest, *shared, closed, keep).load()

    def unfinished(self) -> list[Digest]:
        """See L{IBlobStore.unfinished}."""
        found = []
        for name in sorted(os.listdir(self._partial)):
            algorithm, _, encoded = name.partition("-")
            try:
                found.append(Digest.parse(f"{algorithm}:{encoded}"))
            except DigestInvalid:
                continue
        return found

    def inspect(self, digest: Digest) -> Deferred[Unfinished | None]:
        """See L{IBlobStore.inspect}."""
        return self._threads.call(self._inspect, self._partial / digest.file_name)

    def is_receiving(self, digest: Digest) -> bool:
        """See L{IBlobStore.is_receiving}."""
        return digest in self._receiving

    def forget(self, digest: Digest) -> Deferred[bool]:
        """See L{IBlobStore.forget}."""
        if digest in self._receiving:
            return succeed(False)
        # No ingest begins to write a file that is being removed.
        self._receiving.add(digest)
        gone = self._threads.call(unlink, self._partial / digest.file_name)

        def over(result: T) -> T:
            self._receiving.discard(digest)
            return result

        return shielded(gone.addBoth(over).addCallback(lambda _: True))

    def delete(self, *digests: Digest) -> Deferred[None]:
        """See L{IBlobStore.delete}."""
        # Else one that is looked for now would be found, and be gone a moment later.
        gone: Deferred[None] = Deferred()
        self._leaving |= dict.fromkeys(digests, gone)

        def over(result: T) -> T:
            for digest in digests:
                if self._leaving.get(digest) is gone:
                    del self._leaving[digest]
            gone.callback(None)
            return result

        return shielded(self._threads.call(self._delete, digests).addBoth(over))

    async def walk(self) -> AsyncIterator[list[Stored]]:
        """See L{IBlobStore.walk}."""
        with self._naming:
            walk = Walk(self._blobs, self._naming)
            self._walks.add(walk)
        while found := await self._threads.call(walk.batch):
            yield found
        with self._naming:
            self._walks.discard(walk)
            self._total = walk.total()

    def verify(self, digest: Digest, paced: Callable[[int], Awaitable[None]] | None = None) -> Deferred[bool]:
        """See L{IBlobStore.verify}."""
        return Deferred.fromCoroutine(self._verify(digest, paced))

    def set_aside(self, digest: Digest) -> Deferred[bool]:
        """See L{IBlobStore.set_aside}."""
        return shielded(self._threads.call(self._set_aside, digest))

    def damaged(self) -> Deferred[list[SetAside]]:
        """See L{IBlobStore.damaged}."""
        return self._threads.call(self._list_damaged)

    def read_damaged(self, digest: Digest, limit: int) -> Deferred[bytes]:
        """See L{IBlobStore.read_damaged}."""
        return self._threads.call(self._read_damaged, digest, limit)

    def drop_damaged(self, digest: Digest) -> Deferred[None]:
        """See L{IBlobStore.drop_damaged}."""
        return shielded(self._threads.call(unlink, self._damaged / digest.file_name))

    def total(self) -> int:
        """See L{IBlobStore.total}."""
        return self._total

    def free(self) -> int:
        """See L{IBlobStore.free}."""
        disk = os.statvfs(self._folder)
        if disk.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self._folder)
        return disk.f_bavail * disk.f_frsize

    def capacity(self) -> int:
        """See L{IBlobStore.capacity}."""
        disk = os.statvfs(self._folder)
        return disk.f_blocks * disk.f_frsize

    async def _verify(self, digest: Digest, paced: Callable[[int], Awaitable[None]] | None) -> bool:
        hasher, offset, count = digest.hasher(), 0, READ
        try:
            while count == READ:
                count = await shielded(self._threads.call(self._hash, digest, offset, hasher))
                offset += count
                if paced is not None:
                    await paced(count)
        except OSError as error:
            if error.errno in _DISK_FAULTS:
                return False
            raise
        return bool(hasher.hexdigest() == digest.encoded)

    def _hash(self, digest: Digest, offset: int, hasher: Any) -> int:
        """Add up to L{READ} bytes of a blob to C{hasher}; how many there were. No file stays open between pieces."""
        file = self._opened(digest)
        try:
            try:
                os.preadv(file.fd, [bytearray(1)], offset, os.RWF_NOWAIT)
                in_memory = True
            except OSError:
                in_memory = False
            data = os.pread(file.fd, READ, offset)
            hasher.update(data)
            if not in_memory:
                # Clients' blobs stay in memory, whatever else is looked at.
                os.posix_fadvise(file.fd, offset, len(data), os.POSIX_FADV_DONTNEED)
            return len(data)
        finally:
            file.release()

    def _inspect(self, path: Path) -> Unfinished | None:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        return Unfinished(found.st_size, read_note(path), found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def _probe(self) -> None:
        os.listdir(self._partial)
        os.listdir(self._blobs)
        path = self._partial / f"probe.{next(self._temporaries)}.tmp"
        try:
            write_new(path, b"probe", synced=False)
            path.unlink()
        except OSError as error:
            # What is held is served, and what is pulled is passed on.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise

    def _path(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.encoded

    def _opened(self, digest: Digest) -> SharedFile:
        try:
            if digest in self._leaving:
                raise FileNotFoundError
            fd = os.open(f"{self._folder}/{digest.algorithm}/{digest.encoded}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotHeld(f"{digest} is not in the store") from None
        return SharedFile(fd)

    def _read(self, digest: Digest, limit: int) -> bytes:
        try:
            with open(self._path(digest), "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise NotHeld(f"{digest} is not in the store") from None
        if len(data) > limit:
            raise BlobDamaged(f"{digest} is larger than the {limit} bytes it may have here")
        return data

    def _is(self, digest: Digest, data: bytes) -> bool:
        """Whether what is held as C{digest} is C{data}; what the disk has lost is not."""
        try:
            return self._read(digest, len(data)) == data
        except (NotHeld, BlobDamaged):
            return False
        except OSError as error:
            if error.errno in _DISK_FAULTS:
                return False
            raise

    def _read_all(self, digests: Sequence[Digest], limit: int) -> dict[Digest, bytes]:
        found: dict[Digest, bytes] = {}
        for digest in digests:
            try:
                found[digest] = self._read(digest, limit)
            except (NotHeld, BlobDamaged, OSError):
                continue
            limit -= len(found[digest])
        return found

    def _put(self, digest: Digest, data: bytes) -> None:
        if not digest.matches(data):
            raise BlobDamaged(f"{len(data)} bytes do not have the digest {digest}")
        path = self._path(digest)
        if path.exists():
            if self._is(digest, data):
                # Maybe since a moment ago, by another thread.
                fsync_folder(path.parent)
                return
            self._set_aside(digest)
        self._admit(len(data))
        temporary = self._temporary(digest)
        write_new(temporary, data)
        try:
            self._publish(temporary, digest, len(data))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _publish(self, path: Path, digest: Digest, size: int) -> None:
        """
        Give the file C{path} the blob's name, unless a file has it already: then that one is the blob, and C{path} is
        gone. One of another length is no blob, and set aside. Durable on return. The file is whole and synced, and has
        no writer any more.
        """
        final = self._path(digest)
        with self._naming:
            if self.size(digest) not in (None, size):
                self._move_aside(digest)
            if final.exists():
                path.unlink()
            else:
                os.rename(path, final)
                self._count(digest, 0, size)
        fsync_folder(final.parent)

    def _delete(self, digests: Sequence[Digest]) -> None:
        refused: OSError | None = None
        for digest in digests:
            path = self._path(digest)
            try:
                with self._naming:
                    size = path.stat().st_size
                    path.unlink()
                    self._count(digest, size, 0)
                (self._damaged / digest.file_name).unlink(missing_ok=True)
            except FileNotFoundError:
                # Another has just removed it: that may not be durable yet.
                continue
            except OSError as error:
                refused = error
        for algorithm in {digest.algorithm for digest in digests}:
            fsync_folder(self._blobs / algorithm)
        if refused is not None:
            raise refused

    def _count(self, digest: Digest, before: int, now: int) -> None:
        """The blob had C{before} bytes and has C{now}; with the lock held."""
        self._total += now - before
        for walk in self._walks:
            walk.changed(digest, before, now)

    def _settled(self, digest: Digest) -> Deferred[None]:
        """Fires when the blob is not about to go, as it could although it has just come."""
        return ended(self._leaving[digest]) if digest in self._leaving else succeed(None)

    def _set_aside(self, digest: Digest) -> bool:
        with self._naming:
            return self._move_aside(digest)

    def _move_aside(self, digest: Digest) -> bool:
        path = self._path(digest)
        try:
            size = path.stat().st_size
            make_folder(self._damaged)
            os.rename(path, self._damaged / digest.file_name)
        except FileNotFoundError:
            return False
        self._count(digest, size, 0)
        # Where it went before where it was: after a power cut it may have both names, and never none.
        fsync_folder(self._damaged)
        fsync_folder(path.parent)
        return True

    def _read_damaged(self, digest: Digest, limit: int) -> bytes:
        with suppress(OSError), open(self._damaged / digest.file_name, "rb") as file:
            return file.read(limit)
        return b""

    def _list_damaged(self) -> list[SetAside]:
        found = []
        for entry in os.scandir(self._damaged) if self._damaged.is_dir() else ():
            algorithm, _, encoded = entry.name.partition("-")
            with suppress(DigestInvalid, FileNotFoundError):
                # Its bytes were written before that; its name is what has changed.
                said = entry.stat()
                found.append(SetAside(Digest(algorithm, encoded), said.st_size, said.st_ctime))
        return sorted(found, key=lambda each: each.digest)

    def _admit(self, length: int) -> None:
        """Raises L{OSError} when C{length} more bytes of blobs would not leave C{floor}."""
        if self.floor and self.free() < self.floor + length:
            raise OSError(errno.ENOSPC, "no more room than is reserved for documents")

    def _temporary(self, digest: Digest) -> Path:
        return self._partial / f"{digest.file_name}.{next(self._temporaries)}.tmp"


def _nothing() -> None:
    """No other writer of that file is waited for."""
