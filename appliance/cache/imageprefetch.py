"""
What a pulled image still lacks, where C{prefetch} says so: the blobs that no client asked for because it had them.

  - C{pulled}: of each manifest that was pulled, its configuration and its layers. Of an index those platforms are made
    whole whose own manifest was pulled; where none was, its client had that as well, and what other repositories have
    brought whole is asked for here (no byte comes for that).
  - C{index}: of an index that was pulled every child as well, attestations included.

A layer that may not be distributed is left to whom its descriptor's C{urls} name (image-spec, layer.md,
"Non-Distributable Layers").
"""

from __future__ import annotations

from collections import deque

from twisted.logger import Logger

from appliance.cache.access import RemoteRepository
from appliance.cache.sources import RetryLater, Sources
from appliance.errors import PullcacheError, UpstreamDenied, UpstreamError, UpstreamMissing, UpstreamRateLimited
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from appliance.oci.mediatypes import INDEXES, NONDISTRIBUTABLE
from appliance.settings import IMAGE_INDEX, IMAGE_NONE

STAND_BACK = 2.0
"""Seconds until a look whether clients still wait for blobs of their own."""

OUTAGE_POLL = 5.0
"""Seconds until a look whether an upstream may be asked again."""

AGAIN = 60.0
"""Seconds before an upstream that wanted fewer requests is asked again, at least."""

MOST = 1000
"""Manifests looked at beneath one index; those beyond are left out."""

SESSION = 60.0
"""Seconds within which one client asks for the manifests that it wants of an index."""


