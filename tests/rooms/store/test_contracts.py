"""Both blob stores keep the same promises, and so do readers of what they hold and of what they receive."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from appliance.flow.disk import InlineThreads
from appliance.interfaces import IBlobReader, IBlobStore
from appliance.oci.digest import Digest
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.files import AT_ONCE, FileReader, SharedFile
from appliance.store.memory import MemoryBlobStore
from appliance.store.ownership import Ownership
from tests.contracts.blob_reader import BlobReaderContract
from tests.contracts.blob_store import BlobStoreContract
from tests.contracts.ingest import IngestContract
from tests.doubles.threads import HeldThreads


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

    def damage(self, digest: Digest, data: bytes) -> None:
        """See L{BlobStoreContract}."""
        (self.root / "blobs" / digest.algorithm / digest.encoded).write_bytes(data)


class InMemory:
    """The twin: what a new process would find is what this one has."""

    store: MemoryBlobStore

    def make(self) -> IBlobStore:
        """See the contracts."""
        return MemoryBlobStore()

    def again(self) -> IBlobStore:
        """See the contracts."""
        return self.store.again()

    def damage(self, digest: Digest, data: bytes) -> None:
        """See L{BlobStoreContract}."""
        self.store._blobs[digest] = data


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


def test_a_read_that_is_given_up_keeps_its_file_open(tmp_path: Path) -> None:
    """A thread cannot be stopped: the number of its file is no other file's before it has read."""
    data = bytes(2 * AT_ONCE)
    (tmp_path / "blob").write_bytes(data)
    threads = HeldThreads()
    file = SharedFile(os.open(tmp_path / "blob", os.O_RDONLY))
    reader = FileReader(file, threads)
    reading = reader.read(0, len(data))
    reading.addErrback(lambda failure: failure.trap(CancelledError))
    reading.cancel()
    reader.close()
    os.fstat(file.fd)
    threads.work()
    with pytest.raises(OSError):
        os.fstat(file.fd)
