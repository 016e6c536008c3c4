"""
How much each client may take of a link that several of them fill.

TCP shares a full link among connections, so that a client with fifty of them gets fifty times what one with a single
connection does. What we can do is to hold back those that get most; whether the others gain by that depends on whether
it is the same link that they wait for, which is not known. So it is tried: the largest give up a tenth of all, and
after that what the others gain, until all are equal.

==========  =======================================================  ===================================================
state       means                                                    leads to
==========  =======================================================  ===================================================
OPEN        no client is held back                                   LOWERING: some get much less than the largest
LOWERING    the largest leave HEADROOM, which the others may take    LEVEL: all get the same, or the others have what
                                                                     they can take. OPEN: they do not take it: they are
                                                                     slow by themselves, for a while not tried again
LEVEL       none takes more than the level                           LOWERING: the others get less than they did
                                                                     RAISING: from time to time
RAISING     a little more, to see whether the others lose by it      LEVEL: they do. OPEN: there is room for all
==========  =======================================================  ===================================================

Pure: what was taken comes in, the level goes out. All rates are bytes a second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

Key = tuple[str, str]
"""A client: C{"user"} or C{"address"}, and which."""

INTERVAL = 0.25
"""Seconds between two looks."""

HEADROOM = 0.1
"""The part of all that the largest give up to find out whether the others take it."""

PATIENCE = 2.0
"""Seconds that it is left for them before that counts as a no. TCP needs some round trips to grow."""

LONGER = 8.0
"""The same once some have gained: they may gain more."""

TRY_AGAIN = (4.0, 256.0)
"""Seconds until it is tried again after a first no, and after many: all are slower by HEADROOM while it is tried."""

QUIET = 5.0
"""For how many times as long as a try lasted there is no other: clients that are slow may come one after another."""

RAISE_AGAIN = (2.0, 32.0)
"""The same between two tries to give the largest more."""

GRACE = 0.5
"""Seconds for which the level stays when there is only one left: until the next layer of the other is asked for."""

REMEMBERED = 10.0
"""Seconds for which the level holds for clients that come back, such as for their next layer."""

LEAST = 1000.0
"""Less than that is taken for nothing, and is the level of none."""

# What part of the largest one's rate is, too.
_NOTHING = 0.001
# How much of the largest one's rate is as good as the same, and how much of a change is more than chance.
_SAME = 0.8
_CHANGE = 0.05
# The part of what there is that counts as all of it.
_FULL = 0.85
# How much nearer the level comes in one look to what others leave.
_SLOWLY = 0.02
# The largest part that the level is raised by at once.
_LONGEST_STEP = 0.4
# Seconds that a raise is looked at.
_TRIAL = 1.0
# The most clients that are remembered as slow.
_SLOW_KNOWN = 1000
# The part of the last look in what is known of a rate.
_NEWEST = 0.4


@dataclass(frozen=True)
class Taken:
    """
    What one client took in an interval.

    @ivar octets: bytes.
    @ivar wants: whether there is more for it.
    @ivar held: whether it was held back.
    """

    octets: float
    wants: bool
    held: bool


class Step(Enum):
    """See the table above."""

    OPEN = "open"
    LOWERING = "lowering"
    LEVEL = "level"
    RAISING = "raising"


class Fairness:
    """
    See the module.

    @ivar step: where it is.
    @ivar level: what no client may take more than; C{None} where none is held back.
    @ivar rates: what each client takes, by the last looks.
    """

    def __init__(self) -> None:
        self.step = Step.OPEN
        self.level: float | None = None
        self.rates: dict[Key, float] = {}
        # What all of them share, as far as is known.
        self._capacity = 0.0
        self._uneven = 0
        # Those that a try is to help, and what each got before.
        self._tried: dict[Key, float] = {}
        # The most that they got together since, and when that was; when it began, and until when there is no other.
        self._best = self._since = self._began = self._quiet_until = 0.0
        # Whether the largest have come down to the level since.
        self._drained = False
        # What those that were helped, and get less than the level, got when it was found.
        self._kept: Mapping[Key, float] = {}
        # Whether the level is to stay when the try is a no: it has helped others.
        self._stays = False
        # What each took before a raise, and when there is to be the next.
        self._before: Mapping[Key, float] = {}
        self._raise_at = 0.0
        # The part that the level is raised by.
        self._raise = 0.0
        self._raise_wait = RAISE_AGAIN[0]
        # Those that are slow by themselves: until when that is believed, and for how long it was.
        self._slow: OrderedDict[Key, tuple[float, float]] = OrderedDict()
        # When there were two last.
        self._last_seen = 0.0
        # The last level: until when it is remembered, for whom, and what it was of which capacity.
        self._last: tuple[float, frozenset[Key], float, float] | None = None

    def look(self, now: float, seconds: float, taken: Mapping[Key, Taken]) -> float | None:
        """
        The level from now on.

        @param seconds: since the last look.
        @param taken: by client, of those with a transfer under way.
        """
        rates = {}
        for client, each in taken.items():
            known = self.rates.get(client, each.octets / seconds)
            rates[client] = known + _NEWEST * (each.octets / seconds - known)
        self.rates = rates
        # Who takes next to nothing, with its line down or its disk full, is waited for by none.
        least = max(LEAST, _NOTHING * max(rates.values(), default=0.0))
        wanting = {client: rates[client] for client, each in taken.items() if each.wants and rates[client] >= least}
        if len(wanting) < 2:
            if self._last is None or now >= self._last_seen + GRACE:
                self._open()
            return self.level
        self._last_seen = now
        if self.step in (Step.LEVEL, Step.RAISING) and self.level is not None:
            self._last = now + REMEMBERED, frozenset(wanting), self.level, self._capacity
        # With little for all to share, a level holds those that are small themselves.
        held = {client for client, rate in wanting.items() if taken[client].held and rate >= _SAME * (self.level or 0)}
        if self.step is Step.OPEN:
            self._watch(now, wanting)
        elif self.step is Step.LOWERING:
            self._follow(now, wanting, held)
        elif self.step is Step.LEVEL:
            self._keep(now, wanting, held)
        else:
            self._judge(now, wanting, held)
        return self.level

    def rest(self) -> None:
        """Nothing is being sent any more."""
        self._open()

    # -- the states ---------------------------------------------------------------------------------------------------

    def _watch(self, now: float, wanting: Mapping[Key, float]) -> None:
        if self._last is not None and now < self._last[0] and wanting.keys() <= self._last[1]:
            # They are back, with their next layer.
            _, _, self.level, self._capacity = self._last
            self._settle(now)
            return
        self._uneven = self._uneven + 1 if self._to_help(now, wanting, _SAME * max(wanting.values())) else 0
        if self._uneven >= 2 and now >= self._quiet_until:
            self._lower(now, wanting, sum(wanting.values()), stays=False)

    def _follow(self, now: float, wanting: Mapping[Key, float], held: set[Key]) -> None:
        assert self.level is not None
        total = sum(wanting.values())
        tried = {client: rate for client, rate in wanting.items() if client in self._tried}
        self._drained = self._drained or (bool(held) and max(wanting.values()) <= self.level * (1 + _CHANGE))
        if not self._drained:
            # What lay in the system's buffers is still on its way: nothing has been left to the others yet.
            self._capacity += _NEWEST / 4 * (total - self._capacity)
            self._since, self._best = now, sum(tried.values())
            self._tried = {client: min(self._tried[client], rate) for client, rate in tried.items()}
        elif sum(tried.values()) > self._best * (1 + _CHANGE):
            self._best, self._since = sum(tried.values()), now
        self._capacity = max(self._capacity, total)
        small = [rate for client, rate in wanting.items() if client not in held and rate < self.level]
        self.level = water_level(self._capacity * (1 - HEADROOM), small, len(wanting) - len(small))
        behind = self._behind(wanting, held)
        helped = {client for client, rate in tried.items() if rate > self._tried[client] * (1 + 4 * _CHANGE)}
        if behind and now - self._since < (LONGER if helped else PATIENCE):
            return
        self._quiet_until = now + QUIET * (now - self._began)
        for client in tried:
            if client in helped:
                self._slow.pop(client, None)
            else:
                self._note_slow(client, now)
        if helped or self._stays:
            self.level = self._shared(wanting, behind)
            self._settle(now)
            self._kept = {client: rate for client, rate in wanting.items() if client in behind & helped}
        else:
            self._open()

    def _keep(self, now: float, wanting: Mapping[Key, float], held: set[Key]) -> None:
        assert self.level is not None
        total = sum(wanting.values())
        if total >= _FULL * self._capacity:
            self._since = now
            self._capacity += _SLOWLY * (total - self._capacity)
        if now - self._since >= PATIENCE:
            # The others take less than they did, or there is less: begin anew with what there is.
            self._lower(now, wanting, total, stays=False)
        elif any(rate < 0.7 * self._kept.get(client, 0.0) for client, rate in wanting.items()):
            # They lose again what they had gained.
            self._lower(now, wanting, max(total, self._capacity), stays=False)
        elif now >= self._quiet_until and self._to_help(now, wanting, _SAME * self.level) - self._tried.keys():
            self._lower(now, wanting, max(total, self._capacity), stays=True)
        elif now >= self._raise_at:
            self.step, self._since, self._before = Step.RAISING, now, dict(wanting)
            self._raise = 2 * HEADROOM
            self.level *= 1 + self._raise
        else:
            level = self._shared(wanting, self._behind(wanting, held))
            # What the others lose for a moment is not taken at once: they would not get it back.
            self.level = min(level, self.level + _SLOWLY * (level - self.level))

    def _judge(self, now: float, wanting: Mapping[Key, float], held: set[Key]) -> None:
        assert self.level is not None
        if now - self._since < _TRIAL:
            return
        total, before = sum(wanting.values()), sum(self._before.values())
        lost = any(rate < _SAME * self._before.get(client, 0.0) for client, rate in wanting.items())
        if not held and not lost:
            for client in self._tried:
                self._note_slow(client, now)
            self._open()
            self._last = None
        elif total < _FULL * before:
            # There is less than was known.
            self._lower(now, wanting, total, stays=False)
        elif total > before * (1 + _CHANGE) and not lost:
            # There is more than was known.
            self._capacity, self._since, self._before = total, now, dict(wanting)
            self._raise = min(2 * self._raise, _LONGEST_STEP)
            self.level *= 1 + self._raise
        else:
            self.step, self._since, self._capacity = Step.LEVEL, now, max(total, self._capacity)
            self._raise_wait = min(2 * self._raise_wait, RAISE_AGAIN[1])
            self._raise_at = now + self._raise_wait
            self.level /= 1 + self._raise

    # -- from one to another ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.step, self.level, self._uneven = Step.OPEN, None, 0

    def _lower(self, now: float, wanting: Mapping[Key, float], capacity: float, stays: bool) -> None:
        most = self.level if stays and self.level is not None else max(wanting.values())
        self._tried = {client: rate for client, rate in wanting.items() if rate < _SAME * most}
        self.step, self._capacity, self._stays = Step.LOWERING, capacity, stays
        self._began = self._since = now
        self._drained = False
        self._best = sum(self._tried.values())
        self.level = water_level(capacity * (1 - HEADROOM), [*self._tried.values()], len(wanting) - len(self._tried))

    def _settle(self, now: float) -> None:
        self.step, self._since = Step.LEVEL, now
        self._kept = {}
        self._raise_wait = RAISE_AGAIN[0]
        self._raise_at = now + self._raise_wait

    def _behind(self, wanting: Mapping[Key, float], held: set[Key]) -> set[Key]:
        """Those that get less than the level though they are not held back."""
        least = _SAME * (self.level or 0.0)
        return {client for client, rate in wanting.items() if client not in held and rate < least}

    def _shared(self, wanting: Mapping[Key, float], behind: set[Key]) -> float:
        """The level at which the others have what C{behind} leave of all that there is."""
        return water_level(self._capacity, [wanting[each] for each in behind], len(wanting) - len(behind))

    def _to_help(self, now: float, wanting: Mapping[Key, float], least: float) -> set[Key]:
        """Those that get less than C{least}, and are not known to be slow by themselves."""
        known = self._slow
        return {each for each, rate in wanting.items() if rate < least and not (each in known and now < known[each][0])}

    def _note_slow(self, client: Key, now: float) -> None:
        wait = min(2 * self._slow.pop(client, (0.0, TRY_AGAIN[0] / 2))[1], TRY_AGAIN[1])
        self._slow[client] = now + wait, wait
        if len(self._slow) > _SLOW_KNOWN:
            self._slow.popitem(last=False)


def water_level(capacity: float, small: list[float], others: int) -> float:
    """
    What each of C{others}, and each of C{small} that would get more than that, gets of what the rest of C{small} leave
    of C{capacity}. Pure.
    """
    rates = sorted(small)
    while rates and rates[-1] * (others + 1) >= capacity - sum(rates[:-1]):
        rates.pop()
        others += 1
    return max(0.0, capacity - sum(rates)) / max(1, others)
