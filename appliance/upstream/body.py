"""
Bodies on their way: into a consumer that may pause them, or into memory up to a limit.

A blob passes through L{Delivery} at the speed of the wire, so nothing there is done twice per piece: progress is noted
by adding to a number, which the silence timer and the observer look at once in a while. An upstream with a limit on its
bytes per second has L{PacedDelivery} instead.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

from appliance.errors import UpstreamInvalid, UpstreamTimeout, UpstreamUnavailable
from appliance.interfaces import IBlobResponse
from appliance.upstream.gate import Gate
from appliance.upstream.limits import MAX_PROBLEM_BYTES
from appliance.upstream.pace import Pace
from appliance.upstream.silence import Silence


@dataclass(frozen=True)
class Watch:
    """
    Under which conditions a body is read.

    @ivar upstream: whose it is, for errors.
    @ivar silence: seconds without a byte, while not paused, after which it is given up.
    @ivar received: told bytes as they come, in sums.
    @ivar whole: seconds after which it is given up whatever came, C{None} for never.
    @ivar pace: how fast it may come with all others, C{None} for any speed.
    @ivar background: whether nobody waits for it.
    @ivar gate: drops it when it is closed, C{None} where nobody closes any.
    """

    upstream: str
    clock: IReactorTime
    silence: float
    received: Callable[[int], None] = lambda octets: None
    whole: float | None = None
    pace: Pace | None = None
    background: bool = False
    gate: Gate | None = None


@implementer(IPushProducer)
class Delivery(Protocol):
    """
    One body into one consumer.

    @ivar finished: as L{IBlobResponse.deliver} says. Cancelling it drops the connection.
    """

    def __init__(self, consumer: IConsumer, watch: Watch, length: int | None) -> None:
        """
        @param length: bytes of the body, C{None} when that is not known.
        """
        self.finished: Deferred[None] = Deferred(self._cancelled)
        self._consumer = consumer
        self._watch = watch
        self._length = length
        self._octets = 0
        self._told = 0
        self._excused = 0
        self._paused = False
        self._held = False
        self._ended = False
        self._silence = Silence(watch.clock, watch.silence, self._progress, self._silent)
        # What never grows is silent from the first second on: so the limit on the whole minds no set clock either.
        self._whole = None if watch.whole is None else Silence(watch.clock, watch.whole, lambda: 0, self._endless)

    def connectionMade(self) -> None:
        """The body begins."""
        self._consumer.registerProducer(self, True)
        if self._ended:
            return
        if not self._paused:
            self._silence.start()
        if self._whole is not None:
            self._whole.start()
        if self._watch.gate is not None:
            self._watch.gate.add(self.stopProducing)

    def dataReceived(self, data: bytes) -> None:
        """Some of the body, also while paused: what had been read from the connection before."""
        if not self._ended:
            self._octets += len(data)
            if self._octets == self._length:
                self._let_go()
            self._consumer.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The body ended.

        Without a length and without chunks the end of the connection is the end of the body; whether it is whole
        nobody but the digest can tell.
        """
        if reason.check(ResponseDone, PotentialDataLoss):
            self._end(None)
        else:
            self._fail(UpstreamUnavailable(self._watch.upstream, f"the body was cut after {self._octets} bytes"))

    def pauseProducing(self) -> None:
        """Read no more from the connection; nobody is silent while we do not listen."""
        self._paused = True
        self._silence.stop()
        self._pause_wire()

    def resumeProducing(self) -> None:
        """Go on."""
        self._paused = False
        if not self._ended:
            self._silence.start()
            self._resume_wire()

    def stopProducing(self) -> None:
        """The consumer wants no more: the connection is dropped, and L{finished} fails."""
        self._drop(UpstreamUnavailable(self._watch.upstream, "the body was dropped"))

    def awaited(self) -> None:
        """Somebody waits for it from now on; all bodies are the same here."""

    def settle(self) -> None:
        """
        To be called after C{deliverBody}, which resumes the connection at its end: a consumer that asked for a pause
        while the first bytes were written would not get it.
        """
        if (self._paused or self._held) and not self._ended:
            self._pause_wire()

    def _silent(self) -> None:
        seconds = self._watch.silence
        self._drop(UpstreamTimeout(self._watch.upstream, f"no byte of the body for {seconds:g} seconds"))

    def _endless(self) -> None:
        seconds, octets = self._watch.whole, self._octets
        self._drop(UpstreamTimeout(self._watch.upstream, f"only {octets} bytes of the body within {seconds:g} seconds"))

    def _cancelled(self, finished: Deferred[None]) -> None:
        self._drop(CancelledError())

    def _drop(self, reason: Exception) -> None:
        if not self._ended:
            self._fail(reason)
            self._wire().stopProducing()

    def _fail(self, reason: Exception) -> None:
        self._end(Failure(reason))

    def _end(self, result: Failure | None) -> None:
        """Exactly once; the consumer has no producer any more when L{finished} fires."""
        if self._ended:
            return
        self._ended = True
        self._silence.stop()
        if self._whole is not None:
            self._whole.stop()
        if self._watch.gate is not None:
            self._watch.gate.remove(self.stopProducing)
        self._progress()
        self._consumer.unregisterProducer()
        if result is None:
            self.finished.callback(None)
        else:
            self.finished.errback(result)

    def _progress(self) -> int:
        new = self._octets - self._told
        if new:
            self._told = self._octets
            self._watch.received(new)
        if self._held:
            self._excused += 1
        return self._octets + self._excused

    def _pause_wire(self) -> None:
        if self._octets != self._length:
            self._wire().pauseProducing()

    def _let_go(self) -> None:
        """
        After the last byte, which TLS may hand out during a pause, the connection stays readable: it is not ours any
        more, and when C{twisted.web} closes it in good order, TLS waits to hear from the other side.
        """
        if self._paused or self._held:
            self._wire().resumeProducing()

    def _resume_wire(self) -> None:
        if not self._paused and not self._held:
            self._wire().resumeProducing()

    def _wire(self) -> IPushProducer:
        """
        The connection, which C{twisted.web} hands to the protocol of a body as a producer.

        Its C{stopProducing} closes the socket below TLS: an orderly C{loseConnection} would wait for the other side's
        close_notify, which a paused connection never reads.
        """
        return self.transport  # type: ignore[return-value]


