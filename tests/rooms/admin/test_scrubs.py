"""Scrubs over the API: lines that tell how far it is, then a report; what status and inventory say afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.oci.digest import Digest
from tests.doubles.appliance import HUB, NGINX, Answer, Appliance
from tests.doubles.deferreds import result
from tests.doubles.images import Content, image

FAST = {"rate": 10**12}
CONTENT = image("nginx")
LAYER = Digest.parse(CONTENT.layers[0].digest)


def report(answer: Answer) -> Any:
    assert (answer.code, answer.header("Content-Type")) == (200, "application/x-ndjson")
    assert set(answer.lines[-1]) == {"report"}, answer.lines[-1]
    return answer.lines[-1]["report"]


def damaged(content: Content = CONTENT, offline: bool = True) -> Appliance:
    """An appliance that holds the image, and whose layer has a flipped byte."""
    site = Appliance(offline=offline)
    site.hold(content, "1")
    data = bytearray(site.store._blobs[LAYER])
    data[0] ^= 1
    site.store._blobs[LAYER] = bytes(data)
    return site


def test_a_scrub_tells_how_far_it_is_and_what_it_found() -> None:
    """Nothing, here."""
    site = Appliance()
    site.hold(CONTENT, "1")
    answer = site.ask("POST", "scrubs", FAST)
    found = report(answer)
    assert found.pop("began") == found.pop("finished") == "2027-01-15T08:00:00Z"
    assert found == {"checked": len(site.store._blobs), "bytes": site.store.total(), "unread": 0, "damaged": []}
    assert answer.lines[0] == {"stage": "checking", "done": 0, "total": site.store.total(), "damaged": 0}
    assert site.get("status")["scrub"] == {"underWay": False, "finished": "2027-01-15T08:00:00Z", "damaged": 0}


def test_inventory_wants_and_status_follow_at_once(logged_errors: list[Any]) -> None:
    """The other side must not leave the blob out of its next bundle, and is told to send it."""
    site = damaged()
    before = site.get("inventory")
    found = report(site.ask("POST", "scrubs", FAST))
    size = len(CONTENT.layers[0].data)
    assert found["damaged"] == [{"digest": str(LAYER), "bytes": size, "outcome": "wanted"}]
    after = site.get("inventory")
    assert [each for each in before["blobs"] if each not in after["blobs"]] == [{"digest": str(LAYER), "size": size}]
    assert after["generation"] != before["generation"]
    [want] = site.get("wants")["wants"]
    assert (want["name"], want["reference"], want["reason"]) == (f"{HUB}/{NGINX}@{LAYER}", str(LAYER), "damaged")
    status = site.get("status")
    assert status["damagedBlobs"] == [str(LAYER)] and status["scrub"]["damaged"] == 1
    assert status["counts"]["wants"] == 1
    logged_errors.clear()


def test_what_was_fetched_again_is_not_lacking(logged_errors: list[Any]) -> None:
    """Where the upstream has it."""
    site = damaged(offline=False)
    site.offer(CONTENT, "1")
    [found] = report(site.ask("POST", "scrubs", FAST))["damaged"]
    assert found["outcome"] == "fetched"
    assert site.get("status")["damagedBlobs"] == [] and site.get("wants")["wants"] == []
    assert result(site.store.verify(LAYER))
    logged_errors.clear()


def test_one_scrub_at_a_time() -> None:
    """The second one is refused with a word for programs."""
    site = Appliance()
    site.hold(CONTENT, "1")
    first = site.begin("POST", "scrubs", {"rate": 1000})
    site.treq.flush()
    assert site.error("POST", "scrubs", FAST)[:2] == (409, "scrub-under-way")
    result(site.services.scrub.stop())
    site.treq.flush()
    lines = result(site.treq.content(result(first))).splitlines()
    assert b'"stopped"' in lines[-1]


@pytest.mark.parametrize("order", [{"rate": 999}, {"rate": "50MB"}, {"rates": 1}])
def test_an_order_that_is_none_is_refused(order: Any) -> None:
    """A unit was mistaken, or a word."""
    assert Appliance().error("POST", "scrubs", order)[:2] == (400, "bad-request")
