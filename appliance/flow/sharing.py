"""One run of a piece of work for all who want its result meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Sharing(Generic[K, T]):
    """Work under way, by key."""

    def __init__(self) -> None:
        self._runs: dict[K, list[Deferred[T]]] = {}

    def get(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """
        Join the run of C{key}, or begin it with C{start()}.

        @return: a Deferred of the caller's own with the run's result or failure; cancelling it leaves the others theirs
            and does not end the run.
        """
        run = self._runs.get(key)
        waiting: list[Deferred[T]] = [] if run is None else run
        waiter: Deferred[T] = Deferred(lambda gone: waiting.remove(gone) if gone in waiting else None)
        waiting.append(waiter)
        if run is None:
            self._runs[key] = waiting
            Deferred.fromCoroutine(start()).addBoth(self._hand_out, key)
        return waiter

    def _hand_out(self, result: T | Failure, key: K) -> None:
        run = self._runs.pop(key)
        # One at a time: a waiter that is told may cancel another.
        while run:
            run.pop(0).callback(result)
