"""What an upstream said of referrers: kept bit for bit, replaced whole, asked for anew when it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase

from appliance.errors import StoreError, VersionConflict
from appliance.index import lists as module
from appliance.index.lists import ReferrerList, ReferrerLists
from appliance.index.memory import MemoryDocuments
from appliance.oci.digest import Digest
from appliance.oci.referrer import ReferrerDescriptor, parse_descriptor, parse_referrers
from tests.doubles.deferreds import begin, failing, result

WHERE = ("docker.io", "library/nginx")
SUBJECT = Digest.of(b"subject")
KEY = ("docker.io", "library", "nginx", "_referrers", f"sha256-{SUBJECT.encoded}.json")
NOW = 1_700_000_000.0


def referrer(what: str, **more: Any) -> ReferrerDescriptor:
    document = {"mediaType": "application/x", "digest": str(Digest.of(what.encode())), "size": 3, **more}
    return parse_descriptor(json.dumps(document, indent=1).encode())


ONE, TWO = referrer("one"), referrer("two")
LIST = ReferrerList((ONE, TWO), NOW)


class GatedDocuments(MemoryDocuments):
    """Reads wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Deferred[None]] = []
        self.gated = True

    def read(self, key: tuple[str, ...]) -> Deferred[tuple[bytes, int] | None]:
        """See L{IDocuments.read}."""
        if not self.gated:
            return MemoryDocuments.read(self, key)
        gate: Deferred[None] = Deferred()
        self.reads.append(gate)
        return gate.addCallback(lambda _: MemoryDocuments.read(self, key))


def get(lists: ReferrerLists, subject: Digest = SUBJECT) -> ReferrerList | None:
    return result(lists.get(*WHERE, subject))


def save(lists: ReferrerLists, listed: ReferrerList, subject: Digest = SUBJECT, keep: bool = True) -> None:
    result(lists.save(*WHERE, subject, listed, keep))


def document(documents: MemoryDocuments) -> bytes:
    found = result(documents.read(KEY))
    assert found is not None
    return found[0]


def test_a_list_survives_a_restart() -> None:
    """With when it was received, and whether it is all; what no upstream said is not known, which is no empty list."""
    documents = MemoryDocuments()
    lists = ReferrerLists(documents)
    assert get(lists) is None
    for listed in (LIST, ReferrerList((TWO,), NOW + 60, cut=True), ReferrerList((), NOW + 90)):
        save(lists, listed)
        assert get(lists) == get(ReferrerLists(documents)) == listed


def test_the_document_is_an_image_index_with_when_it_was_received() -> None:
    """Any tool can read it; descriptors stand in it as the upstream wrote them."""
    documents = MemoryDocuments()
    strange = parse_descriptor(
        b'{ "size":7,"digest":"%s", "x.unknown": [1, 2.50, null], "mediaType":"a/b" }' % str(SUBJECT).encode()
    )
    save(ReferrerLists(documents), ReferrerList((ONE, strange), NOW, cut=True))
    data = document(documents)
    assert ONE.raw in data and strange.raw in data
    assert parse_referrers(data) == [ONE, strange]
    assert json.loads(data)["annotations"] == {
        "io.pullcache.heard": "2023-11-14T22:13:20Z",
        "io.pullcache.cut": "true",
    }


@given(st.floats(0, 2**33), st.booleans(), st.sets(st.text(min_size=1, max_size=9)))
def test_whatever_is_written_can_be_read(received_at: float, cut: bool, names: set[str]) -> None:
    """To the second."""
    documents = MemoryDocuments()
    listed = ReferrerList(tuple(referrer(each, artifactType=each) for each in sorted(names)), received_at, cut)
    save(ReferrerLists(documents), listed)
    assert get(ReferrerLists(documents)) == ReferrerList(listed.referrers, float(int(received_at)), cut)


class TestDamaged(SynchronousTestCase):
    def whole(self) -> bytes:
        documents = MemoryDocuments()
        save(ReferrerLists(documents), LIST)
        return document(documents)

    def test_a_damaged_list_is_asked_for_anew(self) -> None:
        """It is set aside and named in the log; nothing is known then, and the next list is kept."""
        whole = self.whole()
        for data in (
            b"",
            b"[]",
            b"[" * 99_999,
            whole[:-9],
            whole.replace(b"sha256", b"sha25\xff", 1),
            whole.replace(str(ONE.digest).encode(), str(TWO.digest).encode()),
            whole.replace(b"io.pullcache.heard", b"io.pullcache.heart"),
            whole.replace(b"2023-11-14T22:13:20Z", b"2023-11-14T22:13:20"),
            whole.replace(b"2023", b"0000"),
            whole.replace(b'"schemaVersion":2', b'"schemaVersion":3'),
        ):
            assert data != whole
            documents = MemoryDocuments()
            result(documents.write(KEY, data, 0))
            lists = ReferrerLists(documents)
            self.assertIsNone(get(lists))
            save(lists, LIST)
            self.assertEqual(get(ReferrerLists(documents)), LIST)
            aside = result(documents.read((*KEY[:-1], f".{KEY[-1]}.damaged-1")))
            self.assertEqual(aside and aside[0], data)


