"""An upstream's list of a repository's tags, as last heard: C{<upstream>/<repository>/_tags.json}."""

from __future__ import annotations

import msgspec
from twisted.logger import Logger

from appliance.flow.sharing import Sharing
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


class Listings:
    """The lists of all repositories, each read when first asked for."""

    _log = Logger()

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
        found = await self._documents.read(_key(upstream, name))
        if found is None:
            return None, 0
        try:
            return msgspec.json.decode(found[0], type=Listing), found[1]
        except (ValueError, RecursionError) as error:
            # Nothing is lost for good: the upstream is asked again.
            aside = await self._documents.set_aside(_key(upstream, name))
            self._log.error(
                "tags of {upstream}/{name}: {error}; set aside as {aside}",
                upstream=upstream,
                name=name,
                error=error,
                aside=aside,
            )
            return None, 0


def _key(upstream: str, name: str) -> tuple[str, ...]:
    return (upstream, *name.split("/"), NAME)
