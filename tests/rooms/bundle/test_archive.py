"""Opening archives: told apart by content, nothing unpacked, no link followed, everything bounded."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from twisted.internet.defer import CancelledError

from appliance.bundle import compression
from appliance.bundle.archive import Archive, open_archive
from appliance.bundle.compression import Stop
from appliance.errors import BundleDamaged, BundleError, BundleNotRead, BundleUnreadable
from tests.doubles import archives

FILES = {"a": b"first", "folder/b": bytes(range(256)) * 40, "c.json": b'{"c": 1}', "empty": b""}
LIMIT = 1_000_000


def opened(folder: Path, data: bytes) -> Archive:
    path = folder / "an.archive"
    path.write_bytes(data)
    return open_archive(path, Stop())


def unpacked(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


Wrap = Callable[[bytes], bytes]

WRAPPINGS: dict[str, Wrap] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip in members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "zstd": zstandard.compress,
    "zstd in frames": lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]),
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_files_are_read_by_name_in_any_order(tmp_path: Path, wrap: Wrap) -> None:
    """However the archive is wrapped, and from any offset."""
    archive = opened(tmp_path, wrap(archives.tar(FILES)))
    assert list(archive.items) == list(FILES)
    for name in reversed(FILES):
        assert archive.whole(archive.items[name], LIMIT) == FILES[name]
        assert archive.read(archive.items[name], 3, 2) == FILES[name][3:5]
    archive.close()


def test_a_folder_is_an_archive(tmp_path: Path) -> None:
    """An unpacked bundle needs not be packed again."""
    archive = open_archive(unpacked(tmp_path), Stop())
    assert {name: archive.whole(item, LIMIT) for name, item in archive.items.items()} == FILES


def test_links_and_devices_are_seen_and_never_followed(tmp_path: Path) -> None:
    """In a tar as in a folder."""
    archive = opened(tmp_path, archives.tar(FILES, {"link": "/etc/passwd"}))
    assert archive.others == {"link"} and "link" not in archive.items
    folder = unpacked(tmp_path / "folder")
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "folders").symlink_to("/etc")
    found = open_archive(folder, Stop())
    assert found.others == {"link", "folders"}
    assert set(found.items) == set(FILES)


def test_a_link_put_in_a_files_place_is_not_followed(tmp_path: Path) -> None:
    """Between looking at a folder and reading from it."""
    folder = unpacked(tmp_path / "folder")
    archive = open_archive(folder, Stop())
    (folder / "a").unlink()
    (folder / "a").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        archive.read(archive.items["a"], 0, 5)


def moved_outside(folder: Path, name: str) -> Path:
    """What stood at C{name} of the folder now lies beside it, with other bytes of the same length in its files."""
    outside = folder.with_name("outside")
    (folder / name).rename(outside)
    for path in [outside] if outside.is_file() else outside.iterdir():
        path.write_bytes(bytes(len(path.read_bytes())))
    return outside


def test_a_link_put_in_a_folders_place_is_not_followed(tmp_path: Path) -> None:
    """Not at any step: what is written into the folder leads no reader out of it, also while it is read."""
    folder = unpacked(tmp_path / "folder")
    archive = open_archive(folder, Stop())
    (folder / "folder").symlink_to(moved_outside(folder, "folder"))
    with pytest.raises(OSError, match="folder"):
        archive.read(archive.items["folder/b"], 0, 5)
    archive.close()


def test_the_folder_that_was_opened_is_read(tmp_path: Path) -> None:
    """Whatever stands at its path by now."""
    folder = unpacked(tmp_path / "folder")
    archive = open_archive(folder, Stop())
    folder.rename(tmp_path / "renamed")
    folder.symlink_to("/etc")
    assert archive.whole(archive.items["folder/b"], LIMIT) == FILES["folder/b"]
    archive.close()


def test_a_pipe_put_in_a_files_place_holds_no_thread(tmp_path: Path) -> None:
    """Nor does a device: neither is read."""
    folder = unpacked(tmp_path / "folder")
    archive = open_archive(folder, Stop())
    (folder / "a").unlink()
    os.mkfifo(folder / "a")
    with pytest.raises(OSError, match="no regular file any more"):
        archive.read(archive.items["a"], 0, 5)
    archive.close()


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(archives.tar(FILES)), unpacked], ids=["file", "folder"])
def test_a_link_is_followed_only_where_a_caller_named_it(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A person means what it leads to; what lies in an inbox may have been put there to lead elsewhere."""
    make(tmp_path / "there")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there")
    archive = open_archive(link, Stop())
    assert set(archive.items) == set(FILES)
    archive.close()
    with pytest.raises(BundleNotRead, match="symbolic links"):
        open_archive(link, Stop(), follow_links=False)


