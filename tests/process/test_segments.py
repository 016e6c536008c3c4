"""A large blob over several connections at once, through real sockets and onto a real disk."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.plain import Transfer, get
from tests.doubles.answers import Exchange
from tests.doubles.remote import RemoteRegistry
from tests.process.coldblob import ColdBlob
from tests.process.service import Appliance

SIZE = 48_000_000
"""Bytes of the layer: several pieces for each of the lines."""

LINES = 4
RATE = 6_000_000
"""Bytes per second of each of the upstream's responses."""

ROUNDS = int(os.environ.get("PULLCACHE_SEGMENT_ROUNDS", "3"))

pytestmark = pytest.mark.process


def cold_blob(appliance: Appliance, upstream: RemoteRegistry, number: int = 0) -> ColdBlob:
    return ColdBlob(appliance, upstream, SIZE, "team/large", str(number), seed=f"segments-{number}")


@pytest.fixture
def segmented(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """A running appliance that fetches large blobs over several connections."""
    made = Appliance(tmp_path / "appliance", upstream.url, upstream={"segments": LINES})
    yield made.start()
    made.kill()


def reach(exchange: Exchange) -> tuple[int, int]:
    """From where to where a response with a range was sent."""
    assert exchange.status == 206
    first = int((exchange.header("Range") or "").removeprefix("bytes=").partition("-")[0])
    return first, first + exchange.sent


def test_every_byte_is_sent_once_and_over_several_lines(segmented: Appliance, upstream: RemoteRegistry) -> None:
    """The client gets the right blob; the upstream's responses are ranges that meet without overlapping."""
    cold = cold_blob(segmented, upstream)
    get(segmented.authority, cold.path, cold.digest)
    ranges = sorted(map(reach, cold.fetches()))
    assert len(ranges) > LINES
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
    assert ranges[-1][1] == cold.size
    assert list(segmented.store.glob("partial/*")) == []


def test_an_upstream_that_cuts_and_refuses_is_got_the_better_of(segmented: Appliance, upstream: RemoteRegistry) -> None:
    """Some pieces are reset half way, some are answered with 503: the client notices nothing."""
    cold = cold_blob(segmented, upstream)
    upstream.misbehave(f"GET {cold.path}", ("cut", {"after": 1_000_000}), times=3, skip=1)
    upstream.misbehave(f"GET {cold.path}", ("status", {"code": 502}), times=1, skip=6)
    get(segmented.authority, cold.path, cold.digest)


def test_an_upstream_that_ignores_ranges_is_asked_once(segmented: Appliance, upstream: RemoteRegistry) -> None:
    """Configured for an upstream that cannot do it, segments cost nothing."""
    cold = cold_blob(segmented, upstream)
    upstream.misbehave(f"GET {cold.path}", ("range_ignored", {}))
    get(segmented.authority, cold.path, cold.digest)
    assert [exchange.sent for exchange in cold.fetches()] == [cold.size]


def test_an_upstream_that_grants_no_more_ranges_is_read_as_one_stream(
    segmented: Appliance, upstream: RemoteRegistry
) -> None:
    """From the fourth request on it sends the whole: one line goes on, and the blob is right."""
    cold = cold_blob(segmented, upstream)
    upstream.misbehave(f"GET {cold.path}", ("range_ignored", {}), skip=3)
    get(segmented.authority, cold.path, cold.digest)


def test_killed_in_the_middle_the_blob_is_right_after_the_restart(
    segmented: Appliance, upstream: RemoteRegistry
) -> None:
    """
    kill -9 while pieces come in any order: what is left is a beginning of the blob and nothing else, no smaller than
    what clients had been given, and the rest is fetched behind it.
    """
    moments = random.Random(4)
    for number in range(ROUNDS):
        upstream.set(rate=RATE)
        cold = cold_blob(segmented, upstream, number)
        client = Transfer(segmented.authority, cold.path)
        had = client.read(moments.randrange(1, cold.size * 3 // 4))
        segmented.kill()
        client.leave()
        left = cold.partial.read_bytes()
        assert left[: len(had)] == had
        assert [path.name for path in segmented.store.glob("partial/*") if path.suffix not in (".json", "")] == []
        upstream.set(rate=None)
        before = len(cold.fetches())
        segmented.start()
        body = get(segmented.authority, cold.path, cold.digest).body
        assert body.startswith(left)
        assert hashlib.sha256(segmented.blob(cold.digest).read_bytes()).hexdigest() in cold.digest
        assert min(reach(exchange)[0] for exchange in cold.fetches()[before:]) >= len(had)
        assert list(segmented.store.glob("partial/*")) == []


def test_stopped_in_the_middle_it_goes_on_after_the_start(segmented: Appliance, upstream: RemoteRegistry) -> None:
    """SIGTERM: every line is closed, and nothing but the beginning and its note is left."""
    upstream.set(rate=RATE)
    cold = cold_blob(segmented, upstream)
    client = Transfer(segmented.authority, cold.path)
    had = client.read(cold.size // 3)
    client.leave()
    segmented.stop()
    assert {path.suffix for path in segmented.store.glob("partial/*")} == {"", ".json"}
    assert cold.partial.stat().st_size >= len(had)
    upstream.set(rate=None)
    segmented.start()
    body = get(segmented.authority, cold.path, cold.digest).body
    assert body.startswith(had)
