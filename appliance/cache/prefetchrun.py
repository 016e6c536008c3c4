"""
What prefetching fetches for one thing that was pulled: what its image lacks, and what refers to it.

L{ImagePrefetch} fetches the blobs that no client asked for because it had them, where C{prefetch.image} says so:

  - C{pulled}: of each manifest that was pulled, its configuration and its layers. Of an index those platforms are made
    whole whose own manifest was pulled; where none was, its client had that as well, and what other repositories have
    brought whole is requested here (no byte comes for that).
  - C{index}: of an index that was pulled every child as well, attestations included.

A layer that may not be distributed is left to the servers that its descriptor's C{urls} name (image-spec, layer.md,
"Non-Distributable Layers").

L{ReferrerPrefetch} fetches, where C{prefetch.referrers} says so, the manifests before the blobs:

  - what the list of referrers names, and what refers to that;
  - what lies under cosign's tags of it;
  - what all of these name: children and blobs.

And, everywhere, what makes a signature whole that a client pulled: cosign never reads its configuration, without which
it would go into no bundle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.logger import Logger

from appliance.cache.access import Access, RemoteRepository
from appliance.cache.blobs import Blobs
from appliance.cache.flights import Flights
from appliance.cache.manifests import Manifests
from appliance.cache.referrers import ReferrerCache
from appliance.cache.space import Space
from appliance.cache.usage import Usage
from appliance.cache.wants import Wants
from appliance.errors import (
    NoSpace,
    PullcacheError,
    UpstreamDenied,
    UpstreamError,
    UpstreamMissing,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from appliance.index.manifests import HeldManifests
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest, parse_manifest
from appliance.oci.mediatypes import INDEXES, NONDISTRIBUTABLE
from appliance.oci.reference import is_tag
from appliance.oci.referrer import cosign_tags, subject_of
from appliance.settings import IMAGE_INDEX, IMAGE_NONE

STAND_BACK = 2.0
"""Seconds until a look whether clients still wait for blobs of their own."""

NO_ROOM_POLL = 60.0
"""Seconds until a look whether the disk has room again."""

OUTAGE_POLL = 5.0
"""Seconds until a look whether an upstream may be asked again."""

AGAIN = 60.0
"""
Seconds before an upstream that wanted fewer requests is asked again, and before referrers are looked for again, at the
earliest.
"""

MOST = 1000
"""Manifests looked at beneath one index, and manifests fetched for one subject; those beyond are left out."""

SESSION = 60.0
"""Seconds within which one client asks for the manifests that it wants of an index."""

DEPTH = 2
"""How far away from its subject what is fetched may be: referrers, and referrers of referrers."""

SMALL = 64 * 1024
"""Bytes of a blob that is fetched to make a referrer whole that a client pulled."""

T = TypeVar("T")


class RetryLater(Exception):
    """
    Nothing more can be fetched for now.

    @ivar seconds: how long, at least.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not for {seconds:g} s")
        self.seconds = seconds


@dataclass(frozen=True)
class PrefetchSources:
    """
    The parts of the cache that prefetching works with.

    @ivar held: reads manifests without asking an upstream.
    @ivar usage: says what clients pulled, and when.
    @ivar wants: what is fetched is not wanted any more.
    @ivar space: where there is too little of it, nothing is fetched that no client asked for.
    @ivar fetched: called for each blob that was fetched, with the upstream's name and bytes.
    """

    access: Access
    repositories: Repositories
    store: IBlobStore
    held: HeldManifests
    flights: Flights
    manifests: Manifests
    blobs: Blobs
    referrers: ReferrerCache
    usage: Usage
    wants: Wants
    space: Space
    fetched: Callable[[str, int], None]

    def remote(self, upstream: str, name: str) -> RemoteRepository | None:
        """As L{Access.permitted}; C{None} also where the upstream is never contacted."""
        remote = self.access.permitted(upstream, name)
        return None if remote is None or remote.offline else remote

    async def manifest(self, remote: RemoteRepository, reference: str | Digest) -> tuple[Digest, Manifest]:
        """A manifest by tag or digest, held now; fails as L{Manifests.by_tag} and L{Manifests.by_digest} do."""
        if isinstance(reference, Digest):
            answer = await self.manifests.by_digest(remote, reference)
        else:
            answer = await self.manifests.by_tag(remote, reference)
        return answer.digest, parse_manifest(answer.data, answer.media_type)

    async def fetch_blob(self, remote: RemoteRepository, digest: Digest) -> None:
        """Have a blob held, behind whatever clients wait for; fails as L{Blobs.fetch} does."""
        is_coming = self.store.size(digest) is not None or self.flights.get(digest) is not None
        await self.blobs.fetch(remote, digest, background=True)
        if not is_coming:
            self.fetched(remote.upstream, self.store.size(digest) or 0)
        self.wants.forget([(remote.upstream, remote.name, str(digest))])


