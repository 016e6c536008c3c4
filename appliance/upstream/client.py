"""One upstream over HTTP, asked as the distribution specification has it; and one that is not asked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from appliance.errors import Offline, UpstreamError, UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.upstream import distribution
from appliance.upstream.failover import Endpoint, Failover
from appliance.upstream.http.limits import Gate
from appliance.upstream.interfaces import (
    Availability,
    Condition,
    FetchedManifest,
    IAdapter,
    IBlobResponse,
    IUpstream,
    IUpstreamObserver,
    ManifestHead,
    Referrers,
)
from appliance.upstream.ratelimit import RateLimitBudget
from appliance.upstream.referrers import ReferrersClient
from appliance.upstream.url import Url

T = TypeVar("T")


@implementer(IUpstream)
class RegistryClient:
    """
    Asks the configured URLs in order, the next one when one is unavailable.

    @ivar name: the configured name.
    """

    def __init__(
        self,
        name: str,
        adapter: IAdapter,
        endpoints: Sequence[Endpoint],
        budget: RateLimitBudget,
        gate: Gate,
        clock: IReactorTime,
        observer: IUpstreamObserver,
    ) -> None:
        """
        @param gate: through which all requests of the endpoints and of their credentials pass; L{disconnect} closes it.
        """
        self.name = name
        self._adapter = adapter
        self._budget = budget
        self._gate = gate
        self._observer = observer
        self._failover = Failover(name, endpoints, clock)
        urls = [endpoint.url for endpoint in endpoints]
        self._referrers = ReferrersClient(name, urls, budget, clock, adapter.has_referrers)

    def repository(self, name: str) -> str:
        """See L{IUpstream.repository}."""
        return self._adapter.repository(name)

    def availability(self, repository: str) -> Availability:
        """See L{IUpstream.availability}."""
        return self._failover.availability(repository)

    def overdue(self, repository: str) -> None:
        """See L{IUpstream.overdue}."""
        self._failover.overdue(repository)

    def condition(self) -> Condition:
        """See L{IUpstream.condition}."""
        endpoints = self._failover.endpoints
        limited = sorted({name for endpoint in endpoints for name in endpoint.limits.names()})
        return Condition(
            tuple(endpoint.health.condition() for endpoint in endpoints), self._budget.limit, tuple(limited)
        )

    def stop(self) -> None:
        """See L{IUpstream.stop}."""
        self._failover.stop()

    def disconnect(self) -> None:
        """See L{IUpstream.disconnect}."""
        self.stop()
        self._gate.close()

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """See L{IUpstream.head}."""
        return self._ask(repository, lambda registry: distribution.head(registry, repository, reference))

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """See L{IUpstream.manifest}. Fails with L{UpstreamRateLimited} when C{keep_pulls} leaves none."""

        async def pulled() -> FetchedManifest:
            if self._budget.is_stale:
                # A HEAD is no pull, and its answer reports how many are left by now.
                await self._failover.ask(
                    repository, lambda registry: distribution.head(registry, repository, reference)
                )
            with self._budget.pull():
                return await self._failover.ask(
                    repository, lambda registry: distribution.manifest(registry, repository, reference)
                )

        return Deferred.fromCoroutine(self._counted(pulled()))

    def blob(
        self,
        repository: str,
        digest: Digest,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
        background: bool = False,
    ) -> Deferred[IBlobResponse]:
        """See L{IUpstream.blob}. Fails with L{RangeIgnored} when what comes is neither that range nor the whole."""
        return self._ask(
            repository,
            lambda registry: distribution.blob(registry, repository, digest, start, stop, validator, background),
        )

    def awaited(self, repository: str, digest: Digest) -> None:
        """See L{IUpstream.awaited}; a request that is sent goes behind nothing."""

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """See L{IUpstream.blob_size}."""
        return self._ask(repository, lambda registry: distribution.blob_size(registry, repository, digest))

    def tags(self, repository: str) -> Deferred[list[str]]:
        """See L{IUpstream.tags}."""
        return self._ask(repository, lambda registry: distribution.tags(registry, repository))

    def referrers(self, repository: str, subject: Digest) -> Deferred[Referrers]:
        """
        See L{IUpstream.referrers}. Fails with L{UpstreamRateLimited} as L{manifest} does, where a tag lists them.

        A URL without the API that knows of none leads on to the next one, as one that does not answer: it may be a
        mirror that has the images without their signatures. There are none when every URL says so.
        """
        unaware: list[Url] = []

        async def question(registry: Endpoint) -> Referrers:
            found = await self._referrers.ask(registry, repository, subject)
            if found is not None:
                return found
            unaware.append(registry.url)
            if len(unaware) == len(self._failover.endpoints):
                return Referrers(())
            what = f"{registry.url.shown} lists no referrers and has no API for them, and no other URL answers"
            raise UpstreamUnavailable(self.name, what)

        return self._ask(repository, question)

    def _ask(self, repository: str, question: Callable[[Endpoint], Coroutine[Deferred[Any], Any, T]]) -> Deferred[T]:
        return Deferred.fromCoroutine(self._counted(self._failover.ask(repository, question)))

    async def _counted(self, asking: Coroutine[Deferred[Any], Any, T]) -> T:
        """What C{asking} comes to; a failure is counted once, however many URLs were asked."""
        try:
            return await asking
        except UpstreamError as fault:
            self._observer.failed(self.name, fault.kind)
            raise


@implementer(IUpstream)
class OfflineUpstream:
    """
    Maps names of repositories and does nothing else; every request fails with L{Offline}.

    @ivar name: the configured name.
    """

    def __init__(self, name: str, adapter: IAdapter) -> None:
        self.name = name
        self._adapter = adapter

    def repository(self, name: str) -> str:
        """See L{IUpstream.repository}."""
        return self._adapter.repository(name)

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {reference}")

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {reference}")

    def availability(self, repository: str) -> Availability:
        """No request is worth sending."""
        return Availability(ask=False, wait=False)

    def overdue(self, repository: str) -> None:
        """No request was sent that could be late."""

    def condition(self) -> Condition:
        """No URL is contacted."""
        return Condition()

    def stop(self) -> None:
        """There is no probe to stop."""

    def disconnect(self) -> None:
        """There is no connection to drop."""

    def blob(
        self,
        repository: str,
        digest: Digest,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
        background: bool = False,
    ) -> Deferred[IBlobResponse]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {digest}")

    def awaited(self, repository: str, digest: Digest) -> None:
        """No blob is being requested."""

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """Fails with L{Offline}."""
        return self._refused(f"{repository} {digest}")

    def tags(self, repository: str) -> Deferred[list[str]]:
        """Fails with L{Offline}."""
        return self._refused(f"the tags of {repository}")

    def referrers(self, repository: str, subject: Digest) -> Deferred[Referrers]:
        """Fails with L{Offline}."""
        return self._refused(f"a list of what refers to {repository}@{subject}")

    def _refused(self, what: str) -> Deferred[Any]:
        return fail(Offline(f"{self.name}: {what} is not held, and this appliance is offline"))
