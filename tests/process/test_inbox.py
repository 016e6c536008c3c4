"""What is put into the inbox of a running appliance is imported, or put aside with the reason."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask, pull
from tests.clients.sides import NOWHERE
from tests.doubles import hostile
from tests.doubles.remote import RemoteRegistry
from tests.process.crossing import command, pull_all
from tests.process.service import UPSTREAM, Appliance, until

pytestmark = pytest.mark.process


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Appliance]:
    """A running appliance without any network, and with an inbox."""
    (tmp_path / "inbox").mkdir()
    made = Appliance(tmp_path / "watching", NOWHERE, offline=True, bundles={"inbox": str(tmp_path / "inbox")})
    yield made.start()
    made.kill()


def waiting(appliance: Appliance) -> Any:
    """What C{pullcache status} says of the inbox."""
    return json.loads(command(appliance, "--json", "status").stdout)["inbox"]


def test_a_bundle_in_the_inbox_is_taken_when_its_upstream_is_configured(
    appliance: Appliance, watching: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """The status names the line that is missing; with it in the configuration, a reload is enough."""
    image = upstream.add("team/app", "1")
    pull_all(appliance, {("team/app", "1"): image})
    listen, upstreams = watching.settings["listen"], watching.settings["upstreams"]
    watching.settings |= {"upstreams": {}, "listen": [{"endpoint": each["endpoint"]} for each in listen]}
    watching.write()
    watching.restart()
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    (tmp_path / "all.tar").rename(tmp_path / "inbox" / "all.tar")
    [said] = until(lambda: waiting(watching), "the bundle waits")
    assert f'"{UPSTREAM}": {{url: "https://{UPSTREAM}", offline: true}}' in said["reason"]
    watching.settings["upstreams"] = upstreams
    watching.write()
    watching.signal(signal.SIGHUP)
    until((tmp_path / "inbox" / "done" / "all.tar").exists, "it is imported")
    assert pull(watching.bare, f"{UPSTREAM}/team/app", "1").digest == image["digest"]


def test_a_full_disk_leaves_the_bundle_in_the_inbox(
    appliance: Appliance, watching: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """The status says what is wrong, nothing is refused; with room again it is imported and served."""
    images = {("team/app", "1"): upstream.add("team/app", "1", sizes=[3_000_000])}
    pull_all(appliance, images)
    # As the kernel does it at a quota: EFBIG for what is larger.
    limit = resource.prlimit(watching.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(watching.process.pid, resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    inbox = tmp_path / "inbox"
    (tmp_path / "all.tar").rename(inbox / "all.tar")
    [said] = until(lambda: waiting(watching), "the bundle waits")
    assert said["files"] == ["all.tar"] and "the store cannot take it: File too large; make room" in said["reason"]
    assert "all.tar" in command(watching, "status").stderr
    assert not (inbox / "refused").exists()
    resource.prlimit(watching.process.pid, resource.RLIMIT_FSIZE, limit)
    os.utime(inbox / "all.tar")
    until((inbox / "done" / "all.tar").exists, "the bundle is imported")
    assert waiting(watching) == []
    pull_all(watching, images)


def test_an_increment_that_sorts_before_its_base_is_imported_after_it(
    appliance: Appliance, watching: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Both are put into the inbox at once, and both images are pulled."""
    first = {("team/app", "1"): upstream.add("team/app", "1")}
    second = {("team/app", "2"): upstream.add("team/app", "2", sizes=[20_000, 9000], seed="team/app")}
    pull_all(appliance, first)
    command(appliance, "export", "--all", "-o", tmp_path / "zulu.tar")
    pull_all(appliance, second)
    command(appliance, "export", "--all", "--base", tmp_path / "zulu.tar", "-o", tmp_path / "alpha.tar")
    inbox = tmp_path / "inbox"
    for name in ("alpha.tar", "zulu.tar"):
        (tmp_path / name).rename(inbox / name)
    until(lambda: {"alpha.tar", "zulu.tar"} <= {each.name for each in inbox.glob("done/*")}, "both are imported")
    assert not (inbox / "refused").exists()
    pull_all(watching, first | second)


def peak(appliance: Appliance) -> int:
    """The most resident memory that the process has had, in bytes."""
    for line in Path(f"/proc/{appliance.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def test_an_archive_made_to_take_all_memory_is_refused(watching: Appliance, tmp_path: Path) -> None:
    """A few megabytes that name a gigabyte of entries: the service stays up and small, and the file is put aside."""
    hostile.long_names(tmp_path / "hostile.tar", 200_000)
    assert (tmp_path / "hostile.tar").stat().st_size < 16_000_000
    before = peak(watching)
    inbox = tmp_path / "inbox"
    (tmp_path / "hostile.tar").rename(inbox / "hostile.tar")
    until((inbox / "refused" / "hostile.tar").exists, "the file is refused")
    reason = json.loads((inbox / "refused" / "hostile.tar.json").read_text())["reason"]
    assert "the names of its entries" in reason
    assert peak(watching) - before < 256 * 1024 * 1024
    assert ask(watching.authority, "/v2/").status == 200


def test_what_kills_the_process_is_refused_at_the_third_start(watching: Appliance, tmp_path: Path) -> None:
    """Killed while it opens an archive, twice: the next start puts that aside, and imports what lies behind it."""
    inbox = tmp_path / "inbox"
    note = watching.store / "state" / "inbox" / "opened.json"
    hostile.slow(tmp_path / "a.tar", 5000)
    (tmp_path / "a.tar").rename(inbox / "a.tar")
    for times in (1, 2):
        until(lambda: note.exists() and json.loads(note.read_bytes())["opened"][0]["times"] == times, "it is opened")  # noqa: B023
        watching.kill()
        watching.start()
    until((inbox / "refused" / "a.tar").exists, "the file is refused")
    assert "ended 2 times" in (inbox / "refused" / "a.tar.json").read_text()
    assert ask(watching.authority, "/v2/").status == 200
