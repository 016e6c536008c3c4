"""
The registry towards clients: the pull side of the OCI distribution spec, as Klein routes.

Paths are looked at raw before Klein decodes them: only a digest's colon may come as C{%3A}; anything else encoded has
no business in a registry path.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import msgspec
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException

from appliance.cache.access import RemoteRepository
from appliance.cache.pullthrough import PullThrough
from appliance.errors import (
    AccessDenied,
    LoginExposed,
    LoginRequired,
    LoginWrong,
    NotHeld,
    NotPermitted,
    PathInvalid,
    PullcacheError,
    Unsupported,
)
from appliance.flow.http import ATTACHMENT, abort, values_of
from appliance.flow.origins import host_of, refuse_foreign_page, refuse_other_host
from appliance.flow.rates import ClientRates
from appliance.interfaces import IAudit
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX
from appliance.oci.reference import full_name, parse_identifier
from appliance.registry.blobresponses import BlobResponses
from appliance.registry.failures import CHALLENGE, internal, refusal
from appliance.registry.hotlane import HotLane
from appliance.registry.login import Login
from appliance.registry.pages import referrers_page, referrers_query, tags_page
from appliance.registry.request import RegistryRequest
from appliance.registry.routing import RequestedName, is_plain, requested_name
from appliance.settings import LIST, PULL, ListenSettings, Settings

JSON = "application/json"
_ENCODED = re.compile(rb"%(?!3[Aa])|[^!-~]")
_ASKED = re.compile(r"/v2/(.+)/(manifests|blobs|tags|referrers)/([^/]+)")
_READING = (b"GET", b"HEAD")
_OF_AN_ANSWER = (
    "ETag",
    "Content-Disposition",
    "Content-Range",
    "Accept-Ranges",
    "Cache-Control",
    "Cache-Status",
    "Warning",
)


class RegistryApp:
    """
    The routes of one listener.

    @ivar settings: what is in force; replaced when the configuration is read again.
    @ivar default_upstream: what a name without an upstream means here, or C{None}; replaced likewise.
    @ivar hosts: the names this listener answers to, none for all; replaced likewise.
    """

    _app = Klein()
    # Werkzeug would answer these with redirects to an absolute URL made of the Host header.
    _app.url_map.strict_slashes = False
    _app.url_map.merge_slashes = False
    _log = Logger()

    def __init__(
        self,
        cache: PullThrough,
        settings: Settings,
        listen: ListenSettings,
        lane: HotLane,
        rates: ClientRates,
        audit: IAudit,
        clock: IReactorTime,
    ) -> None:
        self.settings = settings
        self._cache = cache
        self.default_upstream = listen.default_upstream
        self.hosts = listen.hosts
        self._lane = lane
        self._audit = audit
        self._blobs = BlobResponses(cache, lane, rates, clock)
        # Klein makes another of itself, bound to this object, whenever it is looked up.
        klein = self._app
        self._routes, self._execute = klein.url_map.bind(""), klein.execute_endpoint

    async def respond(self, request: RegistryRequest) -> bytes | None:
        """
        What the route of a request gives, after L{admit} has passed it: the body, C{None} where that was sent.

        @raise PullcacheError: see the routes.
        @raise HTTPException: there is no route.
        """
        endpoint, values = self._routes.match(unquote(request.path.decode("ascii")))
        answer: Any = self._execute(endpoint, request, **values)
        body: bytes | None = await answer if isinstance(answer, Deferred) else answer
        return body

    @property
    def is_restricted(self) -> bool:
        """Whether there are rules about who may read what."""
        return len(self._cache.access.rules) > 0

    def admit(self, request: RegistryRequest) -> None:
        """
        Look at what must be right before a route is.

        @raise RequestInvalid: its C{Host} is none.
        @raise HostUnknown: it is addressed to a name that is not ours.
        @raise ForeignPage: a web page of another origin sent it.
        @raise Unsupported: the method writes.
        @raise PathInvalid: the path holds what no registry path holds.
        """
        host = host_of(request.requestHeaders)
        if self.hosts:
            refuse_other_host(host, self.hosts, "hosts of this listener")
        refuse_foreign_page(request.requestHeaders, host)
        if request.method not in _READING:
            raise Unsupported(f"{request.method.decode('ascii', 'replace')[:20]}: this registry is read-only")
        if _ENCODED.search(request.path):
            raise PathInvalid("the path holds characters or percent-encodings that no registry path holds")

    # -- routes -----------------------------------------------------------------------------------------------------

    @_app.route("/v2")
    @_app.route("/v2/")
    def ping(self, request: RegistryRequest) -> bytes:
        """
        distribution-spec end-1.

        Who could log in is told so (RFC 9110 section 11.6.1: not only with 401): podman and skopeo show a password only
        where this answer asks for one.
        """
        request.kind = "ping"
        headers = {"WWW-Authenticate": CHALLENGE} if request.sender.may_log_in else None
        return request.answer(200, b"{}", JSON, headers)

    @_app.route("/v2/<path:name>/manifests/<reference>")
    async def manifest(self, request: RegistryRequest, name: str, reference: str) -> bytes:
        """distribution-spec end-3."""
        request.kind = "manifest"
        parsed = parse_identifier(reference)
        remote, named = self._open(request, name)
        pulled = request.method == b"GET"
        answer = await self._cache.manifest(remote, parsed, request.platform, pulled)
        request.say_where_from(answer.status, answer.warning, named.namespace)
        etag = str(answer.digest)
        headers = {"Docker-Content-Digest": etag, "ETag": f'"{etag}"', **ATTACHMENT}
        if request.has_current(etag):
            request.begin(304, 0, None, headers)
            return b""
        body = request.answer(200, answer.data, answer.media_type, headers)
        if answer.status.hit and answer.fresh_until != 0.0:
            self._lane.remember(request, body, answer.fresh_until, remote, reference if pulled else None)
        return body

    @_app.route("/v2/<path:name>/blobs/<digest>")
    async def blob(self, request: RegistryRequest, name: str, digest: str) -> bytes | None:
        """distribution-spec end-2."""
        request.kind = "blob"
        parsed = Digest.parse(digest)
        remote, named = self._open(request, name)
        respond = self._blobs.head if request.method == b"HEAD" else self._blobs.get
        return await respond(request, remote, parsed, named.namespace)

    @_app.route("/v2/<path:name>/tags/list")
    async def tags(self, request: RegistryRequest, name: str) -> bytes:
        """distribution-spec end-8a, end-8b."""
        request.kind = "tags"
        remote, named = self._open(request, name, LIST)
        answer = await self._cache.tags(remote)
        shown = tags_page(answer.tags, request.args)
        request.say_where_from(answer.status, answer.warning, named.namespace)
        link = shown.link(named.namespace)
        body = msgspec.json.encode({"name": named.repository, "tags": shown.tags})
        return request.answer(200, body, JSON, ATTACHMENT if link is None else ATTACHMENT | {"Link": link})

    @_app.route("/v2/<path:name>/referrers/<digest>")
    async def referrers(self, request: RegistryRequest, name: str, digest: str) -> bytes:
        """distribution-spec end-12a, end-12b."""
        request.kind = "referrers"
        subject, query = Digest.parse(digest), referrers_query(request.args)
        remote, named = self._open(request, name)
        answer = await self._cache.referrers(remote, subject)
        shown = referrers_page(answer.referrers, query)
        request.say_where_from(answer.status, answer.warning, named.namespace)
        headers = ATTACHMENT | shown.headers(subject, named.namespace)
        return request.answer(200, shown.body, OCI_INDEX, headers)

    # -- what routes share ------------------------------------------------------------------------------------------

    def refuse(self, request: RegistryRequest, error: Exception) -> bytes:
        """Answer an error of any kind with an OCI error document."""
        if isinstance(error, HTTPException):
            error = NotHeld("there is no such route in a registry")
        if isinstance(error, (AccessDenied, LoginRequired, LoginExposed, NotPermitted)):
            self._note_refusal(request, error)
        if isinstance(error, LoginRequired) and not isinstance(error, LoginWrong) and request.sender.may_log_in:
            # Only the name that it has for us helps its user; it has been looked at.
            host = "".join(values_of(request.requestHeaders, b"Host"))
            error = LoginRequired(f"{error}: docker login {host}" if host else str(error), error.rule)
        refused = refusal(error, request.kind)
        if refused is None:
            self._log.failure("{uri}", Failure(error), uri=request.uri)
            refused = internal()
        elif refused.status == 500:
            self._log.error("{uri}: {error}", uri=request.uri.decode("ascii", "replace"), error=error)
        if request.startedWriting:
            # The client has been promised something else; what follows would be taken for it.
            abort(request)
            return b""
        # What was said of the answer that is not given after all.
        request.cache = "-"
        for name in _OF_AN_ANSWER:
            request.responseHeaders.removeHeader(name)
        if refused.cache is not None:
            request.say_where_from(refused.cache, None, None)
        headers = dict(refused.headers)
        return request.answer(refused.status, refused.body, JSON, headers)

    def _note_refusal(
        self, request: RegistryRequest, error: AccessDenied | LoginRequired | LoginExposed | NotPermitted
    ) -> None:
        """Let the audit log have what its client may not read."""
        rule = "" if isinstance(error, (LoginExposed, NotPermitted)) else error.rule
        if isinstance(error, LoginWrong) or (isinstance(error, LoginExposed) and error.was_sent):
            # That is noted where the password is checked.
            return
        asked = _ASKED.fullmatch(request.path.decode("ascii", "replace"))
        # Who asks for nothing, as at /v2/, is only told how to go on.
        if asked is not None:
            name, kind, identifier = asked.groups()
            # What means nothing here may have been refused all the same, and stands there as it was sent.
            with suppress(PullcacheError):
                named = self._named(request, name)
                name = f"{named.upstream}/{named.repository}"
            upstream, _, repository = name.partition("/")
            client = request.sender
            self._audit.note(
                LIST if kind == "tags" else PULL,
                full_name(upstream, repository, unquote(identifier) if kind == "manifests" else ""),
                "refused",
                user=client.user,
                means=client.means,
                address=client.address,
                rule=rule,
                why=str(error),
            )

    def _named(self, request: RegistryRequest, name: str) -> RequestedName:
        namespaces = [value.decode("utf-8", "replace") for value in request.args.get(b"ns", [])]
        return requested_name(name, namespaces, self.default_upstream, self.settings.upstream_for)

    def _open(
        self, request: RegistryRequest, name: str, action: str = PULL
    ) -> tuple[RemoteRepository, RequestedName]:
        """
        The repository that a request is about, which its client may read, and how it was named.

        @raise LoginRequired: this client may not read it, and could log in.
        @raise PullcacheError: see L{requested_name} and L{Access.open}.
        """
        named = self._named(request, name)
        # From here on the answer is made of what is in force now; one that comes after a change is not repeated.
        if is_plain(request.uri, name, named, self.settings.upstreams[named.upstream].names()):
            request.generation = self._lane.generation
        return self._cache.access.open(named.upstream, named.repository, request.sender, action), named


class RegistryResource(Resource):
    """
    Admits a request, finds out who sends it, and answers it by its route.

    Klein has the routes. Its own resource is not asked: for each request it reads host and path once more, binds the
    map to them, and looks for adapters of what is answered: a list of tags took 212 microseconds with it, now 171.
    """

    isLeaf = True
    _log = Logger()

    def __init__(self, app: RegistryApp, login: Login, rates: ClientRates) -> None:
        super().__init__()
        self._app = app
        self._login = login
        self._rates = rates

    def render(self, request: RegistryRequest) -> Any:
        """See L{Resource.render}."""
        try:
            self._app.admit(request)
        except PullcacheError as error:
            return self._app.refuse(request, error)
        request.is_for_one = self._login.asks or self._app.is_restricted
        answering = Deferred.fromCoroutine(self._answer(request))
        if not answering.called:
            # Who leaves waits for nothing any more.
            request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addErrback(self._failed, request)
        return NOT_DONE_YET

    async def _answer(self, request: RegistryRequest) -> None:
        try:
            if not self._login.recognises(request) or self._has_to_wait(request):
                await self._in_turn(request)
            body = await self._app.respond(request)
        except CancelledError:
            raise
        except Exception as error:
            body = self._app.refuse(request, error)
        # Where the client has left, or its connection was broken off, nothing is waited for.
        if request.channel is not None:
            if body is not None:
                request.write(body)
            request.finish()

    def _failed(self, failure: Failure, request: RegistryRequest) -> None:
        if failure.check(CancelledError) is not None and request.channel is None:
            # Its client has left.
            return
        self._log.failure("{uri}", failure, uri=request.uri)
        abort(request)

    def _has_to_wait(self, request: RegistryRequest) -> bool:
        sender, rates = request.sender, self._rates
        return rates.is_limiting and not rates.may(sender.user, sender.address, request.transport)

    async def _in_turn(self, request: RegistryRequest) -> None:
        if not self._login.recognises(request):
            await self._login.identify(request)
        if self._rates.is_limiting:
            await self._rates.turn(request.sender.user, request.sender.address, request.transport)
            # What it is was perhaps another thing when it began to wait.
            if not self._login.recognises(request):
                await self._login.identify(request)
