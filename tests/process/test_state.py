"""Documents on disk that cannot be understood, or not be read now: nothing of them is lost, and each is reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance, until

pytestmark = pytest.mark.process

ONE_BYTE = b"\xff"
"""What no UTF-8 text holds."""


def status(appliance: Appliance) -> Any:
    return ask(appliance.admin, "/api/v1/status").json()


def metrics(appliance: Appliance) -> str:
    return ask(appliance.admin, "/metrics").body.decode()


def spoiled(path: Path, after: bytes) -> bytes:
    """Put one wrong byte into the text of a document; what it holds then."""
    data = path.read_bytes()
    assert after in data, data
    path.write_bytes(data.replace(after, after + ONE_BYTE, 1))
    return path.read_bytes()


def copies(path: Path) -> list[bytes]:
    """What was set aside of a document."""
    return [each.read_bytes() for each in path.parent.glob(f".{path.name}.damaged-*")]


def test_one_byte_that_is_no_text_loses_no_document(idle: Appliance, upstream: RemoteRegistry) -> None:
    """Each is set aside, named in the log and in the status, and is not written over by what comes next."""
    digest = upstream.add("team/app", "1")["digest"]
    idle.start()
    pull(idle.authority, "team/app", "1")
    assert ask(idle.authority, "/v2/team/app/tags/list").status == 200
    assert ask(idle.authority, f"/v2/team/app/referrers/{digest}").status == 200
    upstream.misbehave("/v2/team/other/*", ("status", {"code": 503}))
    assert ask(idle.authority, "/v2/team/other/manifests/1").status >= 400
    assert idle.stop() != 0
    state, folder = idle.store / "state", idle.store / "repositories" / UPSTREAM / "team" / "app"
    (state / "publication").mkdir(exist_ok=True)
    (state / "publication" / "journal.json").write_bytes(b'{"bundle":"x"}')
    (state / "receipts" / "0-old").mkdir(parents=True)
    (state / "receipts" / "0-old" / "receipt.json").write_bytes(b'{"id": "0-old"}')
    documents = {
        state / "wants.json": b'"reason":"',
        state / "usage.json": b'{"',
        state / "publication" / "journal.json": b'"bundle":"',
        state / "receipts" / "0-old" / "receipt.json": b'"id": "',
        folder / "_layout" / "index.json": b'"mediaType":"',
        folder / "_tags.json": b'"tags":["',
        folder / "_referrers" / f"{digest.replace(':', '-')}.json": b'"io.pullcache.heard":"',
    }
    before = {path: spoiled(path, after) for path, after in documents.items()}
    idle.start()
    pull(idle.authority, "team/app", "1")
    ask(idle.authority, "/v2/team/app/tags/list")
    ask(idle.authority, f"/v2/team/app/referrers/{digest}")
    ask(idle.authority, "/v2/team/other/manifests/2")
    assert ask(idle.admin, "/api/v1/imports").json() == {"receipts": []}
    kept_as = {each["keptAs"]: each["document"] for each in status(idle)["damaged"]}
    assert len(kept_as) == len(documents), kept_as
    assert f"pullcache_documents_damaged {float(len(documents))}" in metrics(idle)
    idle.stop()
    assert {path: copies(path) for path in documents} == {path: [data] for path, data in before.items()}
    log = idle.log()
    assert all(where in log for where in kept_as)


def test_what_the_disk_does_not_give_now_is_read_later(idle: Appliance, upstream: RemoteRegistry) -> None:
    """An error of the disk is no damage: the wants are not written over, and go on when they can be read again."""
    upstream.add("team/app", "1")
    upstream.misbehave("/v2/team/other/*", ("status", {"code": 503}))
    idle.start()
    pull(idle.authority, "team/app", "1")
    ask(idle.authority, "/v2/team/other/manifests/1")
    idle.stop()
    wants, aside = idle.store / "state" / "wants.json", idle.folder / "wants.json"
    index = idle.store / "repositories" / UPSTREAM / "team" / "app" / "_layout" / "index.json"
    for path in (wants, index):
        # Reading a folder fails as a bad sector does: with an error of the disk, also for root.
        shutil.move(path, idle.folder / path.name)
        path.mkdir()
    idle.start()
    ask(idle.authority, "/v2/team/other/manifests/2")
    assert ask(idle.authority, "/v2/team/app/manifests/1").status == 500
    names = {each["document"] for each in until(lambda: status(idle)["unreadable"], "told of")}
    assert names == {"wants.json", "/".join(index.parts[-5:])}
    assert "pullcache_documents_unreadable 2.0" in metrics(idle)
    assert idle.log().count("wants.json cannot be read") == 1
    for path in (wants, index):
        path.rmdir()
        shutil.move(idle.folder / path.name, path)
    assert not aside.exists()
    pull(idle.authority, "team/app", "1")
    until(lambda: len(json.loads(wants.read_bytes())) == 2, "both wants written")
    found = status(idle)
    assert (found["unreadable"], found["damaged"]) == ([], [])


def test_a_store_that_takes_nothing_is_a_line_in_the_log(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """What is cheap to lose is not saved: every few seconds the log says what and why, not where in the program."""
    upstream.add("team/app", "1")
    pull(appliance.authority, "team/app", "1")
    state, aside = appliance.store / "state", appliance.store / "aside"
    state.rename(aside)
    state.write_text("in the way")
    assert ask(appliance.authority, "/v2/team/app/manifests/none").status == 404
    until(lambda: "saving the wants: " in appliance.log(), "it is said")
    assert "Traceback" not in appliance.log()
    state.unlink()
    aside.rename(state)
    until((state / "wants.json").exists, "it is saved")
    pull(appliance.authority, "team/app", "1")
