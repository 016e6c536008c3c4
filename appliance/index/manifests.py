"""
Reading held manifests and other small documents: several at a time, off the reactor, each parsed once.

A document that is not held, is larger than a manifest may be, has another digest than its name says, or is no manifest
counts as not held.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

from appliance.errors import BlobDamaged, ManifestInvalid, NotHeld, PullcacheError
from appliance.flow.lru import LeastRecentlyUsed
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, Manifest, claimed_type, parse_manifest

AT_ONCE = 32
"""Documents that are read in one turn of a thread, so that clients who are served wait some milliseconds at most."""

LARGE = 32 * 1024
"""Bytes from which on a document is parsed on a thread: that takes up to 100 ms for the largest."""

TURN = 2000
"""Descriptors that are looked at before the reactor gets its turn, also where nothing has to be read: some 10 ms."""

ROOM = 20_000
"""Descriptors in the manifests that are remembered: what the manifests of most repositories name."""

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")

Read = Callable[[Digest], Awaitable[bytes | None]]
"""The bytes of a small blob, C{None} when it is not held or not what it should be."""

SizeOf = Callable[[Digest], int | None]
"""The size of a blob in bytes, C{None} when it is not held."""


class ManifestReader:
    """
    Manifests out of any source of documents. Those parsed last are remembered.

    @ivar document: the bytes of any small blob.
    """

    def __init__(self, document: Read, threads: IThreads, room: int = ROOM) -> None:
        """
        @param document: of blobs that are remembered here it gives bytes of the right digest only.
        @param room: how many descriptors there may be in all that is remembered: each takes some 500 bytes.
        """
        self.document = document
        self._threads = threads
        self._parsed: LeastRecentlyUsed[tuple[Digest, str], Manifest] = LeastRecentlyUsed(room)
        self._walked = 0

    async def manifest(self, digest: Digest, media_type: str) -> Manifest | None:
        """
        One manifest, C{None} when it cannot be read.

        @param media_type: what the descriptor says that names it; counts when the document does not say.
        """
        if (known := self._parsed.get((digest, media_type))) is not None:
            return known
        data = await self.document(digest)
        try:
            return None if data is None else await self._parse(digest, media_type, data)
        except ManifestInvalid:
            return None

    async def walked(self, descriptors: int) -> None:
        """So many descriptors were looked at: after L{TURN} of them the reactor does other work first."""
        self._walked += descriptors
        if self._walked >= TURN:
            self._walked = 0
            await self._threads.call(lambda: None)

    async def _parse(self, digest: Digest, media_type: str, data: bytes) -> Manifest:
        """Parse and remember a manifest. Raises L{ManifestInvalid}."""
        if len(data) > LARGE:
            manifest = await self._threads.call(parse_manifest, data, None, media_type)
        else:
            manifest = parse_manifest(data, None, media_type)
        self._parsed.put((digest, media_type), manifest, 1 + len(manifest.descriptors))
        return manifest


class HeldManifests(ManifestReader):
    """The manifests that one store holds."""

    def __init__(self, store: IBlobStore, threads: IThreads, room: int = ROOM) -> None:
        super().__init__(self._document, threads, room)
        self._store = store

    async def documents(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """As many of several as fit into L{MAX_MANIFEST_BYTES} together and are what they should be."""
        found = await self._store.read_all(digests, MAX_MANIFEST_BYTES)
        return {digest: data for digest, data in found.items() if digest.matches(data)}

    async def manifests(
        self,
        named: Mapping[Digest, str],
        others_first: bool = False,
        unreadable: Callable[[Digest, PullcacheError], None] = lambda digest, error: None,
    ) -> dict[Digest, Manifest]:
        """
        Several manifests; those that cannot be read are left out.

        @param named: their media types, as for L{manifest}.
        @param others_first: whether the reactor gets its turn also where nothing has to be read.
        @param unreadable: called with each that is left out, and the reason.
        """
        known = {digest: self._parsed.get((digest, media_type)) for digest, media_type in named.items()}
        unknown = [digest for digest, manifest in known.items() if manifest is None]
        data = await self.documents(unknown) if unknown or others_first else {}
        found = {}
        for digest, manifest in known.items():
            try:
                if manifest is None:
                    manifest = await self._parse(digest, named[digest], data.get(digest) or await self._read(digest))
                found[digest] = manifest
            except (NotHeld, BlobDamaged, ManifestInvalid) as error:
                unreadable(digest, error)
        return found

    async def held(
        self,
        repository: Repository,
        digests: Iterable[Digest] | None = None,
        unreadable: Callable[[Digest, PullcacheError], None] = lambda digest, error: None,
    ) -> AsyncIterator[tuple[Digest, Manifest]]:
        """
        The manifests that C{repository} holds, sorted by digest; those that cannot be read, or say that they are
        something else than they are held as, are left out. What leaves the repository meanwhile may still be given.

        @param digests: which of them, C{None} for all.
        @param unreadable: see L{manifests}.
        """
        media_types = {digest: record.media_type for digest, record in repository.manifests.items()}
        chosen = sorted(media_types if digests is None else media_types.keys() & set(digests))
        for first in range(0, len(chosen), AT_ONCE):
            batch = {digest: media_types[digest] for digest in chosen[first : first + AT_ONCE]}
            for digest, manifest in (await self.manifests(batch, True, unreadable)).items():
                if claimed_type(batch[digest]) in (None, manifest.media_type.lower()):
                    yield digest, manifest
                else:
                    said = f"{digest} is held as {batch[digest]} and says that it is {manifest.media_type}"
                    unreadable(digest, ManifestInvalid(said))

    async def may_name(self, digest: Digest) -> list[Digest]:
        """
        What a manifest may name that cannot be read as one: most of a damaged one is as it was, also when it was set
        aside. Nothing where there are no bytes of it.

        @raise OSError: the disk does not give what was set aside.
        """
        try:
            data: bytes = await self._store.read(digest, MAX_MANIFEST_BYTES)
        except (NotHeld, BlobDamaged, OSError):
            data = b""
        data += await self._store.read_damaged(digest, MAX_MANIFEST_BYTES)
        return [Digest.parse(each.decode("ascii")) for each in set(_DIGEST.findall(data))]

    async def _document(self, digest: Digest) -> bytes | None:
        try:
            return await self._read(digest)
        except (NotHeld, BlobDamaged):
            return None

    async def _read(self, digest: Digest) -> bytes:
        """The bytes of a small blob. Raises L{NotHeld}, or L{BlobDamaged} for too many bytes or wrong ones."""
        if (self._store.size(digest) or 0) > MAX_MANIFEST_BYTES:
            raise BlobDamaged(f"{digest} is larger than the {MAX_MANIFEST_BYTES} bytes that a manifest may have")
        data = await self._store.read(digest, MAX_MANIFEST_BYTES)
        if not digest.matches(data):
            raise BlobDamaged(f"{digest} is damaged on disk")
        return data
