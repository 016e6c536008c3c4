"""A limit on an upstream's bytes per second, shared by all blobs that come from it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import UNKNOWN_LENGTH

from appliance.errors import UpstreamTimeout
from appliance.upstream.concurrency import ConcurrencyLimit, LimitedResponse, Priority
from appliance.upstream.http.body import BlobResponse, begin
from appliance.upstream.http.limits import BURST, TICK, BandwidthLimit, BodyLimits, Timeouts
from tests.contracts.upstream import Taker
from tests.doubles.deferreds import result

RATE = 1_000_000
STEP = 0.01
ZEROS = bytes(10 * RATE)


class Drain(Taker):
    """Takes a body and keeps nothing."""

    def write(self, data: bytes) -> None:
        assert self.producer is not None, "bytes without a producer"


class Line:
    """
    A response and the connection it comes over, at a speed of its own.

    @ivar sent: bytes that came.
    @ivar times: when they came, and how many.
    """

    def __init__(self, clock: Clock, speed: float = 50 * RATE, piece: int = 4096) -> None:
        self.length: object = UNKNOWN_LENGTH
        self.paused = False
        self.dropped = False
        self.sent = 0
        self.times: list[tuple[float, int]] = []
        self._clock = clock
        self._speed = speed
        self._piece = piece
        self._room = 0.0
        self._protocol: Protocol | None = None

    def deliverBody(self, protocol: Protocol) -> None:
        self._protocol = protocol
        protocol.makeConnection(self)
        self.resumeProducing()

    def flow(self, seconds: float) -> None:
        """So much time passes on the line."""
        self._room = min(self._room, self._piece) + seconds * self._speed
        while self._room >= self._piece and not self.paused and not self.dropped:
            self._room -= self._piece
            self.send(self._piece)

    def send(self, octets: int) -> None:
        assert self._protocol is not None
        self.sent += octets
        self.times.append((self._clock.seconds(), octets))
        self._protocol.dataReceived(memoryview(ZEROS)[:octets])  # type: ignore[arg-type]

    def end(self) -> None:
        assert self._protocol is not None
        self._protocol.connectionLost(Failure(ResponseDone()))

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.dropped = True


class EarlyLine(Line):
    """A line on which two seconds' worth of the body came with the header."""

    def deliverBody(self, protocol: Protocol) -> None:
        self._protocol = protocol
        protocol.makeConnection(self)
        self.send(2 * RATE)
        self.resumeProducing()


class Traffic:
    """A clock, a pace, and lines whose bodies are on their way."""

    def __init__(self, rate: float = RATE, silence: float = 30.0) -> None:
        self.clock = Clock()
        self.limit = BandwidthLimit(self.clock, rate)
        self.lines: list[Line] = []
        self.takers: list[Taker] = []
        self.done: list[Deferred[None]] = []
        self._silence = silence

    def begin(self, speed: float = 50 * RATE, piece: int = 4096, background: bool = False) -> Line:
        line, taker = Line(self.clock, speed, piece), Drain()
        limits = BodyLimits("up.example", self.clock, self._silence, bandwidth=self.limit, background=background)
        self.done.append(begin(line, taker, limits).finished)  # type: ignore[arg-type]
        self.lines.append(line)
        self.takers.append(taker)
        return line

    def run(self, seconds: float) -> list[int]:
        """Let so much time pass; how many bytes each line sent meanwhile."""
        before = [line.sent for line in self.lines]
        for _ in range(round(seconds / STEP)):
            self.clock.advance(STEP)
            for line in self.lines:
                line.flow(STEP)
        return [line.sent - sent for line, sent in zip(self.lines, before, strict=True)]

    def end(self) -> None:
        for line in self.lines:
            line.end()


@pytest.mark.parametrize("rate", [1e5, 1e6, 1e8])
@pytest.mark.parametrize("bodies", [1, 5, 30])
@pytest.mark.parametrize("piece", [0.001, 0.1])
def test_the_rate_is_what_was_asked_for(rate: float, bodies: int, piece: float) -> None:
    """
    Within two in a hundred over a minute, for one blob and for many, and each gets as much as the others.

    The pieces are worth a thousandth and a tenth of a second.
    """
    traffic = Traffic(rate)
    octets = round(piece * rate)
    for _ in range(bodies):
        traffic.begin(10 * rate, octets)
    sent = traffic.run(60)
    assert sum(sent) == pytest.approx(60 * rate, rel=0.02, abs=octets * bodies)
    # The first of all has what was saved up; beyond that a body is ahead of another by its last piece.
    assert max(sent) - min(sent) <= BURST * rate + 0.02 * max(sent) + 2 * octets
    traffic.end()
    assert traffic.clock.getDelayedCalls() == []


