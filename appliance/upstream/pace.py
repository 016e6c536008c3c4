"""
So many bytes a second for all bodies of one upstream together.

A token bucket whose tokens are dealt out to the bodies under way. Bytes that have come cannot be sent back, so a body
runs into debt by the piece it was reading and is held until that is paid; every debtor is dealt the same, however large
its pieces are. A body that is slower than its part keeps a little of it for its next piece, and the rest goes to those
that can use it.

Nothing is done per piece but a subtraction: time is looked at when a body has used up what it was dealt, and a timer
runs only while one is held.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds whose worth of bytes may come at once after a time in which fewer came; with them comes the piece that each
#: body was about to bring.
BURST = 0.25
#: Seconds between two deals while a body is held.
TICK = 0.05
#: Seconds whose worth all bodies together may keep for later. With two ticks it is no more than L{BURST}, so that a
#: deal that is late by a tick still has room for those that wait.
KEPT = 0.15
#: What all bodies in the background get together while somebody waits for others.
BACKGROUND_PART = 0.1


class Share:
    """
    One body's part of a pace; made by L{Pace.share}.

    @ivar background: whether nobody waits for the body.
    @ivar balance: bytes it may still take; a debt when below nought.
    @ivar held: whether it was told to wait.
    """

    def __init__(self, pace: Pace, background: bool, hold: Callable[[], None], release: Callable[[], None]) -> None:
        self.background = background
        self.balance = 0.0
        self.held = False
        self.hold = hold
        self.release = release
        self._pace = pace

    def join(self) -> None:
        """The body begins."""
        self._pace.add(self)

    def spend(self, octets: int) -> None:
        """So many bytes have come."""
        self.balance -= octets
        if self.balance <= 0 and not self.held:
            self._pace.exhausted(self)

    def leave(self) -> None:
        """The body ended; may be said more than once."""
        self._pace.remove(self)


class Pace:
    """The rate of one upstream."""

    def __init__(self, clock: IReactorTime, octets_per_second: float) -> None:
        self._clock = clock
        self._rate = octets_per_second
        self._pool = octets_per_second * BURST
        self._dealt_at = clock.seconds()
        self._shares: list[Share] = []
        self._call: IDelayedCall | None = None

    def share(self, background: bool, hold: Callable[[], None], release: Callable[[], None]) -> Share:
        """
        For one body, which L{Share.join}s, L{Share.spend}s and L{Share.leave}s.

        @param hold: called when no more may be read for now, C{release}: when it may again; in turns.
        """
        return Share(self, background, hold, release)

    def add(self, share: Share) -> None:
        """A body begins; its first piece is always taken."""
        self._shares.append(share)

    def remove(self, share: Share) -> None:
        """A body ended; what it left, a debt too, is everybody's."""
        if share in self._shares:
            self._shares.remove(share)
            self._pool += share.balance
            share.held = False
            self._watch_the_clock()

    def exhausted(self, share: Share) -> None:
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
        """Deal again in a while as long as somebody is held."""
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
        self._pour(rooms)

    def _rooms(self) -> dict[Share, tuple[float, float]]:
        """
        The weight of each share, and how much it takes: one that waits whatever it is given, any other up to its part
        of L{KEPT}. What somebody has beyond that goes back into the pool.
        """
        rooms = {}
        weights = self._weights()
        for share in self._shares:
            weight = weights[share.background]
            room = float("inf") if share.balance <= 0 else self._rate * KEPT * weight - share.balance
            if room < 0:
                share.balance += room
                self._pool -= room
            rooms[share] = (weight, max(room, 0.0))
        return rooms

    def _weights(self) -> dict[bool, float]:
        """Of one body with somebody waiting and of one in the background; all weights make 1."""
        behind = sum(share.background for share in self._shares)
        before = len(self._shares) - behind
        part = 1.0 if not before else BACKGROUND_PART if behind else 0.0
        return {False: (1.0 - part) / max(before, 1), True: part / max(behind, 1)}

    def _pour(self, rooms: dict[Share, tuple[float, float]]) -> None:
        """Deal out the pool by weight; what would overflow a share is dealt among the others."""
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