def test_a_list_that_another_writer_replaced_meanwhile_is_replaced_all_the_same() -> None:
    """Each writer has all that the upstream said: the last one stays, and none is refused."""
    documents = MemoryDocuments()
    mine, theirs = ReferrerLists(documents), ReferrerLists(documents)
    assert get(mine) is None and get(theirs) is None
    save(theirs, LIST)
    later = ReferrerList((TWO,), NOW + 1)
    save(mine, later)
    assert get(mine) == get(ReferrerLists(documents)) == later


def test_one_that_loses_every_time_says_so() -> None:
    """It does not go on for ever."""
    documents = MemoryDocuments()
    lists = ReferrerLists(documents)
    with patch.object(documents, "write", side_effect=lambda *_: fail(VersionConflict("lost"))) as written:
        failing(lists.save(*WHERE, SUBJECT, LIST), VersionConflict)
    assert 1 < written.call_count < 10
    assert get(lists) is None


def test_memory_is_bounded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used last stays; the rest is read again, also for the sake of replacing it."""
    documents = MemoryDocuments()
    monkeypatch.setattr(module, "LIMIT", 2)
    subjects = [Digest.of(each) for each in (b"a", b"b", b"c")]
    lists = ReferrerLists(documents)
    for subject in subjects:
        save(lists, LIST, subject)
    with patch.object(documents, "read", side_effect=documents.read) as read:
        assert get(lists, subjects[1]) == get(lists, subjects[2]) == LIST
        assert read.call_count == 0
        assert get(lists, subjects[0]) == LIST
        assert read.call_count == 1
    save(lists, ReferrerList((), NOW), subjects[1])
    assert get(ReferrerLists(documents), subjects[1]) == ReferrerList((), NOW)


def test_memory_is_bounded_by_bytes() -> None:
    """A list that is replaced counts once; one that is too large is read each time, and can be replaced."""
    documents = MemoryDocuments()
    large = ReferrerList((referrer("large", text="x" * 1000),), NOW)
    a, b = Digest.of(b"a"), Digest.of(b"b")
    lists = ReferrerLists(documents, budget=4000)
    for subject in (a, b, b, b, b):
        save(lists, large, subject)
    with patch.object(documents, "read", side_effect=documents.read) as read:
        assert get(lists, a) == get(lists, b) == large and read.call_count == 0
        save(lists, large)
        assert get(lists, b) == get(lists) == large and read.call_count == 1
        assert get(lists, a) == large and read.call_count == 2
    small = ReferrerLists(documents, budget=100)
    with patch.object(documents, "read", side_effect=documents.read) as read:
        assert get(small, a) == get(small, a) == large and read.call_count == 2
    save(small, LIST, a)
    assert get(small, a) == LIST


def test_what_is_not_worth_a_document_is_known_until_the_restart() -> None:
    """A document that is there is replaced, though."""
    documents = MemoryDocuments()
    lists = ReferrerLists(documents)
    nothing = ReferrerList((), NOW)
    save(lists, nothing, keep=False)
    assert get(lists) == nothing
    assert get(ReferrerLists(documents)) is None and result(documents.read(KEY)) is None
    save(lists, LIST)
    save(lists, nothing, keep=False)
    assert get(ReferrerLists(documents)) == nothing


def test_all_who_ask_share_one_load(logged_errors: list[dict[str, Any]]) -> None:
    """Three clients on a damaged list set it aside once, and the log says so; one that leaves stops no other."""
    documents = GatedDocuments()
    result(documents.write(KEY, b"{torn", 0))
    lists = ReferrerLists(documents)
    asked = [begin(lists.get(*WHERE, SUBJECT)) for _ in range(3)]
    asked[0].addErrback(lambda _: None)
    asked[0].cancel()
    assert len(documents.reads) == 1
    documents.reads[0].callback(None)
    assert [result(each) for each in asked] == [None] * 3
    assert len(logged_errors) == 1 and "set aside" in log.textFromEventDict(logged_errors.pop())  # type: ignore[operator]


def test_a_load_that_failed_is_tried_again() -> None:
    """A disk error is no missing list."""
    documents = GatedDocuments()
    lists = ReferrerLists(documents)
    asking: Coroutine[Any, Any, Any] = lists.get(*WHERE, SUBJECT)
    asked = begin(asking)
    documents.reads[0].errback(StoreError("unreadable"))
    failing(asked, StoreError)
    documents.gated = False
    assert get(lists) is None
