"""
Blobs: held ones from the store, cold ones from a flight, and only those the repository is known to have.

Storage is shared between repositories, what may be read through one is not: anybody can write a manifest that names a
digest. What came through another repository is served under this one only after its own upstream was asked, once, and
said that it is there (compare CVE-2024-39897 and CVE-2026-35172). Where no upstream may be asked, a manifest that names
it is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache.access import RemoteRepository
from appliance.cache.distance import NEAR, ROUND_TRIP, is_far, patience
from appliance.cache.flight import Flight
from appliance.cache.flights import Flights, link
from appliance.cache.freshness import NegativeCache
from appliance.cache.status import HIT, CacheStatus
from appliance.errors import Offline, UpstreamError, UpstreamMissing, UpstreamTimeout
from appliance.flow.body import Growth
from appliance.flow.singleflight import SingleFlight
from appliance.index.graph import ManifestGraph
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobReader, IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.ranges import Span
from appliance.oci.reference import ReferenceKey
from appliance.upstream.interfaces import IBlobResponse

SIDE_BY_SIDE = 4
"""Ranges of one blob that are fetched on the side at the same time; others wait for their turn, or for the flight."""

SpanOf = Callable[[int], Span | None]
"""The one range that is wanted of a blob of that many bytes; C{None}: another number of ranges, or none."""


def whole(size: int) -> None:
    """No range is wanted."""


@dataclass(frozen=True)
class BlobSize:
    """What HEAD needs."""

    size: int
    status: CacheStatus


@dataclass(frozen=True)
class BlobAnswer:
    """
    A blob to serve; L{close} it.

    @ivar reader: its bytes.
    @ivar growth: how many of them may be read while they come with a flight, C{None} when all are held.
    """

    size: int
    status: CacheStatus
    reader: IBlobReader
    growth: Growth | None = None

    def close(self) -> None:
        """The bytes are wanted no more."""
        self.reader.close()


class SideRange:
    """
    The upstream's answer to one range of a blob that is under way; L{close} it.

    @ivar size: bytes of the whole blob.
    @ivar response: just that range, once it is granted.
    """

    response: IBlobResponse

    def __init__(self, size: int, span: Span, over: Callable[[], None]) -> None:
        self.size = size
        self.span = span
        self._over = over

    def is_range(self) -> bool:
        """Whether the answer is just the range that was asked for (RFC 9110 lets a server send less, or the whole)."""
        return bool(self.response.start == self.span.start and self.response.stop in (None, self.span.stop))

    def close(self) -> None:
        """Nothing more is wanted; the connection is dropped where the range has not come whole."""
        if hasattr(self, "response"):
            self.response.abandon()
        self._over()


class Blobs:
    """Serves blobs of every upstream's repositories."""

    _log = Logger()

    def __init__(
        self, store: IBlobStore, repositories: Repositories, graph: ManifestGraph, flights: Flights, clock: IReactorTime
    ) -> None:
        self._store = store
        self._repositories = repositories
        self._graph = graph
        self._flights = flights
        self._clock = clock
        self._missing = NegativeCache(clock)
        self._asking: SingleFlight[ReferenceKey, int] = SingleFlight()
        self._sides: dict[Digest, DeferredSemaphore] = {}

    async def head(self, remote: RemoteRepository, digest: Digest) -> BlobSize:
        """
        The blob's size. A cold blob's is taken from the manifests that name it, and no upstream is asked unless they
        contradict each other.

        @raise UpstreamError: nothing here knows it and asking failed.
        @raise Offline: it is not held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        await self._settled(digest)
        held = self._store.size(digest)
        named = await self._graph.named(repository, digest, thorough=held is None)
        if held is None and named is not None:
            held = await self._held(remote, digest, named.size)
        if held is not None and named is not None and not named.linked:
            named = await self._graph.named(repository, digest, thorough=True)
        if held is not None and named is not None and (named.linked or remote.offline):
            return BlobSize(held, HIT)
        if remote.offline:
            raise _offline(remote, digest)
        self._missing.check(remote.key(digest))
        if held is None and named is not None and named.size is not None:
            return BlobSize(named.size, replace(HIT, detail="descriptor"))
        return BlobSize(await self._confirm(remote, repository, digest), CacheStatus(fwd="uri-miss"))

    async def open(self, remote: RemoteRepository, digest: Digest, span_of: SpanOf = whole) -> BlobAnswer | SideRange:
        """
        The blob, or a flight that brings it; where the flight is far from what is wanted, just that beside it.

        @param span_of: what is wanted, by the blob's size.
        @raise UpstreamError: it is not held and the upstream did not begin to send it.
        @raise Offline: it is not held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        named, status = await self._named(remote, repository, digest)
        held = await self._held(remote, digest, named)
        if held is not None:
            return BlobAnswer(held, status, self._store.open(digest))
        return await self._board(remote, repository, digest, named, span_of)

    async def fetch(self, remote: RemoteRepository, digest: Digest, background: bool = False) -> None:
        """
        Have the blob in the store.

        Cancelling ends the waiting; the flight comes to its end.

        @param background: whether nobody waits for it: it goes behind whatever somebody waits for.
        @raise UpstreamError: it is not held, and the upstream did not send it whole.
        @raise Offline: it is not held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        named, _ = await self._named(remote, repository, digest)
        if await self._held(remote, digest, named) is not None:
            return
        flight, _ = self._flight(remote, repository, digest, named, background)
        try:
            if not background:
                await flight.opened()
            await flight.landed()
        except UpstreamError as error:
            await self._fault(remote, repository, flight, error)
            return await self.fetch(remote, digest, background)
        # Landed is not stored: the bytes are still being made a blob.
        await self._flights.ended(digest)

    async def _aside(
        self, remote: RemoteRepository, repository: Repository, flight: Flight, span_of: SpanOf
    ) -> SideRange | None:
        """
        For a range far ahead of what has come: the upstream's answer to just that range, not cached, since a part
        cannot be verified. C{None} when it is near enough, or not granted: then it comes with the flight.

        @raise UpstreamError: the flight was not opened, or the range could not be asked for.
        """
        if flight.size is None:
            await flight.opened()
        size, span = flight.size, None if flight.size is None else span_of(flight.size)
        if size is None or span is None or flight.whole_only or span.start - flight.growth.available <= NEAR:
            return None
        wait = patience(span.length)
        # What a small range may lose by waiting is more than it costs to ask.
        growth = flight.growth
        if not is_far(span.start, growth.available, flight.rate(), wait) or (not flight.rate() and wait > ROUND_TRIP):
            await flight.opened()
            await self._reach(flight.growth, span.start, wait)
        slots = self._sides.setdefault(flight.digest, DeferredSemaphore(SIDE_BY_SIDE))
        await slots.acquire()
        side = SideRange(size, span, partial(self._side_over, flight.digest, slots))
        try:
            if is_far(span.start, flight.growth.available, flight.rate(), wait):
                side.response = await remote.registry.blob(repository.name, flight.digest, span.start, span.stop)
                flight.whole_only = not side.is_range()
                if not flight.whole_only and side.response.size in (None, size):
                    return side
        except BaseException as error:
            side.close()
            if isinstance(error, UpstreamError):
                self._learn(remote, repository, flight.digest, error)
            raise
        side.close()
        return None

    def _side_over(self, digest: Digest, slots: DeferredSemaphore) -> None:
        # Not further down the stack: who waits may find that the flight has come near, and be over at once as well.
        self._clock.callLater(0, self._next_side, digest, slots)

    def _next_side(self, digest: Digest, slots: DeferredSemaphore) -> None:
        slots.release()
        if slots.tokens == SIDE_BY_SIDE:
            self._sides.pop(digest, None)

    async def _reach(self, growth: Growth, position: int, seconds: float) -> None:
        """Wait a little for the flight to come near C{position}."""
        until = self._clock.seconds() + seconds
        while growth.failure is None and position - growth.available > NEAR:
            try:
                await growth.changed().addTimeout(max(0.0, until - self._clock.seconds()), self._clock)
            except DeferredTimeout:
                return

    async def _board(
        self, remote: RemoteRepository, repository: Repository, digest: Digest, size: int | None, span_of: SpanOf
    ) -> BlobAnswer | SideRange:
        flight, joined = self._flight(remote, repository, digest, size)
        if span_of is not whole:
            # What keeps the range from being fetched on the side is no failure; that of the flight is told below.
            with suppress(UpstreamError):
                side = await self._aside(remote, repository, flight, span_of)
                if side is not None:
                    return side
        try:
            await flight.opened()
        except UpstreamError as error:
            await self._fault(remote, repository, flight, error)
            return await self.open(remote, digest, span_of)
        if _flies_for(flight, remote, repository):
            self._note(repository, digest, flight)
        assert flight.size is not None
        status = CacheStatus(fwd="uri-miss", stored=not joined, collapsed=joined)
        if self._store.size(digest) is not None:
            # It has ended meanwhile, and closed its file.
            return BlobAnswer(flight.size, status, self._store.open(digest))
        return BlobAnswer(flight.size, status, flight.reader(), flight.growth)

    def _flight(
        self,
        remote: RemoteRepository,
        repository: Repository,
        digest: Digest,
        size: int | None,
        background: bool = False,
    ) -> tuple[Flight, bool]:
        """The flight of that digest, begun if there is none, and whether there was one."""
        if remote.offline:
            raise _offline(remote, digest)
        flight = self._flights.get(digest)
        if flight is not None:
            return flight, True
        self._missing.check(remote.key(digest))
        segments = remote.settings.segments
        return self._flights.start(remote.registry, repository.name, digest, size, segments, background), False

    async def _held(self, remote: RemoteRepository, digest: Digest, named: int | None) -> int | None:
        """The size of the blob when it is held; what an earlier process left whole becomes one first."""
        held = self._store.size(digest)
        # While the upstream may be asked, a flight finds out as well.
        if held is None and remote.offline:
            await self._flights.complete(digest, named)
            held = self._store.size(digest)
        return held

    async def _settled(self, digest: Digest) -> None:
        """Wait for what an earlier process left whole and is being made a blob: whose it is, is noted then."""
        if self._flights.is_completing(digest):
            await self._flights.complete(digest)

    async def _fault(
        self, remote: RemoteRepository, repository: Repository, flight: Flight, error: UpstreamError
    ) -> None:
        """Raises what the flight failed with; returns, when it is over, if our own upstream may do better."""
        if _flies_for(flight, remote, repository):
            self._learn(remote, repository, flight.digest, error)
            raise error
        await self._flights.ended(flight.digest)

    async def _named(
        self, remote: RemoteRepository, repository: Repository, digest: Digest
    ) -> tuple[int | None, CacheStatus]:
        """The size that the repository is known to have the blob with, C{None} where it is not known, and who said."""
        await self._settled(digest)
        named = await self._graph.named(repository, digest)
        if (
            named is not None
            and not named.linked
            and not remote.offline
            and self._is_elsewhere(remote, repository, digest)
        ):
            named = await self._graph.named(repository, digest, thorough=True)
            if named is not None and not named.linked:
                named = None
        if named is not None:
            return named.size, HIT
        if not self._is_elsewhere(remote, repository, digest):
            return None, HIT
        # Another repository has it; whether this one does is its upstream's to say.
        if remote.offline:
            raise _offline(remote, digest)
        return await self._confirm(remote, repository, digest), CacheStatus(fwd="uri-miss")

    def _is_elsewhere(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> bool:
        """Whether the blob is here, or on its way, without this repository's upstream having been asked for it now."""
        flight = self._flights.get(digest)
        if flight is None:
            return self._store.size(digest) is not None
        return not _flies_for(flight, remote, repository)

    def _confirm(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> Deferred[int]:
        """As L{_ask}, once for all who want to know meanwhile."""
        asking = partial(self._ask, remote, repository, digest)
        return self._asking.run(remote.key(digest), asking)

    async def _ask(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> int:
        """
        Ask the upstream whether the repository has the blob; its size, and a note that it does, durable on return.

        @raise UpstreamMissing: it does not.
        """
        self._missing.check(remote.key(digest))
        try:
            said = await remote.registry.blob_size(repository.name, digest)
        except UpstreamMissing as error:
            self._learn(remote, repository, digest, error)
            raise
        held, flight = self._store.size(digest), self._flights.get(digest)
        if held is None and said is None and flight is not None:
            said = flight.size
        if held is None and said is None:
            raise UpstreamTimeout(remote.upstream, f"{digest}: its size is not told")
        size = held if held is not None else said
        assert size is not None
        if said is not None and said != size:
            raise UpstreamMissing(remote.upstream, f"{digest}: {said} bytes there, {size} here")
        try:
            if repository.blobs.get(digest) != size:
                repository.blobs[digest] = size
                await self._repositories.save(repository)
        except OSError as error:
            # It is known now, and asked again after a restart.
            self._log.warn("{digest} was not noted: {error}", digest=digest, error=error)
        return size

    def _learn(self, remote: RemoteRepository, repository: Repository, digest: Digest, error: UpstreamError) -> None:
        """Remember a 404 for a while; other failures say nothing of what is there."""
        if isinstance(error, UpstreamMissing):
            self._missing.put(remote.key(digest), error, remote.settings.missing_for)

    def _note(self, repository: Repository, digest: Digest, flight: Flight) -> None:
        assert flight.size is not None
        link(self._repositories, repository, digest, flight.size)


def _flies_for(flight: Flight, remote: RemoteRepository, repository: Repository) -> bool:
    """Whether the flight asks what this repository's upstream would be asked."""
    return (flight.registry.name, flight.repository) == (remote.upstream, repository.name)


def _offline(remote: RemoteRepository, digest: Digest) -> Offline:
    return Offline(f"{digest} is not held for {remote}, and this appliance is offline")
