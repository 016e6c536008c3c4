"""
The rows about upstreams that are not what one would wish for: whose connections are slow, and who say nothing at all.

The appliance is held against itself, in the same run: with one line at a time, and with an upstream that is well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.contents import Image
from benchmarks.field import DIRECT, MB, Bench, cold_blobs, interleaved, warm_up
from benchmarks.reading import fetch
from benchmarks.servers import BlackHole, Line
from tests.clients import plain
from tests.process.service import until

LINES = 4
CONNECTION_RATE = 20e6
"""Bytes a second of each of the upstream's connections."""

REQUESTS = 5000
FRESH_FOR = 1.0
"""Seconds; short, so that the upstream's silence is met soon."""

WITHIN = 2.0
"""Seconds that a client with a cached answer waits at most, as shipped."""

HEALTHY, HOLE = "upstream well", "upstream silent"


def segments(bench: Bench) -> None:
    """A cold blob over several of an upstream's slow connections, against one of them."""
    findings, rounds = bench.findings, bench.effort.cold
    one, several = "1 segment", f"{LINES} segments"
    images = bench.cold_images(rounds, bench.effort.small)
    with bench.servers("segments") as servers:
        line = servers.line(CONNECTION_RATE, 0.0, each=True)
        targets = {
            DIRECT: line.authority,
            one: servers.appliance("one", line.url).authority,
            several: servers.appliance("several", line.url, segments=LINES).authority,
        }
        for authority in targets.values():
            warm_up(bench, authority)
        for name, fetched in interleaved(rounds, list(targets), cold_blobs(bench, images, targets)).items():
            findings.add("segments", name, "speed", "MB/s", [each.rate for each in fetched])
            findings.add("segments", name, "first byte", "ms", [each.first * 1e3 for each in fetched])
    promise = f"blob, {CONNECTION_RATE / MB:.0f} MB/s a connection: {several} against one"
    findings.at_least("segments", promise, 3.0, findings.ratio("segments", "speed", several, one))


@dataclass(frozen=True)
class Asked:
    """
    A cached tag that is not fresh any more, asked for again and again.

    @ivar first: seconds until the first answer.
    @ivar rest: seconds of the L{REQUESTS} after it, one after the other.
    """

    first: float
    rest: float


def silence(bench: Bench) -> None:
    """A cached image whose upstream takes connections and never answers, against the same while it is well."""
    findings = bench.findings
    image = bench.pushed("silence", 64 * 1024)
    back: list[float] = []
    with bench.servers("silence") as servers:
        line = servers.line(1e9, 0.0)
        authority = servers.appliance(upstream_url=line.url, fresh_for=f"{FRESH_FOR:g}s").authority
        plain.get(authority, image.tag_path, image.content.digest)

        def measure(name: str) -> Asked:
            if name == HEALTHY:
                return _ask(authority, image)
            with _silent(line):
                asked = _ask(authority, image, stale=True)
            back.append(_wait_for(lambda: not _is_stale(authority, image), "the upstream's return is noticed"))
            return asked

        for name, rounds in interleaved(bench.effort.rounds, (HEALTHY, HOLE), measure).items():
            findings.add("silence", name, "first answer", "ms", [each.first * 1e3 for each in rounds])
            findings.add("silence", name, f"next {REQUESTS}", "s", [each.rest for each in rounds])
    findings.add("silence", HEALTHY, "noticed again after", "s", back)
    slowest = findings.find("silence", HOLE, "first answer")
    assert slowest is not None
    promise = "silent upstream, image cached: seconds to the first answer"
    findings.at_most("silence", promise, WITHIN + 0.1, max(slowest.values) / 1e3)
    promise = f"silent upstream, image cached: next {REQUESTS}, time against well"
    findings.at_most("silence", promise, 1.2, findings.ratio("silence", f"next {REQUESTS}", HOLE, HEALTHY))


@contextmanager
def _silent(line: Line) -> Iterator[None]:
    """The upstream is replaced by a black hole at its address, for a while."""
    line.kill()
    hole = BlackHole(line.authority)
    try:
        yield
    finally:
        hole.close()
        line.start()


def _ask(authority: str, image: Image, stale: bool = False) -> Asked:
    time.sleep(FRESH_FOR + 0.1)
    start = time.perf_counter()
    reply = plain.get(authority, image.tag_path, image.content.digest)
    first = time.perf_counter() - start
    assert _was_stale(reply) == stale, reply.cache_status
    return Asked(first, fetch(authority, image.tag_path, times=REQUESTS).seconds)


def _is_stale(authority: str, image: Image) -> bool:
    return _was_stale(plain.get(authority, image.tag_path, image.content.digest))


def _was_stale(reply: plain.Reply) -> bool:
    return "detail=stale-" in reply.cache_status


def _wait_for(happened: Callable[[], bool], what: str) -> float:
    start = time.perf_counter()
    until(happened, what)
    return time.perf_counter() - start


ROWS: dict[str, Callable[[Bench], None]] = {"segments": segments, "silence": silence}