def test_large_pieces_are_no_advantage() -> None:
    """One line brings 256 KiB at a time and another 4 KiB: both come as fast."""
    traffic = Traffic()
    traffic.begin(piece=256 * 1024)
    traffic.begin(piece=4 * 1024)
    large, small = traffic.run(300)
    assert large == pytest.approx(small, rel=0.02)
    assert large + small == pytest.approx(300 * RATE, rel=0.02)


def test_who_needs_less_leaves_the_rest_to_the_others() -> None:
    """A slow line costs a fast one no more than it takes."""
    traffic = Traffic()
    traffic.begin()
    traffic.begin(speed=RATE / 10)
    for _ in range(20):
        traffic.begin(speed=RATE / 1000)
    fast, slow, *trickles = traffic.run(120)
    assert slow == pytest.approx(120 * RATE / 10, rel=0.1)
    assert min(trickles) > 0.8 * 120 * RATE / 1000
    assert fast + slow + sum(trickles) == pytest.approx(120 * RATE, rel=0.02)


def bursts(lines: Sequence[Line]) -> int:
    """Bytes of the busiest moment."""
    moments: dict[float, int] = {}
    for line in lines:
        for at, octets in line.times:
            moments[at] = moments.get(at, 0) + octets
    return max(moments.values())


@pytest.mark.parametrize("bodies", [1, 5, 40])
def test_no_burst_is_longer_than_a_quarter_second(bodies: int) -> None:
    """After a time without downloads, and after a time in which all lines stood still."""
    traffic = Traffic()
    traffic.clock.advance(3600)
    for _ in range(bodies):
        traffic.begin(piece=100)
    traffic.run(2)
    traffic.clock.advance(20)
    traffic.run(2)
    assert bursts(traffic.lines) <= BURST * RATE + 100 * bodies


def test_over_no_time_more_comes_than_the_rate_and_a_burst() -> None:
    """Whatever stretch of time is looked at."""
    traffic = Traffic()
    for speed in (50 * RATE, 2 * RATE, RATE / 2):
        traffic.begin(speed, piece=1000)
    traffic.run(5)
    traffic.clock.advance(7)
    traffic.run(5)
    came = sorted((at, octets) for line in traffic.lines for at, octets in line.times)
    for first in range(0, len(came), 97):
        start, octets = came[first][0], 0
        for at, more in came[first:]:
            octets += more
            assert octets <= (at - start + BURST) * RATE + 3 * 1000


def test_background_work_gets_a_tenth_while_a_client_waits_for_others() -> None:
    """However many there are of either."""
    traffic = Traffic()
    for background in (False, False, True, True, True):
        traffic.begin(background=background)
    sent = traffic.run(100)
    assert sum(sent[:2]) == pytest.approx(90 * RATE, rel=0.02)
    assert sum(sent[2:]) == pytest.approx(10 * RATE, rel=0.02)


def test_a_body_for_which_a_client_comes_is_no_background_work_any_more() -> None:
    """From that moment on it comes as fast as what another client asked for."""
    traffic = Traffic()
    traffic.begin()
    line = Line(traffic.clock)
    limits = BodyLimits("up.example", traffic.clock, 30.0, bandwidth=traffic.limit, background=True)
    response = BlobResponse(line, limits, 0, None, None)  # type: ignore[arg-type]
    response.deliver(Drain())
    traffic.lines.append(line)
    assert traffic.run(20) == [pytest.approx(18 * RATE, rel=0.05), pytest.approx(2 * RATE, rel=0.05)]
    LimitedResponse(response, result(ConcurrencyLimit(2).acquire(Priority.BACKGROUND))).awaited()
    assert traffic.run(20) == [pytest.approx(10 * RATE, rel=0.05)] * 2


def test_background_work_gets_all_when_it_is_alone() -> None:
    """From the moment on in which the others have ended."""
    traffic = Traffic()
    other = traffic.begin()
    traffic.begin(background=True)
    traffic.run(10)
    other.end()
    traffic.lines.remove(other)
    assert traffic.run(100) == [pytest.approx(100 * RATE, rel=0.02)]


def test_background_work_gets_what_no_other_can_use() -> None:
    """A slow line that a client waits for is no reason to do nothing."""
    traffic = Traffic()
    traffic.begin(speed=RATE / 5)
    traffic.begin(background=True)
    slow, behind = traffic.run(100)
    assert slow == pytest.approx(20 * RATE, rel=0.05)
    assert slow + behind == pytest.approx(100 * RATE, rel=0.02)


