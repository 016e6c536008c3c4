"""A response body: literal bytes and spans of a file that may still be growing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, TimeoutError
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.flow.source import Source
from appliance.interfaces import IFileTransport
from appliance.oci.ranges import Span

# One read, where bytes must pass through this process (TLS).
CHUNK = 256 * 1024
# How far the kernel is asked to read ahead of us, so that a cold disk does not hold the reactor.
READ_AHEAD = 8 * 1024 * 1024
# A client that takes nothing at all for so long is gone, or holds a connection on purpose. Longer than a runtime
# needs to unpack a large layer while its download waits.
CLIENT_SILENCE = 15 * 60.0

Part = bytes | Span


class ClientStalled(TimeoutError):
    """The client took no byte for too long."""


@implementer(IPushProducer)
class FileBody:
    """
    Sends its parts in order, each span as far as the source has it, and waits for the rest.

    @ivar sent: bytes handed to the transport so far, as file ranges or by C{write}.
    @ivar written: those of them that were given to the consumer's C{write}.
    """

    def __init__(
        self,
        source: Source,
        parts: Sequence[Part],
        consumer: IConsumer,
        files: IFileTransport | None,
        clock: IReactorTime,
        silence: float = CLIENT_SILENCE,
    ) -> None:
        """
        @param silence: seconds for which the client may take nothing.
        """
        self._silence = silence
        self._source = source
        self._parts = deque(parts)
        self._consumer = consumer
        self._files = files
        self._clock = clock
        self._paused = False
        self._sending = 0
        self._sending_at = 0
        self._advised = 0
        self._pumping = False
        self._deadline: IDelayedCall | None = None
        self._sent_when_checked = 0
        self._waiting = False
        self._done: Deferred[int] | None = None
        self.sent = 0
        self.written = 0

    def send(self) -> Deferred[int]:
        """
        Start.

        @return: fires with the bytes sent when all were handed to the transport. Fails with the source's failure when
            it has no more, L{ConnectionDone} when the client left, L{ClientStalled} when it took nothing for too long.
            Cancelling stops the body. Whenever it fails, the connection must be aborted: less was sent than promised.
        """
        self._source.file.acquire()
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
            # A disk that cannot be read; whoever resumed this producer has no use for the error.
            self._end(Failure())
        finally:
            self._pumping = False
        if self._done is not None and not self._parts and not self._sending:
            self._end(self.sent)

    def _step(self) -> bool:
        """Hand over the next piece; whether another may follow at once."""
        if self._paused or self._sending or self._waiting or not self._parts:
            return False
        part = self._parts.popleft()
        if isinstance(part, bytes):
            self._write(part)
            return True
        if part.start == part.stop:
            return True
        ready = min(part.stop, self._source.available) - part.start
        if ready <= 0:
            self._parts.appendleft(part)
            self._await_growth()
            return False
        return self._send_span(part, ready)

    def _send_span(self, part: Span, ready: int) -> bool:
        self._advise(part.start)
        fd = self._source.file.fd
        if self._files is not None:
            self._parts.appendleft(Span(part.start + ready, part.stop))
            self._sending, self._sending_at = ready, part.start
            self._files.send_file(fd, part.start, ready, self._file_sent, self._file_failed)
            return not self._sending
        data = os.pread(fd, min(ready, CHUNK), part.start)
        if not data:
            self._end(Failure(OSError(f"the file ends at {part.start} where {part.stop} bytes were promised")))
            return False
        self._parts.appendleft(Span(part.start + len(data), part.stop))
        self._write(data)
        return True

    def _write(self, data: bytes) -> None:
        self.sent += len(data)
        self.written += len(data)
        self._consumer.write(data)

    def _file_sent(self, count: int) -> None:
        self.sent += count
        self._sending -= count
        self._sending_at += count
        if self._done is None:
            return
        if self._sending:
            self._advise(self._sending_at)
        else:
            self._pump()

    def _file_failed(self, error: OSError) -> None:
        self._end(Failure(error))

    def _advise(self, position: int) -> None:
        if position + READ_AHEAD // 2 >= self._advised:
            start = max(position, self._advised)
            self._advised = start + READ_AHEAD
            if not _is_in_memory(self._source.file.fd, min(self._advised, self._source.available) - 1):
                os.posix_fadvise(self._source.file.fd, start, READ_AHEAD, os.POSIX_FADV_WILLNEED)

    def _await_growth(self) -> None:
        if self._source.failure is not None:
            self._end(self._source.failure)
            return
        self._waiting = True
        self._source.wait(self._grown)

    def _grown(self) -> None:
        self._waiting = False
        # The client's silence is counted from here: until now it had nothing to take.
        self._sent_when_checked = -1
        self._pump()

    def _check_silence(self) -> None:
        # Waiting for the upstream is not the client's silence.
        if self.sent == self._sent_when_checked and not self._waiting:
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
        self._source.forget(self._grown)
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._consumer.unregisterProducer()
        self._source.file.release()
        if result is not None:
            done.callback(result)


def _is_in_memory(fd: int, position: int) -> bool:
    """
    Whether the byte at C{position} can be read without the disk.

    Asking costs a hundredth of the advice, which looks at every page.
    """
    try:
        os.preadv(fd, [bytearray(1)], position, os.RWF_NOWAIT)
    except OSError:
        return False
    return True
