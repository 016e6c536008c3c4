"""SIGHUP: what an upstream that may not be asked any more was sending ends, and nothing is asked of it again."""

from __future__ import annotations

import http.client
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.clients import plain
from tests.clients.plain import Transfer, ask, get
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance, until

SIZE = 4_000_000
LONG_ENOUGH = 3.0
"""Seconds in which a line that was cut would be tried again several times."""

pytestmark = pytest.mark.process


def layer(upstream: RemoteRegistry, appliance: Appliance, repository: str) -> tuple[str, str]:
    """A cold layer: its digest, and where it is asked for."""
    digest, _ = upstream.add(repository, sizes=[SIZE], seed=repository)["blobs"][1]
    get(appliance.authority, f"/v2/{repository}/manifests/latest")
    return digest, f"/v2/{repository}/blobs/{digest}"


def partial(appliance: Appliance, digest: str) -> Path:
    """Where a blob under way lies."""
    return appliance.store / "partial" / digest.replace(":", "-")


@pytest.mark.parametrize("whole", [True, False], ids=["the appliance", "the upstream"])
def test_going_offline_ends_transfers_and_no_request_follows(
    idle: Appliance, upstream: RemoteRegistry, whole: bool
) -> None:
    """
    A layer is being sent, another one's line is cut again and again, a range far ahead is fetched on the side, and a
    tag is being checked. Then offline: the clients' connections are aborted, the tag is answered from the cache, what
    came is kept, and the upstream gets no more requests. Online again, a pull goes on from there.
    """
    appliance = idle.start()
    (slow, slow_path), (cut, cut_path) = (layer(upstream, appliance, name) for name in ("team/slow", "team/cut"))
    upstream.misbehave(f"GET {slow_path}", ("trickle", {"rate": SIZE / 20}))
    upstream.misbehave(f"GET {cut_path}", ("cut", {"after": SIZE // 10, "polite": True}), times=1)
    upstream.misbehave(f"GET {cut_path}", ("status", {"code": 503}))
    upstream.misbehave("HEAD /v2/team/slow/manifests/latest", ("never", {}))
    sending, failing = Transfer(appliance.authority, slow_path), Transfer(appliance.authority, cut_path)
    sending.read(SIZE // 100)
    failing.read(SIZE // 100)
    aside: list[Any] = []
    checked: list[Any] = []

    def far() -> None:
        try:
            aside.append(ask(appliance.authority, slow_path, headers={"Range": f"bytes={SIZE // 2}-{SIZE - 2}"}))
        except (OSError, http.client.HTTPException) as error:
            aside.append(error)

    def check() -> None:
        checked.append(ask(appliance.authority, "/v2/team/slow/manifests/latest", headers={"Accept": plain.ACCEPT}))

    clients = [threading.Thread(target=client) for client in (far, check)]
    for each in clients:
        each.start()
    until(lambda: len(upstream.seen(f"GET {slow_path}")) == 2, "the range is fetched on the side")
    until(lambda: upstream.seen("HEAD /v2/team/slow/manifests/latest"), "the tag is checked")
    place = appliance.settings if whole else appliance.settings["upstreams"][UPSTREAM]
    place["offline"] = True
    appliance.reload()
    upstream.forget()
    for transfer in (sending, failing):
        with pytest.raises((OSError, http.client.HTTPException)):
            transfer.rest()
    for each in clients:
        each.join(plain.PATIENCE)
    assert isinstance(aside[0], (OSError, http.client.HTTPException))
    assert checked[0].status == 200
    kept = {digest: partial(appliance, digest).stat().st_size for digest in (slow, cut)}
    assert all(SIZE // 100 <= size < SIZE for size in kept.values())
    for path in (slow_path, cut_path):
        assert ask(appliance.authority, path).status == 404
    assert "pullcache_flights 0" in ask(appliance.admin, "/metrics").body.decode()
    threading.Event().wait(LONG_ENOUGH)
    assert upstream.seen() == []
    place["offline"] = False
    upstream.behave()
    appliance.reload()
    for digest, path in ((slow, slow_path), (cut, cut_path)):
        get(appliance.authority, path, digest)
        assert [each.header("Range") for each in upstream.seen(f"GET {path}")] == [f"bytes={kept[digest]}-"]
