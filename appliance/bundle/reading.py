"""Reading documents of the store that may be gone or damaged."""

from __future__ import annotations

from appliance.errors import BlobDamaged, ManifestInvalid, NotHeld
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest


class Reading:
    """Documents of one store."""

    def __init__(self, store: IBlobStore) -> None:
        self._store = store

    async def document(self, digest: Digest) -> bytes | None:
        """The bytes of a small blob, C{None} when it is not held, too large for a document, or damaged."""
        size = self._store.size(digest)
        if size is None or size > MAX_MANIFEST_BYTES:
            return None
        try:
            data = await self._store.read(digest, MAX_MANIFEST_BYTES)
        except (NotHeld, BlobDamaged):
            return None
        return data if digest.matches(data) else None

    async def manifest(self, repository: Repository, digest: Digest) -> Manifest | None:
        """A manifest that C{repository} holds, C{None} when it cannot be read after all."""
        data = await self.document(digest)
        try:
            return None if data is None else parse_manifest(data, repository.manifests[digest].media_type)
        except ManifestInvalid:
            return None
