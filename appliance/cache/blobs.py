"""
Blobs: held ones from the store, cold ones from a flight, and only those the repository is known to have.

Storage is shared between repositories, what may be read through one is not: any user can write a manifest that names a
digest. What came through another repository is served under this one only after its own upstream was asked, once, and
said that it is there (compare CVE-2024-39897 and CVE-2026-35172). Where no upstream may be asked, a manifest that names
it is enough, unless there are rules of who may read what (L{RemoteRepository.borrows}).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache.access import RemoteRepository
from appliance.cache.bypass import BypassedRange, RangeBypass, SpanOf
from appliance.cache.flight import Flight
from appliance.cache.flights import Flights
from appliance.cache.freshness import NegativeCache
from appliance.cache.repair import Repair
from appliance.cache.space import Space
from appliance.cache.status import HIT, NO_SPACE, CacheStatus
from appliance.errors import NoSpace, NotHeld, Offline, UpstreamError, UpstreamMissing, UpstreamTimeout
from appliance.flow.body import Growth
from appliance.flow.singleflight import SingleFlight
from appliance.index.graph import ManifestGraph
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobReader, IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.reference import ReferenceKey


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


class Blobs:
    """Serves blobs of every upstream's repositories."""

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        graph: ManifestGraph,
        flights: Flights,
        repair: Repair,
        space: Space,
        clock: IReactorTime,
    ) -> None:
        self._space = space
        self._store = store
        self._repair = repair
        self._repositories = repositories
        self._graph = graph
        self._flights = flights
        self._missing = NegativeCache(clock)
        self._asking: SingleFlight[ReferenceKey, int] = SingleFlight()
        self._bypass = RangeBypass(clock, self._learn)

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
        if held is not None and named is not None and not await self._is_whole(digest, held, named.size):
            held = None
        if held is not None and named is not None and (named.linked or remote.borrows):
            return BlobSize(held, HIT)
        if remote.offline:
            raise _offline(remote, digest)
        self._missing.check(remote.key(digest))
        if held is None and named is not None and named.size is not None:
            return BlobSize(named.size, replace(HIT, detail="descriptor"))
        return BlobSize(await self._confirmed(remote, repository, digest), CacheStatus(fwd="uri-miss"))

    async def open(
        self, remote: RemoteRepository, digest: Digest, span_of: SpanOf | None = None
    ) -> BlobAnswer | BypassedRange:
        """
        The blob, or a flight that brings it; where the flight is far from what is wanted, just that beside it.

        @param span_of: what is wanted, by the blob's size; C{None} for all of it.
        @raise UpstreamError: it is not held and the upstream did not begin to send it.
        @raise Offline: it is not held and no upstream may be asked.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        size, status = repository.blobs.get(digest), HIT
        if size is None or self._flights.is_completing(digest):
            size, status = await self._named(remote, repository, digest)
        try:
            reader = self._store.open(digest)
        except NotHeld:
            if not remote.offline or await self._held(remote, digest, size) is None:
                return await self._board(remote, repository, digest, size, span_of)
            reader = self._store.open(digest)
        held = reader.size
        if size not in (None, held):
            reader.close()
            # Where it cannot be set aside it is fetched all the same.
            if not await self._is_whole(digest, held, size) and self._store.size(digest) in (None, held):
                return await self._board(remote, repository, digest, size, span_of)
            reader = self._store.open(digest)
            held = reader.size
        return BlobAnswer(held, status, reader)

    async def fetch(self, remote: RemoteRepository, digest: Digest, background: bool = False) -> None:
        """
        Have the blob in the store.

        Cancelling ends the waiting; the flight comes to its end.

        @param background: whether no client waits for it: it goes behind whatever a client waits for.
        @raise UpstreamError: it is not held, and the upstream did not send it whole.
        @raise Offline: it is not held and no upstream may be asked.
        @raise NoSpace: the disk does not take it.
        """
        repository = await self._repositories.get(remote.upstream, remote.name)
        size, _ = await self._named(remote, repository, digest)
        held = await self._held(remote, digest, size)
        if held is not None and await self._is_whole(digest, held, size):
            return
        flight, _ = self._flight(remote, digest, size, background)
        try:
            if not background:
                await flight.opened()
            if not flight.stored:
                raise _unstored(digest)
            await flight.landed()
        except UpstreamError as error:
            await self._failed(remote, flight, error)
            return await self.fetch(remote, digest, background)
        # Landed is not stored: the bytes are still being made a blob.
        await self._flights.ended(digest)
        if self._store.size(digest) is None:
            raise _unstored(digest)

    def suspect(self, digest: Digest) -> None:
        """It could not be read while it was sent: it is looked at, and fetched again when it is damaged."""
        self._repair.suspect(digest)

    def is_right(self, digest: Digest) -> Deferred[bool]:
        """As L{suspect}; fires with whether it is held and whole. Fails with L{OSError} when the disk does not say."""
        return self._repair.examine(digest, anew=True)

    # -- cold ones --------------------------------------------------------------------------------------------------

    async def _board(
        self,
        remote: RemoteRepository,
        repository: Repository,
        digest: Digest,
        size: int | None,
        span_of: SpanOf | None,
        again: int = 2,
    ) -> BlobAnswer | BypassedRange:
        def first_wanted() -> int:
            span = None if span_of is None or flight.size is None else span_of(flight.size)
            return 0 if span is None else span.start

        flight, joined = self._flight(remote, digest, size)
        if span_of is not None:
            # What keeps the range from being fetched on the side is no failure; that of the flight is raised below.
            with suppress(UpstreamError):
                bypassed = await self._bypass.open(remote, flight, span_of)
                if bypassed is not None:
                    return bypassed
        if flight.start > first_wanted():
            # An unstored one that has passed by: the next one is for all who come from now on.
            flight, joined = self._begin(remote, digest, flight.size), False
        try:
            await flight.opened()
        except UpstreamError as error:
            await self._failed(remote, flight, error)
            return await self.open(remote, digest, span_of)
        assert flight.size is not None
        if _flies_for(flight, remote) and repository.link(digest, flight.size):
            self._repositories.save_soon(repository)
        detail = None if flight.stored else NO_SPACE
        status = CacheStatus(fwd="uri-miss", stored=flight.stored and not joined, collapsed=joined, detail=detail)
        # When it has ended meanwhile, it has no readers any more.
        with suppress(NotHeld):
            return BlobAnswer(flight.size, status, self._store.open(digest))
        if flight.start > first_wanted() or self._flights.get(digest) is not flight:
            # It has passed by, unstored, while a range was asked for beside it.
            if not again:
                raise _unstored(digest)
            return await self._board(remote, repository, digest, flight.size, span_of, again - 1)
        return BlobAnswer(flight.size, status, flight.reader(first_wanted()), flight.growth)

    def _flight(
        self, remote: RemoteRepository, digest: Digest, size: int | None, background: bool = False
    ) -> tuple[Flight, bool]:
        """The flight of that digest, begun if there is none, and whether there was one."""
        if remote.offline:
            raise _offline(remote, digest)
        flight = self._flights.get(digest)
        if flight is not None:
            return flight, True
        self._missing.check(remote.key(digest))
        return self._begin(remote, digest, size, background), False

    def _begin(self, remote: RemoteRepository, digest: Digest, size: int | None, background: bool = False) -> Flight:
        segments = remote.settings.segments
        return self._flights.start(remote.registry, remote.name, digest, size, segments, background)

    async def _failed(self, remote: RemoteRepository, flight: Flight, error: UpstreamError) -> None:
        """Raises what the flight failed with; returns, when it is over, if our own upstream may do better."""
        if _flies_for(flight, remote):
            self._learn(remote, flight.digest, error)
            raise error
        await self._flights.ended(flight.digest)

    # -- what is known of one ---------------------------------------------------------------------------------------

    async def _named(
        self, remote: RemoteRepository, repository: Repository, digest: Digest
    ) -> tuple[int | None, CacheStatus]:
        """The size that the repository is known to have the blob with, C{None} where it is not known, and who said."""
        await self._settled(digest)
        alone = remote.offline and not remote.borrows
        if alone and self._store.size(digest) is None:
            # Whose it is, is noted with it.
            await self._flights.complete(digest)
        named = await self._graph.named(repository, digest)
        is_doubtful = alone or (not remote.offline and self._is_elsewhere(remote, digest))
        if named is not None and not named.linked and is_doubtful:
            named = await self._graph.named(repository, digest, thorough=True)
            if named is not None and not named.linked:
                named = None
        if named is not None:
            return named.size, HIT
        if not alone and not self._is_elsewhere(remote, digest):
            return None, HIT
        # Another repository has it; whether this one does is its upstream's to say.
        if remote.offline:
            raise _offline(remote, digest)
        return await self._confirmed(remote, repository, digest), CacheStatus(fwd="uri-miss")

    def _is_elsewhere(self, remote: RemoteRepository, digest: Digest) -> bool:
        """Whether the blob is here, or on its way, without this repository's upstream having been asked for it now."""
        flight = self._flights.get(digest)
        return self._store.size(digest) is not None if flight is None else not _flies_for(flight, remote)

    async def _settled(self, digest: Digest) -> None:
        """Wait for what an earlier process left whole and is being made a blob: whose it is, is noted then."""
        if self._flights.is_completing(digest):
            await self._flights.complete(digest)

    async def _held(self, remote: RemoteRepository, digest: Digest, size: int | None) -> int | None:
        """The size of the blob when it is held; what an earlier process left whole becomes one first."""
        held = self._store.size(digest)
        # While the upstream may be asked, a flight finds out as well.
        if held is None and remote.offline:
            await self._flights.complete(digest, size)
            held = self._store.size(digest)
        return held

    async def _is_whole(self, digest: Digest, held: int, named: int | None) -> bool:
        """Whether a blob of C{held} bytes is whole; it is hashed only where it is named with another size."""
        return named in (None, held) or await self._repair.examine(digest)

    def _confirmed(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> Deferred[int]:
        """As L{_confirm}, once for all who want to know meanwhile."""
        return self._asking.run(remote.key(digest), partial(self._confirm, remote, repository, digest))

    async def _confirm(self, remote: RemoteRepository, repository: Repository, digest: Digest) -> int:
        """
        Ask the upstream whether the repository has the blob; its size, and a note that it does, durable on return.

        @raise UpstreamMissing: it does not.
        """
        self._missing.check(remote.key(digest))
        try:
            said = await remote.registry.blob_size(remote.name, digest)
        except UpstreamMissing as error:
            self._learn(remote, digest, error)
            raise
        held, flight = self._store.size(digest), self._flights.get(digest)
        if held is None and said is None and flight is not None:
            said = flight.size
        size = held if held is not None else said
        if size is None:
            raise UpstreamTimeout(remote.upstream, f"{digest}: its size is not told")
        if held is not None and said is not None and not await self._is_whole(digest, held, said):
            held, size = None, said
        if said is not None and said != size:
            raise UpstreamMissing(remote.upstream, f"{digest}: {said} bytes there, {size} here")
        try:
            if repository.link(digest, size):
                with self._space.spared():
                    await self._repositories.save(repository)
        except OSError as error:
            # It is known now, and asked again after a restart.
            self._log.warn("{digest} was not noted: {error}", digest=digest, error=error)
        return size

    def _learn(self, remote: RemoteRepository, digest: Digest, error: UpstreamError) -> None:
        """Remember a 404 for a while; other failures say nothing of what is there."""
        if isinstance(error, UpstreamMissing):
            self._missing.put(remote.key(digest), error, remote.settings.missing_for)


def _flies_for(flight: Flight, remote: RemoteRepository) -> bool:
    """Whether the flight asks what this repository's upstream would be asked."""
    return (flight.registry.name, flight.repository) == (remote.upstream, remote.name)


def _unstored(digest: Digest) -> NoSpace:
    return NoSpace(f"{digest} is not stored: the disk has no room for it; free some, or give retention a limit")


def _offline(remote: RemoteRepository, digest: Digest) -> Offline:
    return Offline(f"{digest} is not held for {remote}, and this appliance is offline")
