"""Asking one URL again and again, after longer and longer pauses, until it has answered well enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.errors import UpstreamError

#: Seconds before the first probe and before any later one; each pause is twice the one before.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
#: How much longer or shorter a pause may be, as a part of it: appliances that lost a registry together must not return
#: to it together.
JITTER = 0.2
#: Seconds after a probe within which the next one is made for somebody who was turned away.
HASTE = 5.0

#: What came of a probe: the status of the answer, or why there was none.
Outcome = int | Exception


class Probes:
    """
    The probes of one URL, one at a time.

    @ivar patient: whether the last one was made after the longest pause.
    """

    _log = Logger()

    def __init__(
        self,
        ping: Callable[[], Awaitable[int]],
        judge: Callable[[Outcome], None],
        clock: IReactorTime,
        random: Callable[[], float],
    ) -> None:
        """
        @param ping: asks once.
        @param judge: told what came of it; may begin anew, or stop.
        @param random: gives numbers from 0 to 1.
        """
        self.patient = False
        self._ping = ping
        self._judge = judge
        self._clock = clock
        self._random = random
        self._pause = FIRST_PAUSE
        self._running = False
        self._last = 0.0
        self._timer: IDelayedCall | None = None
        self._probe: Deferred[Outcome] | None = None

    @property
    def due(self) -> float | None:
        """When the next one is made, in seconds of the clock; C{None} when one is under way, or none will be."""
        return None if self._timer is None else self._timer.getTime()

    def begin(self) -> None:
        """Probe from now on, with the shortest pause first; one that is under way is waited for."""
        self._running, self._pause, self.patient = True, FIRST_PAUSE, False
        self._last = self._clock.seconds()
        if self._probe is None:
            self._schedule()

    def hasten(self) -> None:
        """Somebody needs to know: make the next one at most C{HASTE} after the last one ended."""
        soon = self._last + HASTE
        if self._timer is not None and soon < self._timer.getTime():
            self._set(soon - self._clock.seconds())

    def stop(self) -> None:
        """No more; one that is under way is dropped."""
        self._running = False
        self._unset()
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()

    def _schedule(self) -> None:
        self._set(self._pause * (1 - JITTER + 2 * JITTER * self._random()))

    def _set(self, seconds: float) -> None:
        self._unset()
        self._timer = self._clock.callLater(max(0.0, seconds), self._look)

    def _unset(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self) -> None:
        self._timer = None
        self.patient = self._pause >= LONGEST_PAUSE
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._probe = probe = Deferred.fromCoroutine(self._asked())
        probe.addCallback(self._ended, probe).addErrback(self._dropped)

    async def _asked(self) -> Outcome:
        try:
            return await self._ping()
        except CancelledError:
            raise
        except UpstreamError as fault:
            return fault
        except Exception as mistake:
            # Whatever is wrong with a probe, there must be a next one.
            self._log.failure("a probe broke", Failure())
            return mistake

    def _ended(self, outcome: Outcome, probe: Deferred[Outcome]) -> None:
        if self._probe is not probe:
            return
        self._probe = None
        self._last = self._clock.seconds()
        self._judge(outcome)
        if self._running and self._timer is None:
            self._schedule()

    def _dropped(self, failure: Failure) -> None:
        failure.trap(CancelledError)
