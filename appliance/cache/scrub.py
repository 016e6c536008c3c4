"""
Scrub: everything that is held is hashed again, slowly, so that what a disk lost is found while it can be fetched again.

One run at a time. A job begins one every so often, and goes on after a restart where it was; an operator orders one,
which interrupts the job, and counts as one of its own when it comes to its end. Kept as C{scrub.json}::

    {"since": 1800000000.0, "last": RUN, "current": RUN}

C{since} is when the first run was first waited for, C{last} the run that was finished last, C{current} the job's that
is not: each C{{"began": 1800000000.0, "finished": null, "checked": 1200, "bytes": 52000000, "unread": 0, "damaged":
[{"digest": "sha256:...", "size": 1000, "outcome": "fetched"}], "position": "..."}}.

Blobs are looked at in the order of their hashes, a range of them at a time, so that neither a run nor its restart has
to remember which they were. What comes behind the position waits for the next run: it was hashed on its way in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from math import ceil
from typing import Annotated

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as WaitedLongEnough
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from appliance.cache.repair import UNREFERENCED, WANTED, Repair
from appliance.errors import NotHeld, ScrubUnderWay
from appliance.flow.clock import wall
from appliance.flow.singleflight import ended
from appliance.index.documents import EpochSeconds, StateFile
from appliance.interfaces import IBlobStore, IDocuments, Stored
from appliance.oci.digest import Digest
from appliance.settings import ScrubSettings

NAME = "scrub.json"

RANGE = 4000
"""Blobs that are put in order at a time, about: the more, the fewer walks over all of them."""

SMALL = 128 * 1024
"""
Bytes that a blob counts as for the rate, at least: a disk that has to seek reads no faster, and a million small blobs
would otherwise take a processor.
"""

PAUSE = 0.01
"""Seconds that are saved up before a pause is made."""

NOTED_EVERY = 30.0
"""Seconds between two notes of how far it is: so much may be hashed twice."""

MENDED_WITHIN = 600.0
"""Seconds that a run waits at its end for what is being fetched again."""


class FoundDamaged(msgspec.Struct, frozen=True):
    """
    A blob that was damaged.

    @ivar size: bytes that were there.
    @ivar outcome: what became of it: C{fetched}, C{wanted} or C{unreferenced}; empty as long as that is not known.
    """

    digest: Annotated[str, msgspec.Meta(pattern="^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")]
    size: int
    outcome: str = ""


class ScrubRun(msgspec.Struct):
    """
    One run, under way or finished.

    @ivar began: seconds since the epoch; so C{finished}, C{None} as long as it is not.
    @ivar checked: blobs that were hashed, and C{bytes} of them.
    @ivar unread: blobs that the disk refused for another reason than damage.
    @ivar damaged: what was found, also by earlier runs where it was lacking still.
    @ivar position: the hash that was looked at last.
    """

    began: EpochSeconds
    finished: EpochSeconds | None = None
    checked: int = 0
    bytes: int = 0
    unread: int = 0
    damaged: list[FoundDamaged] = []
    position: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is damaged any more, as far as it was found."""
        return not self.unread and all(each.outcome != WANTED for each in self.damaged)


class ScrubState(msgspec.Struct):
    """See the module."""

    since: EpochSeconds | None = None
    last: ScrubRun | None = None
    current: ScrubRun | None = None


class ScrubProgress(msgspec.Struct, frozen=True):
    """
    How far a run is.

    @ivar stage: C{checking}, then C{mending}.
    @ivar done: bytes of C{total}; of blobs that are mended, their number.
    @ivar damaged: blobs found so far.
    """

    stage: str
    done: int
    total: int
    damaged: int


