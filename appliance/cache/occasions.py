"""When the collection runs by itself: what has grown, what has grown old, and what was asked for."""

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

EVERY = 3600.0
"""Seconds between two runs, at most: what grows old, and what nothing refers to, is found then."""

LEAST = 2.0
"""Seconds between two runs, at least."""

IDLE = 3
"""How many times as long as a run took the next one is waited for: clients come first."""

FRUITLESS = 60.0
"""Seconds before a budget that could not be kept is tried again, though nothing has come since."""


class Occasions:
    """Begins the runs of one collection."""

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
        self._is_wanted = False
        self._ended_at = -inf
        self._not_before = 0.0
        self._left = 0

    def begin(self) -> None:
        """What was held at the start is counted: run, and again whenever there is a reason."""
        self.want()
        self.look()

    def want(self) -> None:
        """Run at the next L{look}: what decides has changed, by an import or a new configuration."""
        self._is_wanted = True

    def look(self) -> None:
        """Run if there is a reason to; immediate, to be called every few seconds."""
        if not self._collection.is_ready or self._is_running or not self._is_due(self._clock.seconds()):
            return
        self._is_wanted, self._is_running = False, True
        began = self._clock.seconds()
        self._collection.run().addBoth(self._ended, began)

    def _is_due(self, now: float) -> bool:
        if now < self._not_before:
            return False
        if self._is_wanted or now - self._ended_at >= self._period():
            return True
        settings, total = self._settings(), self._store.total()
        has_grown = total > self._left
        most = settings.retention.max_size
        if most is not None and total > most and (has_grown or now - self._ended_at >= FRUITLESS):
            return True
        return has_grown and any(
            upstream.retention.max_size not in (None, inf) for upstream in settings.upstreams.values()
        )

    def _period(self) -> float:
        """Seconds between two runs where nothing has come: a short C{keep_for} is looked at more often."""
        settings = self._settings()
        times = [settings.rules_for(upstream).keep_for or inf for upstream in ("", *settings.upstreams)]
        return min(EVERY, max(LEAST, min(times) / 4))

    def _ended(self, result: Collected | Failure, began: float) -> Any:
        now = self._clock.seconds()
        self._is_running = False
        self._ended_at, self._left = now, self._store.total()
        self._not_before = now + max(LEAST, IDLE * (now - began))
        if isinstance(result, Failure):
            if result.check(PullcacheError, OSError):
                self._log.warn("the collection ended early: {error}", error=result.value)
            else:
                self._log.failure("the collection failed", result)
