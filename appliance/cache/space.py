"""
Room on the disk: how much there is, how much of it is to stay, and what is done while there is less.

=============  =================================  ================================================================
state          free                               what is pulled
=============  =================================  ================================================================
``ok``         more than the reserve              is stored
``short``      less than the reserve              asks the collection for room, and is I{unstored} where that cannot
                                                  help: passed on, by a file without a name within the reserve
``full``       less than half of the reserve, or  is unstored, by a window in memory; the rest of the reserve is for
               the disk has just refused a write  documents
``read-only``  nothing can be written             is unstored, by a window in memory
=============  =================================  ================================================================

Clients get every byte in each of them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.errors import PullcacheError
from appliance.flow.disk import is_refusal
from appliance.flow.singleflight import SingleFlight
from appliance.interfaces import IBlobStore
from appliance.settings import RetentionSettings

OK, SHORT, FULL, READ_ONLY = "ok", "short", "full", "read-only"

COLLECTING = 2.0
"""Seconds that a client waits for the collection before its blob passes through unstored."""

FRUITLESS = 60.0
"""Seconds before a collection that freed nothing is asked for again."""

EVERY = 60.0
"""Seconds between two lines in the log, and for which a write that was refused counts."""


class Space:
    """
    See the module.

    @ivar unstored: bytes that were passed on and not stored, since the start.
    @ivar coming: gives the bytes that are still to be stored of what is being fetched.
    @ivar collect: is asked to have so many bytes of the disk free, and fires when it has done what it can; C{None}:
        nothing is ever collected.
    """

    _log = Logger()

    def __init__(
        self,
        store: IBlobStore,
        clock: IReactorTime,
        settings: RetentionSettings,
        counted: Callable[[int], None] = lambda _: None,
    ) -> None:
        """
        @param counted: is called with bytes that were passed on and not stored.
        """
        self._store = store
        self._clock = clock
        self._collecting: SingleFlight[str, None] = SingleFlight()
        self._fruitless_until = 0.0
        self._refused: tuple[float, OSError] | None = None
        self._said_at: float | None = None
        self._counted = counted
        self.unstored = 0
        self.coming: Callable[[], int] = lambda: 0
        self.collect: Callable[[int], Deferred[Any]] | None = None
        self.configure(settings)

    def configure(self, settings: RetentionSettings) -> None:
        """Follow these settings from now on."""
        self._settings = settings
        self._store.floor = self.reserve // 2
        wanted = None if settings.reserve is None else settings.reserve.of(self.capacity)
        if wanted is not None and wanted > self.reserve:
            self._log.warn(
                "retention.reserve: {wanted} is not less than the disk of the store, which has {capacity} bytes;"
                " {reserve} bytes are kept free instead, as where nothing is configured",
                wanted=settings.reserve,
                capacity=self.capacity,
                reserve=self.reserve,
            )

    @property
    def capacity(self) -> int:
        """Bytes of the disk, 0 where that is not known."""
        try:
            return int(self._store.capacity())
        except OSError:
            return 0

    @property
    def reserve(self) -> int:
        """Bytes of the disk that are to stay free."""
        return self._settings.reserved(self.capacity)

    def free(self) -> int:
        """Bytes of the disk that are free, 0 where nothing can be written or that is not known."""
        try:
            return int(self._store.free())
        except OSError:
            return 0

    @property
    def state(self) -> str:
        """One of the table's."""
        try:
            free = self._store.free()
        except OSError as error:
            return READ_ONLY if error.errno == errno.EROFS else OK
        refusal = self.refusal
        if refusal is not None and refusal.errno == errno.EROFS:
            return READ_ONLY
        if free < self._store.floor or (refusal is not None and refusal.errno in (errno.ENOSPC, errno.EDQUOT)):
            return FULL
        return SHORT if free < self.reserve else OK

    @property
    def refusal(self) -> OSError | None:
        """What the disk said to the last write that it refused, if that was lately."""
        if self._refused is None or self._clock.seconds() - self._refused[0] >= EVERY:
            return None
        return self._refused[1]

    def is_short(self, more: int = 0) -> bool:
        """Whether less than the reserve will be left by what is coming and C{more} bytes. Immediate."""
        try:
            return bool(self._store.free() - self.coming() - more < self.reserve)
        except OSError as error:
            # What cannot be found out is left to the writes.
            return error.errno == errno.EROFS

    async def room(self, more: int = 0, patience: float = COLLECTING) -> bool:
        """
        Whether what is coming and C{more} bytes may be stored, after the collection was asked for room where there is
        none.

        @param patience: seconds that are waited for it.
        """
        for _ in range(2):
            if not self.is_short(more):
                return True
            if not self._can_collect(more):
                return False
            try:
                await self._ask(more).addTimeout(patience, self._clock)
            except DeferredTimeout:
                break
        return not self.is_short(more)

    def look(self) -> None:
        """Let the collection begin where the reserve is reached. Immediate; to be called now and then."""
        self._store.floor = self.reserve // 2
        if self.is_short() and self._can_collect(0):
            self._ask(0)

    def passed(self, octets: int) -> None:
        """So many bytes were passed on and not stored."""
        self.unstored += octets
        self._counted(octets)
        self._say("what is pulled now is passed on and not stored")

    def refused(self, error: OSError) -> None:
        """The disk did not take something, which is served all the same."""
        self._refused = (self._clock.seconds(), error)
        self._say(f"a write was refused ({error.strerror or error}), and what it was for is served all the same")

    @contextmanager
    def spared(self) -> Iterator[None]:
        """What the disk does not take of what is written within is L{refused}, and no failure."""
        try:
            yield
        except OSError as error:
            if not is_refusal(error):
                raise
            self.refused(error)

    def _can_collect(self, more: int) -> bool:
        """Whether asking the collection may help: what fits on no empty disk is worth no image."""
        if self.collect is None or self._clock.seconds() < self._fruitless_until:
            return False
        wanted = self.reserve + self.coming() + more
        return self.free() + self._store.total() >= wanted if self.state != READ_ONLY else False

    def _ask(self, more: int) -> Deferred[None]:
        return self._collecting.run("", lambda: self._collect(more))

    async def _collect(self, more: int) -> None:
        assert self.collect is not None
        before = self.free()
        try:
            await self.collect(self.reserve + self.coming() + more)
        except (PullcacheError, OSError) as error:
            self._log.warn("no room was made: {error}", error=error)
        except Exception:
            self._log.failure("making room failed", Failure())
        if self.free() <= before:
            self._fruitless_until = self._clock.seconds() + FRUITLESS

    def _say(self, what: str) -> None:
        now = self._clock.seconds()
        if self._said_at is not None and now - self._said_at < EVERY:
            return
        self._said_at = now
        self._log.warn(
            "disk {state}: {free} of {capacity} are free, {reserve} are kept free; {what}; {unstored} bytes were not"
            " stored since the start",
            state=self.state,
            free=self.free(),
            capacity=self.capacity,
            reserve=self.reserve,
            what=what,
            unstored=self.unstored,
        )
