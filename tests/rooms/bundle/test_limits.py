"""What an archive that was made to do harm may cost: memory and work have bounds, before anything in it is believed."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from appliance.bundle import archive as opening
from appliance.bundle import contents, importplan, layoutarchive, tar
from appliance.bundle.archive import Item, TarArchive, open_archive
from appliance.bundle.compression import Stop
from appliance.bundle.minisign import SecretKey, TrustPolicy
from appliance.errors import BundleDamaged, BundleError, BundleUntrusted
from tests.doubles import archives, hostile, images
from tests.doubles.archives import IMAGE_NAME, SUBJECT
from tests.doubles.exports import NGINX, Site, entries
from tests.doubles.images import Blob, Content, encode
from tests.doubles.receiver import Receiver

MIB = 1024 * 1024
MULTI = images.multi_arch("multi", (5000, 3000))


def write(folder: Path, data: bytes, name: str = "an.archive") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    """What Python allocates meanwhile stays below C{limit} bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


# -- memory ---------------------------------------------------------------------------------------------------------


def test_long_names_do_not_take_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of 4 KiB each, in a small file, before any signature is looked at; C{tests/process} has all of them."""
    monkeypatch.setattr(opening, "MAX_LISTED", 8 * MIB)
    path = hostile.long_names(tmp_path / "an.archive", 5000)
    assert path.stat().st_size < MIB
    with (
        peak_below(opening.MAX_LISTED + 8 * MIB),
        pytest.raises(BundleDamaged, match="an.archive: the names of its entries take more than .* ask who made it"),
    ):
        open_archive(path, Stop())


def test_as_many_blobs_as_may_be_are_no_long_names() -> None:
    """A bundle at its limit of entries, every one of them a part of a layer with a long digest."""
    listing = opening.Archive("a.tar")
    for number in range(tar.MAX_ENTRIES):
        name = f"pullcache/parts/sha512/{number:0128x}/0001"
        listing.add(name, Item(name, 1))
    assert len(listing.items) == tar.MAX_ENTRIES


def test_all_volumes_together_have_one_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand discs are one import."""
    made = Site().hold(MULTI, NGINX, "1")
    volumes = made.files(made.export(all=True, volume_size=100_000))
    paths = [write(tmp_path, data, f"{n}.tar") for n, data in enumerate(volumes)]
    Receiver().run(*paths)
    monkeypatch.setattr(opening, "MAX_LISTED", open_archive(paths[0], Stop()).listed + 100)
    first = open_archive(paths[0], Stop())
    with pytest.raises(BundleDamaged, match="the names of its entries"):
        open_archive(paths[0], Stop(), beside=[first])


def test_extended_headers_have_a_bound_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is small enough, and there would be a quarter of a million."""
    monkeypatch.setattr(tar, "MAX_ALL_PAX", 5000)
    path = hostile.long_names(tmp_path / "an.archive", 3)
    with pytest.raises(BundleDamaged, match="extended headers have more than 5000 bytes together"):
        open_archive(path, Stop())


def test_a_folder_has_the_same_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it was filled."""
    monkeypatch.setattr(opening, "MAX_LISTED", 3000)
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(b"")
    with pytest.raises(BundleDamaged, match="the names of its entries"):
        open_archive(tmp_path, Stop())


def document(**changes: Any) -> bytes:
    """C{bundle.json} of a bundle, with other fields."""
    made = Site().hold(MULTI, NGINX, "1")
    fields = json.loads(made.export(all=True).document) | changes
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


DOCUMENTS: dict[str, Callable[[], dict[str, bytes]]] = {
    "labels": lambda: {contents.BUNDLE: document(labels={f"{number:x}": "" for number in range(200_000)})},
    "platforms": lambda: {
        contents.BUNDLE: document(base={"from": "bundles", "ids": [], "unknown": []}, requires=[{}] * 5_000_000)
    },
    "index": lambda: {
        contents.INDEX: b'{"manifests":[{"digest":"","size":0,"platform":{"os":[%b[]]}}]}' % (b"[]," * 5_000_000)
    },
    "docker": lambda: {contents.MANIFEST: b'[{"Config":"c","RepoTags":[%b"a"]}]' % (b'"a",' * 4_000_000)},
}


