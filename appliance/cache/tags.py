"""A repository's tags: the upstream's whole list together with the tags held."""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from appliance.cache import freshness
from appliance.cache.collapse import Collapsing
from appliance.cache.remote import Remote
from appliance.cache.status import HIT, CacheStatus
from appliance.cache.waiting import within
from appliance.errors import NotHeld, PullcacheError, UpstreamError, UpstreamTimeout
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
        self._checks: Collapsing[tuple[str, str], Listing] = Collapsing(clock)

    async def list(self, remote: Remote, name: str) -> TagsAnswer:
        """
        All tags known.

        @raise UpstreamError: nothing is known and asking failed.
        @raise NotHeld: nothing is known and no upstream may be asked.
        """
        held = (await self._repositories.get(remote.name, name)).tags.keys()
        known = await self._listings.get(remote.name, name)
        now = self._clock.seconds()
        if remote.offline or (known is not None and freshness.is_fresh(known.checked_at, now, remote.settings)):
            if known is None and not held:
                raise NotHeld(f"nothing of {remote.name}/{name} is held, and this appliance is offline")
            return TagsAnswer(_together(known, held), HIT)
        share = self._checks.share((remote.name, name), lambda: self._check(remote, name))
        try:
            if known is None and not held:
                heard = await share.result
            else:
                heard = await within(
                    share.result, freshness.remaining_wait(share.began, now, remote.settings), self._clock
                )
        except DeferredTimeout:
            limit = remote.settings.revalidate_within
            return self._stale(remote, known, held, UpstreamTimeout(remote.name, f"no answer within {limit:g} s"))
        except PullcacheError as error:
            return self._stale(remote, known, held, error)
        status = CacheStatus(
            fwd="uri-miss" if known is None else "stale", stored=not share.joined, collapsed=share.joined
        )
        return TagsAnswer(_together(heard, held), status)

    def _stale(self, remote: Remote, known: Listing | None, held: KeysView[str], error: PullcacheError) -> TagsAnswer:
        checked_at = self._clock.seconds() if known is None else known.checked_at
        nothing = known is None and not held
        if nothing or not freshness.may_serve_stale(error, checked_at, self._clock.seconds(), remote.settings):
            raise error
        kind = error.kind if isinstance(error, UpstreamError) else "unavailable"
        return TagsAnswer(_together(known, held), CacheStatus(hit=True, detail=f"stale-{kind}"), f"stale: {error}")

    async def _check(self, remote: Remote, name: str) -> Listing:
        tags = await remote.registry.tags(name)
        listing = Listing(sorted(set(tags)), self._clock.seconds())
        await self._listings.save(remote.name, name, listing)
        return listing


def _together(listing: Listing | None, held: KeysView[str]) -> list[str]:
    return sorted({*held, *(() if listing is None else listing.tags)})
