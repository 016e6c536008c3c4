"""C{pullcache verify} and an import into an empty store: one reader, so nothing passes the one and not the other."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.bundle import bundlejson, contents, tar
from appliance.bundle.contents import BUNDLE, SIGNATURE
from appliance.bundle.minisign import SecretKey, TrustPolicy
from appliance.bundle.reader import FORMAT
from appliance.errors import BundleError
from appliance.oci.digest import Digest
from tests.doubles import images
from tests.doubles.exports import NGINX, Site, entries
from tests.doubles.receiver import Receiver
from tests.rooms.cli.runs import Ended, run

# CI asks for enough to keep at it for more than a minute.
# Three properties, each case exported, verified and imported: these many take half a minute in CI.
EXAMPLES = max(150, int(os.environ.get("PULLCACHE_FUZZ_EXAMPLES", "150")) // 30)
RANDOM = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

KEY = SecretKey.generate()
MULTI = images.multi_arch("multi", (40_000, 300))
SBOM = images.artifact(MULTI)
GHCR = ("ghcr.io", "a/b")
OTHER = images.image("other", (60_000, 50_000))

Entries = list[tuple[str, bytes]]


def files_of(signed: bool, volume_size: int | None = None, **more: Any) -> list[bytes]:
    """A bundle of three images, in as many files as it takes."""
    made = Site().hold(MULTI, NGINX, "1.27").hold(SBOM, NGINX).hold(OTHER, GHCR, "v1")
    export = made.export(all=True, volume_size=volume_size, **more)
    if signed:
        export.sign(KEY.sign(export.document, "from site a"))
    return made.files(export)


WHOLE = {signed: files_of(signed)[0] for signed in (True, False)}
VOLUMES = {signed: files_of(signed, 90_000) for signed in (True, False)}


def imported(paths: list[Path], signed: bool) -> str:
    """What an import into an empty store takes it for; nothing when it refuses it, and why on standard output."""
    receiver = Receiver(TrustPolicy((KEY.public,)) if signed else TrustPolicy())
    try:
        receipt = receiver.run(*paths)
    except BundleError as error:
        print(f"import: {error}")
        assert receiver.names() == {}
        return ""
    return receipt.format


def verified(paths: list[Path], signed: bool) -> Ended:
    ended = run("verify", *map(str, paths), *(["--trust", str(KEY.public)] if signed else []))
    print(f"verify: {ended.code} {ended.err}")
    assert ended.code in (0, 1) or "not of one bundle" in ended.err, ended.err
    return ended


def agree(paths: list[Path], signed: bool) -> bool:
    """Whether both pass it; fails when one does and the other does not."""
    taken, ended = imported(paths, signed), verified(paths, signed)
    if taken not in ("", FORMAT):
        # Without a list of contents it is another tool's archive: imported as one, and nothing that could be verified.
        assert (signed, ended.code) == (False, 1) and BUNDLE in ended.err
        return False
    assert bool(taken) == (ended.code == 0)
    return bool(taken)


def written(folder: Path, files: list[bytes]) -> list[Path]:
    paths = [folder / f"{number}.tar" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return paths


def packed(found: Entries) -> bytes:
    return b"".join(tar.header(name, len(data)) + data + tar.padding(len(data)) for name, data in found) + tar.END


def unpacked(data: bytes) -> Entries:
    return list(entries(data).items())


# -- what is done to a bundle ---------------------------------------------------------------------------------------


@st.composite
def values(draw: st.DrawFn) -> Any:
    """Something in the place of a JSON value."""
    plain = st.sampled_from([0, 1, -1, 2**63, "", "x", None, True, [], {}, "full", "increment", MULTI.digest, "../x"])
    return draw(st.one_of(plain, st.integers(0, 10**6), st.text(max_size=8)))


def leaves(document: Any) -> list[tuple[Any, Any]]:
    """Every value of a document, as the list or object it is in and its place there."""
    places = list(document.items() if isinstance(document, dict) else enumerate(document))
    found = [(document, key) for key, _ in places]
    return found + [leaf for _, value in places if isinstance(value, dict | list) for leaf in leaves(value)]


def json_changed(draw: st.DataObject, data: bytes, sealed: bool) -> bytes:
    """A document with one value changed or removed; C{sealed}: with the id that a bundle.json of these values has."""
    document = json.loads(data)
    if not leaves(document):
        return b" " + data
    where, key = draw.draw(st.sampled_from(leaves(document)))
    if draw.draw(st.booleans()):
        where[key] = draw.draw(values())
    else:
        del where[key]

    def encoded() -> bytes:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    if sealed:
        document.pop("id", None)
        document["id"] = f"sha256:{hashlib.sha256(encoded()).hexdigest()}"
    return encoded()


def special(draw: st.DataObject) -> bytes:
    """An entry that is no file, or one with records of pax, as Python's own tarfile writes it."""
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.REGTYPE]
    info = tarfile.TarInfo(draw.draw(st.sampled_from(["link", "index.json", "blobs", "a/b", BUNDLE, "blobs/sha256/x"])))
    info.type = draw.draw(st.sampled_from(kinds))
    info.linkname = "index.json" if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    records = [{}, {"comment": "x"}, {"path": "index.json"}, {"path": "new"}, {"size": "0"}, {"GNU.sparse.major": "1"}]
    info.pax_headers = draw.draw(st.sampled_from(records))
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    return written.getvalue()[: archive.offset]


