"""
One fetch of one blob, shared by all who wait for it.

=========  ==========================================================  ==========================================
state      means                                                       leads to
=========  ==========================================================  ==========================================
OPENING    the upstream has been asked and has not answered yet        FLYING, PAUSED, FAILED, LANDED
FLYING     bytes come                                                  PAUSED, FAILED, LANDED
PAUSED     the line was cut; it is tried again after a pause           OPENING, FAILED
LANDED     all bytes are here and have the digest                      -
FAILED     no more bytes will come                                     -
=========  ==========================================================  ==========================================

Readers see C{source}: a growing file whose last byte is withheld until the digest is known to be right, so that no
response with wrong bytes is ever completed.
"""

from __future__ import annotations

from enum import Enum

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.errors import (
    PullcacheError,
    RangeIgnored,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from appliance.flow.source import Source
from appliance.flow.writer import ThreadWriter
from appliance.interfaces import IBlobResponse, IBlobStore, IIngest, IUpstream, Origin
from appliance.oci.digest import Digest

# Seconds before the line is tried again, while no byte comes; bytes start the row anew. Their sum, a little over a
# minute, is what a client waits at most before its connection is aborted.
PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# The longest an upstream's Retry-After is obeyed while clients wait.
LONGEST_PAUSE = 60.0


class State(Enum):
    """See the table above."""

    OPENING = "opening"
    FLYING = "flying"
    PAUSED = "paused"
    LANDED = "landed"
    FAILED = "failed"


TRANSITIONS = {
    State.OPENING: {State.FLYING, State.PAUSED, State.FAILED, State.LANDED},
    State.FLYING: {State.PAUSED, State.FAILED, State.LANDED},
    State.PAUSED: {State.OPENING, State.FAILED},
    State.LANDED: set[State](),
    State.FAILED: set[State](),
}


class Flight:
    """
    See the module.

    @ivar registry: who is asked, and C{repository} under which name there.
    @ivar size: bytes of the whole; C{None} until somebody says it.
    @ivar source: what readers read; set once the flight is open.
    """

    _log = Logger()
    source: Source

    def __init__(
        self,
        registry: IUpstream,
        repository: str,
        digest: Digest,
        size: int | None,
        store: IBlobStore,
        clock: IReactorTime,
    ) -> None:
        self.registry = registry
        self.repository = repository
        self.digest = digest
        self.size = size
        self.state = State.OPENING
        self._store = store
        self._clock = clock
        self._waiting: list[Deferred[None]] = []
        self._landing: list[Deferred[None]] = []
        self._failure: Failure | None = None
        self._was_open = False
        self._opened_at = 0.0
        self._opened_with = 0

    def opened(self) -> Deferred[None]:
        """
        Fires when C{size} and C{source} may be used: the upstream has granted the bytes that are missing.

        Fails with what the flight failed with. One Deferred per call; cancelling it detaches its owner only.
        """
        waiter: Deferred[None] = Deferred(lambda gone: self._waiting.remove(gone) if gone in self._waiting else None)
        if self.state is State.FAILED:
            waiter.errback(self._failure)
        elif self.state is State.LANDED or (self.state is State.FLYING and self.size is not None):
            waiter.callback(None)
        else:
            self._waiting.append(waiter)
        return waiter

    def landed(self) -> Deferred[None]:
        """Fires when all bytes are here and right, fails with what the flight failed with. One Deferred per call."""
        waiter: Deferred[None] = Deferred(lambda gone: self._landing.remove(gone) if gone in self._landing else None)
        if self.state is State.FAILED:
            waiter.errback(self._failure)
        elif self.state is State.LANDED:
            waiter.callback(None)
        else:
            self._landing.append(waiter)
        return waiter

    def rate(self) -> float:
        """Bytes a second since the line was opened; 0 while nothing can be said."""
        elapsed = self._clock.seconds() - self._opened_at
        if self.state is not State.FLYING or elapsed <= 0:
            return 0.0
        return (self.source.available - self._opened_with) / elapsed

    async def fly(self) -> None:
        """
        Fetch the blob to the end; returns when it is durable in the store.

        @raise PullcacheError: the flight failed; its readers were told. What came is kept for a resumption, unless the
            digest or the size is wrong.
        """
        try:
            ingest = await self._store.ingest(self.digest)
            try:
                await self._fetch(ingest)
            finally:
                ingest.close()
        except CancelledError:
            self._fail(Failure(UpstreamUnavailable(self.registry.name, "this appliance is stopping")))
            raise
        except Exception:
            self._fail(Failure())
            raise

    async def _fetch(self, ingest: IIngest) -> None:
        self.source = Source(ingest.file, self._readable(ingest))
        try:
            await self._receive(ingest)
            await self._land(ingest)
        except UpstreamInvalid:
            await ingest.discard()
            raise

    async def _receive(self, ingest: IIngest) -> None:
        """Ask again and again until all is here, as long as bytes come now and then."""
        fruitless = 0
        while self.size is None or ingest.size < self.size:
            before = ingest.size
            try:
                await self._leg(ingest)
                if self.size is None:
                    return
                error: PullcacheError = UpstreamUnavailable(
                    self.registry.name, f"the body ended after {ingest.size} of {self.size} bytes"
                )
            except (UpstreamUnavailable, UpstreamRateLimited, RangeIgnored) as failed:
                error = failed
            if ingest.size == self.size:
                return
            fruitless = 0 if ingest.size > before else fruitless + 1
            # Before a client has been promised anything a failure is told at once: it does best to ask elsewhere.
            if not self._was_open or fruitless >= len(PAUSES):
                raise error
            await self._pause(error, PAUSES[fruitless])

    async def _pause(self, error: PullcacheError, seconds: float) -> None:
        if isinstance(error, UpstreamRateLimited) and error.retry_after is not None:
            seconds = max(seconds, min(error.retry_after, LONGEST_PAUSE))
        self._log.info("{digest}: {error}; again in {seconds} s", digest=self.digest, error=error, seconds=seconds)
        self._enter(State.PAUSED)
        await deferLater(self._clock, seconds)
        self._enter(State.OPENING)

    async def _leg(self, ingest: IIngest) -> None:
        """One request, from where the last one stopped."""
        validator = ingest.origin.validator if ingest.origin is not None and ingest.size else None
        response = await self.registry.blob(self.repository, self.digest, ingest.size, None, validator)
        try:
            writer = self._board(ingest, response)
        except BaseException:
            response.abandon()
            raise
        # Beside the first bytes, not before them: a client waits for those.
        noting = ingest.note(Origin(self.registry.name, self.repository, self.size, response.validator))
        try:
            await response.deliver(writer)
        finally:
            await self._drain(writer, noting)

    async def _drain(self, writer: ThreadWriter, noting: Deferred[None]) -> None:
        """What came is on disk before anything else happens; the disk's and the size's faults go before the line's."""
        await noting
        await writer.drained()
        if writer.overrun:
            raise UpstreamInvalid(self.registry.name, f"{self.digest}: more than its {self.size} bytes were sent")

    def _board(self, ingest: IIngest, response: IBlobResponse) -> ThreadWriter:
        if response.start > ingest.size:
            raise RangeIgnored(self.registry.name, f"{self.digest}: bytes came from {response.start} on")
        if self.size is None:
            self.size = response.size
        elif response.size is not None and response.size != self.size:
            raise UpstreamInvalid(
                self.registry.name, f"{self.digest}: {response.size} bytes offered, its descriptor says {self.size}"
            )
        self._open(ingest)

        def store(pieces: list[bytes]) -> Deferred[None]:
            return ingest.write(pieces).addCallback(lambda _: self.source.advance(self._readable(ingest)))

        room = None if self.size is None else self.size - ingest.size
        return ThreadWriter(store, ingest.size - response.start, room)

    async def _land(self, ingest: IIngest) -> None:
        if not ingest.verify() or (self.size is not None and ingest.size != self.size):
            raise UpstreamInvalid(self.registry.name, f"{self.digest}: {ingest.size} bytes of another digest came")
        self.size = ingest.size
        self._enter(State.LANDED)
        # Readers may finish now; whether it survives a power cut is the next line's business, not theirs.
        self.source.advance(ingest.size)
        self._tell(None, self._landing)
        await ingest.commit()

    def _readable(self, ingest: IIngest) -> int:
        # Nobody reads before the size is known; until then any byte may be the last one.
        received: int = ingest.size
        return 0 if self.size is None else max(0, min(received, self.size - 1))

    def _open(self, ingest: IIngest) -> None:
        self._enter(State.FLYING)
        self._opened_at = self._clock.seconds()
        self._opened_with = ingest.size
        self._was_open = True
        if self.size is not None:
            self._tell(None)

    def _fail(self, failure: Failure) -> None:
        if self.state in (State.LANDED, State.FAILED):
            return
        self._failure = failure
        self._enter(State.FAILED)
        self._tell(failure, self._landing)
        if hasattr(self, "source"):
            self.source.fail(failure)

    def _tell(self, result: Failure | None, others: list[Deferred[None]] | None = None) -> None:
        # One at a time: a waiter that is told may cancel another.
        for waiting in (self._waiting, others or []):
            while waiting:
                waiting.pop(0).callback(result)

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a flight that is {self.state.value} cannot become {state.value}")
        self.state = state
