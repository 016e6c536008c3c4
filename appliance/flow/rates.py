"""
What each client may have in a second, and how a link that several of them fill is shared.

A client is a user, or where there is none an address; all its connections count as one. Where nothing is configured,
and one client alone is being sent blobs, none is held back, and nothing is looked at from time to time.

Requests above C{requests} wait their turn: containerd and dockerd ask again at once whatever C{Retry-After} says, and
give up after a few times. Who has waited for L{PATIENCE} is refused. A connection waits with one request at a time, so
that no more wait than there may be connections.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from appliance.errors import ClientLimited
from appliance.flow.connections import machine_of
from appliance.flow.fairness import INTERVAL, Fairness, Key, Step, Taken
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.pace import Pace
from appliance.flow.sendfile import SendfileServer, connection_of

PATIENCE = 10.0
"""
Seconds that a request waits for its turn. Less than the shortest time that a client gives a registry for an answer:
dockerd's 15 s.
"""

IN_VAIN = 100
"""The most requests of a client that wait though their turn does not come in time; more are refused at once."""

SAVED = 1.0
"""Seconds whose worth of requests may come at once after a time in which fewer came."""

KNOWN = 10_000
"""The most clients that are remembered."""

# Seconds to which clocks are exact.
_EXACT = 1e-6


class RateLimits(Protocol):
    """See C{appliance.settings.ClientRateSettings}; a second, C{None} for any number."""

    @property
    def requests(self) -> int | None: ...
    @property
    def bytes(self) -> int | None: ...


class _Client:
    """
    @ivar pace: of all its connections.
    @ivar turn: when its next request is in time, seconds of the clock.
    @ivar waiting: its requests that wait, in order; C{timer}: when the first of them is looked at.
    @ivar sending: its connections to which a blob is being sent, and the bytes that had arrived when they were looked
        at last.
    @ivar arrived: bytes that have since, on those that were sent a blob meanwhile.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.pace = Pace(clock)
        self.turn = -math.inf
        self.waiting: dict[Deferred[None], None] = {}
        self.timer: IDelayedCall | None = None
        self.sending: dict[SendfileServer, int] = {}
        self.arrived = 0

    def take_turn(self, now: float, limit: int | None) -> bool:
        """Count a request, if it is in time; whether it is."""
        if limit is not None:
            turn = max(self.turn, now - SAVED)
            if turn > now + _EXACT:
                return False
            self.turn = turn + 1 / limit
        return True

    def look(self) -> Taken:
        """What it took since the last look."""
        arrived, self.arrived = self.arrived, 0
        wants = False
        for connection, before in self.sending.items():
            seen = connection.progress()
            self.sending[connection] = now = seen.octets - connection.unacknowledged()
            arrived += now - before
            wants = wants or seen.waiting or connection.held
        was_held, self.pace.was_held = self.pace.was_held, False
        return Taken(arrived, wants, was_held)


