"""A disk that turns read-only below a running appliance, and a process whose files may not grow."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask, get, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.coldblob import ColdBlob
from tests.process.crossing import command
from tests.process.mounts import small_disk
from tests.process.service import UPSTREAM, Appliance, until

pytestmark = pytest.mark.process

LARGE = 20_000_000


@pytest.fixture
def mounted(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """An appliance with a disk of its own."""
    made = Appliance(tmp_path / "own", upstream.url)
    with small_disk(made.store, "64m"):
        try:
            yield made.start()
        finally:
            made.kill()


def remount(appliance: Appliance, how: str) -> None:
    """Read-only (C{ro}) or not (C{rw}); refused while a file is open for writing."""
    line = ["mount", "-o", f"remount,{how}", str(appliance.store)]
    # What was pulled just now is still being noted.
    until(lambda: subprocess.run(line, capture_output=True, check=False).returncode == 0, f"remounted {how}")


def held(appliance: Appliance) -> dict[str, Any]:
    """The images that are listed, by name."""
    return {each["name"]: each for each in json.loads(command(appliance, "--json", "list").stdout)["images"]}


def test_a_disk_that_turns_read_only_stops_no_pull_and_no_command_is_without_an_answer(
    mounted: Appliance, upstream: RemoteRegistry
) -> None:
    """What is held is served, the rest passes through; when it can be written again, what was said is saved."""
    images = {tag: upstream.add("team/app", tag, sizes=[1_000_000], seed=tag) for tag in "123"}
    upstream.add("team/cold", "1", sizes=[LARGE])
    for tag, image in images.items():
        assert pull(mounted.authority, "team/app", tag).digest == image["digest"]
    remount(mounted, "ro")

    assert pull(mounted.authority, "team/app", images["1"]["digest"]).statuses == {"pullcache; hit": 3}
    assert list(pull(mounted.authority, "team/cold", "1").statuses) == ["pullcache; fwd=uri-miss; detail=no-space"]
    status = json.loads(ask(mounted.admin, "/api/v1/status").body)
    assert status["disk"]["state"] == "read-only" and ask(mounted.admin, "/readyz").status == 200
    assert json.loads(command(mounted, "--json", "collect").stdout)["images"] == []
    command(mounted, "scrub")
    refused = command(mounted, "pin", f"{UPSTREAM}/team/app:1", status=1)
    assert "not saved: Read-only file system" in refused.stderr
    removed = command(mounted, "remove", f"{UPSTREAM}/team/app:3")
    assert "could not be saved" in removed.stderr and "(Read-only file system)" in removed.stderr
    names = held(mounted)
    assert names[f"{UPSTREAM}/team/app:1"]["pinned"] == "operator" and f"{UPSTREAM}/team/app:3" not in names

    remount(mounted, "rw")
    assert "pullcache; fwd=uri-miss; stored" in pull(mounted.authority, "team/cold", "1").statuses
    upstream.kill()
    mounted.restart()
    after = held(mounted)
    assert after[f"{UPSTREAM}/team/app:1"]["pinned"] == "operator" and f"{UPSTREAM}/team/app:3" not in after
    assert pull(mounted.authority, "team/cold", "1").size > LARGE
    assert "Traceback" not in mounted.log()


@pytest.mark.parametrize("segments", [1, 4])
def test_files_that_may_not_grow_stop_no_pull(idle: Appliance, upstream: RemoteRegistry, segments: int) -> None:
    """C{RLIMIT_FSIZE}, or a file system with small files (C{EFBIG}): the rest of the blob passes through."""
    idle.settings["upstreams"][UPSTREAM]["segments"] = segments
    idle.write()
    idle.start()
    resource.prlimit(idle.process.pid, resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
    blob = ColdBlob(idle, upstream, 2 * LARGE)
    assert "fwd=uri-miss" in get(idle.authority, blob.path, blob.digest).cache_status
    until(lambda: list((idle.store / "partial").iterdir()) == [], "nothing is left")
    assert "File too large" in idle.log() and "Traceback" not in idle.log()
