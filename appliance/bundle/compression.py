"""
The bytes of a file from its beginning: as they lie there, or unpacked from gzip or zstd, with a bound on how many.

gzip: RFC 1952; Zstandard: RFC 8878.
"""

from __future__ import annotations

import gzip
import os
import zlib
from typing import IO, Any

import zstandard
from twisted.internet.defer import CancelledError

from appliance.errors import BundleDamaged, BundleError, BundleUnreadable

#: The most bytes that come out of one compressed archive.
MAX_UNPACKED = 64 * 1024**3
#: A compressed archive may grow by this factor beyond the first L{ALLOWANCE} bytes; images are far below it.
MAX_RATIO = 200
ALLOWANCE = 64 * 1024**2
#: How often a compressed archive is unpacked from its beginning again because something lies before what was read.
MAX_REWINDS = 16

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
#: The memory that a zstd frame may ask for; what C{zstd --ultra -22} and C{--long} need.
_MAX_WINDOW = 2**27
_PIECE = 1024 * 1024

_ADVICE = {b"\xfd7zXZ": "xz -d", b"BZh": "bzip2 -d", b"PK\x03\x04": "unzip"}


class Stop:
    """Ends work that is under way on a thread, between two reads."""

    def __init__(self) -> None:
        self._wanted = False

    def request(self) -> None:
        """The next L{check} raises."""
        self._wanted = True

    def check(self) -> None:
        """Raises L{CancelledError} once L{request} was called."""
        if self._wanted:
            raise CancelledError


def open_stream(path: str, fd: int, stop: Stop) -> PlainStream | DecompressedStream:
    """
    The bytes of the regular file that is open as C{fd}, which the stream closes. Blocking, as everything on it is.

    @param path: for messages.
    @raise BundleUnreadable: it is of another compression; C{fd} is closed.
    """
    try:
        head = os.pread(fd, 8, 0)
        for magic, program in _ADVICE.items():
            if head.startswith(magic):
                raise BundleUnreadable(f"{path}: this compression is not read here; unpack it first ({program})")
    except BaseException:
        os.close(fd)
        raise
    if head.startswith(_GZIP):
        return DecompressedStream(path, fd, "gzip", stop)
    if head.startswith(_ZSTD):
        return DecompressedStream(path, fd, "zstd", stop)
    return PlainStream(fd, stop)


class Unpacker:
    """
    What L{open_stream} does, of bytes that are given piece by piece. Blocking.

    @ivar compression: C{""}, C{"gzip"} or C{"zstd"}.
    """

    def __init__(self, source: str, head: bytes) -> None:
        """
        @param source: for messages.
        @param head: the first eight bytes, or all where there are fewer; to be given to L{unpacked} as well.
        @raise BundleUnreadable: it is of another compression.
        """
        for magic, program in _ADVICE.items():
            if head.startswith(magic):
                raise BundleUnreadable(f"{source}: this compression is not read here; unpack it first ({program})")
        self.compression = "gzip" if head.startswith(_GZIP) else "zstd" if head.startswith(_ZSTD) else ""
        self._source = source
        self._out = bytearray()
        self._taken = self._given = 0
        self._gzip: Any = zlib.decompressobj(wbits=31)
        # What it unpacks goes through write below.
        unpacker: Any = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._zstd = unpacker.stream_writer(self, closefd=False)

    def unpacked(self, data: bytes) -> bytes:
        """What C{data} adds. Raises L{BundleDamaged}, and L{BundleError} for a bomb."""
        if not self.compression:
            return data
        self._taken += len(data)
        try:
            if self.compression == "zstd":
                self._zstd.write(data)
            else:
                self._unzip(data)
        except (zstandard.ZstdError, zlib.error) as error:
            raise BundleDamaged(
                f"{self._source}: its {self.compression} data is damaged after {self._given} unpacked bytes ({error});"
                " copy the archive again"
            ) from None
        found, self._out = bytes(self._out), bytearray()
        return found

    def write(self, data: bytes) -> int:
        """Take what was unpacked; from the decompressor."""
        self._out += data
        self._given += len(data)
        if self._given > min(MAX_UNPACKED, ALLOWANCE + MAX_RATIO * self._taken):
            raise _bomb(self._source, self.compression, self._taken, self._given)
        return len(data)

    def _unzip(self, data: bytes) -> None:
        while data:
            self.write(self._gzip.decompress(data, _PIECE))
            if self._gzip.eof:
                # Another member may follow (RFC 1952 section 2.2), or zeros that fill a block.
                data = self._gzip.unused_data.lstrip(b"\0")
                self._gzip = zlib.decompressobj(wbits=31)
            else:
                data = self._gzip.unconsumed_tail