@pytest.mark.parametrize("make", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_documents_of_many_small_values_are_not_made_objects_of(tmp_path: Path, make: Any) -> None:
    """Three bytes of JSON become fifty and more of memory; compressed, they are nothing."""
    data = archives.tar(make())
    path = write(tmp_path, zstandard.compress(data))
    assert path.stat().st_size < 5 * MIB
    size = len(data)
    del data
    with peak_below(3 * size + 32 * MIB), pytest.raises(BundleError, match="values are too many|labels"):
        Receiver().run(path)


# -- work -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each entry of any archive was read from its beginning."""
    found: Counter[str] = Counter()
    read = TarArchive.read

    def counted(self: TarArchive, item: Item, start: int, size: int) -> bytes:
        found[item.name] += start == 0
        return read(self, item, start, size)

    monkeypatch.setattr(TarArchive, "read", counted)
    return found


@pytest.mark.parametrize(
    "files",
    [archives.layout([(MULTI, {IMAGE_NAME: "nginx:1"})]), archives.docker_save((MULTI.children[0], ["nginx:1"]))[0]],
    ids=["layout", "docker"],
)
def test_nothing_is_read_of_what_cannot_have_been_signed(
    tmp_path: Path, files: archives.Files, reads: Counter[str]
) -> None:
    """Where a signature is demanded, the policy is asked first."""
    receiver = Receiver(TrustPolicy((SecretKey.generate().public,)))
    with pytest.raises(BundleUntrusted, match="carries no signature"):
        receiver.run(write(tmp_path, archives.tar(files)))
    assert reads == {}


def shared(names: int, referrers: bool = True) -> archives.Files:
    """A layout whose images are indexes that all have the same index beneath them, each under several names."""
    inner = encode({"schemaVersion": 2, "mediaType": images.OCI.index, "manifests": [MULTI.manifest.descriptor()]})
    middle = Content(Blob(images.OCI.index, inner), children=(MULTI,))
    roots = []
    for number in range(names):
        index = {
            "schemaVersion": 2,
            "mediaType": images.OCI.index,
            "manifests": [middle.manifest.descriptor()],
            "annotations": {"number": str(number)},
        }
        roots.append(Content(Blob(images.OCI.index, encode(index)), children=(middle,)))
    named = [(root, {IMAGE_NAME: f"nginx:{n}.{tag}"}) for n, root in enumerate(roots) for tag in range(3)]
    sbom = images.artifact(MULTI)
    return archives.layout([*named, *([(sbom, {SUBJECT: MULTI.digest})] if referrers else [])])


def test_a_graph_is_read_once_and_not_for_each_name(tmp_path: Path, reads: Counter[str]) -> None:
    """Once to find the names, once to see what is new, once to store it; not for each of ninety names."""
    receiver = Receiver()
    receiver.run(write(tmp_path, archives.tar(shared(30))))
    assert len([name for name in receiver.names() if ":" in name.rpartition("/")[2] and "@" not in name]) == 90
    assert f"docker.io/library/nginx@{images.artifact(MULTI).digest}" in receiver.names()
    blobs = [count for name, count in reads.items() if name.startswith("blobs/")]
    assert blobs and max(blobs) <= 3


@pytest.mark.parametrize(
    ("module", "limit", "value", "said"),
    [
        (layoutarchive, "MAX_LINKS", 10, "name more than 10 manifests"),
        (layoutarchive, "MAX_STEPS", 100, "walked for hours"),
        (layoutarchive, "MAX_REFS", 31, "names"),
        (importplan, "MAX_PIECES", 100, "which nothing honest needs"),
        (importplan, "MAX_BENEATH", 5, "which nothing honest needs"),
        (importplan, "MAX_DOCUMENTS", 500, "bytes of manifests"),
    ],
)
def test_work_and_memory_have_bounds_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, limit: str, value: int, said: str
) -> None:
    """Small indexes that share large ones would else be walked for hours; nothing of it is published."""
    monkeypatch.setattr(module, limit, value)
    receiver = Receiver()
    with pytest.raises(BundleDamaged, match=f"an.archive.*{said}"):
        receiver.run(write(tmp_path, archives.tar(shared(30))))
    assert (receiver.names(), receiver.held()) == ({}, 0)


def test_a_configuration_is_read_once_for_all_images_that_share_it(tmp_path: Path, reads: Counter[str]) -> None:
    """A docker archive may name it a hundred thousand times."""
    image = MULTI.children[0]
    files, _ = archives.docker_save((image, ["nginx:1"]))
    [entry] = json.loads(files["manifest.json"])
    files["manifest.json"] = archives.encode_any([entry | {"RepoTags": [f"nginx:{number}"]} for number in range(50)])
    receiver = Receiver()
    receiver.run(write(tmp_path, archives.tar(files)))
    assert len(receiver.names()) == 50
    assert reads[entry["Config"]] <= 3


def test_volumes_are_compared_one_by_one(tmp_path: Path) -> None:
    """Each repeats the list of contents, which may have 64 MiB: two of them are in memory, not a thousand."""
    made = Site().hold(MULTI, NGINX, "1")
    export = made.export(all=True, volume_size=100_000, labels={"text": "x" * 1000})
    found = entries(made.file(export))
    document = found[contents.BUNDLE] + b" " * 4 * MIB
    paths = [
        write(tmp_path, archives.tar({**found, contents.BUNDLE: document, f"{n}": b""}), f"{n}.tar") for n in range(20)
    ]
    with peak_below(32 * MIB), pytest.raises(BundleDamaged):
        Receiver().run(*paths)


def test_names_of_a_docker_archive_are_counted_before_one_is_read(tmp_path: Path) -> None:
    """Each takes more memory once it is read than it takes in the archive, and says nothing before it is known."""
    names = ["no name!", *(f"a/b:{number}" for number in range(100_000))]
    files, _ = archives.docker_save((images.image("named"), names))
    (tmp_path / "a.tar").write_bytes(archives.tar(files))
    with pytest.raises(BundleDamaged, match="1 images by 100001 names; 100000 are allowed"):
        Receiver().run(tmp_path / "a.tar")
