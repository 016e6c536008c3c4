"""
How fast the connections of one client may send, all together.

A token bucket whose owner may change its rate at any moment. A connection asks before each piece it sends; one that
comes when the bucket is empty is held, in a queue, so that all of them get a piece in turns. Only connections that
could send are held: what a client does not take by itself costs it nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

UNLIMITED = 1 << 62
"""What a connection may send where there is no rate."""

# Seconds whose worth is sent at a time, so that little of it queues on the line in front of others' bytes; and the
# bounds of such a piece, in bytes.
_PIECE_SECONDS = 0.01
_SMALLEST, _LARGEST = 4096, 1024 * 1024
# Seconds whose worth may be sent at once after a time in which less was: as late as a reactor may be.
_BURST = 0.05
# The shortest time that is waited for, in seconds: no reactor counts in smaller steps.
_STEP = 0.001


class Paced(Protocol):
    """A connection that asks before it sends."""

    def go_on(self) -> None:
        """It was held, and may ask again."""

    def slow_down(self) -> None:
        """There is a rate from now on, and it is to ask before what it sends next."""


class Pace:
    """
    See the module.

    @ivar was_held: whether a connection had to wait since this was last set to C{False}.
    @ivar users: the connections that ask.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._rate: float | None = None
        self._balance = 0.0
        self._at = clock.seconds()
        self._queue: deque[Paced] = deque()
        self._called: set[Paced] = set()
        self._timer: IDelayedCall | None = None
        self.was_held = False
        self.users: set[Paced] = set()

    @property
    def rate(self) -> float | None:
        """Bytes a second; C{None} for any number."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        if rate == self._rate:
            return
        if self._rate is None:
            for connection in self.users:
                connection.slow_down()
        self._fill()
        self._rate = rate
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._call_next()

    def join(self, connection: Paced) -> None:
        """C{connection} asks from now on."""
        self.users.add(connection)

    def owe(self, octets: float) -> None:
        """So many bytes are on their way that were sent before there was a rate."""
        self._balance -= octets

    def leave(self, connection: Paced) -> None:
        """It asks no more, and is not held."""
        self.users.discard(connection)
        self._called.discard(connection)
        if connection in self._queue:
            self._queue.remove(connection)

    def grant(self, connection: Paced) -> int:
        """
        How many bytes C{connection} may send now; L{spend} says how many it did. 0: none, and it is to wait until its
        C{go_on} is called.
        """
        if self._rate is None:
            return UNLIMITED
        self._fill()
        if connection in self._called:
            self._called.discard(connection)
        elif self._queue or self._balance < 0:
            self.was_held = True
            self._queue.append(connection)
            self._call_later()
            return 0
        return self._piece

    def spend(self, octets: int) -> None:
        """So many bytes were sent."""
        self._balance -= octets

    @property
    def _piece(self) -> int:
        assert self._rate is not None
        return max(_SMALLEST, min(int(self._rate * _PIECE_SECONDS), _LARGEST))

    def _fill(self) -> None:
        """Take in what the time since the last call was worth; a clock that was set back is worth nothing."""
        now = self._clock.seconds()
        if self._rate is None:
            self._balance = 0.0
        else:
            most = max(self._rate * _BURST, float(self._piece))
            self._balance = min(self._balance + max(0.0, now - self._at) * self._rate, most)
        self._at = now

    def _call_later(self) -> None:
        if self._timer is None and self._queue:
            assert self._rate is not None
            self._timer = self._clock.callLater(max(-self._balance / self._rate, _STEP), self._look)

    def _look(self) -> None:
        self._timer = None
        self._fill()
        self._call_next()

    def _call_next(self) -> None:
        """Let those go on that there is something for, first come, first served."""
        many = len(self._queue)
        if self._rate is not None:
            many = min(many, int(self._balance // self._piece) + 1) if self._balance >= 0 else 0
        for _ in range(many):
            connection = self._queue.popleft()
            if self._rate is not None:
                self._called.add(connection)
            connection.go_on()
        self._call_later()
