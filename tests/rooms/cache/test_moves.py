"""Moves of tags: what is told of them, how much is kept, and what a restart remembers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from appliance.cache import moves as module
from appliance.cache.moves import NAME, Move, Moves, RefusedMove
from appliance.index.memory import MemoryDocuments
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from tests.doubles.deferreds import result
from tests.doubles.manifests import image
from tests.doubles.pullthrough import NOW, Cache, clock_at
from tests.doubles.upstream import ScriptedUpstream

ONE, TWO, THREE = (Digest.of(text) for text in (b"one", b"two", b"three"))
NGINX = ("docker.io", "library/nginx")
BUNDLE = "sha256:" + "ab" * 32


def loaded(documents: MemoryDocuments, clock: Clock) -> Moves:
    """As after a restart."""
    moves = Moves(documents, clock)
    result(moves.load())
    return moves


def test_moves_of_a_tag_are_told_newest_first() -> None:
    """From which digest to which, when and by whom."""
    clock = clock_at()
    moves = Moves(MemoryDocuments(), clock)
    moves.note(*NGINX, "1", ONE, TWO)
    clock.advance(60)
    moves.note(*NGINX, "1", TWO, THREE, BUNDLE)
    assert moves.of(*NGINX, "1") == [
        Move(NOW + 60, str(TWO), str(THREE), BUNDLE),
        Move(NOW, str(ONE), str(TWO), "upstream"),
    ]
    assert moves.of(*NGINX, "2") == moves.of("quay.io", "library/nginx", "1") == []


def test_a_move_that_an_import_carries_out_again_after_a_kill_is_told_once() -> None:
    """It has the moment at which it was decided."""
    moves = Moves(MemoryDocuments(), clock_at())
    for _ in range(2):
        moves.note(*NGINX, "1", ONE, TWO, BUNDLE, NOW - 5)
    assert len(moves.of(*NGINX, "1")) == 1


def test_what_the_upstream_says_of_a_locked_tag_is_news_once() -> None:
    """A digest that it says again is none; another one is; both are told as refused."""
    clock = clock_at()
    moves = Moves(MemoryDocuments(), clock)
    assert moves.refuse(*NGINX, "1", ONE, TWO)
    clock.advance(60)
    assert not moves.refuse(*NGINX, "1", ONE, TWO)
    assert moves.refused(*NGINX, "1") == RefusedMove(NOW, str(TWO))
    assert moves.refuse(*NGINX, "1", ONE, THREE)
    assert dict(moves.all_refused) == {(*NGINX, "1"): RefusedMove(NOW + 60, str(THREE))}
    assert [(each.target, each.refused) for each in moves.of(*NGINX, "1")] == [(str(THREE), True), (str(TWO), True)]


def test_what_is_not_refused_any_more_is_not_reported_and_stays_told() -> None:
    """The upstream says again what is held, the tag moves, or it is gone."""
    moves = Moves(MemoryDocuments(), clock_at())
    moves.refuse(*NGINX, "1", ONE, TWO)
    moves.settle(*NGINX, "1")
    moves.refuse(*NGINX, "2", ONE, TWO)
    moves.note(*NGINX, "2", ONE, TWO)
    assert not moves.all_refused and moves.refused(*NGINX, "1") is None
    assert len(moves.of(*NGINX, "1")) == 1 and len(moves.of(*NGINX, "2")) == 2


def test_moves_outlive_the_process() -> None:
    """What was noted before the document could be read comes on top."""
    documents, clock = MemoryDocuments(), clock_at()
    moves = Moves(documents, clock)
    moves.note("r.example:5000", "team/a", "1", ONE, TWO)
    moves.refuse(*NGINX, "1", ONE, TWO)
    moves.refuse(*NGINX, "2", ONE, TWO)
    result(moves.flush())
    clock.advance(10)
    again = Moves(documents, clock)
    again.note(*NGINX, "1", ONE, TWO)
    result(again.load())
    assert again.of("r.example:5000", "team/a", "1") == moves.of("r.example:5000", "team/a", "1")
    assert [each.refused for each in again.of(*NGINX, "1")] == [False, True]
    assert set(again.all_refused) == {(*NGINX, "2")}


def test_nothing_is_written_while_nothing_changes() -> None:
    """An appliance at rest leaves the disk alone."""
    documents = MemoryDocuments()
    moves = loaded(documents, clock_at())
    moves.settle(*NGINX, "1")
    result(moves.flush())
    assert result(documents.read((NAME,))) is None
    moves.refuse(*NGINX, "1", ONE, TWO)
    result(moves.flush())
    version = result(documents.read((NAME,)))[1]
    moves.refuse(*NGINX, "1", ONE, TWO)
    result(moves.flush())
    assert result(documents.read((NAME,)))[1] == version


def test_what_a_tag_meant_before_was_in_use_as_long_as_the_tag_was() -> None:
    """Else the image that ran until today would be the first to go."""
    upstream = ScriptedUpstream("docker.io")
    images = [image(b"one"), image(b"two")]
    upstream.add_manifest("app", images[0], OCI_MANIFEST, "latest")
    cache = Cache(upstream)
    result(cache.through.manifest(cache.at("docker.io", "app"), "latest", pulled=True))
    upstream.add_manifest("app", images[1], OCI_MANIFEST, "latest")
    cache.clock.advance(1e6)
    result(cache.through.manifest(cache.at("docker.io", "app"), "latest", pulled=True))
    used = [cache.services.usage.last_pulled("docker.io", "app", str(Digest.of(each))) for each in images]
    assert used == [NOW, None]


def test_there_is_a_bound_to_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag that moves every minute drives out its own moves; then goes what has not moved for longest."""
    monkeypatch.setattr(module, "LIMIT", 6)
    monkeypatch.setattr(module, "OF_ONE_TAG", 3)
    documents, clock = MemoryDocuments(), clock_at()
    moves = Moves(documents, clock)
    for tag in "ab":
        for number in range(5):
            clock.advance(1)
            moves.note(*NGINX, tag, str(number), str(number + 1))
    assert [each.target for each in moves.of(*NGINX, "a")] == ["5", "4", "3"]
    moves.note(*NGINX, "c", "0", "1")
    assert [len(moves.of(*NGINX, tag)) for tag in "abc"] == [2, 3, 1]
    moves.note(*NGINX, "a", "5", "6")
    assert [len(moves.of(*NGINX, tag)) for tag in "abc"] == [3, 2, 1]
    for tag in "abcdefgh":
        moves.refuse(*NGINX, tag, ONE, TWO)
    assert len(moves.all_refused) == 6
    result(moves.flush())
    again = loaded(documents, clock)
    assert [len(again.of(*NGINX, tag)) for tag in "abcdefgh"] == [len(moves.of(*NGINX, tag)) for tag in "abcdefgh"]


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"moves": {"a/b": {"1": [{"at": -1}]}}}', b'{"refused": []}'])
def test_a_damaged_document_is_set_aside(data: bytes, logged_errors: list[dict[str, Any]]) -> None:
    """It is named in the status; moves are noted anew."""
    documents = MemoryDocuments()
    result(documents.write((NAME,), data, 0))
    moves = loaded(documents, clock_at())
    moves.note(*NGINX, "1", ONE, TWO)
    result(moves.flush())
    assert documents.damaged and loaded(documents, clock_at()).of(*NGINX, "1")
    assert len(logged_errors) == 1
    logged_errors.clear()
