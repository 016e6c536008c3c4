"""The admin endpoint: is it alive, is it ready, what does it measure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from werkzeug.exceptions import HTTPException

from appliance.admin.metrics import CONTENT_TYPE, Metrics


class AdminApp:
    """The routes of the admin endpoint."""

    _app = Klein()
    _log = Logger()

    def __init__(self, metrics: Metrics, probe: Callable[[], Deferred[None]]) -> None:
        """
        @param probe: fires when the store can be written and the index read; fails with the reason why not.
        """
        self._metrics = metrics
        self._probe = probe

    def site(self) -> Site:
        """What to listen with."""
        resource: Resource = self._app.resource()
        return _QuietSite(resource)

    @_app.route("/healthz")
    def healthz(self, request: Request) -> bytes:
        """Alive: the reactor turns."""
        return _json(request, 200, {"status": "ok"})

    @_app.route("/readyz")
    async def readyz(self, request: Request) -> bytes:
        """Ready: what is held can be served, and what is pulled can be kept. Upstream trouble changes nothing here."""
        try:
            await self._probe()
        except CancelledError:
            raise
        except Exception as error:
            return _json(request, 503, {"status": "not ready", "reason": str(error)})
        return _json(request, 200, {"status": "ready"})

    @_app.route("/metrics")
    def metrics(self, request: Request) -> bytes:
        """Prometheus' text format."""
        return _send(request, 200, self._metrics.render(), CONTENT_TYPE)

    @_app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein's type knows IRequest only
    def failed(self, request: Request, failure: Failure) -> bytes:
        """Whatever went wrong, as JSON."""
        if isinstance(failure.value, HTTPException):
            return _json(request, failure.value.code or 404, {"error": "there is no such page here"})
        self._log.failure("{uri}", failure, uri=request.uri)
        return _json(request, 500, {"error": "internal error; see the log of the appliance"})


class _QuietSite(Site):
    """A Site that neither logs requests nor shows tracebacks."""

    displayTracebacks = False
    noisy = False

    def log(self, request: object) -> None:
        """Probes and scrapes would be most of the log."""


def _json(request: Request, code: int, document: dict[str, str]) -> bytes:
    return _send(request, code, msgspec.json.encode(document), "application/json")


def _send(request: Request, code: int, body: bytes, content_type: str) -> bytes:
    request.setResponseCode(code)
    request.setHeader("Content-Type", content_type)
    request.setHeader("Content-Length", str(len(body)))
    return b"" if request.method == b"HEAD" else body