def changed(draw: st.DataObject, data: bytes, signed: bool) -> bytes:
    """One file of a bundle with something done to it."""
    found = unpacked(data)
    at = draw.draw(st.integers(0, len(found) - 1))
    name, content = found[at]
    what = draw.draw(
        st.sampled_from(["flip", "cut", "drop", "twice", "rename", "move", "add", "special", "json", "sealed", "grow"])
    )
    if what == "flip":
        flipped = bytearray(data)
        flipped[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
        return bytes(flipped)
    if what == "cut":
        return data[: draw.draw(st.integers(0, len(data)))]
    if what == "special":
        head = packed(found[:at])[: -len(tar.END)]
        return head + special(draw) + packed(found[at:])
    if what == "drop":
        del found[at]
    elif what == "twice":
        found.insert(draw.draw(st.integers(0, len(found))), (name, draw.draw(st.sampled_from([content, b"", b"x"]))))
    elif what == "rename":
        others = [*(each for each, _ in found), f"{name}x", f"./{name}", name.upper(), "x", "/x", "../x", SIGNATURE]
        found[at] = (draw.draw(st.sampled_from(others)), content)
    elif what == "move":
        found.insert(draw.draw(st.integers(0, len(found) - 1)), found.pop(at))
    elif what == "add":
        names = ["x", "manifest.json", "index.json", "oci-layout", contents.VOLUME, SIGNATURE, "pullcache/trust/x"]
        blob = contents.blob_name(Digest.of(b"{}"))
        added = (
            draw.draw(st.sampled_from([*names, blob, "blobs/sha256/x"])),
            draw.draw(st.sampled_from([b"{}", b"["])),
        )
        found.insert(draw.draw(st.integers(0, len(found))), added)
    elif what == "grow":
        found[at] = (name, draw.draw(st.sampled_from([content + b"\0", content[:-1], content * 2, b""])))
    else:
        documents = [number for number, (_, text) in enumerate(found) if text[:1] in b"{[" and text]
        # What is signed cannot be sealed anew without the key.
        at = (
            draw.draw(st.sampled_from(documents))
            if what == "json"
            else next(number for number, (each, _) in enumerate(found) if each == BUNDLE)
        )
        found[at] = (found[at][0], json_changed(draw, found[at][1], sealed=what == "sealed" and found[at][0] == BUNDLE))
    return packed(found)


@RANDOM
@given(st.data(), st.booleans())
def test_whatever_is_done_to_a_bundle_verify_says_what_an_import_says(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject, signed: bool
) -> None:
    """Bytes, entries, headers and documents changed at random: both take it, or both refuse it."""
    data = WHOLE[signed]
    for _ in range(draw.draw(st.integers(1, 2))):
        try:
            data = changed(draw, data, signed)
        except (tarfile.TarError, AssertionError, StopIteration, ValueError):
            # What it has become cannot be taken apart once more.
            break
    agree(written(tmp_path_factory.mktemp("changed"), [data]), signed)


@RANDOM
@given(st.data(), st.booleans())
def test_whatever_is_done_to_volumes_verify_says_what_an_import_says(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject, signed: bool
) -> None:
    """Of several, one is changed, left at home, or named twice."""
    files = list(VOLUMES[signed])
    at = draw.draw(st.integers(0, len(files) - 1))
    what = draw.draw(st.sampled_from(["change", "change", "change", "leave", "twice"]))
    if what == "change":
        files[at] = changed(draw, files[at], signed)
    elif what == "leave":
        del files[at]
    else:
        files.append(files[at])
    agree(written(tmp_path_factory.mktemp("changed"), draw.draw(st.permutations(files))), signed)


@RANDOM
@given(st.data(), st.booleans())
def test_whatever_is_done_to_a_folder_verify_says_what_an_import_says(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject, signed: bool
) -> None:
    """Volumes put into one folder, where files can be changed, removed, renamed, added, and replaced by links."""
    folder = tmp_path_factory.mktemp("folder")
    found = {name: data for file in VOLUMES[signed] for name, data in unpacked(file) if name != contents.VOLUME}
    for name, data in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = folder / draw.draw(st.sampled_from(sorted(found)))
    data = path.read_bytes()
    at = draw.draw(st.integers(0, len(data) - 1))
    match draw.draw(
        st.sampled_from(["flip", "cut", "remove", "rename", "add", "symlink", "hardlink", "pipe", "nothing"])
    ):
        case "flip":
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        case "cut":
            path.write_bytes(data[:at])
        case "remove":
            path.unlink()
        case "rename":
            path.rename(path.with_name(draw.draw(st.sampled_from(["x", path.name.upper() + "x", "index.json"]))))
        case "add":
            (path.parent / draw.draw(st.sampled_from(["x", "manifest.json", "oci-layout"]))).write_bytes(b"{}")
        case "symlink":
            target = folder.parent / "elsewhere"
            target.write_bytes(data)
            path.unlink()
            path.symlink_to(target)
        case "hardlink":
            (path.parent / "hard").hardlink_to(path)
        case "pipe":
            os.mkfifo(path.parent / "pipe")
    agree([folder], signed)


# -- what used to pass the one and not the other --------------------------------------------------------------------


def link(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info.tobuf(tarfile.USTAR_FORMAT)


def edited(change: Callable[[dict[str, bytes]], object]) -> bytes:
    found = entries(WHOLE[True])
    change(found)
    return packed(list(found.items()))


TWISTED: dict[str, bytes] = {
    "index.json": edited(lambda found: found.update({"index.json": found["index.json"].replace(b"1.27", b"1.26")})),
    "oci-layout": edited(lambda found: found.update({"oci-layout": b'{"imageLayoutVersion":"9.9.9"}'})),
    "manifest.json": edited(lambda found: found.update({"manifest.json": found["manifest.json"] + b" "})),
    "link": link("blobs/link") + WHOLE[True],
    "blobs/sha256/stranger": edited(lambda found: found.update({"blobs/sha256/stranger": b"x"})),
}


@pytest.mark.parametrize("what", TWISTED)
def test_a_signed_bundle_that_was_changed_beside_its_list_is_refused(tmp_path: Path, what: str) -> None:
    """Its list and its signature are right, and what skopeo or docker would read of it is not."""
    paths = written(tmp_path, [TWISTED[what]])
    assert not agree(paths, True)
    assert what in verified(paths, True).err


def test_a_file_for_other_tools_that_was_added_to_volumes_is_refused(tmp_path: Path) -> None:
    """docker would load from it what was not signed."""
    first, *others = VOLUMES[True]
    docker = entries(WHOLE[True])["manifest.json"]
    paths = written(tmp_path, [packed([*unpacked(first), ("manifest.json", docker)]), *others])
    assert not agree(paths, True)
    assert "manifest.json: it was added" in verified(paths, True).err


def test_a_bundle_as_it_was_made_passes_both(tmp_path: Path) -> None:
    """In one file, in several, signed or not."""
    for signed in (True, False):
        assert agree(written(tmp_path, [WHOLE[signed]]), signed)
        assert agree(written(tmp_path, VOLUMES[signed][::-1]), signed)


def test_a_listed_blob_that_no_image_needs_has_to_be_right_all_the_same(tmp_path: Path) -> None:
    """The list promises its digest; a medium that lost it is a bad one."""
    spare = b"nobody names me"
    found = entries(WHOLE[False])
    listed = bundlejson.decode(found[BUNDLE], "made")
    entry = contents.BlobEntry(digest=str(Digest.of(spare)), size=len(spare), kind="artifact")
    found[BUNDLE] = bundlejson.encode(msgspec.structs.replace(listed, blobs=(*listed.blobs, entry)))
    name = contents.blob_name(Digest.of(spare))
    assert agree(written(tmp_path, [packed([*found.items(), (name, spare)])]), False)
    assert not agree(written(tmp_path, [packed([*found.items(), (name, spare[::-1])])]), False)


def test_where_the_list_is_wrong_about_a_part_the_digest_of_the_blob_decides(tmp_path: Path) -> None:
    """An import takes the blob, since its digest is right, and so does verify; of a wrong one both name the part."""
    made = Site().hold(images.image("large", (230_000,)), GHCR, "v1")
    files = made.files(made.export(all=True, volume_size=100_000))
    listed = bundlejson.decode(unpacked(files[0])[0][1], "made")
    [split] = [blob for blob in listed.blobs if blob.parts]
    part = msgspec.structs.replace(split.parts[1], sha256="0" * 64)
    blobs = [msgspec.structs.replace(split, parts=(split.parts[0], part, *split.parts[2:]))]
    blobs = [blob for blob in listed.blobs if blob is not split] + blobs
    told = bundlejson.encode(msgspec.structs.replace(listed, blobs=tuple(blobs)))
    wrong: list[bytes] = []
    for file in files:
        found = dict(unpacked(file))
        found[BUNDLE] = told
        mark = json.loads(found[contents.VOLUME]) | {"bundle": bundlejson.decode(told, "made").id}
        found[contents.VOLUME] = json.dumps(mark, sort_keys=True, separators=(",", ":")).encode()
        wrong.append(packed(list(found.items())))
    assert agree(written(tmp_path, wrong), False)
    name = contents.part_name(Digest.parse(split.digest), 2)
    at = next(number for number, file in enumerate(files) if name in dict(unpacked(file)))
    cut = dict(unpacked(files[at]))
    files[at] = packed(list((cut | {name: cut[name][::-1]}).items()))
    paths = written(tmp_path, files)
    assert not agree(paths, False)
    assert f"{name!r}: this part" in verified(paths, False).err


def test_an_increment_is_right_and_says_that_it_builds_on_others(tmp_path: Path) -> None:
    """It can be verified before it is carried, and is not taken for something that could be imported alone."""
    have = frozenset(Digest.parse(blob.digest) for part in MULTI.walk() for blob in (part.manifest, *part.blobs))
    [path] = written(tmp_path, files_of(False, have=have))
    ended = verified([path], False)
    assert ended.code == 0 and "it builds on others" in ended.out
    assert imported([path], False) == ""
    requires = json.loads(run("verify", "--json", str(path)).out)["requires"]
    assert {each["digest"] for each in requires} <= set(map(str, have)) and requires


def test_an_increment_whose_list_forgets_what_it_builds_on_is_refused(tmp_path: Path) -> None:
    """Such a list could never be imported: what its images need is nowhere."""
    have = frozenset(Digest.parse(blob.digest) for blob in OTHER.blobs)
    found = entries(files_of(False, have=have)[0])
    listed = bundlejson.decode(found[BUNDLE], "made")
    found[BUNDLE] = bundlejson.encode(msgspec.structs.replace(listed, requires=listed.requires[1:]))
    ended = verified(written(tmp_path, [packed(list(found.items()))]), False)
    assert ended.code == 1 and "neither in it nor held" in ended.err
