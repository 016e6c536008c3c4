"""The two clocks of the service: the one that timers run by is never set."""

from __future__ import annotations

import time
from typing import Any

import pytest
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from appliance.flow.clock import keep_time, wall, wall_at
from appliance.interfaces import IWallClock
from tests.doubles.clocks import TwoClocks

YEAR = 365 * 24 * 3600.0


class Machine:
    """What the machine's clocks show; C{counted} goes on, C{moment} is set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.counted, self.moment = 5000.0, 1_800_000_000.0
        patch.setattr(time, "time", lambda: self.moment)
        patch.setattr(time, "clock_gettime", lambda which: self.counted)

    def go_on(self, seconds: float) -> None:
        self.counted += seconds
        self.moment += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("by", [-YEAR, YEAR])
def test_a_timer_comes_in_its_time_whatever_the_clock_on_the_wall_is_set_to(machine: Machine, by: float) -> None:
    """Twisted's own reactor, as the service runs it."""
    reactor: Any = SelectReactor()
    keep_time(reactor)
    came: list[str] = []
    reactor.callLater(10, came.append, "first")
    machine.moment += by
    reactor.callLater(20, came.append, "second")
    assert reactor.timeout() == pytest.approx(10)
    machine.go_on(9)
    reactor.runUntilCurrent()
    assert came == []
    machine.go_on(1)
    reactor.runUntilCurrent()
    assert came == ["first"]
    machine.moment -= by
    machine.go_on(10)
    reactor.runUntilCurrent()
    assert came == ["first", "second"]
    for call in reactor.getDelayedCalls():
        call.cancel()
    reactor._uninstallHandler()


def test_the_reactor_knows_the_time_of_day_besides(machine: Machine) -> None:
    """As it is now, and of what the other clock showed; being told twice changes nothing."""
    reactor: Any = Clock()
    keep_time(reactor)
    assert verifyObject(IWallClock, reactor)
    assert wall(reactor) == reactor.seconds() == machine.moment
    machine.moment -= YEAR
    machine.go_on(60)
    keep_time(reactor)
    assert wall(reactor) == machine.moment
    assert reactor.seconds() == machine.moment + YEAR
    assert wall_at(reactor, reactor.seconds() - 10) == machine.moment - 10


def test_a_clock_with_one_face_has_it_for_both() -> None:
    """Those of tests."""
    clock = Clock()
    clock.advance(7)
    assert (wall(clock), wall_at(clock, 3)) == (7, 3)
    both = TwoClocks(100.0)
    both.set = -50.0
    assert (both.seconds(), wall(both)) == (100.0, 50.0)
