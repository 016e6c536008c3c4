"""Kill -9 at any moment loses nothing and leaves nothing half there."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clients import plain
from tests.clients.plain import ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance, until

ROUNDS = int(os.environ.get("PULLCACHE_KILL_ROUNDS", "10"))
LONGEST = 0.7
"""Seconds from the first request to the latest kill; a pull of one round takes about half of that."""

RATE = 6_000_000
"""Bytes per second of each of the upstream's responses."""

pytestmark = pytest.mark.process


def add_images(upstream: RemoteRegistry, number: int) -> dict[str, str]:
    """New images for one round: digests by repository; the third is the same image in another repository."""
    sizes, tag = [1_500_000, 200_000], str(number)
    wanted = {
        "team/one": upstream.add("team/one", tag, sizes=sizes, seed=f"kill-{number}"),
        "team/two": upstream.add("team/two", tag, "index", sizes=[400_000], seed=f"multi-{number}"),
        "team/three": upstream.add("team/three", tag, sizes=sizes, seed=f"kill-{number}"),
    }
    return {repository: added["digest"] for repository, added in wanted.items()}


def pull_until_killed(authority: str, repository: str, tag: str) -> None:
    """Pull, and take it calmly when the line breaks."""
    try:
        pull(authority, repository, tag)
    except (OSError, http.client.HTTPException):
        pass


def check_pulls(authority: str, wanted: dict[str, str], tag: str) -> None:
    """Every image can be pulled whole, with its digest."""
    for repository, digest in wanted.items():
        assert pull(authority, repository, tag).digest == digest, repository


def check_store(appliance: Appliance) -> None:
    """Every blob has the digest that is its name."""
    blobs = list((appliance.store / "blobs" / "sha256").iterdir())
    wrong = [path.name for path in blobs if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]
    assert wrong == []


def entries(layout: Path) -> list[dict[str, Any]]:
    """The descriptors in a layout's index."""
    listed: list[dict[str, Any]] = json.loads((layout / "index.json").read_bytes())["manifests"]
    return listed


def check_tags(appliance: Appliance, upstream: RemoteRegistry) -> int:
    """Every tag in the index documents is served without the upstream's help; returns how many there are."""
    upstream.misbehave("/v2/*", ("status", {"code": 503}))
    checked = 0
    for repository, layout in appliance.layouts().items():
        for entry in entries(layout):
            assert appliance.blob(entry["digest"]).is_file(), (repository, entry)
            tag = entry.get("annotations", {}).get("org.opencontainers.image.ref.name")
            if tag is not None:
                reply = ask(appliance.bare, f"/v2/{repository}/manifests/{tag}")
                assert (reply.status, reply.headers.get("docker-content-digest")) == (200, entry["digest"])
                checked += 1
    upstream.behave()
    until(appliance.asks, "the upstream's return was noticed")
    return checked


def test_killed_at_random_moments_the_store_is_whole_after_each_restart(
    idle: Appliance, upstream: RemoteRegistry
) -> None:
    """After every kill -9: each tag resolves, each blob has its digest, and the interrupted pulls succeed."""
    moments = random.Random(2)
    upstream.set(rate=RATE)
    idle.start()
    held = 0
    for number in range(ROUNDS):
        wanted, tag = add_images(upstream, number), str(number)
        clients = [threading.Thread(target=pull_until_killed, args=(idle.authority, each, tag)) for each in wanted]
        for client in clients:
            client.start()
        threading.Event().wait(moments.uniform(0, LONGEST))
        idle.kill()
        for client in clients:
            client.join(plain.PATIENCE)
        idle.start()
        check_store(idle)
        assert check_tags(idle, upstream) >= held, "a tag whose pull had ended is gone"
        check_pulls(idle.authority, wanted, tag)
        held += len(wanted)


