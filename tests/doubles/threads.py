"""Threads whose work is done when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from appliance.interfaces import IThreads

T = TypeVar("T")


@implementer(IThreads)
class HeldThreads:
    """
    Work waits until it is let go.

    @ivar waiting: what will fire, and the work, in the order it was asked for.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def call(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """See L{IThreads.call}."""
        deferred: Deferred[T] = Deferred()
        self.waiting.append((deferred, lambda: function(*args)))
        return deferred

    def step(self) -> None:
        """Do the first of what waits, and deliver it."""
        deferred, function = self.waiting.pop(0)
        execute(function).addBoth(deferred.callback)

    def work(self) -> None:
        """Do all that waits now, and deliver it."""
        for _ in range(len(self.waiting)):
            self.step()
