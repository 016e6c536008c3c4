"""
Bodies on their way: into a consumer that may pause them, or into memory up to a limit.

A blob passes through L{Delivery} at the speed of the wire, so nothing there is done twice per piece: progress is noted
by adding to a number, which the silence timer and the observer look at once in a while. An upstream with a limit on its
bytes per second has L{LimitedDelivery} instead.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

from appliance.errors import UpstreamInvalid, UpstreamTimeout, UpstreamUnavailable
from appliance.upstream.http.limits import BandwidthLimit, BodyLimits, Silence
from appliance.upstream.interfaces import IBlobResponse

#: Bytes of an error's body that are read, for its message.
MAX_PROBLEM_BYTES = 64 * 1024


@implementer(IPushProducer)
class Delivery(Protocol):
    """
    One body into one consumer.

    @ivar finished: as L{IBlobResponse.deliver} says. Cancelling it drops the connection.
    """

    def __init__(self, consumer: IConsumer, limits: BodyLimits, length: int | None) -> None:
        """
        @param length: bytes of the body, C{None} when that is not known.
        """
        self.finished: Deferred[None] = Deferred(lambda _: self._drop(CancelledError()))
        self._consumer = consumer
        self._limits = limits
        self._length = length
        self._octets = 0
        self._reported = 0
        self._excused = 0
        self._paused = False
        self._held = False
        self._ended = False
        self._silence = Silence(limits.clock, limits.silence, self._progress, self._silent)
        # A count that never grows is silence from the beginning: so this limit, too, does not read the clock.
        self._whole = None if limits.whole is None else Silence(limits.clock, limits.whole, lambda: 0, self._too_slow)

    def connectionMade(self) -> None:
        """The body begins."""
        self._consumer.registerProducer(self, True)
        if self._ended:
            return
        if not self._paused:
            self._silence.start()
        if self._whole is not None:
            self._whole.start()
        if self._limits.gate is not None:
            self._limits.gate.add(self.stopProducing)

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

        Without a length and without chunks the end of the connection is the end of the body; whether it is whole only
        the digest shows.
        """
        if reason.check(ResponseDone, PotentialDataLoss):
            self._end(None)
        else:
            message = f"the body was cut after {self._octets} bytes"
            self._end(Failure(UpstreamUnavailable(self._limits.upstream, message)))

    def pauseProducing(self) -> None:
        """Read no more from the connection; while nothing is read there is no silence to notice."""
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
        self._drop(UpstreamUnavailable(self._limits.upstream, "the body was dropped"))

    def awaited(self) -> None:
        """A client waits for it from now on; all bodies are the same here."""

    def settle(self) -> None:
        """
        To be called after C{deliverBody}, which resumes the connection at its end: a consumer that asked for a pause
        while the first bytes were written would not get it.
        """
        if (self._paused or self._held) and not self._ended:
            self._pause_wire()

    def _silent(self) -> None:
        seconds = self._limits.silence
        self._drop(UpstreamTimeout(self._limits.upstream, f"no byte of the body for {seconds:g} seconds"))

    def _too_slow(self) -> None:
        message = f"only {self._octets} bytes of the body within {self._limits.whole:g} seconds"
        self._drop(UpstreamTimeout(self._limits.upstream, message))

    def _drop(self, reason: Exception) -> None:
        if not self._ended:
            self._end(Failure(reason))
            self._wire().stopProducing()

    def _end(self, result: Failure | None) -> None:
        """Exactly once; the consumer has no producer any more when L{finished} fires."""
        if self._ended:
            return
        self._ended = True
        self._silence.stop()
        if self._whole is not None:
            self._whole.stop()
        if self._limits.gate is not None:
            self._limits.gate.remove(self.stopProducing)
        self._progress()
        self._consumer.unregisterProducer()
        if result is None:
            self.finished.callback(None)
        else:
            self.finished.errback(result)

    def _progress(self) -> int:
        new = self._octets - self._reported
        if new:
            self._reported = self._octets
            self._limits.received(new)
        if self._held:
            self._excused += 1
        return self._octets + self._excused

    def _pause_wire(self) -> None:
        if self._octets != self._length:
            self._wire().pauseProducing()

    def _let_go(self) -> None:
        """
        After the last byte, which TLS may hand out during a pause, the connection stays readable: it is not ours any
        more, and when C{twisted.web} closes it in good order, TLS waits for the other side.
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


class LimitedDelivery(Delivery):
    """
    One body that is held back while the bandwidth of its upstream is used up.

    The bandwidth limit and the consumer pause it independently of each other. It touches no timer for that: while it is
    held, each tick of the silence timer counts as progress.
    """

    def __init__(self, consumer: IConsumer, limits: BodyLimits, length: int | None, bandwidth: BandwidthLimit) -> None:
        super().__init__(consumer, limits, length)
        self._share = bandwidth.share(limits.background, self._hold, self._release)

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
        """A client waits for it from now on: it comes as fast as what was requested so."""
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
class _Buffer:
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


def begin(response: IResponse, consumer: IConsumer, limits: BodyLimits) -> Delivery:
    """Send the body of C{response} into C{consumer}; see L{IBlobResponse.deliver}."""
    length = None if response.length is UNKNOWN_LENGTH else response.length
    if limits.bandwidth is None:
        delivery = Delivery(consumer, limits, length)
    else:
        delivery = LimitedDelivery(consumer, limits, length, limits.bandwidth)
    response.deliverBody(delivery)
    delivery.settle()
    return delivery


def abandon(response: IResponse) -> None:
    """Drop the connection of a response whose body was not delivered."""
    response.deliverBody(_Nothing())


class ResponseBody:
    """See L{appliance.upstream.answer.Body}."""

    def __init__(self, response: IResponse, what: str, small: BodyLimits, blob: BodyLimits) -> None:
        """
        @param what: the request, for messages.
        @param small: for a body that is read into memory; C{blob}: for one that is not.
        """
        self.length: int | None = None if response.length is UNKNOWN_LENGTH else response.length
        self._response = response
        self._what = what
        self._small = small
        self._blob = blob
        self._taken = False
        self._beginning = b""

    async def read(self, limit: int) -> bytes:
        """See L{appliance.upstream.answer.Body.read}."""
        self._taken = True
        buffer = _Buffer(limit)
        try:
            await begin(self._response, buffer, self._small).finished
        except UpstreamUnavailable:
            if not buffer.overflowed:
                raise
            message = f"{self._what} answered more than {limit} bytes"
            raise UpstreamInvalid(self._small.upstream, message) from None
        return b"".join(buffer.pieces)

    async def beginning(self) -> bytes:
        """
        See L{appliance.upstream.answer.Body.beginning}; never fails but by cancellation, since it is the status that
        says what is wrong.
        """
        if not self._taken:
            self._taken = True
            buffer = _Buffer(MAX_PROBLEM_BYTES)
            with suppress(UpstreamUnavailable):
                await begin(self._response, buffer, self._small).finished
            self._beginning = b"".join(buffer.pieces)
        return self._beginning

    def discard(self) -> None:
        """See L{appliance.upstream.answer.Body.discard}; nothing happens when it was taken before."""
        if self._taken:
            return
        if self.length is None or self.length > MAX_PROBLEM_BYTES:
            self.abandon()
        else:
            self._taken = True
            begin(self._response, _Buffer(MAX_PROBLEM_BYTES), self._small).finished.addErrback(lambda _: None)

    def abandon(self) -> None:
        """See L{appliance.upstream.answer.Body.abandon}."""
        self._taken = True
        abandon(self._response)

    def blob(self, start: int, size: int | None, validator: str | None, background: bool) -> IBlobResponse:
        """See L{appliance.upstream.answer.Body.blob}."""
        self._taken = True
        limits = replace(self._blob, background=True) if background else self._blob
        return BlobResponse(self._response, limits, start, size, validator)


@implementer(IBlobResponse)
class BlobResponse:
    """
    An upstream's answer to a blob request.

    @ivar start: offset of the first byte of the body in the blob.
    @ivar stop: offset after the last byte of the body, or C{None}.
    @ivar size: bytes of the whole blob as claimed, or C{None}.
    @ivar validator: strong entity tag, or C{None}.
    """

    def __init__(
        self, response: IResponse, limits: BodyLimits, start: int, size: int | None, validator: str | None
    ) -> None:
        self.start = start
        self.stop: int | None = None if response.length is UNKNOWN_LENGTH else start + response.length
        self.size = size
        self.validator = validator
        self._response = response
        self._limits = limits
        self._taken = False
        self._delivery: Delivery | None = None

    def deliver(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBlobResponse.deliver}."""
        self._taken = True
        self._delivery = begin(self._response, consumer, self._limits)
        return self._delivery.finished

    def awaited(self) -> None:
        """See L{IBlobResponse.awaited}."""
        self._limits = replace(self._limits, background=False)
        if self._delivery is not None:
            self._delivery.awaited()

    def abandon(self) -> None:
        """See L{IBlobResponse.abandon}; nothing happens after C{deliver}, whose Deferred is to be cancelled."""
        if not self._taken:
            self._taken = True
            abandon(self._response)
