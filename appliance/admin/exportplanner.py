"""
From what an order asks for to a planned export, with what is lacking fetched first where that is wanted.

The inventory and the wants in an order come from another site, and maybe from another version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.logger import Logger

from appliance.api import ExportOrder, ExportProgress, WantList
from appliance.bundle.closure import INDEX, MANIFEST
from appliance.bundle.contents import Base
from appliance.bundle.export import Export, Omitted
from appliance.bundle.exporter import Exporter
from appliance.bundle.names import Names
from appliance.bundle.selection import Selection, WantedReference, parse_pattern
from appliance.cache.flights import Flights
from appliance.cache.pullthrough import PullThrough
from appliance.errors import BundleError, DigestInvalid, PullcacheError
from appliance.oci.digest import Digest
from appliance.oci.reference import DEFAULT_TAG, Reference, full_name, parse_identifier, parse_repository

ROUNDS = 6
"""An index leads to manifests and these to blobs; each round goes one step down. Nested indexes are rare."""

MAX_WANTS = 10_000
"""The most wants of one export: as many as an appliance writes down."""

AT_ONCE = 4
"""Objects fetched at the same time, for all exports together: clients' own pulls are not to wait for these."""

# -- what an order means --------------------------------------------------------------------------------------------


def selection_of(order: ExportOrder, now: float) -> Selection:
    """
    What C{order} means.

    @param now: seconds since the epoch.
    @raise BundleError: what it says of the other side makes no sense.
    """
    return Selection(
        refs=tuple(order.refs),
        all=order.all,
        since=None if order.since is None else now - order.since,
        platforms=frozenset(order.platforms),
        partial=order.partial,
        referrers=order.referrers,
        have=_have(order),
        base=_base(order),
        want=() if order.want is None else _wanted(order.want),
        title=order.title,
        labels=order.labels,
        volume_size=order.volume_size,
    )


def _have(order: ExportOrder) -> frozenset[Digest]:
    if order.have is not None and order.base:
        raise BundleError("an inventory is exact, and earlier bundles are a guess: give have or base, not both")
    texts = [text for bundle in order.base for text in bundle.blobs]
    if order.have is not None:
        texts += [*order.have.manifests, *(blob.digest for blob in order.have.blobs)]
    try:
        return frozenset(map(Digest.parse, texts))
    except DigestInvalid as error:
        raise BundleError(f"what the other side is said to have cannot be read: {error}") from error


def _base(order: ExportOrder) -> Base | None:
    if order.base:
        return Base(source="bundles", ids=tuple(bundle.id for bundle in order.base))
    if order.have is None:
        return None
    return Base(
        source="inventory",
        site=order.have.site or None,
        inventory=str(Digest.of(msgspec.json.encode(order.have))),
        taken=order.have.taken or None,
    )


def _wanted(wants: WantList) -> tuple[WantedReference, ...]:
    if len(wants.wants) > MAX_WANTS:
        raise BundleError(f"{len(wants.wants)} wants are too many for one export: {MAX_WANTS} are allowed; split them")
    try:
        for want in wants.wants:
            parse_repository(want.repository)
            parse_identifier(want.reference)
    except PullcacheError as error:
        raise BundleError(f"the wants name what cannot be wanted: {error}") from error
    return tuple(WantedReference(each.upstream, each.repository, each.reference, each.platform) for each in wants.wants)


# -- planning -------------------------------------------------------------------------------------------------------


