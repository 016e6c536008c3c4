"""What prefetching fetches with, and how it says that nothing more can be fetched for now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.cache.access import Access, RemoteRepository
from appliance.cache.blobs import Blobs
from appliance.cache.flights import Flights
from appliance.cache.manifests import Manifests
from appliance.cache.referrers import ReferrerCache
from appliance.cache.usage import Usage
from appliance.cache.wants import Wants
from appliance.errors import PullcacheError
from appliance.index.repositories import Repositories
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest, parse_manifest


class RetryLater(Exception):
    """
    Asking on leads nowhere now.

    @ivar seconds: how long, at least.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not for {seconds:g} s")
        self.seconds = seconds


@dataclass(frozen=True)
class Sources:
    """
    Who is asked for what is prefetched.

    @ivar usage: says what clients pulled, and when.
    @ivar wants: is told what came; C{None}: nobody is.
    @ivar fetched: is told of each blob that was fetched: the upstream's name, and bytes.
    """

    access: Access
    repositories: Repositories
    store: IBlobStore
    flights: Flights
    manifests: Manifests
    blobs: Blobs
    referrers: ReferrerCache
    usage: Usage
    wants: Wants | None = None
    fetched: Callable[[str, int], None] = lambda upstream, octets: None

    def permitted(self, upstream: str, name: str) -> RemoteRepository | None:
        """The repository at its upstream; C{None} where it may not be read, by the configuration as it is now."""
        try:
            return self.access.open(upstream, name)
        except PullcacheError:
            return None

    def remote(self, upstream: str, name: str) -> RemoteRepository | None:
        """As L{permitted}; C{None} also where the upstream is never contacted."""
        remote = self.permitted(upstream, name)
        return None if remote is None or remote.offline else remote

    async def manifest(self, remote: RemoteRepository, reference: str | Digest) -> tuple[Digest, Manifest]:
        """A manifest by tag or digest, held now; fails as L{Manifests.by_tag} and L{Manifests.by_digest} do."""
        if isinstance(reference, Digest):
            answer = await self.manifests.by_digest(remote, reference)
        else:
            answer = await self.manifests.by_tag(remote, reference)
        return answer.digest, parse_manifest(answer.data, answer.media_type)

    async def fetch_blob(self, remote: RemoteRepository, digest: Digest) -> None:
        """Have a blob held, behind whatever somebody waits for; fails as L{Blobs.fetch} does."""
        is_coming = self.store.size(digest) is not None or self.flights.get(digest) is not None
        await self.blobs.fetch(remote, digest, background=True)
        if not is_coming:
            self.fetched(remote.upstream, self.store.size(digest) or 0)
        self.forget_want(remote.upstream, remote.name, digest)

    def forget_want(self, upstream: str, name: str, reference: str | Digest) -> None:
        """It is here now."""
        if self.wants is not None:
            self.wants.forget([(upstream, name, str(reference))])
