"""
A bundle that was planned: its files, each known to the byte before the first one is sent.

Nothing is spooled: blobs are named by digest and range, and whoever sends the file takes them from the store. Order of
entries: section 8.1 of the format; a full bundle in one file begins with C{oci-layout}, of several files the last does,
so that no runtime can load one of them alone, and an increment has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from appliance.bundle import bundlejson, contents, tar
from appliance.bundle.closure import ImageBlob
from appliance.bundle.contents import Bundle, PlainName, VolumeMark
from appliance.bundle.volumes import BlobSlice
from appliance.errors import BundleError
from appliance.index.layout import OCI_LAYOUT
from appliance.oci.digest import Digest
from appliance.oci.ranges import Span

SIGNATURE_ROOM = 4096
"""Bytes that a signature may have, reserved where volumes have a size; minisign's has about 300."""


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


@dataclass(frozen=True)
class Layout:
    """
    What other tools read.

    @ivar index: C{index.json}.
    @ivar docker: C{manifest.json}, C{None} when there is none.
    """

    index: bytes
    docker: bytes | None

    def files(self, full: bool, volumes: int) -> dict[PlainName, bytes]:
        """
        The plain files that go into a bundle of so many files.

        An increment has no C{oci-layout} and no C{manifest.json}, and no single volume of several may be taken for the
        whole: runtimes refuse what they could only half load.
        """
        files: dict[PlainName, bytes] = {"index.json": self.index}
        if full:
            files["oci-layout"] = OCI_LAYOUT
        if full and volumes == 1 and self.docker is not None:
            files["manifest.json"] = self.docker
        return files


class Export:
    """
    One bundle, ready to be sent, in one or several files numbered from 1.

    @ivar bundle: what it holds.
    @ivar document: C{pullcache/bundle.json}: what a signature signs.
    @ivar pieces: what each file holds of which blob, in order.
    @ivar left_out: what was asked for and is not in it.
    @ivar partial: what is in it as far as it goes.
    @ivar notes: what else whoever asked should know.
    """

    def __init__(
        self, bundle: Bundle, document: bytes, layout: Layout, pieces: tuple[tuple[BlobSlice, ...], ...]
    ) -> None:
        """
        @param bundle: sealed.
        @param pieces: those of each file.
        """
        self.bundle = bundle
        self.document = document
        self.pieces = pieces
        self.left_out: tuple[Omitted, ...] = ()
        self.partial: tuple[Omitted, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._layout = layout
        self._signature: bytes | None = None

    @property
    def volumes(self) -> int:
        """How many files there are."""
        return len(self.pieces)

    def file_name(self, n: int) -> str:
        """What file C{n} is called: fit for FAT, and for a shell."""
        return bundlejson.file_name(self.bundle, n)

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
        return small + sum(piece.extent for piece in self.pieces[n - 1]) + len(tar.END)

    def parts(self, n: int) -> Iterator[bytes | BlobPart]:
        """The bytes of file C{n} in order: as they are, or where in the store they lie. Together C{size(n)}."""
        waiting = bytearray()
        for name, data in self._head(n):
            waiting += tar.header(name, len(data)) + data + tar.padding(len(data))
        for piece in self.pieces[n - 1]:
            waiting += tar.header(piece.name, piece.size)
            yield bytes(waiting)
            if piece.size:
                yield BlobPart(piece.digest, Span(piece.start, piece.start + piece.size))
            waiting = bytearray(tar.padding(piece.size))
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
        files = self._layout.files(self.bundle.kind == "full", self.volumes)
        if n == self.volumes and "oci-layout" in files:
            yield contents.OCI_LAYOUT, files["oci-layout"]
        yield contents.BUNDLE, self.document
        if self._signature is not None:
            yield contents.SIGNATURE, self._signature
        if self.volumes > 1:
            mark = VolumeMark(bundle=self.bundle.id, n=n, of=self.volumes)
            yield contents.VOLUME, bundlejson.encode_mark(mark)
        if n == 1:
            yield contents.INDEX, files["index.json"]
        if "manifest.json" in files:
            yield contents.MANIFEST, files["manifest.json"]
