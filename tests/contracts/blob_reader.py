"""What every L{IBlobReader} promises, of a held blob and of one that is being received."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from appliance.interfaces import IBlobReader, IFileTransport

# More than is read at once, and nothing that repeats soon.
DATA = b"".join(number.to_bytes(4, "big") for number in range(150_000))
SIZE = len(DATA)
RANGES = ((0, SIZE), (0, 1), (5, 6), (SIZE - 1, SIZE), (7, 7), (100_000, 500_000), (1, 65_537))


@implementer(IFileTransport)
class Transport:
    """
    Takes file ranges in two pieces each.

    @ivar received: the bytes; C{writable}: whether some descriptor could be written to.
    """

    def __init__(self) -> None:
        self.received = b""
        self.writable = False

    def send_file(
        self, fd: int, start: int, length: int, sent: Callable[[int], None], failed: Callable[[OSError], None]
    ) -> None:
        """See L{IFileTransport.send_file}."""
        half = length // 2
        for count, at in ((half, start), (length - half, start + half)):
            self.received += os.pread(fd, count, at)
            sent(count)
        try:
            os.pwrite(fd, b"!", start)
        except OSError:
            return
        self.writable = True


class BlobReaderContract(SynchronousTestCase):
    """Mix in, and say how to make the provider."""

    __test__ = False

    @abstractmethod
    def reader(self, data: bytes) -> IBlobReader:
        """A reader of C{data}; a second call gives a second reader of the same."""

    def setUp(self) -> None:
        self.read_by = self.reader(DATA)
        self.addCleanup(self.read_by.close)

    def test_provides_the_interface(self) -> None:
        """By zope's C{verifyObject}."""
        verifyObject(IBlobReader, self.read_by)
        self.assertEqual(self.read_by.size, SIZE)

    def test_any_range_can_be_read(self) -> None:
        """In any order, small or large."""
        for start, stop in RANGES:
            self.assertEqual(self.successResultOf(self.read_by.read(start, stop)), DATA[start:stop])

    def test_behind_the_end_there_is_nothing(self) -> None:
        """What is there of a range, and no error: the caller that was promised more says so."""
        for start, stop in ((SIZE - 5, SIZE + 5), (SIZE, SIZE + 1), (SIZE + 5, SIZE + 9), (0, 2 * SIZE)):
            self.assertEqual(self.successResultOf(self.read_by.read(start, stop)), DATA[start:stop])

    def test_a_range_is_sent_as_it_is_or_not_at_all(self) -> None:
        """Its bytes come to the transport, each is reported, and what they lie in cannot be written to."""
        for start, stop in RANGES:
            if start == stop:
                continue
            transport, counts, failures = Transport(), list[int](), list[OSError]()
            if self.read_by.send(start, stop, transport, counts.append, failures.append):
                self.assertEqual(transport.received, DATA[start:stop])
                self.assertEqual((sum(counts), failures, transport.writable), (stop - start, [], False))
            else:
                self.assertEqual((transport.received, counts, failures), (b"", [], []))

    def test_what_is_made_ready_reads_as_before(self) -> None:
        """A hint, at any moment."""
        for start, stop in ((0, SIZE), (0, 1), (SIZE - 1, SIZE)):
            self.read_by.prefetch(start, stop)
            self.assertEqual(self.successResultOf(self.read_by.read(start, stop)), DATA[start:stop])

    def test_each_reader_is_closed_by_itself(self) -> None:
        """Twice is no error; a closed one reads nothing, whatever its file's number means by then."""
        other = self.reader(DATA)
        for _ in range(2):
            other.close()
        for stop in (1, SIZE):
            self.failureResultOf(other.read(0, stop), OSError)
        self.assertEqual(self.successResultOf(self.read_by.read(0, SIZE)), DATA)
