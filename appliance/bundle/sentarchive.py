"""
An archive that lies on another machine and is sent here: what it holds comes first, its blobs pass by once, in order.

Nothing of it is written to a file. What was sent first, the I{head}, is in memory: the names and sizes of all entries,
and the documents that an import reads before it knows what it wants. The rest is a L{Passage}: who reads may pass over
some of it, and never go back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed

from appliance.bundle.archive import Archive, Item, leads_out
from appliance.bundle.tar import MAX_ENTRIES, MAX_NAME, is_plain
from appliance.errors import BundleDamaged, BundleError, BundleNotRead
from appliance.flow.arrival import Arrival
from appliance.interfaces import IThreads
from appliance.oci.descriptor import MAX_SIZE


class SentArchive(Archive):
    """
    An L{Archive} whose bytes are sent by another machine.

    @ivar beginnings: what is in memory of its entries, by name.
    """

    can_go_back = False

    def __init__(
        self,
        source: str,
        passage: Passage,
        entries: Iterable[tuple[str, int]],
        others: Iterable[str] = (),
        beginnings: dict[str, bytes] | None = None,
        beside: Sequence[Archive] = (),
    ) -> None:
        """
        @param entries: names and sizes, in the order in which they lie in the archive.
        @param beginnings: the first bytes of some of them, or all: the documents.
        @raise BundleDamaged: there are too many, or a name leads out of the archive.
        """
        super().__init__(source, beside)
        self._passage = passage
        self.beginnings: dict[str, bytes] = {}
        for name, data in (beginnings or {}).items():
            self.keep(name, data)
        for name in others:
            self.add(name, None)
        for number, (name, size) in enumerate(entries):
            if not name or not is_plain(name) or name == "." or len(name.encode("utf-8")) > MAX_NAME:
                raise leads_out(source, name[:160])
            if not 0 <= size <= MAX_SIZE:
                self.refuse(name, f"{size} bytes are beyond all reason")
            self.add(name, Item(name, size, number))
        if len(self.items) + len(self.others) > MAX_ENTRIES:
            raise BundleDamaged(f"{source}: there are more than {MAX_ENTRIES} entries; nothing honest needs so many")

    def keep(self, name: str, data: bytes) -> None:
        """C{data} is how that entry begins, or all of it."""
        self.beginnings[name] = data
        self.kept += len(data)

    def read(self, item: Item, start: int, size: int) -> bytes:
        """See L{Archive.read}. Raises L{BundleError} for what is not of the head."""
        found = self._in_head(item, start, size)
        if found is None:
            raise BundleError(
                f"{self.source}, at {item.name!r}: this has to be read before it is known what is wanted, and it was"
                " not sent first; copy the archive to the appliance and import it there, or send it as an OCI layout"
            )
        return found

    def fetch(self, threads: IThreads, item: Item, start: int, size: int) -> Deferred[bytes]:
        """See L{Archive.fetch}."""
        found = self._in_head(item, start, size)
        if found is not None:
            return succeed(found)
        return Deferred.fromCoroutine(self._passage.read(self, item, start, size))

    def expect(self, item: Item, start: int) -> None:
        """See L{Archive.expect}."""
        if self._in_head(item, start, item.size - start) is None:
            self._passage.expect(self, item, start)

    def close(self) -> None:
        """See L{Archive.close}."""
        self.beginnings = {}

    def _in_head(self, item: Item, start: int, size: int) -> bytes | None:
        wanted = min(size, item.size - start)
        if wanted <= 0:
            return b""
        beginning = self.beginnings.get(item.name, b"")
        return beginning[start : start + wanted] if start + wanted <= len(beginning) else None


@dataclass(frozen=True)
class ExpectedEntry:
    """An entry of an archive from offset C{start} to its end."""

    archive: SentArchive
    item: Item
    start: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.item.size - self.start


class Passage:
    """
    What passes by of the archives of one import: what its sender was asked for, one after the other.

    @ivar expected: what will be read, in order; the sender is asked for it when the first of it is read.
    """

    def __init__(self, arrival: Arrival, ask: Callable[[list[ExpectedEntry]], None]) -> None:
        """
        @param arrival: the bytes.
        @param ask: asks the sender for these, in this order. Called once.
        """
        self._arrival = arrival
        self._ask = ask
        self._asked = False
        self.expected: list[ExpectedEntry] = []
        # Which of them is passing, and the offset in its file that comes next.
        self._number = 0
        self._position = 0

    def expect(self, archive: SentArchive, item: Item, start: int) -> None:
        """That file will be read from offset C{start} to its end, after what was expected before."""
        self.expected.append(ExpectedEntry(archive, item, start))

    async def read(self, archive: SentArchive, item: Item, start: int, size: int) -> bytes:
        """
        Some bytes of a file from offset C{start}, at most C{size}; what lies before them is passed over.

        @raise BundleNotRead: they have passed already, or were not expected: sent again they will be taken.
        """
        if not self._asked:
            self._asked = True
            self._position = self.expected[0].start if self.expected else 0
            self._ask(self.expected)
        while True:
            if self._number >= len(self.expected):
                raise passed(archive, item)
            passing = self.expected[self._number]
            is_it = passing.archive is archive and passing.item is item
            if is_it and start < self._position:
                raise passed(archive, item)
            stop = start if is_it else passing.item.size
            if self._position < stop:
                self._position += len(await self._arrival.read(stop - self._position))
            elif is_it:
                data = await self._arrival.read(min(size, item.size - start))
                self._position += len(data)
                return data
            else:
                self._number += 1
                if self._number < len(self.expected):
                    self._position = self.expected[self._number].start


def passed(archive: SentArchive, item: Item) -> BundleNotRead:
    """The error for what has passed already."""
    return BundleNotRead(
        f"{archive.source}, at {item.name!r}: what the store has of it has changed since it was asked for; send it"
        " again: what is stored by now is not sent again"
    )
