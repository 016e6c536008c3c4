"""The cache as the registry room sees it."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from appliance.cache.blobs import BlobAnswer, Blobs, BlobSize, SideRange, SpanOf, whole
from appliance.cache.manifests import ManifestAnswer, Manifests
from appliance.cache.prefetch import Prefetch
from appliance.cache.referrers import ReferrerCache, ReferrersAnswer
from appliance.cache.remote import Remote
from appliance.cache.tags import Tags, TagsAnswer
from appliance.cache.usage import Usage
from appliance.cache.wants import Wants, reason_for
from appliance.errors import NotPermitted, PullcacheError, UpstreamUnknown
from appliance.oci.digest import Digest

T = TypeVar("T")


class PullThrough:
    """
    Serves what is held, and pulls the rest through.

    Every method takes an upstream's configured name and a repository's name as a client wrote it, and fails with
    L{UpstreamUnknown} or L{NotPermitted} before anything else is looked at.

    @ivar remotes: by configured name; replaced whole when the configuration is read again.
    """

    def __init__(
        self,
        remotes: Mapping[str, Remote],
        manifests: Manifests,
        blobs: Blobs,
        tags: Tags,
        referrers: ReferrerCache,
        wants: Wants | None = None,
        usage: Usage | None = None,
        prefetch: Prefetch | None = None,
    ) -> None:
        """
        @param wants: is told what could not be served; C{None}: nobody is.
        @param usage: is told what was pulled; C{None}: nobody is.
        @param prefetch: is told the same, and fetches what goes with it; C{None}: nobody does.
        """
        self.remotes = remotes
        self._manifests = manifests
        self._blobs = blobs
        self._tags = tags
        self._referrers = referrers
        self._wants = wants
        self._usage = usage
        self._prefetch = prefetch

    def asks(self, upstream: str) -> bool:
        """Whether that upstream, by its configured name, may be asked for anything."""
        remote = self.remotes.get(upstream)
        return remote is not None and not remote.offline

    async def manifest(
        self,
        upstream: str,
        name: str,
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
        remote, repository = self._admit(upstream, name)
        if isinstance(reference, Digest):
            asking = self._manifests.by_digest(remote, repository, reference)
        else:
            asking = self._manifests.by_tag(remote, repository, reference)
        answer = await self._wanted(remote, repository, str(reference), platform, asking, wanted)
        if pulled:
            self.note_pulls(upstream, repository, str(reference), digest=answer.digest)
        return answer

    def note_pulls(
        self, upstream: str, name: str, reference: str, times: int = 1, digest: Digest | None = None
    ) -> None:
        """
        A manifest was pulled by tag or digest, maybe without this cache being asked; unknown ones are no error.

        @param digest: what C{reference} meant, C{None} where that is not known.
        """
        remote = self.remotes.get(upstream)
        if remote is None:
            return
        repository = remote.registry.repository(name)
        if self._usage is not None:
            self._usage.note(upstream, repository, reference, times)
        if self._prefetch is not None:
            self._prefetch.pulled(upstream, repository, reference, digest)

    async def blob_size(self, upstream: str, name: str, digest: Digest) -> BlobSize:
        """See L{Blobs.head}."""
        remote, repository = self._admit(upstream, name)
        self._note_request(remote, repository)
        return await self._blobs.head(remote, repository, digest)

    async def blob(
        self, upstream: str, name: str, digest: Digest, platform: str | None = None, span_of: SpanOf = whole
    ) -> BlobAnswer | SideRange:
        """See L{Blobs.open}; C{platform} as with L{manifest}."""
        remote, repository = self._admit(upstream, name)
        self._note_request(remote, repository)
        asking = self._blobs.open(remote, repository, digest, span_of)
        return await self._wanted(remote, repository, str(digest), platform, asking)

    async def fetch_blob(
        self, upstream: str, name: str, digest: Digest, background: bool = False, wanted: bool = True
    ) -> None:
        """See L{Blobs.fetch}; C{wanted} as with L{manifest}."""
        remote, repository = self._admit(upstream, name)
        asking = self._blobs.fetch(remote, repository, digest, background)
        await self._wanted(remote, repository, str(digest), None, asking, wanted)

    async def tags(self, upstream: str, name: str) -> TagsAnswer:
        """See L{Tags.list}."""
        remote, repository = self._admit(upstream, name)
        return await self._tags.list(remote, repository)

    async def referrers(self, upstream: str, name: str, subject: Digest) -> ReferrersAnswer:
        """See L{ReferrerCache.list}."""
        remote, repository = self._admit(upstream, name)
        return await self._referrers.list(remote, repository, subject)

    async def known_referrers(self, upstream: str, name: str, subject: Digest) -> ReferrersAnswer | None:
        """See L{ReferrerCache.known}; of any upstream and by the repository's full name, since nobody is asked."""
        return await self._referrers.known(upstream, name, subject)

    def is_fetching(self, upstream: str, name: str, digest: Digest) -> bool:
        """See L{Prefetch.is_fetching}; by the repository's full name, since nobody is asked."""
        return self._prefetch is not None and self._prefetch.is_fetching(upstream, name, digest)

    def _note_request(self, remote: Remote, repository: str) -> None:
        if self._prefetch is not None:
            self._prefetch.requested(remote.name, repository)

    async def _wanted(
        self,
        remote: Remote,
        repository: str,
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
            if noted and self._wants is not None and reason is not None:
                self._wants.note(remote.name, repository, reference, platform, reason)
            raise
        if self._wants:
            self._wants.forget([(remote.name, repository, reference)])
        return answer

    def _admit(self, upstream: str, name: str) -> tuple[Remote, str]:
        remote = self.remotes.get(upstream)
        if remote is None:
            raise UpstreamUnknown(f"no upstream {upstream} is configured")
        repository = remote.registry.repository(name)
        if not remote.settings.permits(repository):
            raise NotPermitted(f"{upstream}/{repository} may not be pulled through here (allow, deny)")
        return remote, repository
