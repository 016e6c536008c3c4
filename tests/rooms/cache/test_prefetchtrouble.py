"""Prefetching of an image when its upstream fails, and over a restart, a reload and a stop."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs

from appliance.cache import prefetch as module
from appliance.cache.prefetch import GRACE, RETRY_DELAYS
from appliance.cache.prefetchrun import OUTAGE_POLL
from appliance.errors import UpstreamDenied, UpstreamRateLimited, UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.settings import PrefetchSettings
from appliance.upstream.interfaces import Availability
from tests.doubles.deferreds import begin, result
from tests.doubles.manifests import CONFIG, image, index
from tests.doubles.pullthrough import Cache
from tests.rooms.cache.desk import APP, HUB, Desk, digests, lines
from tests.rooms.cache.prefetching import DOWN, LAYERS, WHOLE, blobs_asked, stocked, take

# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_cannot_be_fetched_is_tried_again_ever_more_seldom_and_given_up() -> None:
    """It is said once, at the end."""
    desk = stocked()
    desk.upstream.fail(UpstreamDenied(HUB, "no"), "blob")
    with capturedLogs() as logged:
        desk.pull("five")
        desk.turn(GRACE)
        for number, delay in enumerate(RETRY_DELAYS, 1):
            assert (len(desk.asked("blob")), desk.prefetch.images) == (6, 1), number
            desk.turn(delay - 1)
            assert desk.asked("blob") == []
            desk.turn(1.0)
    assert (desk.prefetch.images, desk.clock.getDelayedCalls()) == (0, [])
    [line] = lines(logged)
    assert line["log_level"] is LogLevel.warn


def test_a_blob_that_comes_begins_the_row_of_delays_anew() -> None:
    """And one that fails holds up no other: it is tried after them."""
    desk = stocked()
    cut = UpstreamUnavailable(HUB, "cut")
    desk.upstream.fail_once("blob", cut, cut)
    desk.pull("five")
    desk.turn(GRACE)
    desk.turn(RETRY_DELAYS[0])
    desk.asked()
    desk.turn(RETRY_DELAYS[1])
    assert desk.holds(CONFIG, *LAYERS) == [True] * 6
    assert desk.asked("blob") == digests(*LAYERS[1:], CONFIG, LAYERS[0])


def test_an_image_that_can_never_be_whole_does_not_have_its_upstream_taken_for_down() -> None:
    """All its blobs fail: one is asked for at a time, ever more seldom, and none after the last delay."""
    desk = stocked()
    desk.upstream.fail(UpstreamUnavailable(HUB, "500"), "blob")
    desk.pull("five")
    desk.turn(GRACE)
    for delay in RETRY_DELAYS:
        assert len(desk.asked("blob")) == 1
        # It may be taken for down for a moment each time, and be well again by a probe.
        desk.upstream.availabilities["*"] = Availability(ask=False, wait=False, fault=DOWN)
        desk.turn(OUTAGE_POLL)
        desk.upstream.availabilities.clear()
        desk.turn(delay)
    assert len(desk.asked("blob")) == 1
    assert (desk.prefetch.images, desk.clock.getDelayedCalls()) == (0, [])


def test_a_blob_that_its_upstream_does_not_have_is_given_up() -> None:
    """The rest comes; one line names it."""
    desk = stocked()
    del desk.upstream.shelves[APP].blobs[Digest.of(LAYERS[0])]
    with capturedLogs() as logged:
        desk.pull("five")
        desk.turn(GRACE)
    [line] = lines(logged)
    assert (line["log_level"], line["count"]) == (LogLevel.warn, 1)
    assert digests(LAYERS[0])[0] in str(line["first"])
    assert desk.holds(*LAYERS) == [False, True, True, True, True] and desk.prefetch.images == 0
    desk.asked()
    desk.pull("five")
    desk.turn(3600.0)
    assert blobs_asked(desk) == []


def test_an_outage_is_waited_for_however_long() -> None:
    """Its upstream is not asked, and no attempt is counted; when it is back, the image is made whole."""
    desk = stocked()
    desk.pull("five")
    desk.upstream.fail(DOWN)
    desk.upstream.availabilities["*"] = Availability(ask=False, wait=False, fault=DOWN)
    for _ in range(3):
        desk.turn(86400.0)
    assert blobs_asked(desk) == [] and desk.prefetch.images == 1
    desk.upstream.heal()
    desk.upstream.availabilities.clear()
    desk.turn(OUTAGE_POLL)
    assert desk.holds(*LAYERS) == [True] * 5


def test_an_image_that_is_whole_is_known_to_be_in_an_outage_as_well() -> None:
    """It is not counted among those that are on their way until its upstream is back."""
    desk = stocked()
    result(desk.through.manifest(desk.at(HUB, APP), "five"))
    take(desk, CONFIG, *LAYERS)
    desk.upstream.fail(DOWN)
    desk.upstream.availabilities["*"] = Availability(ask=False, wait=False, fault=DOWN)
    desk.through.note_pulls(desk.at(HUB, APP), "five")
    desk.turn(GRACE)
    assert desk.prefetch.images == 0


def test_an_outage_in_the_middle_is_waited_for() -> None:
    """The first question that fails is the last."""
    desk = stocked()
    desk.pull("five")
    desk.upstream.hang("blob")
    desk.turn(GRACE)
    desk.upstream.availabilities["*"] = Availability(ask=False, wait=False, fault=DOWN)
    desk.upstream.hanging[0].refuse(DOWN)
    desk.turn(OUTAGE_POLL)
    assert len(desk.asked("blob")) == 1
    desk.upstream.heal()
    desk.upstream.availabilities.clear()
    desk.turn(OUTAGE_POLL)
    assert desk.holds(*LAYERS) == [True] * 5


def test_an_upstream_that_wants_fewer_requests_gets_none() -> None:
    """C{Retry-After} is heeded, and C{keep_pulls} says the same of an index's children."""
    amd64, arm64 = image(LAYERS[0]), image(LAYERS[1])
    whole = index(amd64, arm64)
    desk = stocked(amd64, arm64, whole, prefetch=PrefetchSettings(image="index"))
    desk.pull(Digest.of(whole))
    desk.upstream.fail_once("manifest", UpstreamRateLimited(HUB, "too many", 300.0))
    desk.asked()
    desk.turn(GRACE)
    assert desk.asked() == digests(amd64)
    desk.turn(299.0)
    assert desk.asked() == []
    desk.turn(1.0)
    assert desk.holds(*LAYERS[:2]) == [True, True]


