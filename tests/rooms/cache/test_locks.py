"""Locked tags: what the upstream says of them is reported, and neither fetched nor served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from appliance import errors
from appliance.index.repository import OPERATOR, Repository
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.settings import StaleSettings
from tests.doubles.deferreds import begin, failing, result
from tests.doubles.manifests import image
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream

ONE, TWO, THREE = image(b"one"), image(b"two"), image(b"three")
HUB = "docker.io"
APP = (HUB, "app")


class Locked:
    """A cache of which one tag, C{latest}, is locked to what the upstream had when it was pulled."""

    def __init__(self, **settings: Any) -> None:
        self.upstream = ScriptedUpstream(HUB)
        self.offer(ONE)
        self.cache = Cache(self.upstream, **settings)
        self.moves = self.cache.services.moves
        self.ask()
        self.repository.pin("latest", OPERATOR)
        self.repository.lock("latest")
        self.later()

    @property
    def repository(self) -> Repository:
        """As it is held."""
        found: Repository = result(self.cache.repositories.get(*APP))
        return found

    def offer(self, manifest: bytes) -> None:
        """The upstream's tag means this from now on."""
        self.upstream.add_manifest("app", manifest, OCI_MANIFEST, "latest")

    def later(self) -> None:
        """What was checked is stale, and what was asked is forgotten."""
        self.cache.clock.advance(100.0)
        self.upstream.calls.clear()

    def ask(self) -> Any:
        """A client asks for the tag."""
        return result(self.cache.through.manifest(self.cache.at(*APP), "latest", pulled=True))

    def asked(self) -> list[str]:
        """The verbs that the upstream got, which are forgotten."""
        found = [call.verb for call in self.upstream.calls]
        self.upstream.calls.clear()
        return found


@pytest.fixture
def warned() -> Iterator[list[LogEvent]]:
    """Warnings that were logged."""
    events: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"].name == "warn":
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


def test_a_locked_tag_stays_when_its_upstream_moves_it(warned: list[LogEvent]) -> None:
    """What it is locked to is served as a hit that says so; the other manifest is not fetched; it counts as checked."""
    locked = Locked()
    locked.offer(TWO)
    answer = locked.ask()
    assert (answer.data, str(answer.status), answer.warning) == (ONE, "pullcache; hit; detail=locked", None)
    assert locked.asked() == ["head"]
    again = locked.ask()
    assert (again.data, str(again.status), locked.asked()) == (ONE, "pullcache; hit; detail=locked", [])
    assert Digest.of(TWO) not in locked.repository.manifests
    assert answer.fresh_until is not None and answer.fresh_until > locked.cache.clock.seconds()
    refused = locked.moves.refused(*APP, "latest")
    assert refused is not None and refused.target == str(Digest.of(TWO))
    locked.later()
    locked.ask()
    assert len(warned) == 1, "once, however often it says so"
    locked.offer(THREE)
    locked.later()
    locked.ask()
    assert len(warned) == 2 and len(locked.moves.all_refused) == 1
    assert [each.target for each in locked.moves.of(*APP, "latest")] == [str(Digest.of(each)) for each in (THREE, TWO)]
    assert b"pullcache_moves_refused 1.0\n" in locked.cache.metrics.render()


def test_a_registry_that_tells_no_digest_does_not_move_it_either() -> None:
    """What it has is hashed, and not kept."""
    locked = Locked()
    locked.upstream.tells_digest = False
    locked.offer(TWO)
    assert locked.ask().data == ONE and locked.asked() == ["head", "manifest"]
    assert locked.cache.store.size(Digest.of(TWO)) is None


def test_an_upstream_that_says_again_what_is_locked_is_reported_no_more() -> None:
    """The tag was poisoned, and was put right."""
    locked = Locked()
    locked.offer(TWO)
    locked.ask()
    locked.offer(ONE)
    locked.later()
    answer = locked.ask()
    assert str(answer.status) == "pullcache; fwd=stale; fwd-status=304"
    assert not locked.moves.all_refused and str(locked.ask().status) == "pullcache; hit"


