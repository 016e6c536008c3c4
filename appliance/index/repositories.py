"""
All repositories: read when they are asked for, saved with one write for all who wait at that moment.

One repository is one object for as long as a caller has it: L{Repositories.get} gives the same one to all, so that two
writers never work on two copies. It stays in memory while a caller uses it, while it has something to be written, and
as long as it is among those used last; these are bounded in bytes. A repository without a document takes no memory once
it is not used any more, so that names that a client makes up cost nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.errors import DocumentDamaged
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight, Waiters
from appliance.index.documents import INDEX, LAYOUT, previous
from appliance.index.repository import Repository
from appliance.interfaces import IDocuments

BUDGET = 64 * 1024 * 1024
"""The most bytes of repositories that are kept in memory although they are not used at the moment."""

SAVE_DELAY = 0.25
"""Seconds that L{Repositories.save_soon} waits for more: the layers of an image come one after the other."""

Place = tuple[str, str]
"""Upstream and repository."""


@dataclass
class _State:
    """
    What of a repository is written.

    @ivar version: of the document, 0 when there is none.
    @ivar writing: whether the document is being written.
    @ivar touched: whether something has changed that is not written yet; C{soon}: whether a timer will write it.
    @ivar requested: whether it is to be written as it is now or later, and C{waiting}: those who wait for that.
    """

    version: int
    writing: bool = False
    touched: bool = False
    soon: bool = False
    requested: bool = False
    waiting: Waiters[None] = field(default_factory=Waiters)


class Repositories:
    """The repositories of one store."""

    _log = Logger()

    def __init__(self, documents: IDocuments, budget: int = BUDGET, clock: IReactorTime | None = None) -> None:
        """
        @param budget: bytes.
        @param clock: for L{save_soon}; C{None}: it saves at once.
        """
        self._documents = documents
        self._clock = clock
        self._budget = budget
        self._used: WeakValueDictionary[Place, Repository] = WeakValueDictionary()
        self._states: WeakKeyDictionary[Repository, _State] = WeakKeyDictionary()
        # Beside those who use them, these two keep repositories in memory.
        self._recent: LeastRecentlyUsed[Place, Repository] = LeastRecentlyUsed(budget)
        self._unsaved: set[Repository] = set()
        self._loading: SingleFlight[Place, Repository] = SingleFlight()
        # Of each that has a document, whether it is in memory or not: what was found at the first look, and counted.
        self._walked: list[Place] | None = None
        self._counts: dict[Place, tuple[int, int]] = {}

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

    def _save_touched(self, repository: Repository, state: _State) -> None:
        state.soon = False
        if state.touched:
            self.save(repository).addErrback(self._not_saved, repository)

    def flush(self) -> Deferred[None]:
        """Write what was touched, and wait for what is being written; failures are logged."""
        saves = [self.save(repository).addErrback(self._not_saved, repository) for repository in list(self._unsaved)]
        return DeferredList(saves).addCallback(lambda _: None)

    async def names(self) -> list[tuple[str, str]]:
        """Every (upstream, repository) that has a document, sorted."""
        if self._walked is None:
            keys = await self._documents.list((), INDEX)
            self._walked = [
                (key[0], "/".join(key[1:-2])) for key in keys if key[-2:] == (LAYOUT, INDEX) and len(key) > 3
            ]
        # Only this process writes here: what came since has been counted.
        return sorted({*self._walked, *self._counts})

    async def _load(self, upstream: str, name: str) -> Repository:
        data, version = b"", 0
        rebuilt = False
        try:
            found = await self._documents.read(_key(upstream, name))
            if found is None:
                repository = Repository(upstream, name)
            else:
                data, version = found
                repository = Repository.decode(upstream, name, data)
        except DocumentDamaged as error:
            repository, version = await self._rebuild(upstream, name, data, error), 0
            rebuilt = True
        self._used[upstream, name] = repository
        self._states[repository] = _State(version)
        if version or rebuilt:
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
        self._counts[repository.place] = (len(repository.tags), len(repository.manifests))

    async def _rebuild(self, upstream: str, name: str, data: bytes, error: DocumentDamaged) -> Repository:
        """From the document before the last write, and from the descriptors of the damaged one that are whole."""
        # Read first: should the disk fail now, nothing was set aside, and the next caller begins again.
        repository = Repository(upstream, name)
        with suppress(DocumentDamaged):
            if (found := await self._documents.read(previous(_key(upstream, name)))) is not None:
                repository = Repository.decode(upstream, name, found[0])
        aside = await self._documents.set_aside(_key(upstream, name))
        repository.overlay(Repository.salvage(upstream, name, data))
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
        key = _key(*repository.place)
        try:
            while state.requested:
                waiting, state.waiting = state.waiting, Waiters()
                state.requested = state.touched = False
                try:
                    state.version = await self._documents.write(key, repository.encode(), state.version)
                except Exception:
                    state.touched = True
                    waiting.fire(Failure())
                else:
                    self._count(self._keep(repository))
                    waiting.fire(None)
        finally:
            state.writing = False
            if not state.touched:
                self._unsaved.discard(repository)

    def _not_saved(self, failure: Failure, repository: Repository) -> None:
        self._log.failure("{name} could not be saved", failure, name=repository.name)


def _key(upstream: str, name: str) -> tuple[str, ...]:
    return (upstream, *name.split("/"), LAYOUT, INDEX)
