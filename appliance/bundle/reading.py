"""Reading documents of the store that may be gone or damaged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from appliance.bundle.closure import Parsed
from appliance.errors import BlobDamaged, ManifestInvalid, NotHeld
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest

AT_ONCE = 32
"""Documents that are read in one turn of a thread, so that clients who are served wait some milliseconds at most."""


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

    async def documents(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """As many of several as fit into L{MAX_MANIFEST_BYTES} together and are what they should be."""
        found = await self._store.read_all(digests, MAX_MANIFEST_BYTES)
        return {digest: data for digest, data in found.items() if digest.matches(data)}

    async def parse(
        self, named: Mapping[Digest, str], parsed: Parsed, others_first: bool = False
    ) -> dict[Digest, Manifest]:
        """
        Several manifests; those that cannot be read are left out.

        @param named: their media types.
        @param parsed: those that need not be read, and has those afterwards that were; of blobs with the right digest
            only.
        @param others_first: whether others get their turn also where nothing has to be read.
        """
        known = {digest: parsed.get(digest, media_type) for digest, media_type in named.items()}
        unknown = [digest for digest, manifest in known.items() if manifest is None]
        data = await self.documents(unknown) if unknown or others_first else {}
        found = {}
        for digest, manifest in known.items():
            if manifest is None:
                manifest = _parse(data.get(digest) or await self.document(digest), named[digest])
                if manifest is None:
                    continue
                parsed.add(digest, named[digest], manifest)
            found[digest] = manifest
        return found

    async def manifests(self, repository: Repository, parsed: Parsed) -> AsyncIterator[tuple[Digest, Manifest]]:
        """
        Every manifest that C{repository} holds and that can be read, sorted by digest.

        @param parsed: see L{parse}.
        """
        media_types = {digest: held.media_type for digest, held in repository.manifests.items()}
        digests = sorted(media_types)
        for first in range(0, len(digests), AT_ONCE):
            batch = {digest: media_types[digest] for digest in digests[first : first + AT_ONCE]}
            for digest, manifest in (await self.parse(batch, parsed, others_first=True)).items():
                yield digest, manifest


def _parse(data: bytes | None, media_type: str) -> Manifest | None:
    try:
        return None if data is None else parse_manifest(data, media_type)
    except ManifestInvalid:
        return None
