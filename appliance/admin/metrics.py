"""
What operators measure, as Prometheus metrics named C{pullcache_*}.

A new counter is a field and a method here, called where it happens; a value that can be looked up at any time is one
line of L{Metrics.watch} in L{appliance.wiring}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from appliance import __version__
from appliance.admin.accesslog import AccessLog
from appliance.interfaces import IAccounts
from appliance.upstream.interfaces import Health, IUpstreamObserver, RateLimit

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Tally:
    """What was counted of one sort of requests and is not in its counters yet: how many, their bytes, their seconds."""

    __slots__ = ("counters", "octets", "requests", "seconds")

    def __init__(self, counters: tuple[Counter, Counter, Counter]) -> None:
        self.counters = counters
        self.requests, self.octets, self.seconds = 0, 0, 0.0

    def add_up(self) -> None:
        """Put it there."""
        for counter, value in zip(self.counters, (self.requests, self.octets, self.seconds), strict=True):
            counter.inc(value)
        self.requests, self.octets, self.seconds = 0, 0, 0.0


@implementer(IAccounts, IUpstreamObserver)
class Metrics:
    """Counts requests and what upstreams do, and passes requests on to the access log."""

    def __init__(self, clock: IReactorTime, log: AccessLog | None) -> None:
        self.clock = clock
        self._log = log
        # When a counter was made is of no use, and doubles the page.
        disable_created_metrics()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter("requests", "Requests answered.", ("kind", "cache", "code"))
        self._sent = self._counter("client_sent_bytes", "Bytes of bodies sent to clients.", ("kind",))
        self._seconds = self._counter("request_seconds", "Seconds spent on requests.", ("kind",))
        self._received = self._counter(
            "upstream_received_bytes", "Bytes of bodies received from upstreams.", ("upstream",)
        )
        self._asked = self._counter("upstream_requests", "Requests to upstreams.", ("upstream", "method", "code"))
        self._failures = self._counter("upstream_failures", "Upstream failures.", ("upstream", "class"))
        self._prefetched = (
            self._counter("prefetched_blobs", "Blobs fetched that no client asked for.", ("upstream",)),
            self._counter("prefetched_bytes", "Bytes of blobs fetched that no client asked for.", ("upstream",)),
        )
        self._pulls = self._gauge(
            "upstream_rate_limit_pulls", "Pulls in a window, as the upstream last said.", ("upstream",)
        )
        self._pulls_left = self._gauge(
            "upstream_rate_limit_remaining_pulls", "Pulls left of them, as the upstream last said.", ("upstream",)
        )
        self._unstored = self._counter("unstored_bytes", "Bytes passed on and not stored for want of room.", ())
        self._collections = self._counter("collections", "Collections that ended.", ())
        self._collected = self._counter("collected_bytes", "Bytes of blobs that were collected.", ())
        self._limited = self._counter("client_rate_requests", "Requests above client_rate.", ("outcome",))
        self._dropped = self._counter("connections_dropped", "Connections refused or broken off.", ("reason",))
        self._expiry = self._gauge(
            "certificate_expiry_timestamp_seconds", "When a certificate ends that is shown to clients.", ("path",)
        )
        self._states = self._gauge(
            "upstream_url_state", "1 for the state a URL of an upstream is in.", ("upstream", "url", "state")
        )
        Gauge("pullcache_build_info", "The version running.", ("version",), registry=self._registry).labels(
            __version__
        ).set(1)
        # To look a counter up by its labels, and to count with it, takes a lock each time: the three of a request were
        # 1.0 of the 13 microseconds of an answer from memory. They are added up when somebody looks.
        self._tallies: dict[tuple[str, str, int], _Tally] = {}

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a value that is asked for when metrics are."""
        Gauge(f"pullcache_{name}", text, registry=self._registry).set_function(value)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        for tally in self._tallies.values():
            tally.add_up()
        return generate_latest(self._registry)

    def answered(
        self,
        client: str,
        user: str | None,
        method: str,
        path: str,
        kind: str,
        code: int,
        octets: int,
        seconds: float,
        cache: str,
    ) -> None:
        """See L{IAccounts.answered}."""
        tally = self._tallies.get((kind, cache, code))
        if tally is None:
            counters = (
                self._requests.labels(kind, cache, str(code)),
                self._sent.labels(kind),
                self._seconds.labels(kind),
            )
            tally = self._tallies[kind, cache, code] = _Tally(counters)
        tally.requests += 1
        tally.octets += octets
        tally.seconds += seconds
        if self._log is not None:
            self._log.add(client, user, method, path, code, octets, seconds, cache)

    def dropped(self, reason: str) -> None:
        """A connection was refused or broken off; see L{Connections}."""
        self._dropped.labels(reason).inc()

    def shows(self, certificates: Mapping[str, float]) -> None:
        """These are shown to clients: when each ends, seconds since the epoch, by its file."""
        self._expiry.clear()
        for path, until in certificates.items():
            self._expiry.labels(path).set(until)

    def limited_client(self, outcome: str) -> None:
        """A request came above C{client_rate}; see L{ClientRates}."""
        self._limited.labels(outcome).inc()

    def received(self, upstream: str, octets: int) -> None:
        """See L{IUpstreamObserver.received}."""
        self._received.labels(upstream).inc(octets)

    def prefetched(self, upstream: str, octets: int) -> None:
        """A blob of so many bytes was fetched that no client asked for."""
        blobs, total = self._prefetched
        blobs.labels(upstream).inc()
        total.labels(upstream).inc(octets)

    def unstored(self, octets: int) -> None:
        """So many bytes were passed on and not stored, since the disk has no room for them."""
        self._unstored.inc(octets)

    def collected(self, octets: int) -> None:
        """A collection has ended, and blobs of so many bytes went."""
        self._collections.inc()
        self._collected.inc(octets)

    def failed(self, upstream: str, kind: str) -> None:
        """See L{IUpstreamObserver.failed}."""
        self._failures.labels(upstream, kind).inc()

    def requested(self, upstream: str, method: str, status: int) -> None:
        """See L{IUpstreamObserver.requested}."""
        self._asked.labels(upstream, method, str(status)).inc()

    def limited(self, upstream: str, limit: RateLimit) -> None:
        """See L{IUpstreamObserver.limited}."""
        if limit.limit is not None:
            self._pulls.labels(upstream).set(limit.limit)
        self._pulls_left.labels(upstream).set(limit.remaining)

    def became(self, upstream: str, url: str, health: Health) -> None:
        """See L{IUpstreamObserver.became}."""
        for each in Health:
            self._states.labels(upstream, url, each.value).set(each is health)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"pullcache_{name}", text, labels, registry=self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"pullcache_{name}", text, labels, registry=self._registry)
