"""Response bodies: literal bytes and ranges of a blob, which may be growing; or bytes as an upstream sends them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, TimeoutError
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProducer, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.flow.sendfile import connection_of, file_transport
from appliance.flow.singleflight import Waiters
from appliance.interfaces import IBlobReader
from appliance.oci.ranges import Span

# One read, where bytes must pass through this process (TLS); so many are read without a thread.
CHUNK = 256 * 1024
# How far a store is asked to get ready ahead of us, so that a cold disk does not hold the reactor.
READ_AHEAD = 8 * 1024 * 1024
# A client that takes nothing at all for so long is gone, or holds a connection on purpose. Longer than a runtime
# needs to unpack a large layer while its download waits.
CLIENT_SILENCE = 15 * 60.0

Part = bytes | Span


class ClientStalled(TimeoutError):
    """The client took no byte for too long."""


class Growth:
    """
    How much of a blob that is still coming may be read, and who waits for more.

    @ivar available: bytes from the start that may be read by now.
    @ivar failure: why no more will come, C{None} while more may.
    """

    def __init__(self, available: int = 0) -> None:
        self.available = available
        self.failure: Failure | None = None
        self._waiting: Waiters[None] = Waiters()

    def changed(self) -> Deferred[None]:
        """Fires when more may be read or nothing more will come. The caller's own, to be cancelled at will."""
        return self._waiting.wait()

    def advance(self, available: int) -> None:
        """More bytes may be read: up to C{available} from the start."""
        if available > self.available:
            self.available = available
            self._waiting.fire(None)

    def fail(self, failure: Failure) -> None:
        """Nothing more will come."""
        self.failure = failure
        self._waiting.fire(None)


