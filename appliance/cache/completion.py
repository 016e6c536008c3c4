"""Fetching on purpose what nobody has pulled yet, through the cache and so once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.flights import Flights
from appliance.cache.pullthrough import PullThrough
from appliance.errors import PullcacheError
from appliance.oci.digest import Digest

AT_ONCE = 4
"""Objects fetched at the same time, by everybody together: clients' own pulls are not to wait for these."""

W = TypeVar("W", bound=str | Digest)
_Fetch = Callable[[str, str, W], Coroutine[Any, Any, str]]


class Completion:
    """Fetches manifests and blobs of one cache."""

    _log = Logger()

    def __init__(self, cache: PullThrough, flights: Flights, background: bool = False) -> None:
        """
        @param flights: those of C{cache}.
        @param background: whether nobody waits for what is fetched: blobs go behind those of clients then.
        """
        self._cache = cache
        self._flights = flights
        self._background = background
        self._places = DeferredSemaphore(AT_ONCE)

    async def fetch(
        self,
        upstream: str,
        repository: str,
        manifests: Sequence[str | Digest],
        blobs: Sequence[Digest],
        ended: Callable[[str | Digest], None] = lambda _: None,
    ) -> list[str]:
        """
        Have all of these held.

        Cancelling ends the waiting; a blob under way comes to its end.

        @param manifests: tags and digests.
        @param ended: told each of them when it is held, or cannot be.
        @return: why some of them are not, in words.
        """
        work = [self._run(self._manifest, upstream, repository, reference, ended) for reference in manifests]
        work += [self._run(self._blob, upstream, repository, digest, ended) for digest in blobs]
        # Backwards, because that is how they are cancelled: else each place that is freed would go to the next in line.
        try:
            told = await gatherResults(work[::-1], consumeErrors=True)
        except FirstError as error:
            # All that fails in a way that can be told is told: this is a cancellation, or a mistake of ours.
            error.subFailure.raiseException()
        return [why for why in reversed(told) if why]

    def _run(
        self, fetch: _Fetch[W], upstream: str, repository: str, what: W, ended: Callable[[str | Digest], None]
    ) -> Deferred[str]:
        def begin() -> Deferred[str]:
            fetching = Deferred.fromCoroutine(fetch(upstream, repository, what))
            return fetching.addErrback(self._told, upstream, repository, what).addCallback(end)

        def end(told: str) -> str:
            ended(what)
            return told

        return self._places.run(begin)

    async def _manifest(self, upstream: str, repository: str, reference: str | Digest) -> str:
        await self._cache.manifest(self._cache.access.open(upstream, repository), reference, wanted=False)
        return ""

    async def _blob(self, upstream: str, repository: str, digest: Digest) -> str:
        remote = self._cache.access.open(upstream, repository)
        await self._cache.fetch_blob(remote, digest, self._background, wanted=False)
        return ""

    def settled(self) -> Deferred[None]:
        """See L{Flights.committed}."""
        return self._flights.committed()

    def _told(self, failure: Failure, upstream: str, repository: str, what: str | Digest) -> str:
        failure.trap(PullcacheError, OSError)
        self._log.warn(
            "{upstream}/{repository}: {what} was not fetched: {error}",
            upstream=upstream,
            repository=repository,
            what=str(what),
            error=failure.value,
        )
        mark = "@" if isinstance(what, Digest) else ":"
        return f"{upstream}/{repository}{mark}{what}: {failure.value}"
