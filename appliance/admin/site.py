"""The admin endpoint as HTTP: each request's body is as long as its route takes, and nothing is logged a line each."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from twisted.web.resource import Resource
from twisted.web.server import Site

from appliance.admin.failures import document
from appliance.flow.connections import Connections
from appliance.flow.http import ServerChannel, ServerRequest


class Bodies(Protocol):
    """What the channel asks of the routes before it reads a body; C{uri} is the request's, as it came."""

    def body_limit(self, method: bytes, uri: bytes) -> int:
        """See L{ServerChannel.body_limit}."""

    def body_refusal(self, method: bytes, uri: bytes) -> tuple[int, bytes]:
        """See L{ServerChannel.body_refusal}."""


class AdminRequest(ServerRequest):
    """A request of an operator."""

    def unregisterProducer(self) -> None:
        """As Twisted's; after the connection is lost there is nothing to take back."""
        if self.channel is not None:
            super().unregisterProducer()


class AdminChannel(ServerChannel):
    """One connection of an operator."""

    # An inventory of half a million blobs may come over a thin line; silence ends it earlier.
    body_timeout = 600.0

    def __init__(self, connections: Connections, bodies: Bodies) -> None:
        super().__init__(connections)
        self.body_limit = bodies.body_limit  # type: ignore[method-assign]
        self.body_refusal = bodies.body_refusal  # type: ignore[method-assign]

    def overload(self) -> bytes:
        """See L{ServerChannel.overload}."""
        return msgspec.json.encode(document("too-many-connections", "too many connections are open; come again later"))

    def bad_request(self) -> bytes:
        """See L{ServerChannel.bad_request}."""
        return msgspec.json.encode(document("bad-request", "the request is not HTTP as it should be"))


class AdminSite(Site):
    """A Site that neither logs requests nor shows tracebacks."""

    displayTracebacks = False
    noisy = False

    def __init__(self, resource: Resource, bodies: Bodies, reactor: Any, connections: Connections) -> None:
        super().__init__(resource, requestFactory=AdminRequest, reactor=reactor)
        self.protocol = lambda: AdminChannel(connections, bodies)  # type: ignore[method-assign,assignment,return-value]

    def log(self, request: object) -> None:
        """Probes and scrapes would be most of the log."""
