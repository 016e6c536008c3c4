"""
A tar archive that passes by once, from its beginning to its end, plain or inside gzip or zstd.

The list of contents of a bundle stands at its beginning, so what it holds is known before the first blob has come. Of
what other tools write nothing is known before the end, for many of them put it there: what has its digest for a name is
handed on while it passes.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from copy import copy

from appliance.bundle.archive import MAX_ALL_KEPT, MAX_KEPT, Item, check_is_tar, leads_out
from appliance.bundle.archivecontents import BlobFile, BlobSource
from appliance.bundle.bundlejson import decode, decode_mark
from appliance.bundle.compression import Unpacker
from appliance.bundle.contents import (
    BUNDLE,
    INDEX,
    MANIFEST,
    MAX_BUNDLE_BYTES,
    MAX_INDEX_BYTES,
    VOLUME,
    parse_name,
)
from appliance.bundle.reader import entries_of
from appliance.bundle.sentarchive import Passage, SentArchive, passed
from appliance.bundle.tar import BLOCK, TarEntry, TarReader
from appliance.errors import BundleError
from appliance.flow.arrival import Arrival
from appliance.interfaces import IThreads
from appliance.oci.digest import Digest

#: Bytes that are looked at together: few enough that what they unpack to has room in memory.
_PIECE = 64 * 1024
#: How much of each entry is kept, to tell what it is: how its compression begins.
_BEGINNING = 64
#: The names that docker archives have for what is called by its digest: podman's, skopeo's, crane's.
_DIGEST_NAME = re.compile(r"(?:sha256:)?([0-9a-f]{64})(?:\.(?:tar|tar\.gz|tar\.zst|json))?")


class _Wait(Exception):
    """More bytes have to come first."""


class TarPassage(Passage):
    """
    See L{Passage}; what passes is what lies in the archive.

    @ivar archive: the archive, as far as it is known.
    """

    def __init__(self, arrival: Arrival, threads: IThreads, source: str) -> None:
        super().__init__(arrival, lambda expected: None)
        self._threads = threads
        self._source = source
        self._unpacker: Unpacker | None = None
        self._packed = b""
        self._ended = False
        # What was unpacked, and how much of it the reader has taken.
        self._buffer = bytearray()
        self._taken = 0
        self._reader = TarReader(self._take, self._skip, source)
        # What passes: its bytes that were read ahead, and the offset that comes next.
        self._item: Item | None = None
        self._front = b""
        self._at = 0
        # Names that have passed, whether all that is to come is known, and whether the end has come.
        self._passed: set[str] = set()
        self._is_listed = self._is_over = False
        self.archive = SentArchive(source, self, ())

    async def begin(self) -> bool:
        """
        Read up to the first entry that is no document.

        @return: whether it is a bundle: then L{archive} has all that is to come.
        @raise BundleError: it is no archive, or damaged.
        """
        while len(self._buffer) < BLOCK and await self._more():
            pass
        check_is_tar(self._source, bytes(self._buffer[:BLOCK]))
        items = self.archive.items
        listed: tuple[dict[str, int], set[str]] | None = None
        while (item := await self._next()) is not None:
            if parse_name(item.name) is not None:
                if BUNDLE not in items:
                    return False
                if listed is None:
                    listed = await self._threads.call(self._listed)
                if item.name not in listed[1]:
                    break
                await self._keep(item, MAX_KEPT)
            elif item.name.startswith("pullcache/"):
                await self._keep(item, MAX_BUNDLE_BYTES)
            elif not await self._keep_document(item) and BUNDLE not in items:
                return False
        if BUNDLE not in items:
            return False
        if listed is None:
            listed = await self._threads.call(self._listed)
        for name, size in listed[0].items():
            if name not in items:
                self.archive.add(name, Item(name, size, len(items)))
        self._is_listed = True
        return True

    async def blobs(self) -> AsyncIterator[BlobSource]:
        """
        Read to the end what another tool wrote: the entries that have their digest for a name, each to be stored
        before the next one is asked for. Documents are kept in L{archive}, and how everything else begins.

        @raise BundleError: something of size has another name, so that nobody knows yet what it is.
        """
        item = self._item or await self._next()
        while item is not None:
            if item.size > MAX_KEPT or not await self._keep_document(item):
                digest = _digest_of(item.name)
                if digest is None and item.size > MAX_KEPT:
                    raise BundleError(
                        f"{self._source}, at {item.name!r}: what this is stands behind it, and it is not called by its"
                        " digest; send the archive with pullcache import, which sends the end first"
                    )
                if item.name not in self.archive.beginnings:
                    self.archive.keep(item.name, self._front[:_BEGINNING])
                if digest is not None:
                    yield BlobSource(digest, item.size, (BlobFile(self.archive, item),))
            item = await self._next()

    def expect(self, archive: SentArchive, item: Item, start: int) -> None:
        """See L{Passage.expect}; the sender is not asked, all comes in any case."""

    async def read(self, archive: SentArchive, item: Item, start: int, size: int) -> bytes:
        """See L{Passage.read}. Raises L{BundleDamaged} where what passes is not what the bundle lists."""
        while self._item is None or self._item.name != item.name:
            if item.name in self._passed:
                raise passed(archive, item)
            if await self._next() is None:
                archive.refuse(item.name, "it is listed and is not there")
        if start < self._at:
            raise passed(archive, item)
        while self._at < start:
            await self._data(start - self._at)
        return await self._data(size)

    # -- documents --------------------------------------------------------------------------------------------------

    async def _keep_document(self, item: Item) -> bool:
        """Keep a small entry that is JSON; whether it was one, or is empty."""
        if item.size > (MAX_INDEX_BYTES if item.name in (INDEX, MANIFEST) else MAX_KEPT):
            return False
        if not self._front.lstrip().startswith((b"{", b"[")):
            return not item.size
        await self._keep(item, MAX_INDEX_BYTES)
        return True

    async def _keep(self, item: Item, limit: int) -> None:
        if item.size > limit:
            self.archive.refuse(item.name, f"{item.size} bytes are too many for it, {limit} are allowed")
        if self.archive.kept + item.size > MAX_BUNDLE_BYTES + MAX_ALL_KEPT:
            raise BundleError(
                f"{self._source}: it has too many manifests to be kept in memory; have the images exported into several"
                " archives"
            )
        pieces = []
        while piece := await self._data(item.size):
            pieces.append(piece)
        self.archive.keep(item.name, b"".join(pieces))

    def _listed(self) -> tuple[dict[str, int], set[str]]:
        """What the bundle's list has in this volume, and which of it are manifests and configurations."""
        items = self.archive.items
        bundle = decode(self.archive.whole(items[BUNDLE], MAX_BUNDLE_BYTES), self._source)
        mark = items.get(VOLUME)
        number = 1 if mark is None else decode_mark(self.archive.whole(mark, MAX_KEPT), self._source).n
        found = [(name, size, blob) for blob in bundle.blobs for name, size, n in entries_of(blob) if n == number]
        small = {name for name, size, blob in found if blob.is_document and size <= MAX_KEPT}
        return {name: size for name, size, _ in found}, small

    # -- bytes ------------------------------------------------------------------------------------------------------

    async def _next(self) -> Item | None:
        """The next file, what is left of the one before passed over; C{None} at the end."""
        while self._item is not None and await self._data(_PIECE):
            pass
        self._item = None
        while not self._is_over:
            entry = await self._step()
            if entry is None:
                self._is_over = True
                break
            if entry.unsafe:
                raise leads_out(self._source, entry.name)
            item = self._entered(entry)
            if item is None:
                continue
            self._item, self._at, self._front = item, 0, b""
            front = b""
            while len(front) < _BEGINNING and (data := await self._data(_BEGINNING - len(front))):
                front += data
            self._front, self._at = front, 0
            return item
        return None

    def _entered(self, entry: TarEntry) -> Item | None:
        """The file that an entry is, noted; C{None} for what is none or of no concern. Raises L{BundleDamaged}."""
        if entry.name in self._passed:
            self.archive.refuse(entry.name, "it is there twice")
        if entry.kind != "file":
            if entry.kind == "other":
                self._passed.add(entry.name)
                self.archive.add(entry.name, None)
                if self._is_listed:
                    self.archive.refuse(entry.name, "a link or device, which no bundle holds; do not trust it")
            return None
        self._passed.add(entry.name)
        item = self.archive.items.get(entry.name)
        if item is None:
            if not self._is_listed:
                item = Item(entry.name, entry.size, len(self.archive.items))
                self.archive.add(entry.name, item)
            elif parse_name(entry.name) is not None:
                self.archive.refuse(entry.name, "the list of contents does not know it; have it exported again")
        elif item.size != entry.size:
            self.archive.refuse(entry.name, f"{entry.size} bytes where {item.size} are listed")
        return item

    async def _data(self, most: int) -> bytes:
        """Some of the next bytes of what passes, none at its end."""
        if self._front:
            data, self._front = self._front[:most], self._front[most:]
            self._at += len(data)
            return data
        while True:
            try:
                self._taken = 0
                data = self._reader.data(most)
            except _Wait:
                await self._more()
            else:
                del self._buffer[: self._taken]
                self._at += len(data)
                return data

    async def _step(self) -> TarEntry | None:
        """The next header; what there is of it is read again when more has come."""
        while True:
            before = copy(self._reader)
            try:
                self._taken = 0
                entry = self._reader.next()
            except _Wait:
                self._reader = before
                await self._more()
            else:
                del self._buffer[: self._taken]
                return entry

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[self._taken : self._taken + size])
        if not data and not self._ended:
            raise _Wait
        self._taken += len(data)
        return data

    def _skip(self, size: int) -> None:
        while size and (data := self._take(size)):
            size -= len(data)

    async def _more(self) -> bool:
        """Wait for more; C{False} at the end."""
        if not self._packed:
            self._packed = await self._arrival.read(_PIECE)
            while self._unpacker is None and len(self._packed) < 8 and (more := await self._arrival.read(_PIECE)):
                self._packed += more
        if not self._packed:
            self._ended = True
            return False
        if self._unpacker is None:
            self._unpacker = Unpacker(self._source, self._packed[:8])
        data, self._packed = self._packed, b""
        if self._unpacker.compression:
            data = await self._threads.call(self._unpacker.unpacked, data)
        self._buffer += data
        return True


def _digest_of(name: str) -> Digest | None:
    """The digest that an entry is called by, if so."""
    blob = parse_name(name)
    if blob is not None:
        return blob[0] if blob[1] is None else None
    match = _DIGEST_NAME.fullmatch(name)
    return None if match is None else Digest("sha256", match[1])
