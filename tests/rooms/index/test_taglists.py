"""Upstreams' lists of tags: kept as last received, asked for anew when they cannot be read."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from appliance.errors import StoreError
from appliance.index.lists import TagList, TagLists
from appliance.index.memory import MemoryDocuments
from tests.rooms.index.slow import KEY, WHERE, RepositoriesCase, SlowDocuments


class TestTagLists(RepositoriesCase):
    TAGS = TagList(["1.0", "latest"], 1_700_000_000.5)

    def test_a_list_survives_a_restart(self) -> None:
        """What the upstream said last is known when it is gone."""
        documents = MemoryDocuments()
        self.assertIsNone(self.awaited(TagLists(documents).get(*WHERE)))
        lists = TagLists(documents)
        self.awaited(lists.save(*WHERE, TagList([], 1.0)))
        self.awaited(lists.save(*WHERE, self.TAGS))
        for each in (lists, TagLists(documents)):
            self.assertEqual(self.awaited(each.get(*WHERE)), self.TAGS)
        self.awaited(TagLists(documents).save(*WHERE, TagList([], 2.0)))

    def test_a_damaged_list_is_asked_for_anew(self) -> None:
        """It is set aside and named in the log; the next list is kept."""
        for data in (b"", b"[]", b'{"tags":[1],"checked_at":0}', b'{"tags":["\xff"],"checked_at":0}', b"[" * 99999):
            documents = MemoryDocuments()
            self.successResultOf(documents.write((*KEY[:3], "_tags.json"), data, 0))
            lists = TagLists(documents)
            self.assertIsNone(self.awaited(lists.get(*WHERE)))
            self.awaited(lists.save(*WHERE, self.TAGS))
            self.assertEqual(self.awaited(TagLists(documents).get(*WHERE)), self.TAGS)
            aside = self.successResultOf(documents.read((*KEY[:3], "._tags.json.damaged-1")))
            self.assertEqual(aside[0], data)  # type: ignore[index]

    def test_all_who_ask_share_one_load(self) -> None:
        """Two clients on a damaged list set it aside once."""
        documents = SlowDocuments()
        self.successResultOf(MemoryDocuments.write(documents, (*KEY[:3], "_tags.json"), b"{torn", 0))
        lists = TagLists(documents)
        asked = [Deferred.fromCoroutine(lists.get(*WHERE)) for _ in range(3)]
        self.assertEqual(len(documents.reads), 1)
        documents.reads[0].callback(None)
        self.assertEqual([self.successResultOf(each) for each in asked], [None] * 3)

    def test_a_load_that_failed_is_tried_again(self) -> None:
        """A disk error is no missing list."""
        documents = SlowDocuments()
        lists = TagLists(documents)
        asked = Deferred.fromCoroutine(lists.get(*WHERE))
        documents.reads[0].errback(StoreError("unreadable"))
        self.failureResultOf(asked, StoreError)
        documents.slow = False
        self.assertIsNone(self.awaited(lists.get(*WHERE)))
