"""Documents in memory: the twin of L{appliance.index.documents.FilesystemDocuments}."""

from __future__ import annotations

from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from appliance.errors import VersionConflict
from appliance.index.documents import previous, safe
from appliance.interfaces import IDocuments

Key = tuple[str, ...]
Keys = list[Key]


@implementer(IDocuments)
class MemoryDocuments:
    """L{IDocuments} in a dict."""

    def __init__(self) -> None:
        self._documents: dict[Key, tuple[bytes, int]] = {}
        self.damaged: list[tuple[str, str]] = []
        self.unreadable: dict[str, str] = {}

    def read(self, key: Key) -> Deferred[tuple[bytes, int] | None]:
        """See L{IDocuments.read}."""
        return execute(lambda: self._documents.get(safe(key)))

    def write(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.write}."""
        return execute(self._write, key, data, replaces)

    def set_aside(self, key: Key) -> Deferred[str]:
        """See L{IDocuments.set_aside}."""
        return execute(self._set_aside, key)

    def list(self, prefix: Key, name: str) -> Deferred[list[Key]]:
        """See L{IDocuments.list}."""
        return execute(self._list, prefix, name)

    def _write(self, key: Key, data: bytes, replaces: int) -> int:
        before = self._documents.get(safe(key))
        held = 0 if before is None else before[1]
        if held != replaces:
            raise VersionConflict(f"{'/'.join(key)} has version {held}, not {replaces}")
        if before is not None:
            self._documents[previous(key)] = before
        self._documents[key] = (data, held + 1)
        return held + 1

    def _set_aside(self, key: Key) -> str:
        number = 1
        while (aside := (*key[:-1], f".{key[-1]}.damaged-{number}")) in self._documents:
            number += 1
        self._documents[aside] = self._documents.pop(safe(key))
        self.damaged.append(("/".join(key), "/".join(aside)))
        return "/".join(aside)

    def _list(self, prefix: Key, name: str) -> Keys:
        safe(prefix)
        return sorted(key for key in self._documents if key[-1] == name and key[: len(prefix)] == prefix)
