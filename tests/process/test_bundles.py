"""Two appliances and no network between them: what was pulled here is served there."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from appliance.bundle.reader import list_of_contents
from tests.clients.plain import ask, pull
from tests.clients.sides import NOWHERE
from tests.doubles.remote import RemoteRegistry
from tests.process.crossing import Images, command, imported, pull_all
from tests.process.service import UPSTREAM, Appliance

pytestmark = pytest.mark.process


def seed(appliance: Appliance, upstream: RemoteRegistry) -> Images:
    """Pull images of several kinds through the cache."""
    images = {
        ("team/app", "1"): upstream.add("team/app", "1", sizes=[300_000, 5000]),
        ("team/old", "latest"): upstream.add("team/old", "latest", "docker"),
        ("team/multi", "2.0"): upstream.add("team/multi", "2.0", "index", sizes=[70_000]),
    }
    pull_all(appliance, images)
    return images


def contents_of(*files: Path) -> dict[str, int]:
    """The blobs that a bundle says it holds, with their sizes."""
    return {blob.digest: blob.size for blob in list_of_contents(files[0]).blobs}


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
    """The names of the wants are enough, with nothing pulled; what the registry has not is named, with the reason."""
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
