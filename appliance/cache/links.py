"""Which digests a repository's manifests name: what may be served under it although storage is shared."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from twisted.logger import Logger

from appliance.errors import BlobDamaged, ManifestInvalid, NotHeld
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest


class _Named:
    """What the manifests seen so far name."""

    def __init__(self) -> None:
        self.seen: set[Digest] = set()
        self.sizes: dict[Digest, int] = {}

    def add(self, digest: Digest, manifest: Manifest) -> None:
        self.seen.add(digest)
        for descriptor in (*manifest.blobs, *manifest.manifests):
            self.sizes.setdefault(descriptor.parsed(), descriptor.size)


class Links:
    """The digests each repository names, learnt from its manifests when first needed."""

    _log = Logger()

    def __init__(self, store: IBlobStore) -> None:
        self._store = store
        self._named: WeakKeyDictionary[Repository, _Named] = WeakKeyDictionary()

    def add(self, repository: Repository, digest: Digest, manifest: Manifest) -> None:
        """A manifest was added to the repository."""
        self._named.setdefault(repository, _Named()).add(digest, manifest)

    async def size(self, repository: Repository, digest: Digest) -> int | None:
        """
        The size of a blob or manifest that the repository is known to hold, C{None} when nothing says that it does.
        """
        held = repository.manifests.get(digest)
        if held is not None:
            return held.size
        if digest in repository.blobs:
            return repository.blobs[digest]
        named = self._named.setdefault(repository, _Named())
        if digest not in named.sizes:
            await self._learn(repository, named)
        return named.sizes.get(digest)

    async def _learn(self, repository: Repository, named: _Named) -> None:
        for digest in [each for each in repository.manifests if each not in named.seen]:
            try:
                data = await self._store.read(digest, MAX_MANIFEST_BYTES)
                named.add(digest, parse_manifest(data, repository.manifests[digest].media_type))
            except (NotHeld, BlobDamaged, ManifestInvalid) as error:
                named.seen.add(digest)
                self._log.warn(
                    "{upstream}/{name}: {error}", upstream=repository.upstream, name=repository.name, error=error
                )
