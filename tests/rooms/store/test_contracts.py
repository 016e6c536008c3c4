"""Both blob stores keep the same promises."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from appliance.flow.threads import InlineThreads
from appliance.interfaces import IBlobStore
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.memory import MemoryBlobStore
from appliance.store.ownership import Ownership
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
