"""One flight of several pieces at once over a scripted upstream."""

from __future__ import annotations

from typing import Any

from appliance.oci.digest import Digest
from tests.doubles.deferreds import result
from tests.doubles.upstream import ScriptedBody
from tests.rooms.cache.flying import Trip

PIECE = 100
BLOB = bytes(range(256)) * 4 + b"the end"
SIZE = len(BLOB)
DIGEST = Digest.of(BLOB)
NAME = "library/app"


class SegmentedTrip(Trip):
    """A flight over several lines, each fed by hand."""

    def __init__(
        self, lines: int = 3, store: Any = None, size: int | None = SIZE, blob: bytes = BLOB, **more: Any
    ) -> None:
        super().__init__(size, store, blob, digest=DIGEST, segments=lines, **more)

    @property
    def bodies(self) -> list[ScriptedBody]:
        return self.upstream.bodies

    def ranges(self) -> list[tuple[int, int | None]]:
        """From where to before where the upstream was asked."""
        return [(call.start, call.stop) for call in self.upstream.asked("blob")]

    def available(self) -> int:
        """How many bytes a reader can have by now; they are the right ones."""
        data = self.readable()
        assert data == BLOB[: len(data)]
        return len(data)

    def complete(self) -> None:
        """Everything that is still asked for comes."""
        for body in self.bodies:
            body.complete()

    def is_stored(self) -> bool:
        return self.store.size(DIGEST) == SIZE and result(self.store.read(DIGEST, SIZE)) == BLOB
