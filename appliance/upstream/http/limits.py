"""
What limits the requests to one upstream: durations, the end of all of them, and so many bytes a second for all bodies.

The last is a token bucket whose tokens are dealt out to the bodies under way. Bytes that have come cannot be sent back,
so a body runs into debt by the piece it was reading and is held until that is paid; every debtor is dealt the same,
however large its pieces are. A body that is slower than its part keeps a little of it for its next piece, and the rest
goes to those that can use it.

Nothing is done per piece but a subtraction: time is looked at when a body has used up what it was dealt, and a timer
runs only while one is held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from appliance.errors import Offline


@dataclass(frozen=True)
class Timeouts:
    """
    Durations, in seconds.

    @ivar connect: for resolving a name, and for each connection attempt.
    @ivar headers: from the request to the end of the response's header section, connecting included; so it is longer
        than C{connect}.
    @ivar silence: without a byte of the body while it is not paused.
    @ivar whole: for a body that is read into memory (a manifest, a token, tags, an error), even while bytes still
        come; so it is longer than C{silence}. A blob may take any time.
    @ivar idle: a connection is kept open for the next request. Shorter than common servers keep theirs (60 s and up),
        so that a request seldom meets a connection that is being closed.
    """

    connect: float = 10.0
    headers: float = 30.0
    silence: float = 30.0
    whole: float = 60.0
    idle: int = 30


class Gate:
    """
    What every request to one upstream, and every body of its answers, passes; L{close} ends them and stops all later
    ones.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._closed = False
        self._under_way: list[Callable[[], object]] = []

    def check(self) -> None:
        """Raises L{Offline} once it has been closed."""
        if self._closed:
            raise Offline(f"{self._upstream} is not asked any more: the configuration was read again")

    def add(self, end: Callable[[], object]) -> None:
        """A transfer is under way until L{remove}; C{end} ends it, at once when the gate is closed already."""
        if self._closed:
            end()
        else:
            self._under_way.append(end)

    def remove(self, end: Callable[[], object]) -> None:
        """The transfer is over; it is no error when it was not under way."""
        if end in self._under_way:
            self._under_way.remove(end)

    def close(self) -> None:
        """End what is under way and let nothing more by, for good."""
        self._closed = True
        # One at a time: the end of one may be that of another.
        while self._under_way:
            self._under_way.pop(0)()


#: How often within its limit silence is looked for: it is noticed at most this fraction of the limit late.
_TICKS = 30


@dataclass(frozen=True)
class BodyLimits:
    """
    How a body is read.

    @ivar upstream: on whose behalf, for errors.
    @ivar silence: seconds without a byte, while not paused, after which it is given up.
    @ivar received: called with bytes received since the last call.
    @ivar whole: seconds after which it is given up even while bytes still come, C{None} for never.
    @ivar bandwidth: how fast it may come together with all others, C{None} for any speed.
    @ivar background: whether no client waits for it.
    @ivar gate: drops it when it is closed, C{None} for none.
    """

    upstream: str
    clock: IReactorTime
    silence: float
    received: Callable[[int], None] = lambda octets: None
    whole: float | None = None
    bandwidth: BandwidthLimit | None = None
    background: bool = False
    gate: Gate | None = None


class Silence:
    """
    Notices that nothing comes any more, without touching a timer for every piece that does.

    A counter is compared with itself at steady intervals. Ticks are counted instead of reading the clock, which the
    operator may set.
    """

    def __init__(
        self, clock: IReactorTime, limit: float, count: Callable[[], int], expired: Callable[[], None]
    ) -> None:
        """
        @param limit: seconds in which C{count()} must change, while started.
        @param count: any number that grows with progress; asked at every tick.
        @param expired: called once, the timer stopped, when C{count()} has not changed for C{limit} seconds.
        """
        self._clock = clock
        self._interval = limit / _TICKS
        self._count = count
        self._expired = expired
        self._seen = 0
        self._silent = 0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin, or begin again, with the full limit."""
        self.stop()
        self._seen = self._count()
        self._silent = 0
        self._call = self._clock.callLater(self._interval, self._tick)

    def stop(self) -> None:
        """Expire no more until started again."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _tick(self) -> None:
        self._call = None
        seen, self._seen = self._seen, self._count()
        self._silent = self._silent + 1 if seen == self._seen else 0
        if self._silent >= _TICKS:
            self._expired()
        else:
            self._call = self._clock.callLater(self._interval, self._tick)


# -- bytes a second ---------------------------------------------------------------------------------------------------

