"""Documents on disk and in memory: the same promises, and what only a disk can break."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import DocumentDamaged, VersionConflict
from appliance.flow.disk import InlineThreads, make_folder, write_file
from appliance.index import documents as documents_module
from appliance.index.documents import FilesystemDocuments, previous
from appliance.index.lists import ReferrerList, ReferrerLists, TagList, TagLists
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import Repositories
from appliance.interfaces import IDocuments
from appliance.oci.digest import Digest
from tests.contracts.documents import KEY, DocumentsContract
from tests.doubles.deferreds import result


class TestDocumentsInMemory(DocumentsContract):
    __test__ = True

    def make(self) -> IDocuments:
        """See the contract."""
        return MemoryDocuments()


class TestDocumentsOnDisk(DocumentsContract):
    __test__ = True

    def make(self) -> IDocuments:
        """See the contract."""
        root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, root)
        return opened(root)


class Crash(BaseException):
    """The process is gone."""


def opened(root: Path) -> FilesystemDocuments:
    make_folder(root / "repositories")
    make_folder(root / "blobs")
    return FilesystemDocuments(root, InlineThreads())


def test_a_new_process_counts_on_from_what_it_finds(tmp_path: Path) -> None:
    """After a restart a document can be replaced, and not be taken for a new one."""
    result(opened(tmp_path).write(KEY, b"one", 0))
    with pytest.raises(VersionConflict):
        result(opened(tmp_path).write(KEY, b"lost", 0))
    documents = opened(tmp_path)
    data, version = result(documents.read(KEY))
    assert data == b"one"
    result(documents.write(KEY, b"two", version))
    assert result(opened(tmp_path).read(KEY))[0] == b"two"


def test_a_repository_folder_is_an_image_layout(tmp_path: Path) -> None:
    """Other tools find the layout's marker and the store's blobs, also when the store was moved."""
    result(opened(tmp_path / "here").write(KEY, b"{}", 0))
    (tmp_path / "here" / "blobs" / "found").write_bytes(b"yes")
    os.rename(tmp_path / "here", tmp_path / "there")
    folder = tmp_path / "there" / "repositories" / Path(*KEY[:-1])
    assert (folder / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'
    assert (folder / "blobs" / "found").read_bytes() == b"yes"
    result(opened(tmp_path / "there").write(KEY, b"{ }", 1))


def test_a_layouts_marker_is_whole_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written as every document is; one that was cut off once is written anew."""
    written: list[str] = []

    def noting(path: Path, data: bytes, temporary: Path) -> None:
        written.append(path.name)
        write_file(path, data, temporary)

    synced: list[Path] = []
    monkeypatch.setattr(documents_module, "write_file", noting)
    monkeypatch.setattr(documents_module, "fsync_folder", synced.append)
    result(opened(tmp_path).write(KEY, b"{}", 0))
    folder = tmp_path / "repositories" / Path(*KEY[:-1])
    assert (written, synced) == (["oci-layout", "index.json"], [folder]), "the link to the blobs is durable too"
    (folder / "oci-layout").write_bytes(b"")
    result(opened(tmp_path).write(KEY, b"{ }", 1))
    assert (folder / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'


def test_an_error_of_the_disk_is_no_damage(tmp_path: Path, logged_errors: list[dict[str, Any]]) -> None:
    """It is reported once, and until it is over; the document stays where it is."""
    documents = opened(tmp_path)
    path = tmp_path / "repositories" / Path(*KEY)
    path.mkdir(parents=True)
    for _ in range(3):
        with pytest.raises(OSError, match="directory"):
            result(documents.read(KEY))
    assert documents.unreadable == {"/".join(KEY): "Is a directory"}
    assert (len(logged_errors), documents.damaged) == (1, [])
    logged_errors.clear()
    path.rmdir()
    path.write_bytes(b"{}")
    assert result(documents.read(KEY)) == (b"{}", 1)
    assert documents.unreadable == {}


def test_what_no_memory_can_hold_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is damaged: a document of ours never becomes so large."""
    documents = opened(tmp_path)
    result(documents.write(KEY, b"{" * 100, 0))
    monkeypatch.setattr(documents_module, "MAX_DOCUMENT_BYTES", 99)
    with pytest.raises(DocumentDamaged, match="100 bytes"):
        result(documents.read(KEY))


def test_the_stores_blobs_are_not_searched_for_documents(tmp_path: Path) -> None:
    """Listing ten repositories does not walk a million blobs; a repository called blobs is one like any other."""
    documents = opened(tmp_path)
    called_blobs = ("docker.io", "blobs", "x", "_layout", "index.json")
    for key in (KEY, called_blobs):
        result(documents.write(key, b"{}", 0))
    (tmp_path / "blobs" / "index.json").write_bytes(b"{}")
    assert result(documents.list((), "index.json")) == sorted([KEY, called_blobs])


def test_a_folder_that_cannot_be_read_makes_no_shorter_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what a repository refers to would be taken for garbage; a file system's own folder is none of ours."""
    documents = opened(tmp_path)
    result(documents.write(KEY, b"{}", 0))
    real = os.scandir

    def failing(path: str) -> Any:
        if path.endswith("library"):
            raise OSError(5, "Input/output error")
        assert not path.endswith("lost+found")
        return real(path)

    (tmp_path / "repositories" / "lost+found").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        with pytest.raises(OSError, match="Input/output"):
            result(documents.list((), "index.json"))
    assert result(documents.list((), "index.json")) == [KEY]


def test_a_crash_at_any_step_leaves_the_old_document_or_the_new(tmp_path: Path) -> None:
    """Never a part, never none; and the next process can write."""
    names = ("open", "write", "fsync", "rename", "link", "unlink", "mkdir", "symlink")
    finished, step = False, 0
    while not finished:
        documents = opened(tmp_path / str(step))
        version = result(documents.write(KEY, b"old", 0))
        version = result(documents.write(KEY, b"old" * 9, version))
        with pytest.MonkeyPatch.context() as patch:
            left = [step]
            for name in names:
                patch.setattr(os, name, _crashing(getattr(os, name), left))
            try:
                result(documents.write(KEY, b"new" * 50, version))
                finished = True
            except Crash:
                pass
        documents = opened(tmp_path / str(step))
        data, version = result(documents.read(KEY))
        assert data in (b"old" * 9, b"new" * 50)
        result(documents.write(KEY, b"later", version))
        step += 1
    assert step > 5


def _crashing(real: Any, left: list[int]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize("call", ["mkdir", "rename", "fsync"])
def test_a_write_that_the_disk_refused_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whether it got as far as the rename or not: the same write with the same version succeeds afterwards."""
    documents = opened(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "no room")

    version = 0
    for data in (b"one", b"two"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            if not (call == "mkdir" and version):
                with pytest.raises(OSError, match="no room"):
                    result(documents.write(KEY, data, version))
        version = result(documents.write(KEY, data, version))
    assert result(documents.read(KEY)) == (b"two", version)


def test_a_write_whose_folder_was_not_synced_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very first document was renamed into place and then the disk failed: later saves still succeed."""
    documents = opened(tmp_path)

    def half_done(path: Path, data: bytes, temporary: Path) -> None:
        write_file(path, data, temporary)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(documents_module, "write_file", half_done)
        with pytest.raises(OSError, match="Input/output"):
            result(documents.write(KEY, b"one", 0))
    assert result(documents.write(KEY, b"one", 0)) == 1


def test_a_crash_before_the_rebuilt_document_is_written_loses_nothing(tmp_path: Path) -> None:
    """The next process finds the damaged document again, instead of none and an empty repository."""
    documents = opened(tmp_path)
    result(documents.write(KEY, b"{torn", 0))
    first = result(documents.set_aside(KEY))
    assert result(documents.read(KEY)) is None
    documents = opened(tmp_path)
    assert result(documents.read(KEY))[0] == b"{torn"
    assert result(documents.set_aside(KEY)) == first, "set aside twice, kept once"
    result(documents.write(KEY, b"whole", 0))
    assert Path(first).read_bytes() == b"{torn"
    assert result(documents.read(KEY)) == (b"whole", 1)
    assert result(documents.read(previous(KEY))) is None


@pytest.mark.parametrize("blocked", [False, True], ids=["gone", "a folder in its place"])
def test_a_document_that_was_removed_by_hand_is_written_anew(tmp_path: Path, blocked: bool) -> None:
    """With the next change, without a restart; what it said before its last write is still there."""
    documents = opened(tmp_path)
    path = tmp_path / "repositories" / Path(*KEY)
    result(documents.write(KEY, b"one", 0))
    result(documents.write(KEY, b"two", 1))
    path.unlink()
    if blocked:
        path.mkdir()
        with pytest.raises(IsADirectoryError):
            result(documents.write(KEY, b"three", 2))
        path.rmdir()
    result(documents.write(KEY, b"three", 2))
    assert path.read_bytes() == b"three"
    assert result(documents.read(previous(KEY)))[0] == b"one"


def test_of_two_writes_at_the_same_time_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two threads too: the loser gets an error, and the winner's bytes are whole."""
    documents = opened(tmp_path)
    inside, go_on = threading.Event(), threading.Event()

    def waiting(path: Path, data: bytes, temporary: Path) -> None:
        inside.set()
        assert go_on.wait(10)
        write_file(path, data, temporary)

    monkeypatch.setattr(documents_module, "write_file", waiting)
    outcome: list[Any] = []
    first = threading.Thread(target=lambda: documents.write(KEY, b"first", 0).addBoth(outcome.append))
    first.start()
    assert inside.wait(10)
    with pytest.raises(VersionConflict):
        result(documents.write(KEY, b"second", 0))
    go_on.set()
    first.join(10)
    assert outcome == [1]
    assert result(documents.read(KEY)) == (b"first", 1)


def test_a_large_document_is_read_whole(tmp_path: Path) -> None:
    """A repository with very many tags is not cut off and taken for damaged."""
    documents = opened(tmp_path)
    size = 65 * 1024 * 1024
    path = tmp_path / "repositories" / Path(*KEY)
    make_folder(path.parent)
    with open(path, "wb") as file:
        file.truncate(size)
    assert len(result(documents.read(KEY))[0]) == size


def test_a_repository_that_holds_nothing_leaves_no_files(tmp_path: Path) -> None:
    """Neither what its upstream listed nor empty folders; a repository below its name stays, and it can come again."""
    documents = opened(tmp_path)
    repositories = Repositories(documents)
    digest = Digest.of(b"manifest")

    def save(name: str, held: bool) -> None:
        repository = result(repositories.get("docker.io", name))
        if held:
            repository.hold(digest, "application/x", 8)
        else:
            repository.drop(digest)
        result(repositories.save(repository))

    def files() -> set[str]:
        found = {path.relative_to(tmp_path / "repositories") for path in (tmp_path / "repositories").rglob("*")}
        return {str(path) for path in found if path.name != "blobs"}

    for name in ("team", "team/app"):
        save(name, True)
        for _ in range(2):
            result(TagLists(documents).save("docker.io", name, TagList(["1"], 1.0)))
            result(ReferrerLists(documents).save("docker.io", name, digest, ReferrerList((), 1.0)))
    save("team", False)
    assert {each for each in files() if not each.startswith("docker.io/team/app")} == {"docker.io", "docker.io/team"}
    assert "docker.io/team/app/_tags.json" in files()
    save("team/app", False)
    assert files() == set()
    save("team/app", True)
    result(TagLists(documents).save("docker.io", "team/app", TagList(["2"], 1.0)))
    assert {"docker.io/team/app/_layout/index.json", "docker.io/team/app/_tags.json"} <= files()


def test_a_document_whose_folder_is_removed_in_that_moment_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last image of a repository goes while another one of it is pulled."""
    documents, make = opened(tmp_path), documents_module.make_folder

    def made(folder: Path) -> None:
        make(folder)
        monkeypatch.setattr(documents_module, "make_folder", make)
        os.rmdir(folder)

    monkeypatch.setattr(documents_module, "make_folder", made)
    assert result(documents.write(("docker.io", "team", "_tags.json"), b"{}", 0)) == 1
    assert (tmp_path / "repositories" / "docker.io" / "team" / "_tags.json").read_bytes() == b"{}"
