"""A client that stops reading costs no memory and holds up no other."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import selectors
import socket

import pytest

from tests.clients.plain import Transfer, get
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance, until

SIZE = 60_000_000
IDLERS = 6
ALLOWED = 64 * 1024 * 1024
"""Bytes of resident memory that may come on top; the idlers together wait for more than five times as much."""

MANY = 64
LARGE = 1_000_000_000
"""Bytes of the blob that so many clients take, and so many others do not."""

pytestmark = pytest.mark.process


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_clients_that_stop_reading_cost_no_memory(appliance: Appliance, upstream: RemoteRegistry, warm: bool) -> None:
    """Six clients stop after the first bytes; a seventh gets everything, and memory has hardly grown."""
    digest = upstream.add("team/app", sizes=[SIZE])["blobs"][1][0]
    path = f"/v2/team/app/blobs/{digest}"
    get(appliance.authority, "/v2/team/app/manifests/latest")
    if warm:
        get(appliance.authority, path, digest)
    before = appliance.rss()
    idlers = [Transfer(appliance.authority, path) for _ in range(IDLERS)]
    heads = [idler.read(1000) for idler in idlers]
    get(appliance.authority, path, digest)
    assert appliance.rss() - before < ALLOWED
    body = heads[0] + idlers[0].rest()
    assert "sha256:" + hashlib.sha256(body).hexdigest() == digest
    for idler in idlers[1:]:
        idler.leave()


def take(authority: str, path: str) -> int:
    """C{MANY} clients take a blob at once, and look at none of it (MSG_TRUNC); how many bytes came."""
    host, _, port = authority.partition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode()
    taken, scratch = 0, bytearray(4 * 1024 * 1024)
    with selectors.DefaultSelector() as clients:
        for _ in range(MANY):
            client = socket.create_connection((host, int(port)))
            client.sendall(request)
            client.setblocking(False)
            clients.register(client, selectors.EVENT_READ, client)
        while clients.get_map():
            for key, _ in clients.select():
                count = key.data.recv_into(scratch, 0, socket.MSG_TRUNC)
                taken += count
                if not count:
                    clients.unregister(key.data)
                    key.data.close()
    return taken


def test_a_large_blob_costs_no_memory_whoever_takes_it(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """64 clients stop after the first bytes, and 64 others take a gigabyte each meanwhile."""
    digest, size = upstream.add("team/app", sizes=[1_000_000])["blobs"][1]
    path = f"/v2/team/app/blobs/{digest}"
    get(appliance.authority, "/v2/team/app/manifests/latest")
    get(appliance.authority, path, digest)
    until(lambda: appliance.blob(digest).exists(), "held")
    appliance.stop()
    # As though it were so large: a file with a hole, and what the index says of it.
    index = next(iter(appliance.layouts().values())) / "index.json"
    text = index.read_text()
    assert str(size) in text
    index.write_text(text.replace(str(size), str(LARGE)))
    appliance.blob(digest).chmod(0o644)
    os.truncate(appliance.blob(digest), LARGE)
    appliance.start()
    before = appliance.rss()
    idlers = [Transfer(appliance.authority, path) for _ in range(MANY)]
    assert {idler.length for idler in idlers} == {LARGE}
    assert take(appliance.authority, path) > MANY * LARGE
    assert appliance.rss() - before < ALLOWED
    for idler in idlers:
        idler.leave()


def test_a_blob_without_an_end_is_given_up(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """The upstream's line is dropped once more has come than the manifest announced, and nothing is gathered."""
    digest = upstream.add("team/app", sizes=[1_000_000])["blobs"][1][0]
    path = f"/v2/team/app/blobs/{digest}"
    get(appliance.authority, "/v2/team/app/manifests/latest")
    before = appliance.rss()
    upstream.misbehave("GET /v2/*/blobs/*", ("endless", {}), times=1)
    client = Transfer(appliance.authority, path)
    # What the client sees is up to the appliance: all of it, or a broken line.
    with contextlib.suppress(OSError, http.client.HTTPException):
        client.rest()
    client.leave()
    until(lambda: upstream.seen(f"GET {path}")[0].ended == "left", "the line is dropped")
    assert appliance.rss() - before < ALLOWED
    get(appliance.authority, path, digest)
