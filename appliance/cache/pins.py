"""
Pins: what an operator keeps from retention, and the tags that are locked to what they mean.

Which references a name or a pattern means among those held is decided here, for all that an operator does with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from appliance.cache.departure import HeldName, kept_by
from appliance.cache.moves import Moves
from appliance.errors import NotHeld, NotSaved
from appliance.index.graph import ManifestGraph, Relations
from appliance.index.repositories import Repositories
from appliance.index.repository import OPERATOR, Repository
from appliance.oci.digest import Digest
from appliance.oci.pattern import ReferencePattern, matches

WILD = frozenset("*?[")
"""What makes a name a pattern."""


@dataclass(frozen=True)
class PinChange:
    """
    What was pinned, or is pinned no more.

    @ivar name: in full.
    @ivar before: what kept it from retention, as in L{Repository.pin}; C{None}: nothing. C{pinned}: what does now.
    @ivar locked: whether its tag is locked now.
    """

    name: str
    digest: Digest
    before: str | None
    pinned: str | None
    locked: bool


async def meant(
    pattern: ReferencePattern, repositories: Repositories, graph: ManifestGraph
) -> AsyncIterator[tuple[Repository, Relations, list[HeldName]]]:
    """
    What a name or a pattern means among what is held, repository by repository, by name. What comes along with another
    image, such as a child or a signature, is meant only by its own tag or digest.
    """
    for place in await repositories.names():
        if matches(pattern.place, "/".join(place)):
            repository = await repositories.read(*place)
            relations = await graph.relations(repository)
            if found := names_in(repository, relations, pattern):
                yield repository, relations, found


def names_in(repository: Repository, relations: Relations, pattern: ReferencePattern) -> list[HeldName]:
    """What C{pattern} means of one repository that it covers, sorted by name."""
    tag, digest = pattern.tag, pattern.digest
    if digest is not None and tag is None:
        return [HeldName(None, each) for each in repository.manifests if str(each) == digest]
    if tag is not None and not WILD & set(tag):
        record = repository.tags.get(tag)
        is_meant = record is not None and digest in (None, str(record.digest))
        return [HeldName(tag, record.digest)] if record is not None and is_meant else []
    place = "/".join(repository.place)
    found = [
        HeldName(each, meaning)
        for each, meaning, implied in relations.references(repository)
        if not implied and pattern.covers(place, each, str(meaning))
    ]
    return sorted(found, key=lambda name: name.within(repository))


class Pins:
    """Pins and unpins what one appliance holds."""

    def __init__(self, repositories: Repositories, graph: ManifestGraph, moves: Moves) -> None:
        """
        @param moves: forgets what a tag was kept from when it is not locked any more.
        """
        self._repositories = repositories
        self._graph = graph
        self._moves = moves

    async def pin(self, pattern: ReferencePattern, lock: bool = False) -> list[PinChange]:
        """
        Keep what C{pattern} means from retention; durable on return.

        @param lock: let its tags mean what they mean, whatever their upstreams or bundles say.
        @raise NotHeld: it means nothing that is held.
        @raise NotSaved: it is pinned, and the disk has not taken that yet.
        """
        done = []
        async for repository, _, names in meant(pattern, self._repositories, self._graph):
            for name in names:
                before = _pin_of(repository, name)
                repository.pin(name.tag or name.digest, OPERATOR)
                if lock and name.tag is not None:
                    repository.lock(name.tag)
                done.append(_change(repository, name, before))
            await self._save(repository)
        if not done:
            raise NotHeld(f"{pattern.text[:160]} is not held; pull it first, then pin it")
        return done

    async def unpin(self, pattern: ReferencePattern) -> list[PinChange]:
        """
        Lift what keeps it from retention, a bundle's pin too, and its lock; and the pins with which a bundle brought
        what comes along with it. Durable on return.

        @return: what C{pattern} means and was pinned.
        @raise NotHeld: it means nothing that is held.
        @raise NotSaved: it is unpinned, and the disk has not taken that yet.
        """
        done, found = [], False
        async for repository, relations, names in meant(pattern, self._repositories, self._graph):
            found = True
            for name in names:
                before = _pin_of(repository, name)
                if before is None:
                    continue
                if name.tag is not None:
                    repository.unpin(name.tag)
                    self._moves.settle(*repository.place, name.tag)
                repository.unpin(name.digest)
                kept = kept_by(repository, relations, name)
                for tag in kept.tags:
                    if repository.tags[tag].pinned == before != OPERATOR:
                        repository.unpin(tag)
                for digest in kept.manifests:
                    if repository.pinned.get(digest) == before != OPERATOR:
                        repository.unpin(digest)
                done.append(_change(repository, name, before))
            await self._save(repository)
        if not found:
            raise NotHeld(f"{pattern.text[:160]} is not held")
        return done

    async def _save(self, repository: Repository) -> None:
        try:
            await self._repositories.save(repository)
        except OSError as error:
            raise NotSaved(
                f"it is done for {'/'.join(repository.place)}, and not saved: {error.strerror or error}; it will be as"
                " soon as the disk can be written, and is undone by a stop before that"
            ) from error


def _pin_of(repository: Repository, name: HeldName) -> str | None:
    """What keeps it: a tag is kept by the pin of what it means, too."""
    tagged = None if name.tag is None else repository.tags[name.tag].pinned
    return tagged or repository.pinned.get(name.digest)


def _change(repository: Repository, name: HeldName, before: str | None) -> PinChange:
    locked = name.tag is not None and repository.tags[name.tag].locked
    return PinChange(name.within(repository), name.digest, before, _pin_of(repository, name), locked)
