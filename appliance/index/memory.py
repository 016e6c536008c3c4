"""Documents in memory: the twin of L{appliance.index.documents.FilesystemDocuments}."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from appliance.errors import VersionConflict
from appliance.interfaces import IDocuments

Key = tuple[str, ...]


@implementer(IDocuments)
class MemoryDocuments:
    """L{IDocuments} in a dict."""

    def __init__(self) -> None:
        self._documents: dict[Key, tuple[bytes, int]] = {}

    def read(self, key: Key) -> Deferred[tuple[bytes, int] | None]:
        """See L{IDocuments.read}."""
        return succeed(self._documents.get(key))

    def write(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.write}."""
        held = self._documents.get(key, (b"", 0))[1]
        if held != replaces:
            return fail(VersionConflict(f"{'/'.join(key)} has version {held}, not {replaces}"))
        self._documents[key] = (data, held + 1)
        return succeed(held + 1)

    def set_aside(self, key: Key) -> Deferred[str]:
        """See L{IDocuments.set_aside}."""
        aside = (*key[:-1], f".{key[-1]}.damaged-1")
        self._documents[aside] = self._documents.pop(key)
        return succeed("/".join(aside))

    def list(self, prefix: Key, name: str) -> Deferred[list[Key]]:
        """See L{IDocuments.list}."""
        return succeed(sorted(key for key in self._documents if key[-1] == name and key[: len(prefix)] == prefix))
