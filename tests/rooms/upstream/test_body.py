"""A blob on its way into a consumer: pauses, silence, cuts, and exactly one end."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance import errors
from appliance.oci.digest import Digest
from appliance.upstream.interfaces import IBlobResponse
from tests.doubles.deferreds import failing, pending, result
from tests.rooms.upstream.net import CDN, REGISTRY, Counting, Net, Reply, Sink, Wire, upstream

DIGEST = Digest.of(b"")


def opened(reply: Reply, observer: Counting | None = None) -> tuple[Net, IBlobResponse, Wire]:
    net = Net()
    net.servers[REGISTRY] = lambda asked: reply
    response = net.result(upstream(net, observer=observer).blob("a", DIGEST))
    return net, response, net.wires[0]


def endless(head: bytes = b"first") -> Reply:
    """A body of which C{head} has come and more may."""
    return Reply(200, {}, head, "close", stall=True)


def test_nothing_is_read_before_it_is_delivered() -> None:
    """An answer that waits for its reader costs no memory."""
    net, response, wire = opened(endless())
    assert wire.paused
    sink = Sink()
    response.deliver(sink)
    net.settle()
    assert sink.data == b"first"
    assert not wire.paused


def test_a_consumer_that_pauses_is_sent_no_more() -> None:
    """A slow disk slows the upstream down, not the memory up."""
    net, response, wire = opened(endless())
    sink = Sink(pause_at=1)
    done: Deferred[None] = response.deliver(sink)
    net.settle()
    assert wire.paused
    wire.send(b"second")
    net.settle()
    assert sink.data == b"first"
    assert sink.producer is not None
    sink.producer.resumeProducing()
    net.settle()
    assert sink.data == b"firstsecond"
    wire.cut()
    assert net.result(done) is None


def test_a_pause_asked_for_at_the_very_first_bytes_holds() -> None:
    """Bytes that came with the header are written at once; twisted.web resumes the connection after them."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: None
    fetching = upstream(net).blob("a", DIGEST)
    net.settle()
    wire = net.wires[0]
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst")
    response = net.result(fetching)
    sink = Sink(pause_at=1)
    done = response.deliver(sink)
    assert sink.data == b"first"
    assert wire.paused
    done.addErrback(lambda _: None).cancel()
    net.settle()


class Impatient(Sink):
    """Pauses as soon as it is given a producer."""

    def registerProducer(self, producer: object, streaming: bool) -> None:
        super().registerProducer(producer, streaming)  # type: ignore[arg-type]
        assert self.producer is not None
        self.producer.pauseProducing()


def test_a_consumer_may_pause_before_the_first_byte() -> None:
    """Its queue may be full of something else."""
    net, response, wire = opened(endless())
    sink = Impatient()
    done = response.deliver(sink)
    net.settle()
    assert (sink.data, wire.paused) == (b"", True)
    assert net.timers() == []
    done.addErrback(lambda _: None).cancel()
    net.settle()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(body=b"x" * 10), None),
        (Reply(body=b"x" * 10, framing="chunked"), None),
        (Reply(body=b"x" * 10, framing="close"), None),
        (Reply(body=b""), None),
        (Reply(body=b"x" * 10, claim=5), errors.UpstreamUnavailable),
        (Reply(body=b"x" * 10, framing="chunked", claim=5), errors.UpstreamUnavailable),
    ],
    ids=["length", "chunked", "close", "empty", "short length", "cut chunks"],
)
def test_an_end_is_distinguished_from_a_cut(reply: Reply, expected: type[Exception] | None) -> None:
    """Where the framing tells; a body that ends with its connection is judged by its digest."""
    net, response, _ = opened(reply)
    sink = Sink()
    done = response.deliver(sink)
    net.settle()
    if expected is None:
        assert result(done) is None
    else:
        fault = failing(done)
        assert type(fault) is expected
        assert "cut after 10 bytes" in str(fault)
    assert sink.data == reply.body
    assert sink.producer is None
    assert net.timers() == []


def test_silence_ends_a_body() -> None:
    """30 seconds without a byte: the line is dropped."""
    net, response, wire = opened(endless())
    sink = Sink()
    done = response.deliver(sink)
    net.settle()
    for _ in range(3):
        net.clock.pump([1.0] * 29)
        wire.send(b"x")
    net.clock.pump([1.0] * 29)
    assert pending(done)
    net.clock.pump([1.0] * 3)
    assert type(failing(done)) is errors.UpstreamTimeout
    assert wire.dropped
    assert sink.producer is None
    net.settle()
    assert net.timers() == []


def test_a_pause_is_no_silence() -> None:
    """A pause of an hour is ours; after it the upstream has its 30 seconds again."""
    net, response, _ = opened(endless())
    sink = Sink(pause_at=1)
    done = response.deliver(sink)
    net.settle()
    net.clock.pump([60.0] * 60)
    assert pending(done)
    assert sink.producer is not None
    sink.producer.resumeProducing()
    net.clock.pump([1.0] * 29)
    assert pending(done)
    net.clock.pump([1.0] * 3)
    assert type(failing(done)) is errors.UpstreamTimeout


def test_a_clock_that_is_set_forward_cuts_no_body() -> None:
    """The time is corrected by a day in the middle of a pull."""
    net, response, _ = opened(endless())
    done = response.deliver(Sink())
    net.settle()
    net.clock.advance(86400)
    assert pending(done)
    done.addErrback(lambda _: None).cancel()
    net.settle()


