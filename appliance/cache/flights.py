"""All flights of this process, at most one for a digest, and what an earlier process left of its own."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.access import Access, RemoteRepository
from appliance.cache.flight import Flight, State
from appliance.cache.space import Space
from appliance.errors import NoSpace, Offline, PullcacheError
from appliance.flow.disk import is_refusal
from appliance.flow.singleflight import ended
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, Unfinished
from appliance.oci.digest import Digest
from appliance.upstream.interfaces import IUpstream

RESUMED_AT_ONCE = 4
"""Blobs that a restart found cut and that are taken up again, or hashed, at the same time."""

UNFINISHED_KEPT = 7 * 24 * 3600.0
"""Seconds since its last byte for which a beginning is kept that no upstream here can go on with: an import may."""


class Flights:
    """The flights under way, by digest."""

    _log = Logger()

    def __init__(self, store: IBlobStore, clock: IReactorTime, repositories: Repositories, space: Space) -> None:
        """
        @param repositories: where each blob is noted as that of the repository it was fetched for.
        """
        self._space = space
        space.coming = lambda: sum(flight.missing for flight, _ in self._all())
        self._repositories = repositories
        self._store = store
        self._clock = clock
        self._under_way: dict[Digest, tuple[Flight, Deferred[None]]] = {}
        # Unstored ones whose first bytes are gone: they go on for their readers, and others began anew.
        self._overtaken: dict[Flight, Deferred[None]] = {}
        self._completing: dict[Digest, Deferred[None]] = {}
        self._not_whole: dict[Digest, Unfinished] = {}
        self._access = Access({})
        self._stopped = False

    def __len__(self) -> int:
        return len(self._under_way) + len(self._overtaken)

    @property
    def awaited(self) -> bool:
        """Whether a blob is being fetched that a client waits for."""
        return any(not flight.background for flight, _ in self._all())

    def _all(self) -> Iterator[tuple[Flight, Deferred[None]]]:
        yield from self._under_way.values()
        yield from self._overtaken.items()

    def get(self, digest: Digest) -> Flight | None:
        """The flight of that digest, when there is one."""
        found = self._under_way.get(digest)
        return None if found is None else found[0]

    def start(
        self,
        registry: IUpstream,
        repository: str,
        digest: Digest,
        size: int | None,
        segments: int = 1,
        background: bool = False,
    ) -> Flight:
        """
        Begin a flight; there must be none of that digest whose first byte can still be had. It goes on whether it is
        read or not, unless it is unstored.

        @param size: bytes of the blob, C{None} while that is not known.
        @param segments: how many ranges of a large blob are fetched at once.
        @param background: whether no client waits for it yet; see L{Flight.opened}.
        """
        before = self._under_way.get(digest)
        if before is not None:
            if not before[0].start:
                raise ValueError(f"{digest} is under way already")
            self._overtaken[before[0]] = before[1]
        space = self._space
        flight = Flight(registry, repository, digest, size, self._store, self._clock, space, segments, background)
        # Up to the repository's note, which may come after the last byte.
        lease = self._store.leases.take((digest,))
        landing = Deferred.fromCoroutine(flight.fly())
        self._under_way[digest] = (flight, landing)
        noted = flight.landed().addCallbacks(
            lambda _: self._link(registry.name, repository, digest, flight.size), lambda _: None
        )
        over = DeferredList([ended(landing), noted])
        landing.addBoth(self._ended, flight)
        over.addCallback(lambda _: lease.close())
        return flight

    # -- what an earlier process left -------------------------------------------------------------------------------

    async def resume(self, access: Access) -> None:
        """
        Take up what a stop or a crash cut, a few at a time. What is whole becomes a blob, and no upstream is asked;
        the bytes of what cannot be resumed now are not read, and wait for who can.

        @param access: what may be fetched, up to the next L{configure}.
        """
        self._access = access
        waiting = self._store.unfinished()

        async def work() -> None:
            while waiting and not self._stopped:
                await self._resume(waiting.pop())

        await DeferredList([Deferred.fromCoroutine(work()) for _ in range(RESUMED_AT_ONCE)])

    async def _resume(self, digest: Digest) -> None:
        if await self.complete(digest):
            return
        left = await self._inspect(digest)
        remote = None if left is None else _remote_of(left, self._access)
        # A reader may have taken it up meanwhile.
        if self._stopped or left is None or left.origin is None or remote is None or remote.offline:
            return
        if digest in self._under_way:
            return
        origin, segments = left.origin, remote.settings.segments
        flight = self.start(remote.registry, origin.repository, digest, origin.size, segments, background=True)
        try:
            await flight.landed()
        except (PullcacheError, OSError):
            return

    def is_completing(self, digest: Digest) -> bool:
        """Whether L{complete} is at work on that blob."""
        return digest in self._completing

    async def complete(self, digest: Digest, size: int | None = None) -> bool:
        """
        Make a blob of what an earlier process left, where that is all of it. No upstream is asked.

        @param size: bytes of the whole; C{None}: as many as were noted when it came.
        @return: whether the blob is held now.
        """
        if digest not in self._completing and digest not in self._under_way:
            completing = self._completing[digest] = Deferred.fromCoroutine(self._complete(digest, size))
            completing.addBoth(self._completed, digest)
        if digest in self._completing:
            await ended(self._completing[digest])
        return self._store.size(digest) is not None

    async def _complete(self, digest: Digest, size: int | None) -> None:
        left = await self._store.inspect(digest)
        if left is None or left == self._not_whole.get(digest):
            return
        if size is None and left.origin is not None:
            size = left.origin.size
        if size is None or left.size < size:
            return
        lease = self._store.leases.take((digest,))
        ingest = await self._store.ingest(digest)
        try:
            if ingest.verify():
                await ingest.commit()
                if left.origin is not None and left.origin.upstream is not None:
                    await self._link(left.origin.upstream, left.origin.repository, digest, size)
                self._log.info("{digest} was received whole by an earlier process; it is held now", digest=digest)
            else:
                # Damaged by a power cut, or longer than was noted: who goes on with it finds out.
                self._not_whole[digest] = left
        finally:
            ingest.close()
            lease.close()

    async def sweep(self, access: Access, now: float) -> None:
        """
        Throw away what no upstream can go on with and what was last written L{UNFINISHED_KEPT} ago: no such upstream is
        configured, or it is not known where the bytes came from. What an upstream has that is offline is kept.

        @param now: seconds since the epoch. What was written in the future is kept.
        """
        for digest in self._store.unfinished():
            left = await self._inspect(digest)
            if left is None or now - left.written < UNFINISHED_KEPT or _remote_of(left, access) is not None:
                continue
            if self._stopped or digest in self._under_way or await self.complete(digest):
                continue
            try:
                is_gone = await self._store.forget(digest)
            except OSError as error:
                self._log.warn("{digest} is of no use and cannot be removed: {error}", digest=digest, error=error)
                continue
            if is_gone:
                self._log.info(
                    "{digest}: {size} bytes of it were thrown away: they were not continued for {days:.0f} days,"
                    " and no configured upstream can continue them; where they came from: {origin}",
                    digest=digest,
                    size=left.size,
                    days=(now - left.written) / (24 * 3600),
                    origin="it is not known" if left.origin is None else left.origin.upstream or "an archive",
                )

    async def _inspect(self, digest: Digest) -> Unfinished | None:
        try:
            left: Unfinished | None = await self._store.inspect(digest)
        except OSError as error:
            self._log.warn("{digest} was not taken up again: {error}", digest=digest, error=error)
            return None
        return left

    def _completed(self, result: None | Failure, digest: Digest) -> None:
        del self._completing[digest]
        if isinstance(result, Failure) and result.check(PullcacheError, OSError):
            self._log.warn("{digest} did not become a blob: {error}", digest=digest, error=result.value)
        elif isinstance(result, Failure) and not result.check(CancelledError):
            self._log.failure("{digest} did not become a blob", result, digest=digest)

    # -- ends -------------------------------------------------------------------------------------------------------

    def configure(self, access: Access) -> None:
        """
        What may be fetched has changed. Flights from upstreams that are gone or offline, and from repositories that may
        not be read any more, end, and so do their readers; what came is kept. The rest ask what they still have to ask
        of these.
        """
        self._access = access
        for flight, landing in list(self._all()):
            name, repository = flight.registry.name, flight.repository
            remote = access.permitted(name, repository)
            if remote is not None and not remote.offline:
                flight.registry = remote.registry
            elif flight.state is not State.LANDED:
                flight.ending = Offline(f"{flight.digest} is fetched no more: {name}/{repository} may not be asked now")
                self._log.info("{reason}; what came of it is kept", reason=flight.ending)
                landing.cancel()

    def stop(self) -> Deferred[None]:
        """Cut every flight, keeping what came, and begin no other; fires when their files are closed."""
        self._stopped = True
        works = [*(landing for _, landing in self._all()), *self._completing.values()]
        ends = [ended(work) for work in works]
        for work in works:
            work.cancel()
        return DeferredList(ends).addCallback(lambda _: None)

    def committed(self) -> Deferred[None]:
        """Fires when the blobs that clients have got whole by now are in the store, or could not be kept."""
        landed = [digest for digest, (flight, _) in self._under_way.items() if flight.state is State.LANDED]
        return DeferredList([self.ended(digest) for digest in (*landed, *self._completing)]).addCallback(lambda _: None)

    def ended(self, digest: Digest) -> Deferred[None]:
        """Fires when the flight of that digest is over and its file closed, at once when there is none."""
        if digest in self._under_way:
            return ended(self._under_way[digest][1])
        return ended(self._completing[digest]) if digest in self._completing else succeed(None)

    def _link(self, upstream: str, name: str, digest: Digest, size: int | None) -> Deferred[None]:
        """Note that the blob is the repository's: its upstream gave it there. Fires when it is, or cannot be."""
        if size is None:
            return succeed(None)

        def note(repository: Repository) -> None:
            if repository.link(digest, size):
                self._repositories.save_soon(repository)

        noted = self._repositories.get(upstream, name).addCallback(note)
        return noted.addErrback(lambda failure: self._log.failure("a blob was not noted", failure))

    def _ended(self, result: None | Failure, flight: Flight) -> None:
        if self._overtaken.pop(flight, None) is None:
            del self._under_way[flight.digest]
        if not isinstance(result, Failure) or result.check(CancelledError):
            self._space.look()
            return
        if is_refusal(result.value):
            self._space.refused(result.value)
        elif result.check(NoSpace) and flight.background:
            self._space.look()
        elif result.check(PullcacheError, OSError):
            self._log.warn("{digest} was not fetched: {error}", digest=flight.digest, error=result.value)
        else:
            self._log.failure("{digest} was not fetched", result, digest=flight.digest)


def _remote_of(left: Unfinished, access: Access) -> RemoteRepository | None:
    """The repository that could send the rest, now or when its upstream is online again."""
    origin = left.origin
    return None if origin is None or origin.upstream is None else access.permitted(origin.upstream, origin.repository)
