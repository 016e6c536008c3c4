"""What every L{IIngest} promises: bytes under way become a blob only when they are right, and are not lost before."""

from __future__ import annotations

import os
from abc import abstractmethod

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from appliance.errors import BlobDamaged, NotHeld
from appliance.interfaces import IBlobStore, IIngest, IOpenFile, Origin
from appliance.oci.digest import Digest

DATA = bytes(range(256)) * 700
DIGEST = Digest.of(DATA)
HALF = len(DATA) // 2
ORIGIN = Origin("docker.io", "library/nginx", len(DATA), '"a-validator"')


class IngestContract(SynchronousTestCase):
    """Mix in, and say how to make the store."""

    __test__ = False

    @abstractmethod
    def make(self) -> IBlobStore:
        """An empty store."""

    @abstractmethod
    def again(self) -> IBlobStore:
        """The store as a new process finds it."""

    def setUp(self) -> None:
        self.store = self.make()

    def ingest(self, digest: Digest = DIGEST) -> IIngest:
        ingest = self.successResultOf(self.store.ingest(digest))
        self.addCleanup(ingest.close)
        return ingest

    def written(self, *pieces: bytes, digest: Digest = DIGEST) -> IIngest:
        ingest = self.ingest(digest)
        self.successResultOf(ingest.write(list(pieces)))
        return ingest

    def cut(self) -> None:
        """Half of the blob came, and the line was cut."""
        ingest = self.ingest()
        self.successResultOf(ingest.note(ORIGIN))
        self.successResultOf(ingest.write([DATA[:HALF]]))
        ingest.close()

    def test_provides_the_interface(self) -> None:
        """It is what it says, and its file too."""
        ingest = self.ingest()
        verifyObject(IIngest, ingest)
        verifyObject(IOpenFile, ingest.file)
        self.assertEqual((ingest.digest, ingest.size, ingest.origin), (DIGEST, 0, None))

    def test_right_bytes_become_a_blob(self) -> None:
        """However the bytes were cut into pieces, the blob is what was sent."""
        ingest = self.written(DATA[:1], b"", DATA[1:HALF])
        self.successResultOf(ingest.write([]))
        self.successResultOf(ingest.write([DATA[HALF + i : HALF + i + 41] for i in range(0, HALF, 41)]))
        self.assertEqual(ingest.size, len(DATA))
        self.assertTrue(ingest.verify())
        self.assertIsNone(self.store.size(DIGEST), "a blob before it was committed")
        self.successResultOf(ingest.commit())
        self.assertEqual(self.successResultOf(self.store.read(DIGEST, len(DATA))), DATA)
        self.assertEqual(self.store.total(), len(DATA))
        self.assertEqual(self.store.unfinished(), [])

    def test_wrong_bytes_become_nothing(self) -> None:
        """An upstream that sends other bytes leaves no blob and nothing to go on from."""
        ingest = self.written(DATA[:-1], b"!")
        self.assertFalse(ingest.verify())
        self.failureResultOf(ingest.commit(), BlobDamaged)
        self.assertRaises(NotHeld, self.store.open, DIGEST)
        self.assertEqual(self.store.unfinished(), [])
        self.assertEqual(self.ingest().size, 0)

    def test_what_was_cut_goes_on_where_it_stopped(self) -> None:
        """No byte is fetched twice, and the hash over both parts is right."""
        self.cut()
        ingest = self.ingest()
        self.assertEqual(ingest.size, HALF)
        self.assertFalse(ingest.verify())
        self.successResultOf(ingest.write([DATA[HALF:]]))
        self.successResultOf(ingest.commit())
        self.assertEqual(self.successResultOf(self.store.read(DIGEST, len(DATA))), DATA)

    def test_a_new_process_knows_what_was_cut_and_where_it_came_from(self) -> None:
        """After a restart the fetch is taken up from the same upstream."""
        self.cut()
        self.store = self.again()
        self.assertEqual(self.store.unfinished(), [DIGEST])
        ingest = self.ingest()
        self.assertEqual((ingest.size, ingest.origin), (HALF, ORIGIN))

    def test_the_last_note_counts(self) -> None:
        """A blob that went on from another upstream is resumed there."""
        ingest = self.ingest()
        later = Origin("mirror.example", "nginx")
        for origin in (ORIGIN, later):
            self.successResultOf(ingest.note(origin))
            self.assertEqual(ingest.origin, origin)
        ingest.close()
        self.assertEqual(self.ingest().origin, later)

    def test_discarded_bytes_are_gone(self) -> None:
        """Neither a blob nor a beginning is left, and the note is not taken for the next one's."""
        self.cut()
        ingest = self.ingest()
        self.successResultOf(ingest.discard())
        self.assertEqual(self.store.unfinished(), [])
        ingest = self.ingest()
        self.assertEqual((ingest.size, ingest.origin), (0, None))

    def test_readers_keep_the_file_when_it_became_a_blob_or_nothing(self) -> None:
        """A client that reads slowly gets the rest after the fetch has ended, however it ended."""
        for end in ("commit", "discard", "close"):
            ingest = self.written(DATA)
            file = ingest.file
            file.acquire()
            outcome = getattr(ingest, end)()
            if outcome is not None:
                self.successResultOf(outcome)
            self.assertEqual(os.pread(file.fd, len(DATA), 0), DATA, end)
            file.release()
            self.store = self.make()

    def test_readers_see_what_was_written_so_far(self) -> None:
        """The growing file holds at each moment all that was received."""
        ingest = self.ingest()
        for end in (HALF, len(DATA)):
            self.successResultOf(ingest.write([DATA[ingest.size : end]]))
            self.assertEqual(os.pread(ingest.file.fd, len(DATA), 0), DATA[:end])

    def test_a_close_after_the_end_is_nothing(self) -> None:
        """Whoever cleans up need not know how it ended."""
        ingest = self.written(DATA)
        self.successResultOf(ingest.commit())
        ingest.close()
        ingest.close()
        self.assertEqual(self.store.size(DIGEST), len(DATA))
