"""
One JSON document that is held in memory and written now and then.

What it says may be lost without harm, but not all of it each time: it is read at start, and written within seconds of a
change and at a stop.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from appliance.errors import DocumentDamaged
from appliance.interfaces import IDocuments


class Keepsake:
    """One document of L{IDocuments}; one call of L{write} at a time."""

    _log = Logger()

    def __init__(self, documents: IDocuments, name: str) -> None:
        """
        @param name: of the file, as in C{usage.json}.
        """
        self._documents = documents
        self._key = (name,)
        self._version = 0

    async def read(self) -> bytes | None:
        """What was written last, C{None} when there is nothing."""
        found = await self._documents.read(self._key)
        if found is None:
            return None
        data, self._version = found
        return data

    async def set_aside(self, error: DocumentDamaged) -> None:
        """What was read cannot be understood: move it out of the way, and say so."""
        self._version = 0
        aside = await self._documents.set_aside(self._key)
        self._log.error("{name}: {error}; set aside as {aside}", name=self._key[0], error=error, aside=aside)

    def write(self, data: bytes) -> Deferred[None]:
        """Replace it; durable when the Deferred fires."""
        return self._documents.write(self._key, data, self._version).addCallback(self._written)

    def _written(self, version: int) -> None:
        self._version = version
