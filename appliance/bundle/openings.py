"""
Which archives of the inbox were being opened when the process ended, kept as C{state/inbox/opened.json}.

An archive is written down before it is opened and crossed out when that has ended in any way, or has come as far as its
bulk data. One that stands there at the next start was being opened when the process was killed: by a power cut, or
because opening it took all memory. So it is given a second time, and no third one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from appliance.index.documents import read_document
from appliance.interfaces import IDocuments

MAX_OPENINGS = 2
"""How often an archive is opened that the process did not outlive."""

_KEY = ("inbox", "opened.json")


class _Opened(msgspec.Struct, frozen=True):
    """A file by name, bytes and time (nanoseconds), and how often it was opened without an end."""

    name: str
    size: int
    mtime: int
    times: int


class _OpenedFiles(msgspec.Struct, frozen=True):
    opened: list[_Opened]


class Openings:
    """The one document. Every method may raise L{OSError}."""

    def __init__(self, documents: IDocuments) -> None:
        self._documents = documents

    async def begin(self, files: Mapping[str, tuple[int, int]], there: Sequence[str]) -> bool:
        """
        Write down that C{files} are being opened; durable on return.

        @param files: size and time of each by name.
        @param there: the names of all files of the inbox: others are forgotten.
        @return: whether they may be opened: C{False}, and nothing written, when that was tried too often.
        """
        opened, version = await self._read()
        before = {each.name: each for each in opened if each.name in there}
        times = 1
        for name, (size, mtime) in files.items():
            known = before.get(name)
            if known is not None and (known.size, known.mtime) == (size, mtime):
                times = max(times, known.times + 1)
        if times > MAX_OPENINGS:
            return False
        now = {name: _Opened(name, size, mtime, times) for name, (size, mtime) in files.items()}
        await self._write([*(before | now).values()], version)
        return True

    async def end(self, names: Sequence[str]) -> None:
        """Forget them: they were opened, or refused, and the process is still there."""
        opened, version = await self._read()
        left = [each for each in opened if each.name not in names]
        if len(left) < len(opened):
            await self._write(left, version)

    async def _write(self, opened: list[_Opened], version: int) -> None:
        await self._documents.write(_KEY, msgspec.json.encode(_OpenedFiles(opened)), version)

    async def _read(self) -> tuple[list[_Opened], int]:
        found, version = await read_document(self._documents, _KEY, msgspec.json.Decoder(_OpenedFiles).decode)
        return [] if found is None else found.opened, version
