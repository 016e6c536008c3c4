"""An upstream's list of a repository's tags, as last heard: C{<upstream>/<repository>/_tags.json}."""

from __future__ import annotations

import msgspec

from appliance.errors import VersionConflict
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight
from appliance.index.documents import read_document
from appliance.interfaces import IDocuments

NAME = "_tags.json"

BUDGET = 64 * 1024 * 1024
"""The most bytes of lists in memory."""

# What a tag takes beside its characters, roughly.
_OVERHEAD = 64

Key = tuple[str, ...]


class Listing(msgspec.Struct, frozen=True):
    """
    Tags an upstream listed.

    @ivar tags: sorted, without duplicates.
    @ivar checked_at: when it did, seconds since the epoch.
    """

    tags: list[str]
    checked_at: float


Entry = tuple[Listing | None, int]
"""A list, C{None} when its upstream was never heard, and the document's version, 0 when there is none."""

_DECODER = msgspec.json.Decoder(Listing)


class Listings:
    """The lists of all repositories, each read when it is asked for; those used last stay in memory."""

    def __init__(self, documents: IDocuments, budget: int = BUDGET) -> None:
        """
        @param budget: bytes.
        """
        self._documents = documents
        self._budget = budget
        self._known: LeastRecentlyUsed[Key, Entry] = LeastRecentlyUsed(budget)
        self._loading: SingleFlight[Key, Entry] = SingleFlight()

    async def get(self, upstream: str, name: str) -> Listing | None:
        """The list as last heard, C{None} when there was none."""
        return (await self._entry(_key(upstream, name)))[0]

    async def save(self, upstream: str, name: str, listing: Listing, keep: bool = True) -> None:
        """
        Replace the list; durable on return. One call at a time for one repository.

        @param keep: whether it is worth a document: without one it is known as long as memory has room for it. A
            document that is there is replaced in any case.
        """
        key = _key(upstream, name)
        version = (await self._entry(key))[1]
        if keep or version:
            try:
                version = await self._documents.write(key, msgspec.json.encode(listing), version)
            except VersionConflict:
                # What is in memory was read during an earlier write: the next one begins with the document.
                self._known.drop(key)
                raise
        self._remember(key, (listing, version))

    async def _entry(self, key: Key) -> Entry:
        # One reading for all who ask at the same time.
        return self._known.get(key) or await self._loading.run(key, lambda: self._load(key))

    async def _load(self, key: Key) -> Entry:
        # When it is damaged nothing is lost for good: the upstream is asked again.
        entry = await read_document(self._documents, key, _decode)
        if entry[0] is not None:
            # Whoever makes names up drives nothing out of memory.
            self._remember(key, entry)
        return entry

    def _remember(self, key: Key, entry: Entry) -> None:
        tags = [] if entry[0] is None else entry[0].tags
        # The list of a very large repository stays while nothing else is asked for: it takes longest to read.
        self._known.put(key, entry, min(_OVERHEAD + sum(_OVERHEAD + len(tag) for tag in tags), self._budget))


def _decode(data: bytes) -> Listing:
    listing = _DECODER.decode(data)
    # Nobody looks whether it is sorted before each page; sorting what is costs next to nothing.
    return Listing(sorted(set(listing.tags)), listing.checked_at)


def _key(upstream: str, name: str) -> Key:
    return (upstream, *name.split("/"), NAME)
