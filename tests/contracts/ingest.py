"""What every L{IIngest} promises: bytes under way become a blob only when they are right, and are not lost before."""

from __future__ import annotations

from abc import abstractmethod

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from appliance.errors import BlobDamaged, NotHeld
from appliance.interfaces import IBlobReader, IBlobStore, IIngest, Origin
from appliance.oci.digest import Digest

DATA = bytes(range(256)) * 700
DIGEST = Digest.of(DATA)
HALF = len(DATA) // 2
# So long that the disk is looked at in between.
LONG = DATA * 4
LONG_DIGEST = Digest.of(LONG)
BEGUN = 500_000
ORIGIN = Origin("docker.io", "library/nginx", len(DATA), '"a-validator"')


CALLS = ("write", "write", "write", "ahead", "note", "commit", "commit", "discard", "close", "cancel")
STEPS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(CALLS)), max_size=40)
WRONG = st.sets(st.integers(0, 2), max_size=2)


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

    def bytes_of(self, reader: IBlobReader) -> bytes:
        """All that can be read; the reader is closed."""
        data: bytes = self.successResultOf(reader.read(0, 2 * len(DATA)))
        reader.close()
        return data

    def cut(self) -> None:
        """Half of the blob came, and the line was cut."""
        ingest = self.ingest()
        self.successResultOf(ingest.note(ORIGIN))
        self.successResultOf(ingest.write([DATA[:HALF]]))
        ingest.close()

    def test_provides_the_interface(self) -> None:
        """By zope's C{verifyObject}."""
        ingest = self.ingest()
        verifyObject(IIngest, ingest)
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

    def test_readers_keep_the_bytes_when_they_became_a_blob_or_nothing(self) -> None:
        """A client that reads slowly gets the rest after the fetch has ended, however it ended."""
        for end in ("commit", "discard", "close"):
            ingest = self.written(DATA)
            reader = ingest.reader()
            outcome = getattr(ingest, end)()
            if outcome is not None:
                self.successResultOf(outcome)
            self.assertRaises(OSError, ingest.reader)
            self.assertEqual(self.bytes_of(reader), DATA, end)
            self.store = self.make()

    def test_readers_see_what_was_written_so_far(self) -> None:
        """At each moment all that was received, whenever they began to read."""
        ingest = self.ingest()
        early = ingest.reader()
        for end in (HALF, len(DATA)):
            self.successResultOf(ingest.write([DATA[ingest.size : end]]))
            self.assertEqual(self.bytes_of(ingest.reader()), DATA[:end])
            self.assertEqual(self.successResultOf(early.read(0, len(DATA))), DATA[:end])
        early.close()

    def test_what_was_cut_is_known_without_being_read(self) -> None:
        """How much came, and from where; of what is not there nothing is."""
        self.assertIsNone(self.successResultOf(self.store.inspect(DIGEST)))
        self.cut()
        left = self.successResultOf(self.again().inspect(DIGEST))
        self.assertEqual((left.size, left.origin), (HALF, ORIGIN))
        self.assertGreaterEqual(left.written, 0)
        ingest = self.ingest()
        self.successResultOf(ingest.write([DATA[HALF:]]))
        self.successResultOf(ingest.commit())
        self.assertIsNone(self.successResultOf(self.store.inspect(DIGEST)))

    def test_what_is_not_being_received_can_be_forgotten(self) -> None:
        """Bytes and note; what is being received is not touched, and what is not there is no error."""
        self.cut()
        ingest = self.ingest()
        self.assertTrue(self.store.is_receiving(DIGEST))
        self.assertFalse(self.successResultOf(self.store.forget(DIGEST)))
        ingest.close()
        self.assertFalse(self.store.is_receiving(DIGEST))
        self.assertEqual(self.store.unfinished(), [DIGEST])
        for _ in range(2):
            self.assertTrue(self.successResultOf(self.store.forget(DIGEST)))
            self.assertEqual(self.store.unfinished(), [])
        self.assertEqual((self.ingest().size, self.ingest().origin), (0, None))

    # -- bytes ahead ------------------------------------------------------------------------------------------------

    def ahead(self, ingest: IIngest, *ranges: tuple[int, int]) -> None:
        for start, stop in ranges:
            self.successResultOf(ingest.write_ahead(start, [DATA[start : start + 7], DATA[start + 7 : stop]]))

    def test_what_is_ahead_counts_only_when_it_was_absorbed(self) -> None:
        """Readers see a beginning of the blob at each moment, never the bytes behind a hole."""
        ingest = self.written(DATA[:100])
        self.ahead(ingest, (200, 300), (HALF, len(DATA)))
        self.assertEqual(ingest.size, 100)
        self.assertEqual(self.bytes_of(ingest.reader()), DATA[:100])
        self.ahead(ingest, (100, 200))
        self.successResultOf(ingest.absorb(250))
        self.assertEqual(ingest.size, 250)
        self.assertEqual(self.bytes_of(ingest.reader()), DATA[:250])

    def test_bytes_ahead_come_in_any_order_and_the_blob_is_right(self) -> None:
        """Pieces from several connections, and some of it written as it comes."""
        ingest = self.ingest()
        third = len(DATA) // 3
        self.ahead(ingest, (2 * third, 2 * third + 99), (third, third + 50), (2 * third + 99, len(DATA)))
        self.ahead(ingest, (third + 50, 2 * third))
        self.successResultOf(ingest.write([DATA[:third]]))
        self.successResultOf(ingest.absorb(third + 60))
        self.successResultOf(ingest.absorb(2 * third + 10))
        self.successResultOf(ingest.absorb(len(DATA)))
        self.assertTrue(ingest.verify())
        self.successResultOf(ingest.commit())
        self.assertEqual(self.successResultOf(self.store.read(DIGEST, len(DATA))), DATA)
        self.assertEqual(self.store.total(), len(DATA))

    def test_writing_goes_on_behind_what_was_absorbed(self) -> None:
        """The piece in front comes as a stream, behind those that were ahead of it."""
        ingest = self.ingest()
        self.ahead(ingest, (0, 1000))
        self.successResultOf(ingest.absorb(1000))
        self.successResultOf(ingest.write([DATA[1000:HALF]]))
        self.ahead(ingest, (HALF, len(DATA)))
        self.successResultOf(ingest.absorb(len(DATA)))
        self.assertTrue(ingest.verify())

    def test_what_is_absorbed_already_is_not_absorbed_again(self) -> None:
        """Nothing to do is no error."""
        ingest = self.written(DATA[:1000])
        for stop in (0, 500, 1000):
            self.successResultOf(ingest.absorb(stop))
        self.assertEqual(ingest.size, 1000)

    def test_a_hole_is_not_absorbed(self) -> None:
        """Our own mistake is raised, and what is there goes on to be a beginning."""
        ingest = self.written(DATA[:100])
        self.ahead(ingest, (200, 300))
        for stop in (101, 200, 250, 300):
            self.failureResultOf(ingest.absorb(stop), ValueError)
        self.ahead(ingest, (100, 200))
        self.failureResultOf(ingest.absorb(301), ValueError)
        self.assertEqual(ingest.size, 100)
        self.successResultOf(ingest.absorb(300))
        self.assertEqual(self.bytes_of(ingest.reader()), DATA[:300])

    def test_writing_may_overtake_what_is_ahead(self) -> None:
        """One stream goes on where several connections were given up, over bytes that had come with those."""
        ingest = self.ingest()
        self.ahead(ingest, (100, 200), (300, 400))
        self.successResultOf(ingest.write([DATA[:350]]))
        self.successResultOf(ingest.absorb(400))
        self.successResultOf(ingest.write([DATA[400:]]))
        self.successResultOf(ingest.commit())
        self.assertEqual(self.successResultOf(self.store.read(DIGEST, len(DATA))), DATA)

    def test_what_is_ahead_ends_with_its_ingest(self) -> None:
        """A stop or a crash: only the beginning is there afterwards, and no hole is taken for bytes."""
        ingest = self.written(DATA[:100])
        self.successResultOf(ingest.note(ORIGIN))
        self.ahead(ingest, (100, 150), (HALF, len(DATA)))
        for _ in range(2):
            # As after kill -9 first: it was not closed.
            self.store = self.again()
            self.assertEqual(self.store.unfinished(), [DIGEST])
            later = self.ingest()
            self.assertEqual((later.size, later.origin), (100, ORIGIN))
            self.assertEqual(self.bytes_of(later.reader()), DATA[:100])
            self.failureResultOf(later.absorb(150), ValueError)
            later.close()
            ingest.close()

    def test_what_is_ahead_of_wrong_or_unwanted_bytes_goes_with_them(self) -> None:
        """Neither blob nor beginning is left."""
        for end in ("commit", "discard"):
            ingest = self.written(b"wrong")
            self.ahead(ingest, (200, 300))
            outcome = getattr(ingest, end)()
            if end == "commit":
                self.failureResultOf(outcome, BlobDamaged)
            else:
                self.successResultOf(outcome)
            self.assertEqual(self.store.unfinished(), [])
            self.assertEqual(self.ingest().size, 0)
            self.store = self.make()

    def test_a_blob_is_no_longer_than_what_was_absorbed(self) -> None:
        """Bytes that were written ahead of the end are no part of it."""
        ingest = self.ingest()
        self.ahead(ingest, (0, HALF), (HALF, len(DATA)))
        self.successResultOf(ingest.write_ahead(len(DATA), [b"more than there is"]))
        self.successResultOf(ingest.absorb(len(DATA)))
        self.successResultOf(ingest.commit())
        self.assertEqual(self.successResultOf(self.store.read(DIGEST, 2 * len(DATA))), DATA)

    def test_a_close_after_the_end_is_nothing(self) -> None:
        """The caller that cleans up need not know how it ended."""
        ingest = self.written(DATA)
        self.successResultOf(ingest.commit())
        ingest.close()
        ingest.close()
        self.assertEqual(self.store.size(DIGEST), len(DATA))

    # -- unstored ---------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """From now on the disk is full."""
        self.store.floor = 1 << 63

    def unstored(self) -> IIngest:
        """One that was begun, has L{BEGUN} bytes in its file, and goes on in memory."""
        ingest = self.ingest(LONG_DIGEST)
        self.successResultOf(ingest.write([LONG[:BEGUN]]))
        self.fill()
        self.failureResultOf(ingest.write([LONG[BEGUN:]]), OSError)
        ingest.unstore()
        return ingest

    def test_what_the_disk_refused_is_not_counted(self) -> None:
        """The rest may be written again when there is room: the blob is right."""
        ingest = self.ingest(LONG_DIGEST)
        self.successResultOf(ingest.write([LONG[:BEGUN]]))
        self.fill()
        self.failureResultOf(ingest.write([LONG[BEGUN:]]), OSError)
        self.assertEqual((ingest.size, ingest.stored), (BEGUN, True))
        self.store.floor = 0
        self.successResultOf(ingest.write([LONG[BEGUN:]]))
        self.successResultOf(ingest.commit())
        self.assertEqual(self.successResultOf(self.store.read(LONG_DIGEST, len(LONG))), LONG)

    def test_what_is_unstored_passes_by(self) -> None:
        """Readers get every byte and the digest is judged; afterwards nothing is left, neither blob nor beginning."""
        for full in (False, True):
            if full:
                self.fill()
            ingest = self.successResultOf(self.store.ingest(DIGEST, keep=False))
            reader = ingest.reader()
            self.assertEqual((ingest.stored, ingest.size, ingest.readers), (False, 0, 1))
            self.successResultOf(ingest.note(ORIGIN))
            for start in range(0, len(DATA), 50_000):
                self.successResultOf(ingest.write([DATA[start : start + 99], DATA[start + 99 : start + 50_000]]))
                self.assertEqual(self.successResultOf(reader.read(start, len(DATA))), DATA[start : start + 50_000])
            self.assertTrue(ingest.verify())
            self.failureResultOf(ingest.commit(), OSError)
            reader.close()
            self.assertRaises(OSError, ingest.reader)
            self.assertEqual((ingest.readers, self.store.size(DIGEST), self.store.unfinished()), (0, None, []))

    def test_it_goes_on_unstored_where_the_disk_refused(self) -> None:
        """A reader sees no seam between what is in the file and what is in memory, and the hash is right."""
        ingest = self.ingest(LONG_DIGEST)
        self.successResultOf(ingest.note(ORIGIN))
        early = ingest.reader()
        self.successResultOf(ingest.write([LONG[:BEGUN]]))
        self.fill()
        self.failureResultOf(ingest.write([LONG[BEGUN:]]), OSError)
        ingest.unstore()
        self.assertEqual(self.store.unfinished(), [])
        self.successResultOf(ingest.write([LONG[BEGUN:-10]]))
        self.successResultOf(ingest.write([LONG[-10:]]))
        self.assertEqual((ingest.size, ingest.stored, ingest.start, early.size), (len(LONG), False, 0, len(LONG)))
        for reader in (early, ingest.reader()):
            read = b""
            while len(read) < len(LONG):
                read += self.successResultOf(reader.read(len(read), len(read) + 100_000))
            self.assertEqual(read, LONG)
            reader.close()
        self.assertTrue(ingest.verify())

    def test_another_fetch_is_stored_beside_an_unstored_one(self) -> None:
        """There is room again: the next one begins with nothing, and neither takes bytes of the other."""
        ingest = self.unstored()
        self.store.floor = 0
        other = self.ingest(LONG_DIGEST)
        self.assertEqual((other.size, other.stored), (0, True))
        self.successResultOf(other.write([LONG[:1000]]))
        ingest.close()
        self.assertEqual(self.store.unfinished(), [LONG_DIGEST])
        self.successResultOf(other.write([LONG[1000:]]))
        self.successResultOf(other.commit())
        self.assertEqual(self.store.size(LONG_DIGEST), len(LONG))

    def test_readers_of_an_unstored_one_have_the_rest_when_it_has_ended(self) -> None:
        """A client that is behind gets the last bytes after the upstream has sent them."""
        ingest = self.unstored()
        reader = ingest.reader(BEGUN - 5)
        self.successResultOf(ingest.write([LONG[BEGUN:]]))
        ingest.close()
        self.assertEqual(self.successResultOf(reader.read(BEGUN - 5, BEGUN)), LONG[BEGUN - 5 : BEGUN])
        self.assertEqual(self.successResultOf(reader.read(BEGUN, len(LONG))), LONG[BEGUN:])

    def test_segments_are_refused_where_there_is_no_room(self) -> None:
        """What came ahead before stays; one stream goes on in its place."""
        ingest = self.ingest(LONG_DIGEST)
        self.successResultOf(ingest.write_ahead(BEGUN, [LONG[BEGUN:]]))
        self.successResultOf(ingest.write([LONG[:BEGUN]]))
        self.fill()
        self.failureResultOf(ingest.write_ahead(len(LONG), [b"more"]), OSError)
        self.failureResultOf(ingest.absorb(len(LONG)), OSError)
        ingest.unstore()
        self.successResultOf(ingest.write([LONG[BEGUN:]]))
        self.assertTrue(ingest.verify())

    # -- several of one blob ----------------------------------------------------------------------------------------

    def test_a_deleted_blob_does_not_take_what_is_under_way_with_it(self) -> None:
        """The blob is evicted while it is brought again: nothing that came is lost, and it is held once more."""
        self.cut()
        first, second = self.ingest(), self.ingest()
        self.successResultOf(second.write([DATA]))
        self.successResultOf(second.commit())
        reader = first.reader()
        self.successResultOf(self.store.delete(DIGEST))
        self.assertEqual((self.store.size(DIGEST), self.store.total()), (None, 0))
        self.assertEqual(self.store.unfinished(), [DIGEST])
        self.successResultOf(first.write([DATA[HALF:]]))
        self.successResultOf(first.commit())
        self.assertEqual(self.successResultOf(self.store.read(DIGEST, len(DATA))), DATA)
        self.assertEqual(self.store.total(), len(DATA))
        self.successResultOf(self.store.delete(DIGEST))
        self.assertEqual(self.bytes_of(reader), DATA)
        self.assertEqual(self.store.unfinished(), [])

    def test_a_beginning_is_kept_when_the_blob_was_deleted(self) -> None:
        """It was held when the second began, and is not when that is cut: what came goes on later."""
        self.successResultOf(self.store.put(DIGEST, DATA))
        ingest = self.written(DATA[:HALF])
        self.successResultOf(self.store.delete(DIGEST))
        ingest.close()
        self.assertEqual(self.ingest().size, HALF)

    def test_nothing_is_written_after_the_end(self) -> None:
        """What comes late is refused, and is in no blob and no beginning."""
        for end in ("commit", "discard", "close"):
            self.store = self.make()
            ingest = self.written(DATA)
            outcome = getattr(ingest, end)()
            if outcome is not None:
                self.successResultOf(outcome)
            before = self.store.unfinished()
            self.failureResultOf(ingest.write([b"late"]), OSError)
            self.failureResultOf(ingest.write_ahead(len(DATA), [b"late"]), OSError)
            self.successResultOf(ingest.discard())
            self.assertEqual(self.store.unfinished(), before, end)
            later = self.ingest()
            self.assertEqual(later.size, len(DATA) if end == "close" else 0, end)

    def test_the_second_of_two_begins_with_nothing(self) -> None:
        """An import and a fetch of one blob at once: neither sees, ends or forgets what the other has."""
        self.cut()
        first, second = self.ingest(), self.ingest()
        self.assertEqual((first.size, second.size, second.origin), (HALF, 0, None))
        self.successResultOf(second.note(Origin("mirror.example", "nginx")))
        self.successResultOf(second.write([b"wrong"]))
        self.successResultOf(second.discard())
        third = self.ingest()
        self.successResultOf(third.write([DATA[:10]]))
        third.close()
        self.successResultOf(first.write([DATA[HALF : HALF + 1]]))
        first.close()
        later = self.ingest()
        self.assertEqual((later.size, later.origin), (HALF + 1, ORIGIN))

    def test_the_first_of_two_that_is_right_is_the_blob(self) -> None:
        """Brought by either of two; the other one's bytes are not, and the blob counts once."""
        for early, late in ((0, 1), (1, 0)):
            for wrong in (None, early, late):
                self.store = self.make()
                receiving = [self.ingest(), self.ingest()]
                for number, ingest in enumerate(receiving):
                    self.successResultOf(ingest.write([DATA[:-1], b"!" if number == wrong else DATA[-1:]]))
                for number in (early, late):
                    if number == wrong:
                        self.failureResultOf(receiving[number].commit(), BlobDamaged)
                    else:
                        self.successResultOf(receiving[number].commit())
                self.assertEqual(self.successResultOf(self.store.read(DIGEST, 2 * len(DATA))), DATA)
                self.assertEqual(self.store.total(), len(DATA))
                self.assertEqual(self.store.unfinished(), [])

    def test_a_beginning_of_what_is_held_is_not_needed(self) -> None:
        """The first of two is cut after the second has brought the blob: nothing is left to resume."""
        first, second = self.written(DATA[:HALF]), self.ingest()
        self.successResultOf(first.note(ORIGIN))
        self.successResultOf(second.write([DATA]))
        self.successResultOf(second.commit())
        first.close()
        self.assertEqual(self.store.unfinished(), [])
        self.assertEqual((self.ingest().size, self.ingest().origin), (0, None))
        self.assertEqual(self.store.size(DIGEST), len(DATA))

    def test_whatever_three_do_the_blob_is_right_or_absent(self) -> None:
        """
        Three receive one blob in any order, some of them other bytes; each is cut, closed, thrown away or committed at
        any moment, and begins again. What is held once stays as it is, and what a new process finds goes on to it.
        """
        settings(deadline=None, max_examples=100)(given(STEPS, WRONG)(self.receive_by_three))()

    def receive_by_three(self, steps: list[tuple[int, str]], wrong: set[int]) -> None:
        self.store = self.make()
        sent = [DATA[:HALF] + b"!" + DATA[HALF + 1 :] if number in wrong else DATA for number in range(3)]
        receiving: list[IIngest | None] = [None, None, None]
        for number, step in steps:
            ingest = receiving[number] or self.ingest()
            receiving[number] = ingest
            piece = [sent[number][ingest.size : ingest.size + HALF + 1]]
            if step in ("write", "cancel"):
                writing = ingest.write(piece)
                if step == "cancel":
                    writing.cancel()
                writing.addErrback(lambda _: None)
            elif step == "ahead":
                stop = ingest.size + len(piece[0])
                self.successResultOf(ingest.write_ahead(ingest.size, piece))
                self.successResultOf(ingest.absorb(stop))
            elif step == "note":
                self.successResultOf(ingest.note(ORIGIN))
            else:
                outcome = getattr(ingest, step)()
                if outcome is not None:
                    outcome.addErrback(lambda failure: failure.trap(BlobDamaged))
                    self.successResultOf(outcome)
                receiving[number] = None
            self.assert_right_or_absent()
        self.store = self.again()
        for ingest in receiving:
            if ingest is not None:
                ingest.close()
        self.assert_right_or_absent()
        last = self.ingest()
        if not DATA.startswith(self.bytes_of(last.reader())):
            self.successResultOf(last.discard())
            last = self.ingest()
        self.successResultOf(last.write([DATA[last.size :]]))
        self.successResultOf(last.commit())
        self.assertEqual(self.store.size(DIGEST), len(DATA))
        self.assert_right_or_absent()

    def assert_right_or_absent(self) -> None:
        if self.store.size(DIGEST) is None:
            self.assertRaises(NotHeld, self.store.open, DIGEST)
        else:
            self.assertEqual(self.successResultOf(self.store.read(DIGEST, 2 * len(DATA))), DATA)
