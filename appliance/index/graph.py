"""
What a repository's manifests say of other things: which digests they name, which may so be served under the repository
although storage is shared, and what they refer to.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from appliance.errors import BlobDamaged, ManifestInvalid, NotHeld
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight
from appliance.index.repository import ManifestRecord, Repository
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from appliance.oci.referrer import (
    MAX_REFERRERS,
    MAX_REFERRERS_BYTES,
    Referrer,
    cosign_tags,
    distinct,
    fallback_tag,
    parse_referrers,
    referrer_of,
)

# Bytes of a descriptor that is kept in memory: annotations may be as long as a manifest.
SMALL = 2048

BUDGET = 64 * 1024 * 1024
"""The most bytes of what is remembered of the manifests of all repositories; the rest is read again."""

# What a digest takes in memory, roughly; with a size, and as a key.
_DIGEST_WEIGHT = 300


@dataclass(frozen=True)
class Named:
    """
    What a repository's documents say of a digest.

    @ivar size: bytes, C{None} where its descriptors contradict each other: then the upstream or the digest decides.
    @ivar linked: whether it is the repository's: its upstream gave it there or said that it has it there, or a manifest
        names it whose word is enough (L{ManifestRecord}). What is merely named may be anybody's.
    """

    size: int | None
    linked: bool


class Relations:
    """
    What the manifests seen so far name.

    @ivar seen: whether each manifest's word was enough when it was looked at.
    @ivar disputed: digests that two descriptors give different sizes.
    @ivar linked: digests named by a manifest whose word is enough.
    @ivar referring: by subject the manifests that refer to it; C{None} for a descriptor that is made when it is asked
        for.
    @ivar weight: what all that takes in memory in bytes, roughly.
    """

    def __init__(self) -> None:
        self.weight = 1000
        self.seen: dict[Digest, bool] = {}
        self.sizes: dict[Digest, int] = {}
        self.disputed: set[Digest] = set()
        self.linked: set[Digest] = set()
        self.referring: dict[Digest, dict[Digest, Referrer | None]] = {}

    def add(self, manifest_digest: Digest, manifest: Manifest, held: ManifestRecord) -> None:
        if manifest_digest not in self.seen:
            self.weight += _DIGEST_WEIGHT * (1 + len(manifest.blobs) + len(manifest.manifests))
        self.seen[manifest_digest] = not held.confirm
        for descriptor in (*manifest.blobs, *manifest.manifests):
            digest = descriptor.parsed()
            if self.sizes.setdefault(digest, descriptor.size) != descriptor.size:
                self.disputed.add(digest)
            if not held.confirm:
                self.linked.add(digest)
        if manifest.subject is not None:
            referrer = referrer_of(manifest_digest, held.size, manifest)
            small = len(referrer.raw) <= SMALL
            self.referring.setdefault(manifest.subject.parsed(), {})[manifest_digest] = referrer if small else None
            self.weight += _DIGEST_WEIGHT + (len(referrer.raw) if small else 0)


class ManifestGraph:
    """The digests each repository names and refers to, learnt from its manifests when first needed."""

    _log = Logger()

    def __init__(self, store: IBlobStore, budget: int = BUDGET) -> None:
        """
        @param budget: bytes of memory.
        """
        self._store = store
        self._budget = budget
        self._named: LeastRecentlyUsed[tuple[str, str], Relations] = LeastRecentlyUsed(budget)
        self._learning: SingleFlight[Relations, None] = SingleFlight()

    def add(self, repository: Repository, digest: Digest, manifest: Manifest, size: int) -> None:
        """A manifest of C{size} bytes was added to the repository, or served as if it was: then it may only name."""
        named = self._of(repository)
        named.add(
            digest,
            manifest,
            repository.manifests.get(digest) or ManifestRecord(manifest.media_type, size, confirm=True),
        )
        self._remember(repository, named)

    async def named(self, repository: Repository, digest: Digest, thorough: bool = False) -> Named | None:
        """
        What is known of a blob or manifest that the repository has, C{None} when nothing says that it has it.

        @param thorough: look into every manifest held, for descriptors that contradict each other and for one whose
            word is enough; else the first manifest that names it has to do.
        """
        held = repository.manifests.get(digest)
        if held is not None:
            return Named(held.size, linked=True)
        if digest in repository.blobs:
            return Named(repository.blobs[digest], linked=True)
        names = self._of(repository)
        if thorough or digest not in names.sizes:
            await self._learnt(repository, names)
        if digest not in names.sizes:
            return None
        return Named(None if digest in names.disputed else names.sizes[digest], digest in names.linked)

    async def trusts(self, repository: Repository, digest: Digest) -> bool:
        """Whether a manifest names it whose word is enough."""
        names = self._of(repository)
        await self._learnt(repository, names)
        return digest in names.linked

    async def referrers(self, repository: Repository, subject: Digest) -> list[Referrer]:
        """
        What refers to C{subject} by what the repository holds, each digest once: what the fallback tag lists as it is
        written there, then the manifests with that C{subject}, sorted. The subject itself need not be held (image-spec:
        a weak link).

        No more are looked at than it takes to see that there are more than are kept for one subject.
        """
        named = self._of(repository)
        await self._learnt(repository, named)
        found = await self._listed(repository, subject)
        referring = named.referring.get(subject, {})
        room = MAX_REFERRERS_BYTES
        for digest in islice(sorted(referring), MAX_REFERRERS + 1):
            described = await self._described(repository, digest, referring.get(digest))
            if described is not None:
                found.append(described)
                room -= len(described.raw)
            if room < 0:
                break
        return distinct(found)

    def cosign(self, repository: Repository, subject: Digest) -> list[str]:
        """The tags held under which cosign leaves something about C{subject}. Immediate."""
        return [tag for tag in cosign_tags(subject) if self._tagged(repository, tag) is not None]

    # -- what is held -----------------------------------------------------------------------------------------------

    def _of(self, repository: Repository) -> Relations:
        return self._named.get((repository.upstream, repository.name)) or Relations()

    def _remember(self, repository: Repository, named: Relations) -> None:
        """Keep what was learnt. Where no manifest is held there is nothing to learn: made-up names cost no memory."""
        if repository.manifests:
            # What takes more than there is room for stays until another is learnt: it takes longest to learn.
            self._named.put((repository.upstream, repository.name), named, min(named.weight, self._budget))

    def _tagged(self, repository: Repository, tag: str) -> Digest | None:
        record = repository.tags.get(tag)
        return None if record is None or self._store.size(record.digest) is None else record.digest

    async def _listed(self, repository: Repository, subject: Digest) -> list[Referrer]:
        """What the fallback tag held here lists; what is no image index lists nothing (distribution-spec)."""
        digest = self._tagged(repository, fallback_tag(subject))
        try:
            return [] if digest is None else parse_referrers(await self._store.read(digest, MAX_MANIFEST_BYTES))
        except (NotHeld, BlobDamaged, ManifestInvalid):
            return []

    async def _described(self, repository: Repository, digest: Digest, known: Referrer | None) -> Referrer | None:
        """The descriptor of a manifest that refers to something, C{None} when it is held no more."""
        held = repository.manifests.get(digest)
        if held is None or self._store.size(digest) is None:
            return None
        if known is not None:
            return known
        manifest = await self._read(repository, digest, held.media_type)
        return None if manifest is None else referrer_of(digest, held.size, manifest)

    # -- learning ---------------------------------------------------------------------------------------------------

    def _learnt(self, repository: Repository, named: Relations) -> Deferred[None]:
        """
        Fires when every manifest that the repository holds has been looked at.

        One pass, one manifest at a time, for all who wait; it goes on whoever leaves.
        """
        if named not in self._learning and not self._unseen(repository, named):
            return succeed(None)
        return self._learning.run(named, lambda: self._learn(repository, named))

    async def _learn(self, repository: Repository, named: Relations) -> None:
        # At once, so that whoever comes during the pass waits for this one.
        self._remember(repository, named)
        # Again, for what was added meanwhile: somebody may have begun to wait for just that.
        while unseen := self._unseen(repository, named):
            for digest in unseen:
                await self._look(repository, named, digest)
            self._remember(repository, named)

    def _unseen(self, repository: Repository, named: Relations) -> list[Digest]:
        """What is noted and not there may come yet, with a bundle: it stays unseen."""
        known = repository.manifests.items()
        # A bundle may have brought what was only pulled before: then it is looked at again.
        unseen = [each for each, held in known if named.seen.get(each) not in (True, not held.confirm)]
        return [each for each in unseen if self._store.size(each) is not None]

    async def _look(self, repository: Repository, named: Relations, digest: Digest) -> None:
        held = repository.manifests.get(digest)
        if held is None:
            return
        manifest = await self._read(repository, digest, held.media_type)
        if manifest is None:
            named.seen[digest] = not held.confirm
        else:
            named.add(digest, manifest, held)

    async def _read(self, repository: Repository, digest: Digest, media_type: str) -> Manifest | None:
        try:
            return parse_manifest(await self._store.read(digest, MAX_MANIFEST_BYTES), media_type)
        except (NotHeld, BlobDamaged, ManifestInvalid) as error:
            self._log.warn(
                "{upstream}/{name}: {error}", upstream=repository.upstream, name=repository.name, error=error
            )
            return None
