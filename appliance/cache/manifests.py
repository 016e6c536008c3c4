"""
Manifests by tag and by digest: what is held is served, what a tag means is asked again in time.

A tag is resolved by HEAD, and a GET by digest follows only when that manifest is not held: registries count GETs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache import freshness
from appliance.cache.access import RemoteRepository
from appliance.cache.freshness import MonotonicTimes
from appliance.cache.revalidator import Fetched, Revalidator, Stale, UpstreamQuery
from appliance.cache.status import HIT, CacheStatus
from appliance.errors import BlobDamaged, ManifestInvalid, Offline, PullcacheError, UpstreamInvalid, UpstreamMissing
from appliance.flow.clock import wall
from appliance.flow.lru import LeastRecentlyUsed
from appliance.index.graph import ManifestGraph
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository, Tag
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from appliance.oci.reference import ReferenceKey

# The content of the empty descriptor (image-spec, manifest.md). Signatures and SBOMs have it for a config, which no
# client ever asks for: without it they would never be whole, and so never go into a bundle.
EMPTY = b"{}"
EMPTY_DIGEST = Digest.of(EMPTY)

MEMORY = 32 * 1024 * 1024
"""The most bytes of manifests in memory, the longest unused dropped first."""


@dataclass(frozen=True)
class ManifestAnswer:
    """
    A manifest to serve.

    @ivar warning: what a client should know about it (C{Warning}), or C{None}.
    @ivar fresh_until: up to when, seconds of the clock, the same answer may be given again without asking; C{None}
        for ever, 0 when it may not.
    """

    digest: Digest
    media_type: str
    data: bytes
    status: CacheStatus
    warning: str | None = None
    fresh_until: float | None = 0.0


@dataclass(frozen=True)
class _Checked:
    """What asking brought: whether the tag means something else now, and whether anything was fetched."""

    moved: bool
    fetched: bool


class Manifests:
    """Serves manifests of every upstream's repositories."""

    _log = Logger()

    def __init__(
        self, store: IBlobStore, repositories: Repositories, graph: ManifestGraph, clock: IReactorTime
    ) -> None:
        self._store = store
        self._repositories = repositories
        self._graph = graph
        self._clock = clock
        self._in_memory: LeastRecentlyUsed[Digest, bytes] = LeastRecentlyUsed(MEMORY)
        self._tags: Revalidator[_Checked] = Revalidator(clock)
        self._digests: Revalidator[None] = Revalidator(clock)
        self._checked: MonotonicTimes[ReferenceKey] = MonotonicTimes(clock)

    # -- by tag -----------------------------------------------------------------------------------------------------

    async def by_tag(self, remote: RemoteRepository, tag: str) -> ManifestAnswer:
        """
        The manifest the tag means.

        @raise UpstreamError: nothing is held, or it may not be served stale, and asking failed.
        @raise Offline: nothing is held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        record = self._held_tag(repository, tag)
        if record is not None and self._is_good(remote, repository, tag):
            return await self._fresh(remote, repository, tag, HIT)
        if remote.offline:
            raise Offline(f"{remote}:{tag} is not held, and this appliance is offline")
        query = UpstreamQuery(remote, tag, lambda: self._check(remote, repository, tag))
        if record is None:
            return await self._fresh(remote, repository, tag, _fetched(await self._tags.fetch(query)))
        news = await self._tags.revalidate(query, self._checked_at(repository, tag, record))
        if isinstance(news, Stale):
            return await self._stale(repository, tag, record, news)
        return await self._fresh(remote, repository, tag, _revalidated(news))

    def _is_good(self, remote: RemoteRepository, repository: Repository, tag: str) -> bool:
        """Whether a tag held needs no question."""
        if remote.offline:
            return True
        checked_at = self._checked_at(repository, tag, repository.tags[tag])
        return freshness.is_fresh(checked_at, self._clock.seconds(), remote.settings)

    def _checked_at(self, repository: Repository, tag: str, record: Tag) -> float:
        """When the upstream last said so, seconds of the clock; 0 when that is not known."""
        return self._checked.seconds((repository.upstream, repository.name, tag), record.checked_at)

    async def _fresh(
        self, remote: RemoteRepository, repository: Repository, tag: str, status: CacheStatus
    ) -> ManifestAnswer:
        record = repository.tags[tag]
        answer = await self._answer(repository, record.digest, status)
        if remote.offline:
            return replace(answer, fresh_until=self._clock.seconds() + freshness.OFFLINE_FRESH_FOR)
        checked_at = self._checked_at(repository, tag, record)
        return replace(answer, fresh_until=freshness.fresh_until(checked_at, remote.settings))

    async def _stale(self, repository: Repository, tag: str, record: Tag, stale: Stale) -> ManifestAnswer:
        if tag not in repository.tags:
            # It was forgotten (delete_missing): the upstream's word is the answer.
            raise stale.fault
        answer = await self._answer(repository, record.digest, stale.status)
        return replace(answer, warning=stale.warning, fresh_until=stale.until)

    async def _check(self, remote: RemoteRepository, repository: Repository, tag: str) -> _Checked:
        """Ask what the tag means; afterwards it is recorded, and its manifest held."""
        try:
            digest, fetched = await self._resolve(remote, repository, tag)
        except UpstreamMissing:
            if remote.settings.delete_missing:
                await self._forget(repository, tag)
            raise
        moved = repository.tag(tag, digest, wall(self._clock))
        self._checked_at(repository, tag, repository.tags[tag])
        if moved:
            await self._repositories.save(repository)
        else:
            self._repositories.touch(repository)
        return _Checked(moved, fetched)

    async def _resolve(self, remote: RemoteRepository, repository: Repository, tag: str) -> tuple[Digest, bool]:
        """What the tag means, its manifest held now, and whether that had to be fetched."""
        head = await remote.registry.head(repository.name, tag)
        if head.digest is None:
            return await self._fetch_tag(remote, repository, tag)
        digest: Digest = head.digest
        if self._holds(repository, digest):
            return digest, False
        await self._fetch_told(remote, repository, tag, digest)
        return digest, True

    async def _forget(self, repository: Repository, tag: str) -> None:
        """Let go of a tag that its upstream has no more; one that a bundle brought was never the upstream's to keep."""
        record = repository.tags.get(tag)
        if record is None or record.pinned is not None:
            return
        del repository.tags[tag]
        self._log.info("{name}:{tag} is gone upstream, and forgotten", name=repository.name, tag=tag)
        await self._repositories.save(repository).addErrback(
            lambda failure: self._log.failure("a tag that is gone was not removed on disk", failure)
        )

    async def _fetch_told(self, remote: RemoteRepository, repository: Repository, tag: str, digest: Digest) -> None:
        """Fetch the manifest that the upstream says the tag means."""
        try:
            # Whatever it said earlier: it has just named this digest.
            await self._digests.fetch(self._by_digest(remote, repository, digest), believe_missing=False)
        except UpstreamMissing as error:
            # Not "no such tag".
            told = f"{repository.name}:{tag} is said to be {digest}, which is not there: {error.detail}"
            raise UpstreamInvalid(remote.upstream, told) from error

    async def _fetch_tag(self, remote: RemoteRepository, repository: Repository, tag: str) -> tuple[Digest, bool]:
        """For upstreams that do not tell a digest: fetch by tag and hash; whether that manifest was new."""
        fetched = await remote.registry.manifest(repository.name, tag)
        digest = Digest.of(fetched.data)
        if self._holds(repository, digest):
            return digest, False
        await self._keep(remote, repository, digest, fetched.data, fetched.content_type)
        return digest, True

    # -- by digest --------------------------------------------------------------------------------------------------

    async def by_digest(self, remote: RemoteRepository, digest: Digest) -> ManifestAnswer:
        """
        The manifest of that digest, as the repository has it. Once held, no upstream is asked.

        @raise UpstreamError: it is not held and asking failed.
        @raise Offline: it is not held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        if self._holds(repository, digest) or await self._adopt(repository, digest):
            return replace(await self._answer(repository, digest, HIT), fresh_until=None)
        if remote.offline:
            return await self._borrowed(remote, repository, digest)
        status = _fetched(await self._digests.fetch(self._by_digest(remote, repository, digest)))
        return replace(await self._answer(repository, digest, status), fresh_until=None)

    def _by_digest(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> UpstreamQuery[None]:
        return UpstreamQuery(remote, str(digest), lambda: self._fetch(remote, repository, digest))

    async def _adopt(self, repository: Repository, digest: Digest) -> bool:
        """Hold here what the store has for another repository, if an index held here names it whose word is enough."""
        named = None if self._store.size(digest) is None else await self._graph.named(repository, digest, thorough=True)
        if named is None or not named.linked:
            return False
        relations = await self._graph.relations(repository)
        return await self._hold(repository, digest, confirm=digest not in relations.linked)

    async def _borrowed(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> ManifestAnswer:
        """
        What the store has for another repository, if an index held here names it: nobody can be asked. It is not held
        here for that: once there is somebody to ask, it is asked for.

        @raise Offline: there is none.
        """
        absent = Offline(f"{remote}@{digest} is not held, and this appliance is offline")
        if self._store.size(digest) is None or await self._graph.named(repository, digest) is None:
            raise absent
        try:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
            manifest = parse_manifest(data, None)
        except PullcacheError:
            # A layer, as a rule.
            raise absent from None
        if not digest.matches(data):
            raise BlobDamaged(f"{digest} is damaged on disk; remove the file and it is fetched again")
        self._graph.add(repository, digest, manifest, len(data))
        fresh_until = self._clock.seconds() + freshness.OFFLINE_FRESH_FOR
        return ManifestAnswer(digest, manifest.media_type, data, HIT, fresh_until=fresh_until)

    async def _hold(self, repository: Repository, digest: Digest, confirm: bool) -> bool:
        """Hold here what the store has; whether it is a manifest."""
        try:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
            manifest = parse_manifest(data, None)
        except PullcacheError:
            return False
        await self._note(repository, digest, manifest, len(data), confirm)
        return True

    async def _fetch(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> None:
        if self._store.size(digest) is not None and await self._graph.named(repository, digest) is not None:
            # It came through another repository: whether this one has it, a HEAD says as well as a GET.
            head = await remote.registry.head(repository.name, digest)
            if head.digest == digest and await self._hold(repository, digest, confirm=True):
                return
        fetched = await remote.registry.manifest(repository.name, digest)
        await self._keep(remote, repository, digest, fetched.data, fetched.content_type)

    async def _keep(
        self, remote: RemoteRepository, repository: Repository, digest: Digest, data: bytes, content_type: str | None
    ) -> None:
        """Verify and store a manifest, and note it in the repository: durable on return."""
        if not digest.matches(data):
            why = f"{repository.name}@{digest}: {len(data)} bytes of another digest came"
            raise UpstreamInvalid(remote.upstream, why)
        try:
            manifest = parse_manifest(data, content_type)
        except ManifestInvalid as error:
            raise UpstreamInvalid(remote.upstream, f"{repository.name}@{digest}: {error}") from error
        await self._store.put(digest, data)
        self._in_memory.put(digest, data, len(data))
        await self._note(repository, digest, manifest, len(data), confirm=True)

    async def _note(self, repository: Repository, digest: Digest, manifest: Manifest, size: int, confirm: bool) -> None:
        """Note a manifest that the store has, durable on return; C{confirm} as L{Repository.hold} has it."""
        if any(descriptor.digest == str(EMPTY_DIGEST) for descriptor in manifest.blobs):
            await self._store.put(EMPTY_DIGEST, EMPTY)
            repository.blobs[EMPTY_DIGEST] = len(EMPTY)
        repository.hold(digest, manifest.media_type, size, confirm)
        self._graph.add(repository, digest, manifest, size)
        await self._repositories.save(repository)

    # -- what is held -----------------------------------------------------------------------------------------------

    def _held_tag(self, repository: Repository, tag: str) -> Tag | None:
        record = repository.tags.get(tag)
        if record is not None and self._store.size(record.digest) is not None:
            return record
        return None

    def _holds(self, repository: Repository, digest: Digest) -> bool:
        return digest in repository.manifests and self._store.size(digest) is not None

    async def _answer(self, repository: Repository, digest: Digest, status: CacheStatus) -> ManifestAnswer:
        data = self._in_memory.get(digest)
        if data is None:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
            if not digest.matches(data):
                raise BlobDamaged(f"{digest} is damaged on disk; remove the file and it is fetched again")
            _check(repository, digest, data)
            self._in_memory.put(digest, data, len(data))
        return ManifestAnswer(digest, repository.manifests[digest].media_type, data, status)


def _check(repository: Repository, digest: Digest, data: bytes) -> None:
    """What an earlier version kept may be what is not kept any more; raises L{UpstreamInvalid} then."""
    media_type = repository.manifests[digest].media_type
    try:
        if parse_manifest(data, None, media_type).media_type == media_type:
            return
        reason = f"it is held as {media_type}"
    except ManifestInvalid as error:
        reason = str(error)
    raise UpstreamInvalid(repository.upstream, f"{repository.name}@{digest} is held, and not served: {reason}")


def _fetched(heard: Fetched[Any]) -> CacheStatus:
    return CacheStatus(fwd="uri-miss", stored=not heard.joined, collapsed=heard.joined)


def _revalidated(heard: Fetched[_Checked]) -> CacheStatus:
    return CacheStatus(
        fwd="stale",
        fwd_status=200 if heard.value.moved else 304,
        stored=heard.value.fetched and not heard.joined,
        collapsed=heard.joined,
    )
