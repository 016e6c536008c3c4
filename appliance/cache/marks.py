"""
Marks: what every repository refers to, as the collection and the removal of images look at it.

What is learnt of a repository is kept for the next look as long as neither the repository nor its use changes. It
drives nothing that clients ask for out of the memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from twisted.internet.interfaces import IReactorTime

from appliance.cache.departure import HeldName, roots_of
from appliance.cache.references import RepositoryRoots, Stamp, look_at
from appliance.cache.usage import Usage
from appliance.index.graph import Relations, relations_of
from appliance.index.manifests import HeldManifests
from appliance.index.repositories import Place, Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import number_of
from appliance.oci.pattern import ReferencePattern
from appliance.oci.reference import full_name
from appliance.settings import Settings

SLICE = 0.001
"""Seconds of work before others get their turn."""

LARGE = 500
"""Manifests of a repository from which on its roots are looked for on a thread."""


class Marks:
    """See the module."""

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        usage: Usage,
        settings: Callable[[], Settings],
        clock: IReactorTime,
        threads: IThreads,
    ) -> None:
        """@param settings: gives those in force."""
        self._repositories = repositories
        self._usage = usage
        self._settings = settings
        self._clock = clock
        self._threads = threads
        self._manifests = HeldManifests(store, threads, room=0)
        self._known: dict[Place, RepositoryRoots] = {}
        # The patterns of what is kept, and which settings they are of.
        self._patterns: list[ReferencePattern] = []
        self._patterns_of: Settings | None = None
        self._generation = 0
        self._turn_began = 0.0

    async def all(self, notes: list[str]) -> AsyncIterator[RepositoryRoots]:
        """
        The roots of every repository.

        @param notes: is added to where something is not known: why no blob may be taken as one that nothing refers to.
        @raise OSError: which repositories there are cannot be read.
        """
        # What is not known to have been pulled would seem to be old.
        await self._usage.load()
        places = await self._repositories.names()
        for place in places:
            try:
                found = await self._roots_in(place)
            except OSError as error:
                notes.append(f"{'/'.join(place)} cannot be read ({error.strerror or error}), and may refer to anything")
                continue
            why = "is missing or damaged, was imported, and may refer to anything"
            notes += [f"{each} {why}" for each in found.unknown]
            yield found
            await self.turn()
        for gone in self._known.keys() - set(places):
            del self._known[gone]

    async def relations(self, repository: Repository) -> Relations:
        """
        What its manifests are to each other at this moment: no turn passes behind the last look.

        @raise OSError: a manifest cannot be read.
        """
        while True:
            changes = self._repositories.changes(*repository.place)
            # Not from the graph's memory: that is for what clients ask for.
            relations = await relations_of(repository, self._manifests)
            if self._repositories.changes(*repository.place) == changes:
                return relations

    async def roots(self, repository: Repository, relations: Relations) -> list[HeldName]:
        """As L{roots_of}; of a large repository on a thread, as it is at this moment."""
        if len(repository.manifests) <= LARGE:
            return roots_of(repository, relations)
        return await self._threads.call(roots_of, repository.copy(), relations)

    async def turn(self) -> None:
        """Let others have their turn, when this one took its time."""
        if self._clock.seconds() - self._turn_began >= SLICE:
            await self._threads.call(lambda: None)
            self._turn_began = self._clock.seconds()

    async def _roots_in(self, place: Place) -> RepositoryRoots:
        if (settings := self._settings()) is not self._patterns_of:
            texts = [text for each in ("", *settings.upstreams) for text in settings.rules_for(each).keep]
            self._patterns = [ReferencePattern.parse(text, settings.upstream_for) for text in dict.fromkeys(texts)]
            self._patterns_of = settings
            self._generation += 1
        stamp = Stamp(self._repositories.changes(*place), self._usage.stamp(*place), self._generation)
        known = self._known.get(place)
        if known is not None and known.stamp == stamp:
            return known
        repository = await self._repositories.read(*place)
        if repository.is_empty:
            # A kill left its document: a save removes it.
            await self._repositories.save(repository)
        relations = await relations_of(repository, self._manifests)
        every = await self.roots(repository, relations)
        found = RepositoryRoots(*place, stamp)
        for _ in look_at(found, repository, relations, every, self._usage, self._patterns):
            await self.turn()
        await self._add_unreadable(found, repository, relations)
        # What could not be read may be readable the next time.
        if not found.always and not found.unknown:
            self._known[place] = found
        return found

    async def _add_unreadable(self, found: RepositoryRoots, repository: Repository, relations: Relations) -> None:
        """What manifests may name that cannot be read: it stays."""
        always: set[int] = set()
        for digest, record in list(repository.manifests.items()):
            if digest not in relations.names:
                named = await self._manifests.may_name(digest)
                always.update(map(number_of, (*named, *repository.blobs)))
                if not named and not record.confirm:
                    found.unknown.append(full_name(*repository.place, digest))
        found.always.extend(always)
