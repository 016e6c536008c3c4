"""
An archive on the appliance's own disk: its entries by name, and bytes of an entry on request.

A tar file, plain or inside gzip or zstd, or a folder with the same files. Nothing is ever unpacked to a file, and links
are never followed. Opening reads all headers, so that a truncated or twisted archive is refused before anything is
taken from it. Everything here blocks: call it on a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from appliance.bundle.tar import MAX_ENTRIES, Entry, Reader
from appliance.bundle.wrapping import Stop, Stream, open_stream
from appliance.errors import BundleDamaged, BundleUnreadable

#: Documents of a compressed archive that are remembered while it is read the first time: each, and all together.
_MAX_KEPT = 4 * 1024 * 1024
_MAX_ALL_KEPT = 32 * 1024 * 1024
#: How deep the folders of an archive may be nested.
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Item:
    """
    A regular file of an archive.

    @ivar size: bytes.
    @ivar start: where its data begins, as an offset in the tar stream; 0 in a folder.
    """

    name: str
    size: int
    start: int = 0


class Archive(Protocol):
    """
    An archive that was opened.

    @ivar source: its path, for messages.
    @ivar items: its regular files by name, in the order in which they lie there.
    @ivar others: names of links, devices and the like, which are never read.
    @ivar streamed: whether going back is slow: it is compressed.
    """

    source: str
    items: dict[str, Item]
    others: frozenset[str]
    streamed: bool

    def read(self, item: Item, start: int, size: int) -> bytes:
        """At most C{size} bytes from offset C{start} of the file; none only at its end. Raises L{BundleDamaged}."""

    def close(self) -> None:
        """Close it, when the read that is under way has ended."""


def open_archive(path: Path, stop: Stop) -> Archive:
    """
    Open a file or a folder and read what it holds.

    @raise BundleUnreadable: it is no archive.
    @raise BundleDamaged: it is truncated, or made to deceive.
    """
    return FolderArchive(path, stop) if path.is_dir() else TarArchive(path, stop)


def whole(archive: Archive, item: Item, limit: int) -> bytes:
    """A small file's bytes. Raises L{BundleDamaged} when it is larger than C{limit} bytes."""
    if item.size > limit:
        raise BundleDamaged(
            f"{archive.source}, at {item.name!r}: {item.size} bytes are too many for it, {limit} are allowed; have the"
            " archive made again"
        )
    pieces: list[bytes] = []
    while piece := archive.read(item, sum(map(len, pieces)), limit):
        pieces.append(piece)
    return b"".join(pieces)


class TarArchive:
    """An L{Archive} in one file."""

    def __init__(self, path: Path, stop: Stop) -> None:
        self.source = str(path)
        self.items: dict[str, Item] = {}
        self._stream: Stream = open_stream(self.source, stop)
        self.streamed = bool(self._stream.wrapping)
        self._kept: dict[str, bytes] = {}
        self._room = _MAX_ALL_KEPT
        self._lock = Lock()
        others: set[str] = set()
        try:
            self._scan(others)
        except BaseException:
            self._stream.close()
            raise
        self.others = frozenset(others)

    def read(self, item: Item, start: int, size: int) -> bytes:
        """See L{Archive.read}."""
        wanted = min(size, item.size - start)
        if wanted <= 0:
            return b""
        if item.name in self._kept:
            return self._kept[item.name][start : start + wanted]
        with self._lock:
            self._stream.seek(item.start + start)
            data = self._stream.read(wanted)
        if not data:
            raise BundleDamaged(f"{self.source}, at {item.name!r}: it is cut off; copy the archive again")
        return data

    def close(self) -> None:
        """See L{Archive.close}."""
        with self._lock:
            self._stream.close()

    def _scan(self, others: set[str]) -> None:
        self._check_format()
        reader = Reader(self._stream.read, self._stream.skip, self.source)
        seen: set[str] = set()
        for entry in reader.entries():
            _admit(self.source, entry, seen)
            if entry.kind == "other":
                others.add(entry.name)
            elif entry.kind == "file":
                self.items[entry.name] = Item(entry.name, entry.size, entry.start)
                if self.streamed and entry.size <= min(_MAX_KEPT, self._room):
                    self._keep(entry, reader)

    def _keep(self, entry: Entry, reader: Reader) -> None:
        """Remember a JSON document, so that the archive need not be unpacked once more for it."""
        data = reader.whole(_MAX_KEPT)
        if data[:1] in b"{[" or entry.name.startswith("pullcache/"):
            self._kept[entry.name] = data
            self._room -= len(data)

    def _check_format(self) -> None:
        head = self._stream.read(512)
        self._stream.seek(0)
        if head[257:262] != b"ustar" and any(head):
            raise BundleUnreadable(
                f"{self.source}: is no tar archive, nor one inside gzip or zstd; export images as a bundle, an OCI"
                " layout or a docker archive"
            )


def _admit(source: str, entry: Entry, seen: set[str]) -> None:
    """Raises L{BundleDamaged} for a name that leads elsewhere, or one that two readers may take for two files."""
    if entry.unsafe:
        raise BundleDamaged(
            f"{source}, at {entry.name!r}: such a name leads out of the archive; do not trust it, and ask who made it"
        )
    if entry.kind != "folder":
        if entry.name in seen:
            raise BundleDamaged(f"{source}, at {entry.name!r}: it is there twice; have the archive made again")
        seen.add(entry.name)


class FolderArchive:
    """An L{Archive} whose files lie in a folder; those are opened only while they are read."""

    streamed = False

    def __init__(self, path: Path, stop: Stop) -> None:
        self.source = str(path)
        self._root = path
        self._stop = stop
        self.items: dict[str, Item] = {}
        others: set[str] = set()
        try:
            for name, status in self._walk(path, ()):
                if stat.S_ISREG(status.st_mode):
                    self.items[name] = Item(name, status.st_size)
                else:
                    others.add(name)
        except OSError as error:
            raise BundleUnreadable(f"{error.filename or path}: {error.strerror}; check who may read it") from None
        self.others = frozenset(others)

    def read(self, item: Item, start: int, size: int) -> bytes:
        """See L{Archive.read}."""
        self._stop.check()
        wanted = min(size, item.size - start)
        if wanted <= 0:
            return b""
        fd = os.open(self._root / item.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            data = os.pread(fd, wanted, start)
        finally:
            os.close(fd)
        if not data:
            raise BundleDamaged(f"{self.source}, at {item.name!r}: it has become shorter; copy the folder again")
        return data

    def close(self) -> None:
        """See L{Archive.close}: nothing is open."""

    def _walk(self, folder: Path, above: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
        """Everything but folders, by name; links are seen as links."""
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            self._stop.check()
            if entry.is_dir(follow_symlinks=False):
                if len(above) < _MAX_DEPTH:
                    yield from self._walk(Path(entry.path), (*above, entry.name))
                continue
            if len(self.items) >= MAX_ENTRIES:
                raise BundleDamaged(f"{self.source}: there are more than {MAX_ENTRIES} files in it; is it a layout?")
            yield "/".join((*above, entry.name)), entry.stat(follow_symlinks=False)
