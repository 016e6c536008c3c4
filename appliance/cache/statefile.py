"""
One JSON document below C{state/} that is held in memory and written now and then.

The last seconds of it may be lost without harm: it is read at start, and written within seconds of a change and at a
stop. It is not written before what an earlier process left was taken up, or set aside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

import msgspec

from appliance.flow.singleflight import SingleFlight
from appliance.index.documents import read_document
from appliance.interfaces import IDocuments

T = TypeVar("T")

EpochSeconds = Annotated[float, msgspec.Meta(ge=0, lt=253402300800)]
"""Seconds since the epoch that RFC 3339 can write, up to the end of 9999; what says another is damaged."""


class StateFile(Generic[T]):
    """
    One document of L{IDocuments}; one call of L{write} or L{flush} at a time.

    @ivar changed: whether L{flush} has something to write; set by the owner of what is written.
    """

    changed = False

    def __init__(self, documents: IDocuments, name: str, kind: type[T], take_up: Callable[[T], None]) -> None:
        """
        @param name: of the file, as in C{usage.json}.
        @param kind: what it holds, for C{msgspec}.
        @param take_up: is given what was written last, once; not called when there is nothing.
        """
        self._documents = documents
        self._key = (name,)
        self._decoder = msgspec.json.Decoder(kind)
        self._take_up = take_up
        self._version: int | None = None
        self._loading: SingleFlight[str, None] = SingleFlight()

    async def load(self) -> None:
        """
        Take up what was written last; one call is enough, more are no error.

        @raise OSError: it cannot be read now.
        """
        if self._version is None:
            await self._loading.run("", self._load)

    async def write(self, encode: Callable[[], bytes]) -> bool:
        """
        Replace it; durable on return. Whether it was: not while what is there cannot be read, which the log says.

        @param encode: gives the document as it is to be, called when C{take_up} has been.
        @raise OSError: the disk refuses.
        """
        try:
            await self.load()
        except OSError:
            return False
        assert self._version is not None
        self._version = await self._documents.write(self._key, encode(), self._version)
        return True

    async def flush(self, encode: Callable[[], bytes]) -> None:
        """L{write} it if it L{changed}; what could not be written is, the next time."""
        if not self.changed:
            return
        self.changed, written = False, False
        try:
            written = await self.write(encode)
        finally:
            self.changed = self.changed or not written

    async def _load(self) -> None:
        found, version = await read_document(self._documents, self._key, self._decoder.decode)
        if found is not None:
            self._take_up(found)
        self._version = version
