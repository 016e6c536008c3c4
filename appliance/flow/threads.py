"""Threads for blocking work on the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from appliance.interfaces import IThreads

T = TypeVar("T")

# Enough for a few slow fsyncs beside the hashing; the disk, not the count, is the limit.
THREADS = 8


@implementer(IThreads)
class DiskThreads:
    """L{IThreads} on a Twisted thread pool."""

    def __init__(self, reactor: IReactorFromThreads, pool: ThreadPool) -> None:
        self._reactor = reactor
        self._pool = pool

    def call(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """See L{IThreads.call}."""
        return deferToThreadPool(self._reactor, self._pool, function, *args)


@implementer(IThreads)
class InlineThreads:
    """L{IThreads} that works at once, on the caller's thread: for tests and for tools without a reactor."""

    def call(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """See L{IThreads.call}; the Deferred has fired when this returns."""
        return execute(function, *args)
