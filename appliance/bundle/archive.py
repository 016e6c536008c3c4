"""
An archive on the appliance's own disk: its entries by name, and bytes of an entry on request.

A tar file, plain or inside gzip or zstd, or a folder with the same files. Nothing is ever unpacked to a file, and links
are never followed. Opening reads all headers, so that a truncated or twisted archive is refused before anything is
taken from it. Everything here blocks: call it on a thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from appliance.bundle.tar import MAX_ENTRIES, Entry, Reader
from appliance.bundle.wrapping import Stop, Stream, open_stream
from appliance.errors import BundleDamaged, BundleNotRead, BundleUnreadable

#: Documents of a compressed archive that are remembered while it is read the first time: each, and all together.
_MAX_KEPT = 4 * 1024 * 1024
_MAX_ALL_KEPT = 32 * 1024 * 1024
#: How deep the folders of an archive may be nested.
_MAX_DEPTH = 8

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = _READ | os.O_DIRECTORY | os.O_NOFOLLOW


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


def open_archive(path: Path, stop: Stop, follow_links: bool = True) -> Archive:
    """
    Open a file or a folder and read what it holds.

    @param follow_links: whether C{path} itself may be a link, as for whoever named it; within a folder none may.
    @raise BundleNotRead: the system does not let it be read.
    @raise BundleUnreadable: it is no archive, or is not there.
    @raise BundleDamaged: it is truncated, or made to deceive.
    """
    source = str(path)
    try:
        # A pipe that nobody writes to must not hold the thread.
        fd = os.open(path, _READ if follow_links else _READ | os.O_NOFOLLOW)
    except OSError as error:
        kind = BundleUnreadable if isinstance(error, (FileNotFoundError, NotADirectoryError)) else BundleNotRead
        raise kind(f"{source}: {error.strerror}; check the path, on the appliance, and who may read it") from None
    mode = os.fstat(fd).st_mode
    try:
        if stat.S_ISDIR(mode):
            return FolderArchive(source, fd, stop)
        if stat.S_ISREG(mode):
            return TarArchive(source, fd, stop)
    except OSError as error:
        where = "/".join(filter(None, (source, error.filename)))
        raise BundleNotRead(f"{where}: {error.strerror}; check the medium, and who may read it") from None
    os.close(fd)
    raise BundleUnreadable(f"{source}: is no regular file; copy the archive to one")


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

    def __init__(self, source: str, fd: int, stop: Stop) -> None:
        """@param fd: the open file, which L{close} closes."""
        self.source = source
        self.items: dict[str, Item] = {}
        self._stream: Stream = open_stream(source, fd, stop)
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
            where = f"{self.source}, at {item.name!r}"
            raise BundleDamaged(f"{where}: it is cut off; copy the archive again", truncated=True)
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
    """
    An L{Archive} whose files lie in a folder; those are opened only while they are read.

    Everything is reached from one descriptor of the folder, step by step, and no step follows a link: whoever may write
    to the folder cannot lead the reader out of it, also not while it reads.
    """

    streamed = False

    def __init__(self, source: str, fd: int, stop: Stop) -> None:
        """@param fd: the open folder, which L{close} closes."""
        self.source = source
        self._root = fd
        self._stop = stop
        self._lock = Lock()
        self.items: dict[str, Item] = {}
        others: set[str] = set()
        try:
            for name, status in self._walk(fd, ()):
                if stat.S_ISREG(status.st_mode):
                    self.items[name] = Item(name, status.st_size)
                else:
                    others.add(name)
        except BaseException:
            self.close()
            raise
        self.others = frozenset(others)

    def read(self, item: Item, start: int, size: int) -> bytes:
        """See L{Archive.read}. Raises L{OSError} where a link or something else stands in its place by now."""
        self._stop.check()
        wanted = min(size, item.size - start)
        if wanted <= 0:
            return b""
        with self._lock:
            data = self._pread(item.name, wanted, start)
        if not data:
            raise BundleDamaged(f"{self.source}, at {item.name!r}: it has become shorter; copy the folder again")
        return data

    def close(self) -> None:
        """See L{Archive.close}."""
        with self._lock:
            if self._root >= 0:
                os.close(self._root)
                self._root = -1

    def _pread(self, name: str, size: int, start: int) -> bytes:
        *folders, last = name.split("/")
        fd = os.dup(self._root)
        try:
            for step, flags in (*((each, _FOLDER) for each in folders), (last, _READ | os.O_NOFOLLOW)):
                above, fd = fd, os.open(step, flags, dir_fd=fd)
                os.close(above)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "is no regular file any more", name)
            return os.pread(fd, size, start)
        finally:
            os.close(fd)

    def _walk(self, folder: int, above: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
        """Everything but folders, by name; links are seen as links."""
        found: dict[str, bool] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(self.items) + len(found) >= MAX_ENTRIES:
                    raise BundleDamaged(f"{self.source}: more than {MAX_ENTRIES} files are in it; is it a layout?")
                found[entry.name] = entry.is_dir(follow_symlinks=False)
        for name, is_folder in sorted(found.items()):
            self._stop.check()
            if not is_folder:
                yield "/".join((*above, name)), os.stat(name, dir_fd=folder, follow_symlinks=False)
            elif len(above) < _MAX_DEPTH:
                below = os.open(name, _FOLDER, dir_fd=folder)
                try:
                    yield from self._walk(below, (*above, name))
                finally:
                    os.close(below)
