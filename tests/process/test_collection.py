"""The collection of a running appliance: what goes by itself, what a client is reading, and what is left on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import Transfer, ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.crossing import command
from tests.process.service import UPSTREAM, Appliance, until

pytestmark = pytest.mark.process

LAYER = 6_000_000


@pytest.fixture
def small(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """An appliance that keeps images for two seconds after their last pull, and removes blobs at once."""
    retention = {"keep_for": "2s", "grace": "0s", "reserve": "0B"}
    made = Appliance(tmp_path / "appliance", upstream.url, retention=retention)
    yield made.start()
    made.kill()


def collected(appliance: Appliance, *options: str) -> Any:
    """What the command prints."""
    return json.loads(command(appliance, "--json", "collect", *options).stdout)


def on_disk(appliance: Appliance) -> dict[str, int]:
    """The blobs that lie there, with their sizes."""
    files = (appliance.store / "blobs" / "sha256").iterdir()
    return {f"sha256:{each.name}": each.stat().st_size for each in files}


def named(appliance: Appliance, digest: str) -> set[str]:
    """A manifest and all that it names."""
    document = json.loads((appliance.store / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes())
    below = [document["config"], *document["layers"]] if "config" in document else document["manifests"]
    return {digest, *(each["digest"] for each in below)}


def test_a_layer_that_two_images_share_is_read_to_its_end_while_one_of_them_goes(
    small: Appliance, upstream: RemoteRegistry
) -> None:
    """The client that reads it from the other one, slowly, gets every byte; so does the next one."""
    gone = upstream.add("gone", "1", sizes=[LAYER, 1_000_000], seed="same")
    stays = upstream.add("stays", "1", sizes=[LAYER], seed="same")
    pull(small.authority, "gone", "1")
    pull(small.authority, "stays", "1")
    (layer,) = [
        each for each in named(small, gone["digest"]) & named(small, stays["digest"]) if on_disk(small)[each] >= LAYER
    ]
    slow = Transfer(small.authority, f"/v2/stays/blobs/{layer}")
    taken = slow.read(1000)
    command(small, "pin", f"{UPSTREAM}/stays:1")
    told = until(lambda: (found := collected(small, "--dry-run"))["images"] and found, "too old")
    done = collected(small)
    assert (told["images"], told["blobs"]) == (done["images"], done["blobs"])
    assert [each["name"] for each in done["images"]] == [f"{UPSTREAM}/gone:1"]
    taken += slow.rest()
    assert "sha256:" + hashlib.sha256(taken).hexdigest() == layer
    assert set(on_disk(small)) == named(small, stays["digest"])
    assert pull(small.authority, "gone", "1").digest == gone["digest"]


def test_a_dry_run_and_the_run_say_the_same_and_the_disk_holds_what_is_referred_to(
    small: Appliance, upstream: RemoteRegistry
) -> None:
    """Images, their reasons and bytes; then the sum of the files is what the remaining images need."""
    small.settings["retention"] = {"max_size": "14MB", "grace": "0s", "reserve": "0B"}
    small.reload()
    images = {word: upstream.add(word, "1", sizes=[LAYER], seed=word) for word in "abc"}
    told: Any = {"images": []}
    pull(small.authority, "a", "1")
    command(small, "pin", f"{UPSTREAM}/a:1")
    for word in "bc":
        pull(small.authority, word, "1")
    told = collected(small, "--dry-run")
    done = collected(small)
    if done["images"]:
        assert (told["images"], told["blobs"]) == (done["images"], done["blobs"])
        assert [each["name"] for each in done["images"]] == [f"{UPSTREAM}/b:1"]
        assert done["freed"] == sum(each["bytes"] for each in done["blobs"]) > LAYER
    left = on_disk(small)
    assert set(left) == named(small, images["a"]["digest"]) | named(small, images["c"]["digest"])
    assert sum(left.values()) == done["after"] <= 14_000_000
    small.restart()
    for word in "ac":
        assert ask(small.authority, f"/v2/{word}/manifests/1").status == 200


def test_a_budget_is_kept_without_being_asked(small: Appliance, upstream: RemoteRegistry) -> None:
    """Within seconds of the pull that exceeds it."""
    small.settings["retention"] = {"max_size": "14MB", "grace": "0s", "reserve": "0B"}
    small.reload()
    for word in "abcd":
        upstream.add(word, "1", sizes=[LAYER], seed=word)
        pull(small.authority, word, "1")
    until(lambda: sum(on_disk(small).values()) <= 14_000_000, "within the budget")
    listed = command(small, "list").stdout
    assert "d:1" in listed and "a:1" not in listed