def test_a_folder_is_closed(tmp_path: Path) -> None:
    """After reading, and when it cannot be opened."""
    folder = unpacked(tmp_path / "folder")
    before = len(os.listdir("/proc/self/fd"))
    archive = open_archive(folder, Stop())
    archive.whole(archive.items["folder/b"], LIMIT)
    archive.close()
    archive.close()
    stopped = Stop()
    stopped.request()
    with pytest.raises(CancelledError):
        open_archive(folder, stopped)
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_as_tar_writes_them_are_the_same_names(tmp_path: Path) -> None:
    """C{tar -C folder .} puts a point before each."""
    archive = opened(tmp_path, archives.tar({f"./{name}": data for name, data in FILES.items()}))
    assert list(archive.items) == list(FILES)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_a_name_that_leads_out_makes_the_archive_untrustworthy(tmp_path: Path, name: str) -> None:
    """Of a bundle or of another tool."""
    with pytest.raises(BundleDamaged, match="an.archive, at .*leads out"):
        opened(tmp_path, archives.tar([*FILES.items(), (name, b"")]))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Also when one of the two is a link."""
    with pytest.raises(BundleDamaged, match="at 'a': it is there twice"):
        opened(tmp_path, archives.tar([*FILES.items(), ("a", b"second")]))
    with pytest.raises(BundleDamaged, match="at 'a': it is there twice"):
        opened(tmp_path, archives.tar(FILES, {"a": "c.json"}))


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """GNU tar's way to write a huge file in a few bytes."""
    member = tarfile.TarInfo("blobs/sha256/sparse")
    member.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(BundleDamaged, match="sparse"):
        opened(tmp_path, member.tobuf(tarfile.GNU_FORMAT) + archives.tar(FILES))


@pytest.mark.parametrize("wrap", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_compressed_archive_that_is_cut_is_refused(tmp_path: Path, wrap: Wrap) -> None:
    """Wherever that is."""
    data = wrap(archives.tar(FILES))
    for length in range(4, len(data) // 2, 9):
        with pytest.raises(BundleDamaged, match=r"an.archive.*cut off"):
            opened(tmp_path, data[:length])


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_what_is_cut_off_is_distinguished_from_what_is_wrong(tmp_path: Path, wrap: Wrap) -> None:
    """A copy of it may still be under way; what was changed stays wrong however long one waits."""
    data = wrap(archives.tar({"a": os.urandom(100_000), "b": os.urandom(100_000)}))
    for length in (len(data) // 3, len(data) // 2):
        with pytest.raises(BundleDamaged) as caught:
            opened(tmp_path, data[:length])
        assert caught.value.truncated
    with pytest.raises(BundleDamaged) as caught:
        opened(tmp_path, wrap(archives.tar([("a", b""), ("a", b"")])))
    assert not caught.value.truncated


@pytest.mark.parametrize("wrap", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_compressed_data_that_was_changed_is_refused_or_decoded(tmp_path: Path, wrap: Wrap) -> None:
    """By name; what it decodes to is checked by digest later."""
    data = wrap(archives.tar(FILES))
    for position in range(2, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 0x55
        try:
            opened(tmp_path, bytes(changed)).close()
        except BundleError as error:
            assert "an.archive" in str(error)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_decompression_bomb_is_refused_early(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that would unpack for hours; the message says what to do if it is none."""
    monkeypatch.setattr(compression, "ALLOWANCE", 8 * 1024**2)
    member = tarfile.TarInfo("blobs/sha256/zeros")
    member.size = 8 * 1024**4
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb")
        if kind == "gzip"
        else zstandard.ZstdCompressor().stream_writer(out, closefd=False) as bomb
    ):
        bomb.write(member.tobuf())
        for _ in range(64):
            bomb.write(bytes(1024**2))
    assert len(out.getvalue()) < 100_000
    with pytest.raises(BundleError, match=f"an.archive: .*decompression bomb.*{kind} -d"):
        opened(tmp_path, out.getvalue())


def test_no_more_than_a_limit_is_ever_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the ratio."""
    monkeypatch.setattr(compression, "MAX_UNPACKED", 4096)
    with pytest.raises(BundleError, match="unpack to"):
        opened(tmp_path, gzip.compress(archives.tar(FILES), 0))


def test_going_back_and_forth_in_a_compressed_archive_has_an_end(tmp_path: Path) -> None:
    """Each time it would be unpacked from its beginning."""
    large = {"a": b"a" * 5_000_000, "b": b"b" * 5_000_000}
    archive = opened(tmp_path, gzip.compress(archives.tar(large), 1))
    with pytest.raises(BundleError, match="too far apart.*gzip -d"):
        for _ in range(40):
            archive.read(archive.items["b"], 0, 10)
            archive.read(archive.items["a"], 0, 10)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut off"),
        (b"hello" * 200, "is no tar archive"),
        (b"\xfd7zXZ\x00" + bytes(600), "xz -d"),
        (b"BZh9" + bytes(600), "bzip2 -d"),
        (b"PK\x03\x04" + bytes(600), "unzip"),
        (gzip.compress(b"hello" * 200), "is no tar archive"),
        (bytes(512), "cut off"),
    ],
)
def test_a_file_that_is_no_archive_is_refused_with_advice(tmp_path: Path, data: bytes, said: str) -> None:
    """Empty, text, or of a compression that is not read here."""
    with pytest.raises((BundleUnreadable, BundleDamaged), match=f"an.archive.*{said}"):
        opened(tmp_path, data)


def test_a_document_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """Its size stands in its header."""
    archive = opened(tmp_path, archives.tar(FILES))
    with pytest.raises(BundleDamaged, match="at 'folder/b': 10240 bytes are too many for it, 100 are allowed"):
        archive.whole(archive.items["folder/b"], 100)


def test_reading_stops_when_the_import_does(tmp_path: Path) -> None:
    """A thread that unpacks for minutes does not outlive it."""
    stop = Stop()
    path = tmp_path / "an.archive"
    path.write_bytes(gzip.compress(archives.tar(FILES)))
    archive = open_archive(path, stop)
    stop.request()
    with pytest.raises(CancelledError):
        archive.read(archive.items["folder/b"], 0, 1)
    with pytest.raises(CancelledError):
        open_archive(path, stop)
    archive.close()