class ImagePrefetch:
    """
    What one manifest lacks; L{run} once.

    @ivar fetched: blobs that were missing and are held now; C{octets}: their bytes.
    """

    _log = Logger()

    def __init__(
        self, sources: Sources, upstream: str, name: str, root: Digest, gives_way: bool, failed: set[Digest]
    ) -> None:
        """
        @param gives_way: whether nothing is begun while a client waits for a blob of any image.
        @param failed: what ended earlier runs, and is tried after the rest; what ends this one is added.
        """
        self.fetched = 0
        self.octets = 0
        self._sources = sources
        self._upstream = upstream
        self._name = name
        self._root = root
        self._image = f"{upstream}/{name}@{root}"
        self._gives_way = gives_way
        self._failed = failed
        self._last: dict[Digest, None] = {}
        self._seen: set[Digest] = {root}
        self._failure: PullcacheError | None = None
        self._missing: list[UpstreamMissing] = []

    async def run(self) -> None:
        """
        Fetch what is missing, one thing at a time. What the upstream says it does not have is left out, and logged.

        The first failure that speaks of the upstream's health is the last: what nobody waits for shall not have it
        taken for down.

        @raise RetryLater: nothing, or nothing more, is to be fetched now.
        @raise PullcacheError: some of it could not be fetched, for which there may be help.
        @raise OSError: our disk did not take it.
        """
        repository = await self._sources.repositories.get(self._upstream, self._name)
        waiting = deque([self._root] if self._root in repository.manifests else [])
        while waiting:
            digest = waiting.popleft()
            manifest = await self._manifest(digest)
            if manifest is None:
                continue
            if not manifest.is_index:
                await self._fetch_blobs(repository, digest, manifest)
            else:
                children = [child.parsed() for child in manifest.manifests]
                if self._remote().settings.prefetch.image != IMAGE_INDEX:
                    children = await self._brought_by_others(repository, children)
                waiting.extend(self._new(sorted(children, key=lambda child: self._order(repository, child))))
        for blob in self._last:
            await self._fetch_blob(blob)
        self._tell()
        if self._failure is not None:
            raise self._failure

    async def _brought_by_others(self, repository: Repository, children: list[Digest]) -> list[Digest]:
        """Those that the store has whole, where the repository has none of them."""
        if any(child in repository.manifests for child in children):
            return []
        return [child for child in children[:MOST] if self._is_held(child) and await self._is_whole(child)]

    async def _is_whole(self, digest: Digest) -> bool:
        """Whether the store has all of an image, whoever brought it. Nobody is asked."""
        try:
            manifest = parse_manifest(await self._sources.store.read(digest, MAX_MANIFEST_BYTES), None)
        except PullcacheError:
            return False
        blobs = [blob.parsed() for blob in manifest.blobs if blob.media_type not in NONDISTRIBUTABLE]
        return not manifest.is_index and all(map(self._is_held, blobs))

    def _order(self, repository: Repository, child: Digest) -> tuple[bool, bool]:
        """What clients pulled of an index comes first, what failed last."""
        return child in self._failed, child not in repository.manifests

    def _new(self, digests: list[Digest]) -> list[Digest]:
        new = [digest for digest in dict.fromkeys(digests) if digest not in self._seen]
        room = MOST - len(self._seen)
        if len(new) > room:
            self._log.warn("{image}: {count} of its manifests are left out", image=self._image, count=len(new) - room)
        self._seen.update(new[:room])
        return new[:room]

    async def _manifest(self, digest: Digest) -> Manifest | None:
        if not self._is_held(digest):
            self._stand_back()
        remote = self._remote()
        try:
            return (await self._sources.manifest(remote, digest))[1]
        except (PullcacheError, OSError) as error:
            self._note(remote, digest, error)
            return None

    async def _fetch_blobs(self, repository: Repository, digest: Digest, manifest: Manifest) -> None:
        distributed = [blob.parsed() for blob in manifest.blobs if blob.media_type not in NONDISTRIBUTABLE]
        if not all(map(self._is_held, distributed)) and await self._was_only_described(repository, digest, manifest):
            return
        # Those as well that are held: another repository may have brought them, and this one may not be known to.
        for blob in dict.fromkeys(distributed):
            if blob in self._failed:
                self._last[blob] = None
            else:
                await self._fetch_blob(blob)

    async def _fetch_blob(self, digest: Digest) -> None:
        was_held = self._is_held(digest)
        if not was_held:
            self._stand_back()
        remote = self._remote()
        try:
            await self._sources.fetch_blob(remote, digest)
        except (PullcacheError, OSError) as error:
            self._note(remote, digest, error)
            return
        if not was_held:
            self.fetched += 1
            self.octets += self._sources.store.size(digest) or 0

    async def _was_only_described(self, repository: Repository, digest: Digest, manifest: Manifest) -> bool:
        """
        Whether a client looked at manifest and configuration alone, to pull another child of the same index.

        containerd 2 does so for every platform, unless it is told to skip the metadata: what it takes of one would
        else bring all of them. A layer that both have, as those without files are, says nothing.
        """
        if self._remote().settings.prefetch.image == IMAGE_INDEX or not self._is_held(manifest.blobs[0].parsed()):
            return False
        asked = {layer.parsed() for layer in manifest.blobs[1:] if self._is_held(layer.parsed())}
        others: set[Digest] = set()
        for sibling in await self._siblings(repository, digest):
            others.update(layer.parsed() for layer in sibling.blobs[1:])
        named = {layer.parsed() for layer in manifest.blobs}
        return not asked - others and any(self._is_held(layer) for layer in others - named)

    async def _siblings(self, repository: Repository, digest: Digest) -> list[Manifest]:
        """The manifests that clients pulled when they pulled C{digest}, of the indexes pulled then that name it."""
        found: dict[Digest, None] = {}
        tagged = (record.digest for tag, record in repository.tags.items() if self._were_pulled_together(digest, tag))
        pulled = (each for each in repository.manifests if self._were_pulled_together(digest, each))
        for index in dict.fromkeys([*tagged, *pulled]):
            held = repository.manifests.get(index)
            document = None if held is None or held.media_type not in INDEXES else await self._held_manifest(index)
            children = [] if document is None else [child.parsed() for child in document.manifests]
            if digest in children:
                found.update(dict.fromkeys(children))
        siblings = [each for each in found if each != digest and self._were_pulled_together(digest, each)]
        manifests = [await self._held_manifest(each) for each in siblings]
        return [manifest for manifest in manifests if manifest is not None]

    def _were_pulled_together(self, *references: str | Digest) -> bool:
        pulls = [self._sources.usage.last_pulled(self._upstream, self._name, str(each)) for each in references]
        known = [pull for pull in pulls if pull is not None]
        return len(known) == len(pulls) and max(known) - min(known) <= SESSION

    async def _held_manifest(self, digest: Digest) -> Manifest | None:
        if not self._is_held(digest):
            return None
        try:
            return (await self._sources.manifest(self._remote(), digest))[1]
        except (PullcacheError, OSError):
            return None

    def _is_held(self, digest: Digest) -> bool:
        return self._sources.store.size(digest) is not None

    def _note(self, remote: RemoteRepository, digest: Digest, error: PullcacheError | OSError) -> None:
        """Something was not fetched. Raises C{error}, or L{RetryLater}, when nothing more is to be asked for now."""
        if isinstance(error, UpstreamRateLimited):
            raise RetryLater(max(error.retry_after or 0.0, AGAIN)) from error
        is_refusal = isinstance(error, UpstreamMissing | UpstreamDenied)
        if isinstance(error, OSError) or (isinstance(error, UpstreamError) and not is_refusal):
            self._failed.add(digest)
            raise error
        if not remote.registry.availability(self._name).ask:
            raise RetryLater(OUTAGE_POLL) from error
        if isinstance(error, UpstreamMissing):
            self._missing.append(error)
        else:
            self._failure = self._failure or error

    def _stand_back(self) -> None:
        """Raises L{RetryLater} while clients wait for what they asked for themselves, or the upstream is not asked."""
        if self._gives_way and self._sources.flights.awaited:
            raise RetryLater(STAND_BACK)
        if not self._remote().registry.availability(self._name).ask:
            raise RetryLater(OUTAGE_POLL)

    def _remote(self) -> RemoteRepository:
        """Whom to ask now. Raises L{RetryLater} when that is nobody any more."""
        remote = self._sources.remote(self._upstream, self._name)
        if remote is None or remote.settings.prefetch.image == IMAGE_NONE:
            raise RetryLater(STAND_BACK)
        return remote

    def _tell(self) -> None:
        if self._missing:
            self._log.warn(
                "{image} cannot be made whole: its upstream lacks {count} of its parts: {first}",
                image=self._image,
                count=len(self._missing),
                first=self._missing[0],
            )
        elif self._failure is None and self.fetched:
            self._log.info(
                "{image} is whole: {count} blobs ({octets} bytes) that no client asked for were fetched",
                image=self._image,
                count=self.fetched,
                octets=self.octets,
            )
