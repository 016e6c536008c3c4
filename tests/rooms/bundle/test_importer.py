"""What comes of importing bundles: whole, in increments and in volumes."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from appliance.bundle import bundlejson, contents
from appliance.bundle.importer import ImportOptions, ImportProgress
from appliance.bundle.names import Names
from appliance.config import parse
from appliance.errors import (
    BundleConflict,
    BundleDamaged,
    BundleError,
    BundleIncomplete,
    BundleUpstreamUnknown,
)
from appliance.oci.digest import Digest
from tests.doubles.deferreds import result
from tests.doubles.exports import NGINX, Site, entries
from tests.doubles.receiver import Receiver, upstream_for
from tests.rooms.bundle.importing import EXPECTED, GHCR, MULTI, NEWER, OTHER, SBOM, repacked, site, write

# -- what comes of it ------------------------------------------------------------------------------------------------


def test_what_was_pulled_there_is_served_here(bundle: Path) -> None:
    """Every image and everything that refers to one is held, whole and under its own digest."""
    receiver = Receiver()
    receipt = receiver.run(bundle)
    assert receiver.names() == EXPECTED
    assert receiver.serves(MULTI, NGINX) and receiver.serves(SBOM, NGINX) and receiver.serves(OTHER, GHCR)
    assert {(change.name, change.outcome) for change in receipt.refs} == {(name, "new") for name in EXPECTED}
    assert receiver.published == receipt.refs
    assert receipt.new_bytes == receipt.read_bytes == receiver.held()
    assert (receipt.held_blobs, receipt.missing, receipt.unknown_upstreams) == (0, [], [])
    assert (receipt.sender, receipt.site, receipt.signer) == ("site-a", "site-b", None)
    assert "not signed" in receipt.notes[0]


def test_room_is_made_for_what_is_new(bundle: Path) -> None:
    """Before the first byte is stored: what retention may take goes first."""
    receiver = Receiver()
    first = receiver.run(bundle)
    receiver.run(bundle)
    assert receiver.room_asked == [first.new_bytes, 0]


def test_what_is_imported_is_pinned(bundle: Path) -> None:
    """Nothing else can bring it back, so it stays until a user says otherwise."""
    receiver = Receiver()
    receipt = receiver.run(bundle)
    repository = result(receiver.repositories.get(*NGINX))
    assert repository.tags["1.27"].pinned == receipt.bundle
    assert repository.pinned == {Digest.parse(SBOM.digest): receipt.bundle}


def test_a_receipt_is_kept_over_a_restart(bundle: Path) -> None:
    """What came with a bundle can be asked for later."""
    receiver = Receiver()
    first = receiver.run(bundle)
    receiver.start()
    second = receiver.run(bundle)
    receiver.start()
    assert result(receiver.receipts.all()) == [first, second]
    assert result(receiver.receipts.get(first.id)) == first
    assert {change.outcome for change in second.refs} == {"unchanged"}


def test_a_second_import_reads_no_blob(bundle: Path) -> None:
    """What is held is not read again, whatever its size."""
    receiver = Receiver()
    receiver.run(bundle)
    again = receiver.run(bundle)
    assert (again.new_blobs, again.read_bytes) == (0, 0)
    assert again.held_bytes == receiver.held()


@pytest.mark.parametrize("wrong", [lambda data: data[:-1], lambda data: data + b" ", lambda data: b""])
def test_what_lost_its_end_is_mended_by_a_bundle_that_has_it(bundle: Path, wrong: Callable[[bytes], bytes]) -> None:
    """The bundle lists its size: what is here is no blob of that size, and does not stand in the way."""
    receiver = Receiver()
    receiver.run(bundle)
    for content in (MULTI, OTHER):
        for blob in (content.manifest, *content.blobs):
            receiver.store._blobs[Digest.parse(blob.digest)] = wrong(blob.data)
    receiver.run(bundle)
    assert receiver.serves(MULTI, NGINX) and receiver.serves(OTHER, GHCR)


def test_a_manifest_that_is_damaged_here_is_mended_by_a_bundle_that_has_it(bundle: Path) -> None:
    """Of the same length: its bytes are read in any case, and found wrong."""
    receiver = Receiver()
    receiver.run(bundle)
    data = MULTI.manifest.data
    receiver.store._blobs[Digest.parse(MULTI.digest)] = data[:-1] + b" "
    receiver.run(bundle)
    assert receiver.serves(MULTI, NGINX)


def test_an_upstream_that_is_not_configured_is_refused_with_the_line_that_is_missing(tmp_path: Path) -> None:
    """No client could pull what is of it; the line that the message has is all that the configuration needs."""
    made = Site().hold(OTHER, ("quay.example:5000", "a/b"), "v1").hold(MULTI, NGINX, "1.27")
    path = write(tmp_path, made.file(made.export(all=True)))
    receiver = Receiver()
    with pytest.raises(
        BundleUpstreamUnknown, match="bundle.tar: no upstream is called quay.example:5000 here"
    ) as caught:
        receiver.run(path)
    assert (receiver.names(), receiver.held()) == ({}, 0)
    told = receiver.run(path, dry_run=True)
    assert told.unknown_upstreams == ["quay.example:5000"]
    match = re.search(r"reload it: (.*); or import with --rename quay.example:5000=NAME", str(caught.value))
    assert match is not None and any(match[1] in note for note in told.notes)
    configured = parse(f"upstreams:\n  docker.io: {{url: https://hub.example}}\n  {match[1]}\n", "x.yaml")
    assert configured.upstreams["quay.example:5000"].offline
    receiver = Receiver(names=Names(configured.upstream_for))
    receipt = receiver.run(path)
    assert receiver.names()["quay.example:5000/a/b:v1"] == OTHER.digest
    assert (receipt.unknown_upstreams, receipt.notes) == ([], ["it is not signed; anybody could have made it"])


def test_what_allow_and_deny_keep_from_clients_is_reported(tmp_path: Path) -> None:
    """It is imported, and no client could pull it."""
    made = Site().hold(OTHER, GHCR, "v1")
    path = write(tmp_path, made.file(made.export(all=True)))
    receiver = Receiver(names=Names(upstream_for, permits=lambda upstream, name: (upstream, name) != GHCR))
    assert receiver.run(path).notes[-1].startswith("ghcr.io/a/b may not be pulled here: allow and deny")


def test_a_prefix_is_renamed_and_the_receipt_says_from_what(tmp_path: Path) -> None:
    """In a bundle as in another tool's archive, before anything is stored as well."""
    made = Site().hold(OTHER, ("quay.example:5000", "team/app"), "v1").hold(MULTI, NGINX, "1.27")
    path = write(tmp_path, made.file(made.export(all=True)))
    receiver = Receiver()
    renames = {"quay.example:5000/team": "ghcr.io/team", "quay.exampl": "ghcr.io"}
    for dry_run in (True, False):
        receipt = receiver.run(path, renames=renames, dry_run=dry_run)
        assert {(change.name, change.renamed_from) for change in receipt.refs} == {
            ("ghcr.io/team/app:v1", "quay.example:5000/team/app:v1"),
            ("docker.io/library/nginx:1.27", None),
        }
        assert "nothing in it is called quay.exampl, which was to be renamed" in receipt.notes
        assert receipt.unknown_upstreams == []
    assert set(receiver.names()) == {"ghcr.io/team/app:v1", "docker.io/library/nginx:1.27"}
    assert receiver.serves(OTHER, ("ghcr.io", "team/app"))


