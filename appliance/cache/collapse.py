"""One run of a piece of work, shared by everybody who asks for it meanwhile (RFC 9211: C{collapsed})."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.errors import PullcacheError
from appliance.flow.sharing import Sharing

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


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
        self._runs: Sharing[K, T] = Sharing()
        self._began: dict[K, float] = {}

    def share(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> Share[T]:
        """Join the run of C{key}, or begin it with C{start}. The run goes on whoever leaves."""
        joined = key in self._began
        began = self._began.setdefault(key, self._clock.seconds())
        return Share(self._runs.get(key, lambda: self._run(key, start)), joined, began)

    async def _run(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await start()
        except PullcacheError:
            # An upstream's failure that nobody waits for any more has been counted where it happened.
            raise
        except Exception:
            self._log.failure("shared work failed")
            raise
        finally:
            del self._began[key]
