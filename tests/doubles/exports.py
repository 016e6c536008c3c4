"""A store with images in it, exported without a reactor; and the entries of what comes out."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from typing import Any

from appliance.bundle.export import BlobPart, Export
from appliance.bundle.exporter import Exporter
from appliance.bundle.selection import Selection
from appliance.flow.disk import InlineThreads
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import Repositories
from appliance.oci.digest import Digest
from appliance.store.memory import MemoryBlobStore
from tests.doubles.deferreds import result
from tests.doubles.images import Blob, Content

NGINX = ("docker.io", "library/nginx")
TAGGED = 1_700_000_000.0
"""When the first tag of each image was seen, seconds since the epoch."""


class Site:
    """A store with what a client pulled, and its exporter."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.store = MemoryBlobStore()
        self.repositories = Repositories(MemoryDocuments())
        self.pulled: dict[tuple[str, str, str], float] = {}

    def hold(self, content: Content, place: tuple[str, str] = NGINX, *tags: str, without: Iterable[Blob] = ()) -> Site:
        """Hold everything beneath C{content}, save for some blobs, with its manifests in one repository."""
        gone = {blob.digest for blob in without}
        repository = result(self._repository(*place))
        for part in content.walk():
            for blob in (blob for blob in (part.manifest, *part.blobs) if blob.digest not in gone):
                self.store.put(Digest.parse(blob.digest), blob.data)
            if part.digest not in gone:
                repository.hold(Digest.parse(part.digest), part.manifest.media_type, len(part.manifest.data))
        for number, tag in enumerate(tags):
            repository.tag(tag, Digest.parse(content.digest), TAGGED + number)
        self.repositories.save(repository)
        return self

    async def _repository(self, upstream: str, name: str) -> Any:
        return await self.repositories.get(upstream, name)

    def export(self, *refs: str, **more: Any) -> Export:
        """The planned bundle."""
        upstreams = {"docker.io", "ghcr.io"}
        exporter = Exporter(
            self.store,
            self.repositories,
            InlineThreads(),
            "site-a",
            lambda name: name if name in upstreams else None,
            lambda *reference: self.pulled.get(reference),
        )
        found: Export = result(exporter.plan(Selection(refs=refs, **more)))
        return found

    def file(self, export: Export, n: int = 1) -> bytes:
        """File C{n} of the bundle as a client receives it."""
        data = b"".join(part if isinstance(part, bytes) else self._read(part) for part in export.parts(n))
        assert len(data) == export.size(n)
        return data

    def files(self, export: Export) -> list[bytes]:
        return [self.file(export, n) for n in range(1, export.volumes + 1)]

    def _read(self, part: BlobPart) -> bytes:
        reader = self.store.open(part.digest)
        try:
            return result(reader.read(part.span.start, part.span.stop))
        finally:
            reader.close()


def entries(data: bytes) -> dict[str, bytes]:
    """The entries of a tar, read by Python's own reader; each is there once, and as plain as can be."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive.getmembers():
            assert member.isreg() and (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, 0)
            assert member.name not in found
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found
