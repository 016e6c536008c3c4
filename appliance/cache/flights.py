"""All flights of this process: at most one for a digest."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.flight import Flight, State
from appliance.cache.remote import Remote
from appliance.errors import PullcacheError
from appliance.interfaces import IBlobStore, IUpstream
from appliance.oci.digest import Digest

RESUMED_AT_ONCE = 4
"""Fetches that a restart found cut and that are taken up again at the same time."""


class Flights:
    """The flights under way, by digest."""

    _log = Logger()

    def __init__(self, store: IBlobStore, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._under_way: dict[Digest, tuple[Flight, Deferred[None]]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

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
        Begin a flight; there must be none of that digest. It goes on whoever reads it or not.

        @param size: bytes of the blob, C{None} while nobody has said.
        @param segments: how many ranges of a large blob are fetched at once.
        @param background: whether nobody waits for it yet; see L{Flight.opened}.
        """
        if digest in self._under_way:
            raise ValueError(f"{digest} is under way already")
        flight = Flight(registry, repository, digest, size, self._store, self._clock, segments, background)
        landing = Deferred.fromCoroutine(flight.fly())
        self._under_way[digest] = (flight, landing)
        landing.addBoth(self._ended, flight)
        return flight

    async def resume(self, remotes: Mapping[str, Remote]) -> None:
        """Take up what a stop or a crash cut, a few at a time; what cannot be resumed now waits for its next reader."""
        waiting = self._store.unfinished()
        workers = [Deferred.fromCoroutine(self._resume_some(waiting, remotes)) for _ in range(RESUMED_AT_ONCE)]
        await DeferredList(workers)

    async def _resume_some(self, waiting: list[Digest], remotes: Mapping[str, Remote]) -> None:
        while waiting:
            await self._resume(waiting.pop(), remotes)

    async def _resume(self, digest: Digest, remotes: Mapping[str, Remote]) -> None:
        try:
            ingest = await self._store.ingest(digest)
        except OSError as error:
            self._log.warn("{digest} was not taken up again: {error}", digest=digest, error=error)
            return
        origin = ingest.origin
        ingest.close()
        remote = None if origin is None else remotes.get(origin.upstream)
        # A reader may have taken it up meanwhile.
        if origin is None or remote is None or remote.offline or digest in self._under_way:
            return
        segments = remote.settings.segments
        flight = self.start(remote.registry, origin.repository, digest, origin.size, segments, background=True)
        try:
            await flight.landed()
        except (PullcacheError, OSError):
            return

    def stop(self) -> Deferred[None]:
        """Cut every flight, keeping what came; fires when their files are closed."""
        landings = [landing for _, landing in self._under_way.values()]
        ended = [self.ended(digest) for digest in self._under_way]
        for landing in landings:
            landing.cancel()
        return DeferredList(ended).addCallback(lambda _: None)

    def committed(self) -> Deferred[None]:
        """Fires when the blobs that clients have got whole by now are in the store, or could not be kept."""
        landed = [digest for digest, (flight, _) in self._under_way.items() if flight.state is State.LANDED]
        return DeferredList([self.ended(digest) for digest in landed]).addCallback(lambda _: None)

    def ended(self, digest: Digest) -> Deferred[None]:
        """Fires when the flight of that digest is over and its file closed, at once when there is none."""
        done: Deferred[None] = Deferred()
        if digest in self._under_way:
            self._under_way[digest][1].addBoth(_fire, done)
        else:
            done.callback(None)
        return done

    def _ended(self, result: None | Failure, flight: Flight) -> None:
        del self._under_way[flight.digest]
        if not isinstance(result, Failure) or result.check(CancelledError):
            return
        if result.check(PullcacheError, OSError):
            self._log.warn("{digest} was not fetched: {error}", digest=flight.digest, error=result.value)
        else:
            self._log.failure("{digest} was not fetched", result, digest=flight.digest)


def _fire(_: object, done: Deferred[None]) -> None:
    done.callback(None)
