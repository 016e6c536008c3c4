"""Bytes that arrive from a peer, read at the reader's pace: what comes faster is made to wait."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime

AHEAD = 1024 * 1024
"""Bytes that may wait for the reader before their source is paused."""

LEAST = 64 * 1024
"""Bytes that have to come while the reader waits for so long as nothing may come: else a trickle would never end."""


class Arrival:
    """
    One stream of bytes, from one source after another, for one reader.

    @ivar received: bytes that came so far.
    """

    def __init__(self, clock: IReactorTime, silence: float, silent: Callable[[], Exception]) -> None:
        """
        @param silence: seconds for which the reader may wait while nothing comes, or less than L{LEAST} bytes.
        @param silent: makes what a read fails with after that.
        """
        self._clock = clock
        self._silence = silence
        self._silent = silent
        self._waiting = bytearray()
        self._source: IPushProducer | None = None
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._reader: tuple[Deferred[bytes], int] | None = None
        self._timer: IDelayedCall | None = None
        # Seconds that the reader has waited since so many bytes had come; of the wait under way, when it began.
        self._waited = self._began = 0.0
        self._counted = 0
        self.received = 0

    @property
    def has_source(self) -> bool:
        """Whether somebody sends."""
        return self._source is not None

    # -- the source's side ------------------------------------------------------------------------------------------

    def begin(self, source: IPushProducer) -> None:
        """C{source} sends from now on; it is paused while too much waits."""
        self._source, self._paused = source, False
        self._balance()

    def take(self, data: bytes) -> None:
        """Some bytes came."""
        if self._error is not None:
            return
        self.received += len(data)
        if self.received - self._counted >= LEAST:
            self._counted, self._waited, self._began = self.received, 0.0, self._clock.seconds()
        self._waiting += data
        self._wake()
        self._balance()

    def leave(self) -> None:
        """The source sends no more; another may go on."""
        self._source, self._paused = None, False

    def end(self) -> None:
        """Nothing comes any more: the reader gets what waits, then C{b""}."""
        self.leave()
        self._ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing comes any more: the reader gets what waits, then C{error}. The first of several counts."""
        source = self._source if self._paused else None
        self.leave()
        self._error = self._error or error
        self._wake()
        if source is not None:
            # So that what it goes on sending is dropped, and that its end is noticed.
            source.resumeProducing()

    # -- the reader's side ------------------------------------------------------------------------------------------

    def read(self, most: int) -> Deferred[bytes]:
        """
        Between one and C{most} bytes, as soon as there are some; none only at the end. One read at a time.

        Fails with what L{fail} was given, or with what says that nothing came for too long.
        """
        if self._waiting:
            return succeed(self._taken(most))
        if self._error is not None:
            return fail(self._error)
        if self._ended:
            return succeed(b"")
        waiter: Deferred[bytes] = Deferred(lambda _: self._forget_reader())
        self._reader = waiter, most
        self._began = self._clock.seconds()
        self._timer = self._clock.callLater(max(0.0, self._silence - self._waited), self._too_silent)
        self._balance()
        return waiter

    def _taken(self, most: int) -> bytes:
        data = bytes(self._waiting[:most])
        del self._waiting[:most]
        self._balance()
        return data

    def _wake(self) -> None:
        if self._reader is None or not (self._waiting or self._ended or self._error is not None):
            return
        waiter, most = self._reader
        self._forget_reader()
        if self._waiting:
            waiter.callback(self._taken(most))
        elif self._error is not None:
            waiter.errback(self._error)
        else:
            waiter.callback(b"")

    def _too_silent(self) -> None:
        self._timer = None
        self.fail(self._silent())

    def _forget_reader(self) -> None:
        timer, self._timer, self._reader = self._timer, None, None
        self._waited += self._clock.seconds() - self._began
        if timer is not None and timer.active():
            timer.cancel()

    def _balance(self) -> None:
        """Pause the source while enough waits, or let it go on."""
        if self._source is None or self._paused == (len(self._waiting) >= AHEAD):
            return
        self._paused = not self._paused
        if self._paused:
            self._source.pauseProducing()
        else:
            self._source.resumeProducing()
