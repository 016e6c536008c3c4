"""The cache as the registry room sees it."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.cache.blobs import BlobAnswer, Blobs, BlobSize
from appliance.cache.manifests import ManifestAnswer, Manifests
from appliance.cache.remote import Remote
from appliance.cache.tags import Tags, TagsAnswer
from appliance.errors import NotPermitted, UpstreamUnknown
from appliance.interfaces import IBlobResponse
from appliance.oci.digest import Digest
from appliance.oci.ranges import Span


class PullThrough:
    """
    Serves what is held, and pulls the rest through.

    Every method takes an upstream's configured name and a repository's name as a client wrote it, and fails with
    L{UpstreamUnknown} or L{NotPermitted} before anything else is looked at.

    @ivar remotes: by configured name; replaced whole when the configuration is read again.
    """

    def __init__(self, remotes: Mapping[str, Remote], manifests: Manifests, blobs: Blobs, tags: Tags) -> None:
        self.remotes = remotes
        self._manifests = manifests
        self._blobs = blobs
        self._tags = tags

    async def manifest(self, upstream: str, name: str, reference: str | Digest) -> ManifestAnswer:
        """See L{Manifests.by_tag} and L{Manifests.by_digest}."""
        remote, repository = self._admit(upstream, name)
        if isinstance(reference, Digest):
            return await self._manifests.by_digest(remote, repository, reference)
        return await self._manifests.by_tag(remote, repository, reference)

    async def blob_size(self, upstream: str, name: str, digest: Digest) -> BlobSize:
        """See L{Blobs.head}."""
        remote, repository = self._admit(upstream, name)
        return await self._blobs.head(remote, repository, digest)

    async def blob(self, upstream: str, name: str, digest: Digest) -> BlobAnswer:
        """See L{Blobs.open}."""
        remote, repository = self._admit(upstream, name)
        return await self._blobs.open(remote, repository, digest)

    async def aside(
        self, upstream: str, name: str, digest: Digest, answer: BlobAnswer, span: Span
    ) -> IBlobResponse | None:
        """See L{Blobs.aside}."""
        remote, repository = self._admit(upstream, name)
        return await self._blobs.aside(remote, repository, digest, answer, span)

    async def tags(self, upstream: str, name: str) -> TagsAnswer:
        """See L{Tags.list}."""
        remote, repository = self._admit(upstream, name)
        return await self._tags.list(remote, repository)

    def _admit(self, upstream: str, name: str) -> tuple[Remote, str]:
        remote = self.remotes.get(upstream)
        if remote is None:
            raise UpstreamUnknown(f"no upstream {upstream} is configured")
        repository = remote.registry.repository(name)
        if not remote.settings.permits(repository):
            raise NotPermitted(f"{upstream}/{repository} may not be pulled through here (allow, deny)")
        return remote, repository
