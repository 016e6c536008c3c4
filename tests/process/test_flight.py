"""One fetch for all clients, over real sockets: one that leaves stops nothing, and a line that is cut is resumed."""

from __future__ import annotations

import hashlib
import http.client
import threading

import pytest

from tests.clients import plain
from tests.clients.plain import Transfer, get, pull
from tests.doubles.answers import Exchange
from tests.doubles.remote import RemoteRegistry
from tests.process.coldblob import ColdBlob
from tests.process.service import Appliance, until

SIZE = 4_000_000
BLOBS = "GET /v2/*/blobs/*"

pytestmark = pytest.mark.process


@pytest.fixture
def cold(appliance: Appliance, upstream: RemoteRegistry) -> ColdBlob:
    return ColdBlob(appliance, upstream, SIZE)


def first_byte(exchange: Exchange) -> int:
    """Where the response to this request began."""
    wanted = exchange.header("Range") or "bytes=0-"
    return int(wanted.removeprefix("bytes=").partition("-")[0]) if exchange.status == 206 else 0


def test_a_client_that_leaves_at_ten_percent_does_not_disturb_the_second(
    appliance: Appliance, upstream: RemoteRegistry, cold: ColdBlob
) -> None:
    """Two clients on one cold blob, the first leaves: the second completes, and the upstream was asked once."""
    upstream.set(rate=SIZE)
    first = Transfer(appliance.authority, cold.path)
    first.read(cold.size // 10)
    second = Transfer(appliance.authority, cold.path)
    first.leave()
    body = second.rest()
    assert "sha256:" + hashlib.sha256(body).hexdigest() == cold.digest
    assert [exchange.sent for exchange in cold.fetches()] == [cold.size]


def test_a_flight_without_readers_goes_on_to_its_end(
    appliance: Appliance, upstream: RemoteRegistry, cold: ColdBlob
) -> None:
    """The only client leaves; the blob is stored all the same, and the next client costs the upstream nothing."""
    upstream.set(rate=SIZE)
    only = Transfer(appliance.authority, cold.path)
    only.read(cold.size // 10)
    only.leave()
    until(appliance.blob(cold.digest).is_file, "stored")
    get(appliance.authority, cold.path, cold.digest)
    assert len(cold.fetches()) == 1


def test_a_herd_that_comes_while_a_blob_is_asked_for_unasked_costs_the_upstream_nothing_more(
    appliance: Appliance, upstream: RemoteRegistry
) -> None:
    """The image is being made whole and the upstream has not answered: twenty clients wait for that answer."""
    upstream.misbehave(BLOBS, ("late", {"seconds": 2}))
    cold = ColdBlob(appliance, upstream, SIZE)
    until(cold.fetches, "the appliance asks unasked")
    clients = [threading.Thread(target=get, args=(appliance.authority, cold.path, cold.digest)) for _ in range(20)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert [exchange.sent for exchange in cold.fetches()] == [cold.size]


def test_an_upstream_that_closes_three_times_sends_no_byte_twice(
    appliance: Appliance, upstream: RemoteRegistry, cold: ColdBlob
) -> None:
    """The client's pull succeeds as if nothing had happened; four requests, their bytes sum up to the blob."""
    upstream.misbehave(BLOBS, ("cut", {"after": SIZE // 5, "polite": True}), times=3)
    get(appliance.authority, cold.path, cold.digest)
    fetches = cold.fetches()
    assert [exchange.ended for exchange in fetches] == ["cut", "cut", "cut", "done"]
    assert sum(exchange.sent for exchange in fetches) == cold.size


def test_an_upstream_that_resets_three_times_sends_only_the_cut_tails_again(
    appliance: Appliance, upstream: RemoteRegistry, cold: ColdBlob
) -> None:
    """Each request goes on behind the one before it, and no further back than that one's own beginning."""
    upstream.misbehave(BLOBS, ("cut", {"after": SIZE // 5}), ("trickle", {"rate": SIZE}), times=3)
    get(appliance.authority, cold.path, cold.digest)
    fetches = cold.fetches()
    starts = [first_byte(exchange) for exchange in fetches]
    ends = [start + exchange.sent for start, exchange in zip(starts, fetches, strict=True)]
    assert len(fetches) == 4
    assert starts == sorted(set(starts)), "a request began again where an earlier one had begun"
    assert all(start <= end for start, end in zip(starts[1:], ends, strict=False)), "bytes were left out"
    assert ends[-1] == cold.size


def test_twenty_clients_on_one_cold_blob_cost_one_request(appliance: Appliance, cold: ColdBlob) -> None:
    """Each client gets every byte; the upstream sends them once."""
    results: list[str] = []

    def client() -> None:
        results.append("sha256:" + hashlib.sha256(get(appliance.authority, cold.path).body).hexdigest())

    clients = [threading.Thread(target=client) for _ in range(20)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(plain.PATIENCE)
    assert results == [cold.digest] * 20
    assert [exchange.sent for exchange in cold.fetches()] == [cold.size]


def test_ranges_join_the_flight(appliance: Appliance, upstream: RemoteRegistry, cold: ColdBlob) -> None:
    """A range just behind the write head waits for it instead of fetching."""
    upstream.set(rate=SIZE)
    whole = Transfer(appliance.authority, cold.path)
    head = whole.read(SIZE // 10)
    part = Transfer(appliance.authority, cold.path, {"Range": f"bytes=100-{SIZE // 10 + 999}"})
    got = part.rest()
    body = head + whole.rest()
    assert part.status == 206
    assert got == body[100 : SIZE // 10 + 1000]
    assert len(cold.fetches()) == 1


def test_a_restart_resumes_what_was_under_way(appliance: Appliance, upstream: RemoteRegistry, cold: ColdBlob) -> None:
    """SIGTERM in the middle of a fetch: after the start, only the rest is asked for."""
    upstream.misbehave(BLOBS, ("stall", {"after": SIZE * 3 // 4}), times=1)
    client = Transfer(appliance.authority, cold.path)
    client.read(SIZE // 2)
    client.leave()
    appliance.restart()
    get(appliance.authority, cold.path, cold.digest)
    fetches = cold.fetches()
    assert fetches[-1].status == 206
    assert first_byte(fetches[-1]) >= SIZE // 2


def test_wrong_bytes_break_the_line_and_are_not_kept(
    appliance: Appliance, upstream: RemoteRegistry, cold: ColdBlob
) -> None:
    """A flipped byte: the client sees a broken transfer and never a whole one, and the next pull is right."""
    upstream.misbehave(BLOBS, ("flipped", {"offset": SIZE // 2}), times=1)
    with pytest.raises((http.client.HTTPException, OSError, plain.Wrong)):
        get(appliance.authority, cold.path)
    assert not appliance.blob(cold.digest).exists()
    get(appliance.authority, cold.path, cold.digest)


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("GET /v2/*/manifests/*", ("gzipped", {})),
        ("GET /v2/*/manifests/*", ("shortened", {"by": 3})),
        ("GET /v2/*/manifests/*", ("flipped", {"offset": 30})),
        ("GET /v2/*/manifests/*", ("endless", {})),
        ("GET /v2/*/manifests/*", ("html", {})),
        ("/v2/*/manifests/*", ("wrong_digest_header", {})),
        ("/v2/*/manifests/*", ("redirect", {"location": "/v2/team/app/manifests/latest"})),
        ("/v2/*/manifests/*", ("redirect", {"location": "http://169.254.169.254/latest/meta-data"})),
        ("/v2/*/manifests/*", ("status", {"code": 503})),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_bad_manifest_is_a_clear_error_and_leaves_nothing(
    appliance: Appliance, upstream: RemoteRegistry, pattern: str, fault: tuple[str, dict[str, object]]
) -> None:
    """An OCI error and not "unknown", nothing stored; when the upstream is well again, so is the pull."""
    digest = upstream.add("team/app")["digest"]
    upstream.misbehave(pattern, fault)
    reply = plain.ask(appliance.authority, "/v2/team/app/manifests/latest")
    assert reply.status in (502, 503, 504)
    assert reply.json()["errors"][0]["message"]
    assert list(appliance.store.glob("blobs/sha256/*")) == []
    upstream.behave()

    def mended() -> bool:
        # An upstream that failed may be left alone for a moment.
        return plain.ask(appliance.authority, "/v2/team/app/manifests/latest").status == 200

    until(mended, "pulled after the upstream was mended")
    assert pull(appliance.authority, "team/app", "latest").digest == digest


@pytest.mark.parametrize("kind", ["large", "confused"])
def test_a_document_that_is_no_manifest_is_refused(appliance: Appliance, upstream: RemoteRegistry, kind: str) -> None:
    """5 MiB of manifest, and a manifest that is an index too: 502, nothing stored."""
    upstream.add("team/app", kind=kind)
    reply = plain.ask(appliance.authority, "/v2/team/app/manifests/latest")
    assert reply.status == 502
    assert reply.json()["errors"]
    assert list(appliance.store.glob("blobs/sha256/*")) == []