def test_many_small_blobs_are_no_way_around_the_limit() -> None:
    """What those that have ended took too much is paid by those that come after them."""
    traffic = Traffic()
    for _ in range(40):
        traffic.begin(speed=0)
        traffic.lines[-1].send(50_000)
        traffic.lines.pop().end()
    assert traffic.clock.getDelayedCalls() == []
    traffic.begin()
    # Two seconds' worth came; a quarter second's had been saved. The first piece comes before it can be paused.
    assert traffic.run(1.5) == [pytest.approx(4096)]
    assert traffic.run(20)[0] == pytest.approx(19.75 * RATE, rel=0.02)


def test_what_a_blob_did_not_need_is_there_for_the_next() -> None:
    """Small ones that come one after the other, well within the limit, wait for nothing."""
    traffic = Traffic()
    for _ in range(10):
        line = traffic.begin(speed=0)
        for _ in range(10):
            line.send(2000)
        assert not line.paused
        line.end()


def test_who_ends_while_others_go_on_is_left_alone() -> None:
    """A body that goes on may be the reason why another one is dropped in the same moment."""
    clock = Clock()
    pace = BandwidthLimit(clock, RATE)
    resumed: list[str] = []

    def release(name: str) -> None:
        resumed.append(name)
        shares["second" if name == "first" else "first"].leave()

    shares = {
        name: pace.share(False, lambda: None, lambda name=name: release(name))  # type: ignore[misc]
        for name in ("first", "second")
    }
    before = pace.share(False, lambda: None, lambda: None)
    before.join()
    before.spend(round(BURST * RATE))
    before.leave()
    for share in shares.values():
        share.join()
        share.spend(RATE)
    for _ in range(100):
        clock.advance(TICK)
    assert len(resumed) == 1


def test_a_body_that_waits_for_its_turn_is_not_silent() -> None:
    """A piece of 40 seconds' worth is paid off; then the upstream has its 30 seconds again."""
    traffic = Traffic(rate=1000)
    line = traffic.begin(speed=0)
    line.send(40_000)
    assert line.paused
    traffic.run(39)
    assert line.paused and not traffic.done[0].called
    traffic.run(2)
    assert not line.paused and not traffic.done[0].called
    traffic.run(27)
    assert not traffic.done[0].called
    traffic.run(5)
    assert isinstance(_fault(traffic.done[0]), UpstreamTimeout)
    assert line.dropped
    assert traffic.clock.getDelayedCalls() == []


def test_bandwidth_and_consumer_pause_independently() -> None:
    """The connection is read only when both want it, in whichever order they pause and resume."""
    for order in ("consumer first", "pace first"):
        traffic = Traffic()
        line = traffic.begin(speed=0)
        producer = traffic.takers[0].producer
        assert producer is not None
        if order == "consumer first":
            producer.pauseProducing()
            line.send(2 * RATE)
        else:
            line.send(2 * RATE)
            producer.pauseProducing()
        assert line.paused
        if order == "consumer first":
            producer.resumeProducing()
            assert line.paused, "the pace still wants a pause"
            traffic.run(3)
        else:
            traffic.run(3)
            assert line.paused, "the consumer still wants a pause"
            producer.resumeProducing()
        assert not line.paused
        line.end()
        assert traffic.clock.getDelayedCalls() == []


def test_a_consumer_that_never_reads_keeps_nothing_from_the_others() -> None:
    """A client that stands still for a minute slows no other down."""
    traffic = Traffic()
    for _ in range(10):
        traffic.begin()
    for taker in traffic.takers[1:]:
        assert taker.producer is not None
        taker.producer.pauseProducing()
    assert traffic.run(60)[0] == pytest.approx(60 * RATE, rel=0.02)


def test_a_body_can_be_dropped_while_it_waits() -> None:
    """By its consumer, or by what waits for its end; the others go on and nothing is left behind."""
    traffic = Traffic()
    for _ in range(3):
        traffic.begin()
    traffic.run(1)
    assert all(line.paused for line in traffic.lines)
    producer = traffic.takers[0].producer
    assert producer is not None
    producer.stopProducing()
    traffic.done[1].cancel()
    assert isinstance(_fault(traffic.done[1]), CancelledError)
    traffic.done[0].addErrback(lambda _: None)
    assert [line.dropped for line in traffic.lines] == [True, True, False]
    assert traffic.run(30)[2] == pytest.approx(30 * RATE, rel=0.02)
    traffic.lines[2].end()
    assert traffic.clock.getDelayedCalls() == []


