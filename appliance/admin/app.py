"""
The admin endpoint over HTTP: its routes, what must be right before a route is looked for, and its connections.

It answers whether the process is alive and ready, and what it measures; the other parts bring routes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec
from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from werkzeug.exceptions import HTTPException

from appliance.admin import openapi
from appliance.admin.failures import Refused, answer_for, document, headers_of, internal, outcome_of
from appliance.admin.login import LoginPages
from appliance.admin.metrics import CONTENT_TYPE, Metrics
from appliance.admin.operators import Operators
from appliance.admin.route import Admitted, Reply, Route, about, check_query, json, operator_of, send
from appliance.errors import PullcacheError, RequestInvalid
from appliance.flow.connections import Connections
from appliance.flow.http import BodyTaker, ServerChannel, ServerRequest, abort
from appliance.flow.origins import host_of, refuse_foreign_page, refuse_other_host
from appliance.identity.roles import Operator, Role
from appliance.interfaces import IAudit
from appliance.settings import AdminSettings, ConnectionSettings

METRICS = "/metrics"


class AdminApp:
    """
    The routes of the admin endpoint.

    @ivar routes: all of them.
    """

    _log = Logger()

    def __init__(
        self,
        metrics: Metrics,
        probe: Callable[[], Deferred[None]],
        audit: IAudit,
        parts: Sequence[Sequence[Route]] = (),
        settings: AdminSettings | None = None,
    ) -> None:
        """
        @param probe: fires when what is held can be served; fails with the reason why not.
        @param parts: the routes that other parts bring.
        @raise ConfigError: a file that the settings name cannot be used.
        """
        settings = settings or AdminSettings()
        self._metrics = metrics
        self._hosts = settings.hosts
        self._operators = Operators(settings, metrics.clock)
        self._probe = probe
        self._audit = audit
        self._app = Klein()
        # Werkzeug would answer these with redirects to an absolute URL made of the Host header.
        self._app.url_map.strict_slashes = False
        self._app.url_map.merge_slashes = False
        self.routes = [
            Route("GET", "/healthz", self.healthz, "Whether the process answers.", dict[str, str], role=None),
            Route("GET", "/readyz", self.readyz, "Whether the store can be used.", dict[str, str], role=None),
            Route("GET", METRICS, self.metrics, "Measurements in Prometheus' text format.", "text/plain"),
            Route("GET", "/api/v1/openapi.json", self.described, "This document.", dict[str, Any]),
            *LoginPages(self._operators).routes(),
            *(route for part in parts for route in part),
        ]
        for route in self.routes:
            self._add(route)
        self._app.handle_errors(Exception)(self.failed)  # type: ignore[arg-type]  # Klein's type knows IRequest only

    def site(self, connections: Connections | None = None) -> Site:
        """What to listen with; C{connections} is the table of them, C{None} for one of its own."""
        clock = self._metrics.clock
        table = Connections(clock, ConnectionSettings()) if connections is None else connections
        return AdminSite(AdminResource(self, self._app.resource()), self, clock, table)

    def configure(self, settings: AdminSettings) -> None:
        """
        Follow a configuration that was read again, in all but where it listens.

        @raise ConfigError: a file cannot be used; then nothing has changed.
        """
        self._operators.configure(settings)
        self._hosts = settings.hosts

    def admit(self, method: bytes, uri: bytes, headers: Headers, transport: Any) -> Admitted:
        """
        Decide, from its head alone, whether a request is answered; this is done once for each, before its body is read.

        @param transport: of the connection.
        @raise RequestInvalid: the method, the path or C{Host} is not valid.
        @raise HostUnknown: it is addressed to a name that is not ours.
        @raise ForeignPage: a web page of another origin sent it.
        @raise Refused: it has to say who asks, or the role of who does is too low.
        """
        if not method.isalpha():
            raise RequestInvalid("the method is no word")
        try:
            unquote_to_bytes(uri.partition(b"?")[0]).decode("utf-8")
        except UnicodeDecodeError:
            raise RequestInvalid("the path is not UTF-8") from None
        host = host_of(headers)
        # A socket in a file has no address that a browser could name.
        refuse_other_host(host, self._hosts, "admin: hosts", getattr(transport.getHost(), "host", ""))
        refuse_foreign_page(headers, host)
        route = self._meant(method, uri)
        if isinstance(route, HTTPException):
            return Admitted(None)
        if route.role is None or (route.path == METRICS and self._operators.metrics_open):
            return Admitted(route)
        operator = Operator(Role.READ, address=getattr(transport.getPeer(), "host", "-"))
        try:
            operator = self._operators.identify(method, headers, transport)
            if operator.role < route.role:
                has = f"{operator.name or 'who asks'} has {operator.role.word}"
                raise Refused(
                    403,
                    "role-too-low",
                    f"this takes the role {route.role.word}, and {has}",
                    {"WWW-Authenticate": 'Bearer realm="pullcache", error="insufficient_scope"'},
                )
        except Refused as error:
            action = "login" if error.status == 401 else route.action or "read"
            what = f"{route.method} {unquote_to_bytes(uri.partition(b'?')[0]).decode()}"
            self._audit.note(action, what, "refused", **operator.noted, why=str(error))
            raise
        return Admitted(route, operator)

    def healthz(self, request: Request) -> Reply:
        """Alive: the reactor turns."""
        return json({"status": "ok"})

    async def readyz(self, request: Request) -> Reply:
        """Ready: pulls are answered. Trouble of an upstream, or a disk that takes no more, changes nothing here."""
        try:
            await self._probe()
        except CancelledError:
            raise
        except Exception as error:
            return json({"status": "not ready", "reason": str(error)}, 503)
        return json({"status": "ready"})

    def metrics(self, request: Request) -> Reply:
        """Prometheus' text format."""
        return Reply(self._metrics.render(), content_type=CONTENT_TYPE)

    def described(self, request: Request) -> Reply:
        """What all routes take and give, for programs."""
        return json(openapi.document(self.routes))

    def failed(self, request: Request, failure: Failure) -> bytes:
        """Answer with an error in JSON; one that is in no table, or the store's, is logged; the disk's in a line."""
        if failure.check(CancelledError):
            failure.raiseException()
        assert failure.value is not None
        answer = answer_for(failure.value)
        if failure.check(OSError):
            self._log.warn("{uri}: {error}", uri=request.uri.decode("ascii", "replace"), error=failure.value)
        elif answer is None or answer[0] == 500:
            self._log.failure("{uri}", failure, uri=request.uri)
        if request.startedWriting:
            # Something else was promised; what follows would be taken for it.
            abort(request)
            return b""
        status, document = answer or internal()
        return send(request, replace(json(document, status), headers=headers_of(failure.value)))

    def _add(self, route: Route) -> None:
        async def answer(request: Request, **parameters: str) -> bytes | None:
            if request.admitted.route is not route:  # type: ignore[attr-defined]
                # Klein reads the path by itself: what it finds has to be what was decided about.
                raise RequestInvalid("the path means two things")
            about(request).what = parameters.get("reference", "")
            outcome, why = "failed", "the connection ended before it did; what had been begun may be done"
            try:
                check_query(request, route.query)
                reply: Reply | None = await maybeDeferred(route.answer, request, **parameters)
                outcome, why = outcome_of(about(request).error)
                if reply is not None and reply.status >= 400:
                    # A page of its own for who reads it.
                    outcome = "refused"
                return None if reply is None else send(request, reply)
            except CancelledError:
                raise
            except Exception as error:
                outcome, why = outcome_of((answer_for(error) or internal())[1])
                raise
            finally:
                if route.action and not about(request).is_trial:
                    address = getattr(request.getClientAddress(), "host", "-")
                    who = operator_of(request).noted | {"address": address}
                    self._audit.note(route.action, about(request).what, outcome, **who, why=why)
                    if outcome != "refused":
                        # Who reads the answer can rely on it that its line outlives a power cut.
                        await self._audit.flush()

        self._app.route(route.path, methods=[route.method], endpoint=route.name)(answer)

    # -- before a body is read --------------------------------------------------------------------------------------

    def body_limit(self, method: bytes, uri: bytes) -> int:
        """See L{ServerChannel.body_limit}."""
        route = self._meant(method, uri)
        return route.body_limit if isinstance(route, Route) else 0

    def body_taker(self, request: Request, method: bytes, uri: bytes) -> BodyTaker | tuple[int, bytes] | None:
        """See L{ServerChannel.body_taker}."""
        route, parameters = self._found(method, uri)
        if isinstance(route, HTTPException) or route.taker is None:
            return None
        # As Twisted does when the whole request has come.
        request.args = parse_qs(uri.partition(b"?")[2], keep_blank_values=True)
        try:
            check_query(request, route.query)
            return route.taker(request, **parameters)
        except PullcacheError as error:
            status, found = answer_for(error) or internal()
            return status, msgspec.json.encode(found)

    def body_refusal(self, method: bytes, uri: bytes) -> tuple[int, bytes]:
        """See L{ServerChannel.body_refusal}."""
        route = self._meant(method, uri)
        if isinstance(route, HTTPException):
            status, found = answer_for(route) or internal()
        elif route.body_limit:
            status, found = 413, document("too-large", f"the body may have {route.body_limit} bytes, not more")
        else:
            status, found = 413, document("too-large", f"{route.name} takes no body")
        return status, msgspec.json.encode(found)

    def _meant(self, method: bytes, uri: bytes) -> Route | HTTPException:
        """The route of a request whose head alone is known, or why there is none."""
        return self._found(method, uri)[0]

    def _found(self, method: bytes, uri: bytes) -> tuple[Route | HTTPException, dict[str, str]]:
        """That, and the parameters in the path."""
        path = unquote_to_bytes(uri.partition(b"?")[0]).decode("utf-8", "replace")
        try:
            name, parameters = self._app.url_map.bind("admin").match(path, method.decode("ascii", "replace"))
        except HTTPException as error:
            return error, {}
        return next(route for route in self.routes if route.name == name), dict(parameters)


