"""One flight over a scripted upstream."""

from __future__ import annotations

from typing import Any, Self

from twisted.internet.defer import Deferred, fail

from appliance.cache.flight import Flight
from appliance.interfaces import IBlobReader
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import begin, result
from tests.doubles.pullthrough import clock_at
from tests.doubles.upstream import ScriptedBody, ScriptedUpstream

BLOB = bytes(range(256)) * 40
SIZE = len(BLOB)
DIGEST = Digest.of(BLOB)
NAME = "library/app"


class Trip:
    """A flight whose upstream's bodies are fed by hand."""

    def __init__(
        self,
        size: int | None = SIZE,
        store: Any = None,
        blob: bytes = BLOB,
        validator: str | None = None,
        digest: Digest = DIGEST,
        **more: Any,
    ) -> None:
        """
        @param size: what the manifest says, C{None}: nothing.
        @param blob: what the upstream sends for C{digest}.
        @param more: for the L{Flight}.
        """
        self.upstream = ScriptedUpstream()
        self.upstream.by_hand = True
        self.upstream.validator = validator
        self.upstream.shelves[NAME].blobs[digest] = blob
        self.store = store or MemoryBlobStore()
        self.clock = clock_at()
        self.digest = digest
        self.flight = Flight(self.upstream, NAME, digest, size, self.store, self.clock, **more)
        self.outcome: list[Any] = []
        # Of a client that reads on when the flight has ended; C{None}: there is none.
        self.reader: IBlobReader | None = None

    def depart(self) -> Self:
        self.landing = begin(self.flight.fly())
        self.landing.addBoth(self.outcome.append)
        return self

    @property
    def body(self) -> ScriptedBody:
        """The latest answer of the upstream."""
        return self.upstream.bodies[-1]

    @property
    def error(self) -> Exception:
        found: Exception = self.outcome[0].value
        return found

    def readable(self) -> bytes:
        """What a reader can have by now."""
        return result((self.reader or self.flight.reader()).read(0, self.flight.growth.available))

    def asked(self) -> list[tuple[int, int | None, str | None]]:
        return [(call.start, call.stop, call.validator) for call in self.upstream.asked("blob")]

    def kept(self) -> int:
        """Bytes kept for a resumption."""
        ingest = result(self.store.ingest(self.digest))
        ingest.close()
        size: int = ingest.size
        return size


class _Writer:
    """An ingest whose disk fills up after C{room} bytes."""

    def __init__(self, ingest: Any, room: int) -> None:
        self._ingest = ingest
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ingest, name)

    def write(self, data: list[bytes]) -> Deferred[None]:
        if self._ingest.size + sum(map(len, data)) > self._room:
            return fail(OSError(28, "No space left on device"))
        written: Deferred[None] = self._ingest.write(data)
        return written


class FillingDisk(MemoryBlobStore):
    """A store that is full after a thousand bytes."""

    def ingest(self, digest: Digest) -> Deferred[Any]:
        return super().ingest(digest).addCallback(_Writer, 1000)
