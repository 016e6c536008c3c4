"""The cache over stores in memory and scripted upstreams; nothing happens but by a call or a step of the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from appliance.admin.metrics import Metrics
from appliance.cache.access import RemoteRepository
from appliance.flow.disk import InlineThreads
from appliance.index.memory import MemoryDocuments
from appliance.settings import IMAGE_NONE, PrefetchSettings, RuleSettings, Settings, UpstreamSettings
from appliance.store.memory import MemoryBlobStore
from appliance.upstream.interfaces import IUpstream
from appliance.wiring import Services
from tests.doubles.audit import NotedAudit
from tests.doubles.deferreds import result

T = TypeVar("T")

NOW = 1_800_000_000.0


def clock_at(seconds: float = NOW) -> Clock:
    """A clock that does not begin at nought, which stands for "never" in some places."""
    clock = Clock()
    clock.advance(seconds)
    return clock


class Counted(Metrics):
    """
    Measurements that remember what was prefetched.

    @ivar fetched: bytes of each blob.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, None)
        self.fetched: list[int] = []

    def prefetched(self, upstream: str, octets: int) -> None:
        """See L{Metrics.prefetched}."""
        self.fetched.append(octets)


class Cache:
    """
    A L{PullThrough} and what it is made of; C{before} is the process before a restart.

    C{settings} go to every upstream's L{UpstreamSettings}; unless they say so, nothing is prefetched. C{access} are the
    rules.
    """

    def __init__(
        self,
        *upstreams: IUpstream,
        offline: bool = False,
        before: Cache | None = None,
        store: Any = None,
        documents: Any = None,
        clock: Clock | None = None,
        access: Sequence[RuleSettings] = (),
        **settings: Any,
    ) -> None:
        self.clock: Clock = clock or (clock_at() if before is None else before.clock)
        self.store: Any = store or (MemoryBlobStore() if before is None else before.store)
        self.documents: Any = documents or (MemoryDocuments() if before is None else before.documents)
        self.state: MemoryDocuments = MemoryDocuments() if before is None else before.state
        if before is not None:
            result(before.repositories.flush())
        by_name = {each.name: each for each in upstreams}
        asked = {"urls": ("https://x",), "prefetch": PrefetchSettings(image=IMAGE_NONE), **settings}
        self.metrics = Counted(self.clock)
        self.audit = NotedAudit()
        self.services = services = Services(
            Settings(
                upstreams={name: UpstreamSettings(name=name, **asked) for name in by_name},
                offline=offline,
                access=tuple(access),
            ),
            clock=self.clock,
            threads=InlineThreads(),
            store=self.store,
            documents=self.documents,
            state=self.state,
            probe=lambda: succeed(None),
            make_upstream=lambda settings, _: by_name[settings.name],
            metrics=self.metrics,
            audit=self.audit,
        )
        self.repositories, self.flights, self.through = services.repositories, services.flights, services.cache
        self.access, self.remotes, self.blobs = services.access, services.access.remotes, services.blobs

    def at(self, upstream: str, name: str) -> RemoteRepository:
        """A repository, when it may be read."""
        return self.through.access.open(upstream, name)
