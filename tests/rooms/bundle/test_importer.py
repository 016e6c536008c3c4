"""Importing bundles: whole, at once, resumed, and never misled."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from appliance.bundle import blobingest, bundlejson, contents, tar
from appliance.bundle.importer import ImportOptions, ImportProgress
from appliance.bundle.minisign import PublicKey, SecretKey
from appliance.bundle.names import Names
from appliance.bundle.trustpolicy import TrustPolicy
from appliance.config import parse
from appliance.errors import (
    BundleConflict,
    BundleDamaged,
    BundleError,
    BundleIncomplete,
    BundleTooNew,
    BundleUnreadable,
    BundleUntrusted,
    BundleUpstreamUnknown,
)
from appliance.oci.digest import Digest
from tests.doubles import archives, images
from tests.doubles.deferreds import result
from tests.doubles.exports import NGINX, Site, entries
from tests.doubles.images import Content
from tests.doubles.receiver import Receiver, upstream_for
from tests.doubles.threads import HeldThreads

MULTI = images.multi_arch("multi", (50_000, 30_000))
OTHER = images.image("other", (900_000, 20_000))
NEWER = images.image("newer")
SBOM = images.artifact(MULTI)
GHCR = ("ghcr.io", "a/b")

# CI asks for enough to keep at it for more than a minute.
EXAMPLES = int(os.environ.get("PULLCACHE_FUZZ_EXAMPLES", "150"))


def site() -> Site:
    return Site().hold(MULTI, NGINX, "1.27").hold(SBOM, NGINX).hold(OTHER, GHCR, "v1")


def write(folder: Path, data: bytes, name: str = "bundle.tar") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def plain() -> bytes:
    """A full bundle of two images and an SBOM."""
    made = site()
    return made.file(made.export(all=True))


@pytest.fixture
def bundle(tmp_path: Path, plain: bytes) -> Path:
    return write(tmp_path, plain)


EXPECTED = {
    "docker.io/library/nginx:1.27": MULTI.digest,
    f"docker.io/library/nginx@{SBOM.digest}": SBOM.digest,
    "ghcr.io/a/b:v1": OTHER.digest,
}


# -- what comes of it -----------------------------------------------------------------------------------------------


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


def test_what_is_imported_is_pinned(bundle: Path) -> None:
    """Nothing else can bring it back, so it stays until somebody says otherwise."""
    receiver = Receiver()
    receipt = receiver.run(bundle)
    repository = result(receiver.repositories.get(*NGINX))
    assert repository.tags["1.27"].pinned == receipt.bundle
    assert repository.pinned == {Digest.parse(SBOM.digest): receipt.bundle}


def test_a_receipt_is_kept_over_a_restart(bundle: Path) -> None:
    """Whoever asks later what came with a bundle is told."""
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


def test_an_upstream_that_is_not_configured_is_refused_with_the_line_that_is_missing(tmp_path: Path) -> None:
    """Nobody could pull what is of it; the line that the message has is all that the configuration needs."""
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


def test_what_allow_and_deny_keep_from_clients_is_told(tmp_path: Path) -> None:
    """It is imported, and nobody could pull it."""
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
    """Volumes that somebody unpacked into one folder are a bundle all the same."""
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
    """Somebody compressed it on the way; nothing is spooled for that."""
    data = gzip.compress(plain, 1) if wrap == "gzip" else zstandard.compress(plain)
    receiver = Receiver()
    receiver.run(write(tmp_path, data))
    assert receiver.names() == EXPECTED


# -- tags -----------------------------------------------------------------------------------------------------------


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


# -- increments -----------------------------------------------------------------------------------------------------


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


# -- volumes --------------------------------------------------------------------------------------------------------


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
    """Not a digest is what somebody looks for, but a disc."""
    paths = volumes(tmp_path)
    receiver = Receiver()
    gone = paths.pop(2)
    with pytest.raises(BundleIncomplete, match=rf"volume 3 of {len(paths) + 1} \([0-9.]+ kB\) is missing"):
        receiver.run(*paths)
    assert (receiver.names(), receiver.held()) == ({}, 0)
    receiver.run(*paths, gone)
    assert receiver.names() == EXPECTED
    # What was on the missing disc is held by now, so nobody misses it.
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


# -- signatures -----------------------------------------------------------------------------------------------------


def signed(tmp_path: Path, key: SecretKey, name: str = "signed.tar") -> Path:
    made = site()
    export = made.export(all=True)
    export.sign(key.sign(export.document, "from site a"))
    return write(tmp_path, made.file(export), name)


def test_the_signature_of_a_trusted_key_is_named_in_the_receipt(tmp_path: Path) -> None:
    """Who vouches for what is served can be looked up later."""
    key = SecretKey.generate()
    receipt = Receiver(TrustPolicy((key.public,))).run(signed(tmp_path, key))
    assert (receipt.signer, receipt.comment, receipt.notes) == (key.public.key_id, "from site a", [])


def test_an_unsigned_bundle_is_refused_where_a_key_is_trusted(bundle: Path) -> None:
    """Else it would be enough to cut the signature off."""
    receiver = Receiver(TrustPolicy((SecretKey.generate().public,)))
    with pytest.raises(BundleUntrusted, match="bundle.tar: it is not signed.*--sign"):
        receiver.run(bundle)
    assert (receiver.names(), receiver.held()) == ({}, 0)


def test_an_unsigned_bundle_is_refused_where_a_signature_is_required(tmp_path: Path, bundle: Path) -> None:
    """And a signed one, while no key is trusted."""
    receiver = Receiver(TrustPolicy(require_signature=True))
    with pytest.raises(BundleUntrusted, match="not signed"):
        receiver.run(bundle)
    with pytest.raises(BundleUntrusted, match="no key is trusted"):
        receiver.run(signed(tmp_path, SecretKey.generate()))


def test_a_foreign_key_is_refused(tmp_path: Path) -> None:
    """A signature by anybody is a signature by nobody."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    with pytest.raises(BundleUntrusted, match=f"signed.tar: .*{theirs.public.key_id}.*not trusted"):
        Receiver(TrustPolicy((ours.public,))).run(signed(tmp_path, theirs))