class AdminResource(Resource):
    """Admits a request and hands it to the routes."""

    isLeaf = True

    def __init__(self, app: AdminApp, klein: KleinResource) -> None:
        super().__init__()
        self._app = app
        self._klein = klein

    def render(self, request: Request) -> Any:
        """See L{Resource.render}."""
        if getattr(request, "admitted", None) is None:
            transport = request.channel.transport
            try:
                request.admitted = self._app.admit(  # type: ignore[attr-defined]  # any request of Twisted's will do
                    request.method, request.uri, request.requestHeaders, transport
                )
            except PullcacheError:
                return self._app.failed(request, Failure())
        return self._klein.render(request)


# -- connections ----------------------------------------------------------------------------------------------------


class AdminRequest(ServerRequest):
    """
    A request of an operator.

    @ivar admitted: see L{AdminApp.admit}; C{None} until that is decided.
    """

    admitted: Admitted | None = None


class AdminChannel(ServerChannel):
    """One connection of an operator."""

    # An inventory of half a million blobs may come over a thin line; silence ends it earlier.
    body_timeout = 600.0

    def __init__(self, connections: Connections, app: AdminApp) -> None:
        super().__init__(connections)
        self._app = app
        self.body_limit = app.body_limit  # type: ignore[method-assign]
        self.body_refusal = app.body_refusal  # type: ignore[method-assign]
        self.body_taker = app.body_taker  # type: ignore[method-assign]

    def allHeadersReceived(self) -> None:
        """Refuse who may not ask for it before a body comes; without a body, the request itself is answered."""
        if self.length != 0:
            request: AdminRequest = self.requests[-1]
            try:
                request.admitted = self._app.admit(
                    self._command, self._path, request.requestHeaders, self.transport
                )
            except PullcacheError as error:
                status, found = answer_for(error) or internal()
                more = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers_of(error).items()]
                self.refuse(status, msgspec.json.encode(found), more)
                return
        super().allHeadersReceived()

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

    def __init__(self, resource: Resource, app: AdminApp, reactor: Any, connections: Connections) -> None:
        super().__init__(resource, requestFactory=AdminRequest, reactor=reactor)
        self.protocol = lambda: AdminChannel(connections, app)  # type: ignore[method-assign,assignment,return-value]

    def log(self, request: object) -> None:
        """Probes and scrapes would be most of the log."""