def test_a_consumer_that_stops_drops_the_line() -> None:
    """Its Deferred fails once, and nothing more is written."""
    net, response, wire = opened(endless())
    sink = Sink()
    done = response.deliver(sink)
    net.settle()
    assert sink.producer is not None
    producer = sink.producer
    producer.stopProducing()
    assert type(failing(done)) is errors.UpstreamUnavailable
    assert wire.dropped
    producer.stopProducing()
    producer.resumeProducing()
    net.settle()
    assert sink.data == b"first"
    assert net.timers() == []


class Full(Sink):
    """Wants no more after the first piece."""

    def write(self, data: bytes) -> None:
        super().write(data)
        assert self.producer is not None, "bytes after the end"
        self.producer.stopProducing()


def test_nothing_is_written_after_a_stop() -> None:
    """Though more had been read from the connection already."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: None
    fetching = upstream(net).blob("a", DIGEST)
    net.settle()
    net.wires[0].send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n")
    sink = Full()
    done = net.result(fetching).deliver(sink)
    assert type(failing(done)) is errors.UpstreamUnavailable
    assert sink.data == b"a"
    net.settle()
    assert net.timers() == []


def test_a_delivery_can_be_cancelled() -> None:
    """The connection goes, and the failure is the cancellation."""
    net, response, wire = opened(endless())
    sink = Sink()
    done = response.deliver(sink)
    net.settle()
    done.cancel()
    assert type(failing(done)) is CancelledError
    assert wire.dropped
    assert sink.producer is None
    net.settle()
    assert net.timers() == []


def test_an_answer_can_be_abandoned() -> None:
    """Once or twice, and after a delivery it means nothing."""
    net, response, wire = opened(endless())
    response.abandon()
    response.abandon()
    net.settle()
    assert wire.dropped


def test_bytes_are_counted_while_they_come() -> None:
    """A transfer of hours shows in the metrics before it ends; a cut one shows what came."""
    observer = Counting()
    net, response, wire = opened(endless(), observer)
    done = response.deliver(Sink())
    net.settle()
    net.clock.advance(1)
    assert observer.octets == 5
    wire.send(b"more")
    wire.cut()
    assert net.result(done) is None
    assert observer.octets == 9


def trickle(net: Net, wire: Wire, seconds: int) -> None:
    """A byte a second, which is never silence."""
    for _ in range(seconds):
        net.clock.advance(1)
        if not wire.dropped:
            wire.send(b"x")


def test_a_manifest_that_trickles_is_given_up_after_a_minute() -> None:
    """It would take a day, and a client with a cached image waits for it."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: Reply(200, {}, b"{", claim=86400, stall=True)
    fetching = upstream(net).manifest("a", "latest")
    net.settle()
    trickle(net, net.wires[0], 59)
    assert pending(fetching)
    trickle(net, net.wires[0], 2)
    fault = failing(fetching)
    assert type(fault) is errors.UpstreamTimeout
    assert "within 60 seconds" in str(fault)
    assert net.wires[0].dropped


def test_a_blob_may_take_as_long_as_it_takes() -> None:
    """A layer over a modem arrives tomorrow."""
    net, response, wire = opened(endless())
    sink = Sink()
    done = response.deliver(sink)
    net.settle()
    trickle(net, wire, 3600)
    assert pending(done)
    wire.cut()
    assert net.result(done) is None
    assert len(sink.data) == len(b"first") + 3600
    assert net.timers() == []


def test_an_error_that_trickles_is_known_by_its_status() -> None:
    """Its text is only for the message: what came of it within a minute will do."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: Reply(404, {}, b"{", claim=86400, stall=True)
    asking = upstream(net).tags("a")
    net.settle()
    trickle(net, net.wires[0], 61)
    assert isinstance(failing(asking), errors.UpstreamMissing)
    assert net.wires[0].dropped


def test_a_body_that_is_not_wanted_is_not_read_for_ever() -> None:
    """The few bytes of a redirect are read away so that the connection serves again, unless they do not come."""
    net = Net()
    where = {"Location": CDN + "/blob"}
    net.servers[REGISTRY] = lambda asked: Reply(307, {**where}, b"m", claim=1000, stall=True)
    net.servers[CDN] = lambda asked: Reply(body=b"x")
    response = net.result(upstream(net).blob("a", DIGEST))
    response.abandon()
    trickle(net, net.wires[0], 61)
    assert net.wires[0].dropped
    assert net.timers() == []


def test_a_clock_that_is_set_forward_cuts_no_manifest() -> None:
    """The time is corrected by a day while it comes."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: Reply(200, {}, b"{", claim=1, stall=True)
    fetching = upstream(net).manifest("a", "latest")
    net.settle()
    net.clock.advance(86400)
    net.wires[0].send(b"}")
    assert net.result(fetching).data == b"{}"
    assert net.timers() == []


def test_a_pause_at_the_last_byte_leaves_the_connection_readable() -> None:
    """It is closed in good order, for which TLS waits for the other side."""
    net, response, wire = opened(Reply(200, {"Connection": "close"}, b"whole"))
    sink = Sink(pause_at=5)
    assert net.result(response.deliver(sink)) is None
    assert sink.data == b"whole"
    assert not wire.paused
