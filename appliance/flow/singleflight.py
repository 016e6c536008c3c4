"""
Work that several wait for: one run, and a Deferred for each who waits.

A Deferred has one owner, who may cancel it. So each who waits for something that others wait for as well gets a
Deferred of its own, and cancelling that detaches its owner and stops nothing. L{SingleFlight} has its name from Go's
C{golang.org/x/sync/singleflight}; RFC 9211 calls what it does C{collapsed}.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.errors import PullcacheError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Runs of work by key, at most one of a key at a time. C{key in flights}: whether one is under way."""

    _log = Logger()

    def __init__(self, *noted: type[Exception]) -> None:
        """@param noted: failures that the work itself logs or counts where they happen, as L{PullcacheError}s are."""
        self._runs: dict[K, Waiters[T]] = {}
        self._noted = (PullcacheError, CancelledError, *noted)

    def __contains__(self, key: K) -> bool:
        return key in self._runs

    def run(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """
        Join the run of C{key}, or begin it with C{start()}.

        @return: the caller's own Deferred, with the run's result or failure. The run goes on when callers cancel
            theirs, the last one too: its result is of use to the next. A failure that no caller waits for any more is
            logged, unless it has been noted where it happened.
        """
        waiters = self._runs.get(key)
        if waiters is not None:
            return waiters.wait()
        waiters = self._runs[key] = Waiters()
        waiter = waiters.wait()
        Deferred.fromCoroutine(start()).addBoth(self._ended, key)
        return waiter

    def _ended(self, result: T | Failure, key: K) -> None:
        waiters = self._runs.pop(key)
        if isinstance(result, Failure) and not waiters and not result.check(*self._noted):
            self._log.failure("work that no caller waits for any more failed", result)
        waiters.fire(result)


class Waiters(Generic[T]):
    """Those who wait for one thing. Its length is their number."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self) -> Deferred[T]:
        """The caller's own Deferred, for the next L{fire}."""
        waiter: Deferred[T] = Deferred(self._leave)
        self._waiting.append(waiter)
        return waiter

    def fire(self, result: T | Failure) -> None:
        """Give a result or a failure to all who wait now; those who begin to wait meanwhile are for the next one."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            # One that was called before it may have cancelled this one.
            if not waiter.called:
                waiter.callback(result)

    def _leave(self, waiter: Deferred[T]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)


def shielded(work: Deferred[T]) -> Deferred[T]:
    """
    What C{work} comes to, its failure too, in a Deferred whose cancellation does not reach it: a thread cannot be
    stopped, and what was decided is carried out.
    """
    waiter: Deferred[T] = Deferred()
    work.chainDeferred(waiter)
    return waiter


def ended(work: Deferred[Any]) -> Deferred[None]:
    """Fires with C{None} when C{work} has fired or failed; its result goes on to those who await C{work} itself."""
    over: Deferred[None] = Deferred()

    def fire(result: T) -> T:
        over.callback(None)
        return result

    work.addBoth(fire)
    return over
