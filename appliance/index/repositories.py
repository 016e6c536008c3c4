"""
All repositories: read when they are asked for, saved with one write for all who wait at that moment.

One repository is one object for as long as a caller has it: L{Repositories.get} gives the same one to all, so that two
writers never work on two copies. It stays in memory while a caller uses it, while it has something to be written, and
as long as it is among those used last; these are bounded in bytes. A repository without a document takes no memory once
it is not used any more, so that names that a client makes up cost nothing.

A small document is written whole with each save. What a save changes of a L{LARGE} one is appended to a journal beside
it. When no save came for a while, when the journal has grown, and at a stop, a thread writes the document whole:

 1. The repository is copied, and from then on saves go to the journal with the next number, N.
 2. The document is written from the copy. It says that journal N goes on where it ends.
 3. The journals before N are removed.

After a stop at any moment the document and the journals from its number on say all that was saved, for each line of a
journal says what something has become and not what was done to it. A document without a number has no journal: those
beside it are older than it, and an earlier version, or a save of what had become small, wrote it since.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredList, DeferredLock, execute, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.errors import DocumentDamaged, VersionConflict
from appliance.flow.disk import InlineThreads, is_refusal
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight, Waiters
from appliance.index.documents import INDEX, LAYOUT, Key, journal_of, previous
from appliance.index.journal import line
from appliance.index.repository import Changed, Repository
from appliance.interfaces import IDocuments, IThreads

BUDGET = 24 * 1024 * 1024
"""The most bytes of repositories that are kept in memory although they are not used at the moment."""

SAVE_DELAY = 0.25
"""Seconds that L{Repositories.save_soon} waits for more: the layers of an image come one after the other."""

LARGE = 128 * 1024
"""Bytes of a document from which on a save is a line of its journal: some hundreds of tags."""

SETTLE_DELAY = 10.0
"""Seconds without a save after which a document that has a journal is written whole, for other tools to read."""

T = TypeVar("T")

Place = tuple[str, str]
"""Upstream and repository."""


@dataclass
class _State:
    """
    What of a repository is written.

    @ivar version: of the document, 0 when there is none; C{size}: its bytes.
    @ivar document: is held by the one who writes the document whole.
    @ivar whole: whether the next save has to write it whole: it is small, or has no number yet.
    @ivar journal: number of the journal that saves go to, 0 when that is not known yet; C{journal_version}: of it.
    @ivar appending: whether a line is being written.
    @ivar appended: bytes of the journals that the document does not have; with C{limit} it is written whole at once,
        else C{settling} will do it.
    @ivar writing: whether a save is being written.
    @ivar touched: whether something has changed that is not written yet; C{soon}: whether a timer will write it.
    @ivar requested: whether it is to be written as it is now or later, and C{waiting}: those who wait for that.
    """

    version: int
    size: int = 0
    document: DeferredLock = field(default_factory=DeferredLock)
    whole: bool = True
    journal: int = 0
    journal_version: int = 0
    appending: bool = False
    appended: int = 0
    limit: int = LARGE
    settling: IDelayedCall | None = None
    writing: bool = False
    touched: bool = False
    soon: bool = False
    requested: bool = False
    waiting: Waiters[None] = field(default_factory=Waiters)


class Repositories:
    """The repositories of one store."""

    _log = Logger()

    def __init__(
        self,
        documents: IDocuments,
        budget: int = BUDGET,
        clock: IReactorTime | None = None,
        threads: IThreads | None = None,
        refused: Callable[[OSError], None] | None = None,
    ) -> None:
        """
        @param budget: bytes.
        @param clock: for L{save_soon} and what else is written later; C{None}: that saves at once, and only a L{flush}
            writes documents whole that have a journal.
        @param threads: read and write large documents; C{None}: that is done at once.
        @param refused: is given what the disk said where it did not take a repository that is written later; C{None}:
            it is logged.
        """
        self._threads = threads or InlineThreads()
        self._refused = refused
        self._documents = documents
        self._clock = clock
        self._budget = budget
        self._used: WeakValueDictionary[Place, Repository] = WeakValueDictionary()
        self._states: WeakKeyDictionary[Repository, _State] = WeakKeyDictionary()
        # Beside those who use them, these three keep repositories in memory.
        self._recent: LeastRecentlyUsed[Place, Repository] = LeastRecentlyUsed(budget)
        self._unsaved: set[Repository] = set()
        self._journaled: set[Repository] = set()
        self._loading: SingleFlight[Place, Repository] = SingleFlight()
        self._settling: SingleFlight[Place, None] = SingleFlight()
        # Of each that has a document and was read or saved, whether it is in memory or not.
        self._counts: dict[Place, tuple[int, int]] = {}
        # All that have a document, sorted, from the first look on.
        self._names: list[Place] | None = None
        self._changes: dict[Place, int] = {}

    def get(self, upstream: str, name: str) -> Deferred[Repository]:
        """Fires with the repository, empty when nothing of it is held; the same object for all who have it."""
        repository = self._recent.get((upstream, name))
        if repository is not None:
            return succeed(repository)
        return self.read(upstream, name).addCallback(self._keep)

    def read(self, upstream: str, name: str) -> Deferred[Repository]:
        """
        As L{get}, for callers that look at many: a repository to which they keep no reference leaves the memory again,
        and drives no other out of it.
        """
        repository = self._used.get((upstream, name))
        if repository is not None:
            return succeed(repository)
        return self._loading.run((upstream, name), lambda: self._load(upstream, name))

    def holds(self, upstream: str, name: str) -> bool:
        """Whether anything of it is held, as far as it is in memory, where it is after it was used. Immediate."""
        repository = self._used.get((upstream, name))
        return repository is not None and bool(repository.manifests or repository.blobs)

    def changes(self, upstream: str, name: str) -> int:
        """How often it was changed since the start: as long as that is the same, what was learnt of it holds."""
        return self._changes.get((upstream, name), 0)

    async def counts(self, upstream: str, name: str) -> tuple[int, int]:
        """How many tags and manifests were held when it was last read or saved; it is read when it never was."""
        if (upstream, name) not in self._counts:
            await self.read(upstream, name)
        return self._counts.get((upstream, name), (0, 0))

    def save(self, repository: Repository) -> Deferred[None]:
        """Write the repository as it is now, or as it will be by then; fires when that is durable."""
        state = self._states[repository]
        state.requested = True
        waiter = state.waiting.wait()
        self._unsaved.add(repository)
        if not state.writing:
            state.writing = True
            Deferred.fromCoroutine(self._commit(repository, state)).addErrback(
                lambda failure: self._log.failure("saving a repository", failure)
            )
        return waiter

    async def save_whole(self, repository: Repository) -> None:
        """
        As L{save}, and without a journal: the document itself names nothing any more that the repository does not hold,
        for other tools know the document only.

        @raise OSError: the disk refuses.
        """
        await self.save(repository)
        if repository in self._journaled:
            await self._write(repository, self._states[repository])

    def touch(self, repository: Repository) -> None:
        """Something that is cheap to lose has changed: write it with the next L{flush}."""
        self._states[repository].touched = True
        self._unsaved.add(repository)

    def save_soon(self, repository: Repository) -> None:
        """
        Write the repository within L{SAVE_DELAY}, once for all that changes until then; a failure is logged, and tried
        again with the next L{flush}.
        """
        state = self._states[repository]
        self.touch(repository)
        if state.soon:
            return
        if self._clock is None:
            self._save_touched(repository, state)
        else:
            state.soon = True
            self._clock.callLater(SAVE_DELAY, self._save_touched, repository, state)

    def _changed(self, place: Place) -> None:
        self._changes[place] = self._changes.get(place, 0) + 1

    def _save_touched(self, repository: Repository, state: _State) -> None:
        state.soon = False
        if state.touched:
            self.save(repository).addErrback(self._not_saved, repository)

    def flush(self, whole: bool = False) -> Deferred[None]:
        """
        Write what was touched, and wait for what is being written; failures are logged.

        @param whole: leave no journal beside a document: other tools know the document only.
        """
        saves = [self.save(repository).addErrback(self._not_saved, repository) for repository in list(self._unsaved)]
        saved = DeferredList(saves).addCallback(lambda _: None)
        for repository in self._journaled:
            state = self._states[repository]
            if state.settling is None and not whole:
                # The disk did not take the document.
                self._settle_later(repository, state)
            elif state.settling is not None and whole:
                state.settling.cancel()
                state.settling = None
        # Twice: what was under way may have begun before the last line was written.
        for _ in range(2 * whole):
            saved.addCallback(lambda _: DeferredList([self._settle(each) for each in list(self._journaled)]))
        return saved.addCallback(lambda _: None)

    async def names(self) -> Sequence[Place]:
        """Every (upstream, repository) that has a document, sorted; the same list, until another comes."""
        if self._names is None:
            keys = await self._documents.list((), INDEX)
            found = {(key[0], "/".join(key[1:-2])) for key in keys if key[-2:] == (LAYOUT, INDEX) and len(key) > 3}
            # Only this process writes here: what came meanwhile has been counted.
            self._names = sorted(found | self._counts.keys())
        return self._names

    async def _load(self, upstream: str, name: str) -> Repository:
        data, state = b"", _State(0)
        rebuilt = False
        try:
            found = await self._documents.read(_key(upstream, name))
            if found is None:
                repository = Repository(upstream, name)
            else:
                data, state.version = found
                state.size = len(data)
                repository = await self._work(state.size, Repository.decode, upstream, name, data)
                if repository.journal:
                    await self._replay(repository, state)
        except DocumentDamaged as error:
            repository, state = await self._rebuild(upstream, name, data, error), _State(0)
            rebuilt = True
        repository.when_changed = partial(self._changed, (upstream, name))
        self._used[upstream, name] = repository
        self._states[repository] = state
        if state.appended:
            self._settle_later(repository, state)
        if state.version or rebuilt:
            self._count(repository)
        if rebuilt:
            # What was rebuilt can be served, even when the disk does not take it.
            await self.save(repository).addErrback(self._not_saved, repository)
        return repository

    def _keep(self, repository: Repository) -> Repository:
        """Keep it in memory among those used last, if there is a document."""
        if self._states[repository].version:
            # One that is larger than all may be together stays until another is used: it takes longest to read.
            self._recent.put(repository.place, repository, min(repository.weight, self._budget))
        return repository

    def _count(self, repository: Repository) -> None:
        place = repository.place
        if self._names is not None and place not in self._counts:
            at = bisect_left(self._names, place)
            if self._names[at : at + 1] != [place]:
                # Another list: who was given this one may be half way through it.
                self._names = [*self._names[:at], place, *self._names[at:]]
        self._counts[place] = (len(repository.tags), len(repository.manifests))

    def _work(self, size: int, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """C{function(*args)} on so many bytes of JSON, on a thread where that takes its time."""
        return self._threads.call(function, *args) if size >= LARGE else execute(function, *args)

    async def _replay(self, repository: Repository, state: _State | None = None) -> None:
        """Apply the journals that go on where the repository's document ends; a damaged one is set aside."""
        key = _key(*repository.place)
        numbers = [number for number in await self._documents.journals(key) if number >= repository.journal]
        for number in numbers:
            damaged, size = "", 0
            try:
                if (found := await self._documents.read(journal_of(key, number))) is not None:
                    size = len(found[0])
                    if lines := await self._work(size, repository.replay, found[0]):
                        damaged = f"{lines} lines are damaged, the others were taken"
            except DocumentDamaged as error:
                damaged = str(error)
            if damaged:
                aside = await self._documents.set_aside(journal_of(key, number))
                self._log.error(
                    "journal {number} of {place}: {damaged}; set aside as {aside}",
                    number=number,
                    place="/".join(repository.place),
                    damaged=damaged,
                    aside=aside,
                )
            if state is not None:
                # Also of one that holds nothing: then it is removed.
                state.appended += size or 1
        if state is not None:
            # Nothing is appended to what an earlier process left: it may end with half a line.
            state.journal = max([repository.journal, *(number + 1 for number in numbers)])
            state.whole, state.limit = state.size < LARGE, max(LARGE, state.size // 2)

    async def _rebuild(self, upstream: str, name: str, data: bytes, error: DocumentDamaged) -> Repository:
        """From the document before the last write, and from the descriptors of the damaged one that are whole."""
        # Read first: should the disk fail now, nothing was set aside, and the next caller begins again.
        repository = Repository(upstream, name)
        with suppress(DocumentDamaged):
            if (found := await self._documents.read(previous(_key(upstream, name)))) is not None:
                repository = await self._work(len(found[0]), Repository.decode, upstream, name, found[0])
        salvaged = await self._work(len(data), Repository.salvage, upstream, name, data)
        repository.overlay(salvaged)
        repository.journal = salvaged.journal
        await self._replay(repository)
        aside = await self._documents.set_aside(_key(upstream, name))
        self._log.error(
            "{error}; set aside as {aside}; {tags} tags and {manifests} manifests were rebuilt",
            error=error,
            aside=aside,
            tags=len(repository.tags),
            manifests=len(repository.manifests),
        )
        return repository

    async def _commit(self, repository: Repository, state: _State) -> None:
        """Write until no caller waits: one that comes during a write is served by the next write."""
        try:
            while state.requested:
                waiting, state.waiting = state.waiting, Waiters()
                state.requested = state.touched = False
                changed = repository.take_changed()
                try:
                    if not state.whole:
                        await self._append(repository, state, changed)
                    if state.whole:
                        await self._write(repository, state)
                except Exception:
                    repository.note(changed)
                    state.touched = True
                    waiting.fire(Failure())
                else:
                    if state.version:
                        self._count(self._keep(repository))
                    waiting.fire(None)
        finally:
            state.writing = False
            if not state.touched:
                self._unsaved.discard(repository)

    async def _append(self, repository: Repository, state: _State, changed: Changed) -> None:
        """Add what changed to the journal; where that is not as it was left, the document has to be written whole."""
        if not changed:
            return
        number, data = state.journal, line(repository.encode_changes(changed))
        state.appending = True
        try:
            key = journal_of(_key(*repository.place), number)
            version = await self._documents.append(key, data, state.journal_version)
        except VersionConflict as error:
            self._log.warn("{error}; the document is written whole", error=error)
            state.whole, state.journal = True, 0
            return
        finally:
            state.appending = False
        if state.journal == number:
            state.journal_version = version
        state.appended += len(data)
        self._journaled.add(repository)
        if state.appended >= state.limit:
            state.limit += state.limit
            self._settle(repository)
        elif state.settling is not None:
            state.settling.reset(SETTLE_DELAY)
        else:
            self._settle_later(repository, state)

    # -- the document whole -----------------------------------------------------------------------------------------

    async def _write(self, repository: Repository, state: _State) -> None:
        """Write the document as the repository is now."""
        key = _key(*repository.place)
        await state.document.acquire()
        try:
            appended, number = state.appended, 0
            data = repository.encode() if state.size < LARGE else b""
            if not 0 < len(data) < LARGE:
                number = await self._next_journal(key, state)
                data = await self._threads.call(repository.copy().encode, number)
            state.version = await self._documents.write(key, data, state.version)
            state.size, state.whole = len(data), len(data) < LARGE
            state.limit = max(LARGE, state.size // 2)
            if state.journal:
                await self._remove_journals(key, number)
                state.journal = number
            state.appended -= appended
            if not state.appended:
                self._journaled.discard(repository)
                if state.settling is not None:
                    state.settling.cancel()
                    state.settling = None
                if repository.is_empty and not state.appending:
                    await self._remove(repository, state)
        finally:
            state.document.release()

    async def _remove(self, repository: Repository, state: _State) -> None:
        """
        Leave no document of a repository that holds nothing. It was written before: should a power cut bring it back,
        it holds nothing.
        """
        key, place = _key(*repository.place), repository.place
        with suppress(OSError):
            await self._documents.remove(previous(key))
            await self._documents.remove(key)
            state.version = state.size = 0
            state.whole = True
            self._recent.drop(place)
            self._counts.pop(place, None)
            if self._names is not None:
                self._names = [each for each in self._names if each != place]

    async def _next_journal(self, key: Key, state: _State) -> int:
        """The number of the journal that goes on where the document ends that is written now; saves go there now."""
        if not state.journal:
            # Those that are there are older than the document.
            state.journal = max(await self._documents.journals(key), default=0) + 1
            state.journal_version = 0
        elif state.journal_version or state.appending:
            state.journal += 1
            state.journal_version = 0
        return state.journal

    async def _remove_journals(self, key: Key, number: int) -> None:
        """Those before C{number}, or all for 0: the document has what they say."""
        # What stays goes with the next write.
        with suppress(OSError):
            for each in await self._documents.journals(key):
                if not number or each < number:
                    await self._documents.remove(journal_of(key, each))

    def _settle_later(self, repository: Repository, state: _State) -> None:
        def settle() -> None:
            state.settling = None
            self._settle(repository)

        self._journaled.add(repository)
        if self._clock is not None:
            state.settling = self._clock.callLater(SETTLE_DELAY, settle)

    def _settle(self, repository: Repository) -> Deferred[None]:
        """Write the document of a repository whole that has a journal; fires when it is, or not, which is logged."""

        settling = self._settling.run(repository.place, lambda: self._write(repository, self._states[repository]))
        return settling.addErrback(self._not_saved, repository)

    def _not_saved(self, failure: Failure, repository: Repository) -> None:
        if self._refused is not None and is_refusal(failure.value):
            self._refused(failure.value)
        else:
            self._log.failure("{name} could not be saved", failure, name=repository.name)


def _key(upstream: str, name: str) -> Key:
    return (upstream, *name.split("/"), LAYOUT, INDEX)
