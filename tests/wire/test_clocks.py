"""The clock is set, back or forth, while clients pull; and a store whose moments lie in the future."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from tests.doubles.clocks import TwoClocks
from tests.wire.line import HUB, IMAGE, Shop, manifest

YEAR = 365 * 24 * 3600.0
LISTS = ("/v2/app/tags/list", f"/v2/app/referrers/{Digest.of(IMAGE)}")
LASTS = {manifest(): 60.0, LISTS[0]: 60.0, LISTS[1]: 600.0}
"""How long each is fresh."""


def shop(clock: TwoClocks, **more: Any) -> Shop:
    made = Shop(clock=clock, **more)
    for path in LASTS:
        made.get(path)
    return made


def asked(desk: Shop, path: str) -> bool:
    """Whether the upstream is asked for C{path} now."""
    before = desk.calls()
    assert desk.get(path).status == 200
    return desk.calls() > before


@pytest.mark.parametrize("path", LASTS)
@pytest.mark.parametrize("by", [-YEAR, -30.0, 30.0, YEAR])
def test_what_was_checked_is_fresh_for_its_time_and_no_longer(path: str, by: float) -> None:
    """Not for a year more when the clock is set back, and not at an end when it is set forward."""
    clock = TwoClocks()
    desk = shop(clock)
    desk.get(path)
    clock.set += by
    clock.advance(LASTS[path] - 1.0)
    assert not asked(desk, path)
    clock.set -= 2 * by
    assert not asked(desk, path)
    clock.advance(2.0)
    assert asked(desk, path)
    assert not asked(desk, path)


def test_a_response_has_the_date_of_the_wall() -> None:
    """As its client has it, whichever way it goes."""
    clock = TwoClocks()
    desk = shop(clock)
    desk.get(manifest())
    assert desk.get(manifest())["Date"] == "Fri, 15 Jan 2027 08:00:00 GMT"
    clock.set = -YEAR
    assert desk.get(manifest())["Date"] == "Thu, 15 Jan 2026 08:00:00 GMT"


@pytest.mark.parametrize("path", LASTS)
def test_a_moment_on_disk_that_lies_in_the_future_says_nothing(path: str) -> None:
    """An earlier process had another clock: the upstream is asked; offline, or without it, what is held is served."""
    clock = TwoClocks()
    before = shop(clock)
    clock.set = -YEAR
    assert asked(Shop(before=before), path)
    clock.set = -2 * YEAR
    offline = Shop(before=before, offline=True)
    assert offline.get(path).status == 200
    before.hub.fail(UpstreamUnavailable(HUB, "down"))
    stale = Shop(before=before).get(path)
    assert stale.status == 200 and "stale" in (stale["Cache-Status"] or "")


def test_a_restart_with_a_right_clock_goes_on_where_it_was() -> None:
    """What was checked half a minute ago is fresh for the other half."""
    clock = TwoClocks()
    before = shop(clock)
    clock.advance(30.0)
    after = Shop(before=before)
    assert not asked(after, manifest())
    clock.set = YEAR
    assert not asked(after, manifest())
    clock.advance(31.0)
    assert asked(after, manifest())


def test_a_404_is_believed_for_its_time() -> None:
    """missing_for counts seconds."""
    clock = TwoClocks()
    desk = shop(clock)
    for by in (-YEAR, YEAR):
        absent = manifest(f"absent{by:.0f}")
        assert desk.get(absent).status == 404
        clock.set += by
        calls = desk.calls()
        clock.advance(29.0)
        assert desk.get(absent).status == 404 and desk.calls() == calls
        clock.advance(2.0)
        assert desk.get(absent).status == 404 and desk.calls() > calls
