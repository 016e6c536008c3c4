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

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, DeferredLock

from appliance.cache.moves import Moves
from appliance.cache.pins import WILD, HeldName, meant
from appliance.errors import BlobDamaged, NotHeld, RemovalRefused
from appliance.flow.singleflight import shielded
from appliance.index.graph import ManifestGraph, Relations, relations_of
from appliance.index.manifests import SizeOf
from appliance.index.repositories import Repositories
from appliance.index.repository import OPERATOR, Repository
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.oci.pattern import ReferencePattern
from appliance.oci.reference import full_name
from appliance.oci.referrer import subject_of

SHOWN = 10
"""The most names of those that use what stays."""

AT_ONCE = 100
"""Blobs that are deleted in one turn of a thread."""

_DIGEST = re.compile(rb"sha(?:256|512):[0-9a-f]{64,128}")


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


@dataclass(frozen=True)
class Gone:
    """
    What leaves one repository with some of its images.

    @ivar manifests: and C{tags}, those of children and referrers too.
    @ivar blobs: what these named, and themselves, as far as nothing that stays in the repository names it.
    """

    tags: frozenset[str]
    manifests: frozenset[Digest]
    blobs: frozenset[Digest]


NOTHING = Gone(frozenset(), frozenset(), frozenset())


# -- decided: functions of values -----------------------------------------------------------------------------------


def roots_of(repository: Repository, relations: Relations) -> set[HeldName]:
    """The images of a repository: what nothing else held brings along (L{Relations.roots})."""
    tags, digests = relations.roots(repository)
    return {
        *(HeldName(tag, repository.tags[tag].digest) for tag in tags),
        *(HeldName(None, digest) for digest in digests),
    }


def gone_with(repository: Repository, relations: Relations, stays: Iterable[HeldName]) -> Gone:
    """What leaves C{repository} when only these of its images stay."""
    tags = [name.tag for name in stays if name.tag is not None]
    kept = relations.kept(repository, tags, [name.digest for name in stays if name.tag is None])
    manifests = repository.manifests.keys() - kept.manifests
    named = manifests.union(*(relations.names.get(digest, ()) for digest in manifests))
    return Gone(
        frozenset(repository.tags.keys() - kept.tags),
        frozenset(manifests),
        frozenset(named - kept.blobs),
    )


def reason_to_stay(repository: Repository, relations: Relations, name: HeldName) -> str:
    """Why what is none of the images of a repository cannot be removed by itself, and what can."""

    def called(digest: Digest) -> str:
        return min(users_of(repository, relations, [digest]))

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


def check_unpinned(repository: Repository, gone: Gone) -> None:
    """Raises L{RemovalRefused} where an operator has pinned something that goes."""
    tags = [tag for tag in gone.tags if repository.tags[tag].pinned == OPERATOR]
    digests = [str(digest) for digest in gone.manifests if repository.pinned.get(digest) == OPERATOR]
    if pinned := sorted([*tags, *digests]):
        full = full_name(*repository.place, pinned[0])
        raise RemovalRefused(f"{full} is pinned: unpin it first, or remove it with --force")


def users_of(repository: Repository, relations: Relations, digests: Iterable[Digest]) -> set[str]:
    """The full names of the images that bring these manifests of the repository along; some may be such themselves."""
    tagged: dict[Digest, list[str]] = {}
    for tag, record in repository.tags.items():
        tagged.setdefault(record.digest, []).append(tag)
    users = set[str]()
    queue = [digest for digest in digests if digest in repository.manifests]
    seen = set(queue)
    for each in queue:
        subjects = [relations.subjects.get(each), *map(subject_of, tagged.get(each, ()))]
        above = {
            brings
            for brings in (*relations.parents.get(each, ()), *subjects)
            if brings is not None and brings in repository.manifests
        }
        names = [tag for tag in tagged.get(each, ()) if subject_of(tag) not in above]
        if not above or names:
            users.update(full_name(*repository.place, name) for name in names or [str(each)])
        queue += above - seen
        seen |= above
    return users


# -- carried out ----------------------------------------------------------------------------------------------------


