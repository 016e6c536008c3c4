"""Leftovers: what lies beside what is held is counted, and goes when it is old."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from appliance.cache.access import Access
from appliance.cache.flights import UNFINISHED_KEPT, Flights
from appliance.cache.leftovers import KEPT, Amount, LeftoverCounts, Leftovers
from appliance.cache.space import Space
from appliance.flow.disk import InlineThreads
from appliance.index.documents import FilesystemDocuments
from appliance.index.repositories import Repositories
from appliance.interfaces import Origin
from appliance.oci.digest import Digest
from appliance.settings import RetentionSettings
from appliance.store.blobs import FilesystemBlobStore
from appliance.store.ownership import Ownership
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import begin, result
from tests.doubles.images import image
from tests.doubles.pullthrough import clock_at

DATA = b"0123456789"
BLOB = Digest.of(DATA)


@pytest.fixture
def site() -> Appliance:
    return Appliance()


def counts(site: Appliance) -> LeftoverCounts:
    found: LeftoverCounts = result(site.services.leftovers.counts())
    return found


def sweep(site: Appliance) -> None:
    result(site.services.leftovers.sweep(site.services.access))


def cut(site: Appliance, upstream: str | None, data: bytes = b"0123") -> None:
    """A blob of which this much came."""
    ingest = result(site.store.ingest(Digest.of(DATA + data)))
    result(ingest.note(Origin(upstream, NGINX if upstream else "", 100)))
    result(ingest.write([data]))
    ingest.close()


def damage(site: Appliance) -> None:
    """A blob that was found damaged."""
    result(site.store.put(BLOB, DATA))
    result(site.store.set_aside(BLOB))


def test_nothing_is_left_over_at_first(site: Appliance) -> None:
    """Images that are held are not."""
    site.hold(image(), "1")
    assert counts(site) == LeftoverCounts(Amount(), Amount(), Amount(), Amount())


def test_what_was_cut_is_told_apart_by_where_it_came_from(site: Appliance) -> None:
    """An import goes on when it is begun again; a fetch by itself."""
    cut(site, HUB, b"0123")
    cut(site, HUB, b"01")
    cut(site, None, b"0")
    found = counts(site)
    assert (found.beginnings, found.staged) == (Amount(2, 6), Amount(1, 1))


def test_what_is_being_fetched_is_not_left_over(site: Appliance) -> None:
    """It is under way."""
    content = image()
    site.offer(content, "1")
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    site.hub.by_hand = True
    answer = begin(site.through.blob(site.at(HUB, NGINX), Digest.parse(content.layers[0].digest)))
    assert counts(site).beginnings == Amount()
    site.hub.bodies[0].feed(10**6)
    site.hub.bodies[0].end()
    result(answer).close()


def test_what_was_set_aside_is_counted_at_once(site: Appliance) -> None:
    """Documents of the index and of the state, of this process and of earlier ones; and blobs."""
    damage(site)
    for documents, key in ((site.documents, (HUB, "app", "_layout", "index.json")), (site.state, ("wants.json",))):
        assert counts(site)
        result(documents.write(key, b"{", 0))
        result(documents.set_aside(key))
    assert (counts(site).documents, counts(site).damaged) == (Amount(2, 2), Amount(1, len(DATA)))


def test_what_was_set_aside_goes_after_a_month(tmp_path: Path) -> None:
    """Not before; a beginning of a cut import after a week."""
    Ownership.claim(tmp_path).release()
    store = FilesystemBlobStore(tmp_path, InlineThreads())
    documents = FilesystemDocuments(tmp_path, InlineThreads(), "state")
    clock = clock_at(time.time())
    flights = Flights(store, clock, Repositories(documents), Space(store, clock, RetentionSettings()))
    leftovers = Leftovers(store, [documents], flights, tuple, clock)
    result(store.put(BLOB, DATA))
    result(store.set_aside(BLOB))
    result(documents.write(("wants.json",), b"{", 0))
    result(documents.set_aside(("wants.json",)))
    ingest = result(store.ingest(Digest.of(b"other")))
    result(ingest.note(Origin(None, "", 100)))
    result(ingest.write([b"012"]))
    ingest.close()
    nothing = Amount()
    for seconds, left in (
        (UNFINISHED_KEPT - 100, LeftoverCounts(nothing, Amount(1, 3), Amount(1, 1), Amount(1, len(DATA)))),
        (200, LeftoverCounts(nothing, nothing, Amount(1, 1), Amount(1, len(DATA)))),
        (KEPT - UNFINISHED_KEPT - 200, LeftoverCounts(nothing, nothing, Amount(1, 1), Amount(1, len(DATA)))),
        (200, LeftoverCounts(nothing, nothing, nothing, nothing)),
    ):
        clock.advance(seconds)
        result(leftovers.sweep(Access({})))
        assert result(leftovers.counts()) == left


def test_what_is_damaged_and_lacking_is_kept(site: Appliance, logged_errors: list[Any]) -> None:
    """As long as it is to be fetched again."""
    content = image()
    site.hold(content, "1")
    layer = Digest.parse(content.layers[0].digest)
    site.store._blobs[layer] = b"x" * 10
    assert result(site.services.repair.examine(layer, anew=True)) is False
    assert site.services.repair.lacking == [layer]
    site.clock.advance(2 * KEPT)
    sweep(site)
    assert counts(site).damaged.count == 1
    logged_errors.clear()


def test_a_disk_that_says_nothing_keeps_status_from_nothing_else(
    site: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a sweep is tried again the next day."""

    def failing() -> Any:
        raise OSError(5, "Input/output error")

    site.hold(image(), "1")
    monkeypatch.setattr(site.store, "damaged", failing)
    sweep(site)
    assert site.get("status")["counts"]["tags"] == 1


def test_status_tells_what_is_left_over(site: Appliance) -> None:
    """Files and bytes of each kind."""
    cut(site, HUB)
    cut(site, None, b"0")
    damage(site)
    nothing = {"count": 0, "bytes": 0}
    assert site.get("status")["leftOver"] == {
        "beginnings": {"count": 1, "bytes": 4},
        "staged": {"count": 1, "bytes": 1},
        "documents": nothing,
        "damaged": {"count": 1, "bytes": len(DATA)},
    }
