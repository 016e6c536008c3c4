"""
What manifests are to each other: children, parents, subjects, referrers, and what keeps what.

Two kinds of edges go out from a manifest. It I{names} its children (an index) and its blobs, which are needed to have
it whole. And it I{refers to} a subject, which need not be held (image-spec: a weak link): by C{subject} (image-spec
1.1), by the fallback tag of the distribution specification ("Referrers Tag Schema"), or by one of cosign's tags.

L{Relations} is one repository's graph, and pure: it is given manifests, and answers. L{ManifestGraph} fills it with
what is held, and keeps as much of it as there is room for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from appliance.errors import BlobDamaged, ManifestInvalid, PullcacheError
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight
from appliance.index.manifests import AT_ONCE, HeldManifests, SizeOf
from appliance.index.repository import ManifestRecord, Repository
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest
from appliance.oci.referrer import (
    MAX_REFERRERS,
    MAX_REFERRERS_BYTES,
    ReferrerDescriptor,
    cosign_tags,
    distinct,
    fallback_tag,
    parse_referrers,
    referrer_of,
    subject_of,
)

SMALL = 2048
"""Bytes of a referrer's descriptor that is kept in memory: annotations may be as long as a manifest."""

BUDGET = 24 * 1024 * 1024
"""The most bytes of the relations of all repositories that are kept in memory; the rest is read again."""

# What a digest takes in memory, roughly; with a size, and as a key.
_DIGEST_WEIGHT = 300


@dataclass(frozen=True)
class Named:
    """
    What a repository's documents say of a digest.

    @ivar size: bytes, C{None} where its descriptors contradict each other: then the upstream or the digest decides.
    @ivar linked: whether it is the repository's: its upstream gave it there or said that it has it there, or a trusted
        manifest names it (L{ManifestRecord}). What is merely named may be another repository's.
    """

    size: int | None
    linked: bool


@dataclass(frozen=True)
class Kept:
    """
    What stays of a repository when only some of its roots do.

    @ivar tags: with their manifests among C{manifests}.
    @ivar manifests: of those the repository holds.
    @ivar blobs: everything that these name, and themselves; held or not.
    """

    tags: frozenset[str]
    manifests: frozenset[Digest]
    blobs: frozenset[Digest]


