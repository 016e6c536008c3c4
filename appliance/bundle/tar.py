"""
Tar archives: the subset of POSIX ustar and pax that bundles are written in, and a reader that is never misled.

Formats: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU long names are read too. The reader
gives headers and bytes, it unpacks nothing. It refuses what two readers would take for different things (two sizes of
one entry, a link with data, a lone zero block), for each of them was once a way around a check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn

from appliance.errors import BundleDamaged
from appliance.oci.descriptor import MAX_SIZE

BLOCK = 512
#: What closes an archive; without it the archive is truncated.
END = bytes(2 * BLOCK)

#: The most entries of one archive.
MAX_ENTRIES = 250_000
#: The longest name of an entry, in bytes.
MAX_NAME = 4096
#: The largest pax extended header, in bytes.
MAX_PAX = 64 * 1024
#: The most bytes of all extended headers of one archive: 250,000 long names, and nothing that would be read for hours.
MAX_ALL_PAX = 128 * 1024 * 1024

#: The largest size an octal header field holds, in bytes: 8 GiB - 1.
_MAX_OCTAL = 8**11 - 1
_MAX_USTAR_NAME = 100
_PAX_NAME = b"././@PaxHeader"
#: How much of a name a message repeats.
_SHOWN = 160

# Fields of a header block.
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_MAGIC = slice(257, 262)

_FILES = frozenset({b"0", b"7", b"\0"})
_FOLDER = b"5"
#: Hard and symbolic links, devices, folders, pipes: what the standard gives no data.
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
_SPARSE = b"S"
#: Extension headers, each with the most bytes of data it may have; a GNU long name ends with a NUL.
_EXTENSIONS = {b"x": MAX_PAX, b"g": MAX_PAX, b"L": MAX_NAME + 1, b"K": MAX_NAME + 1}

_BASE_256 = 0x80
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,16}")
_RECORD_LENGTH = re.compile(rb"([1-9][0-9]{0,4}) ")
_RECORD = re.compile(rb"[0-9]+ ([^=]+)=(.*)\n", re.DOTALL)
_HERE = re.compile(r"\A(?:\./+)+")
_CONTROL = re.compile("[\x00-\x1f\x7f]")

Kind = Literal["file", "folder", "other"]


@dataclass(frozen=True, slots=True)
class TarEntry:
    """
    One entry of an archive.

    @ivar name: without a leading C{./} and a folder's closing slash; undecodable bytes stand as C{\\xNN}.
    @ivar size: bytes of its data.
    @ivar start: where its data begins, as an offset in the tar stream.
    @ivar kind: C{"other"} are links, devices, pipes and what is not known, never followed; and every unsafe name.
    @ivar unsafe: the name is no relative path of plain components in UTF-8 (absolute, C{..}, control characters).
    """

    name: str
    size: int
    start: int
    kind: Kind
    unsafe: bool = False


# -- writing --------------------------------------------------------------------------------------------------------


def header(name: str, size: int) -> bytes:
    """
    The header blocks of one regular file: mode 0644, owner 0, time 0, so that equal contents give equal bytes.

    A pax header stands before it when C{size} needs one (8 GiB and more), or C{name} (over 100 bytes: SHA-512 blobs).
    """
    path = name.encode("utf-8")
    records = _record(b"path", path) if len(path) > _MAX_USTAR_NAME else b""
    records += _record(b"size", b"%d" % size) if size > _MAX_OCTAL else b""
    plain = _ustar(path[:_MAX_USTAR_NAME], 0 if size > _MAX_OCTAL else size, b"0")
    if not records:
        return plain
    return _ustar(_PAX_NAME, len(records), b"x") + records + padding(len(records)) + plain


def padding(size: int) -> bytes:
    """The zeros that follow C{size} bytes of data, up to the next block."""
    return bytes(-size % BLOCK)


def extent(size: int, name: str = "") -> int:
    """Bytes that a file of C{size} bytes takes in an archive: headers, data and padding; C{name} as in L{header}."""
    return len(header(name, size)) + size + -size % BLOCK


def _record(key: bytes, value: bytes) -> bytes:
    """One pax record; its length counts its own digits."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _ustar(name: bytes, size: int, kind: bytes) -> bytes:
    """One header block."""
    owner = b"0000000\0"
    before = b"%b0000644\0%b%b%011o\0%011o\0" % (name.ljust(_MAX_USTAR_NAME, b"\0"), owner, owner, size, 0)
    after = b"%b%bustar\00000%b" % (kind, bytes(100), bytes(64)) + owner + owner
    block = (before + b" " * 8 + after).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % _checksum(block) + block[156:]


# -- reading --------------------------------------------------------------------------------------------------------


