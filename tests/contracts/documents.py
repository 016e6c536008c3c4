"""What every L{IDocuments} promises."""

from __future__ import annotations

import time
from abc import abstractmethod

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from appliance.errors import VersionConflict
from appliance.index.documents import journal_of, previous, read_document
from appliance.interfaces import IDocuments

KEY = ("docker.io", "library", "nginx", "_layout", "index.json")


class DocumentsContract(SynchronousTestCase):
    """Mix in, and say how to make the provider."""

    __test__ = False

    @abstractmethod
    def make(self) -> IDocuments:
        """No documents yet."""

    def setUp(self) -> None:
        self.documents = self.make()

    def write(self, data: bytes, replaces: int, key: tuple[str, ...] = KEY) -> int:
        return self.successResultOf(self.documents.write(key, data, replaces))

    def read(self, key: tuple[str, ...] = KEY) -> tuple[bytes, int] | None:
        return self.successResultOf(self.documents.read(key))

    def test_provides_the_interface(self) -> None:
        """By zope's C{verifyObject}."""
        verifyObject(IDocuments, self.documents)

    def test_what_is_written_is_read(self) -> None:
        """The bytes come back as they were, with the version that the next write names."""
        self.assertIsNone(self.read())
        version = self.write(b"one", 0)
        self.assertEqual(self.read(), (b"one", version))
        version = self.write(b"two", version)
        self.assertEqual(self.read(), (b"two", version))

    def test_no_writer_overwrites_what_it_has_not_seen(self) -> None:
        """A write that names another version changes nothing."""
        first = self.write(b"one", 0)
        second = self.write(b"two", first)
        for stale in (0, first, second + 1):
            self.failureResultOf(self.documents.write(KEY, b"lost", stale), VersionConflict)
        self.assertEqual(self.read(), (b"two", second))

    def test_a_document_that_is_not_there_has_no_version(self) -> None:
        """Replacing what was removed meanwhile fails instead of bringing it back."""
        self.failureResultOf(self.documents.write(KEY, b"lost", 1), VersionConflict)
        self.assertIsNone(self.read())

    def append(self, data: bytes, replaces: int, number: int = 1) -> int:
        return self.successResultOf(self.documents.append(journal_of(KEY, number), data, replaces))

    def test_what_is_appended_is_read_behind_what_was_there(self) -> None:
        """From the first bytes on, and behind what was written whole."""
        version = self.append(b"one\n", 0)
        self.assertEqual(self.read(journal_of(KEY, 1)), (b"one\n", version))
        version = self.append(b"two\n", version)
        self.assertEqual(self.read(journal_of(KEY, 1)), (b"one\ntwo\n", version))
        version = self.successResultOf(self.documents.append(KEY, b"two", self.write(b"one", 0)))
        self.assertEqual(self.read(), (b"onetwo", version))
        version = self.write(b"new", version)
        self.successResultOf(self.documents.append(KEY, b"er", version))
        self.assertEqual(self.read()[0], b"newer")  # type: ignore[index]

    def test_nothing_is_appended_to_what_was_not_seen(self) -> None:
        """As with a write: the version has to be the one there is."""
        version = self.append(b"one", 0)
        for stale in (0, version + 1):
            self.failureResultOf(self.documents.append(journal_of(KEY, 1), b"lost", stale), VersionConflict)
        self.failureResultOf(self.documents.append(journal_of(KEY, 2), b"lost", 1), VersionConflict)
        self.assertEqual(self.read(journal_of(KEY, 1)), (b"one", version))
        self.assertIsNone(self.read(journal_of(KEY, 2)))

    def test_the_journals_of_a_document_are_found_by_their_numbers(self) -> None:
        """Sorted as numbers; those of other documents, what was set aside and what is named alike are none."""
        self.assertEqual(self.successResultOf(self.documents.journals(KEY)), [])
        for number in (10, 9):
            self.append(b"x", 0, number)
        self.write(b"x", 0)
        self.write(b"x", 0, journal_of((*KEY[:-1], "other.json"), 3))
        self.write(b"x", 0, (*KEY[:-1], ".index.json.journal-04"))
        self.successResultOf(self.documents.set_aside(journal_of(KEY, 9)))
        self.successResultOf(self.documents.remove(journal_of(KEY, 9)))
        self.assertEqual(self.successResultOf(self.documents.journals(KEY)), [10])

    def test_what_is_removed_is_gone_and_can_be_written_anew(self) -> None:
        """Removing it again is no error."""
        self.append(b"one", 0)
        for _ in range(2):
            self.successResultOf(self.documents.remove(journal_of(KEY, 1)))
            self.assertIsNone(self.read(journal_of(KEY, 1)))
        self.append(b"two", 0)
        self.assertEqual(self.read(journal_of(KEY, 1))[0], b"two")  # type: ignore[index]
        self.write(b"document", 0)
        for _ in range(2):
            self.successResultOf(self.documents.remove(KEY))
            self.assertIsNone(self.read())
        self.assertEqual(self.successResultOf(self.documents.list((), KEY[-1])), [])
        self.write(b"anew", 0)
        self.assertEqual(self.read(), (b"anew", 1))

    def test_what_is_set_aside_makes_room_and_is_kept(self) -> None:
        """A damaged document is out of the way at once; nothing is deleted that an operator may want to look at."""
        places = set()
        for _ in range(3):
            self.write(b"{torn", 0)
            places.add(self.successResultOf(self.documents.set_aside(KEY)))
            self.assertIsNone(self.read())
        self.assertEqual(len(places), 3)
        self.assertEqual(self.read(), None)
        self.assertEqual(self.read((*KEY[:-1], ".index.json.damaged-1"))[0], b"{torn")  # type: ignore[index]

    def test_what_is_set_aside_is_named_with_where_it_is(self) -> None:
        """For the operator's status; a document that is well is not in it."""
        self.write(b"{}", 0, ("docker.io", "_tags.json"))
        self.write(b"{torn", 0)
        aside = self.successResultOf(self.documents.set_aside(KEY))
        self.assertEqual(self.documents.damaged, [("/".join(KEY), aside)])
        self.assertEqual(self.documents.unreadable, {})

    def test_what_is_set_aside_is_counted_and_goes_when_it_is_old(self) -> None:
        """Documents that are in use, and those before their last write, are not touched."""
        sweep = self.documents.sweep
        self.assertEqual(self.successResultOf(sweep(0.0)), (0, 0))
        other = ("ghcr.io", "a", "_tags.json")
        self.write(b"other", self.write(b"before", 0, other), other)
        for data in (b"{", b"{{"):
            self.write(data, 0)
            self.successResultOf(self.documents.set_aside(KEY))
        self.write(b"anew", 0)
        self.assertEqual(self.successResultOf(sweep(0.0)), (2, 3))
        self.assertEqual(self.successResultOf(sweep(time.time() + 100)), (0, 0))
        self.assertEqual(self.successResultOf(sweep(0.0)), (0, 0))
        self.assertEqual((self.read(), self.read(other)), ((b"anew", 1), (b"other", 2)))
        self.assertEqual(self.read(previous(other))[0], b"before")  # type: ignore[index]
        self.assertEqual(len(self.documents.damaged), 2, "it is still said that they were damaged")

    def test_whatever_is_wrong_with_a_document_sets_it_aside(self) -> None:
        """No text, no JSON, another shape, too deep: all are one case for who reads, and a writer begins anew."""
        decode = msgspec.json.Decoder(dict[str, int]).decode
        for data in (b"", b'{"a\xff": 1}', b"[1]", b'{"a": "b"}', b'{"a": 1e999}', b"[" * 100_000, b"\0" * 99):
            version = self.write(data, 0)
            with capturedLogs() as logged:
                found = self.successResultOf(Deferred.fromCoroutine(read_document(self.documents, KEY, decode)))
            self.assertEqual(found, (None, 0), data)
            aside = self.documents.damaged[-1][1]
            self.assertEqual([each["aside"] for each in logged], [aside])
            self.assertEqual(self.read(tuple(aside.split("/"))[-len(KEY) :])[0], data)  # type: ignore[index]
            self.failureResultOf(self.documents.write(KEY, b"{}", version), VersionConflict)

    def test_the_document_before_the_last_is_kept(self) -> None:
        """A damaged document can be rebuilt from the one before it; a damaged one never takes that place."""
        version = self.write(b"two", self.write(b"one", 0))
        self.assertEqual(self.read(previous(KEY))[0], b"one")  # type: ignore[index]
        self.write(b"{torn", version)
        self.successResultOf(self.documents.set_aside(KEY))
        self.write(b"rebuilt", 0)
        self.assertEqual(self.read(previous(KEY))[0], b"two")  # type: ignore[index]

    def test_the_list_has_every_key_of_that_name_sorted(self) -> None:
        """Repositories inside repositories are found, other documents beside them are not."""
        nested = ("docker.io", "library", "nginx", "deep", "_layout", "index.json")
        shorter = ("docker.io", "library", "_layout", "index.json")
        elsewhere = ("quay.io", "library", "_layout", "index.json")
        for key in (nested, KEY, elsewhere, shorter, ("docker.io", "library", "nginx", "_tags.json")):
            self.write(b"{}", 0, key)
        listed = self.successResultOf(self.documents.list((), "index.json"))
        self.assertEqual(listed, sorted([nested, KEY, elsewhere, shorter]))
        listed = self.successResultOf(self.documents.list(("docker.io", "library", "nginx"), "index.json"))
        self.assertEqual(listed, sorted([nested, KEY]))
        self.assertEqual(self.successResultOf(self.documents.list(("ghcr.io",), "index.json")), [])

    def test_what_was_set_aside_or_replaced_is_not_listed(self) -> None:
        """Only documents in use are repositories."""
        self.write(b"two", self.write(b"one", 0))
        self.write(b"{torn", 0, ("a", "_layout", "index.json"))
        listed = self.successResultOf(self.documents.list((), "index.json"))
        self.assertEqual(len(listed), 2)

    def test_a_key_leads_nowhere_else(self) -> None:
        """No name, however it got here, becomes a path outside the documents."""
        for part in ("..", ".", "", "a/b", "/etc", "a\0b"):
            for key in ((part, "index.json"), ("docker.io", part)):
                self.failureResultOf(self.documents.read(key), ValueError)
                self.failureResultOf(self.documents.write(key, b"", 0), ValueError)
                self.failureResultOf(self.documents.append(key, b"", 0), ValueError)
                self.failureResultOf(self.documents.journals(key), ValueError)
                self.failureResultOf(self.documents.remove(key), ValueError)
                self.failureResultOf(self.documents.set_aside(key), ValueError)
                self.failureResultOf(self.documents.list(key, "index.json"), ValueError)
