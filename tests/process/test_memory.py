"""Names that a client makes up cost the service neither memory nor disk, nor what others want."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.plain import ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance

FULL = 10_000
"""Names that are remembered, the wants: an earlier process has left as many as there may be."""

FIRST, MORE = 500, 8000
GROWTH = 5 * 1024 * 1024
"""Bytes that so many more may cost. Nothing that is kept of a name takes less than that."""

pytestmark = pytest.mark.process


def flood(authority: str, names: Iterator[str]) -> None:
    """Ask for each manifest, one after the other on one connection."""
    connection = http.client.HTTPConnection(authority, timeout=60)
    for name in names:
        connection.request("GET", f"/v2/{UPSTREAM}/{name}")
        response = connection.getresponse()
        assert response.status == 404, response.read()
        response.read()
    connection.close()


def made_up(start: int, stop: int) -> Iterator[str]:
    """Repositories that are nowhere, and tags that no repository has: also of one that is held."""
    for number in range(start, stop):
        yield f"made/up-{number}/manifests/1" if number % 10 else f"team/app/manifests/made-up-{number}"


def leave_wants(store: Path) -> None:
    """As a process leaves them that was asked for made-up names all day."""
    moment = 1_700_000_000.0
    wants = [
        {
            "upstream": UPSTREAM,
            "repository": f"made/before-{number}",
            "reference": "1",
            "reason": "offline",
            "first": moment,
            "last": moment,
        }
        for number in range(FULL)
    ]
    (store / "state" / "wants.json").write_text(json.dumps(wants))


def folders(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir())


def test_made_up_names_cost_neither_memory_nor_disk_nor_the_real_wants(
    idle: Appliance, upstream: RemoteRegistry
) -> None:
    """One connection that asks for thousands of them: the service stays as large as it was."""
    upstream.add("team/app", "1")
    upstream.add("team/tool", "1")
    idle.start()
    pull(idle.authority, "team/app", "1")
    pull(idle.authority, "team/tool", "1")
    idle.stop()
    idle.settings["offline"] = True
    idle.write()
    leave_wants(idle.store)
    idle.start()
    before = folders(idle.store / "repositories")
    for name in ("team/tool/manifests/2", "new/thing/manifests/1", "new/thing/manifests/1"):
        assert ask(idle.authority, f"/v2/{name}").status == 404
    flood(idle.authority, made_up(0, FIRST))
    full = idle.rss()
    flood(idle.authority, made_up(FIRST, FIRST + MORE))
    assert idle.rss() - full < GROWTH
    names = ask(idle.admin, "/api/v1/wants?format=text").body.decode().split()
    assert {f"{UPSTREAM}/team/tool:2", f"{UPSTREAM}/new/thing:1"} <= set(names)
    assert len(names) == FULL
    assert folders(idle.store / "repositories") == before
    pull(idle.authority, "team/app", "1")


def test_names_that_the_upstream_does_not_have_cost_no_more(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """Online, too: its 404s are believed for a while, as many as there is room for, and are wants like others."""
    upstream.add("team/app", "1")
    pull(appliance.authority, "team/app", "1")
    before = folders(appliance.store / "repositories")
    flood(appliance.authority, made_up(0, 300))
    assert {want["reason"] for want in ask(appliance.admin, "/api/v1/wants").json()["wants"]} == {"missing"}
    assert folders(appliance.store / "repositories") == before
