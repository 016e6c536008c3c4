"""Connections that share what their client may have: all of it, no more, and each in its turn."""

from __future__ import annotations

from twisted.internet.task import Clock

from appliance.flow.pace import UNLIMITED, Pace


class Sender:
    """Sends what it is granted as soon as it may, in pieces of its own size."""

    def __init__(self, pace: Pace, most: int = 1 << 20) -> None:
        self.pace = pace
        self.most = most
        self.sent = 0
        pace.join(self)

    def slow_down(self) -> None:
        """It asks before each piece anyhow."""

    def go_on(self) -> None:
        while granted := self.pace.grant(self):
            octets = min(granted, self.most)
            self.sent += octets
            self.pace.spend(octets)


def run(clock: Clock, seconds: float) -> None:
    clock.pump([0.005] * round(seconds / 0.005))


def test_a_client_gets_what_it_may_have_and_no_more() -> None:
    """However many connections it opens."""
    clock = Clock()
    pace = Pace(clock)
    pace.rate = 1_000_000
    senders = [Sender(pace) for _ in range(50)]
    for each in senders:
        each.go_on()
    run(clock, 10)
    assert 9_900_000 < sum(each.sent for each in senders) < 10_200_000


def test_its_connections_get_their_turns() -> None:
    """None of them stands still while others go on."""
    clock = Clock()
    pace = Pace(clock)
    pace.rate = 1_000_000
    senders = [Sender(pace) for _ in range(50)]
    for each in senders:
        each.go_on()
    run(clock, 10)
    assert max(each.sent for each in senders) <= 2 * min(each.sent for each in senders)


def test_without_a_rate_nothing_is_held_and_nothing_timed() -> None:
    """As most of the time."""
    clock = Clock()
    pace = Pace(clock)
    assert pace.grant(Sender(pace)) == UNLIMITED
    assert not clock.getDelayedCalls()


def test_those_that_are_held_go_on_when_the_rate_is_taken_away() -> None:
    """At once, and no timer is left."""
    clock = Clock()
    pace = Pace(clock)
    pace.rate = 1_000
    sender = Sender(pace, 1000)
    sender.go_on()
    assert pace.was_held
    sent = sender.sent
    ended = []
    sender.go_on = lambda: ended.append(sender)  # type: ignore[method-assign]
    pace.rate = None
    assert ended == [sender]
    assert not clock.getDelayedCalls()
    assert sender.sent == sent


def test_one_that_leaves_holds_up_no_other() -> None:
    """A client that goes away while it is held."""
    clock = Clock()
    pace = Pace(clock)
    pace.rate = 100_000
    gone, other = Sender(pace), Sender(pace)
    gone.go_on()
    other.go_on()
    pace.leave(gone)
    before = gone.sent
    run(clock, 5)
    assert gone.sent == before
    assert other.sent > 450_000


def test_what_was_sent_before_is_paid_for() -> None:
    """Bytes that lie in the system's buffers count as if they had been granted."""
    clock = Clock()
    pace = Pace(clock)
    pace.rate = 100_000
    pace.owe(200_000)
    sender = Sender(pace)
    sender.go_on()
    run(clock, 2)
    assert sender.sent <= 20_000
    run(clock, 2)
    assert sender.sent > 150_000


def test_time_that_was_not_used_is_worth_little() -> None:
    """What comes at once after a pause is a twentieth of a second."""
    clock = Clock()
    pace = Pace(clock)
    pace.rate = 1_000_000
    clock.advance(60)
    sender = Sender(pace)
    sender.go_on()
    assert sender.sent <= 60_000


def test_a_clock_that_is_set_back_stops_nobody() -> None:
    """What is owed stays owed, and no more."""
    clock = Clock()
    clock.rightNow = 1000.0
    pace = Pace(clock)
    pace.rate = 1_000_000
    sender = Sender(pace)
    sender.go_on()
    clock.rightNow = 10.0
    before = sender.sent
    pace.spend(0)
    clock.rightNow = 1010.0
    run(clock, 1)
    assert sender.sent > before
