"""
Volumes: which blob goes onto which disc.

Pure packing. Blobs stay in file order, so that a volume is written as it is filled and manifests come first; one that
is larger than a volume is cut into parts. What every volume repeats (bundle.json, signature) is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.bundle import tar
from appliance.bundle.contents import MAX_VOLUMES, blob_name, part_name
from appliance.errors import BundleError
from appliance.oci.digest import Digest

#: Bytes of the media that people carry.
PRESETS: dict[str, int] = {
    "cd": 700_000_000,
    "dvd": 4_700_000_000,
    "bd25": 25_000_000_000,
    #: The largest file of the file system, not of a medium.
    "fat32": 2**32 - 1,
}

#: A blob is not begun in what is left of a volume when that is less than this share of it.
_SCRAP = 16
#: The least room for blobs in a volume, in bytes.
_LEAST = 64 * 1024


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
