"""Bytes passed from one producer to one consumer as they come, counted."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from zope.interface import implementer


@implementer(IConsumer)
class Relay:
    """
    A consumer in front of another that takes at most C{length} bytes.

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