class PacedDelivery(Delivery):
    """
    One body that is held back while the pace of its upstream wants so.

    The pace and the consumer pause it independently of each other. It touches no timer for that: while it is held, each
    look of the silence timer finds it excused.
    """

    def __init__(self, consumer: IConsumer, watch: Watch, length: int | None, pace: Pace) -> None:
        super().__init__(consumer, watch, length)
        self._share = pace.share(watch.background, self._hold, self._release)

    def connectionMade(self) -> None:
        """The body begins."""
        self._share.join()
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Some of the body; counted before the consumer has it, since it may want no more then."""
        if not self._ended:
            self._octets += len(data)
            self._share.spend(len(data))
            if self._octets == self._length:
                self._let_go()
            self._consumer.write(data)

    def awaited(self) -> None:
        """Somebody waits for it from now on: it comes as fast as what was asked for so."""
        self._share.background = False

    def _hold(self) -> None:
        self._held = True
        self._pause_wire()

    def _release(self) -> None:
        self._held = False
        self._resume_wire()

    def _end(self, result: Failure | None) -> None:
        self._share.leave()
        super()._end(result)


@implementer(IConsumer)
class _Gathering:
    """Keeps what is written, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.pieces: list[bytes] = []
        self.overflowed = False
        self._room = limit
        self._producer: IProducer | None = None

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room >= 0:
            self.pieces.append(data)
        else:
            self.overflowed = True
            if self._producer is not None:
                self._producer.stopProducing()


class _Nothing(Protocol):
    """Takes no body."""

    def connectionMade(self) -> None:
        self.transport.stopProducing()  # type: ignore[union-attr]


def deliver(response: IResponse, consumer: IConsumer, watch: Watch) -> Deferred[None]:
    """Send the body of C{response} into C{consumer}; see L{IBlobResponse.deliver}."""
    return _begin(response, consumer, watch).finished


def _begin(response: IResponse, consumer: IConsumer, watch: Watch) -> Delivery:
    length = None if response.length is UNKNOWN_LENGTH else response.length
    if watch.pace is None:
        delivery = Delivery(consumer, watch, length)
    else:
        delivery = PacedDelivery(consumer, watch, length, watch.pace)
    response.deliverBody(delivery)
    delivery.settle()
    return delivery


async def read_whole(response: IResponse, limit: int, watch: Watch, what: str) -> bytes:
    """
    The body, when it has at most C{limit} bytes.

    @param what: the request, for messages.
    @raise UpstreamInvalid: it has more.
    @raise UpstreamUnavailable: it was cut; L{UpstreamTimeout}: it stopped coming, or came too slowly.
    """
    gathering = _Gathering(limit)
    try:
        await deliver(response, gathering, watch)
    except UpstreamUnavailable:
        if not gathering.overflowed:
            raise
        raise UpstreamInvalid(watch.upstream, f"{what} answered more than {limit} bytes") from None
    return b"".join(gathering.pieces)


async def read_beginning(response: IResponse, watch: Watch) -> bytes:
    """
    The first bytes of an error's body, as many as come in time; never fails but by cancellation, since it is the status
    that tells what is wrong.
    """
    gathering = _Gathering(MAX_PROBLEM_BYTES)
    with suppress(UpstreamUnavailable):
        await deliver(response, gathering, watch)
    return b"".join(gathering.pieces)


def discard(response: IResponse, watch: Watch) -> None:
    """Read a short body away so that its connection can serve again; drop the connection of any other."""
    if response.length is UNKNOWN_LENGTH or response.length > MAX_PROBLEM_BYTES:
        abandon(response)
    else:
        deliver(response, _Gathering(MAX_PROBLEM_BYTES), watch).addErrback(lambda _: None)


def abandon(response: IResponse) -> None:
    """Drop the connection of a response whose body was not delivered."""
    response.deliverBody(_Nothing())


@implementer(IBlobResponse)
class BlobResponse:
    """
    An upstream's answer to a blob request.

    @ivar start: offset of the first byte of the body in the blob.
    @ivar stop: offset after the last byte of the body, or C{None}.
    @ivar size: bytes of the whole blob as claimed, or C{None}.
    @ivar validator: strong entity tag, or C{None}.
    """

    def __init__(self, response: IResponse, watch: Watch, start: int, size: int | None, validator: str | None) -> None:
        self.start = start
        self.stop: int | None = None if response.length is UNKNOWN_LENGTH else start + response.length
        self.size = size
        self.validator = validator
        self._response = response
        self._watch = watch
        self._taken = False
        self._delivery: Delivery | None = None

    def deliver(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBlobResponse.deliver}."""
        self._taken = True
        self._delivery = _begin(self._response, consumer, self._watch)
        return self._delivery.finished

    def awaited(self) -> None:
        """See L{IBlobResponse.awaited}."""
        self._watch = replace(self._watch, background=False)
        if self._delivery is not None:
            self._delivery.awaited()

    def abandon(self) -> None:
        """See L{IBlobResponse.abandon}; nothing happens after C{deliver}, whose Deferred is to be cancelled."""
        if not self._taken:
            self._taken = True
            abandon(self._response)
