"""
JSON documents as files: C{repositories/<key, one folder a component>}.

One folder of each repository is an OCI image layout (image-spec, C{image-layout.md}), so that other tools can read what
is held::

    repositories/<upstream>/<repository>/_layout/
        oci-layout    {"imageLayoutVersion": "1.0.0"}
        index.json    an OCI image index: the tags and manifests held (L{appliance.index.repository})
        blobs      -> the store's blobs

A document is replaced in this order: the one before gets a second name, C{.<name>.previous}; the new one is written
under a temporary name and synced; it is renamed; the folder is synced. A document to which bytes are appended is cut to
the length that is known to be good, written and synced; the first time the folder is synced too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Annotated, Generic, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.errors import DocumentDamaged, PullcacheError, VersionConflict
from appliance.flow.disk import fsync_folder, make_folder, write_file
from appliance.flow.singleflight import SingleFlight
from appliance.interfaces import IDocuments, IThreads

LAYOUT = "_layout"
INDEX = "index.json"
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

Key = tuple[str, ...]
Keys = list[Key]
Numbers = list[int]
T = TypeVar("T")

EpochSeconds = Annotated[float, msgspec.Meta(ge=0, lt=253402300800)]
"""Seconds since the epoch that RFC 3339 can write, up to the end of 9999; what says another is damaged."""

MAX_DOCUMENT_BYTES = 1024 * 1024 * 1024
"""The most bytes of a document: reading a larger one would take all memory there is."""

MOST_UNREADABLE = 1000
"""The most documents that are reported as unreadable: of a disk that gives nothing any more that is enough."""

_NUMBER = re.compile("[1-9][0-9]{0,15}")
_ASIDE = re.compile(r"\..+\.damaged-[0-9]+")

_log = Logger()


async def read_document(
    documents: IDocuments, key: Key, decode: Callable[[bytes], T], advice: str = "", threads: IThreads | None = None
) -> tuple[T | None, int]:
    """
    Read a document and decode it. One that cannot be decoded is set aside, and an error in the log names it.

    @param decode: raises L{ValueError}, L{OverflowError}, L{RecursionError} or L{PullcacheError} for bytes that are
        no such document, as C{msgspec} and the parsers of C{appliance.oci} do.
    @param advice: what the log adds: what is lost, or what to do.
    @param threads: where C{decode} is called; C{None}: here.
    @return: what C{decode} gave and the version; C{None} and 0 when there is no such document, or none any more.
    @raise OSError: the disk does not give it, or it cannot be set aside. It is still there: do not replace it.
    """
    try:
        found = await documents.read(key)
        if found is None:
            return None, 0
    except DocumentDamaged as error:
        reason: Exception = error
    else:
        try:
            return decode(found[0]) if threads is None else await threads.call(decode, found[0]), found[1]
        except (ValueError, OverflowError, RecursionError, PullcacheError) as error:
            reason = error
    aside = await documents.set_aside(key)
    _log.error("{document}: {error}; set aside as {aside}" + advice, document="/".join(key), error=reason, aside=aside)
    return None, 0


Encode = Callable[[], bytes | Awaitable[bytes]]
"""Gives a document."""


class StateFile(Generic[T]):
    """
    One JSON document below C{state/} that is held in memory and written now and then; one call of L{write} or L{flush}
    at a time.

    The last seconds of it may be lost without harm: it is read at start, and written within seconds of a change and at
    a stop. It is not written before what an earlier process left was taken up, or set aside.

    @ivar changed: whether L{flush} has something to write; set by the owner of what is written.
    """

    changed = False

    def __init__(
        self,
        documents: IDocuments,
        name: str,
        kind: type[T],
        take_up: Callable[[T], None],
        decode: Callable[[bytes], T] | None = None,
        threads: IThreads | None = None,
    ) -> None:
        """
        @param name: of the file, as in C{usage.json}.
        @param kind: what it holds, for C{msgspec}.
        @param take_up: is given what was written last, once; not called when there is nothing.
        @param decode: in the place of C{msgspec}; see L{read_document}, also for C{threads}.
        """
        self._documents = documents
        self._key = (name,)
        self._decode = decode or msgspec.json.Decoder(kind).decode
        self._threads = threads
        self._take_up = take_up
        self._version: int | None = None
        self._loading: SingleFlight[str, None] = SingleFlight()

    async def load(self) -> None:
        """
        Take up what was written last; one call is enough, more are no error.

        @raise OSError: it cannot be read now.
        """
        if self._version is None:
            await self._loading.run("", self._load)

    async def write(self, encode: Encode) -> bool:
        """
        Replace it; durable on return. Whether it was: not while what is there cannot be read, which the log says.

        @param encode: gives the document as it is to be, at once or later; called when C{take_up} has been.
        @raise OSError: the disk refuses.
        """
        try:
            await self.load()
        except OSError:
            return False
        assert self._version is not None
        data = encode()
        if not isinstance(data, bytes):
            data = await data
        self._version = await self._documents.write(self._key, data, self._version)
        return True

    async def flush(self, encode: Encode) -> None:
        """L{write} it if it L{changed}; what could not be written is, the next time."""
        if not self.changed:
            return
        self.changed, written = False, False
        try:
            written = await self.write(encode)
        finally:
            self.changed = self.changed or not written

    async def _load(self) -> None:
        found, version = await read_document(self._documents, self._key, self._decode, threads=self._threads)
        if found is not None:
            self._take_up(found)
        self._version = version


@implementer(IDocuments)
class FilesystemDocuments:
    """
    L{IDocuments} in a store this process owns; so versions are counted in memory, from 1 for what was found.

    The document before the last one is kept beside it as C{.<name>.previous}, for a rebuild.

    @ivar damaged: see L{IDocuments}; so C{unreadable}.
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
        # Of those that were appended to, how many of their bytes are good.
        self._lengths: dict[Key, int] = {}
        self._writing: set[Key] = set()
        self._lock = Lock()
        self.damaged: list[tuple[str, str]] = []
        self.unreadable: dict[str, str] = {}

    def read(self, key: Key) -> Deferred[tuple[bytes, int] | None]:
        """See L{IDocuments.read}."""
        return self._threads.call(self._read, key).addCallback(self._was_read, key).addErrback(self._not_read, key)

    def write(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.write}."""
        return self._threads.call(self._write, key, data, replaces)

    def append(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.append}."""
        return self._threads.call(self._append, key, data, replaces)

    def journals(self, key: Key) -> Deferred[Numbers]:
        """See L{IDocuments.journals}."""
        return self._threads.call(self._journals, key)

    def remove(self, key: Key) -> Deferred[None]:
        """See L{IDocuments.remove}."""
        return self._threads.call(self._remove, key)

    def set_aside(self, key: Key) -> Deferred[str]:
        """See L{IDocuments.set_aside}."""

        def note(aside: str) -> str:
            self.damaged.append(("/".join(key), aside))
            return aside

        return self._threads.call(self._set_aside, key).addCallback(note)

    def sweep(self, before: float) -> Deferred[tuple[int, int]]:
        """See L{IDocuments.sweep}."""
        return self._threads.call(self._sweep, before)

    def list(self, prefix: Key, name: str) -> Deferred[Keys]:
        """See L{IDocuments.list}."""
        return self._threads.call(self._list, prefix, name)

    def probe(self) -> Deferred[None]:
        """Fires when the documents can be read; fails with L{OSError} when they cannot."""
        return self._threads.call(os.listdir, self._root).addCallback(lambda _: None)

    def _was_read(self, found: tuple[bytes, int] | None, key: Key) -> tuple[bytes, int] | None:
        if self.unreadable:
            self.unreadable.pop("/".join(key), None)
        return found

    def _not_read(self, failure: Failure, key: Key) -> Failure:
        """Report it once, however often the document is read."""
        name = "/".join(key)
        if isinstance(failure.value, OSError) and name not in self.unreadable:
            reason = failure.value.strerror or str(failure.value)
            _log.error(
                "{document} cannot be read: {reason}; it is left as it is, and read again when it is asked for",
                document=name,
                reason=reason,
            )
            if len(self.unreadable) < MOST_UNREADABLE:
                self.unreadable[name] = reason
        return failure

    def _path(self, key: Key) -> Path:
        return self._root.joinpath(*safe(key))

    def _read(self, key: Key) -> tuple[bytes, int] | None:
        path = self._path(key)
        # Before the bytes: with a write meanwhile the version is too old for them, never too new.
        version = self._versions.get(key, 1)
        if version == 0:
            return None
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > MAX_DOCUMENT_BYTES:
                    raise DocumentDamaged(f"{size} bytes; no document has more than {MAX_DOCUMENT_BYTES}")
                return file.read(), version
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _write(self, key: Key, data: bytes, replaces: int) -> int:
        path = self._path(key)
        version = self._begin(key, path, replaces)
        try:
            try:
                self._put(path, data, version)
            except FileNotFoundError:
                # Its folder was empty, and was removed in this moment.
                self._put(path, data, version)
            self._versions[key] = version + 1
            self._lengths.pop(key, None)
        finally:
            self._writing.discard(key)
        return version + 1

    def _put(self, path: Path, data: bytes, version: int) -> None:
        make_folder(path.parent)
        if path.parent.name == LAYOUT:
            create_layout(path.parent, self._blobs)
        # A file that was removed by hand while it was in use is written anew; the one before it stays.
        if version and path.is_file():
            kept = path.with_name(f".{path.name}.previous")
            kept.unlink(missing_ok=True)
            os.link(path, kept)
        write_file(path, data, path.with_name(f".{path.name}.tmp"))

    def _append(self, key: Key, data: bytes, replaces: int) -> int:
        path = self._path(key)
        version = self._begin(key, path, replaces)
        try:
            make_folder(path.parent)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                size = os.fstat(fd).st_size
                length = self._lengths.get(key, size if version else 0)
                if size < length:
                    raise VersionConflict(f"{'/'.join(key)} has {size} bytes, not {length}")
                if size > length:
                    os.ftruncate(fd, length)
                rest = memoryview(data)
                while rest:
                    rest = rest[os.pwrite(fd, rest, length + len(data) - len(rest)) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            if version == 0:
                fsync_folder(path.parent)
            self._versions[key], self._lengths[key] = version + 1, length + len(data)
        finally:
            self._writing.discard(key)
        return version + 1

    def _begin(self, key: Key, path: Path, replaces: int) -> int:
        """Be the one that writes C{key}; the version it has."""
        with self._lock:
            version = self._versions.setdefault(key, 1 if path.exists() else 0)
            if version != replaces or key in self._writing:
                raise VersionConflict(f"{'/'.join(key)} has version {version}, or the next one, not {replaces}")
            self._writing.add(key)
        return version

    def _journals(self, key: Key) -> Numbers:
        path = self._path(key)
        try:
            return journal_numbers(path.name, os.listdir(path.parent))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _remove(self, key: Key) -> None:
        path = self._path(key)
        if path.parent.name == LAYOUT and path.name == INDEX:
            # First, so that a kill leaves the document, which says that nothing is held, and not these for ever.
            self._remove_lists(key[:-2], path.parent.parent)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
        if path.parent.name == LAYOUT and path.name == INDEX:
            # Without it there is no repository. What was set aside stays, and its folder.
            for name in ("oci-layout", "blobs"):
                with suppress(OSError):
                    os.unlink(path.with_name(name))
            folder = path.parent
            while folder != self._root:
                try:
                    os.rmdir(folder)
                except OSError:
                    break
                folder = folder.parent
        self._versions.pop(key, None)
        self._lengths.pop(key, None)

    def _remove_lists(self, place: Key, folder: Path) -> None:
        """What else lies in a repository's folder: no name of a repository below it begins with an underscore."""
        for path in [*folder.glob("_*"), *folder.glob("._*"), *folder.glob("_*/*")]:
            if LAYOUT in path.relative_to(folder).parts or _ASIDE.fullmatch(path.name):
                continue
            with suppress(OSError):
                os.unlink(path)
                self._versions.pop((*place, *path.relative_to(folder).parts), None)
        for path in folder.glob("_*"):
            if path.name != LAYOUT:
                with suppress(OSError):
                    os.rmdir(path)

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

    def _sweep(self, before: float) -> tuple[int, int]:
        count = octets = 0
        for _, folder, files in self._walk(()):
            for path in (f"{folder}/{name}" for name in files if _ASIDE.fullmatch(name)):
                with suppress(FileNotFoundError):
                    found = os.stat(path)
                    # The moment of the link: the document itself may be years old.
                    if found.st_ctime < before:
                        os.unlink(path)
                    else:
                        count, octets = count + 1, octets + found.st_size
        return count, octets

    def _list(self, prefix: Key, name: str) -> Keys:
        return sorted((*key, name) for key, _, files in self._walk(prefix) if name in files)

    def _walk(self, prefix: Key) -> Iterator[tuple[Key, str, Sequence[str]]]:
        """The folders below C{prefix} that documents lie in: their keys, their paths, the names of their files."""
        folders = [(prefix, str(self._path(prefix)))]
        while folders:
            key, folder = folders.pop()
            files = []
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        # A layout's blobs are a link, which is no folder: the whole store's are not walked.
                        if not entry.is_dir(follow_symlinks=False):
                            files.append(entry.name)
                        elif entry.name != "lost+found":
                            folders.append(((*key, entry.name), entry.path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            yield key, folder, files


def safe(key: Key) -> Key:
    """C{key}, when each component can be a file name. Raises L{ValueError}."""
    # Keys come from names that passed a grammar; this holds should one ever not.
    if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in key):
        raise ValueError(f"{key!r} is no document key")
    return key


def previous(key: Key) -> Key:
    """The key of what C{key} held before its last write."""
    return (*key[:-1], f".{key[-1]}.previous")


def journal_of(key: Key, number: int) -> Key:
    """The key of a journal beside C{key}."""
    return (*key[:-1], f".{key[-1]}.journal-{number}")


def journal_numbers(name: str, beside: Iterable[str]) -> list[int]:
    """The numbers of the journals of C{name} among the names of one folder, sorted."""
    beginning = f".{name}.journal-"
    ends = (each.removeprefix(beginning) for each in beside if each.startswith(beginning))
    return sorted(int(end) for end in ends if _NUMBER.fullmatch(end))


def create_layout(folder: Path, blobs: Path) -> None:
    """Make C{folder} an image layout whose blobs are C{blobs}, durably; doing it again is no error."""
    marker = folder / "oci-layout"
    # A power cut may have left it empty.
    if not marker.exists() or marker.stat().st_size != len(OCI_LAYOUT):
        write_file(marker, OCI_LAYOUT, folder / ".oci-layout.tmp")
    link = folder / "blobs"
    if not link.is_symlink():
        # Relative, so that a store can be moved or mounted elsewhere.
        link.symlink_to(os.path.relpath(blobs, folder))
        fsync_folder(folder)