class Relations:
    """
    How the manifests of one repository are related, as far as they were added. Pure. What has left the repository since
    and was not L{removed<remove>} is taken as not there.

    @ivar seen: by manifest, whether it was trusted (L{ManifestRecord}) when it was added.
    @ivar names: by manifest, the digests of its children and blobs.
    @ivar children: by index, the digests of its children; C{parents}: the other way round.
    @ivar subjects: by manifest, what it refers to; those without are not in it.
    @ivar referring: by subject the manifests that refer to it, with their descriptors; C{None} for one that is made
        when it is asked for.
    @ivar sizes: bytes of what is named; C{disputed}: digests that two descriptors give different sizes.
    @ivar linked: by digest that trusted manifests name, how many do.
    @ivar weight: what all that takes in memory in bytes, roughly.
    """

    def __init__(self) -> None:
        self.weight = 1000
        self.seen: dict[Digest, bool] = {}
        self.names: dict[Digest, tuple[Digest, ...]] = {}
        self.children: dict[Digest, tuple[Digest, ...]] = {}
        self.parents: dict[Digest, list[Digest]] = {}
        self.subjects: dict[Digest, Digest] = {}
        self.referring: dict[Digest, dict[Digest, ReferrerDescriptor | None]] = {}
        self.sizes: dict[Digest, int] = {}
        self.disputed: set[Digest] = set()
        self.linked: dict[Digest, int] = {}
        # How many manifests name a digest, where more than one does; and those that count in linked.
        self._shared: dict[Digest, int] = {}
        self._trusted: set[Digest] = set()

    def add(self, digest: Digest, manifest: Manifest, record: ManifestRecord) -> None:
        """A manifest, as the repository holds it or would."""
        self.remove(digest)
        self.seen[digest] = not record.confirm
        self.names[digest] = names = tuple(descriptor.parsed() for descriptor in manifest.descriptors)
        for named, descriptor in zip(names, manifest.descriptors, strict=True):
            if named not in self.sizes:
                self.sizes[named] = descriptor.size
            else:
                self._shared[named] = self._shared.get(named, 1) + 1
                if self.sizes[named] != descriptor.size:
                    self.disputed.add(named)
            if not record.confirm:
                self.linked[named] = self.linked.get(named, 0) + 1
        if not record.confirm:
            self._trusted.add(digest)
        if manifest.manifests:
            self.children[digest] = names[: len(manifest.manifests)]
            for child in self.children[digest]:
                self.parents.setdefault(child, []).append(digest)
        if manifest.subject is not None:
            self.subjects[digest] = subject = manifest.subject.parsed()
            referrer = referrer_of(digest, record.size, manifest)
            about = self.referring.setdefault(subject, {})
            about[digest] = referrer if len(referrer.raw) <= SMALL else None
        self.weight += self._weight_of(digest)

    def remove(self, digest: Digest) -> None:
        """
        A manifest that the repository holds no longer, with all that only it said. Sizes that were disputed because of
        it stay so. One that was not added is no error.
        """
        self.seen.pop(digest, None)
        if digest not in self.names:
            return
        self.weight -= self._weight_of(digest)
        for child in self.children.pop(digest, ()):
            _take_out(self.parents, child, digest)
        if (subject := self.subjects.pop(digest, None)) is not None:
            _take_out(self.referring, subject, digest)
        for named in self.names.pop(digest):
            if named in self._shared:
                _count_down(self._shared, named, 1)
            else:
                del self.sizes[named]
                self.disputed.discard(named)
            if digest in self._trusted:
                _count_down(self.linked, named, 0)
        self._trusted.discard(digest)

    def _weight_of(self, digest: Digest) -> int:
        """Of a manifest that is added."""
        referrer = self.referring[self.subjects[digest]][digest] if digest in self.subjects else None
        digests = 1 + len(self.names[digest]) + len(self.children.get(digest, ())) + (digest in self.subjects)
        return _DIGEST_WEIGHT * digests + (0 if referrer is None else len(referrer.raw))

    def naming(self, blobs: Iterable[Digest]) -> dict[Digest, list[Digest]]:
        """By digest, the manifests that name it, sorted; those that no manifest names are not in it."""
        wanted = set(blobs)
        found: dict[Digest, list[Digest]] = {}
        for manifest in sorted(self.names) if wanted else ():
            for named in wanted.intersection(self.names[manifest]):
                found.setdefault(named, []).append(manifest)
        return found

    def sizes_in(self, repository: Repository, size_of: SizeOf) -> SizeOf:
        """
        C{size_of} for what is the repository's. What it merely names, and other repositories are known to have, counts
        as not held: an export of it would let its readers read theirs.
        """
        own = (repository.manifests, repository.blobs, self.linked)
        return lambda digest: size_of(digest) if any(digest in each for each in own) else None

    def about(self, repository: Repository, subject: Digest) -> Iterator[tuple[Digest, str | None]]:
        """
        The manifests held that refer to C{subject}: by their own C{subject}, sorted, with C{None}; then what the
        fallback tag and cosign's tags mean, with the tag. What the fallback tag's index lists are that one's children.
        """
        for digest in sorted(self.referring.get(subject, ())):
            if digest in repository.manifests:
                yield digest, None
        for tag, digest in tagged_about(repository, subject):
            yield digest, tag

    # -- what keeps what --------------------------------------------------------------------------------------------

    def is_implied(self, repository: Repository, digest: Digest, tag: str | None) -> bool:
        """
        Whether a tag, or a manifest by its digest alone (C{None}), comes along with another manifest held: as its
        child, or because it refers to it. So no client has to ask for it by name.
        """
        if tag is not None:
            return subject_of(tag) in repository.manifests
        brings = (self.subjects.get(digest), *self.parents.get(digest, ()))
        return any(each in repository.manifests for each in brings)

    def references(self, repository: Repository) -> Iterator[tuple[str | None, Digest, bool]]:
        """
        Each tag held, then each manifest by its digest with C{None}; and whether it comes along: L{is_implied}, or a
        tag means that digest.
        """
        tagged = {record.digest for record in repository.tags.values()}
        for tag, record in repository.tags.items():
            yield tag, record.digest, self.is_implied(repository, record.digest, tag)
        for digest in repository.manifests:
            yield None, digest, digest in tagged or self.is_implied(repository, digest, None)

    def roots(self, repository: Repository) -> tuple[list[str], list[Digest]]:
        """
        What nothing else held brings along: tags, and manifests without a tag. With all of them L{kept} is all that the
        repository holds.
        """
        roots = [(tag, digest) for tag, digest, implied in self.references(repository) if not implied]
        tags = [tag for tag, _ in roots if tag is not None]
        digests = [digest for tag, digest in roots if tag is None]
        kept = self.kept(repository, tags, digests).manifests
        # Nothing outside brings a circle along: an index that refers to its own child, tags that are about each other.
        for each in sorted(repository.manifests.keys() - kept):
            if each not in kept:
                digests.append(each)
                kept |= self.kept(repository, (), [each]).manifests
        return tags, digests

    def kept(self, repository: Repository, tags: Iterable[str], digests: Iterable[Digest]) -> Kept:
        """
        What C{tags} and C{digests} keep: these and their children, what refers to any of that, and so on. A child that
        a kept index names stays whatever else named it is gone; a referrer whose subject is gone stays only as a root.
        """
        kept_tags = set(tags)
        queue = [*(repository.tags[tag].digest for tag in kept_tags), *digests]
        kept: set[Digest] = set()
        while queue:
            digest = queue.pop()
            if digest in kept or digest not in repository.manifests:
                continue
            kept.add(digest)
            queue.extend(self.children.get(digest, ()))
            for referrer, tag in self.about(repository, digest):
                queue.append(referrer)
                if tag is not None:
                    kept_tags.add(tag)
        blobs = kept.union(*(self.names.get(digest, ()) for digest in kept))
        return Kept(frozenset(kept_tags), frozenset(kept), frozenset(blobs))


