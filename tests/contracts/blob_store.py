"""
What every L{IBlobStore} promises of whole blobs; of what is under way see L{tests.contracts.ingest}, and of reading
L{tests.contracts.blob_reader}.
"""

from __future__ import annotations

import errno
from abc import abstractmethod

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from appliance.errors import BlobDamaged, NotHeld
from appliance.interfaces import IBlobStore, Stored
from appliance.oci.digest import Digest

DATA = b"a manifest, or a small blob\n"
DIGEST = Digest.of(DATA)
OTHER = Digest.of(b"something else")


class BlobStoreContract(SynchronousTestCase):
    """Mix in, and say how to make the provider."""

    __test__ = False

    @abstractmethod
    def make(self) -> IBlobStore:
        """An empty store."""

    @abstractmethod
    def damage(self, digest: Digest, data: bytes) -> None:
        """What the disk gives of a held blob from now on."""

    def setUp(self) -> None:
        self.store = self.make()

    def put(self, digest: Digest = DIGEST, data: bytes = DATA) -> None:
        self.successResultOf(self.store.put(digest, data))

    def test_provides_the_interface(self) -> None:
        """By zope's C{verifyObject}."""
        verifyObject(IBlobStore, self.store)

    def test_what_is_put_is_held(self) -> None:
        """The bytes come back as they were, by every way of reading."""
        self.put()
        self.assertEqual(self.store.size(DIGEST), len(DATA))
        self.assertEqual(self.successResultOf(self.store.read(DIGEST, 1000)), DATA)
        reader = self.store.open(DIGEST)
        self.addCleanup(reader.close)
        self.assertEqual(self.successResultOf(reader.read(0, 1000)), DATA)

    def test_nothing_and_sha512_are_blobs_too(self) -> None:
        """The empty blob has a digest, and sha256 is not the only algorithm."""
        for data, algorithm in ((b"", "sha256"), (DATA, "sha512")):
            digest = Digest.of(data, algorithm)
            self.put(digest, data)
            self.assertEqual(self.store.size(digest), len(data))
            self.assertEqual(self.successResultOf(self.store.read(digest, 1000)), data)

    def test_what_is_not_held_is_said_to_be_so(self) -> None:
        """Unknown is never served as empty."""
        self.put()
        self.assertIsNone(self.store.size(OTHER))
        self.assertRaises(NotHeld, self.store.open, OTHER)
        self.failureResultOf(self.store.read(OTHER, 1000), NotHeld)

    def test_wrong_bytes_become_no_blob(self) -> None:
        """A digest never names bytes that do not have it."""
        self.failureResultOf(self.store.put(OTHER, DATA), BlobDamaged)
        self.assertIsNone(self.store.size(OTHER))
        self.assertEqual(self.store.total(), 0)

    def test_a_blob_larger_than_it_may_be_is_not_read(self) -> None:
        """A layer asked for as a manifest does not fill the memory."""
        self.put()
        self.failureResultOf(self.store.read(DIGEST, len(DATA) - 1), BlobDamaged)
        self.assertEqual(self.successResultOf(self.store.read(DIGEST, len(DATA))), DATA)

    def test_several_are_read_at_once_as_far_as_they_are_here(self) -> None:
        """What is not held takes nothing from the others, and no more comes into memory than was asked for."""
        self.put()
        self.put(OTHER, b"something else")
        both = {DIGEST: DATA, OTHER: b"something else"}
        size = sum(map(len, both.values()))

        def read(limit: int, *digests: Digest) -> dict[Digest, bytes]:
            return self.successResultOf(self.store.read_all(digests, limit))

        self.assertEqual(read(size, Digest.of(b"not here"), OTHER, DIGEST), both)
        self.assertEqual(read(size - 1, DIGEST, OTHER), {DIGEST: DATA})
        self.assertEqual(read(len(DATA) - 1, DIGEST, OTHER), {OTHER: both[OTHER]})
        self.assertEqual(read(size), {})

    def test_putting_what_is_held_is_no_error_and_counts_once(self) -> None:
        """Two tags of one image are one image."""
        self.put()
        self.put()
        self.put(OTHER, b"something else")
        self.assertEqual(self.store.total(), len(DATA) + len(b"something else"))

    def test_nothing_is_unfinished_in_a_store_of_whole_blobs(self) -> None:
        """A restart has nothing to fetch when nothing was cut."""
        self.put()
        self.assertEqual(self.store.unfinished(), [])

    # -- room -------------------------------------------------------------------------------------------------------

    def test_blobs_leave_the_room_that_is_reserved_for_documents(self) -> None:
        """What would take it is refused, and nothing of it is held; what is held already is stored as ever."""
        self.put()
        self.assertLessEqual(self.store.free(), self.store.capacity())
        self.store.floor = 1 << 63
        refused = self.failureResultOf(self.store.put(OTHER, b"something else"), OSError)
        self.assertEqual(refused.value.errno, errno.ENOSPC)
        self.assertIsNone(self.store.size(OTHER))
        self.put()
        self.store.floor = 0
        self.put(OTHER, b"something else")

    # -- deleting ---------------------------------------------------------------------------------------------------

    def delete(self, digest: Digest = DIGEST) -> None:
        self.assertIsNone(self.successResultOf(self.store.delete(digest)))

    def test_what_is_deleted_is_held_no_more(self) -> None:
        """It is gone from every answer and from the sum; what is beside it stays."""
        self.put()
        self.put(OTHER, b"something else")
        self.delete()
        self.assertIsNone(self.store.size(DIGEST))
        self.assertRaises(NotHeld, self.store.open, DIGEST)
        self.failureResultOf(self.store.read(DIGEST, 1000), NotHeld)
        self.assertEqual(self.successResultOf(self.store.read_all([DIGEST, OTHER], 1000)), {OTHER: b"something else"})
        self.assertEqual(self.store.total(), len(b"something else"))

    def test_deleting_what_is_not_held_is_no_error(self) -> None:
        """Twice, or something that never was: the sum stays what it was."""
        self.put(OTHER, b"something else")
        self.put()
        for _ in range(2):
            self.delete()
            self.delete(Digest.of(b"never here", "sha512"))
            self.assertEqual(self.store.total(), len(b"something else"))

    def test_who_has_it_open_goes_on_reading(self) -> None:
        """A client in the middle of a layer gets the rest of it."""
        self.put()
        reader = self.store.open(DIGEST)
        self.addCleanup(reader.close)
        self.delete()
        self.assertEqual(self.successResultOf(reader.read(5, 1000)), DATA[5:])

    def test_what_was_deleted_may_come_again(self) -> None:
        """It is fetched or imported anew, and is a blob as before."""
        for _ in range(2):
            self.put()
            self.assertEqual(self.successResultOf(self.store.read(DIGEST, 1000)), DATA)
            self.assertEqual(self.store.total(), len(DATA))
            self.delete()

    # -- damage -----------------------------------------------------------------------------------------------------

    def verify(self, digest: Digest = DIGEST) -> bool:
        return self.successResultOf(self.store.verify(digest))

    def set_aside(self, digest: Digest = DIGEST) -> bool:
        return self.successResultOf(self.store.set_aside(digest))

    def damaged(self) -> list[tuple[Digest, int]]:
        return [(each.digest, each.size) for each in self.successResultOf(self.store.damaged())]

    def test_a_blob_that_is_as_it_was_is_right(self) -> None:
        """Whatever its algorithm, and the empty one too; looking at it changes nothing."""
        for data, algorithm in ((DATA, "sha256"), (DATA, "sha512"), (b"", "sha256")):
            digest = Digest.of(data, algorithm)
            self.put(digest, data)
            self.assertTrue(self.verify(digest))
            self.assertEqual(self.successResultOf(self.store.read(digest, 1000)), data)
        self.assertEqual(self.damaged(), [])

    def test_one_byte_less_more_or_other_is_found(self) -> None:
        """Whatever a disk does to it."""
        self.put()
        for damage in (DATA[:-1], DATA + b" ", b"", DATA[:5] + b"!" + DATA[6:]):
            self.damage(DIGEST, damage)
            self.assertFalse(self.verify())

    def test_what_is_not_held_cannot_be_verified(self) -> None:
        """It may have been deleted a moment ago: that is no damage."""
        self.failureResultOf(self.store.verify(OTHER), NotHeld)

    def test_who_verifies_sets_the_pace(self) -> None:
        """It is given the bytes of each piece, and no other is read before it is ready; it may give up there."""
        self.put()
        pieces: list[int] = []
        ready: Deferred[None] = Deferred()

        def paced(count: int) -> Deferred[None]:
            pieces.append(count)
            return ready

        verifying = self.store.verify(DIGEST, paced)
        self.assertEqual(pieces, [len(DATA)])
        self.assertNoResult(verifying)
        ready.callback(None)
        self.assertTrue(self.successResultOf(verifying))

        ready = Deferred()
        verifying = self.store.verify(DIGEST, paced)
        verifying.cancel()
        self.failureResultOf(verifying, CancelledError)

    def test_what_is_set_aside_is_held_no_more_and_kept(self) -> None:
        """It is gone from every answer and from the sum, and lies where a person can look at it, also later on."""
        self.put()
        self.put(OTHER, b"something else")
        self.damage(DIGEST, b"x" * len(DATA))
        self.assertTrue(self.set_aside())
        self.assertIsNone(self.store.size(DIGEST))
        self.assertRaises(NotHeld, self.store.open, DIGEST)
        self.assertEqual(self.store.total(), len(b"something else"))
        self.assertEqual(self.damaged(), [(DIGEST, len(DATA))])
        self.assertEqual(self.successResultOf(self.store.read_damaged(DIGEST, 5)), b"xxxxx")
        self.assertEqual(self.successResultOf(self.store.read_damaged(OTHER, 5)), b"")
        self.assertFalse(self.set_aside())
        self.assertEqual(self.damaged(), [(DIGEST, len(DATA))])

    def test_a_blob_that_goes_takes_its_damaged_bytes_along(self) -> None:
        """They stand for something that is lacking only as long as the blob is; deleting that again changes nothing."""
        self.put()
        self.damage(DIGEST, b"x" * len(DATA))
        self.set_aside()
        self.successResultOf(self.store.delete(DIGEST))
        self.assertEqual(self.damaged(), [(DIGEST, len(DATA))])
        self.put()
        self.successResultOf(self.store.delete(DIGEST))
        self.assertEqual(self.damaged(), [])

    def test_who_has_a_damaged_blob_open_goes_on(self) -> None:
        """Its connection is told of the damage in its own way, by what it reads."""
        self.put()
        reader = self.store.open(DIGEST)
        self.addCleanup(reader.close)
        self.set_aside()
        self.assertEqual(self.successResultOf(reader.read(5, 1000)), DATA[5:])

    def test_the_right_bytes_make_it_a_blob_again(self) -> None:
        """What was set aside stays there until it is dropped; a second damage takes the place of the first."""
        self.put()
        for damage in (b"one", b"two and more"):
            self.damage(DIGEST, damage)
            self.set_aside()
            self.put()
            self.assertTrue(self.verify())
            self.assertEqual(self.damaged(), [(DIGEST, len(damage))])
        for _ in range(2):
            self.successResultOf(self.store.drop_damaged(DIGEST))
            self.assertEqual(self.damaged(), [])
        self.assertTrue(self.verify())

    def test_damaged_bytes_do_not_stand_in_the_way_of_right_ones(self) -> None:
        """Whoever stores the blob again has it whole, also where the damage was not seen before."""
        self.put()
        for damage in (DATA[:-1], DATA + b" ", b"x" * len(DATA)):
            self.damage(DIGEST, damage)
            self.put()
            self.assertTrue(self.verify())
        self.damage(DIGEST, DATA[:-1])
        ingest = self.successResultOf(self.store.ingest(DIGEST))
        self.successResultOf(ingest.write([DATA]))
        self.successResultOf(ingest.commit())
        self.assertTrue(self.verify())
        self.assertEqual(self.damaged(), [(DIGEST, len(DATA) - 1)])

    def test_several_are_deleted_at_once(self) -> None:
        """Those that are not held among them change nothing."""
        self.put()
        self.put(OTHER, b"something else")
        self.assertIsNone(self.successResultOf(self.store.delete(DIGEST, Digest.of(b"never here"), OTHER)))
        self.assertEqual((self.store.size(DIGEST), self.store.size(OTHER), self.store.total()), (None, None, 0))

    # -- leases -----------------------------------------------------------------------------------------------------

    def test_a_blob_is_in_use_while_it_is_open(self) -> None:
        """From the first reader to the last, and no other blob with it."""
        self.put()
        self.assertNotIn(DIGEST, self.store.leases)
        readers = [self.store.open(DIGEST) for _ in range(2)]
        for reader in readers:
            self.assertIn(DIGEST, self.store.leases)
            self.assertNotIn(OTHER, self.store.leases)
            reader.close()
        readers[0].close()
        self.assertNotIn(DIGEST, self.store.leases)

    def test_what_cannot_be_opened_is_not_in_use(self) -> None:
        """Nothing is left behind by a request for what is not held."""
        self.assertRaises(NotHeld, self.store.open, DIGEST)
        self.assertNotIn(DIGEST, self.store.leases)

    def test_a_blob_is_in_use_while_it_is_put(self) -> None:
        """Who watches knows of it afterwards, held before or not."""
        for _ in range(2):
            with self.store.leases.watch() as watch:
                self.put()
            self.assertIn(DIGEST, watch)
            self.assertNotIn(DIGEST, self.store.leases)

    def test_a_blob_is_in_use_while_it_is_received(self) -> None:
        """From the beginning to the end of each writer; and then as long as it is read."""
        first, second = (self.successResultOf(self.store.ingest(DIGEST)) for _ in range(2))
        reader = first.reader()
        for ingest in (first, second):
            self.assertIn(DIGEST, self.store.leases)
            ingest.close()
        self.assertIn(DIGEST, self.store.leases)
        reader.close()
        self.assertNotIn(DIGEST, self.store.leases)

    def test_a_blob_that_was_received_is_in_use_no_more(self) -> None:
        """Committed or thrown away, closed once more or not."""
        for end in ("commit", "discard"):
            ingest = self.successResultOf(self.store.ingest(DIGEST))
            self.successResultOf(ingest.write([DATA]))
            self.successResultOf(getattr(ingest, end)())
            ingest.close()
            self.assertNotIn(DIGEST, self.store.leases)

    # -- all of them ------------------------------------------------------------------------------------------------

    def walked(self) -> list[Stored]:
        async def walk() -> list[Stored]:
            return [each async for batch in self.store.walk() for each in batch]

        found = self.successResultOf(Deferred.fromCoroutine(walk()))
        return sorted(found)

    def test_a_walk_finds_all_blobs_and_nothing_else(self) -> None:
        """With their sizes; what is still being received is no blob."""
        self.assertEqual(self.walked(), [])
        held = {Digest.of(data, algorithm): data for data in (b"", DATA) for algorithm in ("sha256", "sha512")}
        for digest, data in held.items():
            self.put(digest, data)
        ingest = self.successResultOf(self.store.ingest(OTHER))
        self.addCleanup(ingest.close)
        self.successResultOf(ingest.write([b"some"]))
        found = self.walked()
        self.assertEqual({each.digest: each.size for each in found}, {each: len(data) for each, data in held.items()})
        self.assertEqual(self.store.total(), 2 * len(DATA))
        self.assertTrue(all(each.modified >= 0 for each in found))
