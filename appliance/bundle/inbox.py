"""
A watched folder: what is put into it is imported.

::

    <inbox>/
        march-1f2e3d4c5b6a.v01of02.tar     taken when all volumes are there and none grows any more
        april.tar.part                     left alone, as is .april.tar
        done/       march-...tar           with march-...tar.json, the receipt, beside each
        refused/    may.tar                with may.tar.json, the reason

What the appliance's own disk cannot take stays where it is, and is tried again.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from appliance.bundle.receipt import Receipt
from appliance.errors import BundleIncomplete, PullcacheError
from appliance.flow.durable import fsync_folder, make_folder, write_file
from appliance.interfaces import IThreads
from appliance.oci.timestamps import timestamp

INTERVAL = 5.0
"""Seconds between two looks. A file is taken when two looks find it the same: a copy may not halt for longer."""

RETRY = 300.0
"""Seconds until a file that could not be taken for a fault of this side is tried again."""

DONE = "done"
REFUSED = "refused"

_VOLUME = re.compile(r"(.+)\.v([0-9]{2,4})of([0-9]{2,4})(\.[a-z.]+)")

Run = Callable[[list[Path]], Coroutine[Any, Any, Receipt]]
"""Imports an archive, or all volumes of one."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why an archive was not imported. C{kind}: the class of the error. C{refused}: when, RFC 3339."""

    files: list[str]
    refused: str
    kind: str
    reason: str
    missing: list[str] = []


@dataclass(frozen=True)
class _Look:
    """What one look found of a file; bytes and nanoseconds."""

    size: int
    mtime: int


class Inbox:
    """Watches one folder."""

    _log = Logger()

    def __init__(self, folder: Path, run: Run, threads: IThreads, clock: IReactorTime) -> None:
        self._folder = folder
        self._run = run
        self._threads = threads
        self._clock = clock
        self._looks: dict[str, _Look] = {}
        self._not_before: dict[str, float] = {}
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._under_way: Deferred[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._looking.start(INTERVAL)

    def stop(self) -> Deferred[None]:
        """Stop watching, and cut an import under way; fires when it has ended. Its file stays for the next start."""
        if self._looking.running:
            self._looking.stop()
        ended: Deferred[None] = Deferred()
        if self._under_way is None:
            ended.callback(None)
        else:
            self._under_way.addBoth(lambda _: ended.callback(None))
            self._under_way.cancel()
        return ended

    def _look(self) -> Deferred[None]:
        """One look; fires when everything that was whole has been taken. Never fails: the next look is due anyway."""
        self._under_way = Deferred.fromCoroutine(self.look())
        self._under_way.addErrback(self._failed)
        waiting: Deferred[None] = Deferred()
        self._under_way.addBoth(self._ended, waiting)
        return waiting

    def _ended(self, _: None, waiting: Deferred[None]) -> None:
        self._under_way = None
        waiting.callback(None)

    def _failed(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.warn("{folder} cannot be looked into: {error}", folder=self._folder, error=failure.value)

    async def look(self) -> None:
        """Take what has not changed since the last call."""
        found = await self._threads.call(_files, self._folder)
        settled = [name for name, look in found.items() if self._looks.get(name) == look]
        self._looks = found
        now = self._clock.seconds()
        self._not_before = {name: at for name, at in self._not_before.items() if name in found and at > now}
        for archive in _archives(settled):
            if not any(name in self._not_before for name in archive):
                await self._take(archive)

    async def _take(self, names: list[str]) -> None:
        paths = [self._folder / name for name in names]
        try:
            receipt = await self._run(paths)
        except CancelledError:
            raise
        except PullcacheError as error:
            self._log.warn("{files} refused: {error}", files=names, error=error)
            await self._put(REFUSED, names, msgspec.json.encode(self._refusal(names, error)))
        except Exception:
            # Our disk, or a mistake of ours: the archive may be right.
            self._log.failure("{files} not imported, tried again in {seconds} s", files=names, seconds=RETRY)
            self._not_before.update(dict.fromkeys(names, self._clock.seconds() + RETRY))
        else:
            self._log.info("{files} imported", files=names)
            await self._put(DONE, names, receipt.encode())

    async def _put(self, where: str, names: Iterable[str], document: bytes) -> None:
        """Move the files away, each with the document beside it."""
        for name in names:
            try:
                await self._threads.call(_move, self._folder, name, where, document)
            except OSError as error:
                self._log.error("{name} cannot be moved to {where}: {error}", name=name, where=where, error=error)
                self._not_before[name] = self._clock.seconds() + RETRY

    def _refusal(self, names: list[str], error: PullcacheError) -> Refusal:
        return Refusal(
            files=names,
            refused=timestamp(self._clock.seconds()),
            kind=type(error).__name__,
            reason=str(error),
            missing=list(error.missing) if isinstance(error, BundleIncomplete) else [],
        )


def _files(folder: Path) -> dict[str, _Look]:
    """The files that may be archives; links and what is still being copied are none."""
    found = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name.endswith(".part"):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            found[entry.name] = _Look(status.st_size, status.st_mtime_ns)
    return found


def _archives(names: Iterable[str]) -> list[list[str]]:
    """What belongs together: a bundle's volumes once there are all of them, every other file for itself."""
    archives: list[list[str]] = []
    volumes: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        match = _VOLUME.fullmatch(name)
        if match is None:
            archives.append([name])
        else:
            volumes.setdefault((match[1], match[3], match[4]), []).append(name)
    return archives + [found for (_, count, _), found in volumes.items() if len(found) == int(count)]


def _move(folder: Path, name: str, where: str, document: bytes) -> None:
    target = folder / where
    make_folder(target)
    free = _free(target, name)
    # The document first: a file that was moved without a word would be the worse half.
    write_file(target / f"{free}.json", document, target / f".{free}.json.tmp")
    os.rename(folder / name, target / free)
    fsync_folder(target)
    fsync_folder(folder)


def _free(folder: Path, name: str) -> str:
    """C{name}, or with a number before it when that is taken: nothing that was kept is overwritten."""
    number, free = 1, name
    while os.path.lexists(folder / free):
        number += 1
        free = f"{number}-{name}"
    return free
