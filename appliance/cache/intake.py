"""
Where the bytes of a flight go: into the store, or, while the disk has no room for them, only on to its readers.

=========  ================================================  ==========================================================
           when                                              what that means
=========  ================================================  ==========================================================
stored     L{Space} has room for all that is missing         it goes on, read or not, and is a blob in the end
unstored   there is none; or the disk refuses it, now or in  nothing is left of it. What has been written stays for its
           the middle                                        readers, the latest bytes are in memory, and the upstream
                                                             waits for the slowest; it ends with its last reader
neither    as unstored, and no client waits for it           L{NoSpace}
=========  ================================================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.space import Space
from appliance.errors import NoSpace
from appliance.flow.disk import is_refusal
from appliance.flow.writer import HIGH, ThreadWriter
from appliance.interfaces import IBlobStore, IIngest
from appliance.oci.digest import Digest

LOOK = 10.0
"""
Seconds between two looks at the readers of what is unstored: those who stand still while others wait are given up, and
without any it ends.
"""

LITTLE = 512 * 1024
"""Bytes that wait for a place in memory before the upstream waits: behind each of many full windows."""


class Intake:
    """
    See the module. L{begin} first; L{close} it.

    @ivar ingest: what the bytes go into.
    """

    _log = Logger()

    def __init__(
        self,
        digest: Digest,
        store: IBlobStore,
        space: Space,
        clock: IReactorTime,
        advanced: Callable[[], None],
        in_background: Callable[[], bool],
        is_awaited: Callable[[], bool],
        abandon: Callable[[NoSpace], None],
    ) -> None:
        """
        @param advanced: called when bytes have come, before their readers are waited for.
        @param in_background: whether no client waits for the flight.
        @param is_awaited: whether a client waits that has no reader yet.
        @param abandon: called with the reason when what is unstored has had no reader for a while.
        """
        self._digest = digest
        self._store = store
        self._space = space
        self._clock = clock
        self._advanced = advanced
        self._in_background = in_background
        self._is_awaited = is_awaited
        self._abandon = abandon
        self._passed_on = 0
        self._writer: ThreadWriter | None = None
        self._room: Deferred[None] | None = None
        self._looking: IDelayedCall | None = None
        self._was_read = True
        self.ingest: IIngest

    async def begin(self, size: int | None, keep: bool = True) -> IIngest:
        """
        Open C{ingest}, stored if that is possible.

        @param size: bytes of the blob, C{None} while that is not known.
        @param keep: whether it may be stored.
        @raise NoSpace: it is not, and no client waits for it.
        """
        refused: OSError | None = None
        if keep and await self._has_room(size or 0):
            try:
                self.ingest = await self._store.ingest(self._digest)
                return self.ingest
            except OSError as error:
                if not is_refusal(error):
                    raise
                refused = error
                self._space.refused(error)
        if self._in_background():
            raise self._no_space() from refused
        self.ingest = await self._store.ingest(self._digest, keep=False)
        self._look()
        return self.ingest

    async def learned(self, size: int) -> None:
        """Its size has become known: from here on it is unstored if the disk has no room for that."""
        if self.ingest.stored and not await self._space.room(max(0, size - self.ingest.size)):
            self._unstore()

    def writer(self, skip: int, limit: int, is_promised: bool) -> ThreadWriter:
        """
        Takes what one line brings; L{drain} it when the line has ended.

        @param skip: bytes at the beginning that are here already.
        @param limit: the most that may come.
        @param is_promised: whether readers get what comes; else no more of it is unstored than memory holds.
        """

        def store(pieces: list[bytes]) -> Deferred[None]:
            written: Deferred[None] = self.ingest.write(pieces)
            return written.addErrback(self._refused, pieces).addCallback(lambda _: self._written(is_promised))

        self._writer = ThreadWriter(store, skip, limit, HIGH if self.ingest.stored else LITTLE)
        return self._writer

    async def drain(self) -> None:
        """
        All that came has been taken, read or not: the next line waits for the readers, not the end of this one. Raises
        what the writer failed with.
        """
        assert self._writer is not None
        writer, self._writer = self._writer, None
        if self._room is not None:
            self._room.cancel()
        await writer.drained()

    def close(self) -> None:
        """No more comes."""
        if self._looking is not None:
            self._looking.cancel()
        if hasattr(self, "ingest"):
            self.ingest.close()

    async def _has_room(self, more: int) -> bool:
        if not self._space.is_short(more):
            return True
        with suppress(OSError):
            left = await self._store.inspect(self._digest)
            more -= 0 if left is None else left.size
        return await self._space.room(max(0, more))

    def _refused(self, failure: Failure, pieces: list[bytes]) -> Deferred[None]:
        """The disk did not take C{pieces}: from here on it is unstored."""
        if not is_refusal(failure.value):
            failure.raiseException()
        self._space.refused(failure.value)
        self._unstore()
        passed: Deferred[None] = self.ingest.write(pieces)
        return passed

    def _unstore(self) -> None:
        self.ingest.unstore()
        if self._in_background():
            raise self._no_space()
        if self._writer is not None:
            self._writer.high = LITTLE
        self._look()

    def _written(self, is_promised: bool) -> Deferred[None] | None:
        self._advanced()
        if self.ingest.stored:
            return None
        self._space.passed(self.ingest.size - self._passed_on)
        self._passed_on = self.ingest.size
        room: Deferred[None] = self.ingest.room()
        if room.called or self._writer is None:
            return None
        room.addErrback(lambda failure: failure.trap(CancelledError))
        if not is_promised:
            room.cancel()
            raise NoSpace(f"{self._digest}: the disk has no room for it, and its size is not told")
        self._room = room
        return room.addCallback(self._made_room)

    def _made_room(self, _: object) -> None:
        self._room = None

    def _look(self) -> None:
        """See to the readers of what is unstored, now and then."""
        self._looking = None
        is_read = self.ingest.readers > 0 or self._is_awaited()
        if not is_read and not self._was_read:
            self._abandon(self._no_space(", and no client reads it any more"))
            return
        self._was_read = is_read
        if count := self.ingest.shed():
            self._log.info("{digest}: {count} readers were too slow for the others", digest=self._digest, count=count)
        self._looking = self._clock.callLater(LOOK, self._look)

    def _no_space(self, more: str = "") -> NoSpace:
        return NoSpace(f"{self._digest}: the disk has no room for it{more}")
