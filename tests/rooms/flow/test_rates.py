"""What each client may have in a second: requests wait their turn, and those that would wait too long are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from appliance.errors import ClientLimited
from appliance.flow.rates import IN_VAIN, PATIENCE, SAVED, ClientRates
from tests.doubles.deferreds import failing


@dataclass
class Limits:
    requests: int | None = None
    bytes: int | None = None


def rates(requests: int | None = None, octets: int | None = None) -> tuple[ClientRates, Clock, list[str]]:
    clock, counted = Clock(), []
    clock.advance(1000.0)
    return ClientRates(clock, Limits(requests, octets), counted.append), clock, counted


def ask(table: ClientRates, address: str = "192.0.2.1", user: str | None = None) -> Deferred[None]:
    return Deferred.fromCoroutine(table.turn(user, address, None))


def outcomes(asked: list[Deferred[None]]) -> list[Any]:
    """Of those that have fired: C{None}, or why not."""
    found: list[Any] = []
    for each in asked:
        each.addBoth(lambda result: found.append(getattr(result, "value", result)))
    return found


def test_nothing_is_limited_where_nothing_is_configured() -> None:
    """And nothing is asked of the hot lane."""
    assert not rates()[0].is_limiting
    assert rates(requests=1)[0].is_limiting
    assert rates(octets=1000)[0].is_limiting


def test_a_pull_within_the_rate_waits_for_nothing() -> None:
    """A second's worth may come at once: clients ask for all layers together."""
    table, _, counted = rates(requests=10)
    assert all(table.may(None, "192.0.2.1", None) for _ in range(10))
    assert not counted


def test_what_comes_above_waits_its_turn() -> None:
    """In the order in which it came, so many in a second; a client that retries at once is not failed."""
    table, clock, counted = rates(requests=10)
    found = outcomes([ask(table) for _ in range(60)])
    assert 10 <= len(found) <= 11
    clock.pump([0.1] * 10)
    assert 20 <= len(found) <= 21
    clock.pump([0.1] * 40)
    assert found == [None] * 60
    assert set(counted) == {"delayed"}


def test_who_would_wait_too_long_is_refused_after_that_long() -> None:
    """Not at once: containerd and dockerd come again at once, and give up after a few times."""
    table, clock, counted = rates(requests=1)
    asked = [ask(table) for _ in range(30)]
    found = outcomes(asked)
    clock.pump([0.5] * round(2 * PATIENCE - 1))
    assert not any(isinstance(each, ClientLimited) for each in found)
    clock.advance(0.5)
    refused = [each for each in found if isinstance(each, ClientLimited)]
    assert len(found) == 30 and 15 <= len(refused) <= 19
    assert all(1 <= each.retry_after <= PATIENCE + 1 for each in refused)
    assert counted.count("refused") == len(refused)


def test_clients_do_not_use_up_each_others_turns() -> None:
    """A user is one client wherever he connects from, an address is one whoever is behind it."""
    table, _, _ = rates(requests=1)
    assert [table.may(None, "192.0.2.1", None) for _ in range(3)] == [True, True, False]
    assert table.may(None, "192.0.2.2", None)
    assert table.may("ann", "192.0.2.1", None) and table.may("ann", "192.0.2.9", None)
    assert not table.may("ann", "192.0.2.3", None)
    # A name that looks like an address is no address.
    assert table.may("192.0.2.1", "192.0.2.1", None)


def test_one_machine_is_one_client_over_ipv6() -> None:
    """Which has 2^64 addresses."""
    table, _, _ = rates(requests=1)
    assert [table.may(None, f"2001:db8::{each}", None) for each in range(3)] == [True, True, False]
    assert table.may(None, "2001:db8:0:1::1", None)


def test_who_leaves_while_waiting_is_forgotten() -> None:
    """No timer stays behind."""
    table, clock, _ = rates(requests=1)
    asked = [ask(table) for _ in range(5)]
    for each in asked:
        if not each.called:
            each.cancel()
            failing(each, CancelledError)
    assert not clock.getDelayedCalls()


def test_a_new_limit_holds_at_once() -> None:
    """After the configuration was read again."""
    table, _, _ = rates()
    table.limits = Limits(requests=1)
    assert [table.may(None, "192.0.2.1", None) for _ in range(3)] == [True, True, False]
    table.limits = Limits()
    assert table.may(None, "192.0.2.1", None)


def test_who_leaves_while_waiting_takes_no_turn_from_those_behind() -> None:
    """A client that gives up and comes again would wait longer each time."""
    table, clock, _ = rates(requests=1)
    asked = [ask(table) for _ in range(8)]
    for each in asked[2:7]:
        each.cancel()
        failing(each, CancelledError)
    clock.advance(1)
    assert asked[7].called


def test_nothing_overtakes_those_that_wait() -> None:
    """However often a client asks, its first request is answered first."""
    table, clock, _ = rates(requests=1)
    asked = [ask(table) for _ in range(4)]
    # It is time, but the reactor is busy.
    clock.rightNow += 1
    assert not table.may(None, "192.0.2.1", None)
    clock.advance(0)
    assert [each.called for each in asked] == [True, True, True, False]


def test_those_that_wait_follow_a_new_limit() -> None:
    """Within a second: what was configured away holds nobody."""
    for limits in (Limits(), Limits(requests=1000)):
        table, clock, _ = rates(requests=1)
        found = outcomes([ask(table) for _ in range(30)])
        table.limits = limits
        clock.advance(1)
        clock.advance(0.1)
        assert found == [None] * 30
        assert not clock.getDelayedCalls()


def test_so_many_wait_and_no_more() -> None:
    """More are refused at once, and told when to come again."""
    table, clock, counted = rates(requests=1)
    asked = [ask(table) for _ in range(1000)]
    found = outcomes(asked)
    assert len(found) - 2 == len(counted) == 1000 - 2 - PATIENCE - IN_VAIN
    assert isinstance(found[-1], ClientLimited) and found[-1].retry_after >= PATIENCE
    clock.advance(2 * PATIENCE)
    assert len(found) == 1000
    assert not clock.getDelayedCalls()


@given(st.integers(1, 1000), st.lists(st.floats(0, 3), max_size=60))
def test_never_more_than_the_rate_and_a_second_s_worth(limit: int, pauses: list[float]) -> None:
    """In any time, however the requests come."""
    table, clock, _ = rates(requests=limit)
    began, answered = clock.seconds(), 0
    for pause in pauses:
        clock.advance(pause)
        answered += sum(table.may(None, "192.0.2.1", None) for _ in range(20))
    assert answered <= limit * (clock.seconds() - began + SAVED) + 1.001
