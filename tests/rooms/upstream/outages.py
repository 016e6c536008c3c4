"""Upstreams in memory whose registries fail, and what is reported of them."""

from __future__ import annotations

from typing import Any

from twisted.web.http_headers import Headers

from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.interfaces import Health, RateLimit
from appliance.upstream.kinds.standard import Standard
from tests.rooms.upstream.net import REGISTRY, Net, Reply, Server, SilentObserver, client_over

SECOND, THIRD = "https://second.example", "https://third.example"
MANIFEST = b'{"schemaVersion": 2}\n'
DIGEST = Digest.of(MANIFEST)
UP, SUSPECT, DOWN, RATE_LIMITED = Health.UP, Health.SUSPECT, Health.DOWN, Health.RATE_LIMITED


class Watching(SilentObserver):
    """Remembers."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.limits: list[RateLimit] = []
        self.states: list[tuple[str, Health]] = []

    def failed(self, upstream: str, kind: str) -> None:
        self.kinds.append(kind)

    def limited(self, upstream: str, limit: RateLimit) -> None:
        self.limits.append(limit)

    def became(self, upstream: str, url: str, health: Health) -> None:
        self.states.append((url, health))


class PullsLeft(Standard):
    """Reads how many pulls of a hundred are left, as Docker Hub reports it."""

    def rate_limit(self, headers: Headers) -> RateLimit | None:
        values = headers.getRawHeaders("ratelimit-remaining")
        return None if values is None else RateLimit(100, int(values[0]), 21600.0)


class Outages:
    """
    An upstream in a network.

    @ivar urls: the configured ones.
    """

    def __init__(self, *urls: str, **more: Any) -> None:
        self.net = Net()
        self.net.clock.rightNow = 1_700_000_000.0
        self.urls = urls or (REGISTRY,)
        self.observer = Watching()
        credentials, adapter = more.pop("credentials", None), more.pop("adapter", Standard())
        settings = UpstreamSettings(name="up.example", urls=self.urls, **more)
        self.upstream = client_over(
            self.net, settings, adapter, lambda url: credentials, self.observer, random=lambda: 0.5
        )
        for url in self.urls:
            self.serve(lambda asked: Reply(body=MANIFEST), url)

    def serve(self, server: Server, url: str = REGISTRY) -> None:
        self.net.servers[url] = server

    def answer(self, *replies: Reply, url: str = REGISTRY) -> None:
        """These one after the other, the last one for ever."""
        left = list(replies)
        self.serve(lambda asked: left.pop(0) if len(left) > 1 else left[0], url)

    @property
    def states(self) -> list[Health]:
        return [each.health for each in self.upstream.condition().urls]

    def pull(self, repository: str = "a") -> bytes:
        return self.net.result(self.upstream.manifest(repository, "t")).data

    def fault(self, repository: str = "a") -> BaseException:
        return self.net.fault(self.upstream.manifest(repository, "t"))

    def pass_time(self, seconds: float) -> None:
        """Second by second."""
        self.net.settle()
        self.net.clock.pump([1.0] * int(seconds))
        self.net.settle()

    def asked(self, url: str = REGISTRY, of: str = "") -> list[str]:
        return [asked.target for asked in self.net.asked if asked.origin == url and of in asked.target]

    def end(self) -> None:
        """Nothing is left but the ends of idle connections."""
        self.net.settle()
        self.upstream.stop()
        assert self.net.timers() == []
