"""A process whose disk is full: who pulls together is served by one fetch, and memory stays bounded."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.plain import Transfer, ask, get
from tests.doubles.remote import RemoteRegistry
from tests.process.coldblob import ColdBlob
from tests.process.mounts import fill, small_disk
from tests.process.service import Appliance, until

SIZE = 40_000_000
READERS = 20
SLOW = 4_000_000
"""Bytes a second of the slow one: ten seconds for all."""
ALLOWED = 64 * 1024 * 1024

pytestmark = pytest.mark.process


@pytest.fixture
def full(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """An appliance that was started on a disk without any room."""
    made = Appliance(tmp_path / "small", upstream.url)
    with small_disk(made.store, "16m"):
        try:
            made.start()
            made.stop()
            fill(made.store, 0)
            yield made.start()
        finally:
            made.kill()


class Reader(threading.Thread):
    """Takes a whole blob at its own pace."""

    def __init__(self, appliance: Appliance, path: str, rate: float | None) -> None:
        super().__init__(daemon=True)
        self._appliance, self._path, self._rate = appliance, path, rate
        self.digest = ""

    def run(self) -> None:
        transfer, hasher = Transfer(self._appliance.authority, self._path), hashlib.sha256()
        while data := transfer.read(100_000):
            hasher.update(data)
            if self._rate is not None:
                time.sleep(len(data) / self._rate)
        transfer.leave()
        self.digest = f"sha256:{hasher.hexdigest()}"


def test_twenty_readers_of_a_cold_blob_cost_one_fetch(full: Appliance, upstream: RemoteRegistry) -> None:
    """A slow one among them, and no byte of the blob fits on the disk: each gets it whole."""
    assert ask(full.admin, "/readyz").status == 200
    blob = ColdBlob(full, upstream, SIZE)
    assert "no-space" in get(full.authority, "/v2/team/app/manifests/latest").cache_status
    upstream.misbehave(f"GET {blob.path}", ("late", {"seconds": 3.0}))
    before = full.rss()
    readers = [Reader(full, blob.path, SLOW if number == 7 else None) for number in range(READERS)]
    for reader in readers:
        reader.start()
    most = 0
    while any(reader.is_alive() for reader in readers):
        most = max(most, full.rss())
        time.sleep(0.2)
    assert {reader.digest for reader in readers} == {blob.digest}
    assert len(blob.fetches()) == 1
    assert most - before < ALLOWED


def test_a_reader_that_stops_holds_up_the_others_for_a_while_only(full: Appliance, upstream: RemoteRegistry) -> None:
    """It is broken off; the other has every byte, from the one fetch."""
    blob = ColdBlob(full, upstream, SIZE)
    upstream.misbehave(f"GET {blob.path}", ("late", {"seconds": 2.0}))
    idler, reader = Reader(full, blob.path, 1000.0), Reader(full, blob.path, None)
    idler.start()
    reader.start()
    reader.join(120)
    assert reader.digest == blob.digest and len(blob.fetches()) == 1


def test_what_is_pulled_is_stored_when_there_is_room_again(full: Appliance, upstream: RemoteRegistry) -> None:
    """Nothing has to be restarted."""
    added = upstream.add("team/small", sizes=[1_000_000])
    digest, _ = max(added["blobs"], key=lambda each: each[1])
    path = f"/v2/team/small/blobs/{digest}"
    get(full.authority, "/v2/team/small/manifests/latest", added["digest"])
    assert "no-space" in get(full.authority, path, digest).cache_status
    (full.store / "filler").unlink()
    assert "stored" in get(full.authority, "/v2/team/small/manifests/latest", added["digest"]).cache_status
    get(full.authority, path, digest)
    until(lambda: full.blob(digest).exists(), "it is stored")
    upstream.kill()
    full.restart()
    assert get(full.authority, path, digest).cache_status == "pullcache; hit"
