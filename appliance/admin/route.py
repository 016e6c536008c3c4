"""
One thing an operator can ask for: its path, what it takes and gives, and the method that answers, whole or in lines.

The same table makes the routes and the OpenAPI document, so that neither can know of one that the other does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.web.server import Request
from zope.interface import implementer

from appliance.admin.failures import Refused
from appliance.errors import ConfigError
from appliance.flow.http import BodyTaker, values_of
from appliance.identity.roles import Operator, Role
from appliance.units import duration

S = TypeVar("S")

JSON = "application/json"
NDJSON = "application/x-ndjson"

PROGRESS_INTERVAL = 0.25
"""Seconds between two lines about the same stage, at least."""

_TRUE = frozenset({"1", "true", "yes"})
_FALSE = frozenset({"0", "false", "no", ""})


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[..., Reply | None | Awaitable[Reply | None]]
"""Called with the request and the path's parameters; C{None}: the answer was sent by itself."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of the query. C{repeated}: it may come several times. C{flag}: it is 1 or 0."""

    name: str
    summary: str
    repeated: bool = False
    flag: bool = False


@dataclass(frozen=True)
class Route:
    """
    One method of one path.

    @ivar path: as werkzeug writes it, C{<name>} for a parameter and C{<path:name>} for one with slashes.
    @ivar query: the parameters there are; others are refused.
    @ivar takes: what the body is decoded as, or its media type as text, or C{None}: there is none.
    @ivar body_limit: the most bytes of it.
    @ivar gives: what the answer can be decoded as, or its media type as text.
    @ivar action: what the audit log calls it; empty for what changes nothing, of which it has refusals only.
    @ivar role: who may ask for it, C{None}: everybody who reaches the endpoint.
    @ivar taker: called when the head of a request has come, with what C{answer} is called with: what takes its body as
        it arrives, or C{None} where that is to be in memory. Raises L{PullcacheError}: it is refused.
    """

    method: str
    path: str
    answer: Answer
    summary: str
    gives: Any
    query: tuple[Parameter, ...] = ()
    takes: Any = None
    body_limit: int = 0
    status: int = 200
    action: str = ""
    role: Role | None = Role.READ
    taker: Callable[..., BodyTaker | None] | None = None

    @property
    def name(self) -> str:
        """Method and path: no two routes have the same."""
        return f"{self.method} {self.path}"


def json(document: object, status: int = 200) -> Reply:
    """A JSON document as an answer."""
    return Reply(msgspec.json.encode(document), status)


def send(request: Request, reply: Reply) -> bytes:
    """Set status and headers; the body, empty for HEAD."""
    request.setResponseCode(reply.status)
    request.setHeader("Content-Type", reply.content_type)
    request.setHeader("Content-Length", str(len(reply.body)))
    for name, value in reply.headers.items():
        request.setHeader(name, value)
    return b"" if request.method == b"HEAD" else reply.body


async def send_pieces(request: Request, pieces: AsyncIterator[bytes]) -> None:
    """
    Send a JSON document in pieces; each is made when the client has taken what came before it, so that there is never
    much of it in memory. What C{pieces} raises breaks the connection off.
    """
    request.setHeader("Content-Type", JSON)
    pace = _Pace()
    request.registerProducer(pace, True)
    try:
        async for piece in pieces:
            request.write(piece)
            await pace.resumed()
    finally:
        request.unregisterProducer()


@implementer(IPushProducer)
class _Pace:
    """Knows whether a client takes what is sent."""

    def __init__(self) -> None:
        self._paused = False
        self._waiting: Deferred[None] | None = None

    async def resumed(self) -> None:
        """Wait until it does; one caller at a time."""
        if self._paused:
            self._waiting = Deferred()
            await self._waiting

    def pauseProducing(self) -> None:
        """See L{IPushProducer.pauseProducing}."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See L{IPushProducer.resumeProducing}."""
        self._paused = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """See L{IPushProducer.stopProducing}. The answer of a client that left is cancelled."""


class Staged(Protocol):
    """How far something is; C{stage}: what is being done."""

    @property
    def stage(self) -> str: ...


class JsonLines:
    """An answer of JSON documents, one a line (NDJSON), each sent when it is known; making it sends the headers."""

    def __init__(self, request: Request, clock: IReactorTime) -> None:
        self._request = request
        self._clock = clock
        self._stage = ""
        self._sent_at = 0.0
        request.setHeader("Content-Type", NDJSON)
        # A proxy that waits for a whole buffer would hide how far it is.
        request.setHeader("X-Accel-Buffering", "no")
        request.write(b"")

    def send(self, document: object) -> None:
        """Send one document; an error is kept as what became of the request."""
        if isinstance(document, dict) and "error" in document:
            about(self._request).error = document
        self._request.write(msgspec.json.encode(document) + b"\n")

    def progress(self, progress: Staged) -> None:
        """Send how far it is: each new stage at once, and the same one again every L{PROGRESS_INTERVAL} seconds."""
        now = self._clock.seconds()
        if progress.stage != self._stage or now - self._sent_at >= PROGRESS_INTERVAL:
            self._stage, self._sent_at = progress.stage, now
            self.send(progress)


