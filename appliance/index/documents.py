"""JSON documents as files: C{repositories/<key, one folder a component>}."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock

from twisted.internet.defer import Deferred
from zope.interface import implementer

from appliance.errors import VersionConflict
from appliance.flow.durable import make_folder, write_file
from appliance.index.layout import LAYOUT, furnish
from appliance.interfaces import IDocuments, IThreads

Key = tuple[str, ...]
Keys = list[Key]


@implementer(IDocuments)
class FilesystemDocuments:
    """
    L{IDocuments} in a store this process owns; so versions are counted in memory, from 1 for what was found.

    The document before the last one is kept beside it as C{.<name>.previous}, for a rebuild.
    """

    def __init__(self, root: Path, threads: IThreads, folder: str = "repositories") -> None:
        """
        @param root: the store.
        @param folder: the folder of it that holds these documents.
        """
        self._root = root / folder
        self._blobs = root / "blobs"
        self._threads = threads
        # 0: there is none, or it was set aside.
        self._versions: dict[Key, int] = {}
        self._writing: set[Key] = set()
        self._lock = Lock()

    def read(self, key: Key) -> Deferred[tuple[bytes, int] | None]:
        """See L{IDocuments.read}."""
        return self._threads.call(self._read, key)

    def write(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.write}."""
        return self._threads.call(self._write, key, data, replaces)

    def set_aside(self, key: Key) -> Deferred[str]:
        """See L{IDocuments.set_aside}."""
        return self._threads.call(self._set_aside, key)

    def list(self, prefix: Key, name: str) -> Deferred[Keys]:
        """See L{IDocuments.list}."""
        return self._threads.call(self._list, prefix, name)

    def probe(self) -> Deferred[None]:
        """Fires when the documents can be read; fails with L{OSError} when they cannot."""
        return self._threads.call(os.listdir, self._root).addCallback(lambda _: None)

    def _path(self, key: Key) -> Path:
        return self._root.joinpath(*safe(key))

    def _read(self, key: Key) -> tuple[bytes, int] | None:
        path = self._path(key)
        # Before the bytes: with a write meanwhile the version is too old for them, never too new.
        version = self._versions.get(key, 1)
        if version == 0:
            return None
        try:
            return path.read_bytes(), version
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _write(self, key: Key, data: bytes, replaces: int) -> int:
        path = self._path(key)
        held = self._claim(key, path, replaces)
        try:
            self._replace(path, data, held)
            self._versions[key] = held + 1
        finally:
            self._writing.discard(key)
        return held + 1

    def _claim(self, key: Key, path: Path, replaces: int) -> int:
        with self._lock:
            held = self._versions.setdefault(key, 1 if path.exists() else 0)
            if held != replaces or key in self._writing:
                raise VersionConflict(f"{'/'.join(key)} has version {held}, or the next one, not {replaces}")
            self._writing.add(key)
        return held

    def _replace(self, path: Path, data: bytes, held: int) -> None:
        make_folder(path.parent)
        if path.parent.name == LAYOUT:
            furnish(path.parent, self._blobs)
        if held:
            _keep_previous(path)
        write_file(path, data, path.with_name(f".{path.name}.tmp"))

    def _set_aside(self, key: Key) -> str:
        path = self._path(key)
        number = 1
        while (aside := path.with_name(f".{path.name}.damaged-{number}")).exists() and not aside.samefile(path):
            number += 1
        if not aside.exists():
            # A link: should this process be killed before the document is written anew, the next one finds it damaged
            # again, instead of finding none.
            os.link(path, aside)
        self._versions[key] = 0
        return str(aside)

    def _list(self, prefix: Key, name: str) -> Keys:
        found: Keys = []
        for folder, folders, files in os.walk(self._path(prefix)):
            # A layout's blobs are the whole store's: nothing to look for there.
            folders[:] = sorted(each for each in folders if each != "blobs" or Path(folder).name != LAYOUT)
            if name in files:
                found.append((*Path(folder).relative_to(self._root).parts, name))
        return sorted(found)


def safe(key: Key) -> Key:
    """C{key}, when each component can be a file name. Raises L{ValueError}."""
    # Keys come from names that passed a grammar; this holds should one ever not.
    if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in key):
        raise ValueError(f"{key!r} is no document key")
    return key


def previous(key: Key) -> Key:
    """The key of what C{key} held before its last write."""
    return (*key[:-1], f".{key[-1]}.previous")


def _keep_previous(path: Path) -> None:
    kept = path.with_name(f".{path.name}.previous")
    kept.unlink(missing_ok=True)
    os.link(path, kept)
