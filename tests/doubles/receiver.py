"""An appliance that imports, all in memory save for the archives: what it holds, restarts, and faults of its disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface import implementer

from appliance.bundle.importer import Importer, ImportOptions, ImportProgress
from appliance.bundle.minisign import TrustPolicy
from appliance.bundle.names import Names
from appliance.bundle.publication import Publication
from appliance.bundle.receipt import Change, Receipt, Receipts
from appliance.flow.disk import InlineThreads
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import Repositories
from appliance.interfaces import IBlobReader, IBlobStore, IDocuments, IIngest, Origin, SetAside, Stored, Unfinished
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import result
from tests.doubles.images import Content

NOW = 1_800_000_000.0
NOBODY = TrustPolicy()
CONFIGURED = frozenset({"docker.io", "ghcr.io", "quay.io"})


def upstream_for(name: str) -> str | None:
    """What L{Receiver}s call their upstreams."""
    return {"index.docker.io": "docker.io"}.get(name, name if name in CONFIGURED else None)


class Disk:
    """
    Counts everything that is written, and fails one of these operations, or that one and all after it.

    @ivar done: how many there were.
    """

    def __init__(self) -> None:
        self.done = 0
        self.fail_at = 0
        self.dead = False
        self.afterwards = False

    def break_at(self, number: int, dead: bool, afterwards: bool) -> None:
        """
        @param number: which operation fails, from 1.
        @param dead: whether all after it fail as well: the process was killed.
        @param afterwards: whether the failing operation has done its work all the same.
        """
        self.done, self.fail_at, self.dead, self.afterwards = 0, number, dead, afterwards

    def mend(self) -> None:
        """Nothing fails from now on."""
        self.fail_at = 0

    def run(self, operation: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        self.done += 1
        broken = self.fail_at and (self.done == self.fail_at or (self.dead and self.done > self.fail_at))
        if not broken:
            return operation()
        if self.afterwards and self.done == self.fail_at:
            operation().addErrback(lambda _: None)
        return fail(OSError(28, "No space left on device"))


@implementer(IBlobStore)
class BrittleStore:
    """A store in memory behind a L{Disk}."""

    def __init__(self, store: MemoryBlobStore, disk: Disk) -> None:
        self._store = store
        self._disk = disk
        self.leases = store.leases

    def size(self, digest: Digest) -> int | None:
        return self._store.size(digest)

    def open(self, digest: Digest) -> IBlobReader:
        return self._store.open(digest)

    def read(self, digest: Digest, limit: int) -> Deferred[bytes]:
        return self._store.read(digest, limit)

    def read_all(self, digests: Sequence[Digest], limit: int) -> Deferred[dict[Digest, bytes]]:
        return self._store.read_all(digests, limit)

    def put(self, digest: Digest, data: bytes) -> Deferred[None]:
        return self._disk.run(lambda: self._store.put(digest, data))

    def ingest(self, digest: Digest) -> Deferred[IIngest]:
        def wrapped(ingest: IIngest) -> IIngest:
            return BrittleIngest(ingest, self._disk)

        return self._store.ingest(digest).addCallback(wrapped)

    def unfinished(self) -> list[Digest]:
        return self._store.unfinished()

    def inspect(self, digest: Digest) -> Deferred[Unfinished | None]:
        return self._store.inspect(digest)

    def is_receiving(self, digest: Digest) -> bool:
        return self._store.is_receiving(digest)

    def forget(self, digest: Digest) -> Deferred[bool]:
        return self._store.forget(digest)

    def delete(self, *digests: Digest) -> Deferred[None]:
        return self._disk.run(lambda: self._store.delete(*digests))

    def walk(self) -> AsyncIterator[list[Stored]]:
        return self._store.walk()

    def verify(self, digest: Digest, paced: Callable[[int], Awaitable[None]] | None = None) -> Deferred[bool]:
        return self._store.verify(digest, paced)

    def set_aside(self, digest: Digest) -> Deferred[bool]:
        return self._disk.run(lambda: self._store.set_aside(digest))

    def damaged(self) -> Deferred[list[SetAside]]:
        return self._store.damaged()

    def read_damaged(self, digest: Digest, limit: int) -> Deferred[bytes]:
        return self._store.read_damaged(digest, limit)

    def drop_damaged(self, digest: Digest) -> Deferred[None]:
        return self._disk.run(lambda: self._store.drop_damaged(digest))

    def total(self) -> int:
        return self._store.total()


@implementer(IIngest)
class BrittleIngest:
    def __init__(self, ingest: IIngest, disk: Disk) -> None:
        self._ingest = ingest
        self._disk = disk
        self.digest = ingest.digest

    @property
    def size(self) -> int:
        size: int = self._ingest.size
        return size

    @property
    def origin(self) -> Origin | None:
        origin: Origin | None = self._ingest.origin
        return origin

    def write(self, data: list[bytes]) -> Deferred[None]:
        return self._disk.run(lambda: self._ingest.write(data))

    def note(self, origin: Origin) -> Deferred[None]:
        return self._disk.run(lambda: self._ingest.note(origin))

    def reader(self) -> IBlobReader:
        return self._ingest.reader()

    def verify(self) -> bool:
        return self._ingest.verify()

    def commit(self) -> Deferred[None]:
        return self._disk.run(self._ingest.commit)

    def discard(self) -> Deferred[None]:
        return self._disk.run(self._ingest.discard)

    def close(self) -> None:
        self._ingest.close()


@implementer(IDocuments)
class BrittleDocuments:
    """Documents in memory behind a L{Disk}."""

    def __init__(self, documents: MemoryDocuments, disk: Disk) -> None:
        self._documents = documents
        self._disk = disk
        self.damaged, self.unreadable = documents.damaged, documents.unreadable

    def read(self, key: tuple[str, ...]) -> Deferred[tuple[bytes, int] | None]:
        return self._documents.read(key)

    def write(self, key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        return self._disk.run(lambda: self._documents.write(key, data, replaces))

    def append(self, key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        return self._disk.run(lambda: self._documents.append(key, data, replaces))

    def journals(self, key: tuple[str, ...]) -> Deferred[Any]:
        return self._documents.journals(key)

    def remove(self, key: tuple[str, ...]) -> Deferred[None]:
        return self._disk.run(lambda: self._documents.remove(key))

    def set_aside(self, key: tuple[str, ...]) -> Deferred[str]:
        return self._disk.run(lambda: self._documents.set_aside(key))

    def list(self, prefix: tuple[str, ...], name: str) -> Deferred[Any]:
        return self._documents.list(prefix, name)


class Receiver:
    """One appliance."""

    def __init__(self, policy: TrustPolicy = NOBODY, names: Names | None = None) -> None:
        self.policy = policy
        self.names_here = names or Names(upstream_for)
        self.disk = Disk()
        self.store = MemoryBlobStore()
        self._index = MemoryDocuments()
        self.state = MemoryDocuments()
        self.clock = Clock()
        self.clock.advance(NOW)
        self.published: list[Change] = []
        self.progress: list[ImportProgress] = []
        self.room_asked: list[int] = []
        self.threads: Any = InlineThreads()
        self.start()

    def start(self) -> None:
        """New objects over what is kept, as after a restart."""
        state = BrittleDocuments(self.state, self.disk)
        self.repositories = Repositories(BrittleDocuments(self._index, self.disk))
        self.receipts = Receipts(state)
        self.publication = Publication(
            self.repositories, state, self.receipts, lambda bundle, now, changes: self.published.extend(changes)
        )
        self.importer = Importer(
            BrittleStore(self.store, self.disk),
            self.publication,
            self.threads,
            self.policy,
            self.names_here,
            self.clock,
            "site-b",
            room=self._make_room,
        )

    async def _make_room(self, octets: int) -> None:
        self.room_asked.append(octets)

    def recover(self) -> int:
        """What happens before a client is served."""
        count: int = result(self.publication.recover())
        return count

    def run(self, *files: Path, **options: Any) -> Receipt:
        """Import."""
        receipt: Receipt = result(self.begin(files, **options))
        return receipt

    def begin(self, files: Sequence[Path], **options: Any) -> Any:
        """The coroutine of an import."""
        return self.importer.run(list(files), ImportOptions(**options), self.progress.append)

    def names(self) -> dict[str, str]:
        """Every tag that is published, and every manifest that is held by digest because a client asked for it."""
        found: dict[str, str] = {}
        for upstream, name in result(self.repositories.names()):
            repository = result(self._repository(upstream, name))
            found |= {f"{upstream}/{name}:{tag}": str(record.digest) for tag, record in repository.tags.items()}
            found |= {f"{upstream}/{name}@{digest}": str(digest) for digest in repository.pinned}
        return found

    def serves(self, content: Content, place: tuple[str, str]) -> bool:
        """Whether all of C{content} is in the store, its manifests in that repository, as they were."""
        repository = result(self._repository(*place))
        for part in content.walk():
            manifest = repository.manifests.get(Digest.parse(part.digest))
            if manifest is None or (manifest.media_type, manifest.size) != (
                part.manifest.media_type,
                len(part.manifest.data),
            ):
                return False
            for blob in (part.manifest, *part.blobs):
                if self.store.size(Digest.parse(blob.digest)) != len(blob.data):
                    return False
        return True

    async def _repository(self, upstream: str, name: str) -> Any:
        return await self.repositories.get(upstream, name)

    def held(self) -> int:
        """Bytes of whole blobs."""
        return self.store.total()
