"""
The files of a bundle: which blob lies in which, and each file known to the byte before the first one is sent.

Blobs stay in file order, so that a volume is written as it is filled and manifests come first; one that is larger than
a volume is cut into parts. Nothing is copied for it: blobs are named by digest and range, and the code that sends a
file takes them from the store. Order of entries: section 8.1 of the format; a full bundle in one file begins with
C{oci-layout}, of several files the last does, so that no runtime can load one of them alone, and an increment has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from appliance.bundle import contents, tar
from appliance.bundle.bundlejson import encode, encode_mark, file_name, plain_file, sealed
from appliance.bundle.closure import ImageBlob
from appliance.bundle.contents import MAX_VOLUMES, BlobEntry, Bundle, Part, VolumeMark, blob_name, part_name
from appliance.bundle.toolfiles import ToolFiles
from appliance.errors import BundleError
from appliance.oci.digest import Digest
from appliance.oci.ranges import Span

SIGNATURE_ROOM = 4096
"""Bytes that a signature may have, reserved where volumes have a size; minisign's has about 300."""

#: A blob is not begun in what is left of a volume when that is less than this share of it.
_SCRAP = 16
#: The least room for blobs in a volume, in bytes.
_LEAST = 64 * 1024
#: So often at most are the blobs packed again because the list of contents became longer with the volumes.
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class BlobSlice:
    """
    What one tar entry holds of a blob.

    @ivar start: where it begins in the blob, in bytes.
    @ivar size: bytes of it.
    @ivar part: its number from 1, C{None} for a whole blob.
    """

    digest: Digest
    start: int
    size: int
    part: int | None = None

    @property
    def name(self) -> str:
        """The name of its entry."""
        return blob_name(self.digest) if self.part is None else part_name(self.digest, self.part)

    @property
    def extent(self) -> int:
        """Bytes that its entry takes in the archive."""
        return tar.extent(self.size, self.name)


class BlobPart(NamedTuple):
    """Bytes of a blob in the store."""

    digest: Digest
    span: Span


@dataclass(frozen=True)
class Omitted:
    """
    A reference that is not whole.

    @ivar ref: its name, or the pattern that means nothing held.
    @ivar why: in a few words, for people.
    @ivar missing: the blobs that are lacking.
    """

    ref: str
    why: str
    missing: tuple[ImageBlob, ...] = ()


class Export:
    """
    One bundle, ready to be sent, in one or several files numbered from 1.

    @ivar bundle: what it holds.
    @ivar document: C{pullcache/bundle.json}: what a signature signs.
    @ivar slices: what each file holds of which blob, in order.
    @ivar left_out: what was asked for and is not in it.
    @ivar partial: what is in it as far as it goes.
    @ivar notes: what else the user should know.
    """

    def __init__(
        self,
        bundle: Bundle,
        tool_files: ToolFiles,
        slices: tuple[tuple[BlobSlice, ...], ...],
        hashes: Mapping[BlobSlice, str] | None = None,
    ) -> None:
        """
        @param bundle: its blobs may be without volumes and parts, and it need not be sealed.
        @param hashes: the SHA-256 of each part of a blob; those that are not known yet are written as zeros, which
            take as many bytes.
        """
        plain = tool_files.files(bundle.kind == "full", len(slices))
        files = tuple(plain_file(name, data) for name, data in plain.items())
        blobs = _with_places(bundle.blobs, slices, hashes or {})
        self.bundle = sealed(msgspec.structs.replace(bundle, blobs=blobs, files=files))
        self.document = encode(self.bundle)
        self.slices = slices
        self.left_out: tuple[Omitted, ...] = ()
        self.partial: tuple[Omitted, ...] = ()
        self.notes = tool_files.notes if bundle.kind == "full" and len(slices) == 1 else ()
        self._tool_files = tool_files
        self._plain = plain
        self._signature: bytes | None = None

    @property
    def volumes(self) -> int:
        """How many files there are."""
        return len(self.slices)

    def with_hashes(self, hashes: Mapping[BlobSlice, str]) -> Export:
        """The same with the SHA-256 of each part of a blob."""
        return Export(self.bundle, self._tool_files, self.slices, hashes)

    def file_name(self, n: int) -> str:
        """What file C{n} is called: fit for FAT, and for a shell."""
        return file_name(self.bundle, n)

    def sign(self, signature: str) -> None:
        """
        Put a signature of C{document} into every file, in place of an earlier one; to be called before they are sent.

        @param signature: in minisign's format; whether it is right is for the caller to check.
        @raise BundleError: it is no signature by its length.
        """
        data = signature.encode()
        if len(data) > SIGNATURE_ROOM:
            raise BundleError(f"a signature of {len(data)} bytes: {SIGNATURE_ROOM} are allowed, shorten its comment")
        self._signature = data

    def size(self, n: int) -> int:
        """Bytes of file C{n}, exactly."""
        small = sum(tar.extent(len(data), name) for name, data in self._head(n))
        return small + sum(blob.extent for blob in self.slices[n - 1]) + len(tar.END)

    def parts(self, n: int) -> Iterator[bytes | BlobPart]:
        """The bytes of file C{n} in order: as they are, or where in the store they lie. Together C{size(n)}."""
        waiting = bytearray()
        for name, data in self._head(n):
            waiting += tar.header(name, len(data)) + data + tar.padding(len(data))
        for blob in self.slices[n - 1]:
            waiting += tar.header(blob.name, blob.size)
            yield bytes(waiting)
            if blob.size:
                yield BlobPart(blob.digest, Span(blob.start, blob.start + blob.size))
            waiting = bytearray(tar.padding(blob.size))
        yield bytes(waiting) + tar.END

    def overhead(self) -> int:
        """The most bytes that entries other than blobs take in any file, with room for a signature."""
        heads = (sum(tar.extent(len(data), name) for name, data in self._head(n)) for n in range(1, self.volumes + 1))
        return max(heads) + self.signature_room + len(tar.END)

    @property
    def signature_room(self) -> int:
        """The most bytes by which L{sign} makes a file larger."""
        return 0 if self._signature is not None else tar.extent(SIGNATURE_ROOM, contents.SIGNATURE)

    def _head(self, n: int) -> Iterator[tuple[str, bytes]]:
        """The entries of file C{n} before its blobs."""
        if n == self.volumes and "oci-layout" in self._plain:
            yield contents.OCI_LAYOUT, self._plain["oci-layout"]
        yield contents.BUNDLE, self.document
        if self._signature is not None:
            yield contents.SIGNATURE, self._signature
        if self.volumes > 1:
            mark = VolumeMark(bundle=self.bundle.id, n=n, of=self.volumes)
            yield contents.VOLUME, encode_mark(mark)
        if n == 1:
            yield contents.INDEX, self._plain["index.json"]
        if "manifest.json" in self._plain:
            yield contents.MANIFEST, self._plain["manifest.json"]