#: Seconds whose worth of bytes may come at once after a time in which fewer came; with them comes the piece that each
#: body was about to bring.
BURST = 0.25
#: Seconds between two deals while a body is held.
TICK = 0.05
#: Seconds whose worth all bodies together may keep for later. With two ticks it is no more than L{BURST}, so that a
#: deal that is late by a tick still has room for those that wait.
KEPT = 0.15
#: What all bodies in the background get together while a client waits for others.
BACKGROUND_PART = 0.1


class BandwidthShare:
    """
    One body's part of the bandwidth; made by L{BandwidthLimit.share}.

    @ivar background: whether no client waits for the body.
    @ivar balance: bytes it may still take; a debt when below nought.
    @ivar held: whether it has to wait.
    """

    def __init__(
        self, limit: BandwidthLimit, background: bool, hold: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.background = background
        self.balance = 0.0
        self.held = False
        self.hold = hold
        self.release = release
        self._limit = limit

    def join(self) -> None:
        """The body begins."""
        self._limit.add(self)

    def spend(self, octets: int) -> None:
        """So many bytes have come."""
        self.balance -= octets
        if self.balance <= 0 and not self.held:
            self._limit.exhausted(self)

    def leave(self) -> None:
        """The body ended; may be called more than once."""
        self._limit.remove(self)


class BandwidthLimit:
    """The bandwidth of one upstream."""

    def __init__(self, clock: IReactorTime, octets_per_second: float) -> None:
        self._clock = clock
        self._rate = octets_per_second
        self._pool = octets_per_second * BURST
        self._dealt_at = clock.seconds()
        self._shares: list[BandwidthShare] = []
        self._call: IDelayedCall | None = None

    def share(self, background: bool, hold: Callable[[], None], release: Callable[[], None]) -> BandwidthShare:
        """
        For one body, which calls C{join}, C{spend} and C{leave} of it.

        @param hold: called when no more may be read for now, C{release}: when it may again; in turns.
        """
        return BandwidthShare(self, background, hold, release)

    def add(self, share: BandwidthShare) -> None:
        """A body begins; its first piece is always taken."""
        self._shares.append(share)

    def remove(self, share: BandwidthShare) -> None:
        """A body ended; what it left, a debt too, goes to all others."""
        if share in self._shares:
            self._shares.remove(share)
            self._pool += share.balance
            share.held = False
            self._watch_the_clock()

    def exhausted(self, share: BandwidthShare) -> None:
        """C{share} has used up what it was dealt: it gets more, or is held."""
        if self._pool > 0 or self._clock.seconds() - self._dealt_at >= TICK:
            self._deal()
        if share.balance <= 0 and not share.held:
            share.held = True
            share.hold()
        self._watch_the_clock()

    def _tick(self) -> None:
        self._call = None
        self._deal()
        # A body that goes on may at once be exhausted again, end, or have others end.
        for share in [share for share in self._shares if share.held and share.balance > 0]:
            if share.held and share.balance > 0:
                share.held = False
                share.release()
        self._watch_the_clock()

    def _watch_the_clock(self) -> None:
        """Deal again in a while as long as a body is held."""
        waiting = any(share.held for share in self._shares)
        if waiting and self._call is None:
            self._call = self._clock.callLater(TICK, self._tick)
        elif not waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _deal(self) -> None:
        """Take in what the time since the last deal was worth, and deal it out; a clock set back is worth nothing."""
        now = self._clock.seconds()
        self._pool += max(now - self._dealt_at, 0.0) * self._rate
        self._dealt_at = now
        rooms = self._rooms()
        total = self._pool + sum(share.balance for share in self._shares)
        self._pool -= max(total - self._rate * BURST, 0.0)
        # By weight; what would overflow a share is dealt among the others.
        while self._pool > 0 and rooms:
            unit = self._pool / sum(weight for weight, _ in rooms.values())
            full = [share for share, (weight, room) in rooms.items() if room <= unit * weight]
            for share in full:
                room = rooms.pop(share)[1]
                share.balance += room
                self._pool -= room
            if not full:
                for share, (weight, _) in rooms.items():
                    share.balance += unit * weight
                self._pool = 0.0

    def _rooms(self) -> dict[BandwidthShare, tuple[float, float]]:
        """
        The weight of each share (together 1), and how much it takes: one that waits whatever it is given, any other up
        to its part of L{KEPT}. What a share has beyond that goes back into the pool.
        """
        behind = sum(share.background for share in self._shares)
        before = len(self._shares) - behind
        part = 1.0 if not before else BACKGROUND_PART if behind else 0.0
        weights = {False: (1.0 - part) / max(before, 1), True: part / max(behind, 1)}
        rooms = {}
        for share in self._shares:
            weight = weights[share.background]
            room = float("inf") if share.balance <= 0 else self._rate * KEPT * weight - share.balance
            if room < 0:
                share.balance += room
                self._pool -= room
            rooms[share] = (weight, max(room, 0.0))
        return rooms
