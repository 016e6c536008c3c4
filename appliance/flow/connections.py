"""
The table of the connections that clients and operators have open: how many there may be, and which of them stand still.

A connection costs a file descriptor, and often a file besides, so that a client that opens many takes them from all.
All listeners and the admin endpoint share one table.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from appliance.flow.sendfile import progress

REFUSING = 64
"""Connections above the limits that get an answer at a time; those above these are closed without one."""

REFUSED_FOR = 5.0
"""Seconds that one of these has for its request, which is what is answered."""

RETRY_AFTER = b"5"
"""Seconds after which a refused client is asked to come again."""

# Files that this process has open beside those of its connections: documents, upstreams, programs.
_OTHER_FILES = 256
# Those of a connection: its socket and the file that it sends, and both once more while a thread sends it (flow.pump).
_EACH = 4
# How often a connection is checked in the time that it may stand still, and seconds between two lines in the log.
_CHECKS = 4
_WARN_EVERY = 60.0


class ConnectionLimits(Protocol):
    """See C{appliance.settings.ConnectionSettings}; durations in seconds."""

    @property
    def max(self) -> int: ...
    @property
    def max_per_address(self) -> int: ...
    @property
    def head_timeout(self) -> float: ...
    @property
    def stall_timeout(self) -> float: ...


class Connected(Protocol):
    """A connection as the table sees it: a protocol of Twisted's with its transport."""

    transport: Any


class Admission(Enum):
    """
    What is done with a new connection: it is served, it is answered that there are too many, or it is closed.
    """

    ADMITTED = "admitted"
    REFUSED = "refused"
    CLOSED = "closed"


@dataclass
class _Served:
    """
    A connection that is served.

    @ivar client: see L{client_of}; C{None} where clients cannot be distinguished, as on a unix socket.
    @ivar octets: bytes that had left when it was last seen to move; C{since}: when that was, seconds of the clock.
    """

    client: str | None
    octets: int
    since: float


class Connections:
    """
    The table.

    @ivar seconds: of the clock.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, limits: ConnectionLimits, dropped: Callable[[str], None] = lambda reason: None
    ) -> None:
        """
        @param dropped: called with why a connection was refused or broken off: C{"total"}, C{"address"}, C{"slow"} or
            C{"stalled"}.
        """
        self._limits = limits
        self._clock = clock
        self.seconds = clock.seconds
        self._dropped = dropped
        self._open: dict[Connected, _Served] = {}
        self._clients: Counter[str] = Counter()
        self._refused: set[Connected] = set()
        self._timer: IDelayedCall | None = None
        self._warned_at = float("-inf")

    @property
    def limits(self) -> ConnectionLimits:
        """What is in force; may be replaced at any time, and holds for what comes then."""
        return self._limits

    @limits.setter
    def limits(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        if self._timer is not None:
            # Not after a fourth of the hours that it may have been until now.
            self._timer.reset(limits.stall_timeout / _CHECKS)

    def __len__(self) -> int:
        """Connections that are served."""
        return len(self._open)

    def enter(self, connection: Connected) -> Admission:
        """A client connected. However it is admitted, L{leave} is called when the connection is gone."""
        client = client_of(connection.transport.getPeer())
        reason = self._excess(client)
        if reason is not None:
            self._dropped(reason)
            if len(self._refused) >= REFUSING:
                return Admission.CLOSED
            self._refused.add(connection)
            return Admission.REFUSED
        self._open[connection] = _Served(client, 0, self._clock.seconds())
        if client is not None:
            self._clients[client] += 1
        self._watch()
        return Admission.ADMITTED

    def leave(self, connection: Connected) -> None:
        """The connection is gone."""
        self._refused.discard(connection)
        entry = self._open.pop(connection, None)
        if entry is not None and entry.client is not None:
            self._clients[entry.client] -= 1
            if not self._clients[entry.client]:
                del self._clients[entry.client]
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def too_slow(self, connection: Connected) -> None:
        """Break off a connection whose request did not arrive in time."""
        if connection in self._open:
            self._dropped("slow")
        connection.transport.abortConnection()

    def _excess(self, client: str | None) -> str | None:
        """Which limit another connection of C{client} would be above."""
        if len(self._open) >= self.limits.max:
            self._warn(f"{len(self._open)} connections are open, the most that may be (connections.max)")
            return "total"
        if client is not None and self._clients[client] >= self.limits.max_per_address:
            self._warn(f"{client} has {self._clients[client]} connections open (connections.max_per_address)")
            return "address"
        return None

    def _warn(self, what: str) -> None:
        if self._clock.seconds() - self._warned_at >= _WARN_EVERY:
            self._warned_at = self._clock.seconds()
            self._log.warn("{what}: more are refused", what=what)

    # -- what stands still ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(self._limits.stall_timeout / _CHECKS, self._abort_stalled)

    def _abort_stalled(self) -> None:
        """Break off the connections whose client takes nothing of what we have for it."""
        self._timer = None
        now = self._clock.seconds()
        for connection, entry in list(self._open.items()):
            seen = progress(connection.transport)
            if seen is None:
                continue
            if not seen.waiting or seen.octets != entry.octets:
                entry.octets, entry.since = seen.octets, now
            elif now - entry.since >= self.limits.stall_timeout:
                self._dropped("stalled")
                seconds = f"{now - entry.since:.0f}"
                self._log.info("{client} took nothing for {seconds} s: cut off", client=entry.client, seconds=seconds)
                connection.transport.abortConnection()
        if self._open:
            self._watch()


def client_of(peer: Any) -> str | None:
    """Whose connection it is, as L{machine_of} says; C{None} for what has no address."""
    host = getattr(peer, "host", None)
    return machine_of(host) if isinstance(host, str) else None


@lru_cache(maxsize=4096)
def machine_of(host: str) -> str:
    """An IPv4 address, or the 64-bit prefix of an IPv6 address, which one machine may have whole."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"{IPv6Address(int(address) >> 64 << 64)}/64"
        address = address.ipv4_mapped
    return str(address)


def make_room(connections: int) -> int:
    """
    Raise this process's own limit on open files, as far as it may, so that C{connections} fit, each with a file.

    @return: how many do fit.
    """
    wanted = _EACH * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(connections, max(1, (soft - _OTHER_FILES) // _EACH))
