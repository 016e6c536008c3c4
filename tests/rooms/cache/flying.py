"""One flight over a scripted upstream."""

from __future__ import annotations

from typing import Any, Self

from appliance.cache.flight import Flight
from appliance.cache.space import Space
from appliance.interfaces import IBlobReader
from appliance.oci.digest import Digest
from appliance.settings import RetentionSettings
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
        self.space = Space(self.store, self.clock, RetentionSettings())
        self.flight = Flight(self.upstream, NAME, digest, size, self.store, self.clock, self.space, **more)
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
