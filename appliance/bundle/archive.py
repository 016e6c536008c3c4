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
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NoReturn

from twisted.internet.defer import Deferred

from appliance.bundle.compression import Stop, open_stream
from appliance.bundle.tar import BLOCK, MAX_ENTRIES, TarReader
from appliance.errors import BundleDamaged, BundleError, BundleNotRead, BundleUnreadable
from appliance.interfaces import IThreads

#: Documents of a compressed archive that are remembered while it is read the first time: each, and all together.
MAX_KEPT = 4 * 1024 * 1024
MAX_ALL_KEPT = 32 * 1024 * 1024
#: The most memory that the entries of all archives of one import take, in bytes: what 250,000 blobs need, and half as
#: much again. Names are kept before a signature can be looked at, and long ones cost little in a compressed archive.
MAX_LISTED = 128 * 1024 * 1024
#: What an entry takes beside its name, in bytes.
_ENTRY = 200
#: How deep the folders of an archive may be nested.
_MAX_DEPTH = 8

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = _READ | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Item:
    """
    A regular file of an archive.

    @ivar size: bytes.
    @ivar start: where its data begins, as an offset in the tar stream; 0 in a folder. Of what is sent: its number.
    """

    name: str
    size: int
    start: int = 0


class Archive:
    """
    An archive that was opened; its subclasses say where its bytes are.

    @ivar source: its path, for messages.
    @ivar items: its regular files by name, in the order in which they lie there.
    @ivar others: names of links, devices and the like, which are never read.
    @ivar listed: bytes of memory that its entries take, and C{kept} those of documents that are remembered.
    @cvar can_go_back: whether what was read can be read again.
    """

    kept = 0
    can_go_back = True

    def __init__(self, source: str, beside: Sequence[Archive] = ()) -> None:
        """@param beside: what was opened before for the same import: all of it together has a bound."""
        self.source = source
        self.items: dict[str, Item] = {}
        self.others: set[str] = set()
        self.listed = 0
        self._most_listed = MAX_LISTED - sum(archive.listed for archive in beside)

    def read(self, item: Item, start: int, size: int) -> bytes:
        """At most C{size} bytes from offset C{start} of the file; none only at its end. Raises L{BundleDamaged}."""
        raise NotImplementedError

    def fetch(self, threads: IThreads, item: Item, start: int, size: int) -> Deferred[bytes]:
        """As L{read}, without blocking: on one of C{threads}, or as the bytes arrive."""
        return threads.call(self.read, item, start, size)

    def expect(self, item: Item, start: int) -> None:
        """The file will be fetched from offset C{start} to its end, after what was expected before."""

    def close(self) -> None:
        """Close it, when the read that is under way has ended."""
        raise NotImplementedError

    def whole(self, item: Item, limit: int) -> bytes:
        """A small file's bytes. Raises L{BundleDamaged} when it is larger than C{limit} bytes."""
        if item.size > limit:
            self.refuse(item.name, f"{item.size} bytes are too many for it, {limit} are allowed")
        pieces: list[bytes] = []
        while piece := self.read(item, sum(map(len, pieces)), limit):
            pieces.append(piece)
        return b"".join(pieces)

    def refuse(self, entry: str, why: str) -> NoReturn:
        """Raises L{BundleDamaged}: what wrote the archive made a mistake."""
        raise BundleDamaged(f"{self.source}, at {entry!r}: {why}; have the archive made again")

    def add(self, name: str, item: Item | None) -> None:
        """
        Add a file to what it holds, or with C{None} what is no file; while it is opened.

        @raise BundleDamaged: the name is there already, so that two readers may take it for two things; or there are
            more and longer names than anything honest has.
        """
        if name in self.items or name in self.others:
            self.refuse(name, "it is there twice")
        self.listed += sys.getsizeof(name) + _ENTRY
        if self.listed > self._most_listed:
            raise BundleDamaged(
                f"{self.source}: the names of its entries take more than {MAX_LISTED} bytes together, which nothing"
                " honest needs; ask who made it"
            )
        if item is None:
            self.others.add(name)
        else:
            self.items[name] = item


def open_archive(path: Path, stop: Stop, follow_links: bool = True, beside: Sequence[Archive] = ()) -> Archive:
    """
    Open a file or a folder and read what it holds.

    @param follow_links: whether C{path} itself may be a link, as where a user named it; within a folder none may.
    @param beside: what was opened before for the same import: all of it together has a bound.
    @raise BundleNotRead: the system does not let it be read.
    @raise BundleUnreadable: it is no archive, or is not there.
    @raise BundleDamaged: it is truncated, or made to deceive.
    """
    source = str(path)
    try:
        # A pipe without a writer must not hold the thread.
        fd = os.open(path, _READ if follow_links else _READ | os.O_NOFOLLOW)
    except OSError as error:
        kind = BundleUnreadable if isinstance(error, (FileNotFoundError, NotADirectoryError)) else BundleNotRead
        what = f"{source}: {error.strerror}; check the path, on the appliance, and who may read it"
        raise _unopened(kind(what)) from None
    mode = os.fstat(fd).st_mode
    try:
        if stat.S_ISDIR(mode):
            return FolderArchive(source, fd, stop, beside)
        if stat.S_ISREG(mode):
            return TarArchive(source, fd, stop, beside)
    except OSError as error:
        where = "/".join(filter(None, (source, error.filename)))
        fault = BundleNotRead(f"{where}: {error.strerror}; check the medium, and who may read it")
        raise (_unopened(fault) if isinstance(error, PermissionError) else fault) from None
    os.close(fd)
    raise _unopened(BundleUnreadable(f"{source}: is no regular file; copy the archive to one"))


