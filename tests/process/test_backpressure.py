"""A client that stops reading costs no memory and holds up no other."""

from __future__ import annotations

import contextlib
import hashlib
import http.client

import pytest

from tests.clients.plain import Transfer, get
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance, until

SIZE = 60_000_000
IDLERS = 6
ALLOWED = 64 * 1024 * 1024
"""Bytes of resident memory that may come on top; the idlers together wait for more than five times as much."""

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
