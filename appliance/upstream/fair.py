"""
An upstream that is not asked for more at once than it is meant to give.

Manifests go before blobs, and what somebody waits for before background work; see L{Permits}. A permit is held from
the question until its answer is whole: a blob's until its body has ended, however it ends. While the upstream is known
to be down or wants to be left alone nobody waits for a permit, since no question leads to more than a failure at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from appliance.interfaces import (
    Availability,
    Condition,
    FetchedManifest,
    Health,
    IBlobResponse,
    IUpstream,
    ManifestHead,
    Referrers,
)
from appliance.oci.digest import Digest
from appliance.upstream.permits import Permit, Permits, Rank

T = TypeVar("T")

_NOT_ASKED = frozenset({Health.DOWN, Health.RATE_LIMITED})


@implementer(IUpstream)
class FairUpstream:
    """
    Another upstream with a limit on the answers open at once.

    @ivar name: the other's.
    """

    def __init__(self, registry: IUpstream, permits: Permits) -> None:
        self.name = registry.name
        self._registry = registry
        self._permits = permits
        permits.free = self._fails_at_once

    def repository(self, name: str) -> str:
        """See L{IUpstream.repository}."""
        full: str = self._registry.repository(name)
        return full

    def availability(self, repository: str) -> Availability:
        """See L{IUpstream.availability}."""
        availability: Availability = self._registry.availability(repository)
        return availability

    def overdue(self, repository: str) -> None:
        """See L{IUpstream.overdue}; while questions wait for their turn here it is not the registry that is late."""
        if not self._permits.waiting:
            self._registry.overdue(repository)

    def condition(self) -> Condition:
        """See L{IUpstream.condition}."""
        condition: Condition = self._registry.condition()
        return condition

    def stop(self) -> None:
        """See L{IUpstream.stop}."""
        self._registry.stop()

    def disconnect(self) -> None:
        """See L{IUpstream.disconnect}; what waits for its turn fails when that comes."""
        self._registry.disconnect()

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """See L{IUpstream.head}."""
        return self._asked(lambda: self._registry.head(repository, reference))

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """See L{IUpstream.manifest}."""
        return self._asked(lambda: self._registry.manifest(repository, reference))

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """See L{IUpstream.blob_size}."""
        return self._asked(lambda: self._registry.blob_size(repository, digest))

    def tags(self, repository: str) -> Deferred[list[str]]:
        """See L{IUpstream.tags}."""
        return self._asked(lambda: self._registry.tags(repository))

    def referrers(self, repository: str, subject: Digest) -> Deferred[Referrers]:
        """See L{IUpstream.referrers}."""
        return self._asked(lambda: self._registry.referrers(repository, subject))

    def blob(
        self,
        repository: str,
        digest: Digest,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
        background: bool = False,
    ) -> Deferred[IBlobResponse]:
        """
        See L{IUpstream.blob}.

        The caller delivers or abandons what it gets: until then others wait for its permit.
        """

        def ask() -> Deferred[IBlobResponse]:
            return self._registry.blob(repository, digest, start, stop, validator, background)

        return Deferred.fromCoroutine(self._opened(ask, Rank.BACKGROUND if background else Rank.BLOB))

    def _asked(self, ask: Callable[[], Deferred[T]]) -> Deferred[T]:
        return Deferred.fromCoroutine(self._answered(ask))

    async def _answered(self, ask: Callable[[], Deferred[T]]) -> T:
        permit = await self._permits.acquire(Rank.QUESTION)
        try:
            return await ask()
        finally:
            permit.release()

    async def _opened(self, ask: Callable[[], Deferred[IBlobResponse]], rank: Rank) -> IBlobResponse:
        permit = await self._permits.acquire(rank)
        try:
            return FairResponse(await ask(), permit)
        except BaseException:
            permit.release()
            raise

    def _fails_at_once(self) -> bool:
        urls = self.condition().urls
        return bool(urls) and all(url.health in _NOT_ASKED for url in urls)


@implementer(IBlobResponse)
class FairResponse:
    """
    An answer to a blob request that holds a permit until it is over.

    @ivar start: see L{IBlobResponse}, as for C{stop}, C{size} and C{validator}.
    """

    def __init__(self, response: IBlobResponse, permit: Permit) -> None:
        self.start: int = response.start
        self.stop: int | None = response.stop
        self.size: int | None = response.size
        self.validator: str | None = response.validator
        self._response = response
        self._permit = permit
        self._taken = False

    def deliver(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBlobResponse.deliver}."""
        self._taken = True
        try:
            delivered: Deferred[None] = self._response.deliver(consumer)
        except BaseException:
            self._permit.release()
            raise
        return delivered.addBoth(self._over)

    def awaited(self) -> None:
        """See L{IBlobResponse.awaited}."""
        self._response.awaited()

    def abandon(self) -> None:
        """See L{IBlobResponse.abandon}; after C{deliver} the body's end is what counts."""
        try:
            self._response.abandon()
        finally:
            if not self._taken:
                self._permit.release()

    def _over(self, result: T) -> T:
        self._permit.release()
        return result
