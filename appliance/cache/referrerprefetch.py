"""
What goes with an image, the manifests before the blobs, where C{prefetch} says so:

  - what its list of referrers names, and what refers to that;
  - what lies under cosign's tags of it;
  - what all of these name: children and blobs.

And, everywhere, what makes a signature whole that a client pulled: cosign never reads its configuration, without which
it would go into no bundle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from twisted.logger import Logger

from appliance.cache.access import RemoteRepository
from appliance.cache.sources import RetryLater, Sources
from appliance.errors import PullcacheError, UpstreamMissing, UpstreamRateLimited, UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest
from appliance.oci.reference import is_tag
from appliance.oci.referrer import cosign_tags, subject_of

DEPTH = 2
"""How far away what is fetched may be: referrers, and referrers of referrers."""

MOST = 1000
"""Manifests fetched for one subject."""

SMALL = 64 * 1024
"""Bytes of a blob that is fetched to make what a client pulled whole."""

AGAIN = 60.0
"""Seconds before a subject is looked at again at the earliest, whatever went wrong and however soon lists are stale."""

T = TypeVar("T")


class ReferrerPrefetch:
    """What goes with one subject; L{run} once."""

    _log = Logger()

    def __init__(self, sources: Sources, upstream: str, name: str, subject: Digest) -> None:
        self._sources = sources
        self._upstream = upstream
        self._name = name
        self._subject = subject
        self._seen = {subject}
        self._todo: deque[tuple[str | Digest, int]] = deque()
        self._blobs: dict[Digest, None] = {}
        self._troubles: list[str] = []
        self._unheard = False
        self._is_small = False

    async def run(self) -> float:
        """
        Fetch it all; what fails is left out.

        @return: seconds after which there may be more.
        @raise RetryLater: the rest has to wait.
        """
        self._is_small = True
        if await self._is_referrer():
            await self._make_whole()
        else:
            self._is_small = False
            await self._list(self._subject, DEPTH)
            self._todo.extend((tag, -1) for tag in cosign_tags(self._subject) if is_tag(tag))
            while self._todo:
                await self._fetch(*self._todo.popleft())
        for digest in self._blobs:
            await self._fetch_blob(digest)
        return AGAIN if self._unheard else self._remote().settings.referrers_fresh_for

    def tell(self) -> None:
        """Log what went wrong, if anything did."""
        if self._troubles:
            self._log.info(
                "{upstream}/{name}@{subject}: not all that goes with it was fetched ({count}): {first}",
                upstream=self._upstream,
                name=self._name,
                subject=self._subject,
                count=len(self._troubles),
                first=self._troubles[0],
            )

    async def _is_referrer(self) -> bool:
        """Whether the subject is held for what it refers to: whoever pulled that has it looked at."""
        repository = await self._sources.repositories.get(self._upstream, self._name)
        tags = [tag for tag, record in repository.tags.items() if record.digest == self._subject]
        if tags:
            return all(subject_of(tag) for tag in tags)
        read = await self._tried("the manifest itself", self._read(self._remote(), self._subject))
        return read is None or read[1].subject is not None

    async def _make_whole(self) -> None:
        """Note the small blobs of the subject itself."""
        read = await self._tried("the manifest itself", self._read(self._remote(), self._subject))
        if read is not None:
            self._blobs.update((blob.parsed(), None) for blob in read[1].blobs if blob.size <= SMALL)

    async def _list(self, subject: Digest, depth: int) -> None:
        """
        Have the list of what refers to C{subject} held, and note that to be fetched: up to C{depth} steps away from it.
        """
        asking = self._sources.referrers.list(self._remote(), subject)
        answer = await self._tried(f"the list of what refers to {subject}", asking)
        if answer is not None:
            self._unheard = self._unheard or answer.status.label == "stale"
            if depth:
                self._add((each.digest for each in answer.referrers), depth - 1)

    async def _fetch(self, reference: str | Digest, depth: int) -> None:
        """
        Have a manifest held, and note what it names.

        @param depth: how far what refers to it is fetched, too; at 0 only the list of that, which clients that show a
            tree ask for; below not even that.
        """
        reading = self._read(self._remote(), reference)
        # That there is none is what most of cosign's tags have to say.
        read = await self._tried(str(reference), reading, may_miss=isinstance(reference, str))
        if read is None:
            return
        self._sources.forget_want(self._upstream, self._name, reference)
        digest, manifest = read
        self._blobs.update(dict.fromkeys(blob.parsed() for blob in manifest.blobs))
        self._add((child.parsed() for child in manifest.manifests), -1)
        if depth >= 0:
            await self._list(digest, depth)

    async def _fetch_blob(self, digest: Digest) -> None:
        await self._tried(str(digest), self._sources.fetch_blob(self._remote(), digest))

    async def _read(self, remote: RemoteRepository, reference: str | Digest) -> tuple[Digest, Manifest]:
        return await self._sources.manifest(remote, reference)

    async def _tried(self, what: str, asking: Coroutine[Any, Any, T], may_miss: bool = False) -> T | None:
        """What C{asking} gives, C{None} when that is a failure. Raises L{RetryLater} when all further ones would be."""
        try:
            return await asking
        except (PullcacheError, OSError) as error:
            if not (may_miss and isinstance(error, UpstreamMissing)):
                self._troubles.append(f"{what}: {error}")
            self._unheard = self._unheard or isinstance(error, UpstreamUnavailable)
            if isinstance(error, UpstreamRateLimited):
                raise RetryLater(error.retry_after or AGAIN) from error
        if not self._remote().registry.availability(self._name).ask:
            raise RetryLater(AGAIN)
        return None

    def _add(self, digests: Iterable[Digest], depth: int) -> None:
        new = [digest for digest in dict.fromkeys(digests) if digest not in self._seen]
        room = MOST - len(self._seen) + 1
        if len(new) > room:
            self._troubles.append(f"{len(new) - room} of its manifests are beyond the {MOST} that are fetched")
        self._seen.update(new[:room])
        self._todo.extend((digest, depth) for digest in new[:room])

    def _remote(self) -> RemoteRepository:
        """Whom to ask now. Raises L{RetryLater} when that is nobody any more."""
        remote = self._sources.remote(self._upstream, self._name)
        if remote is None or not (self._is_small or remote.settings.prefetch.referrers):
            raise RetryLater(AGAIN)
        return remote
