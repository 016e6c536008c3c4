"""
Moves: when a tag came to mean another digest, by whom, and which moves of a locked tag were refused.

Kept as C{moves.json}::

    {"moves": {"docker.io/library/nginx": {"1.27": [
         {"at": 1800000000.0, "from": "sha256:...", "to": "sha256:...", "by": "upstream"}, ...]}},
     "refused": {"docker.io/library/nginx": {"1.28": {"at": 1800000000.0, "to": "sha256:..."}}}}

C{by} is C{"upstream"}, or the id of the bundle that an import published; oldest first. What is refused stands there as
long as the upstream says so and the tag is locked. A kill loses what was noted in the last seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec
from twisted.internet.interfaces import IReactorTime

from appliance.flow.clock import wall
from appliance.index.documents import EpochSeconds, StateFile
from appliance.interfaces import IDocuments
from appliance.oci.digest import Digest
from appliance.oci.reference import ReferenceKey

LIMIT = 10_000
"""The most moves kept; of the tag that has not moved for longest the oldest goes first. So many refused ones too."""

OF_ONE_TAG = 20
"""The most moves of one tag."""

NAME = "moves.json"

UPSTREAM = "upstream"
"""Who moved a tag, where no import did."""

V = TypeVar("V")


class Move(msgspec.Struct, frozen=True, omit_defaults=True, rename={"source": "from", "target": "to"}):
    """
    A tag that came to mean another digest, or was kept from it.

    @ivar at: when, seconds since the epoch.
    @ivar source: the digest that it meant; C{target}: that it means since then, or would.
    @ivar by: L{UPSTREAM}, or the id of a bundle.
    @ivar refused: whether it was kept from it, since it is locked.
    """

    at: EpochSeconds
    source: str
    target: str
    by: str
    refused: bool = False


class RefusedMove(msgspec.Struct, frozen=True, rename={"target": "to"}):
    """What the upstream of a locked tag says that it means: the digest, and when that was first heard (epoch)."""

    at: EpochSeconds
    target: str


class _Document(msgspec.Struct):
    moves: dict[str, dict[str, list[Move]]] = {}
    refused: dict[str, dict[str, RefusedMove]] = {}


class Moves:
    """The moves of the tags of one appliance."""

    def __init__(
        self,
        documents: IDocuments,
        clock: IReactorTime,
        left: Callable[[str, str, str, str], None] = lambda upstream, repository, tag, source: None,
    ) -> None:
        """@param left: called with each tag that moved, and the digest that it meant."""
        self._left = left
        self._document = StateFile(documents, NAME, _Document, self._take_up)
        self._clock = clock
        # The tag that moved last stands last.
        self._moves: OrderedDict[ReferenceKey, list[Move]] = OrderedDict()
        self._kept = 0
        self._refused: dict[ReferenceKey, RefusedMove] = {}

    async def load(self) -> None:
        """Take up what an earlier process noted; what was noted since the start comes on top."""
        await self._document.load()

    async def flush(self) -> None:
        """Write what changed, if anything did. One call at a time."""
        await self._document.flush(self._encode)

    def of(self, upstream: str, repository: str, tag: str) -> list[Move]:
        """The moves of a tag that are known, newest first."""
        return self._moves.get((upstream, repository, tag), [])[::-1]

    def refused(self, upstream: str, repository: str, tag: str) -> RefusedMove | None:
        """What the upstream of a locked tag says instead, C{None} when it said nothing else."""
        return self._refused.get((upstream, repository, tag))

    @property
    def all_refused(self) -> Mapping[ReferenceKey, RefusedMove]:
        """The locked tags whose upstream says something else, by upstream, repository and tag."""
        return self._refused

    def note(
        self,
        upstream: str,
        repository: str,
        tag: str,
        source: Digest | str,
        target: Digest | str,
        by: str = UPSTREAM,
        at: float | None = None,
    ) -> None:
        """
        A tag moved.

        @param by: the bundle that did it.
        @param at: when, seconds since the epoch, C{None} for now. The same move at the same moment is noted once.
        """
        key = (upstream, repository, tag)
        move = Move(wall(self._clock) if at is None else at, str(source), str(target), by)
        if move not in self._moves.get(key, ()):
            self._add(key, [move])
            self._left(*key, str(source))
        self._refused.pop(key, None)
        self._document.changed = True

    def refuse(self, upstream: str, repository: str, tag: str, held: Digest, said: Digest) -> bool:
        """The upstream says that a locked tag means C{said} now; whether that is news."""
        key, now = (upstream, repository, tag), wall(self._clock)
        known = self._refused.get(key)
        if known is not None and known.target == str(said):
            return False
        self._refused[key] = RefusedMove(now, str(said))
        while len(self._refused) > LIMIT:
            del self._refused[next(iter(self._refused))]
        self._add(key, [Move(now, str(held), str(said), UPSTREAM, refused=True)])
        self._document.changed = True
        return True

    def settle(self, upstream: str, repository: str, tag: str) -> None:
        """The tag is not kept from what its upstream says, or there is no such tag any more."""
        if self._refused.pop((upstream, repository, tag), None) is not None:
            self._document.changed = True

    def _add(self, key: ReferenceKey, moves: list[Move]) -> None:
        known = self._moves.pop(key, [])
        self._kept -= len(known)
        self._moves[key] = known = [*known, *moves][-OF_ONE_TAG:]
        self._kept += len(known)
        while self._kept > LIMIT:
            oldest, those = next(iter(self._moves.items()))
            del those[0]
            self._kept -= 1
            if not those:
                del self._moves[oldest]

    def _take_up(self, document: _Document) -> None:
        since, self._moves, self._kept = self._moves, OrderedDict(), 0
        kept = {key: moves for key, moves in _by_key(document.moves) if moves}
        for key, moves in sorted(kept.items(), key=lambda each: each[1][-1].at):
            self._add(key, moves)
        for key, moves in since.items():
            self._add(key, [move for move in moves if move not in kept.get(key, ())])
        # What moved since the start is refused no more.
        before = {key: refusal for key, refusal in _by_key(document.refused) if key not in since}
        self._refused = before | self._refused

    def _encode(self) -> bytes:
        document = _Document()
        for (upstream, repository, tag), moves in self._moves.items():
            document.moves.setdefault(f"{upstream}/{repository}", {})[tag] = moves
        for (upstream, repository, tag), refusal in self._refused.items():
            document.refused.setdefault(f"{upstream}/{repository}", {})[tag] = refusal
        return msgspec.json.encode(document)


def _by_key(places: Mapping[str, Mapping[str, V]]) -> Iterator[tuple[ReferenceKey, V]]:
    for place, tags in places.items():
        upstream, _, repository = place.partition("/")
        for tag, value in tags.items():
            yield (upstream, repository, tag), value
