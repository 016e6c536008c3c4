"""A repository's tags: the upstream's whole list together with the tags held."""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from appliance.cache import freshness
from appliance.cache.checks import Checks, Question, Stale
from appliance.cache.remote import Remote
from appliance.cache.status import HIT, CacheStatus
from appliance.errors import Offline
from appliance.index.listings import Listing, Listings
from appliance.index.repositories import Repositories


@dataclass(frozen=True)
class TagsAnswer:
    """
    @ivar tags: sorted by code point, each once.
    @ivar warning: what a client should know about them, or C{None}.
    """

    tags: list[str]
    status: CacheStatus
    warning: str | None = None


class Tags:
    """Lists tags of every upstream's repositories."""

    def __init__(self, repositories: Repositories, listings: Listings, clock: IReactorTime) -> None:
        self._repositories = repositories
        self._listings = listings
        self._clock = clock
        self._checks: Checks[Listing] = Checks(clock)

    async def list(self, remote: Remote, name: str) -> TagsAnswer:
        """
        All tags known.

        @raise UpstreamError: nothing is known and asking failed.
        @raise Offline: nothing is known and no upstream may be asked.
        """
        held = (await self._repositories.get(remote.name, name)).tags.keys()
        known = await self._listings.get(remote.name, name)
        nothing = known is None and not held
        if nothing and remote.offline:
            raise Offline(f"nothing of {remote.name}/{name} is held, and this appliance is offline")
        now = self._clock.seconds()
        if remote.offline or (known is not None and freshness.is_fresh(known.checked_at, now, remote.settings)):
            return TagsAnswer(_together(known, held), HIT)
        question = Question(remote, name, "", lambda: self._check(remote, name))
        checked_at = now if known is None else known.checked_at
        news = await (self._checks.cold(question) if nothing else self._checks.warm(question, checked_at))
        if isinstance(news, Stale):
            return TagsAnswer(_together(known, held), news.status, news.warning)
        reason = "uri-miss" if known is None else "stale"
        status = CacheStatus(fwd=reason, stored=not news.joined, collapsed=news.joined)
        return TagsAnswer(_together(news.news, held), status)

    async def _check(self, remote: Remote, name: str) -> Listing:
        tags = await remote.registry.tags(name)
        listing = Listing(sorted(set(tags)), self._clock.seconds())
        repository = await self._repositories.get(remote.name, name)
        # Some upstreams have an empty list for every name that somebody makes up: that must not fill the disk.
        await self._listings.save(remote.name, name, listing, bool(tags or repository.manifests))
        return listing


def _together(listing: Listing | None, held: KeysView[str]) -> list[str]:
    return sorted({*held, *(() if listing is None else listing.tags)})
