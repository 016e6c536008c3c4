"""
A model of links that are full: FIFO queues that drop, TCP that slows down when they do (Reno, RFC 5681), and the
buffers of its sockets. Nothing is sent, and time is what a test says it is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import Any

from appliance.flow.fairness import INTERVAL, Fairness, Step, Taken
from appliance.flow.pace import Pace

PACKET = 1500
_INITIAL_BUFFER = 87_040
_BUFFER = 4 * 1024 * 1024


class ModelTimer:
    """A call that is to come."""

    def __init__(self, time: float, call: Callable[[], object]) -> None:
        self.time = time
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """It does not come."""
        self.call = None

    def active(self) -> bool:
        """Whether it is still to come."""
        return self.call is not None


class ModelClock:
    """As Twisted's C{Clock}, for a hundred thousand calls a second."""

    def __init__(self) -> None:
        self._now = 0.0
        self._calls: list[tuple[float, int, ModelTimer]] = []
        self._numbers = count()

    def seconds(self) -> float:
        """Since the start."""
        return self._now

    def callLater(self, delay: float, call: Callable[..., object], *args: Any) -> ModelTimer:
        """See L{IReactorTime.callLater}."""
        timer = ModelTimer(self._now + delay, lambda: call(*args))
        heapq.heappush(self._calls, (timer.time, next(self._numbers), timer))
        return timer

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._calls and self._calls[0][0] <= until:
            self._now, _, timer = heapq.heappop(self._calls)
            call, timer.call = timer.call, None
            if call is not None:
                call()
        self._now = until


class Link:
    """
    A line with a queue in front of it.

    @ivar rate: bytes a second; may change.
    @ivar is_cut: whether nothing passes; may change.
    """

    def __init__(self, clock: ModelClock, rate: float, queue: float = 150_000) -> None:
        self._clock = clock
        self._queue = queue
        self._free = 0.0
        self.rate = rate
        self.is_cut = False

    def carry(self, octets: int) -> float | None:
        """When a packet is at its other end, C{None} when the queue is full."""
        now = self._clock.seconds()
        if self.is_cut:
            return None
        self._free = max(self._free, now)
        if (self._free - now) * self.rate + octets > self._queue:
            return None
        self._free += octets / self.rate
        return self._free


class Connection:
    """
    One transfer, paced as ours are, over one connection of TCP.

    @ivar acknowledged: bytes that have arrived; C{waiting}: bytes in the system's buffer that have not.
    """

    def __init__(self, clock: ModelClock, links: list[Link], pace: Pace, octets: float, round_trip: float) -> None:
        self._clock, self._links, self._pace, self._left, self._round_trip = clock, links, pace, octets, round_trip
        self._window, self._threshold = 10.0, float("inf")
        self._unsent, self._flying, self._recovered = 0, 0, 0.0
        self._is_held = False
        self.acknowledged = 0
        pace.join(self)
        clock.callLater(random.random() * 0.02, self._fill)

    @property
    def waiting(self) -> int:
        return self._unsent + self._flying * PACKET

    @property
    def ended(self) -> bool:
        """Whether all of it was handed over."""
        return self._left <= 0

    def slow_down(self) -> None:
        """It asks before each piece anyhow."""

    def go_on(self) -> None:
        """See L{Paced.go_on}."""
        self._is_held = False
        self._fill()

    @property
    def _buffer(self) -> int:
        return min(_BUFFER, max(_INITIAL_BUFFER, int(2 * self._window * PACKET)))

    def _fill(self) -> None:
        while not self._is_held and not self.ended and self._buffer > self.waiting:
            granted = self._pace.grant(self)
            self._is_held = granted == 0
            if granted:
                octets = max(PACKET, min(granted, self._buffer - self.waiting) // PACKET * PACKET)
                self._left -= octets
                self._unsent += octets
                self._pace.spend(octets)
                self._send()

    def _send(self) -> None:
        while self._unsent >= PACKET and self._flying < int(self._window):
            self._unsent -= PACKET
            self._flying += 1
            self._packet()

    def _packet(self) -> None:
        now = self._clock.seconds()
        at = now
        for link in self._links:
            arrives = link.carry(PACKET)
            if arrives is None:
                self._clock.callLater(self._round_trip + 0.03, self._lost, now)
                return
            at = max(at, arrives)
        self._clock.callLater(at - now + self._round_trip, self._arrived)

    def _lost(self, sent: float) -> None:
        if sent >= self._recovered:
            self._window = self._threshold = max(2.0, self._window / 2)
            self._recovered = self._clock.seconds()
        self._packet()

    def _arrived(self) -> None:
        self._flying -= 1
        self.acknowledged += PACKET
        # A window that is not used does not grow (RFC 7661).
        if self._flying + 1 >= int(self._window) // 2:
            self._window += 1.0 if self._window < self._threshold else 1.0 / self._window
        self._send()
        if self._buffer - self.waiting >= self._buffer // 3:
            self._fill()


class Site:
    """
    Clients of one appliance, with the L{Fairness} between them.

    @ivar link: the one that they share, unless they are given others.
    """

    def __init__(self, rate: float = 2e6, fair: bool = True, round_trip: float = 0.02) -> None:
        random.seed(1)
        self.clock = ModelClock()
        self.link = Link(self.clock, rate)
        self.fairness = Fairness()
        self._fair = fair
        self._round_trip = round_trip
        self._clients: dict[str, tuple[Pace, list[Connection]]] = {}
        self._seen: dict[str, int] = {}
        self.clock.callLater(INTERVAL, self._look)

    def pull(self, client: str, links: list[Link] | None = None, octets: float = 1e18) -> Connection:
        """One more connection of a client."""
        pace, connections = self._clients.setdefault(client, (Pace(self.clock), []))
        round_trip = self._round_trip * random.uniform(0.95, 1.05)
        made = Connection(self.clock, links or [self.link], pace, octets, round_trip)
        connections.append(made)
        return made

    def shares(self, since: float, until: float) -> dict[str, float]:
        """What each client got of the link's rate between two moments."""
        self.clock.run(since)
        before = {client: self._arrived(client) for client in self._clients}
        self.clock.run(until)
        of = self.link.rate * (until - since)
        return {client: (self._arrived(client) - before.get(client, 0)) / of for client in self._clients}

    def _arrived(self, client: str) -> int:
        return sum(each.acknowledged for each in self._clients[client][1])

    def _look(self) -> None:
        taken = {}
        for client, (pace, connections) in self._clients.items():
            arrived = self._arrived(client)
            if not all(each.ended for each in connections):
                taken["user", client] = Taken(arrived - self._seen.get(client, 0), True, pace.was_held)
            self._seen[client], pace.was_held = arrived, False
        was_lowering = self.fairness.step is Step.LOWERING
        level = self.fairness.look(self.clock.seconds(), INTERVAL, taken) if self._fair else None
        begins = self.fairness.step is Step.LOWERING and not was_lowering
        for client, (pace, connections) in self._clients.items():
            pace.rate = level
            rate = self.fairness.rates.get(("user", client), 0.0)
            if begins and level is not None and rate > level:
                pace.owe(sum(each.waiting for each in connections) * level / rate)
        self.clock.callLater(INTERVAL, self._look)
