"""Sending what is made while it is sent: parts of the store, and lines of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from appliance.bundle.export import BlobPart
from appliance.errors import PullcacheError
from appliance.flow.body import CLIENT_SILENCE, BlobBody, ClientStalled
from appliance.flow.http import ServerRequest
from appliance.interfaces import IBlobStore
from appliance.oci.ranges import Span

NDJSON = "application/x-ndjson"

PROGRESS_INTERVAL = 0.25
"""Seconds between two lines about the same stage, at least."""

_log = Logger()


async def send_parts(
    request: Request, parts: Iterable[bytes | BlobPart], store: IBlobStore, clock: IReactorTime
) -> None:
    """
    Send C{parts} as the body of an answer whose headers are set, with its length; blobs come from the store, by
    sendfile where the transport can.

    A client that leaves is normal. When a blob cannot be read the connection is aborted: less was sent than promised.
    """
    silence = request.stall_timeout if isinstance(request, ServerRequest) else CLIENT_SILENCE
    request.write(b"")
    try:
        before = b""
        for part in parts:
            if isinstance(part, bytes):
                before += part
            else:
                reader = store.open(part.digest)
                try:
                    pieces: list[bytes | Span] = [before, part.span] if before else [part.span]
                    await BlobBody(reader, pieces, request, request.transport, clock, silence).send()
                finally:
                    reader.close()
                before = b""
        request.write(before)
    except CancelledError:
        raise
    except ConnectionDone:
        pass
    except (PullcacheError, ClientStalled, OSError) as error:
        _log.warn("{uri}: cut off: {error}", uri=request.uri.decode("ascii", "replace"), error=error)
        abort(request)


class JsonLines:
    """An answer of JSON documents, one a line (NDJSON), each sent when it is known."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def begin(self) -> None:
        """Send the headers."""
        self._request.setHeader("Content-Type", NDJSON)
        # A proxy that waits for a whole buffer would hide how far it is.
        self._request.setHeader("X-Accel-Buffering", "no")
        self._request.write(b"")

    def send(self, document: object) -> None:
        """Send one document."""
        self._request.write(msgspec.json.encode(document) + b"\n")


class Staged(Protocol):
    """How far something is; C{stage}: what is being done."""

    @property
    def stage(self) -> str: ...


class PacedProgress:
    """Sends progress: each new stage at once, and the same one again every L{PROGRESS_INTERVAL} seconds."""

    def __init__(self, lines: JsonLines, clock: IReactorTime) -> None:
        self._lines = lines
        self._clock = clock
        self._stage = ""
        self._sent_at = 0.0

    def __call__(self, progress: Staged) -> None:
        now = self._clock.seconds()
        if progress.stage != self._stage or now - self._sent_at >= PROGRESS_INTERVAL:
            self._stage, self._sent_at = progress.stage, now
            self._lines.send(progress)


def abort(request: Request) -> None:
    """Break the connection off, so that what was sent is not taken for the whole answer."""
    transport: Any = request.transport
    transport.abortConnection()
