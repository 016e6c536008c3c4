"""
What refers to a manifest: the upstream's list together with what is held.

"Nothing" is an answer that lets an image pass for unsigned, so it is given only when the upstream said it. What comes,
by what the upstream does and what is known already:

=======================  ====================  =====================  ============  =====================
the upstream             nothing               held, never heard      heard lately  heard longer ago
=======================  ====================  =====================  ============  =====================
lists some               them                  them and the held      not asked     them and the held
lists none               none                  the held               not asked     the held
has no such repository   none                  the held               not asked     the held
refuses us               502                   the held, warned       not asked     as heard, stale
wants fewer requests     429                   the held, warned       not asked     as heard, stale
fails, or is down        502                   the held, warned       not asked     as heard, stale
is silent                504, after its time   the held, warned (*)   not asked     as heard, stale (*)
is never asked           502                   the held, warned       as heard      as heard
=======================  ====================  =====================  ============  =====================

(*) after C{revalidate_within}. "Not asked" and "as heard" give the list last heard, which may be empty, together with
what is held. "Held" is what the fallback tag held here lists and the manifests held with that C{subject}; whether the
subject itself is held changes nothing. "Warned": a warning says that it may not be all. Where C{serve_stale} forbids
it, the second and the last column are as the first one; where C{max_stale} does, the last one is. A document that is
damaged was never heard.

No 404 leaves here: clients would take it for a registry without the API, ask for the fallback tag, and take a
404 of that for "nothing". And the list is asked for without a filter, so that one answer serves them all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec
from twisted.internet.interfaces import IReactorTime

from appliance.cache import freshness
from appliance.cache.access import RemoteRepository
from appliance.cache.freshness import MonotonicTimes
from appliance.cache.revalidator import Fetched, Revalidator, Stale, UpstreamQuery
from appliance.cache.status import HIT, CacheStatus
from appliance.errors import (
    ManifestInvalid,
    Offline,
    ReferrersUnknown,
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamMissing,
)
from appliance.flow.clock import wall
from appliance.index.graph import ManifestGraph
from appliance.index.lists import ReferrerList, ReferrerLists
from appliance.index.repositories import Repositories
from appliance.oci.digest import Digest
from appliance.oci.referrer import Referrer, distinct, parse_descriptor, within_limits

#: Digests that lists named which are remembered as no inventions of a client's.
_LISTED = 20_000

_AtHand = tuple[Sequence[Referrer], ReferrerList | None]

ONLY_HELD = "only what is held here is listed"
NEVER_HEARD = f"{ONLY_HELD}; its upstream was not heard"


@dataclass(frozen=True)
class ReferrersAnswer:
    """
    @ivar referrers: the upstream's, then those held that it did not list; each digest once, none filtered out.
    @ivar warning: what a client should know about them, or C{None}.
    """

    referrers: list[Referrer]
    status: CacheStatus
    warning: str | None = None


class ReferrerCache:
    """Lists referrers in every upstream's repositories."""

    def __init__(
        self, repositories: Repositories, lists: ReferrerLists, graph: ManifestGraph, clock: IReactorTime
    ) -> None:
        self._repositories = repositories
        self._lists = lists
        self._graph = graph
        self._clock = clock
        self._revalidator: Revalidator[ReferrerList] = Revalidator(clock)
        self._heard: MonotonicTimes[tuple[str, str, Digest]] = MonotonicTimes(clock)
        self._listed: OrderedDict[tuple[str, str, Digest], None] = OrderedDict()

    async def list(self, remote: RemoteRepository, subject: Digest) -> ReferrersAnswer:
        """
        All referrers known, by the table above.

        @raise UpstreamError: nothing is known and asking failed.
        @raise ReferrersUnknown: nothing is known, and the upstream may not be asked or does not answer us.
        """
        held, known = await self._at_hand(remote.upstream, remote.name, subject)
        if remote.offline:
            answer = _unasked(known, held)
            if answer is None:
                message = f"what refers to {remote}@{subject} was not heard while this appliance was online"
                raise ReferrersUnknown(message)
            return answer
        if known is not None and self._is_fresh(remote, subject, known):
            return _answer(known, held, HIT)
        news = await self._ask(remote, subject, known, bool(held))
        if not isinstance(news, Stale):
            return _answer(news.value, held, _asked(news, known))
        warning = news.warning if known is not None else f"{ONLY_HELD}: {news.fault}"
        return _answer(known, held, news.status, warning)

    async def known(self, upstream: str, name: str, subject: Digest) -> ReferrersAnswer | None:
        """What is listed where nobody is asked; C{None}: its upstream was never heard and nothing is held."""
        held, known = await self._at_hand(upstream, name, subject)
        return _unasked(known, held)

    async def _at_hand(self, upstream: str, name: str, subject: Digest) -> _AtHand:
        """What is held, and what was last heard."""
        held = await self._graph.referrers(await self._repositories.get(upstream, name), subject)
        return held, await self._lists.get(upstream, name, subject)

    async def _ask(
        self, remote: RemoteRepository, subject: Digest, known: ReferrerList | None, held: bool
    ) -> Fetched[ReferrerList] | Stale:
        query = UpstreamQuery(_timed(remote), str(subject), lambda: self._check(remote, subject))
        try:
            if known is None and not held:
                return await self._revalidator.fetch(query)
            heard_at = self._clock.seconds() if known is None else self._heard_at(remote, subject, known)
            return await self._revalidator.revalidate(query, heard_at)
        except (Offline, UpstreamDenied) as error:
            # Both are 404s where what is there is asked for; here that would mean "nothing".
            raise ReferrersUnknown(f"what refers to {remote}@{subject} is not known: {error}") from error

    async def _check(self, remote: RemoteRepository, subject: Digest) -> ReferrerList:
        """Ask, and keep what is said: durable on return when there is something, or the subject is held."""
        try:
            said = await remote.registry.referrers(remote.name, subject)
        except UpstreamMissing as error:
            # No word on the referrers: one that has none says so with an empty list.
            raise UpstreamInvalid(remote.upstream, f"no list of what refers to {subject}: {error.detail}") from error
        referrers, cut = within_limits(distinct(_descriptors(said.descriptors)))
        heard = ReferrerList(tuple(referrers), wall(self._clock), said.cut or cut)
        self._heard_at(remote, subject, heard)
        repository = await self._repositories.get(remote.upstream, remote.name)
        # Who makes digests up is told "none" for each, and must not fill the disk with that.
        known = subject in repository.manifests or (remote.upstream, remote.name, subject) in self._listed
        await self._lists.save(remote.upstream, remote.name, subject, heard, bool(referrers) or known)
        self._note_listed(remote, referrers)
        return heard

    def _note_listed(self, remote: RemoteRepository, referrers: Iterable[Referrer]) -> None:
        """Clients that show a tree ask next what refers to these, held or not."""
        for each in referrers:
            self._listed[remote.upstream, remote.name, each.digest] = None
        while len(self._listed) > _LISTED:
            self._listed.popitem(last=False)

    def _is_fresh(self, remote: RemoteRepository, subject: Digest, known: ReferrerList) -> bool:
        heard_at = self._heard_at(remote, subject, known)
        return freshness.is_fresh(heard_at, self._clock.seconds(), _timed(remote).settings)

    def _heard_at(self, remote: RemoteRepository, subject: Digest, known: ReferrerList) -> float:
        """When the upstream said so, seconds of the clock; 0 when that is not known."""
        return self._heard.seconds((remote.upstream, remote.name, subject), known.received_at)


