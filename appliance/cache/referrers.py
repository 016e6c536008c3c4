"""
What refers to a manifest: the upstream's list together with what is held.

"Nothing" is an answer that lets an image pass for unsigned, so it is given only when the upstream said it. What comes,
by what the upstream does and what is known already:

=======================  ====================  ====================  ===============  =====================
the upstream             nothing               held, never listed    listed lately    listed longer ago
=======================  ====================  ====================  ===============  =====================
lists some               them                  them and the held     not requested    them and the held
lists none               none                  the held              not requested    the held
has no such repository   none                  the held              not requested    the held
refuses us               502                   the held, warned      not requested    as listed, stale
wants fewer requests     429                   the held, warned      not requested    as listed, stale
fails, or is down        502                   the held, warned      not requested    as listed, stale
is silent                504, after its time   the held, warned (*)  not requested    as listed, stale (*)
is never asked           502                   the held, warned      as listed        as listed
=======================  ====================  ====================  ===============  =====================

(*) after C{revalidate_within}. "Not requested" and "as listed" give the upstream's list as last received, which may be
empty, together with what is held. "Held" is what the fallback tag held here lists and the manifests held with that
C{subject}; whether the subject itself is held changes nothing. "Warned": a warning says that it may not be all. Where
C{serve_stale} forbids it, the second and the last column are as the first one; where C{max_stale} does, the last one
is. A list whose document is damaged was never received.

No 404 leaves here: clients would take it for a registry without the API, ask for the fallback tag, and take a
404 of that for "nothing". And the list is requested without a filter, so that one answer serves them all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec
from twisted.internet.interfaces import IReactorTime

from appliance.cache import freshness
from appliance.cache.access import RemoteRepository
from appliance.cache.freshness import MonotonicTimes
from appliance.cache.revalidator import Fetched, Revalidator, Stale, UpstreamQuery
from appliance.cache.space import Space
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
from appliance.oci.referrer import ReferrerDescriptor, distinct, parse_descriptor, within_limits

# Digests named by lists that are remembered, to tell them from digests that a client made up.
_LISTED = 20_000

ONLY_HELD = "only what is held here is listed"
NEVER_RECEIVED = f"{ONLY_HELD}; its upstream was not heard"


@dataclass(frozen=True)
class ReferrersAnswer:
    """
    @ivar referrers: the upstream's, then those held that it did not list; each digest once, none filtered out.
    @ivar warning: what a client should know about them, or C{None}.
    """

    referrers: list[ReferrerDescriptor]
    status: CacheStatus
    warning: str | None = None


class ReferrerCache:
    """Lists referrers in every upstream's repositories."""

    def __init__(
        self,
        repositories: Repositories,
        lists: ReferrerLists,
        graph: ManifestGraph,
        space: Space,
        clock: IReactorTime,
    ) -> None:
        self._space = space
        self._repositories = repositories
        self._lists = lists
        self._graph = graph
        self._clock = clock
        self._revalidator: Revalidator[ReferrerList] = Revalidator(clock)
        self._received = MonotonicTimes(clock)
        self._listed: OrderedDict[tuple[str, str, Digest], None] = OrderedDict()

    async def list(self, remote: RemoteRepository, subject: Digest) -> ReferrersAnswer:
        """
        All referrers known, by the table above.

        @raise UpstreamError: nothing is known and asking failed.
        @raise ReferrersUnknown: nothing is known, and the upstream may not be asked or does not answer us.
        """
        held, known = await self._at_hand(remote.upstream, remote.name, subject)
        if remote.offline:
            answer = _without_upstream(known, held)
            if answer is None:
                message = f"what refers to {remote}@{subject} was not heard while this appliance was online"
                raise ReferrersUnknown(message)
            return answer
        # To all that decides about freshness, C{referrers_fresh_for} is these lists' C{fresh_for}.
        settings = msgspec.structs.replace(remote.settings, fresh_for=remote.settings.referrers_fresh_for)
        now = self._clock.seconds()
        received_at = now if known is None else self._received_at(remote, subject, known)
        if known is not None and freshness.is_fresh(received_at, now, settings):
            return _answer(known, held, HIT)
        query = UpstreamQuery(replace(remote, settings=settings), str(subject), lambda: self._request(remote, subject))
        news: Fetched[ReferrerList] | Stale
        try:
            if known is None and not held:
                news = await self._revalidator.fetch(query)
            else:
                news = await self._revalidator.revalidate(query, received_at)
        except (Offline, UpstreamDenied) as error:
            # Both are 404s where what is there is requested; here that would mean "nothing".
            raise ReferrersUnknown(f"what refers to {remote}@{subject} is not known: {error}") from error
        if isinstance(news, Stale):
            warning = news.warning if known is not None else f"{ONLY_HELD}: {news.fault}"
            return _answer(known, held, news.status, warning)
        return _answer(news.value, held, news.status(cached=known is not None))

    async def known(self, upstream: str, name: str, subject: Digest) -> ReferrersAnswer | None:
        """What is listed without an upstream; C{None}: its list was never received and nothing is held."""
        held, known = await self._at_hand(upstream, name, subject)
        return _without_upstream(known, held)

    async def _at_hand(
        self, upstream: str, name: str, subject: Digest
    ) -> tuple[Sequence[ReferrerDescriptor], ReferrerList | None]:
        """What is held, and what its upstream listed last."""
        held = await self._graph.referrers(await self._repositories.get(upstream, name), subject)
        return held, await self._lists.get(upstream, name, subject)

    async def _request(self, remote: RemoteRepository, subject: Digest) -> ReferrerList:
        """
        Request the list and keep it: durable on return when something is on it, or the subject is held, and the disk
        takes it.

        @raise UpstreamInvalid: there is none. An upstream where nothing refers to the subject has an empty list.
        """
        try:
            said = await remote.registry.referrers(remote.name, subject)
        except UpstreamMissing as error:
            raise UpstreamInvalid(remote.upstream, f"no list of what refers to {subject}: {error.detail}") from error
        found: list[ReferrerDescriptor] = []
        for raw in said.descriptors:
            with suppress(ManifestInvalid):
                found.append(parse_descriptor(raw))
        referrers, cut = within_limits(distinct(found))
        received = ReferrerList(tuple(referrers), wall(self._clock), said.cut or cut)
        self._received_at(remote, subject, received)
        repository = await self._repositories.get(remote.upstream, remote.name)
        # For digests that a client makes up the list is empty, and that must not fill the disk.
        known = subject in repository.manifests or (remote.upstream, remote.name, subject) in self._listed
        with self._space.spared():
            await self._lists.save(remote.upstream, remote.name, subject, received, bool(referrers) or known)
        # Clients that show a tree request next what refers to these, held or not.
        for each in referrers:
            self._listed[remote.upstream, remote.name, each.digest] = None
        while len(self._listed) > _LISTED:
            self._listed.popitem(last=False)
        return received

    def _received_at(self, remote: RemoteRepository, subject: Digest, known: ReferrerList) -> float:
        """When the upstream said so, seconds of the clock; 0 when that is not known."""
        return self._received.seconds(remote.key(subject), known.received_at)


def _without_upstream(known: ReferrerList | None, held: Sequence[ReferrerDescriptor]) -> ReferrersAnswer | None:
    if known is None and not held:
        return None
    return _answer(known, held, HIT, NEVER_RECEIVED if known is None else None)


def _answer(
    known: ReferrerList | None, held: Sequence[ReferrerDescriptor], status: CacheStatus, warning: str | None = None
) -> ReferrersAnswer:
    """All together, as many as are kept for one subject."""
    upstreams = () if known is None else known.referrers
    referrers, cut = within_limits(distinct((*upstreams, *held)))
    warnings = [] if warning is None else [warning]
    if cut or (known is not None and known.cut):
        warnings.append(f"there may be more referrers than the {len(referrers)} that are listed")
    return ReferrersAnswer(referrers, status, "; ".join(warnings) or None)