def test_what_came_with_the_header_counts() -> None:
    """twisted.web resumes the connection after it; the pause holds nevertheless."""
    traffic = Traffic()
    line = EarlyLine(traffic.clock)
    begin(line, Drain(), BodyLimits("up.example", traffic.clock, 30.0, bandwidth=traffic.limit))  # type: ignore[arg-type]
    assert line.paused
    traffic.clock.pump([TICK] * 40)
    assert not line.paused
    line.end()


def test_the_last_byte_pauses_no_connection() -> None:
    """It goes to the next request or is closed in good order, for which it has to be read."""
    traffic = Traffic()
    line = Line(traffic.clock)
    line.length = 3 * RATE
    limits = BodyLimits("up.example", traffic.clock, 30.0, bandwidth=traffic.limit)
    done = begin(line, Drain(), limits).finished  # type: ignore[arg-type]
    line.send(2 * RATE)
    assert line.paused
    traffic.run(2)
    assert not line.paused
    line.send(RATE)
    assert not line.paused
    line.end()
    assert done.called
    assert traffic.clock.getDelayedCalls() == []


@pytest.mark.parametrize("paced", [False, True])
def test_a_last_byte_that_comes_during_a_pause_ends_the_pause(paced: bool) -> None:
    """TLS hands out what it had read already; after that the end of the connection has to be read."""
    traffic = Traffic()
    line, drain = Line(traffic.clock), Drain()
    line.length = 2000
    limits = BodyLimits("up.example", traffic.clock, 30.0, bandwidth=traffic.limit if paced else None)
    begin(line, drain, limits)  # type: ignore[arg-type]
    line.send(1000)
    assert drain.producer is not None
    drain.producer.pauseProducing()
    assert line.paused
    line.send(1000)
    assert not line.paused
    line.end()
    assert traffic.clock.getDelayedCalls() == []


def test_a_clock_that_is_set_brings_no_flood_and_no_drought() -> None:
    """A day forward is a burst; a day back is no time at all."""
    traffic = Traffic()
    line = traffic.begin(piece=100)
    traffic.run(5)
    traffic.clock.advance(86400)
    line.times.clear()
    traffic.run(1)
    assert bursts([line]) <= BURST * RATE + 100
    traffic.clock.rightNow -= 86400
    for call in traffic.clock.getDelayedCalls():
        call.reset(TICK)
    assert traffic.run(10)[0] == pytest.approx(10 * RATE, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 400_000), st.sampled_from(["send", "toggle", "end", "wait"])))
)
def test_bodies_come_and_go_in_any_order(steps: list[tuple[int, int, str]]) -> None:
    """No body is held for ever, no connection is read that is to be paused, and no delayed call is left at the end."""
    traffic = Traffic()
    paused: set[int] = set()
    for number, octets, what in steps:
        open_ones = [at for at, done in enumerate(traffic.done) if not done.called]
        if what == "wait":
            traffic.clock.advance(octets / RATE)
        elif number >= len(open_ones):
            traffic.begin(background=bool(octets % 2))
        elif what == "send" and not traffic.lines[open_ones[number]].paused:
            traffic.lines[open_ones[number]].send(octets)
        elif what == "end":
            traffic.lines[open_ones[number]].end()
        elif what == "toggle":
            at = open_ones[number]
            producer = traffic.takers[at].producer
            assert producer is not None
            if at in paused:
                producer.resumeProducing()
            else:
                producer.pauseProducing()
            paused ^= {at}
        assert all(traffic.lines[at].paused for at in paused if not traffic.done[at].called)
    came = sum(line.sent for line in traffic.lines)
    # In steps, as time comes; all debts are paid after as long as they are worth.
    for _ in range(round(came / RATE / TICK) + 2):
        traffic.clock.advance(TICK)
    for at, line in enumerate(traffic.lines):
        assert traffic.done[at].called or line.paused == (at in paused)
    for at, line in enumerate(traffic.lines):
        if not traffic.done[at].called:
            line.end()
    assert traffic.clock.getDelayedCalls() == []


def test_the_defaults_leave_a_trickling_manifest_a_minute() -> None:
    """Longer than the silence that would end it earlier."""
    assert Timeouts().silence < Timeouts().whole == 60.0


def _fault(deferred: Deferred[None]) -> BaseException:
    failures: list[Failure] = []
    deferred.addErrback(failures.append)
    assert failures, "it has not failed"
    value = failures[0].value
    assert value is not None
    return value
