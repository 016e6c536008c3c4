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
RESTED      the wait that it asked for is over              -             -             -             UP
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

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

from appliance.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from appliance.interfaces import Availability, Health, UrlCondition
from appliance.upstream.observer import IUpstreamObserver
from appliance.upstream.probes import Outcome, Probes
from appliance.upstream.resting import next_rest

#: Failures without an answer, and failures of any sort, after which it is down.
SILENT_FAILURES = 2
FAILURES = 5
#: How often it may become doubtful between two answered questions before a probe alone is no proof.
DOUBTS = 2
#: Seconds up to which an availability that is not bright may be relied on.
FORESIGHT = 1.0


class Event(Enum):
    """See the table above."""

    ANSWERED = "answered"
    FAILED = "failed"
    LOST = "lost"
    OVERDUE = "overdue"
    LIMITED = "limited"
    RESTED = "rested"
    PROBED = "probed"
    MISTRUSTED = "mistrusted"


UP, SUSPECT, DOWN, RATE_LIMITED = Health.UP, Health.SUSPECT, Health.DOWN, Health.RATE_LIMITED

TRANSITIONS: dict[Event, dict[Health, Health]] = {
    Event.ANSWERED: {UP: UP, SUSPECT: UP, DOWN: UP, RATE_LIMITED: RATE_LIMITED},
    Event.FAILED: {UP: SUSPECT, SUSPECT: SUSPECT, DOWN: DOWN, RATE_LIMITED: RATE_LIMITED},
    Event.LOST: {SUSPECT: DOWN, DOWN: DOWN, RATE_LIMITED: RATE_LIMITED},
    Event.OVERDUE: {UP: SUSPECT, SUSPECT: SUSPECT, DOWN: DOWN, RATE_LIMITED: RATE_LIMITED},
    Event.LIMITED: {UP: RATE_LIMITED, SUSPECT: RATE_LIMITED, DOWN: RATE_LIMITED, RATE_LIMITED: RATE_LIMITED},
    Event.RESTED: {RATE_LIMITED: UP},
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
        self._silences = self._failures = self._doubts = self._rests = 0
        self._probes = Probes(ping, self._judge, clock, random)
        self._resting: IDelayedCall | None = None
        self._stopped = False
        observer.became(upstream, url, UP)

    # -- what happens -----------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """A question was answered, be it with no."""
        if self.state is not RATE_LIMITED:
            self._doubts = self._rests = 0
        self._happen(Event.ANSWERED, "it answers")

    def failed(self, fault: UpstreamError) -> None:
        """A question had no answer, and nothing was heard of the URL since it was asked."""
        self._silences += 1
        self.erred(fault)

    def erred(self, fault: UpstreamError) -> None:
        """A question was answered with a failure of the server's own (a status from 500 on)."""
        self._failures += 1
        self._fault = fault
        enough = self._silences >= SILENT_FAILURES or self._failures >= FAILURES
        self._happen(Event.LOST if enough else Event.FAILED, fault.detail)

    def overdue(self, fault: UpstreamTimeout) -> None:
        """Somebody waited as long as anybody may, and C{fault} says for what."""
        self._fault = fault
        self._happen(Event.OVERDUE, fault.detail)

    def limited(self, fault: UpstreamRateLimited) -> None:
        """It asked for fewer requests, for C{fault.retry_after} seconds or for an unknown time."""
        seconds = next_rest(fault.retry_after, self._rests)
        if self.state is not RATE_LIMITED:
            self._rests += 1
        self._fault = fault
        self._probes.stop()
        self._rest(seconds)
        self._happen(Event.LIMITED, fault.detail)

    def stop(self) -> None:
        """No probe any more, and nobody is refused for want of one."""
        self._stopped = True
        self._quiet()

    # -- what is to be expected -------------------------------------------------------------------------------------

    def check(self) -> None:
        """
        Raises for a question that must not be asked now.

        @raise UpstreamUnavailable: it is down; L{UpstreamTimeout} when it went down in silence.
        @raise UpstreamRateLimited: it wanted fewer requests; with what remains of its rest.
        """
        refusal = self._refusal()
        if refusal is not None:
            self._probes.hasten()
            raise refusal

    def availability(self, busy: bool) -> Availability:
        """
        What to expect of a question.

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
        """When the rest ends or the next probe is made, in seconds of the clock."""
        return self._probes.due if self._resting is None else self._resting.getTime()

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
        self._doubts += self.state is UP and state is SUSPECT
        lasted, self.state, self._since = now - self._since, state, now
        if state is UP:
            self._fault = None
            self._quiet()
        elif state is not RATE_LIMITED and not self._stopped:
            self._probes.begin()
        self._tell(f"after {lasted:.0f} s: {reason}")

    def _tell(self, reason: str) -> None:
        level = LogLevel.info if self.state is UP else LogLevel.warn
        told = {"upstream": self._upstream, "url": self._url, "state": self.state.value, "reason": reason}
        self._log.emit(level, "{upstream}: {url} is {state} {reason}", **told)
        self._observer.became(self._upstream, self._url, self.state)

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
            sure = self._doubts < DOUBTS or self._probes.patient
            self._happen(Event.PROBED if sure else Event.MISTRUSTED, "a probe was answered")

    # -- time -------------------------------------------------------------------------------------------------------

    def _quiet(self) -> None:
        """No probe and no end of a rest to come."""
        self._probes.stop()
        resting, self._resting = self._resting, None
        if resting is not None:
            resting.cancel()

    def _rest(self, seconds: float) -> None:
        """From now on; a longer rest that is under way goes on."""
        until = self._clock.seconds() + seconds
        if self._stopped or (self._resting is not None and self._resting.getTime() >= until):
            return
        if self._resting is not None:
            self._resting.cancel()
        self._resting = self._clock.callLater(seconds, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._happen(Event.RESTED, "its rest is over")
