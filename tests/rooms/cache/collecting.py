"""A store with repositories, on which the collection runs; images are named by short words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from appliance import config
from appliance.cache.collection import Collected, Collection
from appliance.cache.departure import Departures
from appliance.cache.marks import Marks
from appliance.cache.usage import Usage
from appliance.flow.disk import InlineThreads
from appliance.index.graph import ManifestGraph
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IDocuments, Stored
from appliance.oci.digest import Digest
from appliance.oci.manifest import parse_manifest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.clocks import TwoClocks
from tests.doubles.deferreds import result
from tests.doubles.manifests import CONFIG, image, index

HUB = "docker.io"
DAY = 86400.0


class DatedStore(MemoryBlobStore):
    """Knows when a blob came."""

    def __init__(self, clock: TwoClocks) -> None:
        super().__init__(1 << 40)
        self._clock = clock
        self.came: dict[Digest, float] = {}

    def lose(self, digest: Digest) -> None:
        """As if the file had been removed by hand."""
        del self._blobs[digest]

    async def walk(self) -> AsyncIterator[list[Stored]]:
        """See L{IBlobStore.walk}."""
        async for batch in super().walk():
            for each in batch:
                self.came.setdefault(each.digest, self._clock.wall())
            yield [each._replace(modified=self.came[each.digest]) for each in batch]


class Depot:
    """See the module. Repositories are of C{HUB}, where no upstream is named."""

    def __init__(self, retention: str = "", documents: IDocuments | None = None) -> None:
        """@param retention: the section of the configuration."""
        self.clock = TwoClocks()
        self.store = DatedStore(self.clock)
        self.documents = documents or MemoryDocuments()
        self.configure(retention)
        self.begin()

    def begin(self) -> None:
        """As a new process does, on what there is."""
        self.store = self.store
        self.repositories = Repositories(self.documents)
        self.graph = ManifestGraph(self.store, InlineThreads())
        self.usage = Usage(MemoryDocuments(), self.clock)
        common = lambda: self.settings, self.clock, InlineThreads()
        self.collection = Collection(
            self.store,
            self.repositories,
            Marks(self.store, self.repositories, self.usage, *common),
            Departures(self.store, self.repositories, self.graph),
            self.usage,
            *common,
        )
        self.collection.is_ready = True

    def configure(self, retention: str) -> None:
        """What is to stay, from now on; grace is none unless it is said."""
        grace = "" if "grace" in retention else "grace: 0s, reserve: 0B"
        upstreams = "upstreams: {docker.io: {url: 'http://h'}, quay.io: {url: 'http://h', retention: {%s}}}"
        common, _, own = retention.partition("|")
        common = ", ".join(filter(None, (common, grace)))
        self.settings = config.parse(f"retention: {{{common}}}\n{upstreams % own}", "/etc/p.yaml")

    # -- what comes -------------------------------------------------------------------------------------------------

    def repository(self, name: str) -> Repository:
        """One of C{HUB}, or of the upstream named first."""
        upstream, _, rest = name.partition("//")
        return result(self.repositories.get(upstream, rest) if rest else self.repositories.get(HUB, name))

    def put(self, *blobs: bytes) -> None:
        """Into the store."""
        for blob in blobs:
            result(self.store.put(Digest.of(blob), blob))
            self.store.came.setdefault(Digest.of(blob), self.clock.wall())

    def hold(self, name: str, manifest: bytes, tag: str | None = None, pinned: str | None = None) -> Digest:
        """Note a manifest, whose blobs are put by the caller."""
        repository, digest = self.repository(name), Digest.of(manifest)
        self.put(manifest)
        parsed = parse_manifest(manifest, None)
        repository.hold(digest, parsed.media_type, len(manifest), confirm=pinned is None)
        self.graph.add(repository, digest, parsed, len(manifest))
        if tag is not None:
            repository.tag(tag, digest, self.clock.wall(), pinned)
        elif pinned is not None:
            repository.pin(digest, pinned)
        for blob in parsed.blobs:
            repository.link(blob.parsed(), blob.size)
        result(self.repositories.save(repository))
        return digest

    def pull(self, name: str, tag: str | None, *layers: bytes, pinned: str | None = None, **more: Any) -> Digest:
        """An image with these layers; a second later by the clock."""
        self.put(CONFIG, *layers)
        digest = self.hold(name, image(*layers, **more), tag, pinned)
        self.use(name, tag or str(digest))
        return digest

    def pull_index(self, name: str, tag: str, *children: tuple[bytes, ...]) -> Digest:
        """An index over images with these layers, all held."""
        manifests = [image(*layers) for layers in children]
        for layers, manifest in zip(children, manifests, strict=True):
            self.put(CONFIG, *layers)
            self.hold(name, manifest)
        digest = self.hold(name, index(*manifests), tag)
        self.use(name, tag)
        return digest

    def use(self, name: str, reference: str) -> None:
        """It is pulled, and time goes on."""
        upstream, _, rest = name.partition("//")
        self.usage.note(*((upstream, rest) if rest else (HUB, name)), reference)
        self.clock.advance(1)

    # -- what is seen -----------------------------------------------------------------------------------------------

    def collect(self, dry_run: bool = False) -> Collected:
        """Run the collection."""
        return result(self.collection.run(dry_run))

    def went(self) -> dict[str, str]:
        """Run it, after a dry run has said the same: the images that go, in their order, and why."""
        told = self.collect(dry_run=True)
        done = self.collect()
        assert (told.images, told.blobs) == (done.images, done.blobs)
        assert done.before - done.freed == done.after == self.store.total() == told.after
        self.check()
        return {each.name.removeprefix("docker.io/"): each.why for each in done.images}

    def check(self) -> None:
        """Nothing that is held names what is not there, and nothing is there that is not named."""
        named: set[Digest] = set()
        for place in result(self.repositories.names()):
            repository = result(self.repositories.read(*place))
            assert {tag.digest for tag in repository.tags.values()} <= repository.manifests.keys()
            for digest, record in repository.manifests.items():
                data = result(self.store.read(digest, 1 << 22))
                named.add(digest)
                blobs = parse_manifest(data, None, record.media_type).blobs
                named |= {each.parsed() for each in blobs}
                assert all(self.store.size(each.parsed()) is not None for each in blobs)
        assert set(self.store._blobs) <= named

    def tags(self, name: str) -> list[str]:
        """Those of a repository, as a new process reads them."""
        upstream, _, rest = name.partition("//")
        fresh = Repositories(self.documents)
        return result(fresh.get(upstream, rest) if rest else fresh.get(HUB, name)).tag_names
