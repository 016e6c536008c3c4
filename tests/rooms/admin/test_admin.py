"""What operators see: alive, ready, measured, and one line a request."""

from __future__ import annotations

import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from treq.testing import StubTreq
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from appliance.admin.accesslog import INTERVAL, TOGETHER, AccessLog
from appliance.admin.app import AdminApp
from appliance.admin.metrics import Metrics
from appliance.interfaces import IAccounts
from appliance.upstream.interfaces import Health, IUpstreamObserver, RateLimit
from tests.doubles.audit import NotedAudit

NOON = 1_700_000_000.0


def measured(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, without the times at which counters were made."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


class AdminTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics(Clock(), None)
        self.probes: list[Deferred[None]] = [succeed(None)]
        app = AdminApp(self.metrics, lambda: self.probes.pop(0), NotedAudit())
        self.treq = StubTreq(app.site().resource)

    def ask(self, path: str, method: str = "GET") -> tuple[int, Any, bytes]:
        response = self.successResultOf(self.treq.request(method, f"http://127.0.0.1:5001{path}"))
        return response.code, response.headers, self.successResultOf(self.treq.content(response))

    def json(self, path: str, method: str = "GET") -> tuple[int, Any]:
        code, headers, body = self.ask(path, method)
        self.assertEqual(headers.getRawHeaders("Content-Type"), ["application/json"])
        return code, json.loads(body)

    def test_alive(self) -> None:
        """The answer needs neither the disk nor an upstream."""
        self.probes.clear()
        self.assertEqual(self.json("/healthz"), (200, {"status": "ok"}))

    def test_ready(self) -> None:
        """The store can be read and written."""
        self.assertEqual(self.json("/readyz"), (200, {"status": "ready"}))

    def test_not_ready_says_why(self) -> None:
        """The failing probe itself says why, before any look at the log; and it recovers by itself."""

        def broken() -> Deferred[None]:
            raise OSError(30, "Read-only file system")

        self.probes[:] = [fail(OSError(28, "No space left on device")), succeed(None)]
        code, document = self.json("/readyz")
        self.assertEqual((code, document["status"]), (503, "not ready"))
        self.assertIn("No space left on device", document["reason"])
        self.assertEqual(self.json("/readyz")[0], 200)
        self.treq = StubTreq(AdminApp(self.metrics, broken, NotedAudit()).site().resource)
        code, document = self.json("/readyz")
        self.assertEqual((code, "Read-only file system" in document["reason"]), (503, True))

    def test_a_probe_that_takes_long_is_waited_for(self) -> None:
        """A slow disk is not a broken one, and the answer is not given before it is known."""
        self.probes[:] = [Deferred()]
        probe = self.probes[0]
        asked = self.treq.get("http://127.0.0.1:5001/readyz")
        self.treq.flush()
        self.assertNoResult(asked)
        probe.callback(None)
        self.treq.flush()
        self.assertEqual(self.successResultOf(asked).code, 200)

    def test_metrics_are_prometheus_text(self) -> None:
        """A scraper takes them as they are."""
        self.metrics.watch("flights", "Blobs being fetched.", lambda: 3)
        code, headers, body = self.ask("/metrics")
        self.assertEqual(code, 200)
        self.assertTrue(headers.getRawHeaders("Content-Type")[0].startswith("text/plain; version="))
        self.assertIn(b"\npullcache_flights 3.0\n", body)

    def test_what_is_not_there_is_said_in_json(self) -> None:
        """No page of HTML for a script that mistyped a path, nor for one below a page that is there."""
        for path in ("/", "/nothing", "/healthz/below", "/v2/", "/%2e%2e/etc"):
            code, document = self.json(path)
            self.assertEqual((code, document["error"]["code"]), (404, "not-found"))
            self.assertIn("/api/v1/openapi.json", document["error"]["message"])

    def test_a_failure_of_ours_tells_no_secrets(self) -> None:
        """500 as JSON; the reason is in the log and not in the answer."""

        def broken() -> float:
            raise ValueError("a detail for the log")

        self.metrics.watch("broken", "Broken.", broken)
        code, document = self.json("/metrics")
        self.assertEqual((code, "detail" in str(document)), (500, False))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_head_is_get_without_the_body(self) -> None:
        """A load balancer may ask either way."""
        for path in ("/healthz", "/readyz", "/nothing"):
            self.probes[:] = [succeed(None), succeed(None)]
            code, headers, body = self.ask(path)
            head_code, head_headers, head_body = self.ask(path, "HEAD")
            self.assertEqual((head_code, head_body), (code, b""))
            self.assertEqual(head_headers.getRawHeaders("Content-Length"), [str(len(body))])


class MetricsTests(SynchronousTestCase):
    def test_provides_the_interfaces(self) -> None:
        """It is called for requests and by upstreams."""
        for interface in (IAccounts, IUpstreamObserver):
            verifyObject(interface, Metrics(Clock(), None))

    def test_the_names_are_the_documented_ones(self) -> None:
        """Dashboards are written against these names, units and labels."""
        metrics = Metrics(Clock(), None)
        for number in (100, 23):
            metrics.answered("192.0.2.1", None, "GET", "/v2/", "blob", 200, number, 0.5, "hit")
        metrics.answered("192.0.2.1", None, "GET", "/v2/", "blob", 404, 7, 0.25, "miss")
        metrics.answered("192.0.2.1", None, "GET", "/v2/", "manifest", 200, 50, 0.25, "hit")
        metrics.received("docker.io", 1000)
        metrics.received("docker.io", 24)
        metrics.requested("docker.io", "HEAD", 401)
        metrics.failed("docker.io", "rate_limited")
        metrics.limited("docker.io", RateLimit(100, 20, 21600.0))
        metrics.limited("docker.io", RateLimit(None, 19, None))
        metrics.became("docker.io", "https://registry-1.docker.io", Health.UP)
        metrics.became("docker.io", "https://registry-1.docker.io", Health.DOWN)
        metrics.watch("store_bytes", "Bytes of all blobs held.", lambda: 42)
        metrics.watch("flights", "Blobs being fetched from upstreams.", lambda: 2)
        measured(metrics)
        # Whoever looks, looks again.
        found = measured(metrics)
        expected: list[tuple[str, dict[str, str], float]] = [
            ("pullcache_requests_total", {"kind": "blob", "cache": "hit", "code": "200"}, 2),
            ("pullcache_requests_total", {"kind": "blob", "cache": "miss", "code": "404"}, 1),
            ("pullcache_requests_total", {"kind": "manifest", "cache": "hit", "code": "200"}, 1),
            ("pullcache_client_sent_bytes_total", {"kind": "blob"}, 130),
            ("pullcache_client_sent_bytes_total", {"kind": "manifest"}, 50),
            ("pullcache_request_seconds_total", {"kind": "blob"}, 1.25),
            ("pullcache_upstream_received_bytes_total", {"upstream": "docker.io"}, 1024),
            ("pullcache_upstream_requests_total", {"upstream": "docker.io", "method": "HEAD", "code": "401"}, 1),
            ("pullcache_upstream_failures_total", {"upstream": "docker.io", "class": "rate_limited"}, 1),
            ("pullcache_upstream_rate_limit_pulls", {"upstream": "docker.io"}, 100),
            ("pullcache_upstream_rate_limit_remaining_pulls", {"upstream": "docker.io"}, 19),
            *(
                (
                    "pullcache_upstream_url_state",
                    {"upstream": "docker.io", "url": "https://registry-1.docker.io", "state": state},
                    float(state == "down"),
                )
                for state in ("up", "doubtful", "down", "resting")
            ),
            ("pullcache_store_bytes", {}, 42),
            ("pullcache_flights", {}, 2),
        ]
        for name, labels, value in expected:
            self.assertEqual(found.get((name, frozenset(labels.items()))), value, (name, labels))

    def test_two_appliances_in_one_process_do_not_share_counters(self) -> None:
        """Each counts its own."""
        one, other = Metrics(Clock(), None), Metrics(Clock(), None)
        one.received("docker.io", 5)
        self.assertNotIn("docker.io", other.render().decode())

    def test_requests_are_passed_on_to_the_access_log(self) -> None:
        """Counted and written, once each."""
        lines: list[str] = []
        clock = Clock()
        log = AccessLog(lines.append, clock)
        Metrics(clock, log).answered("192.0.2.1", None, "GET", "/v2/", "ping", 200, 2, 0.0, "-")
        log.flush()
        self.assertEqual(len(lines), 1)
        clock.advance(INTERVAL)
        self.assertEqual(len(lines), 1)


class AccessLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.written: list[str] = []
        self.log = AccessLog(self.written.append, self.clock)

    def add(self, path: str, user: str | None = None) -> None:
        self.log.add("192.0.2.1", user, "GET", path, 206, 512, 0.12345, "hit")

    def test_many_lines_are_written_in_small_batches(self) -> None:
        """Clients are not held up by half a second's worth; the rest comes with its time, as ever."""
        for number in range(TOGETHER):
            self.add(f"/{number}")
        self.assertEqual(self.written, [])
        self.clock.advance(0)
        self.add("/last")
        self.assertEqual([each.count("\n") for each in self.written], [TOGETHER])
        self.clock.advance(INTERVAL)
        self.assertEqual([each.count("\n") for each in self.written], [TOGETHER, 1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_line_has_all_that_was_promised(self) -> None:
        """When, client, method, path, status, bytes, seconds, cache status, user; from the very first second on."""
        for seconds in (0.0, NOON):
            self.written.clear()
            self.clock.rightNow = seconds
            self.add("/v2/a/manifests/1")
            self.log.flush()
            when, rest = self.written[0].split(" ", 1)
            self.assertRegex(when, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}$")
            self.assertEqual(rest, "192.0.2.1 GET /v2/a/manifests/1 206 512 0.123 hit -\n")

    def test_a_line_says_who_was_logged_in(self) -> None:
        """In its last word, whatever the name holds: no name makes another line or word, or passes for none."""
        names = {"alice@site": "alice@site", "Zo\xeb": "Zo%C3%AB", "a b\nc%": "a%20b%0Ac%25"}
        for user, shown in (names | {"-": "%2D", "\udcff": "%3F"}).items():
            self.written.clear()
            self.add("/v2/", user)
            self.log.flush()
            self.assertEqual(len(self.written[0].splitlines()), 1)
            self.assertEqual(self.written[0].split()[8:], [shown])

    def test_lines_are_written_together(self) -> None:
        """A busy second costs a few writes, an idle one none, and no line waits longer than the interval."""
        for number in range(100):
            self.add(f"/{number}")
        self.assertEqual((self.written, len(self.clock.getDelayedCalls())), ([], 1))
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.written), 1)
        self.assertEqual([line.split()[3] for line in self.written[0].splitlines()], [f"/{n}" for n in range(100)])
        self.clock.advance(10 * INTERVAL)
        self.assertEqual((len(self.written), self.clock.getDelayedCalls()), (1, []))
        self.add("/later")
        self.clock.advance(INTERVAL)
        self.assertEqual(len(self.written), 2)

    def test_a_line_carries_the_time_of_its_request(self) -> None:
        """Not the time at which it was written."""
        self.clock.advance(NOON)
        self.add("/first")
        self.clock.advance(INTERVAL / 2)
        self.clock.rightNow = NOON + 1
        self.add("/second")
        self.log.flush()
        first, second = (line.split()[0] for line in self.written[0].splitlines())
        self.assertLess(first, second)

    def test_a_write_that_fails_costs_its_lines_only(self) -> None:
        """The disk under the log is full: requests go on, and so does the log when there is room."""

        def full(text: str) -> None:
            raise OSError(28, "no room")

        log = AccessLog(full, self.clock)
        log.add("192.0.2.1", None, "GET", "/", 200, 0, 0.0, "-")
        self.assertRaises(OSError, log.flush)
        log._write = self.written.append
        log.add("192.0.2.1", None, "GET", "/later", 200, 0, 0.0, "-")
        log.flush()
        self.assertEqual(len(self.written), 1)
        self.assertIn("/later", self.written[0])