def test_a_key_given_with_the_import_is_trusted_for_it(tmp_path: Path, bundle: Path) -> None:
    """And makes it as strict as a configured one."""
    key = SecretKey.generate()
    receiver = Receiver()
    assert receiver.run(signed(tmp_path, key), trust=(key.public,)).signer == key.public.key_id
    with pytest.raises(BundleUntrusted, match="not signed"):
        receiver.run(bundle, trust=(key.public,))


def test_a_key_given_with_the_import_chooses_among_the_configured_ones(tmp_path: Path) -> None:
    """Only these: the other configured key is not trusted for this import."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    policy = TrustPolicy((ours.public, theirs.public), require_signature=True)
    path = signed(tmp_path, theirs)
    assert Receiver(policy).run(path, trust=(theirs.public,)).signer == theirs.public.key_id
    receiver = Receiver(policy)
    with pytest.raises(BundleUntrusted, match=f"{theirs.public.key_id}, which is not trusted here"):
        receiver.run(path, trust=(ours.public,))
    assert (receiver.names(), receiver.held()) == ({}, 0)


@pytest.mark.parametrize("require", [True, False])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_key_given_with_the_import_adds_nothing_to_the_configured_ones(
    tmp_path: Path, require: bool, dry_run: bool
) -> None:
    """Who may order an import cannot have a stranger's bundle taken; the message has the line to be configured."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    receiver = Receiver(TrustPolicy((ours.public,), require))
    for keys in ((theirs.public,), (ours.public, theirs.public)):
        with pytest.raises(BundleUntrusted, match="none of those that this appliance trusts") as caught:
            receiver.run(signed(tmp_path, theirs), trust=keys, dry_run=dry_run)
        assert f"bundles: {{trust: [..., {theirs.public}]}}" in str(caught.value)
    assert (receiver.names(), receiver.held()) == ({}, 0)