class ClientRates:
    """
    All clients of all listeners.

    @ivar is_limiting: whether anything is configured: only then L{may} or L{turn} are to be asked.
    """

    def __init__(
        self, clock: IReactorTime, limits: RateLimits, counted: Callable[[str], None] = lambda outcome: None
    ) -> None:
        """
        @param counted: called for each request that was C{"delayed"} or C{"refused"}.
        """
        self._clock = clock
        self._limits = limits
        self.is_limiting = _limits_anything(limits)
        self._counted = counted
        self._clients: LeastRecentlyUsed[Key, _Client] = LeastRecentlyUsed(KNOWN)
        self._sending: dict[Key, _Client] = {}
        self._fairness = Fairness()
        self._looked = 0.0
        self._timer: IDelayedCall | None = None

    @property
    def limits(self) -> RateLimits:
        """What is in force; may be replaced at any time, and holds for connections that are open, too."""
        return self._limits

    @limits.setter
    def limits(self, limits: RateLimits) -> None:
        self._limits = limits
        self.is_limiting = _limits_anything(limits)
        for client in {*self._clients.values(), *self._sending.values()}:
            self._set_rate(client)

    @property
    def sending(self) -> int:
        """Clients to which blobs are being sent."""
        return len(self._sending)

    @property
    def level(self) -> float | None:
        """Bytes a second that no client gets more than now, so that others get theirs; C{None} while none is held."""
        return self._fairness.level

    # -- requests -----------------------------------------------------------------------------------------------------

    def may(self, user: str | None, address: str, transport: Any) -> bool:
        """
        Whether a request of this client may be answered at once; then it counts, and what is sent over C{transport} is
        sent at its pace. Otherwise it has to wait for L{turn}.

        @param address: C{"-"} for none: all of those together are not limited.
        """
        client = self._client(user, address)
        if client is None:
            return True
        if client.waiting or not client.take_turn(self._clock.seconds(), self._limits.requests):
            return False
        self._join(client, transport)
        return True

    async def turn(self, user: str | None, address: str, transport: Any) -> None:
        """
        As L{may}, when it is this request's turn.

        @raise ClientLimited: there are too many before it.
        """
        client = self._client(user, address)
        if client is None or self.may(user, address, transport):
            return
        limit = self._limits.requests
        if limit is not None and len(client.waiting) >= PATIENCE * limit + IN_VAIN:
            raise self._refusal(client, limit)
        turn: Deferred[None] = Deferred(lambda turn: self._give_up(client, turn))
        client.waiting[turn] = None
        self._call_later(client)
        try:
            await turn.addTimeout(PATIENCE, self._clock)
        except TimeoutError:
            limit = self._limits.requests
            if limit is not None:
                raise self._refusal(client, limit) from None
        self._counted("delayed")
        self._join(client, transport)

    def _refusal(self, client: _Client, limit: int) -> ClientLimited:
        self._counted("refused")
        # None of those before it waits for longer than PATIENCE.
        after = max(1, math.ceil(min(len(client.waiting) / limit, PATIENCE)))
        what = f"more than {limit} requests a second are sent from here (client_rate)"
        return ClientLimited(f"{what}; come again in {after} s", after)

    def _give_up(self, client: _Client, turn: Deferred[None]) -> None:
        """Its client left, or it has waited long enough: those behind it move up."""
        client.waiting.pop(turn, None)
        if not client.waiting and client.timer is not None:
            client.timer.cancel()
            client.timer = None

    def _call_later(self, client: _Client) -> None:
        if client.waiting and client.timer is None:
            wait = max(0.0, client.turn - self._clock.seconds())
            client.timer = self._clock.callLater(wait, self._let_go_on, client)

    def _let_go_on(self, client: _Client) -> None:
        """Answer what is in time by now, by the limit that is in force now."""
        client.timer = None
        while client.waiting and client.take_turn(self._clock.seconds(), self._limits.requests):
            turn = next(iter(client.waiting))
            del client.waiting[turn]
            turn.callback(None)
        self._call_later(client)

    # -- bytes --------------------------------------------------------------------------------------------------------

    @contextmanager
    def transfer(self, user: str | None, address: str, transport: Any) -> Iterator[None]:
        """While a blob is being sent to a client; its bytes are its share of a link that it fills with others."""
        client, connection = self._client(user, address), connection_of(transport)
        if client is None or connection is None:
            yield
            return
        key = _key(user, address)
        client.sending[connection] = connection.progress().octets - connection.unacknowledged()
        self._sending[key] = client
        self._set_rate(client)
        connection.pace = client.pace
        if len(self._sending) > 1 and self._timer is None:
            # What was taken before there were two is no matter of theirs.
            self._looked = self._clock.seconds()
            for each in self._sending.values():
                each.look()
            self._timer = self._clock.callLater(INTERVAL, self._look)
        try:
            yield
        finally:
            # What is on its way will arrive.
            client.arrived += connection.progress().octets - client.sending.pop(connection)
            if self._limits.bytes is None:
                connection.pace = None
            if not client.sending:
                self._leave(key)

    def _leave(self, key: Key) -> None:
        client = self._sending.pop(key)
        if not self._sending and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._fairness.rest()
        self._set_rate(client)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        seconds, self._looked = max(now - self._looked, INTERVAL / 10), now
        taken = {key: client.look() for key, client in self._sending.items()}
        was_lowering = self._fairness.step is Step.LOWERING
        level = self._fairness.look(now, seconds, taken)
        for key, client in self._sending.items():
            self._set_rate(client)
            rate = self._fairness.rates[key]
            if level is not None and rate > level and self._fairness.step is Step.LOWERING and not was_lowering:
                # What lies in the system's buffers goes out as fast as the link takes it: nothing is added meanwhile.
                client.pace.owe(sum(each.unacknowledged() for each in client.sending) * level / rate)
        if len(self._sending) > 1 or level is not None:
            self._timer = self._clock.callLater(INTERVAL, self._look)

    def _set_rate(self, client: _Client) -> None:
        level = self._fairness.level if client.sending else None
        client.pace.rate = min((each for each in (self._limits.bytes, level) if each is not None), default=None)

    def _join(self, client: _Client, transport: Any) -> None:
        if self._limits.bytes is not None:
            connection = connection_of(transport)
            if connection is not None:
                connection.pace = client.pace

    def _client(self, user: str | None, address: str) -> _Client | None:
        if user is None and address == "-":
            return None
        key = _key(user, address)
        client = self._clients.get(key) or self._sending.get(key)
        if client is None:
            client = _Client(self._clock)
            self._set_rate(client)
            self._clients.put(key, client, 1)
        return client


def _limits_anything(limits: RateLimits) -> bool:
    return limits.requests is not None or limits.bytes is not None


def _key(user: str | None, address: str) -> Key:
    return ("address", machine_of(address)) if user is None else ("user", user)
