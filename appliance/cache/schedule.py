"""
When the collection runs by itself.

=====================  ========================================================  ==================================
what is too old        (C{keep_for}, C{keep_last}, what nothing refers to)       by time only: L{CollectionSchedule}
what is too much       (C{max_size}, of all or of an upstream)                   within seconds of what exceeds it
too little disk        (C{reserve})                                              when L{Space} asks for it
=====================  ========================================================  ==================================

So an operator who asks what would go, and then has it go, gets one list: no start, import or new configuration comes in
between with a collection of its own, as long as no budget is exceeded.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.cache.collection import Collected, Collection
from appliance.errors import PullcacheError
from appliance.interfaces import IBlobStore
from appliance.settings import Settings

MOST = 3600.0
"""Seconds between two runs by time, at most."""

LEAST = 600.0
"""Seconds between two runs by time, at least."""

PAUSE = 2.0
"""Seconds between any two runs, at least."""

IDLE = 3
"""How many times as long as a run took the next one is waited for: clients come first."""

FRUITLESS = 60.0
"""Seconds before a budget that could not be kept is tried again, though nothing has come since."""


class CollectionSchedule:
    """Begins the runs of one collection; of those by time the first after one period."""

    _log = Logger()

    def __init__(
        self, collection: Collection, store: IBlobStore, settings: Callable[[], Settings], clock: IReactorTime
    ) -> None:
        """@param settings: gives those in force."""
        self._collection = collection
        self._store = store
        self._settings = settings
        self._clock = clock
        self._is_running = False
        self._not_before = 0.0
        # Of the runs by time: how many seconds lie between two, and when the last one began.
        self._period = inf
        self._timed_at = 0.0
        # Of the budgets: whether they are to be looked at, how much was held after the last look and when that was,
        # and whether one was exceeded still.
        self._is_wanted = True
        self._left = 0
        self._looked_at = -inf
        self._is_exceeded = False

    def want(self) -> None:
        """Look at the budgets, though nothing may have come: an import, or a new configuration."""
        self._is_wanted = True

    def look(self) -> None:
        """Run if there is a reason to; immediate, to be called every few seconds."""
        now = self._clock.seconds()
        if (period := self._period_of(self._settings())) != self._period:
            self._period, self._timed_at = period, now
        if not self._collection.is_ready or self._is_running or now < self._not_before:
            return
        if is_timed := now - self._timed_at >= self._period:
            self._timed_at = now
        elif not self._is_over_budget(now):
            return
        self._is_wanted, self._is_running = False, True
        self._collection.run(exceeded_only=not is_timed).addBoth(self._ended, now)

    def _period_of(self, settings: Settings) -> float:
        times = [settings.rules_for(upstream).keep_for or inf for upstream in ("", *settings.upstreams)]
        return min(MOST, max(LEAST, min(times) / 4))

    def _is_over_budget(self, now: float) -> bool:
        """Whether a budget may be exceeded: what counts to that of an upstream, the run finds out."""
        is_late = self._is_exceeded and now - self._looked_at >= FRUITLESS
        if not (self._is_wanted or is_late or self._store.total() > self._left):
            return False
        settings = self._settings()
        if self._store.total() > (settings.retention.max_size or inf):
            return True
        return any(upstream.retention.max_size not in (None, inf) for upstream in settings.upstreams.values())

    def _ended(self, result: Collected | Failure, began: float) -> Any:
        now = self._clock.seconds()
        self._is_running = False
        self._looked_at, self._left = now, self._store.total()
        self._not_before = now + max(PAUSE, IDLE * (now - began))
        if not isinstance(result, Failure):
            self._is_exceeded = result.is_exceeded
            return
        self._is_exceeded = True
        if result.check(PullcacheError, OSError):
            self._log.warn("the collection ended early: {error}", error=result.value)
        else:
            self._log.failure("the collection failed", result)
