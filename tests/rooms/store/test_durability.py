"""Old or new, never a part: the order of what is asked of the disk, and a crash at each step of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from appliance.errors import NotHeld
from appliance.flow.disk import InlineThreads
from appliance.interfaces import IIngest, Origin
from appliance.oci.digest import Digest
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership
from tests.doubles.deferreds import result

DATA = b"bytes that are worth keeping" * 99
DIGEST = Digest.of(DATA)
CALLS = ("open", "write", "pwritev", "fsync", "rename", "unlink")


class Crash(BaseException):
    """The process is gone."""


class Disk:
    """Records what is asked of the operating system, and crashes before the step it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, crash_at: int | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self._crash_at = crash_at
        self._names: dict[int, str] = {}
        for name in CALLS:
            monkeypatch.setattr(os, name, self._recording(name, getattr(os, name)))

    def _recording(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(target: Any, *args: Any, **kwargs: Any) -> Any:
            if len(self.calls) == self._crash_at:
                raise Crash
            shown = self._names.get(target, "?") if isinstance(target, int) else _short(target)
            self.calls.append((name, shown if name != "rename" else f"{shown} -> {_short(args[0])}"))
            result = real(target, *args, **kwargs)
            if name == "open":
                self._names[result] = shown
            return result

        return recorded


def _short(path: object) -> str:
    return Path(str(path)).name.replace(DIGEST.encoded, "HEX")


def opened(root: Path) -> FilesystemBlobStore:
    Ownership.claim(root).release()
    return FilesystemBlobStore(root, InlineThreads())


def written(store: FilesystemBlobStore) -> IIngest:
    ingest: IIngest = result(store.ingest(DIGEST))
    result(ingest.note(Origin("docker.io", "library/nginx")))
    result(ingest.write([DATA]))
    return ingest


def test_a_put_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary file, fsync, rename, fsync of the folder: a power cut finds the blob whole or not at all."""
    store = opened(tmp_path)
    disk = Disk(monkeypatch)
    result(store.put(DIGEST, DATA))
    steps = [call for call in disk.calls if call[0] != "write"]
    temporary = "sha256-HEX.1.tmp"
    assert steps == [
        ("open", temporary),
        ("fsync", temporary),
        ("rename", f"{temporary} -> HEX"),
        ("open", "sha256"),
        ("fsync", "sha256"),
    ]


def test_a_commit_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for what came in pieces; its note goes last."""
    ingest = written(opened(tmp_path))
    disk = Disk(monkeypatch)
    result(ingest.commit())
    assert [name for name, _ in disk.calls] == ["fsync", "rename", "open", "fsync", "unlink"]
    assert [shown for _, shown in disk.calls[1:]] == ["sha256-HEX -> HEX", "sha256", "sha256", "sha256-HEX.json"]
    assert not os.listdir(tmp_path / "partial")


def test_a_deletion_is_on_the_disk_when_it_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced behind it, also when another has just removed the blob: that one's may not be done yet."""
    store = opened(tmp_path)
    result(store.put(DIGEST, DATA))
    for removed in ([("unlink", "HEX"), ("unlink", "sha256-HEX")], []):
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            result(store.delete(DIGEST))
        assert disk.calls == [*removed, ("open", "sha256"), ("fsync", "sha256")]


def crash_everywhere(root: Path, prepare: Callable[[FilesystemBlobStore], Any], act: Callable[[Any], Any]) -> int:
    """Do it once for each step, crashing there; return how many steps there are. After each the store is looked at."""
    step = 0
    while True:
        folder = root / str(step)
        store = opened(folder)
        prepared = prepare(store)
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, step)
            try:
                result(act((store, prepared)))
            except Crash:
                crashed = True
            else:
                crashed = False
        _old_or_new(opened(folder))
        if not crashed:
            return step
        step += 1


def _old_or_new(store: FilesystemBlobStore) -> None:
    try:
        assert result(store.read(DIGEST, 10**6)) == DATA
    except NotHeld:
        pass
    left = [name for name in os.listdir(store._partial) if name.endswith(".tmp")]
    assert not left
    ingest = result(store.ingest(DIGEST))
    assert DATA.startswith(result(ingest.reader().read(0, len(DATA) + 1)))
    result(ingest.write([DATA[ingest.size :]]))
    result(ingest.commit())
    assert result(store.read(DIGEST, 10**6)) == DATA
    assert store.unfinished() == []


def test_a_crash_in_a_put_leaves_the_blob_or_nothing(tmp_path: Path) -> None:
    """At whatever step: what is held is whole, nothing is left over, and the next attempt succeeds."""
    assert crash_everywhere(tmp_path, lambda _: None, lambda given: given[0].put(DIGEST, DATA)) >= 5


def test_a_crash_in_a_commit_leaves_the_blob_or_its_bytes(tmp_path: Path) -> None:
    """At whatever step: nothing that was received is fetched again unless it has become a blob."""
    assert crash_everywhere(tmp_path, written, lambda given: given[1].commit()) >= 5


def test_a_crash_while_receiving_leaves_a_beginning(tmp_path: Path) -> None:
    """At whatever step: what is left is a beginning of the blob, and goes on."""

    def receive(given: tuple[FilesystemBlobStore, None]) -> Deferred[None]:
        return written(given[0]).commit()

    assert crash_everywhere(tmp_path, lambda _: None, receive) >= 8


def test_a_crash_in_a_deletion_leaves_the_blob_or_nothing(tmp_path: Path) -> None:
    """At whatever step: what is held is whole, and what is not can be fetched again."""

    def held(store: FilesystemBlobStore) -> None:
        result(store.put(DIGEST, DATA))

    assert crash_everywhere(tmp_path, held, lambda given: given[0].delete(DIGEST)) >= 3


@pytest.mark.parametrize("call", ["open", "fsync", "rename"])
def test_a_disk_that_refuses_a_put_is_reported_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A full disk: the caller gets the error, no rubbish stays, and with room again the same put succeeds."""
    store = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _refuse)
        with pytest.raises(OSError, match="no room"):
            result(store.put(DIGEST, DATA))
    assert not os.listdir(tmp_path / "partial")
    assert store.size(DIGEST) is None and store.total() == 0
    result(store.put(DIGEST, DATA))
    assert store.size(DIGEST) == store.total() == len(DATA)


def _refuse(*_: object, **__: object) -> None:
    raise OSError(28, "no room")
