"""All repositories: loaded when first asked for, saved with one write for all who wait at that moment."""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from appliance.errors import DocumentDamaged
from appliance.flow.sharing import Sharing
from appliance.index.documents import previous
from appliance.index.layout import INDEX, LAYOUT
from appliance.index.repository import Repository
from appliance.interfaces import IDocuments


@dataclass
class _Document:
    """A repository and how its document stands."""

    repository: Repository
    version: int
    writing: bool = False
    touched: bool = False
    waiting: list[Deferred[None]] = field(default_factory=list)


class Repositories:
    """The repositories of one store."""

    _log = Logger()

    def __init__(self, documents: IDocuments) -> None:
        self._documents = documents
        self._loaded: dict[tuple[str, str], _Document] = {}
        self._loading: Sharing[tuple[str, str], Repository] = Sharing()

    def get(self, upstream: str, name: str) -> Deferred[Repository]:
        """Fires with the repository, empty when nothing of it is held; always the same object."""
        key = (upstream, name)
        if key in self._loaded:
            return succeed(self._loaded[key].repository)
        return self._loading.get(key, lambda: self._load(upstream, name))

    def save(self, repository: Repository) -> Deferred[None]:
        """Write the repository as it is now, or as it will be by then; fires when that is durable."""
        document = self._loaded[repository.upstream, repository.name]
        waiter: Deferred[None] = Deferred()
        document.waiting.append(waiter)
        if not document.writing:
            self._start(document)
        return waiter

    def touch(self, repository: Repository) -> None:
        """Something that is cheap to lose has changed: write it with the next L{flush}."""
        self._loaded[repository.upstream, repository.name].touched = True

    def flush(self) -> Deferred[None]:
        """Write what was touched, and wait for what is being written; failures are logged."""
        touched = [document for document in self._loaded.values() if document.touched or document.writing]
        saves = [self.save(document.repository).addErrback(self._not_saved, document) for document in touched]
        return DeferredList(saves).addCallback(lambda _: None)

    async def names(self) -> list[tuple[str, str]]:
        """Every (upstream, repository) that has a document, sorted."""
        keys = await self._documents.list((), INDEX)
        return [(key[0], "/".join(key[1:-2])) for key in keys if key[-2:] == (LAYOUT, INDEX) and len(key) > 3]

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
        document = _Document(repository, version)
        self._loaded[upstream, name] = document
        if rebuilt:
            # What was rebuilt can be served, whatever the disk says to keeping it.
            await self.save(repository).addErrback(self._not_saved, document)
        return repository

    async def _rebuild(self, upstream: str, name: str, data: bytes, error: DocumentDamaged) -> Repository:
        # Read first: should the disk fail now, nothing was set aside, and the next to ask begins again.
        repository = await self._before(upstream, name)
        aside = await self._documents.set_aside(_key(upstream, name))
        salvaged = Repository.salvage(upstream, name, data)
        repository.manifests.update(salvaged.manifests)
        repository.tags.update(salvaged.tags)
        self._log.error(
            "{error}; set aside as {aside}; {tags} tags and {manifests} manifests were rebuilt",
            error=error,
            aside=aside,
            tags=len(repository.tags),
            manifests=len(repository.manifests),
        )
        return repository

    async def _before(self, upstream: str, name: str) -> Repository:
        try:
            found = await self._documents.read(previous(_key(upstream, name)))
            return Repository(upstream, name) if found is None else Repository.decode(upstream, name, found[0])
        except DocumentDamaged:
            return Repository(upstream, name)

    def _start(self, document: _Document) -> None:
        document.writing = True
        Deferred.fromCoroutine(self._commit(document)).addErrback(
            lambda failure: self._log.failure("saving a repository", failure)
        )

    async def _commit(self, document: _Document) -> None:
        """Write until nobody waits: whoever comes during a write is served by the next one."""
        repository = document.repository
        try:
            while document.waiting:
                waiting, document.waiting = document.waiting, []
                document.touched = False
                try:
                    document.version = await self._documents.write(
                        _key(repository.upstream, repository.name), repository.encode(), document.version
                    )
                except Exception:
                    failure = Failure()
                    document.touched = True
                    for waiter in waiting:
                        waiter.errback(failure)
                else:
                    for waiter in waiting:
                        waiter.callback(None)
        finally:
            document.writing = False

    def _not_saved(self, failure: Failure, document: _Document) -> None:
        self._log.failure("{name} could not be saved", failure, name=document.repository.name)


def _key(upstream: str, name: str) -> tuple[str, ...]:
    return (upstream, *name.split("/"), LAYOUT, INDEX)