class TarReader:
    """
    The entries of one archive, in file order.

    ::

        reader = TarReader(file.read, lambda n: file.seek(n, os.SEEK_CUR), "a.tar")
        for entry in reader.entries():
            while piece := reader.data(1 << 20): ...

    What an entry's consumer did not read is skipped. Every fault of the archive is L{BundleDamaged}, naming the source
    and the entry; errors of C{read} and C{skip} pass through.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        skip: Callable[[int], object],
        source: str,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        """
        @param read: gives at most so many of the next bytes, none only at the end.
        @param skip: passes over so many bytes; past the end is no error: the next C{read} gives nothing.
        @param source: the archive's name, for messages.
        """
        self._read = read
        self._skip = skip
        self._source = source
        self._max_entries = max_entries
        self._offset = 0
        self._where = "at its start"
        self._entry: TarEntry | None = None
        self._left = 0
        self._padding = 0
        self._extended = 0
        self._count = 0

    def entries(self) -> Iterator[TarEntry]:
        """The entries up to the two closing zero blocks; what follows them is not read. To be called once."""
        while (entry := self.next()) is not None:
            yield entry

    def next(self) -> TarEntry | None:
        """The next entry, C{None} at the end; not to be called again after that."""
        entry = self._next()
        self._count += entry is not None
        if self._count > self._max_entries:
            self._refuse(f"there are more than {self._max_entries} entries; nothing honest needs so many")
        return entry

    def data(self, size: int) -> bytes:
        """At most C{size} of the current entry's next bytes; none when all were read. Raises L{BundleDamaged}."""
        wanted = min(size, self._left)
        if wanted <= 0:
            return b""
        piece = self._read(wanted)
        if not piece:
            self._truncated()
        self._left -= len(piece)
        self._offset += len(piece)
        return piece

    def whole(self, limit: int) -> bytes:
        """The rest of the current entry. Raises L{BundleDamaged} when that is more than C{limit} bytes."""
        if self._left > limit:
            self._refuse(f"{self._left} bytes are too many here: {limit} are allowed")
        pieces = []
        while piece := self.data(self._left):
            pieces.append(piece)
        return b"".join(pieces)

    def _next(self) -> TarEntry | None:
        """The next entry, its extension headers applied; C{None} at the end."""
        # Leave the current entry, read or not.
        if self._entry is not None:
            self._where = f"after {self._entry.name[:_SHOWN]!r}"
        if self._left:
            self._skip(self._left)
            self._offset += self._left
        padding, self._left, self._padding = self._padding, 0, 0
        # Every writer fills up with zeros: anything else was written here later, or by a failing medium.
        if any(self._exactly(padding)):
            self._refuse("the filling after it is not empty")
        extensions: dict[bytes, bytes] = {}
        while (block := self._header()) is not None:
            kind = _type(block)
            if kind not in _EXTENSIONS:
                return self._begin(block, extensions)
            # One of each at most: readers differ on which of two counts, and a chain of them would never end.
            if kind in extensions:
                self._refuse("a header is extended twice")
            extensions[kind] = self._extension(block, _EXTENSIONS[kind])
        if extensions:
            self._refuse("an extended header is followed by no entry")
        return None

    def _exactly(self, size: int) -> bytes:
        """The next C{size} bytes of the archive. Raises L{BundleDamaged} at its end."""
        pieces = []
        while size:
            piece = self._read(size)
            if not piece:
                self._truncated()
            pieces.append(piece)
            size -= len(piece)
            self._offset += len(piece)
        return b"".join(pieces)

    def _header(self) -> bytes | None:
        """The next header block, its checksum right; C{None} for the two zero blocks at the end."""
        block = self._exactly(BLOCK)
        if not any(block):
            if any(self._exactly(BLOCK)):
                self._refuse("a lone zero block stands in the middle")
            return None
        if block[_MAGIC] != b"ustar" or self._number(block[_CHECKSUM]) != _checksum(block):
            self._refuse(f"there is no valid tar header at byte {self._offset - BLOCK}")
        return block

    def _extension(self, block: bytes, limit: int) -> bytes:
        """The data of an extension header."""
        size = self._number(block[_SIZE])
        if size > limit:
            self._refuse(f"an extended header has {size} bytes; {limit} are allowed")
        self._extended += size
        if self._extended > MAX_ALL_PAX:
            self._refuse(f"its extended headers have more than {MAX_ALL_PAX} bytes together")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def _begin(self, block: bytes, extensions: dict[bytes, bytes]) -> TarEntry:
        """Make the entry of C{block} the current one."""
        if any(key in (b"path", b"size") or _is_sparse(key) for key in self._pax(extensions.get(b"g", b""))):
            self._refuse("a global header gives every entry the same name or size")
        records = self._pax(extensions.get(b"x", b""))
        if b"path" in records and b"L" in extensions:
            self._refuse("an entry has two long names")
        long = extensions.get(b"L", b"").partition(b"\0")[0]
        raw = records.get(b"path", long or _short_name(block))
        self._where = f"at {_text(raw[:_SHOWN])!r}"
        if len(raw) > MAX_NAME:
            self._refuse(f"its name is longer than {MAX_NAME} bytes")
        self._entry = _entry(raw, _type(block), self._size(raw, block, records), self._offset)
        self._left = self._entry.size
        self._padding = -self._left % BLOCK
        return self._entry

    def _size(self, raw: bytes, block: bytes, records: dict[bytes, bytes]) -> int:
        """Bytes of an entry's data; readers disagree on them for sparse files and for links and folders with data."""
        if _type(block) == _SPARSE or any(map(_is_sparse, records)):
            self._refuse("it is a sparse file, which no bundle holds")
        size = self._number(block[_SIZE])
        if (record := records.get(b"size")) is not None:
            size = int(record) if _DECIMAL.fullmatch(record) else self._refuse("its size is no number")
        if size > MAX_SIZE:
            self._refuse(f"{size} bytes are beyond all reason")
        if size and (_type(block) in _WITHOUT_DATA or _kind(raw, _type(block)) == "folder"):
            self._refuse("it is no file and has data all the same")
        return size

    def _number(self, field: bytes) -> int:
        """A numeric field: octal digits, or GNU's base 256 with the top bit set."""
        if field[0] == _BASE_256:
            return int.from_bytes(field[1:], "big")
        match = _OCTAL.fullmatch(field)
        if match is None:
            self._refuse("a number in a header is none, or negative")
        return int(match[1] or b"0", 8)

    def _pax(self, data: bytes) -> dict[bytes, bytes]:
        """The records of an extended header, each key once."""
        records: dict[bytes, bytes] = {}
        start = 0
        while start < len(data):
            length = _RECORD_LENGTH.match(data, start)
            stop = start + int(length[1]) if length else start
            match = _RECORD.fullmatch(data, start, stop)
            if match is None or stop > len(data) or match[1] in records:
                self._refuse("an extended header is malformed")
            records[match[1]] = match[2]
            start = stop
        return records

    def _truncated(self) -> NoReturn:
        raise BundleDamaged(self._said(f"the archive is cut off at byte {self._offset}"), truncated=True)

    def _refuse(self, why: str) -> NoReturn:
        raise BundleDamaged(self._said(why))

    def _said(self, why: str) -> str:
        return f"{self._source}, {self._where}: {why}; copy the archive again, or have it made again"


