"""A registry of the OCI distribution specification, asked over HTTP."""

from __future__ import annotations

import random as chance
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from appliance.errors import UpstreamError
from appliance.interfaces import (
    Availability,
    Condition,
    FetchedManifest,
    IAdapter,
    IBlobResponse,
    ICredentials,
    IUpstream,
    ManifestHead,
    Referrers,
)
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.exchange import Exchange
from appliance.upstream.gate import Gate
from appliance.upstream.health import UrlHealth
from appliance.upstream.http.connect import Agents
from appliance.upstream.http.tokens import Tokens
from appliance.upstream.kinds.standard import STANDARD
from appliance.upstream.limits import Limits
from appliance.upstream.observer import IUpstreamObserver, SilentObserver
from appliance.upstream.pace import Pace
from appliance.upstream.questions import Questions, range_fields
from appliance.upstream.referrers import ReferrerQuestions
from appliance.upstream.resting import Allowance, RepositoryRests
from appliance.upstream.site import Site
from appliance.upstream.sites import HeardAgent, Place, Sites
from appliance.upstream.url import Url

T = TypeVar("T")


@implementer(IUpstream)
class DistributionUpstream:
    """
    Asks the configured URLs in order, the next one when one is unavailable.

    @ivar name: the configured name.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        agents: Callable[[Url], Agents],
        clock: IReactorTime,
        adapter: IAdapter = STANDARD,
        credentials: Callable[[Url], ICredentials | None] = lambda url: None,
        observer: IUpstreamObserver | None = None,
        limits: Limits | None = None,
        random: Callable[[], float] = chance.random,
        gate: Gate | None = None,
    ) -> None:
        """
        @param agents: makes the agents for one configured URL.
        @param credentials: gives those of the origin of one configured URL; called once for each origin.
        @param random: gives numbers from 0 to 1.
        @param gate: which L{disconnect} closes; given where others ask on this upstream's behalf, too.
        @raise ValueError: one of C{settings.urls} is none.
        """
        self.name = settings.name
        self._adapter = adapter
        self._clock = clock
        self._random = random
        self._observer: IUpstreamObserver = SilentObserver() if observer is None else observer
        pace = None if settings.max_rate is None else Pace(clock, settings.max_rate)
        self._gate = gate or Gate(self.name)
        self._exchange = Exchange(self.name, clock, limits or Limits(), self._observer, pace, self._gate)
        self._questions = Questions(self._exchange)
        self._allowance = Allowance(self.name, settings.keep_pulls, clock, self._observer)
        self._auth_hosts = settings.auth_hosts + adapter.auth_hosts
        self._tokens = Tokens(clock)
        urls = [Url.parse(url) for url in settings.urls]
        # The first URL of an origin speaks for all of them.
        self._credentials = {root: credentials(url) for root, url in {url.root: url for url in reversed(urls)}.items()}
        self._sites = Sites(self.name, [self._place(url, agents(url)) for url in urls], clock)
        self._referrers = ReferrerQuestions(
            self._questions, self._exchange, self._allowance, self._sites, clock, adapter.has_referrers
        )

    def _place(self, url: Url, agents: Agents) -> Place:
        own = HeardAgent(agents.own)
        site = Site(
            url,
            Agents(own, agents.led),
            self._exchange,
            self._adapter,
            self._auth_hosts,
            self._credentials[url.root],
            self._tokens,
        )
        shown = url.shown.removesuffix("/")
        health = UrlHealth(self.name, shown, site.ping, self._clock, self._random, self._observer)
        rests = RepositoryRests(self.name, self._clock)
        return Place(self.name, site, own, health, rests, self._adapter.rate_limit, self._allowance.hear)

    def repository(self, name: str) -> str:
        """See L{IUpstream.repository}."""
        return self._adapter.repository(name)

    def availability(self, repository: str) -> Availability:
        """See L{IUpstream.availability}."""
        return self._sites.availability(repository)

    def overdue(self, repository: str) -> None:
        """See L{IUpstream.overdue}."""
        self._sites.overdue(repository)

    def condition(self) -> Condition:
        """See L{IUpstream.condition}."""
        places = self._sites.places
        resting = sorted({name for place in places for name in place.rests.names()})
        return Condition(tuple(place.health.condition() for place in places), self._allowance.limit, tuple(resting))

    def stop(self) -> None:
        """See L{IUpstream.stop}."""
        self._sites.stop()

    def disconnect(self) -> None:
        """See L{IUpstream.disconnect}."""
        self.stop()
        self._gate.close()

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """See L{IUpstream.head}."""
        return self._told(self._asked_head(repository, reference))

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """See L{IUpstream.manifest}. Fails with L{UpstreamRateLimited} when C{keep_pulls} leaves none."""
        return self._told(self._pulled(repository, reference))

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
        fields, watch = range_fields(start, stop, validator), self._exchange.watch_for(background)
        return self._told(
            self._sites.ask(
                repository, lambda place: self._questions.blob(place, repository, digest, start, fields, watch)
            )
        )

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """See L{IUpstream.blob_size}."""
        return self._told(
            self._sites.ask(repository, lambda place: self._questions.blob_size(place, repository, digest))
        )

    def tags(self, repository: str) -> Deferred[list[str]]:
        """See L{IUpstream.tags}."""
        return self._told(self._sites.ask(repository, lambda place: self._questions.tags(place, repository)))

    def referrers(self, repository: str, subject: Digest) -> Deferred[Referrers]:
        """See L{IUpstream.referrers}. Fails with L{UpstreamRateLimited} as L{manifest} does, where a tag lists them."""
        return self._told(self._referrers.ask(repository, subject))

    def _told(self, asking: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        """What the question comes to; a failure is counted once."""

        async def told() -> T:
            try:
                return await asking
            except UpstreamError as fault:
                self._observer.failed(self.name, fault.kind)
                raise

        return Deferred.fromCoroutine(told())

    async def _asked_head(self, repository: str, reference: str | Digest) -> ManifestHead:
        return await self._sites.ask(repository, lambda place: self._questions.head(place, repository, reference))

    async def _pulled(self, repository: str, reference: str | Digest) -> FetchedManifest:
        if self._allowance.doubtful:
            # A HEAD is no pull, and its answer tells how many are left by now.
            await self._asked_head(repository, reference)
        with self._allowance.pull():
            return await self._sites.ask(
                repository, lambda place: self._questions.manifest(place, repository, reference)
            )
