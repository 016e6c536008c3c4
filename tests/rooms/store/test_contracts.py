"""Both blob stores keep the same promises, and so do readers of what they hold and of what they receive."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from appliance.flow.disk import InlineThreads
from appliance.interfaces import IBlobReader, IBlobStore
from appliance.oci.digest import Digest
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.memory import MemoryBlobStore
from appliance.store.ownership import Ownership
from tests.contracts.blob_reader import BlobReaderContract
from tests.contracts.blob_store import BlobStoreContract
from tests.contracts.ingest import IngestContract


class OnDisk:
    """A store in a folder of its own."""

    root: Path

    def make(self: Any) -> IBlobStore:
        """See the contracts."""
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        return self.again()

    def again(self) -> IBlobStore:
        """See the contracts."""
        Ownership.claim(self.root).release()
        return FilesystemBlobStore(self.root, InlineThreads())


class InMemory:
    """The twin: what a new process would find is what this one has."""

    store: MemoryBlobStore

    def make(self) -> IBlobStore:
        """See the contracts."""
        return MemoryBlobStore()

    def again(self) -> IBlobStore:
        """See the contracts."""
        return self.store.again()


class TestBlobsOnDisk(OnDisk, BlobStoreContract):
    __test__ = True


class TestBlobsInMemory(InMemory, BlobStoreContract):
    __test__ = True


class TestIngestOnDisk(OnDisk, IngestContract):
    __test__ = True


class TestIngestInMemory(InMemory, IngestContract):
    __test__ = True


class Held:
    """Readers of a held blob."""

    def reader(self: Any, data: bytes) -> IBlobReader:
        """See the contract."""
        self.store = getattr(self, "store", None) or self.make()
        self.successResultOf(self.store.put(Digest.of(data), data))
        return self.store.open(Digest.of(data))


class UnderWay:
    """Readers of a blob that is being received."""

    def reader(self: Any, data: bytes) -> IBlobReader:
        """See the contract."""
        if not hasattr(self, "ingest"):
            self.ingest = self.successResultOf(self.make().ingest(Digest.of(data)))
            self.addCleanup(self.ingest.close)
            self.successResultOf(self.ingest.write([data]))
        return self.ingest.reader()


class TestHeldOnDisk(Held, OnDisk, BlobReaderContract):
    __test__ = True


class TestHeldInMemory(Held, InMemory, BlobReaderContract):
    __test__ = True


class TestUnderWayOnDisk(UnderWay, OnDisk, BlobReaderContract):
    __test__ = True


class TestUnderWayInMemory(UnderWay, InMemory, BlobReaderContract):
    __test__ = True