def test_a_mistake_of_ours_is_logged_and_holds_up_no_other_image(logged_errors: list[Any]) -> None:
    """It is not tried again."""
    desk = stocked()
    desk.upstream.fail_once("blob", ZeroDivisionError("ours"))
    desk.pull("five")
    desk.pull("latest")
    desk.turn(GRACE)
    desk.turn()
    assert desk.holds(b"app") == [True] and desk.prefetch.images == 0
    assert {event["failure"].type for event in logged_errors} >= {ZeroDivisionError}
    logged_errors.clear()


# -- a restart, a reload, a stop -------------------------------------------------------------------------------------


def test_a_restart_takes_it_up_again() -> None:
    """What was not whole when the process ended, by whatever."""
    desk = stocked()
    desk.pull("five")
    result(begin(desk.prefetch.flush()))
    after = Desk(before=desk)
    result(begin(after.prefetch.load()))
    after.turn(GRACE)
    assert after.holds(*LAYERS) == [True] * 5
    result(begin(after.prefetch.flush()))
    last = Desk(before=after)
    result(begin(last.prefetch.load()))
    assert last.prefetch.images == 0


def test_ordinary_pulls_write_nothing() -> None:
    """Neither while nothing was pulled nor when all of it is here."""
    desk = stocked()
    result(begin(desk.prefetch.flush()))
    desk.pull("five")
    desk.turn(GRACE)
    result(begin(desk.prefetch.flush()))
    assert result(desk.state.read((module.NAME,))) is None
    desk.pull("latest")
    result(begin(desk.prefetch.flush()))
    desk.turn(GRACE)
    for _ in range(2):
        result(begin(desk.prefetch.flush()))
    assert result(desk.state.read((module.NAME,))) == (b"{}", 2)


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"docker.io/app": ["sha256:no"]}', b'{"docker.io/app": ["\xff"]}'])
def test_a_document_that_cannot_be_read_is_set_aside(data: bytes, logged_errors: list[Any]) -> None:
    """And the next one is written."""
    desk = stocked()
    result(desk.state.write((module.NAME,), data, 0))
    result(begin(desk.prefetch.load()))
    assert [event["document"] for event in logged_errors] == [module.NAME]
    logged_errors.clear()
    desk.pull("five")
    result(begin(desk.prefetch.flush()))
    assert json.loads(result(desk.state.read((module.NAME,)))[0]) == {f"{HUB}/{APP}": [str(WHOLE)]}


