"""Two appliances and no network between them: what was pulled here is served there."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.exports import bundle_in
from tests.clients import plain
from tests.clients.plain import ask, pull
from tests.doubles import hostile
from tests.doubles.remote import RemoteRegistry
from tests.process.service import CHECKOUT, UPSTREAM, Appliance, until

ROUNDS = int(os.environ.get("PULLCACHE_IMPORT_KILL_ROUNDS", "5"))
LONGEST = 0.1
"""Seconds from the order to the latest kill; an import of one round takes about as long."""

NOWHERE = "http://127.0.0.1:9"
"""Where the sealed side's upstream would be; nobody answers there, and nobody is to ask."""

LARGE = 3_000_000
"""Bytes of a layer that is not pulled in one go."""

pytestmark = pytest.mark.process

Images = dict[tuple[str, str], dict[str, Any]]
"""What the simulated registry says of each image, by repository and tag."""


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Appliance]:
    """A running appliance without any network."""
    made = Appliance(tmp_path / "sealed", NOWHERE, offline=True)
    yield made.start()
    made.kill()


def command(appliance: Appliance, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run C{pullcache} on an appliance; it has to end with C{status}."""
    environment = {**os.environ, "PULLCACHE_ADMIN": f"http://{appliance.admin}", "PYTHONPATH": str(CHECKOUT)}
    line = [sys.executable, "-m", "appliance.cli.main", *map(str, arguments)]
    ended = subprocess.run(line, cwd=appliance.folder, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == status, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended


def imported(appliance: Appliance, *arguments: str | Path) -> Any:
    """Import, and return the receipt."""
    return json.loads(command(appliance, "--json", "import", *arguments).stdout)


def seed(appliance: Appliance, upstream: RemoteRegistry) -> Images:
    """Pull images of several kinds through the cache."""
    images = {
        ("team/app", "1"): upstream.add("team/app", "1", sizes=[300_000, 5000]),
        ("team/old", "latest"): upstream.add("team/old", "latest", "docker"),
        ("team/multi", "2.0"): upstream.add("team/multi", "2.0", "index", sizes=[70_000]),
    }
    pull_all(appliance, images)
    return images


def pull_all(appliance: Appliance, images: Images) -> None:
    """Pull each by its tag and by its digest; every digest is the original's."""
    for (repository, tag), image in images.items():
        assert pull(appliance.authority, repository, tag).digest == image["digest"]
        assert pull(appliance.authority, repository, image["digest"]).digest == image["digest"]
        assert pull(appliance.bare, f"{UPSTREAM}/{repository}", tag).digest == image["digest"]


def contents_of(*files: Path) -> dict[str, int]:
    """The blobs that a bundle says it holds, with their sizes."""
    return {blob.digest: blob.size for blob in bundle_in(files[0]).blobs}


def test_what_was_pulled_here_is_served_there(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Exported, carried, imported: every image is pulled from the sealed side, with the original digests."""
    images = seed(appliance, upstream)
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    upstream.kill()
    assert command(appliance, "verify", tmp_path / "all.tar").stdout.count(f"{UPSTREAM}/team/") >= len(images)
    receipt = imported(sealed, tmp_path / "all.tar")
    assert {(change["repository"], change.get("tag")) for change in receipt["refs"]} >= set(images)
    pull_all(sealed, images)


def test_what_was_imported_survives_a_restart(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Power returns on the sealed side, and everything is still served."""
    images = seed(appliance, upstream)
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    imported(sealed, tmp_path / "all.tar")
    sealed.restart()
    pull_all(sealed, images)


def test_volumes_are_imported_in_any_order(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """A bundle on several discs, one of its layers larger than a disc, comes together on the other side."""
    images = seed(appliance, upstream)
    command(appliance, "export", "--all", "-o", tmp_path / "discs", "--volume-size", "100KB")
    discs = sorted((tmp_path / "discs").iterdir(), reverse=True)
    assert len(discs) > 2
    assert all(disc.stat().st_size <= 100_000 for disc in discs)
    command(appliance, "verify", *discs)
    refused = command(sealed, "import", *discs[1:], status=1)
    assert refused.stderr.count("\n") == 1
    imported(sealed, *discs)
    pull_all(sealed, images)


def test_only_what_the_right_key_signed_is_taken(
    appliance: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """With a trusted key configured, a bundle without a signature, or with another one, publishes nothing."""
    images = seed(appliance, upstream)
    for name in ("ours", "theirs"):
        command(appliance, "keygen", "-o", tmp_path / name)
        command(appliance, "export", "--all", "-o", tmp_path / f"{name}.tar", "--sign", tmp_path / f"{name}.key")
    command(appliance, "export", "--all", "-o", tmp_path / "unsigned.tar")
    verified = command(appliance, "verify", tmp_path / "ours.tar", "--trust", tmp_path / "ours.pub")
    assert "signer" in verified.stdout
    command(appliance, "verify", tmp_path / "theirs.tar", "--trust", tmp_path / "ours.pub", status=1)
    trust = {"trust": [(tmp_path / "ours.pub").read_text().splitlines()[1]], "require_signature": True}
    strict = Appliance(tmp_path / "strict", NOWHERE, offline=True, bundles=trust)
    try:
        strict.start()
        for refused in ("unsigned", "theirs"):
            assert command(strict, "import", tmp_path / f"{refused}.tar", status=1).stderr.count("\n") == 1
            assert ask(strict.authority, "/v2/team/app/manifests/1").status >= 400
        named = ("--trust", tmp_path / "theirs.pub")
        for given in ((), ("--dry-run",)):
            ended = command(strict, "import", tmp_path / "theirs.tar", *named, *given, status=1)
            assert "bundles: {trust: [" in ended.stderr
        assert ask(strict.authority, "/v2/team/app/manifests/1").status >= 400
        assert imported(strict, tmp_path / "ours.tar")["signer"]
        pull_all(strict, images)
    finally:
        strict.kill()


def test_verify_says_what_an_import_says(appliance: Appliance, upstream: RemoteRegistry, tmp_path: Path) -> None:
    """Of a signed bundle to which something was done, the command passes none that a running appliance refuses."""
    images = seed(appliance, upstream)
    command(appliance, "keygen", "-o", tmp_path / "ours")
    command(appliance, "export", "--all", "-o", tmp_path / "made.tar", "--sign", tmp_path / "ours.key")
    made = (tmp_path / "made.tar").read_bytes()
    index = made.index(b'"manifests":[')
    link = tarfile.TarInfo("blobs/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    cases = {
        "index": made[:index] + made[index:].replace(b"team/app", b"team/evi", 1),
        "layout": made.replace(b'"1.0.0"', b'"1.0.1"', 1),
        "link": link.tobuf(tarfile.USTAR_FORMAT) + made,
        "layer": made[:-5000] + bytes([made[-5000] ^ 1]) + made[-4999:],
        "cut": made[:-1024],
        "made": made,
    }
    key = (tmp_path / "ours.pub").read_text().splitlines()[1]
    strict = Appliance(tmp_path / "strict", NOWHERE, offline=True, bundles={"trust": [key]})
    try:
        strict.start()
        for name, data in cases.items():
            assert name == "made" or data != made
            (tmp_path / f"{name}.tar").write_bytes(data)
            status = 0 if name == "made" else 1
            command(appliance, "verify", tmp_path / f"{name}.tar", "--trust", tmp_path / "ours.pub", status=status)
            command(strict, "import", tmp_path / f"{name}.tar", status=status)
        pull_all(strict, images)
    finally:
        strict.kill()


def test_an_upstream_that_is_missing_can_be_configured_and_the_import_repeated(
    sealed: Appliance, appliance: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Refused, dry or not, with the line to add; added and reloaded, the images are imported, and served ever after."""
    images = seed(appliance, upstream)
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    sealed.settings["upstreams"] = {}
    sealed.settings["listen"] = [{"endpoint": each["endpoint"]} for each in sealed.settings["listen"]]
    sealed.write()
    sealed.restart()
    for dry in (["--dry-run"], []):
        refused = command(sealed, "import", *dry, tmp_path / "all.tar", status=1)
        assert f'"{UPSTREAM}": {{url: "https://{UPSTREAM}", offline: true}}' in refused.stderr
    assert json.loads(command(sealed, "list", "--json").stdout)["images"] == []
    renamed = command(sealed, "import", "--rename", f"{UPSTREAM}=other.test", tmp_path / "all.tar", status=1)
    assert "other.test" in renamed.stderr
    sealed.settings["upstreams"] = {UPSTREAM: {"url": f"https://{UPSTREAM}", "offline": True}}
    sealed.reload()
    imported(sealed, tmp_path / "all.tar")
    for restart in (False, True):
        if restart:
            sealed.restart()
        for (repository, tag), image in images.items():
            assert pull(sealed.bare, f"{UPSTREAM}/{repository}", tag).digest == image["digest"]
            assert ask(sealed.bare, f"/v2/{repository}/manifests/{tag}?ns={UPSTREAM}").status == 200
    command(sealed, "show", f"{UPSTREAM}/team/app:1")
    command(sealed, "export", f"{sealed.bare}/{UPSTREAM}/team/**", "-o", tmp_path / "again.tar")
    assert set(contents_of(tmp_path / "again.tar")) == set(contents_of(tmp_path / "all.tar"))


def test_the_return_path_asks_for_exactly_what_is_missing(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Wants and inventory make an increment of the missing blobs and no other; imported, nothing is wanted any more."""
    seed(appliance, upstream)
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    imported(sealed, tmp_path / "all.tar")
    held = contents_of(tmp_path / "all.tar")
    assert ask(sealed.authority, "/v2/team/app/manifests/2").status >= 400
    command(sealed, "wants", "-o", tmp_path / "wants.json")
    command(sealed, "inventory", "-o", tmp_path / "inventory.json")
    wanted = {("team/app", "2"): upstream.add("team/app", "2", sizes=[300_000, 9000], seed="team/app")}
    pull_all(appliance, wanted)
    pull_all(appliance, {("team/else", "1"): upstream.add("team/else", "1")})
    way_back = ("--have", tmp_path / "inventory.json", "--want", tmp_path / "wants.json")
    command(appliance, "export", *way_back, "-o", tmp_path / "more.tar")
    image = wanted["team/app", "2"]
    needed = {image["digest"], *(digest for digest, _ in image["blobs"])}
    assert set(contents_of(tmp_path / "more.tar")) == needed - set(held)
    imported(sealed, tmp_path / "more.tar")
    pull_all(sealed, wanted)
    command(sealed, "wants", "-o", tmp_path / "after.json")
    assert "team/app" not in (tmp_path / "after.json").read_text()


def test_what_was_wanted_there_is_fetched_here(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Nobody pulled it here: the names of the wants are enough; what the registry has not is named, with the reason."""
    wanted = {
        ("team/app", "9"): upstream.add("team/app", "9", sizes=[300_000, 5000]),
        ("team/multi", "9"): upstream.add("team/multi", "9", "index", sizes=[70_000]),
    }
    for repository, tag in [*wanted, ("team/lost", "1")]:
        assert ask(sealed.authority, f"/v2/{repository}/manifests/{tag}").status >= 400
    command(sealed, "wants", "-o", tmp_path / "wants.json")
    ended = command(appliance, "export", "--want", tmp_path / "wants.json", "-o", tmp_path / "more.tar", status=1)
    assert "nothing of that is held: up.test/team/lost:1" in ended.stderr
    assert "up.test/team/lost:1: up.test: " in ended.stderr
    imported(sealed, tmp_path / "more.tar")
    pull_all(sealed, wanted)
    command(sealed, "wants", "-o", tmp_path / "after.json")
    assert (
        "team/lost" in (tmp_path / "after.json").read_text() and "team/app" not in (tmp_path / "after.json").read_text()
    )
    command(appliance, "wants", "-o", tmp_path / "here.json")
    assert json.loads((tmp_path / "here.json").read_text())["wants"] == []
    offline = command(sealed, "export", "--want", tmp_path / "after.json", "-o", tmp_path / "none.tar", status=1)
    assert "team/lost:1" in offline.stderr and "offline" in offline.stderr


def test_an_increment_says_what_it_builds_on(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Imported where its base is lacking, it publishes nothing and says so in a line; after the base it goes in."""
    first = {("team/app", "1"): upstream.add("team/app", "1")}
    second = {("team/app", "2"): upstream.add("team/app", "2", sizes=[20_000, 9000], seed="team/app")}
    pull_all(appliance, first)
    command(appliance, "export", "--all", "-o", tmp_path / "base.tar")
    pull_all(appliance, second)
    command(appliance, "export", "--all", "--base", tmp_path / "base.tar", "-o", tmp_path / "more.tar")
    assert not set(contents_of(tmp_path / "more.tar")) & set(contents_of(tmp_path / "base.tar"))
    assert command(sealed, "import", tmp_path / "more.tar", status=1).stderr.count("\n") == 1
    assert ask(sealed.authority, "/v2/team/app/manifests/2").status >= 400
    imported(sealed, tmp_path / "base.tar")
    imported(sealed, tmp_path / "more.tar")
    pull_all(sealed, first | second)


def test_a_second_import_reads_the_head_only(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """What is held is not read again, and nothing changes."""
    pull_all(appliance, {("team/app", "1"): upstream.add("team/app", "1", sizes=[20_000_000])})
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    imported(sealed, tmp_path / "all.tar")
    before = bytes_read(sealed)
    receipt = imported(sealed, tmp_path / "all.tar")
    assert (receipt["newBlobs"], receipt["readBytes"]) == (0, 0)
    assert {change["outcome"] for change in receipt["refs"]} == {"unchanged"}
    assert bytes_read(sealed) - before < 2_000_000


def bytes_read(appliance: Appliance) -> int:
    """Bytes the process has read so far, from anywhere."""
    for line in Path(f"/proc/{appliance.process.pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


def test_an_export_is_the_same_to_the_byte(appliance: Appliance, upstream: RemoteRegistry, tmp_path: Path) -> None:
    """Two people who export the same make the same file."""
    seed(appliance, upstream)
    command(appliance, "export", "--all", "-o", tmp_path / "one.tar")
    appliance.restart()
    command(appliance, "export", "--all", "-o", tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_an_image_that_is_not_whole_is_named_and_left_out(
    appliance: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Exit 1, the image on standard error, and a bundle of the others; C{--complete} fetches what it lacks."""
    # Otherwise what its client did not ask for is fetched behind it.
    appliance.settings["upstreams"][UPSTREAM]["prefetch"] = {"image": "none"}
    appliance.write()
    appliance.restart()
    images = seed(appliance, upstream)
    half = upstream.add("team/half", "1")
    assert ask(appliance.authority, "/v2/team/half/manifests/1").status == 200
    ended = command(appliance, "export", "--all", "-o", tmp_path / "all.tar", status=1)
    assert "team/half" in ended.stderr
    assert {image["digest"] for image in images.values()} <= set(contents_of(tmp_path / "all.tar"))
    assert half["digest"] not in contents_of(tmp_path / "all.tar")
    command(appliance, "export", "--all", "--complete", "-o", tmp_path / "all.tar")
    assert half["digest"] in contents_of(tmp_path / "all.tar")


def test_a_dry_run_changes_nothing(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """It tells what would be new, and nothing is served afterwards."""
    seed(appliance, upstream)
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    receipt = imported(sealed, tmp_path / "all.tar", "--dry-run")
    assert receipt["newBlobs"] == len(contents_of(tmp_path / "all.tar"))
    assert ask(sealed.authority, "/v2/team/app/manifests/1").status >= 400
    assert list((sealed.store / "blobs").rglob("*.*")) == []


def test_status_list_and_show_tell_what_is_there(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """The words of the command line are about what was pulled."""
    images = seed(appliance, upstream)
    command(appliance, "status")
    listed = command(appliance, "list").stdout
    assert all(f"{UPSTREAM}/{repository}:{tag}" in listed for repository, tag in images)
    assert "team/old" not in command(appliance, "list", f"{UPSTREAM}/team/m*").stdout
    shown = command(appliance, "show", f"{UPSTREAM}/team/multi:2.0").stdout
    assert images["team/multi", "2.0"]["digest"] in shown
    assert command(appliance, "show", f"{UPSTREAM}/team/none:1", status=1).stderr.count("\n") == 1


# -- the inbox --------------------------------------------------------------------------------------------------------


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


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def add_round(upstream: RemoteRegistry, number: int) -> Images:
    """Images of one round, 24 MB together."""
    sizes = [4_000_000, 4_000_000]
    return {
        (f"round{number}/{name}", "1"): upstream.add(f"round{number}/{name}", "1", sizes=sizes, seed=f"{number}{name}")
        for name in ("a", "b", "c")
    }


def post_import(appliance: Appliance, file: Path, refusals: list[bytes]) -> None:
    """Import until the appliance dies; what it says instead is added to C{refusals}."""
    connection = http.client.HTTPConnection(appliance.admin, timeout=plain.PATIENCE)
    order, headers = json.dumps({"files": [str(file)]}), {"Content-Type": "application/json"}
    try:
        connection.request("POST", "/api/v1/imports", order, headers)
        body = connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()
    if b'{"receipt":' not in body:
        refusals.append(body)


def served(appliance: Appliance, images: Images) -> list[bool]:
    """Of each image whether its tag is known."""
    paths = [f"/v2/{repository}/manifests/{tag}" for repository, tag in images]
    return [ask(appliance.authority, path).status == 200 for path in paths]


def test_an_import_that_is_killed_publishes_all_or_nothing(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """After kill -9 at any moment: what was served is served, nothing is half there, a second import ends it."""
    moments = random.Random(3)
    refusals: list[bytes] = []
    known: Images = {}
    for number in range(ROUNDS):
        images = add_round(upstream, number)
        pull_all(appliance, images)
        bundle = tmp_path / f"{number}.tar"
        command(appliance, "export", f"{UPSTREAM}/round{number}/**", "-o", bundle)
        client = threading.Thread(target=post_import, args=(sealed, bundle, refusals))
        client.start()
        threading.Event().wait(moments.uniform(0, LONGEST))
        sealed.kill()
        client.join(plain.PATIENCE)
        assert refusals == []
        sealed.start()
        pull_all(sealed, known)
        published = served(sealed, images)
        assert len(set(published)) == 1, "a part of the bundle was published"
        if all(published):
            pull_all(sealed, images)
        imported(sealed, bundle)
        known |= images
        pull_all(sealed, known)


def bundle_of(appliance: Appliance, upstream: RemoteRegistry, path: Path) -> tuple[str, int]:
    """A bundle with one image of a large layer; that layer's digest and size."""
    digest, size = upstream.add("team/app", sizes=[LARGE])["blobs"][1]
    pull(appliance.authority, "team/app", "latest")
    command(appliance, "export", "--all", "-o", path)
    return digest, size


@pytest.fixture
def second(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """A running appliance in front of the same upstream, which takes its time with blobs."""
    made = Appliance(tmp_path / "second", upstream.url).start()
    yield made
    made.kill()


def test_a_pull_that_brings_wrong_bytes_after_an_import_spoils_nothing(
    appliance: Appliance, second: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """While a layer is being pulled, an import brings it; the upstream's last bytes are wrong. The blob stays right."""
    digest, size = bundle_of(appliance, upstream, tmp_path / "all.tar")
    plain.get(second.authority, "/v2/team/app/manifests/latest")
    upstream.misbehave(f"GET /v2/*/blobs/{digest}", ("flipped", {"offset": size - 9}), ("trickle", {"rate": size / 5}))
    pulling = plain.Transfer(second.authority, f"/v2/team/app/blobs/{digest}")
    pulling.read(size // 10)
    imported(second, tmp_path / "all.tar")
    assert second.blob(digest).is_file()
    with pytest.raises((http.client.IncompleteRead, OSError)):
        pulling.rest()
    served = plain.get(second.authority, f"/v2/team/app/blobs/{digest}", digest)
    assert "hit" in served.cache_status
    assert plain.get(second.restart().authority, f"/v2/team/app/blobs/{digest}", digest).body == served.body


def test_an_import_that_brings_wrong_bytes_during_a_pull_spoils_nothing(
    appliance: Appliance, second: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """A damaged stick is refused, and the pull of the same layer that is under way comes to its end."""
    digest, size = bundle_of(appliance, upstream, tmp_path / "all.tar")
    with tarfile.open(tmp_path / "all.tar") as archive:
        at = archive.getmember("blobs/" + digest.replace(":", "/")).offset_data + size - 9
    with open(tmp_path / "all.tar", "r+b") as file:
        file.seek(at)
        wrong = bytes([file.read(1)[0] ^ 1])
        file.seek(at)
        file.write(wrong)
    plain.get(second.authority, "/v2/team/app/manifests/latest")
    upstream.misbehave(f"GET /v2/*/blobs/{digest}", ("trickle", {"rate": size / 5}))
    pulling = plain.Transfer(second.authority, f"/v2/team/app/blobs/{digest}")
    beginning = pulling.read(size // 10)
    refused = command(second, "import", tmp_path / "all.tar", status=1)
    assert digest in refused.stderr
    assert "sha256:" + hashlib.sha256(beginning + pulling.rest()).hexdigest() == digest
    plain.get(second.authority, f"/v2/team/app/blobs/{digest}", digest)
    assert [exchange.sent for exchange in upstream.seen(f"GET /v2/team/app/blobs/{digest}")] == [size, size]