def test_another_key_that_only_calls_itself_like_a_configured_one_is_not_it(tmp_path: Path) -> None:
    """A key's id is eight bytes that anybody can choose."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    namesake = PublicKey(ours.public.key_id, theirs.public.raw)
    with pytest.raises(BundleUntrusted, match="none of those that this appliance trusts"):
        Receiver(TrustPolicy((ours.public,))).run(signed(tmp_path, theirs), trust=(namesake,))


def test_callers_may_name_any_key_where_the_configuration_says_so(tmp_path: Path) -> None:
    """And then it is the only one: what the configured key signed is not taken for that import."""
    ours, theirs = SecretKey.generate(), SecretKey.generate()
    policy = TrustPolicy((ours.public,), accept_callers_keys=True)
    path = signed(tmp_path, theirs)
    assert Receiver(policy).run(path, trust=(theirs.public,)).signer == theirs.public.key_id
    with pytest.raises(BundleUntrusted):
        Receiver(policy).run(path)
    with pytest.raises(BundleUntrusted):
        Receiver(policy).run(signed(tmp_path, ours, "ours.tar"), trust=(theirs.public,))


def test_a_signature_that_is_required_may_be_by_the_callers_key_where_none_is_configured(
    tmp_path: Path, bundle: Path
) -> None:
    """The caller's keys are the only ones then; what is not signed stays refused."""
    key = SecretKey.generate()
    policy = TrustPolicy(require_signature=True)
    assert Receiver(policy).run(signed(tmp_path, key), trust=(key.public,)).signer == key.public.key_id
    with pytest.raises(BundleUntrusted, match="not signed"):
        Receiver(policy).run(bundle, trust=(key.public,))


def test_a_changed_list_of_contents_is_refused_by_its_signature(tmp_path: Path) -> None:
    """Before anything in it is believed."""
    key = SecretKey.generate()
    data = signed(tmp_path, key).read_bytes().replace(b'"site":"site-a"', b'"site":"site-x"', 1)
    with pytest.raises(BundleUntrusted, match="is wrong"):
        Receiver(TrustPolicy((key.public,))).run(write(tmp_path, data))


def test_another_tools_archive_is_refused_where_a_signature_is_required(tmp_path: Path) -> None:
    """Nobody can have signed it."""
    path = write(tmp_path, archives.tar(archives.skopeo_oci(OTHER, "nginx:1")))
    with pytest.raises(BundleUntrusted, match="is an OCI image layout, which carries no signature"):
        Receiver(TrustPolicy((SecretKey.generate().public,))).run(path)


# -- bad input ------------------------------------------------------------------------------------------------------


def refuse(path: Path, receiver: Receiver | None = None, **options: Any) -> BundleError:
    """The refusal of an import that leaves nothing behind."""
    receiver = receiver or Receiver()
    with pytest.raises(BundleError) as caught:
        receiver.run(path, **options)
    assert receiver.names() == {}
    assert path.name in str(caught.value)
    return caught.value


def test_a_truncated_bundle_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    """At every block boundary, and within blocks; nothing is stored, for all headers are read first."""
    made = Site().hold(images.image("small", (3000,)), NGINX, "1")
    data = made.file(made.export(all=True))
    for length in [*range(0, len(data) - 512, 512), *range(100, len(data) - 1024, 4999)]:
        receiver = Receiver()
        refuse(write(tmp_path, data[:length]), receiver)
        assert receiver.held() == 0


