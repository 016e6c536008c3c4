"""Blobs in memory: the twin that shows L{IBlobStore} is a seam, and what most tests of the cache use."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from zope.interface import implementer

from appliance.errors import BlobDamaged, NotHeld
from appliance.interfaces import IBlobReader, IBlobStore, IFileTransport, IIngest, Origin, SetAside, Stored, Unfinished
from appliance.oci.digest import Digest
from appliance.store.leases import Lease, Leases
from appliance.store.window import Memory, Window

UNBOUNDED = 1 << 62


@implementer(IBlobStore)
class MemoryBlobStore:
    """L{IBlobStore} in a dict; what is under way outlives a closed ingest, as it does on disk."""

    def __init__(self, capacity: int = UNBOUNDED) -> None:
        """@param capacity: bytes that it takes; what is unstored counts."""
        self._blobs: dict[Digest, bytes] = {}
        self._partial: dict[Digest, tuple[bytes, Origin | None]] = {}
        self._damaged: dict[Digest, bytes] = {}
        self._receiving: set[Digest] = set()
        self.leases = Leases()
        self._capacity = capacity
        # Those whose bytes are nowhere else.
        self._detached: set[_MemoryIngest] = set()
        self._memory = Memory()
        self.floor = 0

    def again(self) -> MemoryBlobStore:
        """What a new process would find: as much as this one has, and no ingest open."""
        store = MemoryBlobStore(self._capacity)
        store._blobs, store._partial, store._damaged = self._blobs, dict(self._partial), self._damaged
        return store

    def size(self, digest: Digest) -> int | None:
        """See L{IBlobStore.size}."""
        data = self._blobs.get(digest)
        return None if data is None else len(data)

    def open(self, digest: Digest) -> IBlobReader:
        """See L{IBlobStore.open}."""
        if digest not in self._blobs:
            raise NotHeld(f"{digest} is not in the store")
        return MemoryReader(self._blobs[digest], self.leases.take([digest]))

    def read(self, digest: Digest, limit: int) -> Deferred[bytes]:
        """See L{IBlobStore.read}."""
        data = self._blobs.get(digest)
        if data is None:
            return fail(NotHeld(f"{digest} is not in the store"))
        if len(data) > limit:
            return fail(BlobDamaged(f"{digest} is larger than the {limit} bytes it may have here"))
        return succeed(data)

    def read_all(self, digests: Sequence[Digest], limit: int) -> Deferred[dict[Digest, bytes]]:
        """See L{IBlobStore.read_all}."""
        found: dict[Digest, bytes] = {}
        for digest in digests:
            data = self._blobs.get(digest)
            if data is not None and len(data) <= limit:
                found[digest] = data
                limit -= len(data)
        return succeed(found)

    def put(self, digest: Digest, data: bytes) -> Deferred[None]:
        """See L{IBlobStore.put}."""
        if not digest.matches(data):
            return fail(BlobDamaged(f"{len(data)} bytes do not have the digest {digest}"))
        if digest not in self._blobs:
            try:
                self._admit(len(data))
            except OSError as error:
                return fail(error)
        with self.leases.take((digest,)):
            self._publish(digest, data)
        return succeed(None)

    def ingest(self, digest: Digest, keep: bool = True) -> Deferred[IIngest]:
        """See L{IBlobStore.ingest}."""
        ingest = _MemoryIngest(self, digest, keep, keep and digest not in self._receiving)
        return succeed(ingest)

    def unfinished(self) -> list[Digest]:
        """See L{IBlobStore.unfinished}."""
        return sorted(self._partial)

    def inspect(self, digest: Digest) -> Deferred[Unfinished | None]:
        """See L{IBlobStore.inspect}; all was written at the beginning of time."""
        if digest not in self._partial:
            return succeed(None)
        data, origin = self._partial[digest]
        return succeed(Unfinished(len(data), origin, 0.0))

    def is_receiving(self, digest: Digest) -> bool:
        """See L{IBlobStore.is_receiving}."""
        return digest in self._receiving

    def forget(self, digest: Digest) -> Deferred[bool]:
        """See L{IBlobStore.forget}."""
        if digest in self._receiving:
            return succeed(False)
        self._partial.pop(digest, None)
        return succeed(True)

    def delete(self, *digests: Digest) -> Deferred[None]:
        """See L{IBlobStore.delete}."""
        for digest in digests:
            if self._blobs.pop(digest, None) is not None:
                self._damaged.pop(digest, None)
        return succeed(None)

    async def walk(self) -> AsyncIterator[list[Stored]]:
        """See L{IBlobStore.walk}; all came at the beginning of time."""
        if found := [Stored(digest, len(data), 0.0) for digest, data in self._blobs.items()]:
            yield found

    def verify(self, digest: Digest, paced: Callable[[int], Awaitable[None]] | None = None) -> Deferred[bool]:
        """See L{IBlobStore.verify}: all of it is one piece."""
        return Deferred.fromCoroutine(self._verify(digest, paced))

    def set_aside(self, digest: Digest) -> Deferred[bool]:
        """See L{IBlobStore.set_aside}."""
        data = self._blobs.pop(digest, None)
        if data is not None:
            self._damaged[digest] = data
        return succeed(data is not None)

    def damaged(self) -> Deferred[list[SetAside]]:
        """See L{IBlobStore.damaged}; all was set aside at the beginning of time."""
        return succeed([SetAside(digest, len(data), 0.0) for digest, data in sorted(self._damaged.items())])

    def read_damaged(self, digest: Digest, limit: int) -> Deferred[bytes]:
        """See L{IBlobStore.read_damaged}."""
        return succeed(self._damaged.get(digest, b"")[:limit])

    def drop_damaged(self, digest: Digest) -> Deferred[None]:
        """See L{IBlobStore.drop_damaged}."""
        self._damaged.pop(digest, None)
        return succeed(None)

    def total(self) -> int:
        """See L{IBlobStore.total}."""
        return sum(map(len, self._blobs.values()))

    def free(self) -> int:
        """See L{IBlobStore.free}."""
        partial = sum(len(data) for data, _ in self._partial.values())
        return self._capacity - self.total() - partial - sum(len(each.lying) for each in self._detached)

    def capacity(self) -> int:
        """See L{IBlobStore.capacity}."""
        return self._capacity

    def _admit(self, length: int) -> None:
        if self.free() < self.floor + length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def _verify(self, digest: Digest, paced: Callable[[int], Awaitable[None]] | None) -> bool:
        data = self._blobs.get(digest)
        if data is None:
            raise NotHeld(f"{digest} is not in the store")
        if paced is not None:
            await paced(len(data))
        return digest.matches(data)

    def _publish(self, digest: Digest, data: bytes) -> None:
        held = self._blobs.setdefault(digest, data)
        if held != data:
            self._damaged[digest], self._blobs[digest] = held, data


@implementer(IBlobReader)
class MemoryReader:
    """L{IBlobReader} on bytes, which may grow meanwhile."""

    def __init__(self, data: bytes | bytearray, lease: Lease | None = None) -> None:
        """@param lease: of the blob, for this reader."""
        self._data: bytes | bytearray | None = data
        self._lease = lease

    @property
    def size(self) -> int:
        """See L{IBlobReader}."""
        return len(self._data or b"")

    def read(self, start: int, stop: int) -> Deferred[bytes]:
        """See L{IBlobReader.read}."""
        if self._data is None:
            return fail(OSError(errno.EBADF, "the reader is closed"))
        return succeed(bytes(self._data[start:stop]))

    def send(
        self,
        start: int,
        stop: int,
        transport: IFileTransport,
        sent: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> bool:
        """See L{IBlobReader.send}: they lie in no file."""
        return False

    def prefetch(self, start: int, stop: int) -> None:
        """See L{IBlobReader.prefetch}: they are as near as can be."""

    def close(self) -> None:
        """See L{IBlobReader.close}."""
        self._data = None
        if self._lease is not None:
            self._lease.close()


@implementer(IIngest)
class _MemoryIngest:
    """
    See L{IIngest}.


    @ivar lying: what stands for its file; readers hold it as well, and see it grow.
    """

    def __init__(self, store: MemoryBlobStore, digest: Digest, stored: bool, named: bool) -> None:
        """@param named: whether its bytes are kept for a resumption."""
        self._store = store
        self._lease = store.leases.take((digest,))
        self._is_named = named
        data: bytes = b""
        self.origin: Origin | None = None
        if named:
            data, self.origin = store._partial.setdefault(digest, (b"", None))
            store._receiving.add(digest)
        else:
            store._detached.add(self)
        self._hasher: Any = digest.hasher()
        self._hasher.update(data)
        self._ahead: dict[int, bytes] = {}
        self._window = Window(store._memory)
        self._is_open = True
        self.lying = bytearray(data)
        self.digest = digest
        self.stored = stored

    @property
    def size(self) -> int:
        """See L{IIngest}."""
        return self._window.stop if self._window.is_open else len(self.lying)

    @property
    def start(self) -> int:
        """See L{IIngest}."""
        return self._window.start if self._window.is_open and self._window.start > self._window.begin else 0

    @property
    def readers(self) -> int:
        """See L{IIngest}."""
        return self._window.readers

    def unstore(self) -> None:
        """See L{IIngest.unstore}."""
        if self.stored and self._is_open:
            self.stored = False
            self._forget()
            self._let_go()
            self._store._detached.add(self)

    def room(self) -> Deferred[None]:
        """See L{IIngest.room}."""
        return self._window.room()

    def shed(self) -> int:
        """See L{IIngest.shed}."""
        return self._window.shed()

    def write(self, data: list[bytes]) -> Deferred[None]:
        """See L{IIngest.write}."""
        return execute(self._write, b"".join(data))

    def write_ahead(self, offset: int, data: list[bytes]) -> Deferred[None]:
        """See L{IIngest.write_ahead}."""
        if not self._is_open:
            return fail(self._closed())
        joined = b"".join(data)
        try:
            self._admit(len(joined))
        except OSError as error:
            return fail(error)
        self._ahead[offset] = joined
        return succeed(None)

    def absorb(self, stop: int) -> Deferred[None]:
        """See L{IIngest.absorb}. Fails with L{ValueError}, and absorbs nothing, when some was not written ahead."""
        pieces, reached = [], self.size
        while reached < stop:
            found = [at for at, data in self._ahead.items() if at <= reached < at + len(data)]
            if not found:
                return fail(ValueError(f"byte {reached} was not written ahead"))
            pieces.append(self._ahead[found[0]][reached - found[0] : stop - found[0]])
            reached += len(pieces[-1])
        try:
            self._admit(sum(map(len, pieces)))
        except OSError as error:
            return fail(error)
        return self.write(pieces)

    def note(self, origin: Origin) -> Deferred[None]:
        """See L{IIngest.note}."""
        self.origin = origin
        self._keep()
        return succeed(None)

    def reader(self, start: int = 0) -> IBlobReader:
        """See L{IIngest.reader}."""
        if not self._is_open:
            raise self._closed()
        lease = self._store.leases.take((self.digest,))
        return self._window.reader(MemoryReader(self.lying, lease), start)

    def verify(self) -> bool:
        """See L{IIngest.verify}."""
        return bool(self._hasher.hexdigest() == self.digest.encoded)

    def commit(self) -> Deferred[None]:
        """See L{IIngest.commit}."""
        if not self._is_open:
            return fail(self._closed())
        if not self.stored:
            self.close()
            return fail(OSError(errno.ENOSPC, f"{self.digest}: it is unstored"))
        data = bytes(self.lying)
        self._forget()
        self.close()
        if not self.digest.matches(data):
            return fail(BlobDamaged(f"{self.size} bytes do not have the digest {self.digest}"))
        self._store._publish(self.digest, data)
        return succeed(None)

    def discard(self) -> Deferred[None]:
        """See L{IIngest.discard}."""
        if self._is_open:
            self._forget()
        self.close()
        return succeed(None)

    def close(self) -> None:
        """See L{IIngest.close}."""
        if self._is_open:
            self._is_open = False
            self._window.close()
            if self.digest in self._store._blobs:
                self._forget()
            self._lease.close()
            self._let_go()

    def _forget(self) -> None:
        if self._is_named:
            self._store._partial.pop(self.digest, None)

    def _let_go(self) -> None:
        """Another may go on with what has the name."""
        if self._is_named:
            self._is_named = False
            self._store._receiving.discard(self.digest)
        self._store._detached.discard(self)

    def _write(self, data: bytes) -> None:
        if not self._is_open:
            raise self._closed()
        try:
            self._admit(len(data))
        except OSError:
            if self.stored:
                raise
            if not self._window.is_open:
                self._window.open(len(self.lying))
            self._window.put(data)
        else:
            self.lying += data
        self._hasher.update(data)
        self._keep()

    def _admit(self, length: int) -> None:
        """Raises L{OSError} when so many bytes cannot be added to what lies here."""
        if self._window.is_open:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._store._admit(length)

    def _keep(self) -> None:
        self._ahead = {at: data for at, data in self._ahead.items() if at + len(data) > self.size}
        if self._is_named:
            self._store._partial[self.digest] = (bytes(self.lying), self.origin)

    def _closed(self) -> OSError:
        return OSError(errno.EBADF, f"{self.digest}: the file is closed")
