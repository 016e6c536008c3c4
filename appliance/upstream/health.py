"""
How one URL of an upstream is, and when it is looked at again.

============  =======================================================  ==================================
state         means                                                    probes
============  =======================================================  ==================================
UP            it is asked, and its answer is waited for                none
SUSPECT       it is asked; a client with a cached answer does not      after 1 s, 2 s, ... 5 min
              wait for it
DOWN          it is not asked: every request fails at once             after 1 s, 2 s, ... 5 min
RATE_LIMITED  it is not asked: it wanted fewer requests                none; the wait ends by itself
============  =======================================================  ==================================

One event leads from one state to the next (L{TRANSITIONS}, where a dash means that it cannot happen there):

==========  ==============================================  ============  ============  ============  ============
event       means                                           UP            SUSPECT       DOWN          RATE_LIMITED
==========  ==============================================  ============  ============  ============  ============
ANSWERED    a request was answered                          UP            UP            UP            RATE_LIMITED
FAILED      a request or a probe failed                     SUSPECT       SUSPECT       DOWN          RATE_LIMITED
LOST        so did enough of them, one after the other      -             DOWN          DOWN          RATE_LIMITED
OVERDUE     a client waited long enough                     SUSPECT       SUSPECT       DOWN          RATE_LIMITED
LIMITED     it asked for fewer requests                     RATE_LIMITED  RATE_LIMITED  RATE_LIMITED  RATE_LIMITED
WAITED      the wait that it asked for is over              -             -             -             UP
PROBED      a probe was answered                            -             UP            UP            -
MISTRUSTED  so it was, but it was suspect twice since a     -             SUSPECT       SUSPECT       -
            request was answered: the fault lies elsewhere
==========  ==============================================  ============  ============  ============  ============

A probe is under way or scheduled exactly while the state is SUSPECT or DOWN. The pauses between probes begin anew with
each change of state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from appliance.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from appliance.upstream.interfaces import Availability, Health, IUpstreamObserver, UrlCondition
from appliance.upstream.ratelimit import next_wait

#: Failures without an answer, and failures of any sort, after which it is down.
SILENT_FAILURES = 2
FAILURES = 5
#: How often it may become suspect between two answered requests before a probe alone proves nothing.
SUSPICIONS = 2
#: Seconds up to which an L{Availability} that is not the best holds.
FORESIGHT = 1.0
#: Seconds before the first probe and before any later one; each pause is twice the one before.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
#: How much longer or shorter a pause may be, as a part of it: appliances that lost a registry together must not return
#: to it together.
JITTER = 0.2
#: Seconds after a probe within which the next one is made where a request was refused meanwhile.
SOON = 5.0

#: What came of a probe: the status of the answer, or why there was none.
Outcome = int | Exception


class Event(Enum):
    """See the table above."""

    ANSWERED = "answered"
    FAILED = "failed"
    LOST = "lost"
    OVERDUE = "overdue"
    LIMITED = "limited"
    WAITED = "waited"
    PROBED = "probed"
    MISTRUSTED = "mistrusted"


UP, SUSPECT, DOWN, RATE_LIMITED = Health.UP, Health.SUSPECT, Health.DOWN, Health.RATE_LIMITED

TRANSITIONS: dict[Event, dict[Health, Health]] = {
    Event.ANSWERED: {UP: UP, SUSPECT: UP, DOWN: UP, RATE_LIMITED: RATE_LIMITED},
    Event.FAILED: {UP: SUSPECT, SUSPECT: SUSPECT, DOWN: DOWN, RATE_LIMITED: RATE_LIMITED},
    Event.LOST: {SUSPECT: DOWN, DOWN: DOWN, RATE_LIMITED: RATE_LIMITED},
    Event.OVERDUE: {UP: SUSPECT, SUSPECT: SUSPECT, DOWN: DOWN, RATE_LIMITED: RATE_LIMITED},
    Event.LIMITED: {UP: RATE_LIMITED, SUSPECT: RATE_LIMITED, DOWN: RATE_LIMITED, RATE_LIMITED: RATE_LIMITED},
    Event.WAITED: {RATE_LIMITED: UP},
    Event.PROBED: {SUSPECT: UP, DOWN: UP},
    Event.MISTRUSTED: {SUSPECT: SUSPECT, DOWN: SUSPECT},
}


class IllegalTransition(Exception):
    """An event in a state where it cannot happen: a mistake of this program."""


class UrlHealth:
    """
    The machine of the module, for one URL.

    @ivar state: where it stands.
    """

    _log = Logger()

    def __init__(
        self,
        upstream: str,
        url: str,
        ping: Callable[[], Awaitable[int]],
        clock: IReactorTime,
        random: Callable[[], float],
        observer: IUpstreamObserver,
    ) -> None:
        """
        @param url: as it may be shown.
        @param ping: asks C{/v2/} once; fires with the status, or fails with an L{UpstreamError}.
        @param random: gives numbers from 0 to 1.
        """
        self.state = UP
        self._upstream = upstream
        self._url = url
        self._clock = clock
        self._observer = observer
        self._since = clock.seconds()
        self._fault: UpstreamError | None = None
        self._silences = self._failures = self._suspicions = self._waits = 0
        self._probes = Probes(ping, self._judge, clock, random)
        self._wait: IDelayedCall | None = None
        self._stopped = False
        observer.became(upstream, url, UP)

    # -- what happens -----------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """A request was answered, be it with an error of the client's (a status below 500)."""
        if self.state is not RATE_LIMITED:
            self._suspicions = self._waits = 0
        self._happen(Event.ANSWERED, "it answers")

    def failed(self, fault: UpstreamError) -> None:
        """A request had no answer, and the URL has answered no other since it was sent."""
        self._silences += 1
        self.erred(fault)

    def erred(self, fault: UpstreamError) -> None:
        """A request was answered with a failure of the server's own (a status from 500 on)."""
        self._failures += 1
        self._fault = fault
        enough = self._silences >= SILENT_FAILURES or self._failures >= FAILURES
        self._happen(Event.LOST if enough else Event.FAILED, fault.detail)

    def overdue(self, fault: UpstreamTimeout) -> None:
        """A client waited as long as any does, and C{fault} says for what."""
        self._fault = fault
        self._happen(Event.OVERDUE, fault.detail)

    def limited(self, fault: UpstreamRateLimited) -> None:
        """It asked for fewer requests, for C{fault.retry_after} seconds or for an unknown time."""
        seconds = next_wait(fault.retry_after, self._waits)
        if self.state is not RATE_LIMITED:
            self._waits += 1
        self._fault = fault
        self._probes.stop()
        self._wait_for(seconds)
        self._happen(Event.LIMITED, fault.detail)

    def stop(self) -> None:
        """Probe no more; and since nothing would end a refusal then, none is given."""
        self._stopped = True
        self._cancel_timers()

    # -- what is to be expected -------------------------------------------------------------------------------------

    def check(self) -> None:
        """
        Raises for a request that must not be sent now.

        @raise UpstreamUnavailable: it is down; L{UpstreamTimeout} when it went down in silence.
        @raise UpstreamRateLimited: it wanted fewer requests; with the seconds that are left.
        """
        refusal = self._refusal()
        if refusal is not None:
            self._probes.probe_soon()
            raise refusal

    def availability(self, busy: bool) -> Availability:
        """
        What to expect of a request.

        @param busy: whether one is under way already.
        """
        if self.state is UP or self._stopped:
            return Availability()
        soon = self._clock.seconds() + FORESIGHT
        due = self._due() or soon
        if self.state is SUSPECT:
            return Availability(not busy, False, self._fault, min(due, soon))
        return Availability(False, False, self._refusal(), due if self.state is RATE_LIMITED else min(due, soon))

    def condition(self) -> UrlCondition:
        """For operators."""
        fault = "" if self._fault is None else self._fault.detail
        return UrlCondition(self._url, self.state, self._since, fault, self._due())

    def _refusal(self) -> UpstreamError | None:
        if self._stopped or self.state in (UP, SUSPECT):
            return None
        now = self._clock.seconds()
        left = max(0.0, (self._due() or now) - now)
        reason = "" if self._fault is None else f" ({self._fault.detail})"
        if self.state is RATE_LIMITED:
            what = f"{self._url} wanted fewer requests and is not asked for another {left:.0f} s{reason}"
            return UpstreamRateLimited(self._upstream, what, left)
        kind = UpstreamTimeout if isinstance(self._fault, UpstreamTimeout) else UpstreamUnavailable
        what = f"{self._url} has been down for {now - self._since:.0f} s{reason}; it is tried again in {left:.0f} s"
        return kind(self._upstream, what)

    def _due(self) -> float | None:
        """When the wait ends or the next probe is made, in seconds of the clock."""
        return self._probes.due if self._wait is None else self._wait.getTime()

    # -- the machine ------------------------------------------------------------------------------------------------

    def _happen(self, event: Event, reason: str) -> None:
        try:
            after = TRANSITIONS[event][self.state]
        except KeyError:
            raise IllegalTransition(f"{self._url} is {self.state.value}: {event.value}") from None
        if after is UP or event is Event.MISTRUSTED:
            self._silences = self._failures = 0
        if after is not self.state:
            self._enter(after, reason)

    def _enter(self, state: Health, reason: str) -> None:
        now = self._clock.seconds()
        self._suspicions += self.state is UP and state is SUSPECT
        lasted, self.state, self._since = now - self._since, state, now
        if state is UP:
            self._fault = None
            self._cancel_timers()
        elif state is not RATE_LIMITED and not self._stopped:
            self._probes.begin()
        self._log.emit(
            LogLevel.info if state is UP else LogLevel.warn,
            "{upstream}: {url} is {state} {reason}",
            upstream=self._upstream,
            url=self._url,
            state=state.value,
            reason=f"after {lasted:.0f} s: {reason}",
        )
        self._observer.became(self._upstream, self._url, state)

    def _judge(self, outcome: Outcome) -> None:
        """A probe has ended."""
        what = f"GET {self._url}/v2/"
        if outcome == 429:
            outcome = UpstreamRateLimited(self._upstream, f"{what} answered 429")
        if isinstance(outcome, UpstreamRateLimited):
            self.limited(outcome)
        elif isinstance(outcome, Exception) and not isinstance(outcome, UpstreamInvalid):
            unknown = UpstreamUnavailable(self._upstream, f"{what} could not be asked")
            self.failed(outcome if isinstance(outcome, UpstreamError) else unknown)
        elif isinstance(outcome, int) and outcome >= 500:
            self.erred(UpstreamUnavailable(self._upstream, f"{what} answered {outcome}"))
        else:
            sure = self._suspicions < SUSPICIONS or self._probes.at_longest
            self._happen(Event.PROBED if sure else Event.MISTRUSTED, "a probe was answered")

    # -- time -------------------------------------------------------------------------------------------------------

    def _cancel_timers(self) -> None:
        """No probe, and no end of a wait."""
        self._probes.stop()
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.cancel()

    def _wait_for(self, seconds: float) -> None:
        """From now on; a longer wait that is under way goes on."""
        until = self._clock.seconds() + seconds
        if self._stopped or (self._wait is not None and self._wait.getTime() >= until):
            return
        if self._wait is not None:
            self._wait.cancel()
        self._wait = self._clock.callLater(seconds, self._waited)

    def _waited(self) -> None:
        self._wait = None
        self._happen(Event.WAITED, "the time it asked for is over")


class Probes:
    """
    Asks one URL again and again, after longer and longer pauses, until it is stopped; one probe at a time.

    @ivar at_longest: whether the last one was made after the longest pause.
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
        @param judge: called with what came of it; may begin anew, or stop.
        @param random: gives numbers from 0 to 1.
        """
        self.at_longest = False
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
        self._running, self._pause, self.at_longest = True, FIRST_PAUSE, False
        self._last = self._clock.seconds()
        if self._probe is None:
            self._schedule()

    def probe_soon(self) -> None:
        """A request was refused: make the next one at most C{SOON} after the last one ended."""
        soon = self._last + SOON
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
        self._timer = self._clock.callLater(max(0.0, seconds), self._probe_now)

    def _unset(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _probe_now(self) -> None:
        self._timer = None
        self.at_longest = self._pause >= LONGEST_PAUSE
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._probe = probe = Deferred.fromCoroutine(self._outcome())
        probe.addCallback(self._ended, probe).addErrback(lambda failure: failure.trap(CancelledError))

    async def _outcome(self) -> Outcome:
        try:
            return await self._ping()
        except CancelledError:
            raise
        except UpstreamError as fault:
            return fault
        except Exception as mistake:
            # A mistake of ours in one probe must not be the end of all probes.
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
