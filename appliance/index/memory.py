"""Documents in memory: the twin of L{appliance.index.documents.FilesystemDocuments}."""

from __future__ import annotations

from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from appliance.errors import VersionConflict
from appliance.index.documents import Key, Keys, Numbers, journal_numbers, previous, safe
from appliance.interfaces import IDocuments


@implementer(IDocuments)
class MemoryDocuments:
    """L{IDocuments} in a dict."""

    def __init__(self) -> None:
        self._documents: dict[Key, tuple[bytes, int]] = {}
        self._aside: set[Key] = set()
        self.damaged: list[tuple[str, str]] = []
        self.unreadable: dict[str, str] = {}

    def read(self, key: Key) -> Deferred[tuple[bytes, int] | None]:
        """See L{IDocuments.read}."""
        return execute(lambda: self._documents.get(safe(key)))

    def write(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.write}."""
        return execute(self._write, key, data, replaces)

    def append(self, key: Key, data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.append}."""
        return execute(self._append, key, data, replaces)

    def journals(self, key: Key) -> Deferred[Numbers]:
        """See L{IDocuments.journals}."""
        folder = key[:-1]
        return execute(lambda: journal_numbers(safe(key)[-1], [e[-1] for e in self._documents if e[:-1] == folder]))

    def remove(self, key: Key) -> Deferred[None]:
        """See L{IDocuments.remove}."""
        return execute(self._remove, key)

    def set_aside(self, key: Key) -> Deferred[str]:
        """See L{IDocuments.set_aside}."""
        return execute(self._set_aside, key)

    def sweep(self, before: float) -> Deferred[tuple[int, int]]:
        """See L{IDocuments.sweep}; all was set aside at the beginning of time."""
        return execute(self._sweep, before)

    def list(self, prefix: Key, name: str) -> Deferred[Keys]:
        """See L{IDocuments.list}."""
        return execute(self._list, prefix, name)

    def _before(self, key: Key, replaces: int) -> tuple[bytes, int] | None:
        before = self._documents.get(safe(key))
        held = 0 if before is None else before[1]
        if held != replaces:
            raise VersionConflict(f"{'/'.join(key)} has version {held}, not {replaces}")
        return before

    def _append(self, key: Key, data: bytes, replaces: int) -> int:
        before = self._before(key, replaces)
        self._documents[key] = ((b"" if before is None else before[0]) + data, replaces + 1)
        return replaces + 1

    def _remove(self, key: Key) -> None:
        self._documents.pop(safe(key), None)

    def _write(self, key: Key, data: bytes, replaces: int) -> int:
        before = self._before(key, replaces)
        if before is not None:
            self._documents[previous(key)] = before
        self._documents[key] = (data, replaces + 1)
        return replaces + 1

    def _set_aside(self, key: Key) -> str:
        number = 1
        while (aside := (*key[:-1], f".{key[-1]}.damaged-{number}")) in self._documents:
            number += 1
        self._documents[aside] = self._documents.pop(safe(key))
        self.damaged.append(("/".join(key), "/".join(aside)))
        self._aside.add(aside)
        return "/".join(aside)

    def _sweep(self, before: float) -> tuple[int, int]:
        if before > 0:
            for key in self._aside:
                del self._documents[key]
            self._aside.clear()
        return len(self._aside), sum(len(self._documents[key][0]) for key in self._aside)

    def _list(self, prefix: Key, name: str) -> Keys:
        safe(prefix)
        return sorted(key for key in self._documents if key[-1] == name and key[: len(prefix)] == prefix)