def _take_out(related: dict[Digest, Any], one: Digest, other: Digest) -> None:
    """C{other} out of those that are related to C{one}; each is there once, or as often as it was added."""
    others = related[one]
    if isinstance(others, dict):
        del others[other]
    else:
        others.remove(other)
    if not others:
        del related[one]


def _count_down(counts: dict[Digest, int], digest: Digest, least: int) -> None:
    """One less; what comes down to C{least} is not counted any more."""
    counts[digest] -= 1
    if counts[digest] <= least:
        del counts[digest]


def tagged_about(repository: Repository, subject: Digest) -> Iterator[tuple[str, Digest]]:
    """The tags held under which something about C{subject} may be found, and what they mean."""
    for tag in (fallback_tag(subject), *cosign_tags(subject)):
        if (record := repository.tags.get(tag)) is not None:
            yield tag, record.digest


async def relations_of(repository: Repository, manifests: HeldManifests) -> Relations:
    """The relations of all manifests that the repository holds and that can be read now."""
    found = Relations()
    async for digest, manifest in manifests.held(repository):
        if (record := repository.manifests.get(digest)) is not None:
            found.add(digest, manifest, record)
    return found


class ManifestGraph:
    """
    The relations of each repository, learnt from its manifests when they are first needed.

    @ivar manifests: reads those held.
    @ivar damaged: called with each manifest that has other bytes than its digest says.
    """

    _log = Logger()

    def __init__(self, store: IBlobStore, threads: IThreads, budget: int = BUDGET) -> None:
        """
        @param budget: bytes of memory.
        """
        self._store = store
        self._threads = threads
        self.manifests = HeldManifests(store, threads, room=0)
        self._budget = budget
        self._relations: LeastRecentlyUsed[tuple[str, str], Relations] = LeastRecentlyUsed(budget)
        self._learning: SingleFlight[tuple[str, str], Relations] = SingleFlight()
        self.damaged: Callable[[Digest], None] = lambda digest: None

    def add(self, repository: Repository, digest: Digest, manifest: Manifest, size: int) -> None:
        """A manifest of C{size} bytes was added to the repository, or served as if it was: then it may only name."""
        relations = self._known(repository)
        record = repository.manifests.get(digest) or ManifestRecord(manifest.media_type, size, confirm=True)
        relations.add(digest, manifest, record)
        self._remember(repository, relations)

    def forget(self, repository: Repository, digests: Iterable[Digest]) -> None:
        """
        The repository holds these manifests no longer: what they alone said is not known any more. A blob that was the
        repository's by one of them, and that another one names, is linked for itself; to be saved.
        """
        if (relations := self._relations.get(repository.place)) is not None:
            said: set[Digest] = set()
            for digest in digests:
                blobs = {*relations.names.get(digest, ())}.difference(relations.children.get(digest, ()))
                said.update(blobs & relations.linked.keys())
                relations.remove(digest)
            for blob in said - relations.linked.keys() - relations.disputed:
                if blob in relations.sizes:
                    repository.link(blob, relations.sizes[blob])
            self._remember(repository, relations)

    def unlearn(self, digest: Digest) -> None:
        """
        A manifest was found damaged, and is not held now. What was learnt of its right bytes stays true; where it could
        not be read it is looked at again when it is held again.
        """
        for relations in self._relations.values():
            if digest not in relations.names:
                relations.seen.pop(digest, None)

    async def named(self, repository: Repository, digest: Digest, thorough: bool = False) -> Named | None:
        """
        What is known of a blob or manifest that the repository has, C{None} when nothing says that it has it.

        @param thorough: look into every manifest held, for descriptors that contradict each other and for a trusted
            manifest; else the first manifest that names it has to do.
        """
        record = repository.manifests.get(digest)
        if record is not None:
            return Named(record.size, linked=True)
        if digest in repository.blobs:
            return Named(repository.blobs[digest], linked=True)
        relations = self._known(repository)
        if thorough or digest not in relations.sizes:
            relations = await self.relations(repository)
        if digest not in relations.sizes:
            return None
        return Named(None if digest in relations.disputed else relations.sizes[digest], digest in relations.linked)

    async def referrers(self, repository: Repository, subject: Digest) -> list[ReferrerDescriptor]:
        """
        What refers to C{subject} by what the repository holds, each digest once: what the fallback tag lists as it is
        written there, then the manifests with that C{subject}, sorted. The subject itself need not be held.

        No more are looked at than it takes to see that there are more than are kept for one subject.
        """
        relations = await self.relations(repository)
        found: list[ReferrerDescriptor] = []
        if (fallback := repository.tags.get(fallback_tag(subject))) is not None:
            data = await self.manifests.document(fallback.digest)
            # What is no image index lists nothing (distribution-spec).
            with suppress(ManifestInvalid):
                found = [] if data is None else parse_referrers(data)
        referring = relations.referring.get(subject, {})
        room = MAX_REFERRERS_BYTES
        for digest in islice(sorted(referring), MAX_REFERRERS + 1):
            record = repository.manifests.get(digest)
            if record is None or self._store.size(digest) is None:
                continue
            referrer = referring.get(digest)
            if referrer is None:
                manifest = await self.manifests.manifest(digest, record.media_type)
                if manifest is None:
                    continue
                referrer = referrer_of(digest, record.size, manifest)
            found.append(referrer)
            room -= len(referrer.raw)
            if room < 0:
                break
        return distinct(found)

    def relations(self, repository: Repository) -> Deferred[Relations]:
        """
        Fires when every manifest that the repository holds has been looked at.

        There is one pass for all who wait; it goes on when one of them is cancelled.
        """
        relations = self._known(repository)
        if not self._unseen(repository, relations):
            return succeed(relations)
        return self._learning.run(repository.place, lambda: self._learn(repository, relations))

    async def _learn(self, repository: Repository, relations: Relations) -> Relations:
        def unreadable(digest: Digest, error: PullcacheError) -> None:
            if (record := repository.manifests.get(digest)) is not None:
                relations.seen[digest] = not record.confirm
            self._log.warn("{place}: {error}", place=f"{repository.upstream}/{repository.name}", error=error)
            if isinstance(error, BlobDamaged):
                self.damaged(digest)

        # At once, so that what is added during the pass is added to these.
        self._remember(repository, relations)
        # Again, for what was added meanwhile: a caller may have begun to wait for just that.
        while unseen := await self._held(self._unseen(repository, relations)):
            async for digest, manifest in self.manifests.held(repository, unseen, unreadable):
                if (record := repository.manifests.get(digest)) is not None:
                    relations.add(digest, manifest, record)
            self._remember(repository, relations)
        return relations

    def _unseen(self, repository: Repository, relations: Relations) -> list[Digest]:
        known = repository.manifests.items()
        # A bundle may have brought what was only pulled before: then it is looked at again.
        return [each for each, record in known if relations.seen.get(each) not in (True, not record.confirm)]

    async def _held(self, unseen: list[Digest]) -> list[Digest]:
        """What is noted and not in the store may come yet, with a bundle: it stays unseen."""

        def held() -> list[Digest]:
            return [each for each in unseen if self._store.size(each) is not None]

        return held() if len(unseen) <= AT_ONCE else await self._threads.call(held)

    def _known(self, repository: Repository) -> Relations:
        return self._relations.get(repository.place) or Relations()

    def _remember(self, repository: Repository, relations: Relations) -> None:
        """Keep what was learnt. Where there is nothing to learn nothing is kept: made-up names cost no memory."""
        if not (repository.manifests or relations.names):
            self._relations.drop(repository.place)
        else:
            # What takes more than there is room for stays until another is learnt: it takes longest to learn.
            self._relations.put(repository.place, relations, min(relations.weight, self._budget))