@implementer(IPushProducer)
class BlobBody:
    """
    Sends its parts in order, each range as far as it may be read, and waits for the rest.

    @ivar sent: bytes handed to the transport so far, as file ranges or by C{write}.
    @ivar written: those of them that were given to the consumer's C{write}.
    """

    def __init__(
        self,
        reader: IBlobReader,
        parts: Sequence[Part],
        consumer: IConsumer,
        transport: object,
        clock: IReactorTime,
        silence: float = CLIENT_SILENCE,
        growth: Growth | None = None,
    ) -> None:
        """
        @param reader: the blob's bytes; open until the body has ended.
        @param transport: the consumer's connection, to which ranges are sent as they are where it can take them.
        @param silence: seconds for which the client may take nothing.
        @param growth: how much of the blob may be read, C{None} for all of it.
        """
        self._reader = reader
        self._parts = deque(parts)
        self._consumer = consumer
        self._files = file_transport(transport)
        self._connection = connection_of(transport)
        self._clock = clock
        self._silence = silence
        self._growth = growth
        # What is still to be sent of a range, up to where it may be sent now, and whether that is under way.
        self._start = self._stop = self._ready = 0
        self._busy = False
        self._paused = False
        self._pumping = False
        self._prefetched = 0
        self._deadline: IDelayedCall | None = None
        self._sent_when_checked = 0
        # For more of the blob, or for bytes that are being read.
        self._waiting: Deferred[Any] | None = None
        self._done: Deferred[int] | None = None
        self.sent = 0
        self.written = 0

    def send(self) -> Deferred[int]:
        """
        Start.

        @return: fires with the bytes sent when all were handed to the transport. Fails with the growth's failure when
            no more comes, L{ConnectionDone} when the client left, L{ClientStalled} when it took nothing for too long,
            L{OSError} when the blob cannot be read. Cancelling stops the body. Whenever it fails, the connection must
            be aborted: less was sent than promised.
        """
        self._deadline = self._clock.callLater(self._silence, self._check_silence)
        done: Deferred[int] = Deferred(lambda _: self._end(None))
        self._done = done
        self._consumer.registerProducer(self, True)
        self._pump()
        return done

    def pauseProducing(self) -> None:
        """The transport's own buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport's own buffer is empty."""
        self._paused = False
        self._pump()

    def stopProducing(self) -> None:
        """The client left."""
        self._end(Failure(ConnectionDone("the client left")))

    def _pump(self) -> None:
        # A write may resume or stop this producer before it returns.
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._done is not None and self._step():
                pass
        except Exception:
            # A blob that cannot be read; the transport that resumed this producer has no use for the error.
            self._end(Failure())
        finally:
            self._pumping = False

    def _step(self) -> bool:
        """Hand over the next piece, or end after the last one; whether another may follow at once."""
        if self._paused or self._busy or self._waiting is not None:
            return False
        if self._start < self._stop:
            return self._send_range()
        if not self._parts:
            self._end(self.sent)
            return False
        part = self._parts.popleft()
        if isinstance(part, bytes):
            self._write(part)
        else:
            self._start, self._stop = part.start, part.stop
        return True

    def _send_range(self) -> bool:
        ready = self._stop
        if self._growth is not None and self._growth.available < ready:
            ready = self._growth.available
            if ready <= self._start:
                self._await(self._growth)
                return False
        self._busy, self._ready = True, ready
        self._prefetch()
        if self._files is None or not self._reader.send(
            self._start, ready, self._files, self._file_sent, lambda error: self._end(Failure(error))
        ):
            reading = self._reader.read(self._start, min(ready, self._start + CHUNK))
            reading.addCallback(self._read).addErrback(self._end)
            if self._busy:
                self._waiting = reading
        return not self._busy

    def _write(self, data: bytes) -> None:
        self.sent += len(data)
        self.written += len(data)
        self._consumer.write(data)

    def _read(self, data: bytes) -> None:
        if self._done is None:
            return
        if not data:
            raise OSError(f"the blob ends at {self._start} where {self._stop} bytes were promised")
        self._busy, self._waiting = False, None
        self._start += len(data)
        self._write(data)
        self._pump()

    def _file_sent(self, count: int) -> None:
        self.sent += count
        if self._done is None:
            return
        self._start += count
        self._busy = self._start < self._ready
        if self._busy:
            self._prefetch()
        else:
            self._pump()

    def _prefetch(self) -> None:
        if self._start + READ_AHEAD // 2 >= self._prefetched:
            start = max(self._start, self._prefetched)
            self._prefetched = start + READ_AHEAD
            if start < self._ready:
                self._reader.prefetch(start, min(self._prefetched, self._ready))

    def _await(self, growth: Growth) -> None:
        if growth.failure is not None:
            self._end(growth.failure)
            return
        self._waiting = growth.changed()
        self._waiting.addCallbacks(self._grown, lambda failure: failure.trap(CancelledError))

    def _grown(self, _: None) -> None:
        self._waiting = None
        # The client's silence is counted from here: until now it had nothing to take.
        self._sent_when_checked = -1
        self._pump()

    def _check_silence(self) -> None:
        # Waiting for the upstream, for the store, or for its turn, is not the client's silence.
        is_ours = self._waiting is not None or (self._connection is not None and self._connection.held)
        if self.sent == self._sent_when_checked and not is_ours:
            self._end(Failure(ClientStalled(string=f"the client took nothing for {self._silence:.0f} s")))
            return
        self._sent_when_checked = self.sent
        self._deadline = self._clock.callLater(self._silence, self._check_silence)

    def _end(self, result: int | Failure | None) -> None:
        """Let go of everything; fire with C{result} unless it is C{None} (cancelled: the Deferred fires itself)."""
        done, self._done = self._done, None
        if done is None:
            return
        self._parts.clear()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._consumer.unregisterProducer()
        if result is not None:
            done.callback(result)


@implementer(IConsumer)
class Relay:
    """
    Passes bytes from one producer to one consumer as they come, at most C{length} of them.

    @ivar missing: bytes that have not come yet.
    """

    def __init__(self, consumer: IConsumer, length: int) -> None:
        self._consumer = consumer
        self._producer: IPushProducer | None = None
        self.missing = length

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """See L{IConsumer}."""
        self._producer = IPushProducer(producer)
        self._consumer.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """See L{IConsumer}."""
        self._producer = None
        self._consumer.unregisterProducer()

    def write(self, data: bytes) -> None:
        """Pass the bytes on; what is more than was asked for is dropped and its producer stopped."""
        wanted = data[: self.missing]
        self.missing -= len(wanted)
        if wanted:
            self._consumer.write(wanted)
        if len(wanted) < len(data) and self._producer is not None:
            self._producer.stopProducing()
