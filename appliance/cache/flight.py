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

Its bytes go where L{appliance.cache.intake} puts them: where the disk has no room, a flight is I{unstored}.

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
from appliance.cache.intake import Intake
from appliance.cache.length import Length, WrongBytes
from appliance.cache.segments import Segments, first_stop
from appliance.cache.space import Space
from appliance.errors import (
    PullcacheError,
    RangeIgnored,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from appliance.flow.body import Growth
from appliance.flow.disk import is_refusal
from appliance.flow.singleflight import Waiters
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
        space: Space,
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
        self._space = space
        self._flying: Deferred[None] | None = None
        self._ingest: IIngest | None = None
        self._opening: Waiters[None] = Waiters()
        self._landing: Waiters[None] = Waiters()
        self._failure: Failure | None = None
        self._was_open = False
        self._opened_at = 0.0
        self._opened_with = 0
        self._coming: IBlobResponse | None = None

    @property
    def size(self) -> int | None:
        """Bytes of the whole as far as is known by now, C{None} until it is said; certain when it has landed."""
        return self._length.size

    @property
    def stored(self) -> bool:
        """Whether it will be in the store, as far as is known by now."""
        return self._ingest is None or bool(self._ingest.stored)

    @property
    def start(self) -> int:
        """The first byte that who joins it now can have: more than 0 where those in front of it are gone."""
        return 0 if self._ingest is None else int(self._ingest.start)

    @property
    def missing(self) -> int:
        """Bytes that the disk is still to take of it, as far as is known by now."""
        if self._ingest is None or not self._ingest.stored or self.size is None:
            return 0
        return max(0, self.size - int(self._ingest.size))

    def opened(self) -> Deferred[None]:
        """
        Fires when C{size} and L{reader} may be used: the upstream has granted the bytes that are missing.

        Fails with what the flight failed with. One Deferred per call; cancelling it detaches its owner only. Who calls
        this waits for the blob: the flight is no background work any more. What it has asked for is not asked again: an
        answer may be on its way, whose bytes would come twice.
        """
        if self.background:
            self.background = False
            self.registry.awaited(self.repository, self.digest)
            if self._coming is not None:
                self._coming.awaited()
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

    def reader(self, start: int = 0) -> IBlobReader:
        """
        A reader of the bytes from C{start} up to C{growth}, and of those to come; once it is open, and before it has
        ended.
        """
        assert self._ingest is not None
        return self._ingest.reader(start)

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
            self._flying = Deferred.fromCoroutine(self._fetch())
            await self._flying
        except CancelledError:
            self._fail(Failure(self.ending or UpstreamUnavailable(self.registry.name, "this appliance is stopping")))
            raise
        except Exception:
            self._fail(Failure())
            raise

    def _abandon(self, reason: PullcacheError) -> None:
        assert self._flying is not None
        self.ending = reason
        self._flying.cancel()

    async def _fetch(self, keep: bool = True) -> None:
        intake = Intake(
            self.digest,
            self._store,
            self._space,
            self._clock,
            advanced=self._advance,
            in_background=lambda: self.background,
            is_awaited=lambda: len(self._opening) > 0,
            abandon=self._abandon,
        )
        try:
            ingest = self._ingest = await intake.begin(self.size, keep)
            left = ingest.size
            try:
                await self._receive(intake)
                await self._land(ingest)
            except (WrongBytes, OSError) as error:
                if isinstance(error, WrongBytes) or self.size is None:
                    keep = await self._discard(ingest)
                if isinstance(error, OSError) or self._was_open or not left:
                    raise
            else:
                return
        finally:
            intake.close()
        # An earlier flight left what is no beginning of it; no reader was promised any of that.
        await self._fetch(keep)

    async def _discard(self, ingest: IIngest) -> bool:
        """Throw away what came; whether nothing of it is left."""
        try:
            await ingest.discard()
        except OSError as error:
            self._space.refused(error)
            return False
        return True

    async def _receive(self, intake: Intake) -> None:
        """Ask again and again until all is here, as long as bytes come now and then."""
        backoff, ingest = Backoff(), intake.ingest
        origin = ingest.origin
        is_ours = origin is not None and (origin.upstream, origin.repository) == (self.registry.name, self.repository)
        if ingest.size and ingest.verify() and not is_ours:
            # It came whole through another repository: whether this one has it is for its upstream to say.
            await self.registry.blob_size(self.repository, self.digest)
        # There is only one blob of no bytes, and who names it needs no upstream.
        while not (ingest.verify() and (ingest.size or self.size is not None)):
            before = ingest.size
            error = await self._attempt(intake)
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

    async def _attempt(self, intake: Intake) -> PullcacheError | None:
        """Ask for what is missing; why not all of it came, C{None} when there is no more to come."""
        ingest = intake.ingest
        try:
            granted = await self._leg(intake)
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

    async def _leg(self, intake: Intake) -> IBlobResponse | None:
        """One request, from where the last one stopped; its answer when that is the first piece of several."""
        ingest = intake.ingest
        await ingest.room()
        validator = ingest.origin.validator if ingest.origin is not None and ingest.size else None
        stop = first_stop(ingest.size, self.size, self.segments if ingest.stored else 1)
        try:
            response = await self._ask(ingest.size, stop, validator)
        except RangeIgnored:
            if stop is None:
                raise
            # A piece is more than some can give, who can give the whole.
            stop, self.segments = None, 1
            response = await self._ask(ingest.size, None, validator)
        try:
            if self.size is None and response.size is not None:
                await intake.learned(response.size)
            self._board(ingest, response)
        except BaseException:
            response.abandon()
            raise
        if not self.background:
            # It may have been asked for in the background.
            response.awaited()
        if stop is not None:
            if (response.start, response.stop) == (ingest.size, stop):
                return response
            self.segments = 1
        length = self._length
        writer = intake.writer(ingest.size - response.start, max(0, length.most - ingest.size), length.promised)
        # Beside the first bytes, not before them: a client waits for those.
        noting = self._note(ingest, response)
        self._coming = response
        try:
            await response.deliver(writer)
        finally:
            # What came is here before anything else happens; the disk's and the size's faults go before the line's.
            self._coming = None
            await noting
            await intake.drain()
            if writer.overrun and not ingest.verify():
                raise length.exceeded()
        return None

    async def _in_segments(self, ingest: IIngest, granted: IBlobResponse) -> PullcacheError | None:
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
            self._advance,
        )
        noting = self._note(ingest, granted)
        try:
            await segments.fetch(granted)
        except RangeIgnored as ignored:
            self.segments = 1
            return ignored
        except OSError as error:
            if not is_refusal(error):
                raise
            # One stream needs least room, and can do without any.
            self._space.refused(error)
            self.segments = 1
            return UpstreamUnavailable(self.registry.name, f"the rest comes as one stream: {error.strerror or error}")
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
        if not self.background:
            response.awaited()
        return response

    def _ask(self, start: int, stop: int | None, validator: str | None) -> Deferred[IBlobResponse]:
        asked: Deferred[IBlobResponse] = self.registry.blob(
            self.repository, self.digest, start, stop, validator, self.background
        )
        return asked

    def _note(self, ingest: IIngest, response: IBlobResponse) -> Deferred[None]:
        noting: Deferred[None] = ingest.note(Origin(self.registry.name, self.repository, self.size, response.validator))
        return noting.addErrback(self._not_noted)

    def _not_noted(self, failure: Failure) -> None:
        """Without a note the bytes are not taken up by another process."""
        if not is_refusal(failure.value):
            failure.raiseException()
        self._space.refused(failure.value)

    def _board(self, ingest: IIngest, response: IBlobResponse) -> None:
        if response.start > ingest.size:
            raise RangeIgnored(self.registry.name, f"{self.digest}: bytes came from {response.start} on")
        self._length.learn(response.size, ingest.size, ingest.verify())
        self._open(ingest)

    async def _land(self, ingest: IIngest) -> None:
        if not ingest.verify():
            raise self._length.wrong(ingest.size)
        if ingest.stored and ingest.origin is not None and ingest.origin.size != ingest.size:
            # So that a start knows that it is whole, if this process is killed before it is a blob.
            await ingest.note(replace(ingest.origin, size=ingest.size)).addErrback(self._not_noted)
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
        if ingest.stored:
            await ingest.commit()

    def _advance(self) -> None:
        # Nothing is read before a size is promised; until then any byte may be the last one.
        if self._length.promised and self.size is not None and self._ingest is not None:
            self.growth.advance(max(0, min(int(self._ingest.size), self.size - 1)))

    def _open(self, ingest: IIngest) -> None:
        self._enter(State.FLYING)
        self._opened_at = self._clock.seconds()
        self._opened_with = ingest.size
        self._was_open = True
        if self._length.promised:
            self._advance()
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
