"""
Removing images that an operator names: at once, with all that only they needed.

======================  ===========================================================================================
goes                    the tags and manifests that are meant; their children and what refers to them, unless another
                        image brings it along; then each blob that no repository refers to any more
is refused              what an image needs or brings along, such as a platform of an index or a signature; what a tag
                        means, by its digest; what an operator has pinned
stays for a collection  blobs that are in use at this moment
======================  ===========================================================================================

References are removed first, durably; then it is looked, over all repositories, which of the blobs are referred to; and
what is leased at any moment meanwhile is left alone (L{appliance.store.leases}). So a blob that gets a reference while
this runs stays. How new a blob is does not matter here, as it does to a collection: it was named by what was removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred, DeferredLock

from appliance.cache.departure import Departures, HeldName, gone_with, kept_by, roots_of
from appliance.cache.marks import Marks
from appliance.cache.pins import WILD, meant
from appliance.errors import NotHeld, RemovalRefused
from appliance.flow.singleflight import shielded
from appliance.index.graph import ManifestGraph, Relations
from appliance.index.manifests import SizeOf
from appliance.index.repositories import Place, Repositories
from appliance.index.repository import OPERATOR, Repository
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest, number_of
from appliance.oci.pattern import ReferencePattern
from appliance.oci.reference import full_name
from appliance.oci.referrer import subject_of

SHOWN = 10
"""The most names of those that use what stays."""


@dataclass(frozen=True)
class RemovedImage:
    """
    An image that goes.

    @ivar name: in full.
    @ivar octets: what its going frees; a blob that several need that go together counts with the first of them.
    """

    name: str
    digest: Digest
    octets: int


@dataclass
class Removed:
    """
    What was removed, or would be.

    @ivar images: by name.
    @ivar blobs: that go, with their bytes; sorted.
    @ivar stays: blobs that the images needed and others need, with their bytes.
    @ivar users: names of images that need these, by name, L{SHOWN} at most; C{others}: how many more there are.
    @ivar notes: what else there is to know, in words.
    """

    images: list[RemovedImage] = field(default_factory=list)
    blobs: list[tuple[Digest, int]] = field(default_factory=list)
    stays: list[tuple[Digest, int]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    others: int = 0
    notes: list[str] = field(default_factory=list)


# -- decided: functions of values -----------------------------------------------------------------------------------


def reason_to_stay(repository: Repository, relations: Relations, name: HeldName) -> str:
    """Why what is none of the images of a repository cannot be removed by itself, and what can."""

    def called(digest: Digest) -> str:
        """The name of an image that brings this along."""
        return min(
            root.within(repository)
            for root in roots_of(repository, relations)
            if digest in kept_by(repository, relations, root).manifests
        )

    full = name.within(repository)
    held = repository.manifests
    if name.tag is not None:
        subject = subject_of(name.tag)
        if subject is not None and subject in held:
            return f"{full} belongs to {called(subject)}, and goes with it: remove that"
    for tag, record in repository.tags.items():
        if name.tag is None and record.digest == name.digest:
            return f"{full} is what {full_name(*repository.place, tag)} means: remove that"
    for parent in relations.parents.get(name.digest, ()):
        if parent in held:
            return f"{called(parent)} needs {name.digest}, which goes with it: remove that"
    return f"{full} refers to {called(name.digest)}, and goes with it: remove that"


def check_unpinned(repository: Repository, relations: Relations, stays: list[HeldName]) -> None:
    """Raises L{RemovalRefused} where an operator has pinned something that goes when only these images stay."""
    gone = gone_with(repository, relations, stays)
    tags = [tag for tag in gone.tags if repository.tags[tag].pinned == OPERATOR]
    digests = [str(digest) for digest in gone.manifests if repository.pinned.get(digest) == OPERATOR]
    if pinned := sorted([*tags, *digests]):
        full = full_name(*repository.place, pinned[0])
        raise RemovalRefused(f"{full} is pinned: unpin it first, or remove it with --force")


# -- carried out ----------------------------------------------------------------------------------------------------


class ImageRemoval:
    """Removes images; one call after the other."""

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        graph: ManifestGraph,
        marks: Marks,
        departures: Departures,
    ) -> None:
        self._store = store
        self._repositories = repositories
        self._graph = graph
        self._marks = marks
        self._departures = departures
        self._lock = DeferredLock()

    def remove(self, pattern: ReferencePattern, dry_run: bool = False, force: bool = False) -> Deferred[Removed]:
        """
        Remove what C{pattern} means; fires when that is durable. Cancelling ends the waiting, not the removal.

        Fails with L{NotHeld} when it means nothing that is held, and with L{RemovalRefused} when some of it may not go
        or more is meant than one name says; then nothing has gone. And with L{OSError} when it cannot be read.

        @param dry_run: say what would go, and leave everything as it is.
        @param force: also what an operator has pinned.
        """

        return shielded(self._lock.run(lambda: Deferred.fromCoroutine(self._remove(pattern, dry_run, force))))

    async def _remove(self, pattern: ReferencePattern, dry_run: bool, force: bool) -> Removed:
        await self._check(pattern, force)
        going = _Going()
        with self._store.leases.watch() as watch:
            async for repository, relations, names in meant(pattern, self._repositories, self._graph):
                # As it is in this turn, in which it is changed.
                roots = roots_of(repository, relations)
                chosen = [name for name in names if name in roots]
                going.add(repository, relations, chosen, self._store.size)
                if dry_run:
                    continue
                gone = gone_with(repository, relations, [*{*roots}.difference(chosen)])
                self._departures.take_out(repository, replace(gone, links=gone.links - watch.seen))
                try:
                    await self._departures.save(repository)
                except OSError as error:
                    going.keep(going.candidates, f"{'/'.join(repository.place)} could not be saved ({error.strerror})")
            try:
                await self._look_for_users(going, dry_run)
            except OSError as error:
                going.keep(going.candidates, f"who else needs them cannot be read now ({error.strerror or error})")
            going.keep(going.candidates & watch.seen, "a client or a fetch is using it now")
            if not dry_run:
                swept, notes = await self._departures.sweep(sorted(going.blobs), watch)
                for note in notes:
                    going.keep(going.blobs.keys() - swept, note)
                going.keep(going.blobs.keys() - swept, "a client or a fetch is using it now")
        return going.removed()

    async def _check(self, pattern: ReferencePattern, force: bool) -> None:
        """Raises L{NotHeld} or L{RemovalRefused} before anything is changed."""
        names = []
        async for repository, relations, found in meant(pattern, self._repositories, self._graph):
            roots = roots_of(repository, relations)
            for name in found:
                if name not in roots:
                    raise RemovalRefused(reason_to_stay(repository, relations, name))
            if not force:
                check_unpinned(repository, relations, [root for root in roots if root not in found])
            names += [name.within(repository) for name in found]
        text = pattern.text[:160]
        if not names:
            raise NotHeld(f"{text} is not held")
        if len(names) > 1 and pattern.tag is None and not WILD & set(pattern.text):
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise RemovalRefused(f"{text} means {len(names)} images: {shown}; name one, or write {text}:* for all tags")

    async def _look_for_users(self, going: _Going, dry_run: bool) -> None:
        """Find out what of it other images need, and which."""
        doubts = await self._departures.settle()
        numbers = {number_of(digest): digest for digest in going.candidates}
        async for marked in self._marks.all(doubts):
            going.use(numbers[each] for each in numbers.keys() & set(marked.always))
            chosen = going.chosen.get((marked.upstream, marked.name), frozenset()) if dry_run else frozenset()
            if numbers.keys().isdisjoint(marked.blobs):
                continue
            if not chosen and len(going.users) >= SHOWN:
                for root in range(len(marked)):
                    if shared := numbers.keys() & set(marked.of(root)):
                        going.use((numbers[each] for each in shared), "")
                    await self._marks.turn()
                continue
            repository = await self._repositories.read(marked.upstream, marked.name)
            relations = await self._marks.relations(repository)
            for name in await self._marks.roots(repository, relations):
                if name not in chosen and (needs := going.candidates & kept_by(repository, relations, name).blobs):
                    going.use(needs, name.within(repository))
                await self._marks.turn()
        for doubt in doubts:
            going.keep(going.candidates, doubt)


@dataclass
class _Going:
    """
    What a removal comes to, while that is being found out.

    @ivar images: each with what it needs; C{chosen}: the same by upstream and repository.
    @ivar candidates: all blobs that the images need.
    @ivar blobs: of these, those that go, with their bytes; C{stays}: those that others need.
    @ivar users: of these others, L{SHOWN} by name at most; C{others}: how many more there are.
    @ivar kept: how many stay for a later collection, by the reason why.
    """

    images: list[tuple[str, Digest, frozenset[Digest]]] = field(default_factory=list)
    chosen: dict[Place, Set[HeldName]] = field(default_factory=dict)
    candidates: set[Digest] = field(default_factory=set)
    blobs: dict[Digest, int] = field(default_factory=dict)
    stays: dict[Digest, int] = field(default_factory=dict)
    users: list[str] = field(default_factory=list)
    others: int = 0
    kept: dict[str, int] = field(default_factory=dict)

    def add(self, repository: Repository, relations: Relations, names: list[HeldName], size_of: SizeOf) -> None:
        """Images of one repository, which still holds them."""
        self.chosen[repository.place] = set(names)
        for name in names:
            needs = kept_by(repository, relations, name).blobs
            self.images.append((name.within(repository), name.digest, needs))
            for digest in needs - self.candidates:
                if (size := size_of(digest)) is not None:
                    self.candidates.add(digest)
                    self.blobs[digest] = size

    def use(self, digests: Iterable[Digest], user: str | None = None) -> None:
        """Others need these, by the name of one of them."""
        for digest in digests:
            if (size := self.blobs.pop(digest, None)) is not None:
                self.stays[digest] = size
        if user is not None and len(self.users) < SHOWN:
            self.users.append(user)
        elif user is not None:
            self.others += 1

    def keep(self, digests: Iterable[Digest], why: str) -> None:
        """These stay, although it may be that none needs them."""
        for digest in list(digests):
            if self.blobs.pop(digest, None) is not None:
                self.kept[why] = self.kept.get(why, 0) + 1

    def removed(self) -> Removed:
        """What it came to."""
        freed = dict(self.blobs)
        images = []
        for name, digest, needs in self.images:
            images.append(RemovedImage(name, digest, sum(freed.pop(each, 0) for each in needs)))
        return Removed(
            images,
            sorted(self.blobs.items()),
            sorted(self.stays.items()),
            sorted(self.users),
            self.others,
            [f"{count} blobs stay for a later collection: {why}" for why, count in self.kept.items()],
        )
