"""
An upstream of which no more is requested at once than it is meant to give.

Manifests go before blobs, and what a client waits for before background work; see L{ConcurrencyLimit}. A permit is held
from the request until its answer is whole, its token request and all its pages included: so it wraps a whole upstream
and not single HTTP requests. A blob's is held until its body has ended, however it ends. While the upstream is known to
be down or wants fewer requests no request waits for a permit, since none leads to more than a failure at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.components import proxyForInterface

from appliance.oci.digest import Digest
from appliance.upstream.interfaces import (
    FetchedManifest,
    Health,
    IBlobResponse,
    IUpstream,
    ManifestHead,
    Referrers,
)

T = TypeVar("T")

_FAILS_AT_ONCE = frozenset({Health.DOWN, Health.RATE_LIMITED})


class Priority(IntEnum):
    """What goes first."""

    #: Manifests, tags and sizes: small, and nothing of an image can begin without them.
    METADATA = 0
    #: Blobs that a client waits for.
    BLOB = 1
    #: What no client waits for.
    BACKGROUND = 2


class Permit:
    """Leave to have one answer open."""

    def __init__(self, limit: ConcurrencyLimit, priority: Priority) -> None:
        self.priority = priority
        self._limit: ConcurrencyLimit | None = limit

    def release(self) -> None:
        """The answer is over; may be called more than once."""
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.returned(self)


class ConcurrencyLimit:
    """
    Gives out up to C{limit} permits at once: the first priority first, and within a priority in order.

    Blobs take long. So one permit is never theirs, and another is no background work's, as far as there are that many:
    a manifest waits for manifests only.

    @ivar free: says whether an answer costs nothing for now; then nothing waits.
    """

    def __init__(self, limit: int) -> None:
        """
        @raise ValueError: C{limit} is less than 1.
        """
        if limit < 1:
            raise ValueError(f"{limit} permits: at least 1 is needed")
        self.free: Callable[[], bool] = lambda: False
        self._limit = limit
        self._given = dict.fromkeys(Priority, 0)
        self._waiting: dict[Priority, deque[Deferred[Permit]]] = {priority: deque() for priority in Priority}
        self._granting = False

    @property
    def in_use(self) -> int:
        """Permits given out and not returned."""
        return sum(self._given.values())

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return sum(map(len, self._waiting.values()))

    def acquire(self, priority: Priority) -> Deferred[Permit]:
        """Fires with a L{Permit}, which is to be released. Cancelling it leaves the queue."""
        waiter: Deferred[Permit] = Deferred(self._leave)
        self._waiting[priority].append(waiter)
        self._grant()
        return waiter

    def move(self, waiter: Deferred[Permit], priority: Priority) -> None:
        """What waits for a permit waits from now on as the last of C{priority}."""
        self._leave(waiter)
        self._waiting[priority].append(waiter)
        self._grant()

    def _leave(self, waiter: Deferred[Permit]) -> None:
        next(queue for queue in self._waiting.values() if waiter in queue).remove(waiter)

    def returned(self, permit: Permit) -> None:
        """For L{Permit.release}."""
        self._given[permit.priority] -= 1
        self._grant()

    def _grant(self) -> None:
        # Who gets a permit may at once return it: a loop goes on with the next, where a call within a call within a
        # call would end at the depth of Python's stack.
        if self._granting:
            return
        self._granting = True
        try:
            while (priority := self._next()) is not None:
                self._given[priority] += 1
                self._waiting[priority].popleft().callback(Permit(self, priority))
        finally:
            self._granting = False

    def _next(self) -> Priority | None:
        return next((priority for priority in Priority if self._waiting[priority] and self._may(priority)), None)

    def _may(self, priority: Priority) -> bool:
        """Whether there is a permit for C{priority}: those of it and behind it hold fewer than is theirs."""
        theirs = sum(given for other, given in self._given.items() if other >= priority)
        return (self.in_use < self._limit and theirs < max(1, self._limit - priority)) or self.free()


class LimitedUpstream(proxyForInterface(IUpstream, "_registry")):  # type: ignore[misc]
    """
    Another upstream with a limit on the answers open at once.

    What waits for a permit when it is disconnected fails when it gets one.
    """

    _registry: IUpstream

    def __init__(self, registry: IUpstream, limit: ConcurrencyLimit) -> None:
        super().__init__(registry)
        self._limit = limit
        self._behind: list[tuple[str, Digest, Deferred[Permit]]] = []
        limit.free = self._fails_at_once

    def overdue(self, repository: str) -> None:
        """See L{IUpstream.overdue}; while requests wait here for a permit it is not the registry that is late."""
        if not self._limit.waiting:
            self._registry.overdue(repository)

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """See L{IUpstream.head}."""
        return self._permitted(lambda: self._registry.head(repository, reference))

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """See L{IUpstream.manifest}."""
        return self._permitted(lambda: self._registry.manifest(repository, reference))

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """See L{IUpstream.blob_size}."""
        return self._permitted(lambda: self._registry.blob_size(repository, digest))

    def tags(self, repository: str) -> Deferred[list[str]]:
        """See L{IUpstream.tags}."""
        return self._permitted(lambda: self._registry.tags(repository))

    def referrers(self, repository: str, subject: Digest) -> Deferred[Referrers]:
        """See L{IUpstream.referrers}."""
        return self._permitted(lambda: self._registry.referrers(repository, subject))

    def blob(
        self,
        repository: str,
        digest: Digest,
        start: int = 0,
        stop: int | None = None,
        validator: str | None = None,
        background: bool = False,
    ) -> Deferred[IBlobResponse]:
        """
        See L{IUpstream.blob}.

        The caller delivers or abandons what it gets: until then others wait for its permit.
        """

        async def opened() -> IBlobResponse:
            waiter = self._limit.acquire(Priority.BACKGROUND if background else Priority.BLOB)
            waiting = (repository, digest, waiter)
            if background:
                self._behind.append(waiting)
            try:
                permit = await waiter
            finally:
                if waiting in self._behind:
                    self._behind.remove(waiting)
            try:
                response = await self._registry.blob(repository, digest, start, stop, validator, background)
            except BaseException:
                permit.release()
                raise
            return LimitedResponse(response, permit)

        return Deferred.fromCoroutine(opened())

    def awaited(self, repository: str, digest: Digest) -> None:
        """See L{IUpstream.awaited}: it goes behind what other clients wait for, before the rest."""
        for waiting in [each for each in self._behind if each[:2] == (repository, digest)]:
            self._behind.remove(waiting)
            self._limit.move(waiting[2], Priority.BLOB)
        self._registry.awaited(repository, digest)

    def _permitted(self, ask: Callable[[], Deferred[T]]) -> Deferred[T]:
        async def answered() -> T:
            permit = await self._limit.acquire(Priority.METADATA)
            try:
                return await ask()
            finally:
                permit.release()

        return Deferred.fromCoroutine(answered())

    def _fails_at_once(self) -> bool:
        urls = self._registry.condition().urls
        return bool(urls) and all(url.health in _FAILS_AT_ONCE for url in urls)


class LimitedResponse(proxyForInterface(IBlobResponse, "_response")):  # type: ignore[misc]
    """An answer to a blob request that holds a permit until it is over."""

    _response: IBlobResponse

    def __init__(self, response: IBlobResponse, permit: Permit) -> None:
        super().__init__(response)
        self._permit = permit
        self._taken = False

    def deliver(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBlobResponse.deliver}."""

        def over(result: T) -> T:
            self._permit.release()
            return result

        self._taken = True
        try:
            delivered: Deferred[None] = self._response.deliver(consumer)
        except BaseException:
            self._permit.release()
            raise
        return delivered.addBoth(over)

    def abandon(self) -> None:
        """See L{IBlobResponse.abandon}; after C{deliver} the body's end is what counts."""
        try:
            self._response.abandon()
        finally:
            if not self._taken:
                self._permit.release()
