"""
One fetch of one blob, shared by all who wait for it.

=========  ==========================================================  ==========================================
state      means                                                       leads to
=========  ==========================================================  ==========================================
OPENING    the upstream has been asked and has not answered yet        FLYING, PAUSED, FAILED, LANDED
FLYING     bytes come; in pieces: each is tried again for itself       PAUSED, FAILED, LANDED
PAUSED     the line was cut; it is tried again after a pause           OPENING, FAILED
LANDED     all bytes are here and have the digest                      -
FAILED     no more bytes will come                                     -
=========  ==========================================================  ==========================================

C{growth} says how much may be read: the last byte is withheld until the digest is known to be right, so that no
response with wrong bytes is ever completed.

A descriptor's size is a hint (L{appliance.cache.length}). Bytes are thrown away only where their digest is wrong.

Where more than one segment is wanted, the request at OPENING is for the first piece of what is missing. When just that
is granted, the rest is fetched as L{appliance.cache.segments} says; an answer that is not the range asked for, then or
later, leads to one stream from where the bytes are whole.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.backoff import Backoff
from appliance.cache.length import Length, WrongBytes
from appliance.cache.segments import Segments, first_stop
from appliance.errors import (
    PullcacheError,
    RangeIgnored,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from appliance.flow.body import Growth
from appliance.flow.singleflight import Waiters
from appliance.flow.writer import ThreadWriter
from appliance.interfaces import IBlobReader, IBlobStore, IIngest, Origin
from appliance.oci.digest import Digest
from appliance.upstream.interfaces import IBlobResponse, IUpstream


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
    @ivar growth: how much of it may be read.
    @ivar segments: how many ranges are fetched at once; 1 from when an upstream did not grant them.
    @ivar background: whether no client has waited for it so far.
    @ivar ending: what its readers fail with when it is cancelled, C{None} for a stop of the appliance.
    @ivar whole_only: whether the upstream was found not to grant ranges of it.
    """

    _log = Logger()

    def __init__(
        self,
        registry: IUpstream,
        repository: str,
        digest: Digest,
        size: int | None,
        store: IBlobStore,
        clock: IReactorTime,
        segments: int = 1,
        background: bool = False,
    ) -> None:
        self.registry = registry
        self.repository = repository
        self.digest = digest
        self.segments = segments
        self.background = background
        self.ending: PullcacheError | None = None
        self.whole_only = False
        self.state = State.OPENING
        self._length = Length(size, registry.name, digest)
        self.growth = Growth()
        self._store = store
        self._clock = clock
        self._ingest: IIngest | None = None
        self._opening: Waiters[None] = Waiters()
        self._landing: Waiters[None] = Waiters()
        self._failure: Failure | None = None
        self._was_open = False
        self._opened_at = 0.0
        self._opened_with = 0
        self._asking: Deferred[IBlobResponse] | None = None
        self._coming: IBlobResponse | None = None
        self._hurried = False

    @property
    def size(self) -> int | None:
        """Bytes of the whole as far as is known by now, C{None} until it is said; certain when it has landed."""
        return self._length.size

    def opened(self) -> Deferred[None]:
        """
        Fires when C{size} and L{reader} may be used: the upstream has granted the bytes that are missing.

        Fails with what the flight failed with. One Deferred per call; cancelling it detaches its owner only. Who calls
        this waits for the blob: the flight is no background work any more, and asks again where it has got no further.
        """
        if self.background:
            self.background = False
            self._hurry()
        if self.state is State.FAILED:
            return fail(self._failure)
        if self.state is State.LANDED or (self.state is State.FLYING and self._length.promised):
            return succeed(None)
        return self._opening.wait()

    def landed(self) -> Deferred[None]:
        """Fires when all bytes are here and right, fails with what the flight failed with. One Deferred per call."""
        if self.state is State.FAILED:
            return fail(self._failure)
        return succeed(None) if self.state is State.LANDED else self._landing.wait()

    def reader(self) -> IBlobReader:
        """A reader of the bytes up to C{growth}, and of those to come; once it is open, and before it has ended."""
        assert self._ingest is not None
        return self._ingest.reader()

    def rate(self) -> float:
        """Bytes a second since the line was opened; 0 while nothing can be said."""
        elapsed = self._clock.seconds() - self._opened_at
        is_known = self.state is State.FLYING and elapsed > 0
        return (self.growth.available - self._opened_with) / elapsed if is_known else 0.0

    async def fly(self) -> None:
        """
        Fetch the blob to the end; returns when it is durable in the store.

        @raise PullcacheError: the flight failed, its readers too. What came is kept, unless its digest is wrong.
        """
        try:
            await self._fetch()
        except CancelledError:
            self._fail(Failure(self.ending or UpstreamUnavailable(self.registry.name, "this appliance is stopping")))
            raise
        except Exception:
            self._fail(Failure())
            raise

    async def _fetch(self) -> None:
        ingest = self._ingest = await self._store.ingest(self.digest)
        left = ingest.size
        try:
            await self._receive(ingest)
            await self._land(ingest)
        except (WrongBytes, OSError) as error:
            if isinstance(error, WrongBytes) or self.size is None:
                await ingest.discard()
            if isinstance(error, OSError) or self._was_open or not left:
                raise
            # An earlier flight left what is no beginning of it; no reader was promised any of that.
            await self._fetch()
        finally:
            ingest.close()

    async def _receive(self, ingest: IIngest) -> None:
        """Ask again and again until all is here, as long as bytes come now and then."""
        backoff = Backoff()
        origin = ingest.origin
        is_ours = origin is not None and (origin.upstream, origin.repository) == (self.registry.name, self.repository)
        if ingest.size and ingest.verify() and not is_ours:
            # It came whole through another repository: whether this one has it is for its upstream to say.
            await self.registry.blob_size(self.repository, self.digest)
        # There is only one blob of no bytes, and who names it needs no upstream.
        while not (ingest.verify() and (ingest.size or self.size is not None)):
            before = ingest.size
            error = await self._attempt(ingest)
            if error is None or (self._was_open and (ingest.verify() or self._length.is_reached(ingest.size))):
                return
            # Before a client has been promised anything it gets a failure at once: it does best to ask elsewhere. The
            # same where an import has brought the blob meanwhile: who comes again finds it.
            if not self._was_open or self._store.size(self.digest) is not None:
                raise error
            seconds = backoff.delay(error, ingest.size > before)
            self._log.info("{digest}: {error}; again in {seconds} s", digest=self.digest, error=error, seconds=seconds)
            self._enter(State.PAUSED)
            await deferLater(self._clock, seconds)
            self._enter(State.OPENING)

    async def _attempt(self, ingest: IIngest) -> PullcacheError | None:
        """Ask for what is missing; why not all of it came, C{None} when there is no more to come."""
        try:
            granted = await self._leg(ingest)
        except (UpstreamUnavailable, UpstreamRateLimited) as failed:
            return failed
        except RangeIgnored as failed:
            if not self._was_open and self._length.is_reached(ingest.size):
                # As long as its descriptor says, not the blob, and the upstream has no more of it either.
                raise self._length.wrong(ingest.size) from failed
            return failed
        if granted is not None:
            return await self._in_segments(ingest, granted)
        if self.size is None or self._length.is_reached(ingest.size):
            return None
        return UpstreamUnavailable(self.registry.name, f"the body ended after {ingest.size} of {self.size} bytes")

    async def _leg(self, ingest: IIngest) -> IBlobResponse | None:
        """One request, from where the last one stopped; its answer when that is the first piece of several."""
        validator = ingest.origin.validator if ingest.origin is not None and ingest.size else None
        stop = first_stop(ingest.size, self.size, self.segments)
        try:
            response = await self._answer(ingest.size, stop, validator)
        except RangeIgnored:
            if stop is None:
                raise
            # A piece is more than some can give, who can give the whole.
            stop, self.segments = None, 1
            response = await self._answer(ingest.size, None, validator)
        try:
            self._board(ingest, response)
        except BaseException:
            response.abandon()
            raise
        if stop is not None:
            if (response.start, response.stop) == (ingest.size, stop):
                return response
            self.segments = 1
        writer = self._writer(ingest, response)
        # Beside the first bytes, not before them: a client waits for those.
        noting = self._note(ingest, response)
        self._coming = response
        try:
            await response.deliver(writer)
        finally:
            self._coming = None
            await self._drain(ingest, writer, noting)
        return None

    async def _in_segments(self, ingest: IIngest, granted: IBlobResponse) -> RangeIgnored | None:
        """All that is missing, in pieces, beginning with the granted one; what ended that before it was done."""
        assert self.size is not None
        validator = granted.validator
        segments = Segments(
            self.registry.name,
            lambda start, stop: Deferred.fromCoroutine(self._piece(start, stop, validator)),
            ingest,
            self.size,
            self.segments,
            self._clock,
            lambda: self.growth.advance(self._readable(ingest)),
        )
        noting = self._note(ingest, granted)
        try:
            await segments.fetch(granted)
        except RangeIgnored as ignored:
            self.segments = 1
            return ignored
        finally:
            await noting
        return None

    async def _piece(self, start: int, stop: int, validator: str | None) -> IBlobResponse:
        response = await self._ask(start, stop, validator)
        try:
            self._length.check(response.size)
            if (response.start, response.stop) != (start, stop):
                message = f"{self.digest}: {response.start} to {response.stop} came for {start} to {stop}"
                raise RangeIgnored(self.registry.name, message)
        except BaseException:
            response.abandon()
            raise
        return response

    async def _answer(self, start: int, stop: int | None, validator: str | None) -> IBlobResponse:
        """As L{_ask}; asked again when a client begins to wait for what was asked in the background."""
        while True:
            self._asking = self._ask(start, stop, validator)
            try:
                return await self._asking
            except CancelledError:
                if not self._hurried:
                    raise
                self._hurried = False
            finally:
                self._asking = None

    def _hurry(self) -> None:
        # In the background it may be the last in a queue that never ends while others pull.
        if self._asking is not None and not self._asking.called:
            self._hurried = True
            self._asking.cancel()
        elif self._coming is not None:
            self._coming.awaited()

    def _ask(self, start: int, stop: int | None, validator: str | None) -> Deferred[IBlobResponse]:
        asked: Deferred[IBlobResponse] = self.registry.blob(
            self.repository, self.digest, start, stop, validator, self.background
        )
        return asked

    def _note(self, ingest: IIngest, response: IBlobResponse) -> Deferred[None]:
        noting: Deferred[None] = ingest.note(Origin(self.registry.name, self.repository, self.size, response.validator))
        return noting

    async def _drain(self, ingest: IIngest, writer: ThreadWriter, noting: Deferred[None]) -> None:
        """What came is on disk before anything else happens; the disk's and the size's faults go before the line's."""
        await noting
        await writer.drained()
        if writer.overrun and not ingest.verify():
            raise self._length.exceeded()

    def _board(self, ingest: IIngest, response: IBlobResponse) -> None:
        if response.start > ingest.size:
            raise RangeIgnored(self.registry.name, f"{self.digest}: bytes came from {response.start} on")
        self._length.learn(response.size, ingest.size, ingest.verify())
        self._open(ingest)

    def _writer(self, ingest: IIngest, response: IBlobResponse) -> ThreadWriter:
        def store(pieces: list[bytes]) -> Deferred[None]:
            return ingest.write(pieces).addCallback(lambda _: self.growth.advance(self._readable(ingest)))

        return ThreadWriter(store, ingest.size - response.start, max(0, self._length.most - ingest.size))

    async def _land(self, ingest: IIngest) -> None:
        if not ingest.verify():
            raise self._length.wrong(ingest.size)
        if ingest.origin is not None and ingest.origin.size != ingest.size:
            # So that a start knows that it is whole, if this process is killed before it is a blob.
            await ingest.note(replace(ingest.origin, size=ingest.size))
        promised = self.size if self._length.promised else ingest.size
        self._length.size = ingest.size
        self._enter(State.LANDED)
        # Readers may finish now; whether it survives a power cut is the next line's business, not theirs.
        self.growth.advance(ingest.size)
        if promised != ingest.size:
            message = f"{self.digest} has {ingest.size} bytes, not the {promised} that its descriptor says"
            self.growth.fail(Failure(UpstreamInvalid(self.registry.name, message)))
        self._opening.fire(None)
        self._landing.fire(None)
        await ingest.commit()

    def _readable(self, ingest: IIngest) -> int:
        # Nothing is read before a size is promised; until then any byte may be the last one.
        received: int = ingest.size
        return max(0, min(received, self.size - 1)) if self._length.promised and self.size is not None else 0

    def _open(self, ingest: IIngest) -> None:
        self._enter(State.FLYING)
        self._opened_at = self._clock.seconds()
        self._opened_with = ingest.size
        self._was_open = True
        if self._length.promised:
            self.growth.advance(self._readable(ingest))
            self._opening.fire(None)

    def _fail(self, failure: Failure) -> None:
        if self.state in (State.LANDED, State.FAILED):
            return
        self._failure = failure
        self._enter(State.FAILED)
        self._opening.fire(failure)
        self._landing.fire(failure)
        self.growth.fail(failure)

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a flight that is {self.state.value} cannot become {state.value}")
        self.state = state
