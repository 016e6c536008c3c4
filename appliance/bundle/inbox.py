"""
A watched folder: what is put into it is imported.

::

    <inbox>/
        march-1f2e3d4c5b6a.v01of02.tar     taken when all volumes are there and none grows any more
        april.tar.part                     left alone, as is .april.tar
        done/       march-...tar           with march-...tar.json, the receipt, beside each
        refused/    may.tar                with may.tar.json, the reason

Only what is wrong with an archive itself (damaged, not trusted, too new) moves it to C{refused/}. What time, room on a
disk or another bundle can mend leaves it where it is: it is tried again after a while, when it changes, and, where it
lacks what another bundle brings or an upstream that is not configured, as soon as one was imported or the configuration
was read again.

Whoever may put files here is not trusted with the rest of the machine: no link is followed, nothing but regular files
is opened, and nothing that is there is written over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from appliance.bundle.importer import ImportProgress
from appliance.bundle.inboxfolder import DONE, REFUSED, Look, Verdict, archives_of, fault_of_name, files_in, move
from appliance.bundle.openings import MAX_OPENINGS, Openings
from appliance.bundle.receipt import Receipt
from appliance.errors import (
    BundleDamaged,
    BundleError,
    BundleIncomplete,
    BundleNotRead,
    BundleNotStored,
    BundleUpstreamUnknown,
    PullcacheError,
    StoreError,
)
from appliance.flow.clock import wall, wall_at
from appliance.flow.singleflight import ended
from appliance.interfaces import IDocuments, IThreads
from appliance.oci.timestamps import timestamp

INTERVAL = 5.0
"""Seconds between two looks. A file is taken when two looks find it the same: a copy may not halt for longer."""

RETRY = 300.0
"""Seconds until a file that could not be taken is tried again; twice as many each time, up to L{MAX_RETRY}."""

MAX_RETRY = 3600.0

STALLED = 600.0
"""Seconds for which an archive that ends too early must stay as it is to be refused: its copy may only have halted."""

MENDABLE = (OSError, StoreError, BundleNotRead, BundleNotStored, BundleIncomplete, BundleUpstreamUnknown)
"""
What time, room on a disk, another bundle or a line of the configuration can mend. Any other L{PullcacheError} is about
the archive itself.
"""

Run = Callable[[list[Path], Callable[[ImportProgress], None]], Coroutine[Any, Any, Receipt]]
"""Imports an archive, or all volumes of one; tells how far it is."""


class InboxRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """
    Why an archive was not imported.

    @ivar refused: when, RFC 3339.
    @ivar kind: the class of the error.
    @ivar missing: nothing: what lacks something stays in the inbox.
    """

    files: list[str]
    refused: str
    kind: str
    reason: str
    missing: list[str] = []


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """
    What lies in the inbox and cannot be taken now.

    @ivar kind: the class of the error, C{""} for what no error was raised for; C{reason}: why, in words.
    @ivar since: when that was first found, RFC 3339.
    @ivar next: when it is tried again, RFC 3339; C{None} when that depends on the file.
    """

    files: list[str]
    kind: str
    reason: str
    since: str
    next: str | None = None


@dataclass(frozen=True)
class _Put:
    """
    An archive that was put off.

    @ivar looks: its files as they were.
    @ivar error: why.
    @ivar since: when it was first put off, and C{due}: when it is tried again; seconds of the clock.
    @ivar times: how often it was put off.
    @ivar verdict: what is to become of it, when only its files could not be moved.
    """

    looks: tuple[Look, ...]
    error: Exception
    since: float
    due: float
    times: int
    verdict: Verdict | None = None


class Inbox:
    """Watches one folder."""

    _log = Logger()

    def __init__(self, folder: Path, run: Run, threads: IThreads, clock: IReactorTime, documents: IDocuments) -> None:
        """
        @param documents: of the appliance's state.
        """
        self._folder = folder
        self._run = run
        self._threads = threads
        self._clock = clock
        self._openings = Openings(documents)
        # Every file of the last look, and when it was first found like that.
        self._looks: dict[str, tuple[Look, float]] = {}
        # By its files; what was put off last stands at the end.
        self._put_off: dict[tuple[str, ...], _Put] = {}
        # What is not even tried, by its files, with the reason and since when.
        self._left: dict[tuple[str, ...], tuple[str, float]] = {}
        self._fault: tuple[str, float] | None = None
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
        if self._under_way is None:
            return succeed(None)
        end = ended(self._under_way)
        self._under_way.cancel()
        return end

    def waiting(self) -> list[Waiting]:
        """What cannot be taken now, for operators; the folder itself first, when that is at fault."""
        found = []
        if self._fault is not None:
            reason, since = self._fault
            found.append(Waiting(files=[str(self._folder)], kind="", reason=reason, since=self._moment(since)))
        for names, put in self._put_off.items():
            kind = type(put.error).__name__
            first, due = self._moment(put.since), self._moment(put.due)
            found.append(Waiting(files=[*names], kind=kind, reason=str(put.error), since=first, next=due))
        for names, (reason, at) in self._left.items():
            found.append(Waiting(files=[*names], kind="", reason=reason, since=self._moment(at)))
        return found

    def _moment(self, seconds: float) -> str:
        return timestamp(wall_at(self._clock, seconds))

    def imported(self) -> None:
        """Something was imported, from here or not: what lacks something is tried at the next look."""
        self._hurry(BundleIncomplete)

    def configured(self) -> None:
        """The configuration was read again: what lacks an upstream is tried at the next look."""
        self._hurry(BundleUpstreamUnknown)

    def _hurry(self, kind: type[BundleError]) -> None:
        now = self._clock.seconds()
        for names in self._put_off_for(kind):
            self._put_off[names] = replace(self._put_off[names], due=now)

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
        if failure.check(CancelledError):
            return
        reason = str(failure.value)
        if self._fault is None or self._fault[0] != reason:
            self._log.warn("{folder} cannot be looked into: {reason}", folder=self._folder, reason=reason)
            self._fault = (reason, self._clock.seconds())

    async def look(self) -> None:
        """Take what has not changed since the last call; what lacks another bundle comes right after that one."""
        found = await self._threads.call(files_in, self._folder)
        self._fault = None
        now = self._clock.seconds()
        before, self._looks = self._looks, {}
        for name, look in found.items():
            known = before.get(name)
            self._looks[name] = known if known is not None and known[0] == look else (look, now)
        self._put_off = {names: put for names, put in self._put_off.items() if self._looked(names) == put.looks}
        await self._move_again(now)
        archives = self._usable(now)
        settled = {name for name, seen in self._looks.items() if seen is before.get(name)}
        waiting = deque(names for names in archives if settled.issuperset(names) and self._is_due(names, now))
        while waiting:
            if await self._take(waiting.popleft()):
                # The one put off last first: in a row of increments that lay the wrong way round it is the next base.
                waiting.extendleft([each for each in self._put_off_for(BundleIncomplete) if each not in waiting])

    def _looked(self, names: Iterable[str]) -> tuple[Look, ...]:
        return tuple(self._looks[name][0] for name in names if name in self._looks)

    def _put_off_for(self, kind: type[BundleError]) -> list[tuple[str, ...]]:
        """What was put off with such an error."""
        return [names for names, put in self._put_off.items() if isinstance(put.error, kind)]

    def _is_due(self, names: tuple[str, ...], now: float) -> bool:
        return names not in self._put_off or self._put_off[names].due <= now

    def _usable(self, now: float) -> list[tuple[str, ...]]:
        """The archives that can be taken and moved; what cannot is noted, and logged once."""
        judged = {name for names, put in self._put_off.items() if put.verdict is not None for name in names}
        faults = {name: fault_of_name(name) for name in self._looks if name not in judged}
        archives, incomplete = archives_of(name for name, fault in faults.items() if not fault)
        left = {(ascii(name),): fault for name, fault in faults.items() if fault} | incomplete
        known, self._left = self._left, {}
        for files, reason in left.items():
            if files in known and known[files][0] == reason:
                self._left[files] = known[files]
            else:
                self._left[files] = (reason, now)
                self._log.info("{files} not taken: {reason}", files=files, reason=reason)
        return archives

    async def _take(self, names: tuple[str, ...]) -> bool:
        """Import an archive, and move it; whether it was imported."""
        try:
            receipt = await self._imported(names)
        except CancelledError:
            raise
        except Exception as error:
            await self._not_imported(names, error)
            return False
        self._log.info("{files} imported", files=names)
        await self._move(names, Verdict(DONE, receipt.encode()))
        return True

    async def _imported(self, names: tuple[str, ...]) -> Receipt:
        """Import it. Raises L{BundleDamaged} when opening it was what the process died of."""
        looks = dict(zip(names, self._looked(names), strict=True))
        files = {name: (look.size, look.mtime) for name, look in looks.items()}
        try:
            may_open = await self._openings.begin(files, list(self._looks))
        except OSError as error:
            raise BundleNotStored(f"the store cannot be written: {error.strerror or error}; make room in it") from error
        if not may_open:
            await self._openings.end(names)
            raise BundleDamaged(
                f"{names[0]}: the appliance ended {MAX_OPENINGS} times while it was opening this; if that had another"
                " reason, move it back"
            )
        opened: list[Deferred[None]] = []

        def progressed(progress: ImportProgress) -> None:
            # What it was opened for is known by now, and storing it may take hours.
            if progress.stage == "storing" and not opened:
                opened.append(Deferred.fromCoroutine(self._openings.end(names)))
                opened[0].addErrback(lambda failure: self._log.warn("{reason}", reason=failure.value))

        try:
            return await self._run([self._folder / name for name in names], progressed)
        finally:
            if opened:
                await opened[0]
            await self._closed(names)

    async def _closed(self, names: tuple[str, ...]) -> None:
        try:
            await self._openings.end(names)
        except (OSError, StoreError) as error:
            # Then one opening too many is counted.
            self._log.warn("{files}: that they were opened cannot be noted: {error}", files=names, error=error)

    async def _not_imported(self, names: tuple[str, ...], error: Exception) -> None:
        """Refuse what is wrong, put off what may become right."""
        now = self._clock.seconds()
        settled = max(self._looks[name][1] for name in names)
        if isinstance(error, BundleDamaged) and error.truncated and now < settled + STALLED:
            self._put(names, error, settled + STALLED)
        elif isinstance(error, PullcacheError) and not isinstance(error, MENDABLE):
            self._log.warn("{files} refused: {error}", files=names, error=error)
            await self._move(names, Verdict(REFUSED, msgspec.json.encode(self._refusal(names, error))))
        else:
            if not isinstance(error, (PullcacheError, OSError)):
                self._log.failure("{files}: a mistake of ours", files=names)
            self._put(names, error)

    def _put(
        self, names: tuple[str, ...], error: Exception, due: float | None = None, verdict: Verdict | None = None
    ) -> None:
        """Put off, and say so."""
        now = self._clock.seconds()
        before = self._put_off.pop(names, None)
        times = 1 if before is None else before.times + 1
        due = now + min(RETRY * 2.0 ** min(times - 1, 10), MAX_RETRY) if due is None else due
        since = now if before is None else before.since
        self._put_off[names] = _Put(self._looked(names), error, since, due, times, verdict)
        self._log.warn(
            "{files} stay here and are tried again in {seconds} s: {error}",
            files=names,
            seconds=round(due - now),
            error=error,
        )

    async def _move_again(self, now: float) -> None:
        """Move what was imported or refused, and could not be moved."""
        for names, put in list(self._put_off.items()):
            if put.verdict is not None and put.due <= now:
                await self._move(names, put.verdict)

    async def _move(self, names: tuple[str, ...], verdict: Verdict) -> None:
        """Move the files away, each with the document beside it."""
        failed: dict[str, Exception] = {}
        for name in names:
            try:
                await self._threads.call(move, self._folder, name, self._looks[name][0], verdict)
            except FileNotFoundError:
                self._log.warn("{name} is not there any more", name=name)
            except BundleError as error:
                failed[name] = error
            except OSError as error:
                what = "is imported" if verdict.where == DONE else "is refused"
                failed[name] = OSError(
                    f"{name}: it {what}, and cannot be moved to {verdict.where}/: {error.strerror or error}; make room"
                    " there, and see who may write there"
                )
        before = self._put_off.pop(names, None)
        if failed:
            if before is not None:
                self._put_off[*failed,] = before
            self._put(tuple(failed), next(iter(failed.values())), verdict=verdict)

    def _refusal(self, names: Sequence[str], error: PullcacheError) -> InboxRefusal:
        return InboxRefusal(
            files=[*names],
            refused=timestamp(wall(self._clock)),
            kind=type(error).__name__,
            reason=str(error),
        )
