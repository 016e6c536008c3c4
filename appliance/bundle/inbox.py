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

Users who may put files here are not trusted with the rest of the machine: no link is followed, nothing but regular
files is opened, and nothing that is there is written over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from appliance.bundle.importer import ImportProgress
from appliance.bundle.inboxfolder import DONE, REFUSED, FileState, Verdict, archives_of, fault_of_name, files_in, move
from appliance.bundle.receipt import Receipt, Waiting
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
from appliance.index.documents import read_document
from appliance.interfaces import IAudit, IDocuments, IThreads
from appliance.oci.timestamps import timestamp

INTERVAL = 5.0
"""Seconds between two scans. A file is taken when two scans find it the same: a copy may not halt for longer."""

RETRY = 300.0
"""Seconds until a file that could not be taken is tried again; twice as many each time, up to L{MAX_RETRY}."""

MAX_RETRY = 3600.0

STALLED = 600.0
"""Seconds for which an archive that ends too early must stay as it is to be refused: its copy may only have halted."""

MAX_OPENINGS = 2
"""How often an archive is opened that the process did not outlive."""

MENDABLE = (OSError, StoreError, BundleNotRead, BundleNotStored, BundleIncomplete, BundleUpstreamUnknown)
"""
What time, room on a disk, another bundle or a line of the configuration can mend. Any other L{PullcacheError} is about
the archive itself.
"""

_OPENED = ("inbox", "opened.json")

Run = Callable[[list[Path], Callable[[ImportProgress], None]], Coroutine[Any, Any, Receipt]]
"""Imports an archive, or all volumes of one, and calls its second argument with how far it is."""


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


@dataclass(frozen=True)
class _Retry:
    """
    An archive that is to be tried again.

    @ivar states: its files as they were.
    @ivar error: why it could not be taken.
    @ivar since: when that was first found, and C{due}: when it is tried again; seconds of the clock.
    @ivar times: how often it was tried.
    @ivar verdict: what is to become of it, when only its files could not be moved.
    """

    states: tuple[FileState, ...]
    error: Exception
    since: float
    due: float
    times: int
    verdict: Verdict | None = None