def test_an_unlocked_tag_moves_with_the_next_check() -> None:
    """And that is written down: from what, to what, by whom."""
    locked = Locked()
    locked.offer(TWO)
    locked.ask()
    locked.repository.unpin("latest")
    locked.later()
    answer = locked.ask()
    assert (answer.data, str(answer.status)) == (TWO, "pullcache; fwd=stale; fwd-status=200; stored")
    moved = locked.moves.of(*APP, "latest")[0]
    assert (moved.source, moved.target, moved.by) == (str(Digest.of(ONE)), str(Digest.of(TWO)), "upstream")
    assert not moved.refused and not locked.moves.all_refused


def test_a_tag_that_is_locked_while_its_upstream_is_asked_stays() -> None:
    """Whatever was fetched by then."""
    locked = Locked()
    locked.repository.unpin("latest")
    locked.offer(TWO)
    locked.upstream.hang("manifest")
    asked = begin(locked.cache.through.manifest(locked.cache.at(*APP), "latest"))
    locked.repository.pin("latest", OPERATOR)
    locked.repository.lock("latest")
    locked.upstream.hanging[0].answer()
    assert result(asked).data == ONE
    assert locked.repository.tags["latest"].digest == Digest.of(ONE)


@pytest.mark.parametrize("moved", [False, True])
def test_a_locked_manifest_that_is_gone_here_is_fetched_by_its_digest(moved: bool) -> None:
    """Damaged and set aside, say: the upstream's tag may mean what it likes."""
    locked = Locked()
    if moved:
        locked.offer(TWO)
    result(locked.cache.store.delete(Digest.of(ONE)))
    answer = locked.ask()
    assert (answer.data, str(answer.status)) == (ONE, "pullcache; fwd=uri-miss; stored")
    assert [(call.verb, call.subject) for call in locked.upstream.calls][-1] == ("manifest", str(Digest.of(ONE)))
    assert locked.cache.store.size(Digest.of(TWO)) is None


def test_a_locked_manifest_that_is_gone_everywhere_is_an_error_that_says_so() -> None:
    """Nothing else is served in its place."""
    locked = Locked()
    locked.offer(TWO)
    del locked.upstream.shelves["app"].manifests[Digest.of(ONE)]
    result(locked.cache.store.delete(Digest.of(ONE)))
    error = failing(locked.cache.through.manifest(locked.cache.at(*APP), "latest"), errors.UpstreamInvalid)
    assert f"app:latest is locked here to {Digest.of(ONE)}, which is not there" in str(error)


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "pinned"])
def test_what_is_pinned_is_not_forgotten_when_it_is_gone_upstream(locked: bool) -> None:
    """delete_missing is for what nobody asked to keep."""
    held = Locked(delete_missing=True, serve_stale=StaleSettings(missing=True))
    if not locked:
        held.repository.unpin("latest")
        held.repository.pin("latest", OPERATOR)
    held.upstream.fail(errors.UpstreamMissing(HUB, "gone"), "head")
    answer = held.ask()
    assert (answer.data, str(answer.status)) == (ONE, "pullcache; hit; detail=stale-missing")


def test_an_upstream_that_fails_leaves_a_locked_tag_as_it_is() -> None:
    """Served, marked stale, as any other."""
    locked = Locked()
    locked.upstream.fail(errors.UpstreamUnavailable(HUB, "down"))
    answer = locked.ask()
    assert (answer.data, str(answer.status)) == (ONE, "pullcache; hit; detail=stale-unavailable")


def test_what_is_not_locked_moves_and_that_is_written_down() -> None:
    """A tag that is new has not moved."""
    locked = Locked()
    locked.repository.unpin("latest")
    assert locked.moves.of(*APP, "latest") == []
    locked.repository.pin("latest", OPERATOR)
    locked.offer(TWO)
    assert locked.ask().data == TWO, "pinned, and free to move"
    assert [each.by for each in locked.moves.of(*APP, "latest")] == ["upstream"]
    assert locked.repository.tags["latest"].pinned == OPERATOR