def _timed(remote: RemoteRepository) -> RemoteRepository:
    """The repository with what C{fresh_for} is for lists of referrers."""
    settings = msgspec.structs.replace(remote.settings, fresh_for=remote.settings.referrers_fresh_for)
    return replace(remote, settings=settings)


def _descriptors(received: Iterable[bytes]) -> Iterator[Referrer]:
    for raw in received:
        with suppress(ManifestInvalid):
            yield parse_descriptor(raw)


def _asked(heard: Fetched[ReferrerList], known: ReferrerList | None) -> CacheStatus:
    reason = "uri-miss" if known is None else "stale"
    return CacheStatus(fwd=reason, stored=not heard.joined, collapsed=heard.joined)


def _unasked(known: ReferrerList | None, held: Sequence[Referrer]) -> ReferrersAnswer | None:
    """The answer where nobody is asked, C{None} when nothing is known."""
    if known is None and not held:
        return None
    return _answer(known, held, HIT, NEVER_HEARD if known is None else None)


def _answer(
    heard: ReferrerList | None, held: Sequence[Referrer], status: CacheStatus, warning: str | None = None
) -> ReferrersAnswer:
    """All together, as many as are kept for one subject."""
    upstreams = () if heard is None else heard.referrers
    referrers, cut = within_limits(distinct((*upstreams, *held)))
    warnings = [] if warning is None else [warning]
    if cut or (heard is not None and heard.cut):
        warnings.append(f"there may be more referrers than the {len(referrers)} that are listed")
    return ReferrersAnswer(referrers, status, "; ".join(warnings) or None)