class ImageRemoval:
    """Removes images; one call after the other."""

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        graph: ManifestGraph,
        moves: Moves,
        removed: Callable[[], None],
    ) -> None:
        """
        @param removed: called when tags are gone, in the same turn of the reactor.
        """
        self._store = store
        self._repositories = repositories
        self._graph = graph
        self._moves = moves
        self._removed = removed
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
        with self._store.leases.watch() as watch:
            going = _Going()
            async for repository, relations, names in meant(pattern, self._repositories, self._graph):
                # As it is in this turn, in which it is changed.
                roots = roots_of(repository, relations)
                names = [name for name in names if name in roots]
                gone = gone_with(repository, relations, roots.difference(names))
                going.add(repository, relations, names, gone, self._store.size)
                if not dry_run:
                    await self._take(repository, gone, going)
            await self._look_for_users(going)
            blobs = sorted(going.blobs)
            for first in range(0, len(blobs), AT_ONCE):
                # Who has no lease by now finds in the next turn that they are not held.
                batch = blobs[first : first + AT_ONCE]
                going.keep([digest for digest in batch if digest in watch], "a client or a fetch is using it now")
                if not dry_run:
                    await self._store.delete(*(digest for digest in batch if digest in going.blobs))
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
                check_unpinned(repository, gone_with(repository, relations, roots.difference(found)))
            names += [name.within(repository) for name in found]
        text = pattern.text[:160]
        if not names:
            raise NotHeld(f"{text} is not held")
        if len(names) > 1 and pattern.tag is None and not WILD & set(pattern.text):
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise RemovalRefused(f"{text} means {len(names)} images: {shown}; name one, or write {text}:* for all tags")

    async def _take(self, repository: Repository, gone: Gone, going: _Going) -> None:
        """Take it out of the repository, durably."""
        for tag in gone.tags:
            repository.untag(tag)
            self._moves.settle(*repository.place, tag)
        repository.drop(*gone.manifests)
        for digest in gone.blobs:
            repository.unlink(digest)
        self._graph.forget(repository, gone.manifests)
        self._removed()
        try:
            await self._repositories.save(repository)
        except OSError as error:
            going.keep(gone.blobs, f"{_place(repository)} could not be saved without it yet ({error.strerror})")

    async def _look_for_users(self, going: _Going) -> None:
        """Find out what of it other images need."""
        for place in await self._repositories.names():
            try:
                repository = await self._repositories.read(*place)
            except OSError as error:
                why = f"whether {'/'.join(place)} needs it cannot be read now ({error.strerror})"
                going.keep(going.blobs.keys(), why)
                continue
            relations = await relations_of(repository, self._graph.manifests)
            gone = going.gone.get(place, NOTHING)
            going.use(going.candidates & repository.blobs.keys() - gone.blobs)
            for digest in repository.manifests.keys() - gone.manifests:
                names = relations.names.get(digest)
                if names is None:
                    names = await self._names_in_damaged(digest)
                    record = repository.manifests.get(digest)
                    if not names and record is not None and not record.confirm:
                        # What it names is noted nowhere else.
                        full = full_name(*place, digest)
                        going.keep(going.blobs.keys(), f"{full} is missing or damaged, and may need them")
                if needed := going.candidates.intersection((digest, *names)):
                    going.use(needed, users_of(repository, relations, [digest]) - going.names)
            await self._graph.manifests.walked(len(relations.names))

    async def _names_in_damaged(self, digest: Digest) -> tuple[Digest, ...]:
        """What a manifest may name that is not what it should be, or was set aside for that."""
        try:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
        except (NotHeld, BlobDamaged, OSError):
            data = await self._store.read_damaged(digest, MAX_MANIFEST_BYTES)
        return tuple(Digest.parse(text.decode("ascii")) for text in _DIGEST.findall(data))


@dataclass
class _Going:
    """
    What a removal comes to, while that is being found out.

    @ivar images: each with what it needs; C{names}: theirs.
    @ivar gone: by upstream and repository.
    @ivar candidates: all blobs that the images need.
    @ivar blobs: of these, those that go, with their bytes; C{stays}: those that others need.
    @ivar kept: how many stay for a later collection, by the reason why.
    """

    images: list[tuple[str, Digest, frozenset[Digest]]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    gone: dict[tuple[str, str], Gone] = field(default_factory=dict)
    candidates: set[Digest] = field(default_factory=set)
    blobs: dict[Digest, int] = field(default_factory=dict)
    stays: dict[Digest, int] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)
    kept: dict[str, int] = field(default_factory=dict)

    def add(
        self, repository: Repository, relations: Relations, names: Iterable[HeldName], gone: Gone, size_of: SizeOf
    ) -> None:
        """Images of one repository, which still holds them."""
        self.gone[repository.place] = gone
        for name in names:
            needs = relations.kept(repository, [name.tag] if name.tag else [], [name.digest]).blobs
            self.images.append((name.within(repository), name.digest, needs))
            self.names.add(name.within(repository))
            for digest in needs - self.candidates:
                if (size := size_of(digest)) is not None:
                    self.candidates.add(digest)
                    self.blobs[digest] = size

    def use(self, digests: Iterable[Digest], users: Iterable[str] = ()) -> None:
        """Others need these."""
        for digest in digests:
            if (size := self.blobs.pop(digest, None)) is not None:
                self.stays[digest] = size
        self.users.update(users)

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
        users = sorted(self.users)
        return Removed(
            images,
            sorted(self.blobs.items()),
            sorted(self.stays.items()),
            users[:SHOWN],
            max(0, len(users) - SHOWN),
            [f"{count} blobs stay for a later collection: {why}" for why, count in self.kept.items()],
        )


def _place(repository: Repository) -> str:
    return "/".join(repository.place)
