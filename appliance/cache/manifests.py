"""
Manifests by tag and by digest: what is held is served, what a tag means is asked again in time.

A tag is resolved by HEAD, and a GET by digest follows only when that manifest is not held: registries count GETs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache import freshness
from appliance.cache.collapse import Collapsing, Share
from appliance.cache.links import Links
from appliance.cache.recent import Recent
from appliance.cache.remote import Remote
from appliance.cache.status import HIT, CacheStatus
from appliance.cache.waiting import within
from appliance.errors import (
    BlobDamaged,
    ManifestInvalid,
    Offline,
    PullcacheError,
    UpstreamError,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository, Tag
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, parse_manifest

# The content of the empty descriptor (image-spec, manifest.md). Signatures and SBOMs have it for a config, which no
# client ever asks for: without it they would never be whole, and so never go into a bundle.
EMPTY = b"{}"
EMPTY_DIGEST = Digest.of(EMPTY)


@dataclass(frozen=True)
class ManifestAnswer:
    """
    A manifest to serve.

    @ivar warning: what a client should know about it (C{Warning}), or C{None}.
    @ivar fresh_until: up to when, seconds since the epoch, the same answer may be given again without asking; C{None}
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
        self, store: IBlobStore, repositories: Repositories, links: Links, clock: IReactorTime, recent: Recent
    ) -> None:
        self._store = store
        self._repositories = repositories
        self._links = links
        self._clock = clock
        self._recent = recent
        self._checks: Collapsing[tuple[str, str, str], _Checked] = Collapsing(clock)
        self._fetches: Collapsing[tuple[str, str, Digest], None] = Collapsing(clock)

    # -- by tag -----------------------------------------------------------------------------------------------------

    async def by_tag(self, remote: Remote, name: str, tag: str) -> ManifestAnswer:
        """
        The manifest the tag means.

        @raise UpstreamError: nothing is held, or it may not be served stale, and asking failed.
        @raise Offline: nothing is held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.name, name)
        record = self._held_tag(repository, tag)
        if record is not None:
            if remote.offline:
                return await self._answer(repository, record.digest, HIT)
            if freshness.is_fresh(record.checked_at, self._clock.seconds(), remote.settings):
                return await self._fresh(remote, repository, tag, HIT)
        elif remote.offline:
            raise Offline(f"{remote.name}/{name}:{tag} is not held, and this appliance is offline")
        share = self._checks.share((remote.name, name, tag), lambda: self._check(remote, repository, tag))
        if record is None:
            await share.result
            return await self._fresh(
                remote, repository, tag, CacheStatus(fwd="uri-miss", stored=not share.joined, collapsed=share.joined)
            )
        return await self._revalidated(remote, repository, tag, record, share)

    async def _revalidated(
        self, remote: Remote, repository: Repository, tag: str, record: Tag, share: Share[_Checked]
    ) -> ManifestAnswer:
        """Wait a bounded time for the check's word, and serve what is held without it."""
        now = self._clock.seconds()
        wait = freshness.remaining_wait(share.began, now, remote.settings)
        try:
            checked = await within(share.result, wait, self._clock)
        except DeferredTimeout:
            return await self._stale(
                remote,
                repository,
                record,
                UpstreamTimeout(remote.name, f"no answer within {remote.settings.revalidate_within:g} s"),
            )
        except PullcacheError as error:
            return await self._stale(remote, repository, record, error)
        except OSError as error:
            # Our own disk could not take the news; what it has is still good.
            fault = UpstreamUnavailable(remote.name, f"what it says of {tag} cannot be stored: {error.strerror}")
            return await self._stale(remote, repository, record, fault)
        status = CacheStatus(
            fwd="stale",
            fwd_status=200 if checked.moved else 304,
            stored=checked.fetched and not share.joined,
            collapsed=share.joined,
        )
        return await self._fresh(remote, repository, tag, status)

    async def _stale(
        self, remote: Remote, repository: Repository, record: Tag, error: PullcacheError
    ) -> ManifestAnswer:
        if not freshness.may_serve_stale(error, record.checked_at, self._clock.seconds(), remote.settings):
            raise error
        kind = error.kind if isinstance(error, UpstreamError) else "unavailable"
        answer = await self._answer(repository, record.digest, replace(HIT, detail=f"stale-{kind}"))
        return replace(answer, warning=f"stale: {error}", fresh_until=0.0)

    async def _fresh(self, remote: Remote, repository: Repository, tag: str, status: CacheStatus) -> ManifestAnswer:
        record = repository.tags[tag]
        answer = await self._answer(repository, record.digest, status)
        return replace(answer, fresh_until=freshness.fresh_until(record.checked_at, remote.settings))

    async def _check(self, remote: Remote, repository: Repository, tag: str) -> _Checked:
        """Ask what the tag means; afterwards it is recorded, and its manifest held."""
        head = await remote.registry.head(repository.name, tag)
        fetched = False
        if head.digest is None:
            digest, fetched = await self._fetch_tag(remote, repository, tag)
        else:
            digest = head.digest
            if not self._holds(repository, digest):
                fetched = True
                await self._fetch_told(remote, repository, tag, digest)
        moved = repository.tag(tag, digest, self._clock.seconds())
        if moved:
            await self._repositories.save(repository)
        else:
            self._repositories.touch(repository)
        return _Checked(moved, fetched)

    async def _fetch_told(self, remote: Remote, repository: Repository, tag: str, digest: Digest) -> None:
        """Fetch the manifest that the upstream says the tag means."""
        key = (remote.name, repository.name, digest)
        try:
            await self._fetches.share(key, lambda: self._fetch(remote, repository, digest)).result
        except UpstreamMissing as error:
            # Not "no such tag": the upstream has just named this digest.
            told = f"{repository.name}:{tag} is said to be {digest}, which is not there: {error.detail}"
            raise UpstreamInvalid(remote.name, told) from error

    async def _fetch_tag(self, remote: Remote, repository: Repository, tag: str) -> tuple[Digest, bool]:
        """For upstreams that do not tell a digest: fetch by tag and hash; whether that manifest was new."""
        fetched = await remote.registry.manifest(repository.name, tag)
        digest = Digest.of(fetched.data)
        if self._holds(repository, digest):
            return digest, False
        await self._keep(remote, repository, digest, fetched.data, fetched.content_type)
        return digest, True

    # -- by digest --------------------------------------------------------------------------------------------------

    async def by_digest(self, remote: Remote, name: str, digest: Digest) -> ManifestAnswer:
        """
        The manifest of that digest, as the repository has it. Once held, no upstream is asked.

        @raise UpstreamError: it is not held and asking failed.
        @raise Offline: it is not held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.name, name)
        if self._holds(repository, digest) or await self._adopt(repository, digest):
            return replace(await self._answer(repository, digest, HIT), fresh_until=None)
        if remote.offline:
            raise Offline(f"{remote.name}/{name}@{digest} is not held, and this appliance is offline")
        share = self._fetches.share((remote.name, name, digest), lambda: self._fetch(remote, repository, digest))
        await share.result
        status = CacheStatus(fwd="uri-miss", stored=not share.joined, collapsed=share.joined)
        return replace(await self._answer(repository, digest, status), fresh_until=None)

    async def _adopt(self, repository: Repository, digest: Digest) -> bool:
        """Hold here what the store has for another repository, if an index held here names it."""
        if self._store.size(digest) is None or await self._links.size(repository, digest) is None:
            return False
        try:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
            manifest = parse_manifest(data, None)
        except PullcacheError:
            return False
        repository.hold(digest, manifest.media_type, len(data))
        self._links.add(repository, digest, manifest)
        await self._repositories.save(repository)
        return True

    async def _fetch(self, remote: Remote, repository: Repository, digest: Digest) -> None:
        fetched = await remote.registry.manifest(repository.name, digest)
        await self._keep(remote, repository, digest, fetched.data, fetched.content_type)

    async def _keep(
        self, remote: Remote, repository: Repository, digest: Digest, data: bytes, content_type: str | None
    ) -> None:
        """Verify and store a manifest, and note it in the repository: durable on return."""
        if not digest.matches(data):
            raise UpstreamInvalid(remote.name, f"{repository.name}@{digest}: {len(data)} bytes of another digest came")
        try:
            manifest = parse_manifest(data, content_type)
        except ManifestInvalid as error:
            raise UpstreamInvalid(remote.name, f"{repository.name}@{digest}: {error}") from error
        await self._store.put(digest, data)
        if any(descriptor.digest == str(EMPTY_DIGEST) for descriptor in manifest.blobs):
            await self._store.put(EMPTY_DIGEST, EMPTY)
        self._recent.put(digest, data)
        repository.hold(digest, manifest.media_type, len(data))
        self._links.add(repository, digest, manifest)
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
        data = self._recent.get(digest)
        if data is None:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
            if not digest.matches(data):
                raise BlobDamaged(f"{digest} is damaged on disk; remove the file and it is fetched again")
            self._recent.put(digest, data)
        return ManifestAnswer(digest, repository.manifests[digest].media_type, data, status)