class ExportPlanner:
    """Plans exports of one appliance."""

    def __init__(self, exporter: Exporter, completion: Completion, flights: Flights, names: Names) -> None:
        self._exporter = exporter
        self._completion = completion
        self._flights = flights
        self._names = names

    async def plan(
        self, selection: Selection, complete: bool, progress: Callable[[ExportProgress], None] = lambda _: None
    ) -> tuple[Export, list[str]]:
        """
        The export, and in words what could not be fetched for it.

        What the other side wants and is not held is pulled through first, as a client would; cancelling ends that.

        @param complete: whether everything that is lacking is.
        @raise BundleError: see L{Exporter.plan}.
        @raise NameInvalid: see L{Names.behind}.
        """
        selection = replace(
            selection,
            refs=tuple(map(self._names.behind, selection.refs)),
            want=tuple(
                replace(want, upstream=self._names.upstream_for(want.upstream) or want.upstream)
                for want in selection.want
            ),
        )
        # A client that has its image whole may be a moment ahead of the disk.
        await self._flights.committed()
        if not (complete or selection.want):
            return await self._exporter.plan(selection), []
        fetching = replace(selection, volume_size=None)
        if not complete:
            fetching = replace(fetching, refs=(), all=False, since=None)
        fetched = _Fetched(progress)
        for _ in range(ROUNDS):
            export = await self._exporter.plan(fetching)
            if not await self._fetch((*export.left_out, *export.partial), fetched):
                break
        return await self._exporter.plan(selection), list(fetched.troubles)

    async def _fetch(self, omitted: tuple[Omitted, ...], fetched: _Fetched) -> bool:
        """Fetch what was not asked for yet; whether there was anything."""
        asked = False
        for each in omitted:
            name = self._name(each)
            if name is None:
                continue
            where = (name.upstream, name.repository)
            documents: list[str | Digest] = [blob.digest for blob in each.missing if blob.kind in (INDEX, MANIFEST)]
            if not each.missing:
                # Nothing of it is held.
                documents = [name.digest or name.tag or DEFAULT_TAG]
            manifests = [what for what in documents if fetched.begins(*where, what)]
            others = [blob.digest for blob in each.missing if blob.kind not in (INDEX, MANIFEST)]
            blobs = [digest for digest in others if fetched.begins(*where, digest, is_blob=True)]
            if not manifests and not blobs:
                continue
            asked = True
            sizes: dict[str | Digest, int] = {blob.digest: blob.size for blob in each.missing}
            fetched.expect(each.ref, sum(sizes.get(what, 0) for what in (*manifests, *blobs)))
            ended = partial(fetched.ended, each.ref, sizes)
            fetched.troubles.update(dict.fromkeys(await self._completion.fetch(*where, manifests, blobs, ended)))
        return asked

    def _name(self, omitted: Omitted) -> Reference | None:
        """What is left out; C{None} for a pattern, which means nothing until something is held."""
        if omitted.missing:
            return Reference.parse(omitted.ref)
        try:
            pattern = parse_pattern(omitted.ref, self._names.upstream_for)
            tag = f":{pattern.tag}" if pattern.tag else ""
            return Reference.parse(f"{pattern.place}{tag}{f'@{pattern.digest}' if pattern.digest else ''}")
        except PullcacheError:
            # Wild cards are in no name.
            return None


class _Fetched:
    """
    What was fetched for one export: each object is asked for once.

    @ivar troubles: why some could not be.
    """

    def __init__(self, progress: Callable[[ExportProgress], None]) -> None:
        self._progress = progress
        self._begun: set[tuple[str, str, str | Digest, bool]] = set()
        self._done = 0
        self._total = 0
        self.troubles: dict[str, None] = {}

    def begins(self, upstream: str, repository: str, what: str | Digest, is_blob: bool = False) -> bool:
        """Whether it was not asked for before, as what it is: a wanted digest is asked for as a manifest's first."""
        key = (upstream, repository, what, is_blob)
        is_new = key not in self._begun
        self._begun.add(key)
        return is_new

    def expect(self, ref: str, octets: int) -> None:
        """So many bytes more are to be fetched."""
        self._total += octets
        self._progress(ExportProgress(done=self._done, total=self._total, entry=ref))

    def ended(self, ref: str, sizes: Mapping[str | Digest, int], what: str | Digest) -> None:
        """One object is held, or cannot be."""
        self._done += sizes.get(what, 0)
        self._progress(ExportProgress(done=self._done, total=self._total, entry=ref))


class Completion:
    """Fetches what exports lack, through the cache and so once."""

    _log = Logger()

    def __init__(self, cache: PullThrough) -> None:
        self._cache = cache
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
        @param ended: called with each of them when it is held, or cannot be.
        @return: why some of them are not, in words.
        """

        def run(what: str | Digest, is_blob: bool) -> Deferred[str]:
            fetch = partial(self._fetch, upstream, repository, what, is_blob, ended)
            return self._places.run(lambda: Deferred.fromCoroutine(fetch()))

        work = [*(run(each, False) for each in manifests), *(run(each, True) for each in blobs)]
        # Backwards, because that is how they are cancelled: else each place that is freed would go to the next in line.
        try:
            reasons = await gatherResults(work[::-1], consumeErrors=True)
        except FirstError as error:
            # Failures of upstream or disk are among the reasons: this is a cancellation, or a mistake of ours.
            error.subFailure.raiseException()
        return [reason for reason in reversed(reasons) if reason]

    async def _fetch(
        self, upstream: str, repository: str, what: str | Digest, is_blob: bool, ended: Callable[[str | Digest], None]
    ) -> str:
        """Why it is not held now, nothing when it is."""
        reason = ""
        try:
            remote = self._cache.access.open(upstream, repository)
            if is_blob and isinstance(what, Digest):
                await self._cache.fetch_blob(remote, what, wanted=False)
            else:
                await self._cache.manifest(remote, what, wanted=False)
        except (PullcacheError, OSError) as error:
            self._log.warn(
                "{upstream}/{repository}: {what} was not fetched: {error}",
                upstream=upstream,
                repository=repository,
                what=str(what),
                error=error,
            )
            reason = f"{full_name(upstream, repository, what)}: {error}"
        ended(what)
        return reason
