"""Waiting for a shared result only so long."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")


async def within(result: Deferred[T], seconds: float, clock: IReactorTime) -> T:
    """
    Await this waiter's own C{result} for C{seconds}.

    @raise DeferredTimeout: it has not fired by then; whatever it stands for goes on.
    """
    if seconds <= 0 and not result.called:
        result.addErrback(lambda failure: failure.trap(CancelledError))
        result.cancel()
        raise DeferredTimeout()
    return await result.addTimeout(max(seconds, 0.0), clock)
