"""What is kept in memory up to so many bytes, the least recently used dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LeastRecentlyUsed(Generic[K, V]):
    """
    Values by key.

    @ivar used: bytes of all of them, by the weights they were given; never more than the budget.
    """

    def __init__(self, budget: int, limit: int | None = None) -> None:
        """
        @param budget: bytes.
        @param limit: the most values, C{None} for any number of them.
        """
        self._budget = budget
        self._limit = limit
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.used = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value, when it is here; it is the most recently used now."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def values(self) -> list[V]:
        """All of them; that makes none more recently used."""
        return [value for value, _ in self._values.values()]

    def put(self, key: K, value: V, weight: int) -> None:
        """
        Keep a value, in place of what is kept under C{key}.

        @param weight: bytes, roughly. A value heavier than the budget is not kept.
        """
        self.drop(key)
        if weight > self._budget:
            return
        self._values[key] = (value, weight)
        self.used += weight
        while self.used > self._budget or (self._limit is not None and len(self._values) > self._limit):
            _, (_, dropped) = self._values.popitem(last=False)
            self.used -= dropped

    def drop(self, key: K) -> None:
        """Keep nothing under C{key}."""
        found = self._values.pop(key, None)
        if found is not None:
            self.used -= found[1]