def test_renaming_two_images_to_one_name_is_refused(tmp_path: Path) -> None:
    """One of them would be lost."""
    made = Site().hold(OTHER, ("quay.io", "a/b"), "v1").hold(MULTI, GHCR, "v1")
    path = write(tmp_path, made.file(made.export(all=True)))
    with pytest.raises(BundleDamaged, match="ghcr.io/a/b:v1 is the name of two images"):
        Receiver().run(path, renames={"quay.io": "ghcr.io"})


def test_a_bundle_in_a_folder_is_read_where_it_lies(tmp_path: Path, plain: bytes) -> None:
    """Volumes that were unpacked into one folder are a bundle all the same."""
    for name, data in entries(plain).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    receiver = Receiver()
    receiver.run(tmp_path)
    assert receiver.names() == EXPECTED


def test_a_link_in_a_folder_is_not_followed(tmp_path: Path, plain: bytes) -> None:
    """What a link leads to is not part of what was given."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for name, data in entries(plain).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / contents.INDEX).rename(outside)
    (folder / contents.INDEX).symlink_to(outside)
    receiver = Receiver()
    with pytest.raises(BundleDamaged, match="index.json.*link"):
        receiver.run(folder)


@pytest.mark.parametrize("wrap", ["gzip", "zstd"])
def test_a_compressed_bundle_is_read_without_being_unpacked(tmp_path: Path, plain: bytes, wrap: str) -> None:
    """It was compressed on the way; nothing is spooled for that."""
    data = gzip.compress(plain, 1) if wrap == "gzip" else zstandard.compress(plain)
    receiver = Receiver()
    receiver.run(write(tmp_path, data))
    assert receiver.names() == EXPECTED


# -- tags ------------------------------------------------------------------------------------------------------------


def moved(tmp_path: Path) -> tuple[Receiver, Path]:
    """An appliance on which 1.27 means something else than in a bundle."""
    before = Site().hold(NEWER, NGINX, "1.27")
    receiver = Receiver()
    receiver.run(write(tmp_path, before.file(before.export(all=True)), "before.tar"))
    made = site()
    return receiver, write(tmp_path, made.file(made.export(all=True)))


def test_a_tag_is_moved_and_the_receipt_says_from_where(tmp_path: Path) -> None:
    """By default the bundle is right."""
    receiver, path = moved(tmp_path)
    receipt = receiver.run(path)
    assert receiver.names() == EXPECTED
    [change] = [change for change in receipt.refs if change.tag == "1.27"]
    assert (change.outcome, change.previous, change.digest) == ("moved", NEWER.digest, MULTI.digest)


def test_a_tag_is_kept_when_that_was_asked_for(tmp_path: Path) -> None:
    """The image is held all the same, by its digest."""
    receiver, path = moved(tmp_path)
    receipt = receiver.run(path, on_existing_tag="keep")
    assert receiver.names()["docker.io/library/nginx:1.27"] == NEWER.digest
    assert receiver.names()[f"docker.io/library/nginx@{MULTI.digest}"] == MULTI.digest
    assert receiver.serves(MULTI, NGINX)
    assert [change.outcome for change in receipt.refs if change.tag == "1.27"] == ["kept"]


def test_a_tag_that_would_move_refuses_the_import_before_anything_is_stored(tmp_path: Path) -> None:
    """All or nothing: the other image is not published either."""
    receiver, path = moved(tmp_path)
    before, held = receiver.names(), receiver.held()
    with pytest.raises(BundleConflict, match=f"nginx:1.27 is {NEWER.digest}, not {MULTI.digest}.*--on-existing-tag"):
        receiver.run(path, on_existing_tag="refuse")
    assert (receiver.names(), receiver.held()) == (before, held)


def test_a_dry_run_says_what_would_happen_and_stores_nothing(tmp_path: Path) -> None:
    """Tag moves and new bytes are known before a byte is stored."""
    receiver, path = moved(tmp_path)
    before, held, done = receiver.names(), receiver.held(), receiver.disk.done
    receipt = receiver.run(path, dry_run=True)
    assert (receiver.names(), receiver.held(), receiver.disk.done) == (before, held, done)
    assert receipt.dry_run and receipt.id == ""
    assert [(change.name, change.previous) for change in receipt.refs if change.outcome == "moved"] == [
        ("docker.io/library/nginx:1.27", NEWER.digest)
    ]
    whole = Receiver()
    assert receipt.new_bytes == whole.run(path).new_bytes


def test_a_dry_run_checks_every_manifest(tmp_path: Path, plain: bytes) -> None:
    """What is damaged is said before anything is carried further."""
    name = f"blobs/sha256/{MULTI.digest[7:]}"
    data = repacked(plain, lambda found: found.update({name: found[name].replace(b"amd64", b"arm99")}))
    with pytest.raises(BundleDamaged, match=f"bundle.tar, at '{name}': its bytes do not have the digest"):
        Receiver().run(write(tmp_path, data), dry_run=True)


def test_an_upstream_is_published_as_it_is_called_here(tmp_path: Path) -> None:
    """Other sites may know it by an alias; two names that become one must mean one image."""
    made = Site().hold(OTHER, ("index.docker.io", "library/nginx"), "1.27")
    receiver = Receiver()
    receiver.run(write(tmp_path, made.file(made.export("**"))))
    assert receiver.names() == {"docker.io/library/nginx:1.27": OTHER.digest}
    made.hold(MULTI, NGINX, "1.27")
    with pytest.raises(BundleDamaged, match="nginx:1.27 is the name of two images"):
        Receiver().run(write(tmp_path, made.file(made.export("**"))))


# -- increments ------------------------------------------------------------------------------------------------------


def increment(tmp_path: Path) -> tuple[Path, Path]:
    """A bundle, and an increment over it."""
    made = site()
    first = made.export("docker.io/**")
    have = frozenset(Digest.parse(blob.digest) for blob in first.bundle.blobs)
    second = made.export(all=True, have=have)
    assert second.bundle.requires
    return write(tmp_path, made.file(first), "first.tar"), write(tmp_path, made.file(second), "second.tar")


def test_an_increment_builds_on_what_is_held(tmp_path: Path) -> None:
    """Only what was missing travels."""
    first, second = increment(tmp_path)
    receiver = Receiver()
    receiver.run(first)
    receipt = receiver.run(second)
    assert receiver.names() == EXPECTED
    assert receipt.new_blobs == len(OTHER.blobs) + 1
    assert receipt.held_bytes > 0


def test_an_increment_without_what_it_builds_on_names_the_gap_before_bulk_data(tmp_path: Path) -> None:
    """The message says what lacks, how much it is and what to do; nothing is stored."""
    first, second = increment(tmp_path)
    receiver = Receiver()
    with pytest.raises(BundleIncomplete, match="second.tar: it builds on .* not held.*--have") as caught:
        receiver.run(second)
    required = {blob.digest for blob in bundlejson.decode(entries(second.read_bytes())[contents.BUNDLE], "").requires}
    assert set(caught.value.missing) == required
    assert (receiver.names(), receiver.held()) == ({}, 0)
    assert set(receiver.run(second, dry_run=True).missing) == required
    receiver.run(first)
    receiver.run(second)
    assert receiver.names() == EXPECTED


def test_what_is_removed_during_an_import_is_not_published_without(tmp_path: Path) -> None:
    """Hours may lie between the look at what is held and the publication."""
    first, second = increment(tmp_path)
    receiver = Receiver()
    receiver.run(first)
    before = receiver.names()
    gone = Digest.parse(MULTI.children[0].layers[0].digest)

    def remove(progress: ImportProgress) -> None:
        if progress.stage == "storing":
            receiver.store._blobs.pop(gone, None)

    with pytest.raises(BundleIncomplete, match="removed from the store meanwhile.*import it again"):
        result(receiver.importer.run([second], ImportOptions(), remove))
    assert receiver.names() == before


def test_a_platform_left_out_on_purpose_is_no_gap(tmp_path: Path) -> None:
    """The index keeps its digest, and the receipt says which platform it lacks."""
    made = site()
    receiver = Receiver()
    receipt = receiver.run(write(tmp_path, made.file(made.export("nginx:1.27", platforms=frozenset({"linux/arm64"})))))
    assert receiver.names()["docker.io/library/nginx:1.27"] == MULTI.digest
    assert receipt.absent == [f"{MULTI.digest} {MULTI.children[0].digest} linux/amd64"]
    assert receiver.store.size(Digest.parse(MULTI.children[0].digest)) is None


# -- volumes ---------------------------------------------------------------------------------------------------------


def volumes(tmp_path: Path, size: int = 150_000) -> list[Path]:
    made = site()
    export = made.export(all=True, volume_size=size)
    assert export.volumes > 3 and any(blob.parts for blob in export.bundle.blobs)
    return [write(tmp_path, data, f"{n}.tar") for n, data in enumerate(made.files(export), 1)]


@pytest.mark.parametrize("order", [1, -1])
def test_volumes_are_taken_in_any_order(tmp_path: Path, order: int) -> None:
    """Discs need no order; a layer larger than a disc is put together again."""
    receiver = Receiver()
    receipt = receiver.run(*volumes(tmp_path)[::order])
    assert receiver.names() == EXPECTED
    assert receiver.serves(OTHER, GHCR)
    assert receipt.read_bytes == receiver.held()


def test_a_missing_volume_is_named_with_its_size(tmp_path: Path) -> None:
    """A person looks for a disc, not for a digest."""
    paths = volumes(tmp_path)
    receiver = Receiver()
    gone = paths.pop(2)
    with pytest.raises(BundleIncomplete, match=rf"volume 3 of {len(paths) + 1} \([0-9.]+ kB\) is missing"):
        receiver.run(*paths)
    assert (receiver.names(), receiver.held()) == ({}, 0)
    receiver.run(*paths, gone)
    assert receiver.names() == EXPECTED
    # What was on the missing disc is held by now, so it is not missing.
    assert receiver.run(*paths).new_blobs == 0


def test_a_bad_disc_is_named(tmp_path: Path) -> None:
    """Of a layer that lies on three discs one is bad; that one is to be copied again."""
    paths = volumes(tmp_path)
    bad = next(path for path in paths[2:] if any(name.endswith("/0002") for name in entries(path.read_bytes())))
    data = bytearray(bad.read_bytes())
    data[-5000] ^= 1
    bad.write_bytes(data)
    receiver = Receiver()
    with pytest.raises(BundleDamaged, match=rf"{bad.name}, at 'pullcache/parts/.*/0002'.*copy that volume again"):
        receiver.run(*paths)
    assert receiver.names() == {}


def test_volumes_of_two_bundles_are_not_taken_for_one(tmp_path: Path, bundle: Path) -> None:
    """Each would be damaged by the other's list."""
    with pytest.raises(BundleError, match="not of one bundle; import one bundle at a time"):
        Receiver().run(volumes(tmp_path)[0], bundle)
