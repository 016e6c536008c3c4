"""
Usage: how often each tag and each manifest was pulled, and when last.

Kept as C{usage.json}::

    {"docker.io/library/nginx": {"1.27": [12, 1800000000], "sha256:...": [12, 1800000000]}, ...}

Runtimes ask what a tag means and then pull that digest, so that a pull of a tag may be noted under its digest only.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec
from twisted.internet.interfaces import IReactorTime

from appliance.flow.clock import wall_of
from appliance.flow.disk import InlineThreads
from appliance.index.documents import EpochSeconds, StateFile
from appliance.interfaces import IDocuments, IThreads

LIMIT = 200_000
"""The most references kept."""

NAME = "usage.json"

# The document is written whole: the more it holds, the less often, in seconds.
INTERVAL = 5.0
PER_THOUSAND = 1.0


# There are two hundred thousand: small, and nothing that the garbage collector would have to visit.
class Use(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """
    What is known of the pulls of one reference.

    @ivar last: of the last one, seconds since the epoch.
    """

    pulls: int
    last: EpochSeconds


Uses = dict[str, Use]
"""By reference: a tag, or a digest as text; the longest unused first."""

_repositories = msgspec.json.Decoder(dict[str, msgspec.Raw])
_uses = msgspec.json.Decoder(Uses)


class Usage:
    """The pulls of one appliance; the longest unused is dropped when there are too many."""

    def __init__(self, documents: IDocuments, clock: IReactorTime, threads: IThreads | None = None) -> None:
        """
        @param threads: where the document is read and made; C{None}: here.
        """
        self._threads = threads or InlineThreads()
        self._document = StateFile(documents, NAME, dict[str, Uses], self._take_up, self._decode, self._threads)
        self._clock = clock
        self._wall = wall_of(clock)
        # By upstream and repository in one word, as in the document.
        self._uses: dict[str, Uses] = {}
        self._count = 0
        # A heap of when the longest unused of each repository was used, or of a moment before that; C{None}: not needed
        # so far.
        self._oldest: list[tuple[float, str]] | None = None
        self._written_at = 0.0
        self._notes = 0
        self._stamps: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    async def load(self) -> None:
        """Take up what an earlier process noted; what was noted since the start comes on top."""
        await self._document.load()

    def note(self, upstream: str, repository: str, reference: str, times: int = 1) -> None:
        """The reference was pulled C{times} times, just now."""
        self._add(f"{upstream}/{repository}", reference, Use(times, self._wall()))
        self._document.changed = True

    def inherit(self, upstream: str, repository: str, tag: str, digest: str) -> None:
        """The tag means something else now: C{digest}, which it meant before, counts as used when the tag last was."""
        tagged, own = (self.of(upstream, repository, each) for each in (tag, digest))
        if tagged is not None and (own is None or own.last < tagged.last):
            self._add(f"{upstream}/{repository}", digest, Use(0, tagged.last))
            self._document.changed = True

    def of(self, upstream: str, repository: str, *references: str) -> Use | None:
        """What is known of any of the references together: a tag and its digest. C{None}: no pull."""
        known = self._uses.get(f"{upstream}/{repository}", {})
        uses = [use for each in references if (use := known.get(each)) is not None]
        if not uses:
            return None
        return Use(max(use.pulls for use in uses), max(use.last for use in uses))

    def stamp(self, upstream: str, repository: str) -> int:
        """As long as it is the same, no pull of the repository was noted."""
        return self._stamps.get(f"{upstream}/{repository}", 0)

    def last_pulled(self, upstream: str, repository: str, reference: str) -> float | None:
        """When it was last pulled, seconds since the epoch."""
        use = self._uses.get(f"{upstream}/{repository}", {}).get(reference)
        return None if use is None else use.last

    async def flush(self, now: bool = False) -> None:
        """
        Write what changed, if it is time. One call at a time.

        @param now: whether it is time in any case.
        """
        wait = INTERVAL + PER_THOUSAND * (self._count // 1000)
        if not self._document.changed or not (now or self._clock.seconds() - self._written_at >= wait):
            return
        try:
            await self._document.flush(lambda: self._threads.call(self._encode))
        finally:
            self._written_at = self._clock.seconds()

    # -- what is kept -----------------------------------------------------------------------------------------------

    def _add(self, place: str, reference: str, use: Use) -> None:
        uses = self._uses.get(place)
        if uses is None:
            uses = self._uses[place] = {}
            if self._oldest is not None:
                heapq.heappush(self._oldest, (use.last, place))
        before = uses.pop(reference, None)
        uses[reference] = use if before is None else Use(before.pulls + use.pulls, use.last)
        self._count += before is None
        self._notes += 1
        self._stamps[place] = self._notes
        while self._count > LIMIT:
            self._drop()

    def _drop(self) -> None:
        """Forget the longest unused."""
        if self._oldest is None:
            self._oldest = [(_first(uses).last, place) for place, uses in self._uses.items()]
            heapq.heapify(self._oldest)
        last, place = heapq.heappop(self._oldest)
        uses = self._uses.get(place, {})
        reference = next(iter(uses), None)
        if reference is None:
            return
        if uses[reference].last == last:
            del uses[reference]
            self._count -= 1
        if uses:
            heapq.heappush(self._oldest, (_first(uses).last, place))
        else:
            del self._uses[place]

    # -- the document -----------------------------------------------------------------------------------------------

    def _decode(self, data: bytes) -> dict[str, Uses]:
        """What a document says, on a thread: one repository after the other, so that other threads get their turn."""
        # No pull lies in the future: a moment that does was written by another clock.
        now = self._wall()
        found = {}
        for place, raw in _repositories.decode(data).items():
            uses = _uses.decode(raw)
            for reference in [reference for reference, use in uses.items() if use.last > now]:
                uses[reference] = Use(uses[reference].pulls, now)
            if uses:
                found[place] = uses
        return found

    def _take_up(self, kept: dict[str, Uses]) -> None:
        since, self._uses = self._uses, kept
        self._count = sum(map(len, kept.values()))
        self._oldest = None
        for place, uses in since.items():
            for reference, use in uses.items():
                self._add(place, reference, use)

    def _encode(self) -> bytes:
        """The document, on a thread: as L{_decode}. What changes meanwhile may be in it or not."""
        return b"{" + b",".join(self._encoded()) + b"}"

    def _encoded(self) -> Iterator[bytes]:
        for place in list(self._uses):
            if (uses := self._uses.get(place)) is not None:
                yield msgspec.json.encode(place) + b":" + msgspec.json.encode(uses)


def _first(uses: Uses) -> Use:
    return next(iter(uses.values()))
