"""What one HTTP server is asked, and what it answered: values that do not know how they travel."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from twisted.web.http_headers import Headers

from appliance.errors import UpstreamError, UpstreamInvalid, UpstreamRefused
from appliance.upstream.faults import first_header, repeats_secret, status_fault
from appliance.upstream.interfaces import IBlobResponse
from appliance.upstream.url import Url

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Request:
    """
    One request.

    @ivar repository: the one whose pull a token is needed for, C{""} for none.
    @ivar fields: header fields beside those that every request has.
    @ivar may_leave: whether redirects to other origins are followed. Where not, a redirect that leads to one, or
        nowhere, is an answer like others.
    @ivar danger_authorization: the value of the Authorization field, meant for the origin of C{url} alone.
    @ivar danger_form: a body, whose Content-Type is among the fields.
    @ivar danger_sent: what is secret in that body.
    @ivar followed: redirects that led to C{url}.
    """

    method: str
    url: Url
    repository: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    may_leave: bool = True
    danger_authorization: bytes | None = field(default=None, repr=False)
    danger_form: bytes | None = field(default=None, repr=False)
    danger_sent: tuple[bytes, ...] = field(default=(), repr=False)
    followed: int = 0

    @property
    def shown(self) -> str:
        """For messages."""
        return f"{self.method} {self.url.shown}"

    def danger_secrets(self) -> tuple[bytes, ...]:
        """All that is secret in it: of Basic (RFC 7617) both the encoded pair and the password."""
        if self.danger_authorization is None:
            return self.danger_sent
        scheme, _, value = self.danger_authorization.partition(b" ")
        password = (b64decode(value).partition(b":")[2],) if scheme == b"Basic" else ()
        return (value, *password, *self.danger_sent)


class Body(Protocol):
    """
    The body of an answer, which is read once, in one of these ways.

    @ivar length: its bytes, C{None} when that is not known.
    """

    length: int | None

    async def read(self, limit: int) -> bytes:
        """
        All of it, when it has at most C{limit} bytes.

        @raise UpstreamInvalid: it has more.
        @raise UpstreamUnavailable: it was cut; L{UpstreamTimeout}: it stopped, or came too slowly.
        """

    async def beginning(self) -> bytes:
        """The first bytes of an error's body, as many as come in time; may be called more than once."""

    def discard(self) -> None:
        """Nothing of it is wanted; where it is short, its connection serves again."""

    def abandon(self) -> None:
        """Nothing of it is wanted: drop its connection."""

    def blob(self, start: int, size: int | None, validator: str | None, background: bool) -> IBlobResponse:
        """It is a blob from offset C{start} on; see L{IBlobResponse} for the others."""


@dataclass(frozen=True)
class Answer:
    """
    An answer, its body not yet read.

    @ivar upstream: on whose behalf the request was sent, for errors.
    @ivar request: what was answered: after redirects the last of them.
    @ivar headers: not shown, since a Location may be signed.
    @ivar redirected: whether another origin than the configured one answered.
    """

    upstream: str
    request: Request
    status: int
    headers: Headers = field(repr=False)
    body: Body
    redirected: bool

    @property
    def url(self) -> Url:
        """Who answered."""
        return self.request.url

    @property
    def what(self) -> str:
        """The request as messages name it."""
        return self.request.shown

    @property
    def is_redirect(self) -> bool:
        """Whether its status is one that leads elsewhere (RFC 9110 section 15.4)."""
        return self.status in _REDIRECTS

    def field(self, name: bytes) -> str | None:
        """The first header field of that name, C{None} when there is none."""
        return first_header(self.headers, name)

    def target(self) -> Url:
        """Where a redirect leads. Raises L{UpstreamInvalid} or, when it would leave TLS, L{UpstreamRefused}."""
        location = self.field(b"Location")
        if location is None:
            raise UpstreamInvalid(self.upstream, f"{self.what} answered {self.status} without a Location")
        try:
            target = self.url.join(location)
        except ValueError as reason:
            raise UpstreamInvalid(self.upstream, f"{self.what} redirects to no usable URL: {reason}") from None
        if self.url.scheme == "https" and target.scheme == "http":
            raise UpstreamRefused(self.upstream, f"{self.what} redirects to {target.shown}: from https to http never")
        return target

    async def problem(self) -> bytes:
        """The beginning of an error's body; empty where it repeats a secret that it was sent."""
        beginning = await self.body.beginning()
        return b"" if repeats_secret(beginning, *self.request.danger_secrets()) else beginning

    async def fault(self) -> UpstreamError:
        """The error for this answer where it is not what was requested."""
        return status_fault(self.upstream, self.what, self.status, self.headers, await self.problem())


class Http(Protocol):
    """One layer of the stack in C{http/}, over the next one."""

    async def request(self, request: Request) -> Answer:
        """The answer. Raises the subclasses of L{UpstreamError}, or L{Offline} when no packet may leave."""