def _type(block: bytes) -> bytes:
    """The entry's type flag; Solaris's C{X} is C{x}."""
    kind = block[156:157]
    return b"x" if kind == b"X" else kind


def _is_sparse(key: bytes) -> bool:
    """Whether a pax record is of a sparse file: GNU's, or Solaris's and star's."""
    return key.startswith((b"GNU.sparse", b"SUN.holesdata", b"SCHILY.realsize"))


def _checksum(block: bytes) -> int:
    """The sum of a header's bytes, its checksum field counted as spaces."""
    return sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")


def _short_name(block: bytes) -> bytes:
    """The name in a header block itself; GNU's own headers keep times where POSIX has the prefix."""
    name = block[:_MAX_USTAR_NAME].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _entry(raw: bytes, kind: bytes, size: int, start: int) -> TarEntry:
    text = _text(raw)
    name = _HERE.sub("", text, count=1).removesuffix("/") or "."
    means = _kind(raw, kind)
    # The archive's own folder is called "./"; nothing else may be.
    empty = name == "." and means != "folder"
    # What is no UTF-8 has other bytes once its undecodable ones are written as \xNN.
    unsafe = empty or raw[:1] in (b"", b"/") or text.encode("utf-8") != raw or not is_plain(name)
    return TarEntry(name, size, start, "other" if unsafe else means, unsafe)


def _kind(raw: bytes, kind: bytes) -> Kind:
    """What an entry is by type and name: a closing slash makes a folder of a file since version 7."""
    if kind in _FILES:
        return "folder" if raw.endswith(b"/") else "file"
    return "folder" if kind == _FOLDER else "other"


def is_plain(name: str) -> bool:
    """Whether C{name} is a relative path without empty, C{.} and C{..} components and control characters."""
    return name == "." or (_CONTROL.search(name) is None and {"", ".", ".."}.isdisjoint(name.split("/")))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
