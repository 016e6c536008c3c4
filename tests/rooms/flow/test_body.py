"""Bodies of responses: exactly the bytes that were promised, at the client's pace, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from appliance.errors import UpstreamUnavailable
from appliance.flow import body as body_module
from appliance.flow.body import CLIENT_SILENCE, BlobBody, ClientStalled, Part
from appliance.oci.ranges import Span
from tests.rooms.flow.wire import Blob, Wire

DATA = bytes(range(256)) * 4
SIZE = len(DATA)


class Sending:
    """One body on its way, and all that it holds."""

    def __init__(self, blob: Blob, parts: Sequence[Part], files: bool = True, wire: Wire | None = None) -> None:
        self.blob = blob
        self.growth = blob.growth
        self.wire = wire or Wire()
        self.clock = Clock()
        transport = self.wire if files else None
        self.body = BlobBody(blob.reader, parts, self.wire, transport, self.clock, growth=blob.growth)
        self.outcome: list[Any] = []
        self.done: Deferred[int] = self.body.send()
        self.done.addBoth(self.outcome.append)

    def failed_with(self) -> type[BaseException]:
        [failure] = self.outcome
        assert isinstance(failure, Failure), failure
        assert failure.type is not None
        return failure.type

    def let_go(self) -> None:
        """Nothing is held any more."""
        assert len(self.outcome) == 1
        assert self.blob.file.readers == 1
        assert self.clock.getDelayedCalls() == []
        assert self.wire.producer is None
        assert len(self.growth._waiting) == 0
        self.growth.advance(SIZE)
        self.growth.fail(Failure(UpstreamUnavailable("docker.io", "gone")))
        assert len(self.outcome) == 1


def wanted(parts: Sequence[Part]) -> bytes:
    return b"".join(part if isinstance(part, bytes) else DATA[part.start : part.stop] for part in parts)


class BodyTests(SynchronousTestCase):
    def both_ways(self, parts: Sequence[Part], available: int | None = None) -> list[Sending]:
        """By file ranges, and by writes where bytes must pass through TLS."""
        return [Sending(Blob(DATA, available), parts, files) for files in (True, False)]

    def test_the_client_gets_what_was_promised(self) -> None:
        """A whole file, one range, several with text between them, none at all."""
        for parts in (
            [Span(0, SIZE)],
            [Span(5, 6)],
            [b"head", Span(900, 1000), b"between", Span(0, 10), Span(7, 7), b"tail"],
            [b""],
            [Span(3, 3)],
            [],
        ):
            for sending in self.both_ways(parts):
                sending.wire.take_all()
                self.assertEqual(bytes(sending.wire.received), wanted(parts))
                self.assertEqual(sending.outcome, [len(wanted(parts))])
                sending.let_go()

    def test_what_went_past_the_request_is_counted_apart(self) -> None:
        """The access log counts each byte once, whether it was written or sent as a file."""
        for sending, written in zip(self.both_ways([b"head", Span(0, SIZE)]), (4, SIZE + 4), strict=True):
            sending.wire.take_all()
            self.assertEqual((sending.body.sent, sending.body.written), (SIZE + 4, written))

    def test_a_growing_file_is_sent_as_it_grows(self) -> None:
        """The first byte at once, the rest when it comes."""
        for sending in self.both_ways([Span(10, 500)], available=20):
            sending.wire.take_all()
            self.assertEqual(bytes(sending.wire.received), DATA[10:20])
            for available in (21, 300, 499, SIZE):
                sending.growth.advance(available)
                sending.wire.take_all()
                self.assertEqual(bytes(sending.wire.received), DATA[10 : min(available, 500)])
            self.assertEqual(sending.outcome, [490])
            sending.let_go()

    def test_a_failure_comes_after_all_that_arrived(self) -> None:
        """The client has every byte there is when its connection is cut."""
        for sending in self.both_ways([Span(0, SIZE), b"tail"], available=300):
            sending.wire.take(50)
            sending.growth.fail(Failure(UpstreamUnavailable("docker.io", "cut")))
            self.assertEqual(sending.outcome, [])
            sending.wire.take_all()
            self.assertEqual(bytes(sending.wire.received), DATA[:300])
            self.assertIs(sending.failed_with(), UpstreamUnavailable)
            sending.let_go()

    def test_a_failure_while_waiting_is_reported_at_once(self) -> None:
        """And a source that had failed before gives what it has."""
        for sending in self.both_ways([Span(0, SIZE)], available=10):
            sending.wire.take_all()
            sending.growth.fail(Failure(UpstreamUnavailable("docker.io", "cut")))
            self.assertIs(sending.failed_with(), UpstreamUnavailable)
            sending.let_go()
            late = Sending(sending.blob, [Span(0, 5), Span(0, SIZE + 1)])
            late.wire.take_all()
            self.assertIs(late.failed_with(), UpstreamUnavailable)

    def at_every_moment(self) -> list[Sending]:
        """Bodies that have sent nothing, a part, all there was, and are paused or waiting for more."""
        sendings = []
        for taken in (0, 1, 50, 150, 299, 300, 1 << 30):
            for sending in self.both_ways([b"head", Span(0, SIZE), b"tail"], available=300):
                for _ in range(taken):
                    if sending.wire.idle:
                        break
                    sending.wire.take(1)
                sendings.append(sending)
        return sendings

    def test_a_client_may_leave_at_any_moment(self) -> None:
        """Its file and its timer are let go of at once, and the source may go on."""
        for sending in self.at_every_moment():
            producer = sending.wire.producer
            producer.stopProducing()
            self.assertIs(sending.failed_with(), ConnectionDone)
            sending.let_go()
            producer.resumeProducing()
            producer.stopProducing()
            sending.let_go()

    def test_a_body_may_be_cancelled_at_any_moment(self) -> None:
        """The same when the one who waits for it gives up."""
        for sending in self.at_every_moment():
            sending.done.cancel()
            self.assertIs(sending.failed_with(), CancelledError)
            sending.let_go()

    def test_a_client_that_left_before_the_body_costs_nothing(self) -> None:
        """The transport says so while it is given the producer."""
        sending = Sending(Blob(DATA), [b"head", Span(0, SIZE)], wire=Wire(gone=True))
        self.assertIs(sending.failed_with(), ConnectionDone)
        sending.let_go()

    def test_range_bytes_reported_after_the_end_are_nothing(self) -> None:
        """A transport may report what left while the connection is cut; no closed file is touched."""
        sending = Sending(Blob(DATA), [Span(0, SIZE)])
        sent = sending.wire._range[3]  # type: ignore[index]
        sending.done.cancel()
        sending.blob.reader.close()
        sent(10)
        sent(SIZE - 10)
        self.assertEqual(len(sending.outcome), 1)

    def test_a_transport_may_answer_at_once(self) -> None:
        """Pauses, resumptions, reports and a loss of the connection from within a call."""

        class Eager(Wire):
            def write(self, data: bytes) -> None:
                super().write(data)
                self.producer.pauseProducing()
                self.take_all()
                self.producer.resumeProducing()

            def send_file(self, *args: Any) -> None:
                super().send_file(*args)
                self.take_all()

        class Lost(Wire):
            def write(self, data: bytes) -> None:
                self.producer.stopProducing()

        parts = [b"head", Span(0, 400), b"between", Span(100, SIZE)]
        for files in (True, False):
            sending = Sending(Blob(DATA), parts, files, Eager())
            self.assertEqual(bytes(sending.wire.received), wanted(parts))
            self.assertEqual(sending.outcome, [len(wanted(parts))])
            sending.let_go()
            sending = Sending(Blob(DATA), parts, files, Lost())
            self.assertIs(sending.failed_with(), ConnectionDone)
            sending.let_go()

    def test_a_file_that_is_shorter_than_it_should_be_is_an_error(self) -> None:
        """Never an endless loop, never a shorter body that looks whole."""
        blob = Blob(DATA)
        blob.growth.advance(SIZE + 5)
        sending = Sending(blob, [Span(0, SIZE + 5)], files=False)
        sending.wire.take_all()
        self.assertIs(sending.failed_with(), OSError)
        self.assertEqual(bytes(sending.wire.received), DATA)

    def test_a_disk_that_cannot_be_read_ends_this_body_alone(self) -> None:
        """Others that wait for the same flight get the failure all the same, and nothing is held for ever."""
        blob = Blob(DATA, available=0)
        broken, whole = Sending(blob, [Span(0, SIZE)], files=False), Sending(blob, [Span(0, SIZE)])
        with mock.patch.object(os, "pread", side_effect=OSError(5, "Input/output error")):
            blob.growth.advance(SIZE)
        whole.wire.take_all()
        self.assertIs(broken.failed_with(), OSError)
        self.assertEqual(whole.outcome, [SIZE])
        whole.let_go()
        with mock.patch.object(os, "pread", side_effect=OSError(5, "Input/output error")):
            at_once = Sending(Blob(DATA), [Span(0, SIZE)], files=False)
        self.assertIs(at_once.failed_with(), OSError)
        at_once.let_go()

    def advice(self, size: int, files: bool, cold: bool) -> list[tuple[int, int]]:
        """What the kernel is asked to read ahead while a file of zeros is sent."""
        advised: list[tuple[int, int]] = []
        preadv = mock.Mock(side_effect=BlockingIOError if cold else lambda fd, buffers, at, flags: at < size)
        with (
            mock.patch.object(os, "posix_fadvise", lambda fd, at, length, advice: advised.append((at, length))),
            mock.patch.object(os, "preadv", preadv),
        ):
            sending = Sending(Blob(b"", size, size), [Span(0, size)], files)
            while not sending.wire.idle:
                sending.wire.take(1024 * 1024)
        self.assertTrue(all(call.args[2] < size for call in preadv.call_args_list), "asked about no byte of the file")
        return advised

    def test_a_cold_disk_is_asked_ahead_all_the_way(self) -> None:
        """The kernel reads ahead of the network through the whole file, not only its beginning."""
        for size, files in ((64 << 20, True), (64 << 20, False), (1 << 20, True), (9 << 20, True)):
            advised = self.advice(size, files, cold=True)
            reached = 0
            for at, length in advised:
                self.assertLessEqual(at, reached, "a hole")
                reached = at + length
            self.assertGreaterEqual(reached, size)
            self.assertLess(len(advised), 20)

    def test_what_is_in_memory_is_not_asked_for(self) -> None:
        """The advice looks at every page, which a warm blob should not pay for."""
        self.assertEqual(self.advice(64 << 20, True, cold=False), [])


class SilenceTests(SynchronousTestCase):
    def test_a_client_that_takes_nothing_is_cut_off(self) -> None:
        """A connection held on purpose does not hold a file for ever."""
        for files in (True, False):
            sending = Sending(Blob(DATA), [b"head", Span(0, SIZE)], files)
            sending.wire.take(5)
            sending.clock.advance(CLIENT_SILENCE)
            sending.clock.advance(CLIENT_SILENCE)
            self.assertIs(sending.failed_with(), ClientStalled)
            sending.let_go()

    def test_a_client_that_takes_a_little_is_not(self) -> None:
        """There is no limit on how long a layer may take."""
        sending = Sending(Blob(DATA), [Span(0, SIZE)])
        for _ in range(SIZE):
            sending.wire.take(1)
            sending.clock.advance(CLIENT_SILENCE)
        self.assertEqual(sending.outcome, [SIZE])

    def test_waiting_for_the_upstream_is_not_the_clients_silence(self) -> None:
        """Nor is the time counted to it that went by while there was nothing to take."""
        sending = Sending(Blob(DATA, 0), [Span(0, SIZE)])
        for _ in range(5):
            sending.clock.advance(CLIENT_SILENCE)
        sending.clock.advance(CLIENT_SILENCE - 1)
        sending.growth.advance(SIZE)
        sending.clock.advance(CLIENT_SILENCE - 1)
        self.assertEqual(sending.outcome, [])
        sending.wire.take_all()
        self.assertEqual(sending.outcome, [SIZE])
        sending.let_go()


class Elsewhere:
    """
    A reader of a store that has its bytes on another machine, as far as a body uses one.

    @ivar reads: those under way, with the range of each.
    """

    def __init__(self) -> None:
        self.reads: list[tuple[int, int, Deferred[bytes]]] = []

    def read(self, start: int, stop: int) -> Deferred[bytes]:
        self.reads.append((start, stop, Deferred()))
        return self.reads[-1][2]

    def send(self, *_: Any) -> bool:
        return False

    def prefetch(self, start: int, stop: int) -> None:
        """A hint."""

    def arrive(self) -> None:
        """The bytes of the read under way come."""
        start, stop, reading = self.reads.pop()
        reading.callback(DATA[start:stop])


class ElsewhereTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reader, self.wire, self.clock = Elsewhere(), Wire(), Clock()
        body = BlobBody(self.reader, [b"head", Span(5, SIZE), b"tail"], self.wire, self.wire, self.clock)
        self.outcome: list[Any] = []
        self.done = body.send()
        self.done.addBoth(self.outcome.append)

    def test_bytes_that_come_later_are_sent_when_they_come(self) -> None:
        """Also to a transport that would take files; one read at a time, and none while the client is behind."""
        with mock.patch.object(body_module, "CHUNK", 300):
            while not self.outcome:
                self.assertLessEqual(len(self.reader.reads), 1)
                if self.reader.reads:
                    self.reader.arrive()
                self.assertEqual(self.reader.reads == [], self.wire.paused or bool(self.outcome))
                self.wire.take_all()
        self.assertEqual(bytes(self.wire.received), b"head" + DATA[5:] + b"tail")
        self.assertEqual(self.outcome, [SIZE - 5 + 8])

    def test_waiting_for_the_store_is_not_the_clients_silence(self) -> None:
        """However long a read takes, the client has had nothing to take."""
        self.wire.take_all()
        for _ in range(5):
            self.clock.advance(CLIENT_SILENCE)
        self.assertEqual(self.outcome, [])

    def test_a_client_that_leaves_ends_the_read(self) -> None:
        """Nothing is fetched that no client waits for."""
        [(_, _, reading)] = self.reader.reads
        self.wire.producer.stopProducing()
        self.assertIs(self.outcome[0].type, ConnectionDone)
        self.assertTrue(reading.called)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_read_that_fails_ends_the_body(self) -> None:
        """Its connection is aborted by who sends the body: less was sent than promised."""
        [(_, _, reading)] = self.reader.reads
        reading.errback(OSError(5, "Input/output error"))
        self.assertIs(self.outcome[0].type, OSError)


spans = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda ends: Span(min(ends), max(ends)))
steps = st.tuples(st.sampled_from(["grow", "take", "take", "stall"]), st.integers(1, 400))


@given(st.lists(st.binary(max_size=120) | spans, max_size=5), st.lists(steps, max_size=30), st.booleans())
def test_however_it_comes_and_goes_the_bytes_are_the_wanted_ones(
    parts: list[Part], moves: list[tuple[str, int]], files: bool
) -> None:
    """Any interleaving of growth, partial sends, pauses and time: the client has a beginning, and in the end all."""
    with mock.patch.object(body_module, "CHUNK", 64):
        sending = Sending(Blob(DATA, 0), parts, files)
        for move, amount in moves:
            if move == "grow":
                sending.growth.advance(min(SIZE, sending.growth.available + amount))
            elif move == "take":
                sending.wire.take(amount)
            else:
                sending.clock.advance(1)
            assert wanted(parts).startswith(bytes(sending.wire.received))
        sending.growth.advance(SIZE)
        sending.wire.take_all()
    assert bytes(sending.wire.received) == wanted(parts)
    assert sending.outcome == [len(wanted(parts))]
    sending.let_go()
