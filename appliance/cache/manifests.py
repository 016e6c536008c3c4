"""
Manifests by tag and by digest: what is held is served, what a tag means is revalidated in time.

A tag is resolved by HEAD, and a GET by digest follows only when that manifest is not held: registries count GETs.

One that the disk does not take is answered all the same, from memory as long as that has room, and nothing is noted of
it. What only the index cannot be told yet is served as ever, and written later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache import freshness
from appliance.cache.access import RemoteRepository
from appliance.cache.freshness import MonotonicTimes
from appliance.cache.moves import Moves
from appliance.cache.repair import Repair
from appliance.cache.revalidator import Revalidator, Stale, UpstreamQuery
from appliance.cache.space import Space
from appliance.cache.status import HIT, LOCKED, NO_SPACE, CacheStatus
from appliance.errors import (
    BlobDamaged,
    ManifestInvalid,
    NotHeld,
    Offline,
    PullcacheError,
    UpstreamInvalid,
    UpstreamMissing,
)
from appliance.flow.clock import wall
from appliance.flow.disk import is_refusal
from appliance.flow.lru import LeastRecentlyUsed
from appliance.index.graph import ManifestGraph
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository, Tag
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from appliance.oci.reference import ReferenceKey
from appliance.upstream.interfaces import FetchedManifest

# The content of the empty descriptor (image-spec, manifest.md). Signatures and SBOMs have it for a config, which no
# client ever asks for: without it they would never be whole, and so never go into a bundle.
EMPTY = b"{}"
EMPTY_DIGEST = Digest.of(EMPTY)

MEMORY = 16 * 1024 * 1024
"""The most bytes of manifests in memory, the longest unused dropped first."""

UNSTORED = 8 * 1024 * 1024
"""The most bytes of those of them that the disk did not take."""

PASSED_ON = CacheStatus(fwd="uri-miss", detail=NO_SPACE)


@dataclass(frozen=True)
class ManifestAnswer:
    """
    A manifest to serve.

    @ivar fresh_until: up to when, seconds of the clock, the same answer may be given again without asking; C{None}
        for ever, 0 when it may not.
    @ivar warning: what a client should know about it (C{Warning}), or C{None}.
    """

    digest: Digest
    media_type: str
    data: bytes
    status: CacheStatus
    fresh_until: float | None
    warning: str | None = None


@dataclass(frozen=True)
class _Checked:
    """
    What asking for a tag brought: whether it means something else now, whether a manifest was fetched, and whether the
    upstream says something else that is not served, since the tag is locked.

    @ivar unstored: what it means now, where the disk did not take that; else C{None}.
    """

    moved: bool
    fetched: bool
    refused: bool = False
    unstored: ManifestAnswer | None = None


class Manifests:
    """Serves manifests of every upstream's repositories."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        graph: ManifestGraph,
        moves: Moves,
        repair: Repair,
        space: Space,
        clock: IReactorTime,
    ) -> None:
        """
        @param moves: is given each tag that moved, or was kept from it.
        """
        self._moves = moves
        self._store = store
        self._repair = repair
        self._repositories = repositories
        self._graph = graph
        self._clock = clock
        self._space = space
        self._in_memory: LeastRecentlyUsed[Digest, bytes] = LeastRecentlyUsed(MEMORY)
        # So that a client that asks for a tag, and then for what it means, causes one GET.
        self._unstored: LeastRecentlyUsed[ReferenceKey, FetchedManifest] = LeastRecentlyUsed(UNSTORED)
        self._tags: Revalidator[_Checked] = Revalidator(clock)
        self._digests: Revalidator[ManifestAnswer | None] = Revalidator(clock)
        self._checked = MonotonicTimes(clock)

    # -- by tag -----------------------------------------------------------------------------------------------------

    async def by_tag(self, remote: RemoteRepository, tag: str) -> ManifestAnswer:
        """
        The manifest the tag means.

        @raise UpstreamError: nothing is held, or it may not be served stale, and asking failed.
        @raise Offline: nothing is held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        record = repository.tags.get(tag)
        if record is None or self._store.size(record.digest) is None:
            if remote.offline:
                raise Offline(f"{remote}:{tag} is not held, and this appliance is offline")
            fetched = await self._tags.fetch(self._by_tag(remote, repository, tag))
            if fetched.value.unstored is not None:
                return _passed_on(fetched.value.unstored, fetched.status(cached=False))
            return await self._current(remote, repository, tag, fetched.status(cached=False))
        hit = LOCKED if record.locked and self._moves.refused(*repository.place, tag) is not None else HIT
        if remote.offline:
            return await self._current(remote, repository, tag, hit)
        checked_at = self._checked_at(repository, tag, record)
        if freshness.is_fresh(checked_at, self._clock.seconds(), remote.settings):
            until = freshness.fresh_until(checked_at, remote.settings)
            return await self._answer(remote, repository, record.digest, hit, until)
        # It is in use, although its last pull may be long ago.
        with self._store.leases.take((record.digest,)):
            found = await self._tags.revalidate(self._by_tag(remote, repository, tag), checked_at)
        if not isinstance(found, Stale):
            if found.value.refused and not found.value.fetched:
                return await self._current(remote, repository, tag, LOCKED)
            status = replace(
                found.status(cached=True),
                fwd_status=200 if found.value.moved else 304,
                stored=found.value.fetched and not found.joined,
            )
            if found.value.unstored is not None:
                return _passed_on(found.value.unstored, status)
            return await self._current(remote, repository, tag, status)
        if tag not in repository.tags:
            # It was forgotten (delete_missing): what the upstream said is the answer.
            raise found.fault
        return await self._answer(remote, repository, record.digest, found.status, found.until, found.warning)

    def _by_tag(self, remote: RemoteRepository, repository: Repository, tag: str) -> UpstreamQuery[_Checked]:
        return UpstreamQuery(remote, tag, lambda: self._check(remote, repository, tag))

    async def _current(
        self, remote: RemoteRepository, repository: Repository, tag: str, status: CacheStatus
    ) -> ManifestAnswer:
        """What the tag means by what is held now."""
        record = repository.tags[tag]
        if remote.offline:
            until: float | None = self._clock.seconds() + freshness.OFFLINE_FRESH_FOR
        else:
            until = freshness.fresh_until(self._checked_at(repository, tag, record), remote.settings)
        return await self._answer(remote, repository, record.digest, status, until)

    def _checked_at(self, repository: Repository, tag: str, record: Tag) -> float:
        """When the upstream last said so, seconds of the clock; 0 when that is not known."""
        return self._checked.seconds((repository.upstream, repository.name, tag), record.checked_at)

    async def _check(self, remote: RemoteRepository, repository: Repository, tag: str) -> _Checked:
        """Ask what the tag means; afterwards it is recorded, and its manifest held. A locked tag does not move."""
        try:
            digest, fetched, unstored = await self._resolve(remote, repository, tag)
        except UpstreamMissing:
            record = repository.tags.get(tag)
            # What a bundle brought was never the upstream's to keep.
            if remote.settings.delete_missing and record is not None and record.pinned is None:
                repository.untag(tag)
                self._log.info("{name}:{tag} is gone upstream, and forgotten", name=repository.name, tag=tag)
                await self._repositories.save(repository).addErrback(
                    lambda failure: self._log.failure("a tag that is gone was not removed on disk", failure)
                )
            raise
        # Read now: it may have been locked, or moved by an import, meanwhile.
        before = repository.tags.get(tag)
        refused = before is not None and before.locked and before.digest != digest
        if before is not None and refused:
            if self._moves.refuse(*repository.place, tag, before.digest, digest):
                self._log.warn(
                    "{name}:{tag} is {said} upstream now; it is locked here to {held}, which is served",
                    name=remote,
                    tag=tag,
                    said=digest,
                    held=before.digest,
                )
            digest = before.digest
            fetched, unstored = await self._have(remote, repository, digest, f"{remote.name}:{tag} is locked here to")
        if unstored is not None:
            return _Checked(before is not None and not refused, fetched, refused, unstored)
        moved = repository.tag(tag, digest, wall(self._clock))
        self._checked_at(repository, tag, repository.tags[tag])
        if moved:
            if before is not None:
                self._moves.note(*repository.place, tag, before.digest, digest)
            await self._save(repository)
        else:
            self._repositories.touch(repository)
        if not refused:
            self._moves.settle(*repository.place, tag)
        return _Checked(moved, fetched, refused)

    async def _resolve(
        self, remote: RemoteRepository, repository: Repository, tag: str
    ) -> tuple[Digest, bool, ManifestAnswer | None]:
        """
        What the tag means; and as L{_have}. What a locked tag does not mean is not held for it.
        """
        head = await remote.registry.head(remote.name, tag)
        if head.digest is None:
            # Some registries do not say; then the manifest is fetched by tag and hashed.
            fetched = await remote.registry.manifest(remote.name, tag)
            digest = Digest.of(fetched.data)
            if self._holds(repository, digest) or self._refuses(repository, tag, digest):
                return digest, False, None
            return digest, True, await self._keep(remote, repository, digest, fetched)
        if self._refuses(repository, tag, head.digest):
            return head.digest, False, None
        return head.digest, *await self._have(remote, repository, head.digest, f"{remote.name}:{tag} is said to be")

    def _refuses(self, repository: Repository, tag: str, digest: Digest) -> bool:
        """Whether the tag is locked to something else."""
        record = repository.tags.get(tag)
        return record is not None and record.locked and record.digest != digest

    async def _have(
        self, remote: RemoteRepository, repository: Repository, digest: Digest, said: str
    ) -> tuple[bool, ManifestAnswer | None]:
        """
        Hold what a tag means; whether it had to be fetched, and what came where the disk did not take it.

        @param said: how it is known to mean that, for an error.
        """
        if self._holds(repository, digest):
            return False, None
        try:
            # It is known to be there: an earlier 404 of it counts no more.
            fetched = await self._digests.fetch(self._by_digest(remote, repository, digest), believe_missing=False)
        except UpstreamMissing as error:
            # Not "no such tag".
            raise UpstreamInvalid(remote.upstream, f"{said} {digest}, which is not there: {error.detail}") from error
        return True, fetched.value

    # -- by digest --------------------------------------------------------------------------------------------------

    async def by_digest(self, remote: RemoteRepository, digest: Digest) -> ManifestAnswer:
        """
        The manifest of that digest, as the repository has it. Once held, no upstream is asked.

        @raise UpstreamError: it is not held and asking failed.
        @raise Offline: it is not held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        status = HIT
        if not (self._holds(repository, digest) or await self._adopt(repository, digest)):
            if remote.offline:
                return await self._borrowed(remote, repository, digest)
            fetched = await self._digests.fetch(self._by_digest(remote, repository, digest))
            status = fetched.status(cached=False)
            if fetched.value is not None:
                return _passed_on(fetched.value, status)
        return await self._answer(remote, repository, digest, status, None)

    def _by_digest(
        self, remote: RemoteRepository, repository: Repository, digest: Digest
    ) -> UpstreamQuery[ManifestAnswer | None]:
        return UpstreamQuery(remote, str(digest), lambda: self._fetch(remote, repository, digest))

    async def _adopt(self, repository: Repository, digest: Digest) -> bool:
        """Hold here what the store has for another repository, if a trusted index held here names it."""
        named = None if self._store.size(digest) is None else await self._graph.named(repository, digest, thorough=True)
        if named is None or not named.linked:
            return False
        relations = await self._graph.relations(repository)
        return await self._hold(repository, digest, confirm=digest not in relations.linked)

    async def _borrowed(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> ManifestAnswer:
        """
        What the store has for another repository, if an index held here names it, where no upstream can be asked. It is
        not held here for that: once there is one to ask, it is asked for.

        @raise Offline: there is none, or there are rules of who may read what (L{RemoteRepository.borrows}).
        """
        absent = Offline(f"{remote}@{digest} is not held, and this appliance is offline")
        if not remote.borrows or self._store.size(digest) is None:
            raise absent
        if await self._graph.named(repository, digest) is None:
            raise absent
        try:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
            if not digest.matches(data):
                self._repair.suspect(digest)
                raise absent
            manifest = parse_manifest(data, None)
        except PullcacheError:
            # A layer, as a rule.
            raise absent from None
        self._graph.add(repository, digest, manifest, len(data))
        until = self._clock.seconds() + freshness.OFFLINE_FRESH_FOR
        return ManifestAnswer(digest, manifest.media_type, data, HIT, until)

    async def _fetch(
        self, remote: RemoteRepository, repository: Repository, digest: Digest
    ) -> ManifestAnswer | None:
        """Have the manifest held in the repository, by what its upstream says; as L{_keep}."""
        if self._store.size(digest) is not None and await self._graph.named(repository, digest) is not None:
            # It came through another repository: whether this one has it, a HEAD says as well as a GET.
            head = await remote.registry.head(remote.name, digest)
            if head.digest == digest and await self._hold(repository, digest, confirm=True):
                return None
        fetched = self._unstored.get(remote.key(digest)) or await remote.registry.manifest(remote.name, digest)
        return await self._keep(remote, repository, digest, fetched)

    # -- what is held -----------------------------------------------------------------------------------------------

    def _holds(self, repository: Repository, digest: Digest) -> bool:
        return digest in repository.manifests and self._store.size(digest) is not None

    async def _hold(self, repository: Repository, digest: Digest, confirm: bool) -> bool:
        """Hold here what the store has; whether it is a manifest."""
        with self._store.leases.take((digest,)):
            size, manifest = self._store.size(digest), await self._graph.manifests.manifest(digest, "")
            if size is None or manifest is None:
                return False
            await self._note(repository, digest, manifest, size, confirm)
            return True

    async def _keep(
        self, remote: RemoteRepository, repository: Repository, digest: Digest, fetched: FetchedManifest
    ) -> ManifestAnswer | None:
        """
        Verify and store a manifest, and note it in the repository: durable on return. Where the disk does not take it,
        what there is to answer with; else C{None}.
        """
        data = fetched.data
        if not digest.matches(data):
            why = f"{remote.name}@{digest}: {len(data)} bytes of another digest came"
            raise UpstreamInvalid(remote.upstream, why)
        try:
            manifest = parse_manifest(data, fetched.content_type)
        except ManifestInvalid as error:
            raise UpstreamInvalid(remote.upstream, f"{remote.name}@{digest}: {error}") from error
        key = remote.key(digest)
        with self._store.leases.take((digest,)):
            try:
                await self._store.put(digest, data)
            except OSError as error:
                if not is_refusal(error):
                    raise
                self._space.refused(error)
                self._space.passed(len(data))
                self._unstored.put(key, fetched, len(data))
                # Its blobs are asked for next, and without a size the rest of a large one could not be passed on.
                self._graph.add(repository, digest, manifest, len(data))
                return ManifestAnswer(digest, manifest.media_type, data, PASSED_ON, 0.0)
            self._unstored.drop(key)
            self._in_memory.put(digest, data, len(data))
            await self._note(repository, digest, manifest, len(data), confirm=True)
            return None

    async def _note(self, repository: Repository, digest: Digest, manifest: Manifest, size: int, confirm: bool) -> None:
        """
        Note a manifest that the store has, and of which the caller has a lease; durable on return, if the disk takes
        it. C{confirm} as L{Repository.hold} has it.
        """
        # What it names is referred to from here on.
        with self._store.leases.take(descriptor.parsed() for descriptor in manifest.descriptors):
            if any(descriptor.digest == str(EMPTY_DIGEST) for descriptor in manifest.blobs):
                with self._space.spared():
                    await self._store.put(EMPTY_DIGEST, EMPTY)
                    repository.link(EMPTY_DIGEST, len(EMPTY))
            repository.hold(digest, manifest.media_type, size, confirm)
            self._graph.add(repository, digest, manifest, size)
            await self._save(repository)

    async def _save(self, repository: Repository) -> None:
        """Write the repository; what the disk does not take is known meanwhile, and written later."""
        with self._space.spared():
            await self._repositories.save(repository)

    def forget(self, digest: Digest) -> None:
        """It is not held any more: not in memory either."""
        self._in_memory.drop(digest)

    async def _answer(
        self,
        remote: RemoteRepository,
        repository: Repository,
        digest: Digest,
        status: CacheStatus,
        fresh_until: float | None,
        warning: str | None = None,
    ) -> ManifestAnswer:
        media_type = repository.manifests[digest].media_type
        data = self._in_memory.get(digest)
        if data is None:
            with self._store.leases.take((digest,)):
                data = await self._whole(digest)
                if data is None:
                    # Its bytes were damaged, or removed by hand a moment ago.
                    if remote.offline:
                        raise Offline(f"{remote}@{digest} is not held, and this appliance is offline")
                    fetched = await self._digests.fetch(self._by_digest(remote, repository, digest))
                    status = fetched.status(cached=False)
                    if fetched.value is not None:
                        return _passed_on(fetched.value, status)
                    data = self._in_memory.get(digest) or await self._store.read(digest, MAX_MANIFEST_BYTES)
            # What an earlier version kept may be what is not kept any more.
            try:
                found = parse_manifest(data, None, media_type)
                reason = "" if found.media_type == media_type else f"it is held as {media_type}"
            except ManifestInvalid as error:
                reason = str(error)
            if reason:
                why = f"{repository.name}@{digest} is held, and not served: {reason}"
                raise UpstreamInvalid(repository.upstream, why)
            self._in_memory.put(digest, data, len(data))
            # Its blobs are asked for next: one of ten thousand manifests is enough to know them.
            self._graph.add(repository, digest, found, len(data))
        return ManifestAnswer(digest, media_type, data, status, fresh_until, warning)

    async def _whole(self, digest: Digest) -> bytes | None:
        """The bytes of a held manifest; C{None} when it is not held any more, since they were damaged for example."""
        try:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
            if digest.matches(data):
                return data
        except NotHeld:
            return None
        except (BlobDamaged, OSError) as error:
            self._log.warn("{digest} cannot be read: {error}", digest=digest, error=error)
        if await self._repair.examine(digest, anew=True):
            raise BlobDamaged(f"{digest} cannot be read now, and is not damaged; ask again")
        return None


def _passed_on(answer: ManifestAnswer, status: CacheStatus) -> ManifestAnswer:
    """C{answer} with what else is known of how it came."""
    return replace(answer, status=replace(status, stored=False, detail=NO_SPACE))