class Inbox:
    """Watches one folder."""

    _log = Logger()

    def __init__(
        self,
        folder: Path,
        run: Run,
        threads: IThreads,
        clock: IReactorTime,
        documents: IDocuments,
        audit: IAudit,
    ) -> None:
        """
        @param documents: of the appliance's state.
        """
        self._folder = folder
        self._run = run
        self._threads = threads
        self._clock = clock
        self._audit = audit
        self._openings = _Openings(documents)
        # Every file of the last scan, and when it was first found like that.
        self._files: dict[str, tuple[FileState, float]] = {}
        # By the names of its files; what was tried last stands at the end.
        self._retries: dict[tuple[str, ...], _Retry] = {}
        # What is not even tried, by the names of its files, with the reason and since when.
        self._untried: dict[tuple[str, ...], tuple[str, float]] = {}
        # What is wrong with the folder itself, and since when.
        self._fault: tuple[str, float] | None = None
        self._scanning = LoopingCall(self._scan)
        self._scanning.clock = clock
        self._under_way: Deferred[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._scanning.start(INTERVAL)

    def stop(self) -> Deferred[None]:
        """Stop watching, and cut an import under way; fires when it has ended. Its file stays for the next start."""
        if self._scanning.running:
            self._scanning.stop()
        if self._under_way is None:
            return succeed(None)
        end = ended(self._under_way)
        self._under_way.cancel()
        return end

    def waiting(self) -> list[Waiting]:
        """What cannot be taken now, for operators; the folder itself first, when that is at fault."""

        def moment(seconds: float) -> str:
            return timestamp(wall_at(self._clock, seconds))

        found = []
        if self._fault is not None:
            reason, since = self._fault
            found.append(Waiting(files=[str(self._folder)], kind="", reason=reason, since=moment(since)))
        for names, retry in self._retries.items():
            kind, reason = type(retry.error).__name__, str(retry.error)
            first, due = moment(retry.since), moment(retry.due)
            found.append(Waiting(files=[*names], kind=kind, reason=reason, since=first, next=due))
        for names, (reason, at) in self._untried.items():
            found.append(Waiting(files=[*names], kind="", reason=reason, since=moment(at)))
        return found

    def imported(self) -> None:
        """Something was imported, from here or not: what lacks something is tried at the next scan."""
        self._retry_soon(BundleIncomplete)

    def configured(self) -> None:
        """The configuration was read again: what lacks an upstream is tried at the next scan."""
        self._retry_soon(BundleUpstreamUnknown)

    def _retry_soon(self, kind: type[BundleError]) -> None:
        for names in self._failed_with(kind):
            self._retries[names] = replace(self._retries[names], due=self._clock.seconds())

    def _failed_with(self, kind: type[BundleError]) -> list[tuple[str, ...]]:
        return [names for names, retry in self._retries.items() if isinstance(retry.error, kind)]

    # -- one scan ---------------------------------------------------------------------------------------------------

    def _scan(self) -> Deferred[None]:
        """Scan the folder; fires when everything that was whole has been taken, and never fails."""

        async def scan() -> None:
            try:
                await self._take_what_settled()
            except CancelledError:
                pass
            except Exception as error:
                reason = str(error)
                if self._fault is None or self._fault[0] != reason:
                    self._log.warn("{folder} cannot be looked into: {reason}", folder=self._folder, reason=reason)
                    self._fault = (reason, self._clock.seconds())

        def over(_: None) -> None:
            self._under_way = None

        work = self._under_way = Deferred.fromCoroutine(scan())
        work.addCallback(over)
        return ended(work)

    async def _take_what_settled(self) -> None:
        """Take what has not changed since the last scan; what lacks another bundle comes right after that one."""
        found = await self._threads.call(files_in, self._folder)
        self._fault = None
        now = self._clock.seconds()
        before, self._files = self._files, {}
        for name, state in found.items():
            known = before.get(name)
            self._files[name] = known if known is not None and known[0] == state else (state, now)
        self._retries = {names: retry for names, retry in self._retries.items() if self._states(names) == retry.states}
        # First what was imported or refused, and could not be moved.
        for names, retry in list(self._retries.items()):
            if retry.verdict is not None and retry.due <= now:
                await self._move(names, retry.verdict)
        settled = {name for name, seen in self._files.items() if seen is before.get(name)}
        waiting = deque(
            names
            for names in self._archives(now)
            if settled.issuperset(names) and (names not in self._retries or self._retries[names].due <= now)
        )
        while waiting:
            if await self._take(waiting.popleft()):
                # The one tried last first: in a row of increments that lay the wrong way round it is the next base.
                waiting.extendleft([each for each in self._failed_with(BundleIncomplete) if each not in waiting])

    def _states(self, names: Iterable[str]) -> tuple[FileState, ...]:
        return tuple(self._files[name][0] for name in names if name in self._files)

    def _archives(self, now: float) -> list[tuple[str, ...]]:
        """The archives that can be taken and moved; what cannot is noted, and logged once."""
        moving = {name for names, retry in self._retries.items() if retry.verdict is not None for name in names}
        faults = {name: fault_of_name(name) for name in self._files if name not in moving}
        archives, incomplete = archives_of(name for name, fault in faults.items() if not fault)
        untried = {(ascii(name),): fault for name, fault in faults.items() if fault} | incomplete
        known, self._untried = self._untried, {}
        for files, reason in untried.items():
            if files in known and known[files][0] == reason:
                self._untried[files] = known[files]
            else:
                self._untried[files] = (reason, now)
                self._log.info("{files} not taken: {reason}", files=files, reason=reason)
        return archives

    # -- one archive ------------------------------------------------------------------------------------------------

    async def _take(self, names: tuple[str, ...]) -> bool:
        """Import an archive, and move it; whether it was imported."""
        try:
            receipt = await self._imported(names)
        except CancelledError:
            raise
        except Exception as error:
            now = self._clock.seconds()
            settled = max(self._files[name][1] for name in names)
            if isinstance(error, BundleDamaged) and error.truncated and now < settled + STALLED:
                self._retry(names, error, settled + STALLED)
            elif isinstance(error, PullcacheError) and not isinstance(error, MENDABLE):
                self._log.warn("{files} refused: {error}", files=names, error=error)
                self._audit.note("import", " ".join(names), "refused", means="inbox", why=str(error))
                refusal = InboxRefusal(
                    files=[*names],
                    refused=timestamp(wall(self._clock)),
                    kind=type(error).__name__,
                    reason=str(error),
                )
                await self._move(names, Verdict(REFUSED, msgspec.json.encode(refusal)))
            else:
                if not isinstance(error, (PullcacheError, OSError)):
                    self._log.failure("{files}: a mistake of ours", files=names)
                before = self._retries.get(names)
                if before is None or str(before.error) != str(error):
                    self._audit.note("import", " ".join(names), "failed", means="inbox", why=str(error))
                self._retry(names, error)
            return False
        self._log.info("{files} imported", files=names)
        self._audit.note("import", " ".join(names), "done", means="inbox", why=f"receipt {receipt.id}")
        await self._move(names, Verdict(DONE, receipt.encode()))
        return True

    async def _imported(self, names: tuple[str, ...]) -> Receipt:
        """Import it. Raises L{BundleDamaged} when opening it was what the process died of."""
        states = dict(zip(names, self._states(names), strict=True))
        files = {name: (state.size, state.mtime) for name, state in states.items()}
        try:
            may_open = await self._openings.begin(files, list(self._files))
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
            try:
                await self._openings.end(names)
            except (OSError, StoreError) as error:
                # Then one opening too many is counted.
                self._log.warn("{files}: that they were opened cannot be noted: {error}", files=names, error=error)

    def _retry(
        self, names: tuple[str, ...], error: Exception, due: float | None = None, verdict: Verdict | None = None
    ) -> None:
        """Try it again later, and say so."""
        now = self._clock.seconds()
        before = self._retries.pop(names, None)
        times = 1 if before is None else before.times + 1
        due = now + min(RETRY * 2.0 ** min(times - 1, 10), MAX_RETRY) if due is None else due
        since = now if before is None else before.since
        self._retries[names] = _Retry(self._states(names), error, since, due, times, verdict)
        self._log.warn(
            "{files} stay here and are tried again in {seconds} s: {error}",
            files=names,
            seconds=round(due - now),
            error=error,
        )

    async def _move(self, names: tuple[str, ...], verdict: Verdict) -> None:
        """Move the files away, each with the document beside it."""
        failed: dict[str, Exception] = {}
        for name in names:
            try:
                await self._threads.call(move, self._folder, name, self._files[name][0], verdict)
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
        before = self._retries.pop(names, None)
        if failed:
            if before is not None:
                self._retries[*failed,] = before
            self._retry(tuple(failed), next(iter(failed.values())), verdict=verdict)


# -- what was being opened when the process ended ---------------------------------------------------------------------


class _Opened(msgspec.Struct, frozen=True):
    """A file by name, bytes and time (nanoseconds), and how often it was opened without an end."""

    name: str
    size: int
    mtime: int
    times: int


class _OpenedFiles(msgspec.Struct, frozen=True):
    opened: list[_Opened]


class _Openings:
    """
    Which archives were being opened when the process ended, kept as C{state/inbox/opened.json}.

    An archive is written down before it is opened and crossed out when that has ended in any way, or has come as far as
    its bulk data. One that stands there at the next start was being opened when the process was killed: by a power cut,
    or because opening it took all memory. So it is given a second time, and no third one.

    Every method may raise L{OSError}.
    """

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
        await self._documents.write(_OPENED, msgspec.json.encode(_OpenedFiles(opened)), version)

    async def _read(self) -> tuple[list[_Opened], int]:
        found, version = await read_document(self._documents, _OPENED, msgspec.json.Decoder(_OpenedFiles).decode)
        return [] if found is None else found.opened, version
