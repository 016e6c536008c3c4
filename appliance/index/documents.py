"""JSON documents as files: C{repositories/<key, one folder a component>}."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.defer import Deferred
from zope.interface import implementer

from appliance.errors import VersionConflict
from appliance.flow.durable import make_folder, write_file
from appliance.index.layout import LAYOUT, furnish
from appliance.interfaces import IDocuments, IThreads

Key = tuple[str, ...]
Keys = list[Key]

DOCUMENT_LIMIT = 64 * 1024 * 1024


@implementer(IDocuments)
class FilesystemDocuments:
    """
    L{IDocuments} in a store this process owns; so versions are counted in memory, from 1 for what was found.

    The document before the last one is kept beside it as C{.<name>.previous}, for a rebuild.
    """

    def __init__(self, root: Path, threads: IThreads) -> None:
        self._root = root / "repositories"
        self._blobs = root / "blobs"
        self._threads = threads
        self._versions: dict[Key, int] = {}

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

    def _path(self, key: Key) -> Path:
        # Keys come from names that passed a grammar; this holds should one ever not.
        if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in key):
            raise ValueError(f"{key!r} is no document key")
        return self._root.joinpath(*key)

    def _read(self, key: Key) -> tuple[bytes, int] | None:
        try:
            with open(self._path(key), "rb") as file:
                data = file.read(DOCUMENT_LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return data, self._versions.setdefault(key, 1)

    def _write(self, key: Key, data: bytes, replaces: int) -> int:
        path = self._path(key)
        held = self._versions.get(key, 1 if path.exists() else 0)
        if held != replaces:
            raise VersionConflict(f"{'/'.join(key)} has version {held}, not {replaces}")
        make_folder(path.parent)
        if path.parent.name == LAYOUT:
            furnish(path.parent, self._blobs)
        if held:
            _keep_previous(path)
        write_file(path, data, path.with_name(f".{path.name}.tmp"))
        self._versions[key] = held + 1
        return held + 1

    def _set_aside(self, key: Key) -> str:
        path = self._path(key)
        number = 1
        while (aside := path.with_name(f".{path.name}.damaged-{number}")).exists():
            number += 1
        path.rename(aside)
        self._versions.pop(key, None)
        return str(aside)

    def _list(self, prefix: Key, name: str) -> Keys:
        found: Keys = []
        for folder, folders, files in os.walk(self._path(prefix)):
            # A layout's blobs are the whole store's: nothing to look for there.
            folders[:] = sorted(each for each in folders if each != "blobs" or Path(folder).name != LAYOUT)
            if name in files:
                found.append((*Path(folder).relative_to(self._root).parts, name))
        return sorted(found)


def previous(key: Key) -> Key:
    """The key of what C{key} held before its last write."""
    return (*key[:-1], f".{key[-1]}.previous")


def _keep_previous(path: Path) -> None:
    kept = path.with_name(f".{path.name}.previous")
    kept.unlink(missing_ok=True)
    os.link(path, kept)
