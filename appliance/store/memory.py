"""Blobs in memory: the twin that shows L{IBlobStore} is a seam, and what most tests of the cache use."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from appliance.errors import BlobDamaged, NotHeld
from appliance.interfaces import IBlobReader, IBlobStore, IFileTransport, IIngest, Origin, SetAside, Unfinished
from appliance.oci.digest import Digest


@implementer(IBlobStore)
class MemoryBlobStore:
    """L{IBlobStore} in a dict; what is under way outlives a closed ingest, as it does on disk."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._partial: dict[Digest, tuple[bytes, Origin | None]] = {}
        self._damaged: dict[Digest, bytes] = {}
        self._receiving: set[Digest] = set()

    def again(self) -> MemoryBlobStore:
        """What a new process would find: as much as this one has, and no ingest open."""
        store = MemoryBlobStore()
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
        return MemoryReader(self._blobs[digest])

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
        self._publish(digest, data)
        return succeed(None)

    def ingest(self, digest: Digest) -> Deferred[IIngest]:
        """See L{IBlobStore.ingest}."""
        if digest in self._receiving:
            return succeed(_MemoryIngest(self._blobs, {}, digest, lambda: None, self._publish))
        self._receiving.add(digest)
        closed = partial(self._receiving.discard, digest)
        return succeed(_MemoryIngest(self._blobs, self._partial, digest, closed, self._publish))

    def unfinished(self) -> list[Digest]:
        """See L{IBlobStore.unfinished}."""
        return sorted(self._partial)

    def inspect(self, digest: Digest) -> Deferred[Unfinished | None]:
        """See L{IBlobStore.inspect}; all was written at the beginning of time."""
        if digest not in self._partial:
            return succeed(None)
        data, origin = self._partial[digest]
        return succeed(Unfinished(len(data), origin, 0.0))

    def forget(self, digest: Digest) -> Deferred[bool]:
        """See L{IBlobStore.forget}."""
        if digest in self._receiving:
            return succeed(False)
        self._partial.pop(digest, None)
        return succeed(True)

    def delete(self, digest: Digest) -> Deferred[None]:
        """See L{IBlobStore.delete}."""
        self._blobs.pop(digest, None)
        return succeed(None)

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

    def drop_damaged(self, digest: Digest) -> Deferred[None]:
        """See L{IBlobStore.drop_damaged}."""
        self._damaged.pop(digest, None)
        return succeed(None)

    def total(self) -> int:
        """See L{IBlobStore.total}."""
        return sum(map(len, self._blobs.values()))

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

    def __init__(self, data: bytes | bytearray) -> None:
        self._data: bytes | bytearray | None = data

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


@implementer(IIngest)
class _MemoryIngest:
    """See L{IIngest}."""

    def __init__(
        self,
        blobs: dict[Digest, bytes],
        partial: dict[Digest, tuple[bytes, Origin | None]],
        digest: Digest,
        closed: Callable[[], None],
        publish: Callable[[Digest, bytes], None],
    ) -> None:
        self._blobs = blobs
        self._publish = publish
        self._partial = partial
        self._when_closed = closed
        data, self.origin = partial.setdefault(digest, (b"", None))
        self._hasher: Any = digest.hasher()
        self._hasher.update(data)
        self._ahead: dict[int, bytes] = {}
        self._is_open = True
        # Readers hold it as well, and see it grow.
        self._data = bytearray(data)
        self.digest = digest

    @property
    def size(self) -> int:
        """See L{IIngest}."""
        return len(self._data)

    def write(self, data: list[bytes]) -> Deferred[None]:
        """See L{IIngest.write}."""
        if not self._is_open:
            return fail(self._closed())
        joined = b"".join(data)
        self._hasher.update(joined)
        self._data += joined
        self._keep()
        return succeed(None)

    def write_ahead(self, offset: int, data: list[bytes]) -> Deferred[None]:
        """See L{IIngest.write_ahead}."""
        if not self._is_open:
            return fail(self._closed())
        self._ahead[offset] = b"".join(data)
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
        return self.write(pieces)

    def note(self, origin: Origin) -> Deferred[None]:
        """See L{IIngest.note}."""
        self.origin = origin
        self._keep()
        return succeed(None)

    def reader(self) -> IBlobReader:
        """See L{IIngest.reader}."""
        if not self._is_open:
            raise self._closed()
        return MemoryReader(self._data)

    def verify(self) -> bool:
        """See L{IIngest.verify}."""
        return bool(self._hasher.hexdigest() == self.digest.encoded)

    def commit(self) -> Deferred[None]:
        """See L{IIngest.commit}."""
        if not self._is_open:
            return fail(self._closed())
        data, _ = self._partial.pop(self.digest)
        self.close()
        if not self.digest.matches(data):
            return fail(BlobDamaged(f"{self.size} bytes do not have the digest {self.digest}"))
        self._publish(self.digest, data)
        return succeed(None)

    def discard(self) -> Deferred[None]:
        """See L{IIngest.discard}."""
        if self._is_open:
            self._partial.pop(self.digest, None)
        self.close()
        return succeed(None)

    def close(self) -> None:
        """See L{IIngest.close}."""
        if self._is_open:
            self._is_open = False
            if self.digest in self._blobs:
                self._partial.pop(self.digest, None)
            self._when_closed()

    def _keep(self) -> None:
        self._ahead = {at: data for at, data in self._ahead.items() if at + len(data) > self.size}
        self._partial[self.digest] = (bytes(self._data), self.origin)

    def _closed(self) -> OSError:
        return OSError(errno.EBADF, f"{self.digest}: the file is closed")
