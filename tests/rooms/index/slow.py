"""Documents whose reads and writes wait, and a test case with helpers for what fires at once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IDocuments
from appliance.oci.digest import Digest

KEY = ("docker.io", "library", "nginx", "_layout", "index.json")
WHERE = ("docker.io", "library/nginx")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class SlowDocuments(MemoryDocuments):
    """Reads and writes wait until they are let go; a write takes its bytes at once, as a thread does."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Deferred[None]] = []
        self.writes: list[tuple[Deferred[None], Repository]] = []
        self.slow = True

    def read(self, key: tuple[str, ...]) -> Deferred[tuple[bytes, int] | None]:
        """See L{IDocuments.read}."""
        gate: Deferred[None] = Deferred()
        self.reads.append(gate)
        if not self.slow:
            gate.callback(None)
        return gate.addCallback(lambda _: MemoryDocuments.read(self, key))

    def write(self, key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        """See L{IDocuments.write}."""
        gate: Deferred[None] = Deferred()
        self.writes.append((gate, Repository.decode(*WHERE, data)))
        if not self.slow:
            gate.callback(None)
        return gate.addCallback(lambda _: MemoryDocuments.write(self, key, data, replaces))


def hold(repository: Repository, tag: str) -> None:
    digest = Digest.of(tag.encode())
    repository.hold(digest, MANIFEST, 7)
    repository.tag(tag, digest, 1_700_000_000.0)


class RepositoriesCase(SynchronousTestCase):
    """With helpers for what fires at once."""

    def over(self, documents: IDocuments) -> tuple[Repositories, Repository]:
        repositories = Repositories(documents)
        return repositories, self.successResultOf(repositories.get(*WHERE))

    def awaited(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def stored(self, documents: IDocuments, *tags: str) -> bytes:
        """Save a repository with these tags, one save a tag; the document."""
        repositories, repository = self.over(documents)
        for tag in tags:
            hold(repository, tag)
            self.successResultOf(repositories.save(repository))
        return self.successResultOf(documents.read(KEY))[0]  # type: ignore[index]