def _unopened(error: BundleError) -> BundleError:
    error.unopened = True
    return error


class TarArchive(Archive):
    """An L{Archive} in one file."""

    def __init__(self, source: str, fd: int, stop: Stop, beside: Sequence[Archive] = ()) -> None:
        """@param fd: the open file, which L{close} closes."""
        super().__init__(source, beside)
        self._stream = open_stream(source, fd, stop)
        self._documents: dict[str, bytes] = {}
        self._room = MAX_ALL_KEPT - sum(archive.kept for archive in beside)
        self._lock = Lock()
        try:
            self._scan()
        except BaseException:
            self._stream.close()
            raise

    def _scan(self) -> None:
        """Read all headers; of a compressed archive remember the small documents, which need not be unpacked again."""
        check_is_tar(self.source, self._stream.read(BLOCK))
        self._stream.seek(0)
        reader = TarReader(self._stream.read, self._stream.skip, self.source)
        for entry in reader.entries():
            if entry.unsafe:
                raise leads_out(self.source, entry.name)
            if entry.kind == "other":
                self.add(entry.name, None)
            if entry.kind != "file":
                continue
            self.add(entry.name, Item(entry.name, entry.size, entry.start))
            if self._stream.compression and entry.size <= min(MAX_KEPT, self._room - self.kept):
                data = reader.whole(MAX_KEPT)
                if data[:1] in b"{[" or entry.name.startswith("pullcache/"):
                    self._documents[entry.name] = data
                    self.kept += len(data)

    def read(self, item: Item, start: int, size: int) -> bytes:
        wanted = min(size, item.size - start)
        if wanted <= 0:
            return b""
        if item.name in self._documents:
            return self._documents[item.name][start : start + wanted]
        with self._lock:
            self._stream.seek(item.start + start)
            data = self._stream.read(wanted)
        if not data:
            where = f"{self.source}, at {item.name!r}"
            raise BundleDamaged(f"{where}: it is cut off; copy the archive again", truncated=True)
        return data

    def close(self) -> None:
        with self._lock:
            self._stream.close()


def check_is_tar(source: str, head: bytes) -> None:
    """Raises L{BundleUnreadable} where C{head}, the first block of a file, is not that of a tar archive."""
    if head[257:262] != b"ustar" and any(head):
        raise BundleUnreadable(
            f"{source}: is no tar archive, nor one inside gzip or zstd; export images as a bundle, an OCI layout or a"
            " docker archive"
        )


def leads_out(source: str, name: str) -> BundleDamaged:
    """The error for a name that a reader could be led astray by."""
    return BundleDamaged(
        f"{source}, at {name!r}: such a name leads out of the archive; do not trust it, and ask who made it"
    )


class FolderArchive(Archive):
    """
    An L{Archive} whose files lie in a folder; those are opened only while they are read.

    Everything is reached from one descriptor of the folder, step by step, and no step follows a link: a user who may
    write to the folder cannot lead the reader out of it, also not while it reads.
    """

    def __init__(self, source: str, fd: int, stop: Stop, beside: Sequence[Archive] = ()) -> None:
        """@param fd: the open folder, which L{close} closes."""
        super().__init__(source, beside)
        self._root = fd
        self._stop = stop
        self._lock = Lock()
        try:
            for name, status in self._walk(fd, ()):
                self.add(name, Item(name, status.st_size) if stat.S_ISREG(status.st_mode) else None)
        except BaseException:
            self.close()
            raise

    def read(self, item: Item, start: int, size: int) -> bytes:
        """As any archive does. Raises L{OSError} where a link or something else stands in its place by now."""
        self._stop.check()
        wanted = min(size, item.size - start)
        if wanted <= 0:
            return b""
        *folders, last = item.name.split("/")
        with self._lock:
            fd = os.dup(self._root)
            try:
                for step, flags in (*((each, _FOLDER) for each in folders), (last, _READ | os.O_NOFOLLOW)):
                    above, fd = fd, os.open(step, flags, dir_fd=fd)
                    os.close(above)
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise OSError(errno.EINVAL, "is no regular file any more", item.name)
                data = os.pread(fd, wanted, start)
            finally:
                os.close(fd)
        if not data:
            raise BundleDamaged(f"{self.source}, at {item.name!r}: it has become shorter; copy the folder again")
        return data

    def close(self) -> None:
        with self._lock:
            if self._root >= 0:
                os.close(self._root)
                self._root = -1

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
