"""Progress where there is no terminal, and where there is one."""

from __future__ import annotations

from io import StringIO

import pytest
from twisted.internet.task import Clock

from appliance.cli.screen import LINE_INTERVAL, ProgressBar, ProgressLines, Screen, meter_for


class Terminal(StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(err: StringIO, clock: Clock) -> ProgressLines:
    return ProgressLines(Screen(StringIO(), err), clock.seconds)


def test_a_log_gets_a_line_now_and_then(clock: Clock) -> None:
    """A job's log is not flooded, and shows that it goes on."""
    err = StringIO()
    meter = lines(err, clock)
    meter.begin("a.tar", 4000)
    for done in range(0, 4000, 10):
        clock.advance(0.125)
        meter.at(done)
    assert err.getvalue().count("\n") == int(50 // LINE_INTERVAL)
    assert err.getvalue().splitlines()[0].startswith("a.tar: ")


def test_the_last_line_is_the_whole(clock: Clock) -> None:
    """However short it was, its end is shown, once."""
    err = StringIO()
    meter = lines(err, clock)
    meter.begin("a.tar", 4000)
    clock.advance(2)
    meter.at(4000)
    meter.close()
    meter.close()
    assert err.getvalue() == "a.tar: 4.00 kB of 4.00 kB, 2.00 kB/s\n"


def test_what_follows_ends_what_went_before(clock: Clock) -> None:
    """Each volume has its lines."""
    err = StringIO()
    meter = lines(err, clock)
    meter.begin("v1.tar", 1)
    meter.begin("v2.tar", 1)
    meter.close()
    assert [line.split(":")[0] for line in err.getvalue().splitlines()] == ["v1.tar", "v2.tar"]


def test_bars_are_for_terminals_only(clock: Clock) -> None:
    """No control characters in a file."""
    assert isinstance(meter_for(Screen(StringIO(), Terminal()), clock.seconds), ProgressBar)
    assert isinstance(meter_for(Screen(Terminal(), StringIO()), clock.seconds), ProgressLines)