def packed(bundle: Bundle, tool_files: ToolFiles, volume_size: int | None) -> Export:
    """
    Distribute the blobs of C{bundle} over files. The hashes of parts are not known yet: see L{Export.with_hashes}.

    @param volume_size: the most bytes of a file; C{None}: one file of any size.
    @raise BundleError: files of that size are too small.
    """
    blobs = [(Digest.parse(blob.digest), blob.size) for blob in bundle.blobs]
    export = Export(bundle, tool_files, pack(blobs, None, 0))
    if volume_size is None or export.size(1) + export.signature_room <= volume_size:
        return export
    # The list of contents says where each blob is, so more volumes make it longer, and it stands in each of them.
    for _ in range(_ATTEMPTS):
        reserved = export.overhead()
        export = Export(bundle, tool_files, pack(blobs, volume_size, reserved))
        if export.overhead() <= reserved:
            return export
    raise BundleError(f"volumes of {volume_size} bytes are too small for so many blobs; take larger ones")


def _with_places(
    blobs: Iterable[BlobEntry], slices: tuple[tuple[BlobSlice, ...], ...], hashes: Mapping[BlobSlice, str]
) -> tuple[BlobEntry, ...]:
    """C{blobs} with the volume of each, and the parts of those that are larger than one."""
    placed: dict[str, list[tuple[int, BlobSlice]]] = {}
    for number, volume in enumerate(slices, 1):
        for blob_slice in volume:
            placed.setdefault(str(blob_slice.digest), []).append((number, blob_slice))

    return tuple(
        msgspec.structs.replace(
            blob,
            volume=placed[blob.digest][0][0],
            parts=tuple(
                Part(n=each.part, size=each.size, sha256=hashes.get(each, "0" * 64), volume=number)
                for number, each in placed[blob.digest]
                if each.part is not None
            ),
        )
        for blob in blobs
    )


# -- packing --------------------------------------------------------------------------------------------------------


def pack(
    blobs: Iterable[tuple[Digest, int]], volume_size: int | None, reserved: int
) -> tuple[tuple[BlobSlice, ...], ...]:
    """
    Distribute blobs, given as (digest, size) in file order, over volumes.

    @param volume_size: the most bytes of one volume; C{None}: everything goes into one.
    @param reserved: the most bytes that a volume's other entries take, and the end of the archive (L{tar.END}).
    @return: what each volume holds; at least one volume.
    @raise BundleError: so small a volume is of no use, or there would be too many.
    """
    if volume_size is None:
        return (tuple(BlobSlice(digest, 0, size) for digest, size in blobs),)
    room = volume_size - reserved
    if room < _LEAST:
        raise BundleError(
            f"volumes of {volume_size} bytes are too small: the list of contents takes {reserved} in each; "
            f"take at least {2 * reserved + _LEAST}"
        )
    volumes = _Volumes(room)
    for digest, size in blobs:
        volumes.add(digest, size)
    return tuple(map(tuple, volumes.filled))


class _Volumes:
    """The volumes filled so far; only the last one is open."""

    def __init__(self, room: int) -> None:
        self.filled: list[list[BlobSlice]] = [[]]
        self._room = room
        self._left = room

    def add(self, digest: Digest, size: int) -> None:
        """Place one blob, in the open volume, in a new one, or in parts."""
        whole = BlobSlice(digest, 0, size)
        if whole.extent <= self._room:
            if whole.extent > self._left:
                self._next()
            self._put(whole)
            return
        if self._left < self._room // _SCRAP:
            self._next()
        start, n = 0, 0
        while start < size:
            if start:
                self._next()
            n += 1
            # A part takes whole blocks, and the header of the largest part is the longest one.
            header = len(tar.header(part_name(digest, n), self._left))
            payload = (self._left - header) // tar.BLOCK * tar.BLOCK
            part = BlobSlice(digest, start, min(size - start, payload), n)
            self._put(part)
            start += part.size

    def _put(self, blob_slice: BlobSlice) -> None:
        self.filled[-1].append(blob_slice)
        self._left -= blob_slice.extent

    def _next(self) -> None:
        if len(self.filled) == MAX_VOLUMES:
            raise BundleError(f"there would be more than {MAX_VOLUMES} volumes; take larger ones")
        self.filled.append([])
        self._left = self._room
