"""A repository's tags: the upstream's whole list together with the tags held."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from appliance.cache import freshness
from appliance.cache.access import RemoteRepository
from appliance.cache.freshness import MonotonicTimes
from appliance.cache.revalidator import Revalidator, Stale, UpstreamQuery
from appliance.cache.space import Space
from appliance.cache.status import HIT, CacheStatus
from appliance.errors import Offline
from appliance.flow.clock import wall
from appliance.flow.lru import LeastRecentlyUsed
from appliance.index.lists import TagList, TagLists
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository

MERGED = 16 * 1024 * 1024
"""The most bytes of merged lists in memory."""

# What a tag takes in them, roughly.
_WEIGHT = 100

# The class below has a method of that name.
Names = list[str]


@dataclass(frozen=True)
class TagsAnswer:
    """
    @ivar tags: sorted by code point, each once; not to be changed.
    @ivar warning: what a client should know about them, or C{None}.
    """

    tags: list[str]
    status: CacheStatus
    warning: str | None = None


class Tags:
    """Lists tags of every upstream's repositories."""

    def __init__(self, repositories: Repositories, lists: TagLists, space: Space, clock: IReactorTime) -> None:
        self._space = space
        self._repositories = repositories
        self._lists = lists
        self._clock = clock
        self._revalidator: Revalidator[TagList] = Revalidator(clock)
        self._merged: LeastRecentlyUsed[tuple[str, str], _Merged] = LeastRecentlyUsed(MERGED)
        self._checked = MonotonicTimes(clock)

    async def list(self, remote: RemoteRepository) -> TagsAnswer:
        """
        All tags known.

        @raise UpstreamError: nothing is known and asking failed.
        @raise Offline: nothing is known and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        held = repository.tag_names
        known = await self._lists.get(remote.upstream, remote.name)
        nothing = known is None and not held
        if nothing and remote.offline:
            raise Offline(f"nothing of {remote} is held, and this appliance is offline")
        now = self._clock.seconds()
        checked_at = now if known is None else self._checked.seconds(remote.key(""), known.checked_at)
        if remote.offline or (known is not None and freshness.is_fresh(checked_at, now, remote.settings)):
            return TagsAnswer(self._together(repository, known), HIT)
        query = UpstreamQuery(remote, "", lambda: self._check(remote))
        answer = await (self._revalidator.fetch(query) if nothing else self._revalidator.revalidate(query, checked_at))
        if isinstance(answer, Stale):
            return TagsAnswer(self._together(repository, known), answer.status, answer.warning)
        return TagsAnswer(self._together(repository, answer.value), answer.status(cached=known is not None))

    async def _check(self, remote: RemoteRepository) -> TagList:
        tags = await remote.registry.tags(remote.name)
        listed = TagList(sorted(set(tags)), wall(self._clock))
        self._checked.seconds(remote.key(""), listed.checked_at)
        repository = await self._repositories.get(remote.upstream, remote.name)
        # Some upstreams have an empty list for every made-up name: that must not fill the disk.
        with self._space.spared():
            await self._lists.save(remote.upstream, remote.name, listed, bool(tags or repository.manifests))
        return listed

    def _together(self, repository: Repository, upstreams: TagList | None) -> Names:
        """
        The tags listed and those held, sorted, each once: the same list until one of the two changes, so that a page
        of it costs what the page holds.
        """
        held, listed = repository.tag_names, [] if upstreams is None else upstreams.tags
        if not held or not listed:
            return held or listed
        made = self._merged.get(repository.place)
        if made is None or made.held is not held or made.listed is not listed:
            # Two sorted runs: sorting them is merging them.
            tags = list(dict.fromkeys(sorted([*listed, *held])))
            made = _Merged(held, listed, tags if len(tags) > len(listed) else listed)
            self._merged.put(repository.place, made, min(_WEIGHT * len(tags), MERGED))
        return made.tags


@dataclass(frozen=True)
class _Merged:
    """The C{tags} that came of merging C{held} and C{listed}."""

    held: list[str]
    listed: list[str]
    tags: list[str]
