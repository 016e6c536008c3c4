"""How clients share a link that is full, by a model of the link: each gets the same, and nobody waits for nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.flow.fairness import INTERVAL, LEAST, Fairness, Taken, water_level
from tests.doubles.fulllink import Link, Site


def busy(site: Site, client: str = "busy", connections: int = 50) -> None:
    """A node that pulls many layers at once."""
    for _ in range(connections):
        site.pull(client)


def test_the_model_gives_each_connection_the_same() -> None:
    """Without us a node with 50 connections gets 50 times what one with one gets; else the model would show nothing."""
    site = Site(fair=False)
    busy(site)
    site.pull("one")
    assert site.shares(5, 15)["one"] < 0.05


def test_a_node_with_one_transfer_gets_half_beside_one_with_fifty() -> None:
    """And the link is as full as before."""
    site = Site()
    busy(site)
    site.pull("one")
    shares = site.shares(8, 20)
    assert 0.4 < shares["one"] < 0.6
    assert sum(shares.values()) > 0.95


def test_who_comes_later_gets_his_part_as_well() -> None:
    """Within seconds."""
    site = Site()
    busy(site)
    site.clock.run(5)
    site.pull("one")
    assert 0.35 < site.shares(12, 22)["one"] < 0.6


def test_one_client_alone_is_never_held_back() -> None:
    """Whatever it pulls."""
    site = Site()
    busy(site)
    assert site.shares(1, 10)["busy"] > 0.98
    assert site.fairness.level is None


def test_a_client_with_a_slow_line_of_its_own_slows_no_other() -> None:
    """That it gets no more is found out now and then, and costs the others some hundredths."""
    site = Site()
    busy(site)
    site.pull("slow", [Link(site.clock, 0.05 * site.link.rate, 60_000)])
    shares = site.shares(5, 40)
    assert shares["busy"] > 0.95
    assert shares["slow"] > 0.045


def test_slow_clients_that_come_one_after_another_slow_no_other() -> None:
    """Each is another one, and nothing is known of it."""
    site = Site()
    busy(site, connections=5)
    slow = Link(site.clock, 0.02 * site.link.rate, 60_000)

    def come(number: int) -> None:
        site.pull(f"slow {number}", [slow], octets=3 * slow.rate)
        site.clock.callLater(2, come, number + 1)

    come(1)
    assert site.shares(5, 30)["busy"] > 0.95


def test_what_a_slow_client_cannot_take_is_shared_by_the_others() -> None:
    """One behind a line of a fifth gets its fifth, though without help it got a fiftieth; the rest is not wasted."""
    site = Site()
    busy(site)
    site.pull("far", [site.link, Link(site.clock, 0.2 * site.link.rate, 60_000)])
    shares = site.shares(8, 30)
    assert shares["far"] > 0.14
    assert sum(shares.values()) > 0.93


def test_a_slow_client_takes_no_help_from_one_that_gains_by_it() -> None:
    """Half each for the two that can use it, beside a third that cannot."""
    site = Site()
    busy(site)
    site.pull("one")
    site.pull("slow", [Link(site.clock, 0.03 * site.link.rate, 60_000)])
    shares = site.shares(8, 30)
    assert shares["one"] > 0.4
    assert shares["busy"] + shares["one"] > 0.95


def test_clients_on_lines_of_their_own_are_left_alone() -> None:
    """A faster line is no unfairness."""
    site = Site()
    busy(site)
    site.pull("other", [Link(site.clock, 0.6 * site.link.rate, 100_000)])
    shares = site.shares(5, 40)
    assert shares["busy"] > 0.92
    assert shares["other"] > 0.55


def test_four_nodes_get_a_quarter_each() -> None:
    """With 50, 10, 3 connections and one."""
    site = Site(rate=4e6)
    for client, connections in {"a": 50, "b": 10, "c": 3, "d": 1}.items():
        busy(site, client, connections)
    shares = site.shares(12, 30)
    assert all(0.18 < share < 0.32 for share in shares.values()), shares
    assert sum(shares.values()) > 0.95


def test_a_client_that_is_done_leaves_everything_to_the_others() -> None:
    """Within a second."""
    site = Site()
    busy(site)
    last = site.pull("one", octets=4 * site.link.rate)
    while not last.ended:
        site.clock.run(site.clock.seconds() + 0.25)
    now = site.clock.seconds()
    assert site.shares(now + 1, now + 6)["busy"] > 0.97


def test_a_client_that_pulls_layer_after_layer_keeps_its_part() -> None:
    """The level is remembered for the moment between two."""
    site = Site(rate=4e6)
    busy(site)
    pulled = [site.pull("one", octets=site.link.rate)]

    def follow() -> None:
        if pulled[-1].ended:
            pulled.append(site.pull("one", octets=site.link.rate))
        site.clock.callLater(0.05, follow)

    follow()
    shares = site.shares(8, 30)
    assert shares["one"] > 0.35
    assert sum(shares.values()) > 0.9


def test_a_link_that_becomes_wider_is_used_again() -> None:
    """In half a minute at most."""
    site = Site()
    busy(site)
    site.pull("one")
    site.clock.run(10)
    site.link.rate *= 2
    shares = site.shares(45, 60)
    assert sum(shares.values()) > 0.9
    assert shares["one"] > 0.3


@pytest.mark.parametrize("stalled", ["busy", "one"])
def test_a_client_that_stops_taking_anything_holds_up_no_other(stalled: str) -> None:
    """Within seconds, and for as long as it lasts; it has its part again when it goes on."""
    site = Site()
    lines = {client: Link(site.clock, 100 * site.link.rate) for client in ("busy", "one")}
    for _ in range(50):
        site.pull("busy", [lines["busy"], site.link])
    site.pull("one", [lines["one"], site.link])
    site.clock.run(12)
    lines[stalled].is_cut = True
    shares = site.shares(17, 40)
    assert sum(shares.values()) > 0.97
    assert site.fairness.level is None
    lines[stalled].is_cut = False
    assert 0.35 < site.shares(50, 60)["one"] < 0.6


def test_a_link_that_was_away_is_as_full_as_before() -> None:
    """What was seen while nothing passed is no reason to hold back anything afterwards."""
    site = Site()
    busy(site)
    site.pull("one")
    site.clock.run(12)
    site.link.is_cut = True
    site.clock.run(30)
    assert site.fairness.level is None
    site.link.is_cut = False
    shares = site.shares(32, 40)
    assert sum(shares.values()) > 0.85


_TAKEN = st.builds(Taken, st.sampled_from([0.0, 1.0, 300.0, 1e4, 1e6, 1e9]), st.booleans(), st.booleans())


_UNEVEN = [Taken(1e6, True, False), Taken(1e4, True, False)]
_NOTHING = [Taken(0, True, True), Taken(0, True, False)]


@example([(_UNEVEN, 8), (_NOTHING, 600)])
@given(st.lists(st.tuples(st.lists(_TAKEN, max_size=4), st.integers(1, 100))))
def test_whatever_is_taken_there_is_no_level_that_is_next_to_nothing(looks: list[tuple[list[Taken], int]]) -> None:
    """A client that is held back goes on all the same; and no look fails, which would leave the last level for ever."""
    fairness = Fairness()
    number = 0
    for seen, times in looks:
        for _ in range(times):
            number += 1
            taken = {("user", str(each)): what for each, what in enumerate(seen)}
            level = fairness.look(INTERVAL * number, INTERVAL, taken)
            assert level is None or level >= LEAST / 10


@pytest.mark.parametrize(
    ("small", "others", "level"),
    [([], 2, 50.0), ([10.0], 1, 90.0), ([10.0, 20.0], 2, 35.0), ([60.0], 1, 50.0), ([40.0, 10.0], 1, 50.0)],
)
def test_the_level_is_what_is_left_in_equal_parts(small: list[float], others: int, level: float) -> None:
    """Who takes less than that keeps what it takes; who would take more is one of the others. Of 100."""
    assert water_level(100.0, small, others) == pytest.approx(level)