# -- what a request is about -----------------------------------------------------------------------------------------


@dataclass
class About:
    """
    What the audit log is to have of a request.

    @ivar what: what is to be done to what; the reference in its path, unless its route says so.
    @ivar is_trial: whether it only asks what would be done.
    @ivar error: the document that it is answered with, where it is one.
    """

    what: str = ""
    is_trial: bool = False
    error: Mapping[str, Any] | None = None


def about(request: Request) -> About:
    """That of C{request}; its route may change it."""
    found: About | None = getattr(request, "about", None)
    if found is None:
        found = request.about = About()  # type: ignore[attr-defined]  # any request of Twisted's will do
    return found


# -- what a request says --------------------------------------------------------------------------------------------


def values(request: Request, name: str) -> list[str]:
    """Every value of a query parameter. Raises L{Refused} for what is no text."""
    try:
        return [value.decode("utf-8") for value in request.args.get(name.encode("ascii"), [])]
    except UnicodeDecodeError:
        raise Refused(400, "bad-request", f"{name}: is not UTF-8") from None


def value(request: Request, name: str) -> str | None:
    """The value of a query parameter, C{None} when it is not given. Raises L{Refused} when it is given twice."""
    given = values(request, name)
    if len(given) > 1:
        raise Refused(400, "bad-request", f"{name} was given {len(given)} times; give it once")
    return given[0] if given else None


def flag(request: Request, name: str) -> bool:
    """Whether a query parameter is true; not when it is not given. Raises L{Refused}."""
    given = value(request, name)
    if given is None or given.lower() in _FALSE:
        return False
    if given.lower() not in _TRUE:
        raise Refused(400, "bad-request", f"{name}={given[:40]}: write 1 or 0")
    return True


def number(request: Request, name: str) -> int | None:
    """The whole number from 1 on that a query parameter gives, C{None} when it is not given. Raises L{Refused}."""
    given = value(request, name)
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and 0 < int(given[:9]) and len(given) < 10):
        raise Refused(400, "bad-request", f"{name}={given[:40]}: write a whole number from 1 on")
    return int(given)


def period(request: Request, name: str) -> float | None:
    """The seconds that a query parameter gives as in C{7d}, C{None} when it is not given. Raises L{Refused}."""
    given = value(request, name)
    try:
        return None if given is None else duration(given)
    except ConfigError as error:
        raise Refused(400, "bad-request", f"{name}={(given or '')[:40]} {error}") from error


def body(request: Request, kind: type[S]) -> S:
    """
    The JSON body.

    @raise Refused: it is not sent as JSON, or is not C{kind}.
    """
    # A page in an operator's browser may send anything but this without being asked first.
    if media_type(request) != JSON:
        raise Refused(415, "unsupported-media-type", f"send the body as Content-Type: {JSON}")
    try:
        return msgspec.json.decode(raw(request), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "bad-request", f"the body is not understood: {error}") from None


@dataclass(frozen=True)
class Admitted:
    """
    What was decided of a request from its head.

    @ivar route: the one that it may have, C{None}: there is none.
    @ivar operator: who asks; C{None} where that was not looked at, since the route is for everybody.
    """

    route: Route | None
    operator: Operator | None = None


def operator_of(request: Request) -> Operator:
    """Who asks, as it was decided before the route was called; on a route for everybody it is not known."""
    admitted: Admitted = request.admitted  # type: ignore[attr-defined]  # any request of Twisted's will do
    return admitted.operator or Operator(Role.READ)


def raw(request: Request) -> bytes:
    """The body as it came."""
    data: bytes = b"" if request.content is None else request.content.read()
    return data


def media_type(request: Request) -> str:
    """The C{Content-Type} without parameters, in lower case."""
    return "".join(values_of(request.requestHeaders, b"Content-Type")).partition(";")[0].strip().lower()


def check_query(request: Request, known: tuple[Parameter, ...]) -> None:
    """Raises L{Refused} for a parameter that is not known: a misspelt one would change what is meant."""
    names = {parameter.name for parameter in known}
    for given in request.args:
        if given.decode("utf-8", "replace") not in names:
            shown = given.decode("utf-8", "replace")[:40]
            there = f"there are {', '.join(sorted(names))}" if names else "there are none here"
            raise Refused(400, "bad-request", f"{shown}: no such parameter; {there}")