class ImagePrefetch:
    """
    What one manifest lacks; L{run} once.

    @ivar fetched: blobs that were missing and are held now; C{octets}: their bytes.
    """

    _log = Logger()

    def __init__(
        self, sources: PrefetchSources, upstream: str, name: str, root: Digest, gives_way: bool, failed: set[Digest]
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
        self._gives_way = gives_way
        self._failed = failed
        self._last: dict[Digest, None] = {}
        self._failure: PullcacheError | None = None
        self._missing: list[UpstreamMissing] = []

    async def run(self) -> None:
        """
        Fetch what is missing, one thing at a time. What the upstream says it does not have is left out, and logged.

        The first failure that speaks of the upstream's health is the last: requests for which no client waits must not
        have it taken for down.

        @raise RetryLater: nothing, or nothing more, is to be fetched now.
        @raise PullcacheError: some of it could not be fetched, and may be later.
        @raise OSError: our disk did not take it.
        """
        repository = await self._sources.repositories.get(self._upstream, self._name)
        seen = {self._root}
        waiting = deque([self._root] if self._root in repository.manifests else [])
        while waiting:
            digest = waiting.popleft()
            manifest = await self._manifest(digest)
            if manifest is None:
                continue
            if not manifest.is_index:
                await self._fetch_blobs(repository, digest, manifest)
                continue
            children = [child.parsed() for child in manifest.manifests]
            if self._remote().settings.prefetch.image != IMAGE_INDEX:
                children = await self._brought_by_others(repository, children)
            # What clients pulled of an index comes first, what failed last.
            children.sort(key=lambda child: (child in self._failed, child not in repository.manifests))
            new = [child for child in dict.fromkeys(children) if child not in seen]
            if (beyond := len(new) - (MOST - len(seen))) > 0:
                self._log.warn("{image}: {count} of its manifests are left out", image=self._image, count=beyond)
            waiting.extend(new[: MOST - len(seen)])
            seen.update(waiting)
        for blob in self._last:
            await self._fetch_blob(blob)
        if self._missing:
            self._log.warn(
                "{image} cannot be made whole: its upstream lacks {count} of its parts: {first}",
                image=self._image,
                count=len(self._missing),
                first=self._missing[0],
            )
        if self._failure is not None:
            raise self._failure
        if self.fetched and not self._missing:
            self._log.info(
                "{image} is whole: {count} blobs ({octets} bytes) that no client asked for were fetched",
                image=self._image,
                count=self.fetched,
                octets=self.octets,
            )

    @property
    def _image(self) -> str:
        return f"{self._upstream}/{self._name}@{self._root}"

    async def _brought_by_others(self, repository: Repository, children: list[Digest]) -> list[Digest]:
        """The images that the store has whole, where the repository has none of them. No upstream is asked."""
        found: list[Digest] = []
        for child in children[:MOST] if repository.manifests.keys().isdisjoint(children) else ():
            manifest = await self._sources.held.manifest(child, "")
            if manifest is not None and not manifest.is_index and all(map(self._is_held, _distributed(manifest))):
                found.append(child)
        return found

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
        distributed = _distributed(manifest)
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
        requested = {layer.parsed() for layer in manifest.blobs[1:] if self._is_held(layer.parsed())}
        others: set[Digest] = set()
        for sibling in await self._siblings(repository, digest):
            others.update(layer.parsed() for layer in sibling.blobs[1:])
        named = {layer.parsed() for layer in manifest.blobs}
        return not requested - others and any(self._is_held(layer) for layer in others - named)

    async def _siblings(self, repository: Repository, digest: Digest) -> list[Manifest]:
        """The manifests that clients pulled when they pulled C{digest}, of the indexes pulled then that name it."""
        found: dict[Digest, None] = {}
        tagged = (record.digest for tag, record in repository.tags.items() if self._were_pulled_together(digest, tag))
        pulled = (each for each in repository.manifests if self._were_pulled_together(digest, each))
        for index in dict.fromkeys([*tagged, *pulled]):
            record = repository.manifests.get(index)
            document = None if record is None or record.media_type not in INDEXES else await self._if_held(index)
            children = [] if document is None else [child.parsed() for child in document.manifests]
            if digest in children:
                found.update(dict.fromkeys(children))
        siblings = [each for each in found if each != digest and self._were_pulled_together(digest, each)]
        manifests = [await self._if_held(each) for each in siblings]
        return [manifest for manifest in manifests if manifest is not None]

    def _were_pulled_together(self, *references: str | Digest) -> bool:
        pulls = [self._sources.usage.last_pulled(self._upstream, self._name, str(each)) for each in references]
        known = [pull for pull in pulls if pull is not None]
        return len(known) == len(pulls) and max(known) - min(known) <= SESSION

    async def _if_held(self, digest: Digest) -> Manifest | None:
        """A manifest that the store has and this repository may have, C{None} for others."""
        if not self._is_held(digest):
            return None
        try:
            return (await self._sources.manifest(self._remote(), digest))[1]
        except (PullcacheError, OSError):
            return None

    def _is_held(self, digest: Digest) -> bool:
        return self._sources.store.size(digest) is not None

    def _note(self, remote: RemoteRepository, digest: Digest, error: PullcacheError | OSError) -> None:
        """Something was not fetched. Raises C{error}, or L{RetryLater}, when nothing more is to be requested now."""
        if isinstance(error, UpstreamRateLimited):
            raise RetryLater(max(error.retry_after or 0.0, AGAIN)) from error
        if isinstance(error, NoSpace):
            raise RetryLater(NO_ROOM_POLL) from error
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
        """
        Raises L{RetryLater} while clients wait for what they asked for themselves, the upstream is not asked, or there
        is no room for it.
        """
        if self._sources.space.is_short():
            raise RetryLater(NO_ROOM_POLL)
        if self._gives_way and self._sources.flights.awaited:
            raise RetryLater(STAND_BACK)
        if not self._remote().registry.availability(self._name).ask:
            raise RetryLater(OUTAGE_POLL)

    def _remote(self) -> RemoteRepository:
        """The repository as it is configured now. Raises L{RetryLater} when nothing of it is to be fetched any more."""
        remote = self._sources.remote(self._upstream, self._name)
        if remote is None or remote.settings.prefetch.image == IMAGE_NONE:
            raise RetryLater(STAND_BACK)
        return remote


def _distributed(manifest: Manifest) -> list[Digest]:
    """The blobs that registries have."""
    return [blob.parsed() for blob in manifest.blobs if blob.media_type not in NONDISTRIBUTABLE]


class ReferrerPrefetch:
    """What goes with one subject; L{run} once."""

    _log = Logger()

    def __init__(self, sources: PrefetchSources, upstream: str, name: str, subject: Digest) -> None:
        self._sources = sources
        self._upstream = upstream
        self._name = name
        self._subject = subject
        self._seen = {subject}
        self._queue: deque[tuple[str | Digest, int]] = deque()
        self._blobs: dict[Digest, None] = {}
        self._troubles: list[str] = []
        self._may_change_soon = False
        # Of a referrer that a client pulled only the small blobs are fetched, and that whatever is configured.
        self._is_small = False

    async def run(self) -> float:
        """
        Fetch it all; what fails is left out, and logged.

        @return: seconds after which there may be more.
        @raise RetryLater: the rest has to wait.
        """
        try:
            return await self._run()
        finally:
            if self._troubles:
                self._log.info(
                    "{upstream}/{name}@{subject}: not all that goes with it was fetched ({count}): {first}",
                    upstream=self._upstream,
                    name=self._name,
                    subject=self._subject,
                    count=len(self._troubles),
                    first=self._troubles[0],
                )

    async def _run(self) -> float:
        self._is_small = True
        if await self._is_referrer():
            read = await self._tried("the manifest itself", self._sources.manifest(self._remote(), self._subject))
            if read is not None:
                self._blobs.update((blob.parsed(), None) for blob in read[1].blobs if blob.size <= SMALL)
        else:
            self._is_small = False
            await self._list(self._subject, DEPTH)
            self._queue.extend((tag, -1) for tag in cosign_tags(self._subject) if is_tag(tag))
            while self._queue:
                await self._fetch(*self._queue.popleft())
        for digest in self._blobs:
            await self._tried(str(digest), self._sources.fetch_blob(self._remote(), digest))
        return AGAIN if self._may_change_soon else self._remote().settings.referrers_fresh_for

    async def _is_referrer(self) -> bool:
        """Whether the subject is held for what it refers to: a client that pulled that has it looked at."""
        repository = await self._sources.repositories.get(self._upstream, self._name)
        tags = [tag for tag, record in repository.tags.items() if record.digest == self._subject]
        if tags:
            return all(subject_of(tag) for tag in tags)
        read = await self._tried("the manifest itself", self._sources.manifest(self._remote(), self._subject))
        return read is None or read[1].subject is not None

    async def _list(self, subject: Digest, depth: int) -> None:
        """
        Have the list of what refers to C{subject} held, and note that to be fetched: up to C{depth} steps away from it.
        """
        listing = self._sources.referrers.list(self._remote(), subject)
        answer = await self._tried(f"the list of what refers to {subject}", listing)
        if answer is not None:
            self._may_change_soon = self._may_change_soon or answer.status.label == "stale"
            if depth:
                self._add((each.digest for each in answer.referrers), depth - 1)

    async def _fetch(self, reference: str | Digest, depth: int) -> None:
        """
        Have a manifest held, and note what it names.

        @param depth: how far what refers to it is fetched, too; at 0 only the list of that, which clients that show a
            tree ask for; below not even that.
        """
        # That there is none is what most of cosign's tags have to say.
        reading = self._sources.manifest(self._remote(), reference)
        read = await self._tried(str(reference), reading, may_miss=isinstance(reference, str))
        if read is None:
            return
        self._sources.wants.forget([(self._upstream, self._name, str(reference))])
        digest, manifest = read
        self._blobs.update(dict.fromkeys(blob.parsed() for blob in manifest.blobs))
        self._add((child.parsed() for child in manifest.manifests), -1)
        if depth >= 0:
            await self._list(digest, depth)

    def _add(self, digests: Iterable[Digest], depth: int) -> None:
        new = [digest for digest in dict.fromkeys(digests) if digest not in self._seen]
        room = MOST - len(self._seen) + 1
        if len(new) > room:
            self._troubles.append(f"{len(new) - room} of its manifests are beyond the {MOST} that are fetched")
        self._seen.update(new[:room])
        self._queue.extend((digest, depth) for digest in new[:room])

    async def _tried(self, what: str, asking: Coroutine[Any, Any, T], may_miss: bool = False) -> T | None:
        """What C{asking} gives, C{None} when that is a failure. Raises L{RetryLater} when all further ones would be."""
        try:
            return await asking
        except (PullcacheError, OSError) as error:
            if not (may_miss and isinstance(error, UpstreamMissing)):
                self._troubles.append(f"{what}: {error}")
            self._may_change_soon = self._may_change_soon or isinstance(error, UpstreamUnavailable)
            if isinstance(error, UpstreamRateLimited):
                raise RetryLater(error.retry_after or AGAIN) from error
            if isinstance(error, NoSpace):
                raise RetryLater(NO_ROOM_POLL) from error
        if not self._remote().registry.availability(self._name).ask:
            raise RetryLater(AGAIN)
        return None

    def _remote(self) -> RemoteRepository:
        """The repository as it is configured now. Raises L{RetryLater} when nothing of it is to be fetched any more."""
        remote = self._sources.remote(self._upstream, self._name)
        if remote is None or not (self._is_small or remote.settings.prefetch.referrers):
            raise RetryLater(AGAIN)
        return remote
