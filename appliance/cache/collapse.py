"""One run of a piece of work, shared by everybody who asks for it meanwhile (RFC 9211: C{collapsed})."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.errors import PullcacheError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass
class _Run(Generic[T]):
    began: float
    waiting: list[Deferred[T]] = field(default_factory=list)


@dataclass(frozen=True)
class Share(Generic[T]):
    """
    One waiter's share of a run.

    @ivar result: this waiter's own Deferred; cancelling it detaches the waiter and stops nothing.
    @ivar joined: whether the run was under way already.
    @ivar began: when the run began, seconds of the clock.
    """

    result: Deferred[T]
    joined: bool
    began: float


class Collapsing(Generic[K, T]):
    """Work under way, by key."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._runs: dict[K, _Run[T]] = {}

    def share(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> Share[T]:
        """Join the run of C{key}, or begin it with C{start}. The run goes on whoever leaves."""
        run = self._runs.get(key)
        joined = run is not None
        if run is None:
            run = self._runs[key] = _Run(self._clock.seconds())
        waiter: Deferred[T] = Deferred(lambda gone: run.waiting.remove(gone) if gone in run.waiting else None)
        run.waiting.append(waiter)
        if not joined:
            Deferred.fromCoroutine(start()).addBoth(self._hand_out, key)
        return Share(waiter, joined, run.began)

    def _hand_out(self, result: T | Failure, key: K) -> None:
        # An upstream's failure that nobody waits for any more has been counted where it happened; a mistake of ours
        # has not.
        if isinstance(result, Failure) and not result.check(PullcacheError):
            self._log.failure("shared work failed", result)
        run = self._runs.pop(key)
        # One at a time: a waiter that is told may cancel another.
        while run.waiting:
            run.waiting.pop(0).callback(result)
