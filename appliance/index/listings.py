"""An upstream's list of a repository's tags, as last heard: C{<upstream>/<repository>/_tags.json}."""

from __future__ import annotations

import msgspec

from appliance.flow.sharing import Sharing
from appliance.index.documents import read_document
from appliance.interfaces import IDocuments

NAME = "_tags.json"


class Listing(msgspec.Struct, frozen=True):
    """
    Tags an upstream listed.

    @ivar tags: sorted, without duplicates.
    @ivar checked_at: when it did, seconds since the epoch.
    """

    tags: list[str]
    checked_at: float


_DECODER = msgspec.json.Decoder(Listing)


class Listings:
    """The lists of all repositories, each read when first asked for."""

    def __init__(self, documents: IDocuments) -> None:
        self._documents = documents
        self._known: dict[tuple[str, str], tuple[Listing | None, int]] = {}
        self._loading: Sharing[tuple[str, str], None] = Sharing()

    async def get(self, upstream: str, name: str) -> Listing | None:
        """The list as last heard, C{None} when there was none."""
        if (upstream, name) not in self._known:
            # One reading for all who ask at the same time.
            await self._loading.get((upstream, name), lambda: self._load(upstream, name))
        return self._known[upstream, name][0]

    async def save(self, upstream: str, name: str, listing: Listing) -> None:
        """Replace the list; durable on return. One call at a time for one repository."""
        await self.get(upstream, name)
        _, version = self._known[upstream, name]
        written = await self._documents.write(_key(upstream, name), msgspec.json.encode(listing), version)
        self._known[upstream, name] = (listing, written)

    async def _load(self, upstream: str, name: str) -> None:
        self._known[upstream, name] = await self._read(upstream, name)

    async def _read(self, upstream: str, name: str) -> tuple[Listing | None, int]:
        # When it is damaged nothing is lost for good: the upstream is asked again.
        return await read_document(self._documents, _key(upstream, name), _DECODER.decode)


def _key(upstream: str, name: str) -> tuple[str, ...]:
    return (upstream, *name.split("/"), NAME)