def test_a_flipped_bit_is_refused_or_was_of_no_importance(tmp_path: Path) -> None:
    """In headers, in the list, in blobs, in what fills them up, and in the files for other tools."""
    content = images.image("small", (2000,))
    made = Site().hold(content, NGINX, "1")
    data = made.file(made.export(all=True))
    for position in range(0, len(data), 37):
        changed = bytearray(data)
        changed[position] ^= 0x10
        path = write(tmp_path, bytes(changed))
        receiver = Receiver()
        try:
            receiver.run(path)
        except BundleError as error:
            assert path.name in str(error)
            assert receiver.names() == {}
            for blob in (content.manifest, *content.blobs):
                assert receiver.store.size(Digest.parse(blob.digest)) in (None, len(blob.data))
        else:
            # A blank in place of a leading zero of a header's checksum: the same number.
            assert position % 512 in range(148, 156), f"a changed byte at {position} of {len(data)} was not noticed"
            assert receiver.serves(content, NGINX)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_done_to_a_bundle_nothing_wrong_is_published(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed, cut out and put in anywhere: a refusal that names the file, or the images as they were."""
    content = images.image("small", (2000,))
    made = Site().hold(content, NGINX, "1")
    changed = bytearray(made.file(made.export(all=True)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)))
        stop = data.draw(st.integers(start, min(len(changed), start + 1024)))
        changed[start:stop] = data.draw(st.binary(max_size=64))
    path = write(tmp_path, bytes(changed))
    receiver = Receiver()
    try:
        receiver.run(path)
    except BundleError as error:
        assert path.name in str(error)
        assert receiver.names() == {}
    else:
        assert receiver.names() == {"docker.io/library/nginx:1": content.digest}
        assert receiver.serves(content, NGINX)


def repacked(plain: bytes, change: Any) -> bytes:
    """The bundle with its entries changed."""
    found = entries(plain)
    change(found)
    packed = (tar.header(name, len(data)) + data + tar.padding(len(data)) for name, data in found.items())
    return b"".join(packed) + tar.END


def test_a_blob_that_is_not_listed_is_refused(tmp_path: Path, plain: bytes) -> None:
    """Nothing comes in beside what the signature covers."""
    stranger = images.image("stranger").blobs[0]
    path = write(tmp_path, repacked(plain, lambda found: found.update(archives.blobs(Content(stranger)))))
    assert f"at 'blobs/sha256/{stranger.digest[7:]}': the list of contents does not know it" in str(refuse(path))


def test_a_blob_that_is_listed_and_not_inside_is_named(tmp_path: Path, plain: bytes) -> None:
    """Somebody packed the bundle anew, and not all of it."""
    layer = OTHER.layers[0]
    path = write(tmp_path, repacked(plain, lambda found: found.pop(f"blobs/sha256/{layer.digest[7:]}")))
    error = refuse(path)
    assert isinstance(error, BundleIncomplete) and error.missing == (layer.digest,)


def test_another_blob_of_the_same_size_is_refused_and_not_kept(tmp_path: Path, plain: bytes) -> None:
    """The digest decides."""
    layer = OTHER.layers[0]
    name = f"blobs/sha256/{layer.digest[7:]}"
    assert len(layer.data) > blobingest.SMALL
    path = write(tmp_path, repacked(plain, lambda found: found.update({name: bytes(len(layer.data))})))
    receiver = Receiver()
    error = refuse(path, receiver)
    assert isinstance(error, BundleDamaged) and name in str(error) and "copy the archive again" in str(error)
    assert receiver.store.size(Digest.parse(layer.digest)) is None
    assert receiver.store.unfinished() == []


@pytest.mark.parametrize("key", ["layers", "Layers"])
def test_a_manifest_that_readers_may_differ_in_is_refused(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pull, although an earlier version exported it: its bytes are those of its digest."""
    data = OTHER.manifest.data.replace(b'"layers"', f'"{key}":[],"layers"'.encode(), 1)
    with monkeypatch.context() as earlier:
        earlier.setattr("appliance.oci.manifest.check_keys", lambda _: None)
        twice = replace(OTHER, manifest=images.Blob(OTHER.manifest.media_type, data))
        made = site().hold(twice, NGINX, "twice")
        path = write(tmp_path, made.file(made.export(all=True)))
    receiver = Receiver()
    error = refuse(path, receiver)
    assert isinstance(error, BundleDamaged) and f"'{key}' stands" in str(error)
    assert receiver.held() == 0


def test_a_later_major_version_is_refused_as_such(tmp_path: Path, plain: bytes) -> None:
    """The next step is another one than for a damaged bundle."""
    newer = plain.replace(b"vnd.pullcache.bundle.v1+json", b"vnd.pullcache.bundle.v2+json", 1)
    assert isinstance(refuse(write(tmp_path, newer)), BundleTooNew)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "blobs/../../x"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, plain: bytes, name: str) -> None:
    """Although nothing is ever unpacked: whoever writes such a name is not to be trusted with the rest."""
    path = write(tmp_path, archives.tar([*entries(plain).items(), (name, b"x")]))
    error = refuse(path)
    assert repr(name) in str(error) and "leads out of the archive" in str(error)


