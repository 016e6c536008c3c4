"""
Usage: how often each tag and each manifest was pulled, and when last.

Kept as C{usage.json}::

    {"docker.io/library/nginx": {"1.27": [12, 1800000000], "sha256:...": [12, 1800000000]}, ...}

Runtimes ask what a tag means and then pull that digest, so that a pull of a tag may be noted under its digest only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import msgspec
from twisted.internet.interfaces import IReactorTime

from appliance.flow.clock import wall
from appliance.index.documents import EpochSeconds, StateFile
from appliance.interfaces import IDocuments
from appliance.oci.reference import ReferenceKey

LIMIT = 200_000
"""The most references kept."""

NAME = "usage.json"

# The document is written whole: the more it holds, the less often, in seconds.
INTERVAL = 5.0
PER_THOUSAND = 1.0


class Use(NamedTuple):
    """
    What is known of the pulls of one reference.

    @ivar last: of the last one, seconds since the epoch.
    """

    pulls: int
    last: float


class Usage:
    """The pulls of one appliance; the longest unused is dropped when there are too many."""

    def __init__(self, documents: IDocuments, clock: IReactorTime) -> None:
        self._document = StateFile(documents, NAME, dict[str, dict[str, tuple[int, EpochSeconds]]], self._take_up)
        self._clock = clock
        self._uses: OrderedDict[ReferenceKey, Use] = OrderedDict()
        self._written_at = 0.0
        self._notes = 0
        self._stamps: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._uses)

    async def load(self) -> None:
        """Take up what an earlier process noted; what was noted since the start comes on top."""
        await self._document.load()

    def note(self, upstream: str, repository: str, reference: str, times: int = 1) -> None:
        """The reference was pulled C{times} times, just now."""
        self._add((upstream, repository, reference), Use(times, wall(self._clock)))
        self._document.changed = True

    def of(self, upstream: str, repository: str, *references: str) -> Use | None:
        """What is known of any of the references together: a tag and its digest. C{None}: no pull."""
        uses = [use for each in references if (use := self._uses.get((upstream, repository, each))) is not None]
        if not uses:
            return None
        return Use(max(use.pulls for use in uses), max(use.last for use in uses))

    def stamp(self, upstream: str, repository: str) -> int:
        """As long as it is the same, no pull of the repository was noted."""
        return self._stamps.get((upstream, repository), 0)

    def last_pulled(self, upstream: str, repository: str, reference: str) -> float | None:
        """When it was last pulled, seconds since the epoch."""
        use = self._uses.get((upstream, repository, reference))
        return None if use is None else use.last

    async def flush(self, now: bool = False) -> None:
        """
        Write what changed, if it is time. One call at a time.

        @param now: whether it is time in any case.
        """
        wait = INTERVAL + PER_THOUSAND * (len(self._uses) // 1000)
        if not self._document.changed or not (now or self._clock.seconds() - self._written_at >= wait):
            return
        try:
            await self._document.flush(self._encode)
        finally:
            self._written_at = self._clock.seconds()

    def _take_up(self, kept: dict[str, dict[str, tuple[int, float]]]) -> None:
        # No pull lies in the future: a moment that does was written by another clock.
        now, found = wall(self._clock), []
        for place, references in kept.items():
            upstream, _, repository = place.partition("/")
            for reference, (pulls, last) in references.items():
                found.append(((upstream, repository, reference), Use(pulls, min(last, now))))
        since, self._uses = self._uses, OrderedDict(sorted(found, key=lambda each: each[1].last))
        for key, use in since.items():
            self._add(key, use)

    def _add(self, key: ReferenceKey, use: Use) -> None:
        before = self._uses.get(key)
        self._uses[key] = use if before is None else Use(before.pulls + use.pulls, use.last)
        self._uses.move_to_end(key)
        self._notes += 1
        self._stamps[key[0], key[1]] = self._notes
        while len(self._uses) > LIMIT:
            self._uses.popitem(last=False)

    def _encode(self) -> bytes:
        document: dict[str, dict[str, Use]] = {}
        for (upstream, repository, reference), use in self._uses.items():
            document.setdefault(f"{upstream}/{repository}", {})[reference] = use
        return msgspec.json.encode(document)
