"""
Following redirects by our own rules (RFC 9110 section 15.4).

Every hop gets a fresh set of fields: the Range goes along, the Authorization only as long as scheme, host and port stay
what they were. From https nothing leads to http. A host we were sent to may itself ask for an anonymous token, as
Artifact Registry behind registry.k8s.io does; that exchange stays on that host.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence

from twisted.web.iweb import IAgent, IResponse

from appliance.errors import UpstreamError, UpstreamInvalid, UpstreamRefused
from appliance.upstream.body import discard, read_beginning
from appliance.upstream.exchange import Exchange
from appliance.upstream.faults import first_header, repeats_secret
from appliance.upstream.http.connect import Agents
from appliance.upstream.limits import MAX_REDIRECTS
from appliance.upstream.url import Url

REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Answer:
    """
    What a request came to after its redirects.

    @ivar response: its body not yet read.
    @ivar url: who answered.
    @ivar led: whether that is another origin than the configured one.
    @ivar what: the request as messages name it.
    """

    def __init__(
        self,
        response: IResponse,
        method: str,
        url: Url,
        led: bool,
        exchange: Exchange,
        danger_sent: Sequence[bytes] = (),
    ) -> None:
        """
        @param danger_sent: the secrets that went along; see L{problem}.
        """
        self.response = response
        self.url = url
        self.led = led
        self.what = f"{method} {url.shown}"
        self._exchange = exchange
        self._danger_sent = danger_sent
        self._problem: bytes | None = None

    @property
    def status(self) -> int:
        """The status code."""
        status: int = self.response.code
        return status

    async def problem(self) -> bytes:
        """
        The beginning of an error's body, empty where it repeats a secret that it was sent; may be asked for more than
        once, one after the other.
        """
        if self._problem is None:
            problem = await read_beginning(self.response, self._exchange.watch)
            self._problem = b"" if repeats_secret(problem, *self._danger_sent) else problem
        return self._problem

    def discard(self) -> None:
        """The body is not wanted."""
        if self._problem is None:
            self._problem = b""
            discard(self.response, self._exchange.watch)


#: Asked with the answer of a foreign host that wants authorization: what to present there, or C{None}.
Stranger = Callable[[Answer], Awaitable[bytes | None]]


class Redirects:
    """Follows from the configured URL C{home} to wherever it leads."""

    def __init__(self, exchange: Exchange, agents: Agents, home: Url, stranger: Stranger) -> None:
        self._exchange = exchange
        self._agents = agents
        self._home = home
        self._stranger = stranger

    async def follow(
        self, method: str, url: Url, fields: Mapping[str, str], authorization: bytes | None, may_leave: bool = True
    ) -> Answer:
        """
        Ask for C{url} and go on until an answer is no redirect.

        @param authorization: for the origin of C{url} only.
        @param may_leave: whether to go on to another origin too; when not, a redirect that leads elsewhere, or nowhere,
            is an answer like others.
        @raise UpstreamInvalid: more than L{MAX_REDIRECTS}, or one that leads nowhere.
        @raise UpstreamRefused: one from https to http, or to an address outside the rules.
        """
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._ask(method, url, fields, authorization)
            target = self._target(answer) if may_leave else self._own_target(answer)
            if target is None:
                return answer
            answer.discard()
            if target.origin != url.origin:
                authorization = None
            url = target
        raise UpstreamInvalid(self._exchange.upstream, f"{answer.what}: more than {MAX_REDIRECTS} redirects")

    def agent(self, url: Url) -> IAgent:
        """The agent that may connect to C{url}."""
        return self._agents.own if url.origin == self._home.origin else self._agents.led

    async def _ask(self, method: str, url: Url, fields: Mapping[str, str], authorization: bytes | None) -> Answer:
        answer = await self._once(method, url, fields, authorization)
        if answer.led and answer.status == 401 and authorization is None:
            authorization = await self._asked_for(answer)
            if authorization is not None:
                answer.discard()
                answer = await self._once(method, url, fields, authorization)
        return answer

    async def _asked_for(self, answer: Answer) -> bytes | None:
        try:
            return await self._stranger(answer)
        except Exception:
            answer.discard()
            raise

    async def _once(self, method: str, url: Url, fields: Mapping[str, str], authorization: bytes | None) -> Answer:
        response = await self._exchange.send(self.agent(url), method, url, fields, authorization)
        sent = () if authorization is None else secrets_of(authorization)
        return Answer(response, method, url, url.origin != self._home.origin, self._exchange, sent)

    def _target(self, answer: Answer) -> Url | None:
        """Where the answer leads, C{None} when it is no redirect."""
        if answer.status not in REDIRECTS:
            return None
        try:
            return redirect_target(self._exchange.upstream, answer)
        except Exception:
            answer.discard()
            raise

    def _own_target(self, answer: Answer) -> Url | None:
        """Where the answer leads within its own origin, C{None} when it does not."""
        if answer.status not in REDIRECTS:
            return None
        try:
            target = redirect_target(self._exchange.upstream, answer)
        except UpstreamError:
            return None
        return target if target.origin == answer.url.origin else None


def secrets_of(authorization: bytes) -> tuple[bytes, ...]:
    """What is secret in an Authorization field: what follows the scheme and, of Basic (RFC 7617), the password."""
    scheme, _, value = authorization.partition(b" ")
    return (value, b64decode(value).partition(b":")[2]) if scheme == b"Basic" else (value,)


def redirect_target(upstream: str, answer: Answer) -> Url:
    """Where a redirect leads. Raises L{UpstreamInvalid} or, when it would leave TLS, L{UpstreamRefused}."""
    location = first_header(answer.response.headers, b"Location")
    if location is None:
        raise UpstreamInvalid(upstream, f"{answer.what} answered {answer.status} without a Location")
    try:
        target = answer.url.join(location)
    except ValueError as reason:
        raise UpstreamInvalid(upstream, f"{answer.what} redirects to no usable URL: {reason}") from None
    if answer.url.scheme == "https" and target.scheme == "http":
        raise UpstreamRefused(upstream, f"{answer.what} redirects to {target.shown}: from https to http never")
    return target
