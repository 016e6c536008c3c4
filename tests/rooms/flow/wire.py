"""A client's connection as bodies see it, moved by hand; a file that counts its readers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from appliance.flow.body import Growth
from appliance.flow.disk import InlineThreads
from appliance.interfaces import IFileTransport
from appliance.store.files import FileReader, SharedFile

# The transport's own buffer; a producer is paused while it holds more.
BUFFER = 100


@implementer(IConsumer, IFileTransport)
class Wire:
    """
    Takes writes into a buffer and file ranges after it, and hands both to the client as the test says.

    @ivar received: what the client has.
    """

    def __init__(self, gone: bool = False) -> None:
        self.received = bytearray()
        self.producer: Any = None
        self.paused = False
        self._gone = gone
        self._buffer = bytearray()
        self._range: tuple[int, int, int, Callable[[int], None]] | None = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See L{IConsumer}."""
        assert streaming and self.producer is None
        self.producer = producer
        if self._gone:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        """See L{IConsumer}."""
        assert self.producer is not None, "unregistered twice"
        self.producer = None

    def write(self, data: bytes) -> None:
        """See L{IConsumer}."""
        assert self._range is None, "written into a file range"
        assert self.producer is not None
        self._buffer += data
        if len(self._buffer) > BUFFER:
            self.paused = True
            self.producer.pauseProducing()

    def send_file(
        self, fd: int, start: int, length: int, sent: Callable[[int], None], failed: Callable[[OSError], None]
    ) -> None:
        """See L{IFileTransport.send_file}."""
        assert self._range is None and length > 0
        self._range = (fd, start, length, sent)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take."""
        return not self._buffer and self._range is None

    def take(self, octets: int) -> None:
        """The client takes that many bytes, or what there is."""
        if self._buffer:
            self.received += self._buffer[:octets]
            del self._buffer[:octets]
            if not self._buffer and self.paused:
                self.paused = False
                if self.producer is not None:
                    self.producer.resumeProducing()
        elif self._range is not None:
            fd, start, length, sent = self._range
            data = os.pread(fd, min(octets, length), start)
            assert data, "the file was closed or ended under the range"
            self.received += data
            rest = length - len(data)
            self._range = (fd, start + len(data), rest, sent) if rest else None
            sent(len(data))

    def take_all(self) -> None:
        """The client takes all there is, and what comes because of it."""
        while not self.idle:
            self.take(1 << 30)


class CountedFile(SharedFile):
    """
    A file in memory.

    @ivar readers: how many hold it, its maker included.
    """

    def __init__(self, data: bytes) -> None:
        fd = os.memfd_create("body")
        os.pwrite(fd, data, 0)
        super().__init__(fd)

    @property
    def readers(self) -> int:
        return self._users


class Blob:
    """
    Bytes that may be read, as a store gives them, and how many of them by now.

    @ivar file: what they lie in.
    """

    def __init__(self, data: bytes, available: int | None = None, size: int | None = None) -> None:
        self.file = CountedFile(data)
        if size is not None:
            os.ftruncate(self.file.fd, size)
        self.reader = FileReader(self.file, InlineThreads())
        self.growth = Growth(len(data) if available is None else available)
