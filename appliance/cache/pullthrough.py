"""The cache as clients, exports and the admin API see it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from appliance.cache.access import Access, RemoteRepository
from appliance.cache.blobs import BlobAnswer, Blobs, BlobSize
from appliance.cache.bypass import BypassedRange, SpanOf
from appliance.cache.manifests import ManifestAnswer, Manifests
from appliance.cache.prefetch import Prefetch
from appliance.cache.referrers import ReferrerCache, ReferrersAnswer
from appliance.cache.tags import Tags, TagsAnswer
from appliance.cache.usage import Usage
from appliance.cache.wants import Wants, reason_for
from appliance.errors import PullcacheError
from appliance.oci.digest import Digest

T = TypeVar("T")


class PullThrough:
    """
    Serves what is held, and pulls the rest through.

    Every method takes a repository that L{Access.open} gave, which is one that may be read.

    @ivar access: gives the repositories.
    """

    def __init__(
        self,
        access: Access,
        manifests: Manifests,
        blobs: Blobs,
        tags: Tags,
        referrers: ReferrerCache,
        wants: Wants,
        usage: Usage,
        prefetch: Prefetch,
    ) -> None:
        """
        @param wants: is given what could not be served.
        @param usage: is given what was pulled.
        @param prefetch: is given the same, and fetches what goes with it.
        """
        self.access = access
        self._manifests = manifests
        self._blobs = blobs
        self._tags = tags
        self._referrers = referrers
        self._wants = wants
        self._usage = usage
        self._prefetch = prefetch

    async def manifest(
        self,
        remote: RemoteRepository,
        reference: str | Digest,
        platform: str | None = None,
        pulled: bool = False,
        wanted: bool = True,
    ) -> ManifestAnswer:
        """
        See L{Manifests.by_tag} and L{Manifests.by_digest}.

        @param platform: what the client runs on, where it is known.
        @param pulled: whether this is a client's pull, and no look at the manifest's headers.
        @param wanted: whether it is noted as wanted when it cannot be served.
        """
        if isinstance(reference, Digest):
            asking = self._manifests.by_digest(remote, reference)
        else:
            asking = self._manifests.by_tag(remote, reference)
        answer = await self._wanted(remote, str(reference), platform, asking, wanted)
        if pulled:
            self.note_pulls(remote, str(reference), digest=answer.digest)
        return answer

    def note_pulls(
        self, remote: RemoteRepository, reference: str, times: int = 1, digest: Digest | None = None
    ) -> None:
        """
        A manifest was pulled by tag or digest, maybe by the hot lane, which did not ask this cache for it. Nothing is
        noted of an upstream that is not configured any more.

        @param digest: what C{reference} meant, C{None} where that is not known.
        """
        if remote.upstream not in self.access.remotes:
            return
        self._usage.note(remote.upstream, remote.name, reference, times)
        self._prefetch.pulled(remote.upstream, remote.name, reference, digest)

    async def blob_size(self, remote: RemoteRepository, digest: Digest) -> BlobSize:
        """See L{Blobs.head}."""
        self._prefetch.requested(remote.upstream, remote.name)
        return await self._blobs.head(remote, digest)

    async def blob(
        self, remote: RemoteRepository, digest: Digest, platform: str | None = None, span_of: SpanOf | None = None
    ) -> BlobAnswer | BypassedRange:
        """See L{Blobs.open}; C{platform} as with L{manifest}."""
        self._prefetch.requested(remote.upstream, remote.name)
        asking = self._blobs.open(remote, digest, span_of)
        return await self._wanted(remote, str(digest), platform, asking)

    def suspect_blob(self, digest: Digest) -> None:
        """See L{Blobs.suspect}."""
        self._blobs.suspect(digest)

    def is_right_blob(self, digest: Digest) -> Deferred[bool]:
        """See L{Blobs.is_right}."""
        return self._blobs.is_right(digest)

    async def fetch_blob(self, remote: RemoteRepository, digest: Digest, wanted: bool = True) -> None:
        """See L{Blobs.fetch}; C{wanted} as with L{manifest}."""
        await self._wanted(remote, str(digest), None, self._blobs.fetch(remote, digest), wanted)

    async def tags(self, remote: RemoteRepository) -> TagsAnswer:
        """See L{Tags.list}."""
        return await self._tags.list(remote)

    async def referrers(self, remote: RemoteRepository, subject: Digest) -> ReferrersAnswer:
        """See L{ReferrerCache.list}."""
        return await self._referrers.list(remote, subject)

    async def _wanted(
        self,
        remote: RemoteRepository,
        reference: str,
        platform: str | None,
        asking: Coroutine[Any, Any, T],
        noted: bool = True,
    ) -> T:
        """What C{asking} gives; when it cannot be given, that is noted where C{noted} says so."""
        try:
            answer = await asking
        except PullcacheError as error:
            reason = reason_for(error)
            if noted and reason is not None:
                self._wants.note(remote.upstream, remote.name, reference, platform, reason)
            raise
        if self._wants:
            self._wants.forget([remote.key(reference)])
        return answer