class Scrub:
    """
    The runs of one appliance.

    @ivar is_ordered: whether one is under way that an operator ordered.
    @ivar is_stopped: whether the appliance is being stopped.
    """

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        repair: Repair,
        state: IDocuments,
        clock: IReactorTime,
        settings: Callable[[], ScrubSettings],
    ) -> None:
        """@param settings: gives those in force."""
        self._store = store
        self._repair = repair
        self._clock = clock
        self._settings = settings
        self._document = StateFile(state, NAME, ScrubState, self._take_up)
        self._state = ScrubState()
        self._under_way: Deferred[ScrubRun] | None = None
        self.is_ordered = False
        self.is_stopped = False
        self._noted_at = 0.0

    @property
    def last(self) -> ScrubRun | None:
        """The run that was finished last, C{None} when there was none, or it is not read yet."""
        return self._state.last

    @property
    def is_under_way(self) -> bool:
        """Whether one is."""
        return self._under_way is not None

    async def load(self) -> None:
        """Take up what an earlier process noted."""
        await self._document.load()

    async def flush(self) -> None:
        """Write what changed, if anything did. One call at a time."""
        await self._document.flush(lambda: msgspec.json.encode(self._state))

    async def stop(self) -> None:
        """Cut the run under way, and begin no other; the job's goes on with the next process."""
        self.is_stopped = True
        await self._cut()

    async def run(
        self, rate: int | None = None, progress: Callable[[ScrubProgress], None] = lambda _: None
    ) -> ScrubRun:
        """
        Hash everything that is held, and wait for what is fetched again. Cancelling ends it.

        @param rate: bytes per second, C{None} for what is configured.
        @raise ScrubUnderWay: another one was ordered.
        @raise OSError: the store cannot be walked.
        """
        if self.is_ordered:
            raise ScrubUnderWay("a scrub is under way already; there is one at a time")
        self.is_ordered = True
        try:
            await self._cut()
            run = ScrubRun(began=wall(self._clock))
            await self._begin(run, lambda: rate or self._settings().rate, progress)
        finally:
            self.is_ordered = False
        # It has looked at all that the job had still before it.
        self._state.last, self._state.current = run, None
        self._document.changed = True
        return run

    async def job(self) -> ScrubRun | None:
        """Begin a run if it is time for one, or go on with it; the one that has ended, C{None}: none has."""
        await self.load()
        every, state, now = self._settings().every, self._state, wall(self._clock)
        if every is None or self.is_ordered or self.is_stopped:
            return None
        if state.current is None:
            if state.since is None:
                state.since, self._document.changed = now, True
            # A moment in the future was written by another clock.
            before = state.since if state.last is None or state.last.finished is None else state.last.finished
            if now - min(before, now) < every:
                return None
            state.current = ScrubRun(began=now)
        run = state.current
        try:
            await self._begin(run, lambda: self._settings().rate, lambda _: None)
        except CancelledError:
            self._document.changed = True
            return None
        state.last, state.current, self._document.changed = run, None, True
        self._log.info(
            "scrub: {checked} blobs checked, {damaged} damaged", checked=run.checked, damaged=len(run.damaged)
        )
        return run

    # -- a run ------------------------------------------------------------------------------------------------------

    def _take_up(self, kept: ScrubState) -> None:
        self._state = kept

    async def _cut(self) -> None:
        under_way = self._under_way
        if under_way is not None:
            over = ended(under_way)
            under_way.cancel()
            await over

    async def _begin(
        self, run: ScrubRun, rate: Callable[[], int | None], progress: Callable[[ScrubProgress], None]
    ) -> None:
        working = self._under_way = Deferred.fromCoroutine(self._work(run, rate, progress))
        try:
            await working
        finally:
            self._under_way = None

    async def _work(
        self, run: ScrubRun, rate: Callable[[], int | None], progress: Callable[[ScrubProgress], None]
    ) -> ScrubRun:
        self._noted_at = self._clock.seconds()
        due = self._clock.seconds()
        done = 0

        async def paced(octets: int) -> None:
            nonlocal due, done
            done += octets
            progress(ScrubProgress("checking", min(done, total), total, len(run.damaged)))
            now, most = self._clock.seconds(), rate()
            if most is not None:
                due = max(due, now - PAUSE) + max(octets, SMALL) / most
                if due - now > PAUSE:
                    await deferLater(self._clock, due - now, lambda: None)

        count = total = 0
        async for batch in self._store.walk():
            count, total = count + len(batch), total + sum(each.size for each in batch)
        progress(ScrubProgress("checking", 0, total, len(run.damaged)))
        async for blob in self._in_order(run.position, count):
            if not await self._is_right(blob, run, paced):
                run.damaged.append(FoundDamaged(str(blob.digest), blob.size))
                self._document.changed = self._document.changed or not self.is_ordered
            run.position = blob.digest.encoded
            if self._clock.seconds() - self._noted_at >= NOTED_EVERY and not self.is_ordered:
                self._noted_at, self._document.changed = self._clock.seconds(), True
        await self._mend(run, progress)
        run.finished = wall(self._clock)
        return run

    async def _in_order(self, position: str, count: int) -> AsyncIterator[Stored]:
        """All blobs behind C{position}, sorted by hash; C{count}: how many there are of all, about."""
        ranges = max(1, ceil(count / RANGE))
        for number in range(ranges):
            # Hashes are spread evenly over all that there could be.
            least, most = (f"{(each << 32) // ranges:08x}" for each in (number, number + 1))
            if number + 1 == ranges:
                most = "g"
            least = max(least, position)
            found: list[Stored] = []
            if least >= most:
                continue
            async for batch in self._store.walk():
                found += (blob for blob in batch if least < blob.digest.encoded < most)
            for blob in sorted(found, key=lambda each: each.digest.encoded):
                yield blob

    async def _is_right(self, blob: Stored, run: ScrubRun, paced: Callable[[int], Awaitable[None]]) -> bool:
        """Whether it is, or is not held any more, or the disk does not say."""
        try:
            is_right = await self._store.verify(blob.digest, paced)
            run.checked, run.bytes = run.checked + 1, run.bytes + blob.size
            # Once more, and set aside: memory and cables have faults, too.
            return is_right or await self._repair.examine(blob.digest, anew=True)
        except NotHeld:
            return True
        except OSError as error:
            run.unread += 1
            self._log.error("{digest} cannot be verified: {error}", digest=blob.digest, error=error)
            return True

    async def _mend(self, run: ScrubRun, progress: Callable[[ScrubProgress], None]) -> None:
        """Wait for what is being fetched again, and note what became of all that is or was lacking."""
        await self._repair.resume()
        sizes = {str(each.digest): each.size for each in await self._store.damaged()}
        found = {each.digest: each for each in run.damaged}
        new = set(found)
        for digest in map(str, self._repair.lacking):
            found.setdefault(digest, FoundDamaged(digest, sizes.get(digest, 0)))
        until = self._clock.seconds() + MENDED_WITHIN
        run.damaged = []
        for number, each in enumerate(found.values()):
            progress(ScrubProgress("mending", number, len(found), len(found)))
            mending = self._repair.mended(Digest.parse(each.digest))
            if not mending.called:
                mending.addTimeout(max(0.0, until - self._clock.seconds()), self._clock)
            try:
                outcome = await mending
            except WaitedLongEnough:
                outcome = WANTED
            if outcome != UNREFERENCED or each.digest in new:
                run.damaged.append(FoundDamaged(each.digest, each.size, outcome))