def test_a_killed_pull_is_resumed_and_not_begun_again(idle: Appliance, upstream: RemoteRegistry) -> None:
    """What had arrived before kill -9 is not fetched a second time."""
    digest, size = upstream.add("team/app", sizes=[3_000_000])["blobs"][1]
    idle.start()
    plain.get(idle.authority, "/v2/team/app/manifests/latest")
    upstream.misbehave("/v2/*/blobs/*", ("stall", {"after": size * 2 // 3}), times=1)
    transfer = plain.Transfer(idle.authority, f"/v2/team/app/blobs/{digest}")
    assert len(transfer.read(size // 2)) == size // 2
    idle.kill()
    transfer.leave()
    idle.start()
    plain.get(idle.authority, f"/v2/team/app/blobs/{digest}", digest)
    last = upstream.seen(f"GET /v2/*/blobs/{digest}")[-1]
    assert last.status == 206
    assert last.sent < size


def as_a_kill_leaves_it(appliance: Appliance, digest: str, repository: str, upstream: str, size: int) -> Path:
    """Turn a held blob into one whose last byte came a moment before the process was killed."""
    path = appliance.store / "partial" / digest.replace(":", "-")
    appliance.blob(digest).rename(path)
    note = {"upstream": upstream, "repository": repository, "size": size, "validator": None}
    path.with_name(f"{path.name}.json").write_text(json.dumps(note))
    return path


def test_what_a_client_had_whole_before_a_kill_is_served_after_an_offline_start(
    appliance: Appliance, upstream: RemoteRegistry
) -> None:
    """kill -9 right after the last byte of a layer; the network is gone for good. Another client gets the layer."""
    for number in range(3):
        tag = str(number)
        digest, size = upstream.add("team/app", tag, sizes=[12_000_000], seed=f"end-{number}")["blobs"][1]
        plain.get(appliance.authority, f"/v2/team/app/manifests/{tag}")
        transfer = plain.Transfer(appliance.authority, f"/v2/team/app/blobs/{digest}")
        assert len(transfer.read(size)) == size
        appliance.kill()
        transfer.leave()
        appliance.settings["offline"] = True
        appliance.write()
        appliance.start()
        plain.get(appliance.authority, f"/v2/team/app/blobs/{digest}", digest)
        appliance.stop()
        appliance.settings["offline"] = False
        appliance.write()
        appliance.start()
    check_store(appliance)


def test_a_start_makes_blobs_of_what_is_whole_and_sweeps_what_is_of_no_use(
    appliance: Appliance, upstream: RemoteRegistry
) -> None:
    """
    Offline, and with an upstream that was taken out of the configuration: the layer that lay whole is served. A
    beginning from the same upstream that is a week old is gone, the log says so; a younger one stays.
    """
    layers = [upstream.add("team/app", seed, sizes=[9000], seed=seed)["blobs"][1] for seed in "abcd"]
    for tag in "abcd":
        pull(appliance.authority, "team/app", tag)
    appliance.stop()
    whole, moved, old, young = (
        as_a_kill_leaves_it(appliance, digest, "team/app", name, size)
        for (digest, size), name in zip(layers, (UPSTREAM, "gone.test", "gone.test", "gone.test"), strict=True)
    )
    for path in (old, young):
        os.truncate(path, 5000)
    week_ago = time.time() - 8 * 24 * 3600
    os.utime(old, (week_ago, week_ago))
    appliance.settings["offline"] = True
    appliance.write()
    upstream.forget()
    appliance.start()
    for digest, _ in layers[:2]:
        plain.get(appliance.authority, f"/v2/team/app/blobs/{digest}", digest)
    until(lambda: not old.exists(), "swept")
    assert f"{layers[2][0]}: 5000 bytes of it were thrown away" in appliance.log()
    assert young.exists() and not whole.exists() and not moved.exists()
    assert ask(appliance.authority, f"/v2/team/app/blobs/{layers[3][0]}").status == 404
    assert upstream.seen() == []
