"""The admin endpoint as HTTP: bodies are held in memory, up to a limit, and nothing is logged a line each."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from appliance import __version__

BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a body: an inventory of half a million blobs."""

SERVER = f"pullcache/{__version__}"


class BoundedBody(BytesIO):
    """
    What was received, up to L{BODY_LIMIT}; of more nothing is kept.

    @ivar overrun: whether there was more.
    """

    overrun = False

    def write(self, data: Any) -> int:
        """Append, or forget everything."""
        if self.overrun or self.tell() + len(data) > BODY_LIMIT:
            self.overrun = True
            self.seek(0)
            self.truncate()
            return len(data)
        return super().write(data)


class AdminRequest(Request):
    """A request whose body is never spooled to a file, nor taken for a form."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory, as far as it may be kept."""
        self.content = BoundedBody()

    def setHeader(self, name: Any, value: Any) -> None:
        """As Twisted's; its own C{Server} header is replaced."""
        super().setHeader(name, SERVER if name == b"Server" else value)

    def unregisterProducer(self) -> None:
        """As Twisted's; after the connection is lost there is nothing to take back."""
        if self.channel is not None:
            super().unregisterProducer()

    @property
    def overrun(self) -> bool:
        """Whether the body is too large."""
        return isinstance(self.content, BoundedBody) and self.content.overrun


class AdminSite(Site):
    """A Site that neither logs requests nor shows tracebacks."""

    displayTracebacks = False
    noisy = False

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource, requestFactory=AdminRequest)

    def log(self, request: object) -> None:
        """Probes and scrapes would be most of the log."""