@pytest.mark.parametrize("change", ["none", "allow", "gone"])
def test_a_configuration_that_does_not_want_it_is_heeded_at_once(change: str) -> None:
    """Read again in the middle: nothing more leaves, and it is forgotten."""
    desk = stocked()
    desk.pull("five")
    desk.upstream.hang("blob")
    desk.turn(GRACE)
    other = {"none": {"prefetch": PrefetchSettings(image="none")}, "allow": {"allow": ()}, "gone": {}}
    desk.through.access.remotes = Cache(*([] if change == "gone" else [desk.upstream]), **other[change]).remotes
    desk.prefetch.reconsider()
    desk.upstream.heal()
    desk.upstream.hanging[0].answer()
    desk.turn(GRACE)
    assert len(desk.asked("blob")) == 1 and desk.prefetch.images == 0


def test_while_the_appliance_is_offline_it_waits() -> None:
    """A ship at sea: the image is made whole in the next port, and is not said to be on its way before."""
    desk = stocked()
    desk.pull("five")
    online = desk.through.access.remotes
    assert desk.prefetch.is_fetching(HUB, APP, WHOLE)
    desk.through.access.remotes = Cache(desk.upstream, offline=True, prefetch=PrefetchSettings()).remotes
    desk.prefetch.reconsider()
    desk.turn(86400.0)
    assert blobs_asked(desk) == [] and not desk.prefetch.is_fetching(HUB, APP, WHOLE)
    desk.through.access.remotes = online
    desk.prefetch.reconsider()
    desk.turn()
    assert desk.holds(*LAYERS) == [True] * 5 and not desk.prefetch.is_fetching(HUB, APP, WHOLE)


def test_a_stop_drops_what_is_under_way_and_forgets_nothing() -> None:
    """Nothing is asked any more; the next process takes it up."""
    desk = stocked()
    desk.pull("five")
    desk.upstream.hang("blob")
    desk.turn(GRACE)
    stopping: Deferred[None] = desk.prefetch.stop()
    result(stopping)
    desk.through.note_pulls(desk.at(HUB, APP), "latest")
    desk.turn(GRACE)
    assert len(desk.asked("blob")) == 1 and desk.clock.getDelayedCalls() == []
    result(begin(desk.prefetch.flush()))
    assert json.loads(result(desk.state.read((module.NAME,)))[0]) == {f"{HUB}/{APP}": [str(WHOLE)]}


def test_an_image_that_is_held_no_more_is_forgotten() -> None:
    """Also when it was removed by hand."""
    desk = stocked()
    desk.pull("five")
    repository = result(desk.cache.repositories.get(HUB, APP))
    repository.untag("five")
    repository.drop(WHOLE)
    desk.turn(GRACE)
    assert blobs_asked(desk) == [] and desk.prefetch.images == 0
