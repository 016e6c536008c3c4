"""The disk of the tests forgets what POSIX lets a power cut forget, and nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.flow.disk import fsync_folder, make_folder, write_file, write_new
from tests.doubles.disk import CUTS, GROWING, Call, Cut, Disk, Stopped, lay_out


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk on which a file C{old} and a folder C{there} are durable."""
    root = tmp_path / "disk"
    (root / "there").mkdir(parents=True)
    (root / "old").write_bytes(b"old")
    with Disk(root).mounted() as mounted:
        yield mounted


def files(disk: Disk, cut: Cut, seed: int = 0) -> dict[str, bytes]:
    """What is left of files, by path."""
    return {path: data for path, (kind, _, data, _) in disk.left(cut, seed).items() if kind == "file"}


def test_a_kill_leaves_everything(disk: Disk) -> None:
    """What was done is done, synced or not."""
    write_new(disk.root / "new", b"new", synced=False)
    os.unlink(disk.root / "old")
    assert files(disk, "kill") == {"new": b"new"}


def test_a_name_is_forgotten_until_its_folder_is_synced(disk: Disk) -> None:
    """Also that of a file whose bytes are durable; and a file that was removed is there again."""
    write_new(disk.root / "new", b"new")
    os.unlink(disk.root / "old")
    assert files(disk, "old") == {"old": b"old"}
    fsync_folder(disk.root)
    assert files(disk, "old") == {"new": b"new"}


def test_bytes_are_forgotten_until_the_file_is_synced(disk: Disk) -> None:
    """With a durable name the file holds nothing, zeros or half."""
    write_new(disk.root / "new", b"abcd", synced=False)
    fsync_folder(disk.root)
    left = {cut: files(disk, cut)["new"] for cut in CUTS[:-1]}
    assert left == {"kill": b"abcd", "old": b"", "zeros": bytes(4), "empty": b"", "short": b"ab"}
    fd = os.open(disk.root / "new", os.O_RDWR)
    os.fsync(fd)
    os.pwrite(fd, b"efgh", 4)
    os.close(fd)
    left = {cut: files(disk, cut)["new"] for cut in CUTS[:-1]}
    assert left == {
        "kill": b"abcdefgh",
        "old": b"abcd",
        "zeros": b"abcd" + bytes(4),
        "empty": b"abcd",
        "short": b"abcdef",
    }


def test_a_rename_is_whole_or_not_there(disk: Disk) -> None:
    """Between two folders as well, whichever of them is synced."""
    os.rename(disk.root / "old", disk.root / "there" / "moved")
    assert files(disk, "old") == {"old": b"old"}
    assert {tuple(files(disk, "random", seed)) for seed in range(20)} == {("old",), ("there/moved",)}
    fsync_folder(disk.root / "there")
    assert files(disk, "old") == {"there/moved": b"old"}


def test_a_document_is_the_old_one_or_the_new_one(disk: Disk) -> None:
    """Of what is written as the program does it, no power cut at any call leaves a part."""
    seen: set[bytes] = set()

    def look(_: Call | None = None) -> None:
        for cut in CUTS:
            seen.update(files(disk, cut, seed)["old"] for seed in range(5))

    disk.observe = look
    write_file(disk.root / "old", b"newer", disk.root / "tmp")
    assert seen == {b"old", b"newer"}
    assert files(disk, "old") == {"old": b"newer"}


def test_a_document_written_without_a_sync_is_found_out(disk: Disk) -> None:
    """The same with the fsync left out."""
    write_new(disk.root / "tmp", b"newer", synced=False)
    os.rename(disk.root / "tmp", disk.root / "old")
    fsync_folder(disk.root)
    assert files(disk, "empty")["old"] == b"" and files(disk, "zeros")["old"] == bytes(5)


def test_a_second_name_is_the_same_file(disk: Disk, tmp_path: Path) -> None:
    """A link and a symbolic link are laid out as such."""
    os.link(disk.root / "old", disk.root / "there" / "kept")
    os.symlink("../old", disk.root / "there" / "shortcut")
    left = lay_out(disk.left("kill"), tmp_path / "left")
    assert (left / "old").samefile(left / "there" / "kept") and (left / "there" / "shortcut").is_symlink()
    assert files(disk, "old") == {"old": b"old"}


def test_a_folder_is_forgotten_with_what_is_in_it(disk: Disk) -> None:
    """However well that was synced; made durably, it stays."""
    os.mkdir(disk.root / "gone")
    write_file(disk.root / "gone" / "file", b"x", disk.root / "gone" / "tmp")
    make_folder(disk.root / "stays" / "deep")
    write_file(disk.root / "there" / "file", b"y", disk.root / "there" / "tmp")
    os.mkdir(disk.root / "later")
    assert "stays/deep" in disk.left("old") and "later" not in disk.left("old")
    assert files(disk, "old") == {"old": b"old", "there/file": b"y", "gone/file": b"x"}
    disk.settle()
    assert "later" in disk.left("old")


def test_a_folder_that_was_not_synced_into_its_parent_is_gone(disk: Disk) -> None:
    """Its own sync makes durable what is in it, not that it is there."""
    os.mkdir(disk.root / "gone")
    write_new(disk.root / "gone" / "file", b"x")
    fsync_folder(disk.root / "gone")
    assert "gone" not in disk.left("old") and files(disk, "kill")["gone/file"] == b"x"


def test_the_process_is_stopped_at_a_call_and_does_nothing_afterwards(disk: Disk) -> None:
    """Of a write half is done; cleaning up is refused as well."""
    disk.stop_at = 2
    with pytest.raises(Stopped):
        write_new(disk.root / "new", b"abcd")
    with pytest.raises(Stopped):
        os.unlink(disk.root / "old")
    assert files(disk, "kill") == {"old": b"old", "new": b"ab"}
    assert [call.name for call in disk.calls] == ["open", "write"]


def test_chosen_calls_fail(disk: Disk) -> None:
    """By name and by path, until they do not any more; what is elsewhere is never touched."""
    disk.refuse_all(errno.EIO, "fsync", within="there")
    write_new(disk.root / "new", b"new")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_new(disk.root / "there" / "new", b"new")
    assert not (disk.root / "there" / "new").exists()
    disk.refuse_all(errno.ENOSPC, *GROWING)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_new(disk.root / "there" / "new", b"new")
    write_new(disk.root.parent / "elsewhere", b"new")
    os.unlink(disk.root / "new")
    disk.refuse = None
    write_new(disk.root / "there" / "new", b"new")


def test_a_disk_with_a_clock_says_when_a_file_was_written(tmp_path: Path) -> None:
    """In the folder and in what is left of it; a rename is no writing."""
    (tmp_path / "disk").mkdir()
    now = [1000.0]
    disk = Disk(tmp_path / "disk", lambda: now[0])
    with disk.mounted():
        write_new(disk.root / "new", b"x")
        now[0] = 2000.0
        os.rename(disk.root / "new", disk.root / "renamed")
    assert (disk.root / "renamed").stat().st_mtime == 1000
    assert (lay_out(disk.left("kill"), tmp_path / "left") / "renamed").stat().st_mtime == 1000
