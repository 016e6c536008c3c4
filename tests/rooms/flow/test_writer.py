"""From a producer to the disk: every byte once and in order, and never much of it in memory."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from appliance.flow.body import Relay
from appliance.flow.writer import HIGH, ThreadWriter


class Disk:
    """Takes pieces and keeps the caller waiting until the test lets it go on."""

    def __init__(self) -> None:
        self.stored = b""
        self.calls = 0
        self.pending: Deferred[None] | None = None

    def store(self, pieces: list[bytes]) -> Deferred[None]:
        assert self.pending is None, "two writes at the same time"
        self.calls += 1
        self.stored += b"".join(pieces)
        self.pending = Deferred()
        return self.pending

    def done(self, result: Any = None) -> None:
        assert self.pending is not None
        pending, self.pending = self.pending, None
        pending.callback(result)

    def all_done(self) -> None:
        while self.pending is not None:
            self.done()


@implementer(IPushProducer)
class Producer:
    """Remembers its calls."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.on_stop: Any = None

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")
        if self.on_stop is not None:
            self.on_stop()


class WriterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = Disk()
        self.producer = Producer()

    def writer(self, skip: int = 0, limit: int | None = None) -> ThreadWriter:
        writer = ThreadWriter(self.disk.store, skip, limit)
        writer.registerProducer(self.producer, True)
        return writer

    def test_what_comes_during_a_write_goes_into_the_next(self) -> None:
        """A slow stream is on the disk at once, a fast one goes there in large pieces."""
        writer = self.writer()
        for piece in (b"a", b"b", b"", b"c"):
            writer.write(piece)
        self.assertEqual((self.disk.stored, self.disk.calls), (b"a", 1))
        self.disk.all_done()
        self.assertEqual((self.disk.stored, self.disk.calls), (b"abc", 2))

    def test_drained_waits_for_all_that_was_written(self) -> None:
        """Also for what is written after the asking; each Deferred fires once."""
        writer = self.writer()
        self.successResultOf(writer.drained())
        writer.write(b"a")
        waiting = [writer.drained(), writer.drained()]
        writer.write(b"b")
        gone = writer.drained()
        gone.addErrback(lambda _: None)
        gone.cancel()
        self.disk.done()
        self.assertNoResult(waiting[0])
        self.disk.done()
        for each in [*waiting, writer.drained()]:
            self.successResultOf(each)

    def test_a_slow_disk_pauses_the_upstream(self) -> None:
        """Above the high mark, once; and it goes on when the disk has caught up."""
        writer = self.writer()
        writer.write(b"x")
        writer.write(bytes(HIGH))
        self.assertEqual(self.producer.told, [])
        writer.write(b"x")
        writer.write(bytes(HIGH))
        self.assertEqual(self.producer.told, ["pause"])
        self.disk.done()
        self.assertEqual(self.producer.told, ["pause", "resume"])
        writer.write(bytes(HIGH // 4))
        self.disk.all_done()
        self.assertEqual(self.producer.told, ["pause", "resume"])

    def test_less_may_wait_where_memory_is_short(self) -> None:
        """From now on, also while a line is open."""
        writer = self.writer()
        writer.high = 400
        writer.write(b"x")
        writer.write(bytes(401))
        self.assertEqual(self.producer.told, ["pause"])
        self.disk.done()
        self.assertEqual(self.producer.told, ["pause", "resume"])

    def test_no_producer_no_calls(self) -> None:
        """The upstream's body has ended while the disk is behind."""
        writer = self.writer()
        for _ in range(2):
            writer.write(bytes(HIGH + 1))
        writer.unregisterProducer()
        writer.write(bytes(HIGH + 1))
        self.disk.all_done()
        self.assertEqual(self.producer.told, ["pause"])
        self.assertEqual(len(self.disk.stored), 3 * (HIGH + 1))

    def test_bytes_held_already_are_dropped(self) -> None:
        """An upstream that ignored our Range sends everything again."""
        writer = self.writer(skip=5)
        for piece in (b"01", b"234", b"56", b"7"):
            writer.write(piece)
        self.disk.all_done()
        self.assertEqual(self.disk.stored, b"567")

    def test_more_than_the_limit_stops_the_upstream(self) -> None:
        """An endless body costs what was promised and not a byte more."""
        writer = self.writer(skip=2, limit=4)
        writer.write(b"012345")
        self.assertFalse(writer.overrun)
        writer.write(b"6")
        writer.write(b"7")
        self.assertTrue(writer.overrun)
        self.assertEqual(self.producer.told, ["stop"])
        self.disk.all_done()
        self.assertEqual(self.disk.stored, b"2345")
        self.successResultOf(writer.drained())

    def test_a_producer_that_ends_when_it_is_stopped_finds_everything_counted(self) -> None:
        """When the end is reported, the question whether all is stored has the right answer."""
        writer = self.writer(limit=3)
        asked: list[Deferred[None]] = []
        self.producer.on_stop = lambda: asked.append(writer.drained())
        writer.write(b"abcdef")
        self.assertNoResult(asked[0])
        self.disk.all_done()
        self.assertEqual(self.disk.stored, b"abc")
        self.successResultOf(asked[0])

    def test_a_full_disk_stops_the_upstream_and_is_reported(self) -> None:
        """Nothing is stored after a gap, and all who ask get the reason."""
        writer = self.writer()
        writer.write(b"a")
        writer.write(bytes(HIGH + 1))
        waiting = writer.drained()
        self.disk.done(Failure(OSError(28, "no room")))
        self.assertEqual(self.producer.told, ["pause", "stop"])
        writer.write(b"after")
        for each in (waiting, writer.drained()):
            self.failureResultOf(each, OSError)
        assert writer.failure is not None
        self.assertIs(writer.failure.type, OSError)
        self.assertEqual((self.disk.stored, self.disk.calls), (b"a", 1))

    def test_a_store_that_raises_is_a_store_that_fails(self) -> None:
        """At the first piece or a later one: no caller waits for ever for what will not be stored."""
        for late in (False, True):
            disk, calls = Disk(), [0]

            def store(pieces: list[bytes], disk: Disk = disk, calls: list[int] = calls, late: bool = late) -> Any:
                calls[0] += 1
                if late and calls[0] == 1:
                    return disk.store(pieces)
                raise ValueError("the file is closed already")

            writer, producer = ThreadWriter(store, 0, None), Producer()
            writer.registerProducer(producer, True)
            writer.write(b"a")
            if late:
                writer.write(bytes(HIGH + 1))
                waiting = writer.drained()
                disk.done()
                self.failureResultOf(waiting, ValueError)
            self.failureResultOf(writer.drained(), ValueError)
            self.assertEqual(producer.told, ["pause", "stop"] if late else ["stop"])


@given(
    st.lists(st.binary(max_size=40) | st.none(), max_size=40),
    st.integers(0, 60),
    st.none() | st.integers(0, 400),
    st.booleans(),
)
def test_however_the_bytes_come_they_are_stored_in_order(
    moves: list[bytes | None], skip: int, limit: int | None, at_once: bool
) -> None:
    """Any chunking, any timing of the disk (C{None}: it is done with one write), any beginning already held."""
    disk, producer = Disk(), Producer()
    def store(pieces: list[bytes]) -> Deferred[None]:
        if not at_once:
            return disk.store(pieces)
        disk.stored += b"".join(pieces)
        return succeed(None)

    writer = ThreadWriter(store, skip, limit, 64)
    writer.registerProducer(producer, True)
    for move in moves:
        if move is not None:
            writer.write(move)
        elif disk.pending is not None:
            disk.done()
        assert writer._buffered <= 64 + 40 or producer.told[-1] in ("pause", "stop")
    disk.all_done()
    sent = b"".join(move for move in moves if move is not None)[skip:]
    assert disk.stored == (sent if limit is None else sent[:limit])
    assert writer.overrun == (limit is not None and len(sent) > limit)
    assert producer.told.count("stop") == writer.overrun
    paused = [each for each in producer.told if each != "stop"]
    assert paused == ["pause", "resume"] * (len(paused) // 2)


class RelayTests(SynchronousTestCase):
    @implementer(IConsumer)
    class Client:
        """What a relay writes to."""

        def __init__(self) -> None:
            self.received = b""
            self.producer: Any = None

        def registerProducer(self, producer: Any, streaming: bool) -> None:
            self.producer = producer

        def unregisterProducer(self) -> None:
            self.producer = None

        def write(self, data: bytes) -> None:
            assert data
            self.received += data

    def test_exactly_the_range_is_passed_on(self) -> None:
        """An upstream that sends more than was asked for does not spoil the next response on the connection."""
        client, producer = self.Client(), Producer()
        relay = Relay(client, 5)
        relay.registerProducer(producer, True)
        self.assertIs(client.producer, producer)
        relay.write(b"abc")
        self.assertEqual((relay.missing, producer.told), (2, []))
        relay.write(b"defg")
        relay.write(b"h")
        self.assertEqual((client.received, relay.missing), (b"abcde", 0))
        self.assertEqual(set(producer.told), {"stop"})
        relay.unregisterProducer()
        self.assertIsNone(client.producer)
        relay.write(b"i")