def test_a_link_in_a_bundle_is_refused(tmp_path: Path, plain: bytes) -> None:
    """No exporter writes one."""
    path = write(tmp_path, archives.tar(entries(plain), {"blobs/sha256/link": "/etc/passwd"}))
    assert "at 'blobs/sha256/link': a link or device" in str(refuse(path))


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path, plain: bytes) -> None:
    """Two readers would take two different ones."""
    found = entries(plain)
    path = write(tmp_path, archives.tar([*found.items(), (contents.BUNDLE, found[contents.BUNDLE])]))
    assert f"at '{contents.BUNDLE}': it is there twice" in str(refuse(path))


def test_too_many_entries_are_refused(tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million of them would be read for an hour."""
    monkeypatch.setattr(tar.TarReader.__init__, "__defaults__", (5,))
    assert "more than 5 entries" in str(refuse(write(tmp_path, plain)))


def test_a_pipe_does_not_hold_the_appliance(tmp_path: Path) -> None:
    """Nobody may ever write to it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert isinstance(refuse(path), BundleUnreadable)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The path is one of the appliance, which is easily mistaken."""
    assert "No such file" in str(refuse(tmp_path / "absent.tar"))


def test_a_name_given_to_a_bundle_is_refused(bundle: Path) -> None:
    """It has its own."""
    assert "leave --as away" in str(refuse(bundle, as_name="nginx"))


# -- cut and resumed ------------------------------------------------------------------------------------------------


def test_a_layer_that_was_cut_goes_on_where_it_stopped(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over gigabytes that is what an import's end is about."""
    monkeypatch.setattr(blobingest, "PIECE", 100_000)
    whole = Receiver()
    whole.run(bundle)
    receiver = Receiver()
    receiver.disk.break_at(whole.disk.done - 12, dead=True, afterwards=False)
    with pytest.raises(BundleError, match="the store cannot take it: No space left on device; make room"):
        receiver.run(bundle)
    [cut] = receiver.store.unfinished()
    staged = result_size(receiver, cut)
    assert staged > 0
    left = result(receiver.store.inspect(cut))
    assert left.origin.upstream is None and left.origin.size > left.size == staged, "a start cannot tell if it is whole"
    before = receiver.held()
    receiver.disk.mend()
    receiver.start()
    assert receiver.recover() == 0
    receipt = receiver.run(bundle)
    assert receiver.names() == EXPECTED
    assert receipt.read_bytes == whole.held() - before - staged
    assert receiver.progress[-2].done == receiver.progress[-2].total == receipt.new_bytes


def result_size(receiver: Receiver, digest: Digest) -> int:
    async def size() -> int:
        ingest = await receiver.store.ingest(digest)
        ingest.close()
        return int(ingest.size)

    found: int = result(size())
    return found


def test_wrong_bytes_left_by_a_power_cut_are_read_again(bundle: Path) -> None:
    """What was staged need not be what was written; the bundle is right."""
    receiver = Receiver()
    layer = OTHER.layers[0]

    async def stage() -> None:
        ingest = await receiver.store.ingest(Digest.parse(layer.digest))
        await ingest.write([bytes(1000)])
        ingest.close()

    result(stage())
    receiver.run(bundle)
    assert receiver.serves(OTHER, GHCR)


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("afterwards", [True, False])
def test_wherever_it_is_cut_nothing_is_half_published(
    tmp_path: Path, dead: bool, afterwards: bool, logged_errors: list[dict[str, Any]]
) -> None:
    """
    Every write of blobs and documents fails once, before or after it did its work, with or without the process dying;
    after a restart all references are there or none, and a second import ends what was begun.
    """
    before = Site().hold(NEWER, NGINX, "1.27")
    old = write(tmp_path, before.file(before.export(all=True)), "old.tar")
    made = site()
    new = write(tmp_path, made.file(made.export(all=True)), "new.tar")
    started = {"docker.io/library/nginx:1.27": NEWER.digest}
    number = 0
    while True:
        number += 1
        receiver = Receiver()
        receiver.run(old)
        receiver.disk.break_at(number, dead, afterwards)
        told = ""
        try:
            receiver.run(new)
        except (BundleError, OSError) as error:
            told = str(error)
        reached = receiver.disk.done >= number
        receiver.disk.mend()
        seen = receiver.names() if told and not dead else None
        receiver.start()
        receiver.recover()
        assert receiver.names() in (started, EXPECTED), number
        if not told:
            assert receiver.names() == EXPECTED, number
        if seen is not None:
            assert seen == receiver.names() == started, number
        receiver.run(new)
        assert receiver.names() == EXPECTED
        assert receiver.serves(MULTI, NGINX) and receiver.serves(OTHER, GHCR)
        if not reached:
            break
    assert number > 15
    assert all(event["log_failure"].check(OSError) for event in logged_errors)
    logged_errors.clear()


def test_an_import_can_be_cancelled_at_any_moment(bundle: Path) -> None:
    """Nothing is published, and every file is closed."""
    for steps in range(60):
        open_before = len(os.listdir("/proc/self/fd"))
        receiver = Receiver()
        receiver.threads = HeldThreads()
        receiver.start()
        results: list[Any] = []
        task = Deferred.fromCoroutine(receiver.begin([bundle]))
        task.addBoth(results.append)
        for _ in range(steps):
            if receiver.threads.waiting:
                receiver.threads.step()
        ended = bool(results)
        task.cancel()
        while receiver.threads.waiting:
            receiver.threads.step()
        if ended:
            assert receiver.names() == EXPECTED
            break
        results[0].trap(CancelledError)
        assert receiver.names() == {}
        assert len(os.listdir("/proc/self/fd")) == open_before
    else:
        raise AssertionError("it never ended by itself")


def test_the_next_piece_is_read_while_one_is_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that reads and another that writes work at the same time."""
    monkeypatch.setattr(blobingest, "PIECE", 100_000)
    receiver = Receiver()
    receiver.threads = HeldThreads()
    receiver.start()
    overlapped = []
    write_blob = receiver.store.ingest

    def ingest(digest: Digest) -> Any:
        def wrapped(made: Any) -> Any:
            write_before = made.write

            def observed(data: list[bytes]) -> Any:
                overlapped.append(len(receiver.threads.waiting))
                return write_before(data)

            made.write = observed
            return made

        return write_blob(digest).addCallback(wrapped)

    monkeypatch.setattr(receiver.store, "ingest", ingest)
    done: list[Any] = []
    Deferred.fromCoroutine(receiver.begin([bundle])).addBoth(done.append)
    while receiver.threads.waiting:
        receiver.threads.step()
    assert done[0].refs and len(overlapped) >= 9
    assert all(count == 1 for count in overlapped)


def test_progress_counts_what_is_new_up_to_the_whole(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that ends at its end."""
    monkeypatch.setattr(blobingest, "PIECE", 100_000)
    receiver = Receiver()
    receipt = receiver.run(bundle)
    stored = [progress for progress in receiver.progress if progress.stage == "storing"]
    assert [progress.done for progress in stored] == sorted(progress.done for progress in stored)
    assert {progress.total for progress in stored} == {receipt.new_bytes}
    assert receiver.progress[-1].stage == "publishing" and receiver.progress[-1].done == receipt.new_bytes
