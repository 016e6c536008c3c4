"""Real clients pull more than the disk has room for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask
from tests.clients.tools import Podman, Skopeo, Source, need, opened
from tests.doubles.remote import RemoteRegistry
from tests.process.mounts import small_disk
from tests.process.service import Appliance, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]

IMAGES = 10
LAYERS = [12_000_000, 8_000_000]


@pytest.fixture(params=[Skopeo, Podman], ids=["skopeo", "podman"])
def puller(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """One of the two clients, where it is installed."""
    need(*request.param.programs)
    yield from opened(request.param(tmp_path))


@pytest.mark.parametrize("grace", ["0s", None], ids=["without-grace", "default-grace"])
def test_two_hundred_megabytes_go_through_a_disk_of_64(puller: Any, tmp_path: Path, grace: str | None) -> None:
    """
    Every pull is right and the store stays within its limit. Without a grace the images pulled last are held; with it
    nothing may go that came within the hour, and what has no room is passed on.
    """
    upstream = RemoteRegistry().start()
    digests = {f"team/app{n}": upstream.add(f"team/app{n}", sizes=LAYERS)["digest"] for n in range(IMAGES)}
    appliance = Appliance(tmp_path / "appliance", upstream.url, retention={} if grace is None else {"grace": grace})
    with small_disk(appliance.store, "64m"):
        try:
            appliance.start()
            for repository, digest in digests.items():
                assert digest in puller.pull(Source(appliance, repository, "latest"))
                assert _free(appliance) >= 0.02 * 64 * 1024 * 1024
            disk = _status(appliance)["disk"]
            assert disk["size"] == 64 * 1024 * 1024
            if grace is None:
                assert disk["unstored"] > 100_000_000
            else:
                assert disk["unstored"] == 0
                until(lambda: _status(appliance)["disk"]["free"] >= disk["reserve"], "the reserve is free")
            upstream.kill()
            held = list(digests)[-1 if grace else 0]
            assert digests[held] in puller.pull(Source(appliance, held, "latest"))
            assert ask(appliance.admin, "/readyz").status == 200
            assert "Traceback" not in appliance.log()
        finally:
            appliance.kill()
            upstream.kill()


def _status(appliance: Appliance) -> Any:
    return json.loads(ask(appliance.admin, "/api/v1/status").body)


def _free(appliance: Appliance) -> int:
    disk = os.statvfs(appliance.store)
    return disk.f_bavail * disk.f_frsize
