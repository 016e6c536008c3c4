"""
How images leave a repository: what goes with them, and the order in which it goes.

First the references, durably; then the blobs, but for those that were used since it was looked who refers to them
(L{appliance.store.leases}). So a kill at any moment leaves blobs without references at worst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from appliance.index.graph import Kept, ManifestGraph, Relations
from appliance.index.repositories import Place, Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.reference import full_name
from appliance.store.leases import Watch

BATCH = 128
"""Blobs that are removed in one turn of a thread."""


class HeldName(NamedTuple):
    """
    A reference that is held.

    @ivar tag: C{None} for a manifest by its digest alone.
    """

    tag: str | None
    digest: Digest

    def within(self, repository: Repository) -> str:
        """The full reference."""
        return full_name(*repository.place, self.tag or self.digest)


@dataclass(frozen=True)
class Gone:
    """
    What leaves one repository with some of its images.

    @ivar manifests: and C{tags}, those of children and referrers too.
    @ivar links: blobs that these named and nothing else does: they are the repository's no longer. None as long as a
        manifest that stays cannot be read, which may name any of them.
    """

    tags: frozenset[str]
    manifests: frozenset[Digest]
    links: frozenset[Digest]


def roots_of(repository: Repository, relations: Relations) -> list[HeldName]:
    """The images of a repository (L{Relations.roots}): tags by name, then digests."""
    tags, digests = relations.roots(repository)
    return [
        *(HeldName(tag, repository.tags[tag].digest) for tag in sorted(tags)),
        *(HeldName(None, digest) for digest in sorted(digests)),
    ]


def kept_by(repository: Repository, relations: Relations, name: HeldName) -> Kept:
    """What one image keeps; what its tag meant, where that has moved or gone since."""
    tags = () if name.tag is None or name.tag not in repository.tags else (name.tag,)
    return relations.kept(repository, tags, [name.digest])


def gone_with(repository: Repository, relations: Relations, stays: Sequence[HeldName]) -> Gone:
    """What leaves C{repository} when only these of its images stay."""
    tags = [tag for tag, _ in stays if tag is not None]
    kept = relations.kept(repository, tags, [digest for tag, digest in stays if tag is None])
    manifests = frozenset(repository.manifests.keys() - kept.manifests)
    links = set[Digest]()
    if kept.manifests <= relations.names.keys():
        links = set().union(*(relations.names.get(digest, ()) for digest in manifests)) - kept.blobs
    return Gone(frozenset(repository.tags.keys() - kept.tags), manifests, frozenset(links & repository.blobs.keys()))


class Departures:
    """Takes images out of repositories, and blobs out of the store."""

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        graph: ManifestGraph,
        left: Callable[[Repository, Gone], None] = lambda repository, gone: None,
    ) -> None:
        """
        @param left: is called when something has left a repository, in the same turn of the reactor.
        """
        self._store = store
        self._repositories = repositories
        self._graph = graph
        self._left = left
        # Those that could not be saved without what left them: on disk they may refer to it still.
        self._unsaved: dict[Place, Repository] = {}

    def take_out(self, repository: Repository, gone: Gone) -> None:
        """Tags first, for no tag means what is not held; immediate."""
        for tag in gone.tags:
            repository.untag(tag)
        repository.drop(*gone.manifests)
        for digest in gone.links:
            repository.unlink(digest)
        self._graph.forget(repository, gone.manifests)
        self._left(repository, gone)

    async def save(self, repository: Repository) -> None:
        """
        Make durable what was taken out, in the document itself: a tool that reads the layout of a process that was
        killed finds no tag without its manifest.

        @raise OSError: it is not; L{settle} tries again.
        """
        self._unsaved[repository.place] = repository
        await self._repositories.save_whole(repository)
        self._unsaved.pop(repository.place, None)

    async def settle(self) -> list[str]:
        """
        Save what could not be saved.

        @return: why no blob may go, in words: a document may still refer to it.
        """
        notes = []
        for repository in list(self._unsaved.values()):
            try:
                await self.save(repository)
            except OSError as error:
                notes.append(f"{'/'.join(repository.place)} could not be saved ({error.strerror or error})")
        return notes

    async def sweep(self, blobs: Iterable[Digest], watch: Watch) -> tuple[set[Digest], list[str]]:
        """Remove blobs; those that are gone, and what the disk refused, in words."""
        every, gone, notes = list(blobs), set[Digest](), dict[str, None]()
        for first in range(0, len(every), BATCH):
            # In the turn in which they go: nothing finds them from then on.
            batch = [digest for digest in every[first : first + BATCH] if digest not in watch]
            try:
                await self._store.delete(*batch)
            except OSError as error:
                notes[f"some blobs could not be removed: {error.strerror or error}"] = None
            gone.update(digest for digest in batch if self._store.size(digest) is None)
        return gone, list(notes)
