"""An appliance on a folder, with clients and an upstream; it may end at any call to the disk, and another starts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.python import log

from appliance.admin.metrics import Metrics
from appliance.bundle.importer import ImportOptions
from appliance.bundle.receipt import Receipt
from appliance.cache.access import RemoteRepository
from appliance.cache.blobs import BlobAnswer
from appliance.cache.collection import Collected
from appliance.fields import Share
from appliance.flow.disk import InlineThreads
from appliance.index.documents import FilesystemDocuments
from appliance.index.repository import Tag
from appliance.oci.digest import Digest
from appliance.oci.manifest import parse_manifest
from appliance.oci.pattern import ReferencePattern
from appliance.settings import (
    IMAGE_NONE,
    BundleSettings,
    PrefetchSettings,
    RetentionSettings,
    Settings,
    UpstreamSettings,
)
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership
from appliance.wiring import Services
from tests.doubles.audit import NotedAudit
from tests.doubles.deferreds import result
from tests.doubles.upstream import ScriptedUpstream

EVERYTHING = RetentionSettings(grace=0.0, reserve=Share(octets=0))
"""Whatever was pulled stays, however full this machine's disk is."""


class Site:
    """
    One process, as L{appliance.tap} makes and starts it, without a reactor.

    @ivar services: all its objects.
    @ivar is_counted: whether nothing but this process has changed the length of a blob's file.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *upstreams: ScriptedUpstream,
        offline: bool = False,
        retention: RetentionSettings = EVERYTHING,
        **settings: Any,
    ) -> None:
        """@param settings: of every upstream."""
        by_name = {each.name: each for each in upstreams}
        asked = {"urls": ("https://x",), "prefetch": PrefetchSettings(image=IMAGE_NONE), **settings}
        self.folder, self.clock = folder, clock
        self.is_counted = True
        self._ownership = Ownership.claim(folder)
        threads = InlineThreads()
        self.store = FilesystemBlobStore(folder, threads)
        self.documents = FilesystemDocuments(folder, threads)
        self.state = FilesystemDocuments(folder, threads, "state")
        self.services = services = Services(
            Settings(
                store=folder,
                upstreams={name: UpstreamSettings(name=name, **asked) for name in by_name},
                offline=offline,
                retention=retention,
                admin=None,
                listen=(),
                bundles=BundleSettings(site="berth-3"),
            ),
            clock=clock,
            threads=threads,
            store=self.store,
            documents=self.documents,
            probe=self.store.probe,
            state=self.state,
            make_upstream=lambda settings, _: by_name[settings.name],
            metrics=Metrics(clock, None),
            audit=NotedAudit(),
        )
        for kept in (services.wants, services.usage, services.moves, services.prefetch):
            result(kept.load())
        result(services.start_imports())
        result(self.store.measure())
        result(services.flights.resume(services.access))
        result(services.repair.resume())
        clock.advance(1)

    def flush(self) -> None:
        """What a process does every few seconds."""
        result(self.services.repositories.flush())
        for kept in (self.services.wants, self.services.usage, self.services.moves, self.services.prefetch):
            result(kept.flush())

    def end(self) -> None:
        """Let go of the folder; nothing is written, as with kill -9."""
        # A copy: each cancellation takes one out of the list.
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()
        self._ownership.release()

    # -- a client ---------------------------------------------------------------------------------------------------

    def at(self, upstream: str, name: str) -> RemoteRepository:
        """A repository."""
        return self.services.access.open(upstream, name)

    def manifest(self, upstream: str, name: str, reference: str | Digest) -> bytes:
        """A manifest, as a client gets it."""
        answer = result(self.services.cache.manifest(self.at(upstream, name), reference, pulled=True))
        assert answer.digest.matches(answer.data)
        return answer.data

    def blob(self, upstream: str, name: str, digest: Digest) -> bytes:
        """A blob, as a client gets it, whole; stored on return where that can be."""
        answer = result(self.services.cache.blob(self.at(upstream, name), digest))
        assert isinstance(answer, BlobAnswer)
        try:
            data = result(answer.reader.read(0, answer.size))
        finally:
            answer.close()
        result(self.services.flights.ended(digest))
        assert digest.matches(data)
        return data

    def pull(self, upstream: str, name: str, reference: str | Digest) -> set[Digest]:
        """Everything beneath a tag or a digest; the digests."""
        data = self.manifest(upstream, name, reference)
        manifest = parse_manifest(data, None)
        pulled = {Digest.of(data)}
        for child in manifest.manifests:
            pulled |= self.pull(upstream, name, Digest.parse(child.digest))
        for descriptor in manifest.blobs:
            self.blob(upstream, name, Digest.parse(descriptor.digest))
            pulled.add(Digest.parse(descriptor.digest))
        self.clock.advance(1)
        return pulled

    # -- an operator ------------------------------------------------------------------------------------------------

    def import_(self, *files: Path, **options: Any) -> Receipt:
        """Import a bundle."""
        return result(self.services.imports.run(list(files), ImportOptions(**options), lambda _: None))

    def pin(self, upstream: str, name: str, tag: str, lock: bool = False) -> None:
        """Pin a tag, or lock it."""
        result(self.services.pins._pins.pin(_pattern(upstream, name, tag), lock))

    def unpin(self, upstream: str, name: str, tag: str) -> None:
        """Unpin a tag."""
        result(self.services.pins._pins.unpin(_pattern(upstream, name, tag)))

    def scrub(self) -> list[Digest]:
        """Look at every blob; those that were damaged."""
        held = [Digest.parse(f"{path.parent.name}:{path.name}") for path in self.blobs()]
        return [digest for digest in held if not result(self.services.repair.examine(digest, anew=True))]

    def remove(self, upstream: str, name: str, tag: str) -> None:
        """Remove an image. Raises L{RemovalRefused}."""
        result(self.services.pins._removal.remove(_pattern(upstream, name, tag)))

    def collect(self, dry_run: bool = False) -> Collected:
        """A run of the collection."""
        return result(self.services.collection.run(dry_run))

    def tags(self) -> dict[tuple[str, str, str], str]:
        """What each tag means."""
        found: dict[tuple[str, str, str], str] = {}
        for upstream, name in result(self.services.repositories.names()):
            repository = result(self.services.repositories.get(upstream, name))
            found |= {(upstream, name, tag): str(record.digest) for tag, record in repository.tags.items()}
        return found

    def manifests(self, upstream: str, name: str) -> set[str]:
        """The digests of the manifests that a repository holds."""
        return {str(digest) for digest in result(self.services.repositories.get(upstream, name)).manifests}

    def pinned(self, upstream: str, name: str) -> set[str]:
        """The digests of those of them that are pinned without a tag."""
        return {str(digest) for digest in result(self.services.repositories.get(upstream, name)).pinned}

    def holds(self, upstream: str, name: str, digest: str) -> bool:
        """Whether a repository holds a manifest."""
        return digest in self.manifests(upstream, name)

    def tag(self, upstream: str, name: str, tag: str) -> Tag | None:
        """What is noted of a tag."""
        found: Tag | None = result(self.services.repositories.get(upstream, name)).tags.get(tag)
        return found

    # -- what must be so, always ------------------------------------------------------------------------------------

    def check(self) -> None:
        """Every document is whole; every tag and every manifest noted is held; every blob is what its name says."""
        assert self.documents.damaged == [] == self.state.damaged
        assert self.documents.unreadable == {} == self.state.unreadable
        for path in self.blobs():
            algorithm = hashlib.new(path.parent.name, path.read_bytes())
            assert algorithm.hexdigest() == path.name, f"{path.name} is damaged"
        for upstream, name in result(self.services.repositories.names()):
            repository = result(self.services.repositories.get(upstream, name))
            assert {tag.digest for tag in repository.tags.values()} <= set(repository.manifests)
            for digest in {*repository.manifests} - {*self.services.repair.lacking}:
                assert self.store.size(digest) is not None, f"{upstream}/{name}: {digest} is noted, and not held"
        assert not self.is_counted or self.store.total() == sum(path.stat().st_size for path in self.blobs())

    def blobs(self) -> Sequence[Path]:
        """The files of the blobs held."""
        return sorted(path for path in (self.folder / "blobs").glob("*/*"))


def _pattern(upstream: str, name: str, tag: str) -> ReferencePattern:
    return ReferencePattern.parse(f"{upstream}/{name}:{tag}", lambda named: named)


def expect_damage(logged: list[dict[str, Any]]) -> None:
    """The log tells of damaged blobs, and of nothing else."""
    for event in logged:
        assert "is damaged on disk" in (log.textFromEventDict(event) or ""), event
    logged.clear()


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder but who owns it: bytes of files by path, and where links lead."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            whole = Path(path, name)
            if whole.is_symlink():
                found[str(whole.relative_to(folder))] = os.fsencode(os.readlink(whole))
            elif whole.is_file() and name != "lock":
                found[str(whole.relative_to(folder))] = whole.read_bytes()
    return found