def _bomb(source: str, compression: str, taken: int, given: int) -> BundleError:
    return BundleError(
        f"{source}: {taken} compressed bytes unpack to {given} and more, as in a decompression bomb; if it is honest,"
        f" unpack it yourself ({compression} -d) and import the .tar"
    )


class PlainStream:
    """
    Bytes that are read forward as they lie in the file; going to another position is cheap.

    @ivar compression: C{""}; in a L{DecompressedStream} C{"gzip"} or C{"zstd"}.
    """

    compression = ""

    def __init__(self, fd: int, stop: Stop) -> None:
        self._fd = fd
        self._stop = stop
        self._position = 0

    def read(self, size: int) -> bytes:
        """At most C{size} of the next bytes, none only at the end."""
        self._stop.check()
        data = os.pread(self._fd, size, self._position)
        self._position += len(data)
        return data

    def skip(self, size: int) -> None:
        """Pass over bytes; past the end is no error."""
        self._position += size

    def seek(self, position: int) -> None:
        """Go to a position, counted in unpacked bytes."""
        self._position = position

    def close(self) -> None:
        """Close the file; once more is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class DecompressedStream:
    """A L{PlainStream} of what a compressed file holds; going back means unpacking from the beginning again."""

    def __init__(self, path: str, fd: int, compression: str, stop: Stop) -> None:
        self.compression = compression
        self._path = path
        self._file: IO[bytes] = os.fdopen(fd, "rb", buffering=_PIECE)
        self._stop = stop
        self._rewinds = 0
        self._begin()

    def read(self, size: int) -> bytes:
        """Raises L{BundleDamaged}, and L{BundleError} for a bomb."""
        self._stop.check()
        try:
            data: bytes = self._unpacked.read(min(size, 4 * _PIECE))
        except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise BundleDamaged(
                f"{self._path}: its {self.compression} data is damaged or cut off after {self._position} unpacked bytes"
                f" ({error}); copy the archive again",
                truncated=isinstance(error, EOFError),
            ) from None
        self._position += len(data)
        taken = self._file.tell()
        if self._position > min(MAX_UNPACKED, ALLOWANCE + MAX_RATIO * taken):
            raise _bomb(self._path, self.compression, taken, self._position)
        return data

    def skip(self, size: int) -> None:
        while size:
            data = self.read(min(size, _PIECE))
            if not data:
                return
            size -= len(data)

    def seek(self, position: int) -> None:
        """Raises L{BundleError} when going back was done too often."""
        if position < self._position:
            self._rewinds += 1
            if self._rewinds > MAX_REWINDS:
                raise BundleError(
                    f"{self._path}: what belongs together lies too far apart in it to be read while it is unpacked;"
                    f" unpack it first ({self.compression} -d) and import the .tar"
                )
            self._begin()
        self.skip(position - self._position)

    def close(self) -> None:
        self._file.close()

    def _begin(self) -> None:
        self._file.seek(0)
        self._position = 0
        self._unpacked: Any
        if self.compression == "gzip":
            self._unpacked = gzip.GzipFile(fileobj=self._file, mode="rb")
        else:
            unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            self._unpacked = unpacker.stream_reader(
                self._file, read_size=_PIECE, read_across_frames=True, closefd=False
            )
