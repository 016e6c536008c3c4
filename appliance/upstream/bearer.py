"""
Asking a token server (distribution's "Token Authentication Specification").

The realm is input from whoever answers for the registry: credentials go to it only when it is the registry's own origin
or one the configuration or the kind of upstream names (CVE-2026-33540). GET with Basic is what every server supports.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

import msgspec
from twisted.web.iweb import IAgent

from appliance.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRefused,
)
from appliance.upstream.body import discard, read_beginning, read_whole
from appliance.upstream.challenge import Challenge
from appliance.upstream.exchange import Exchange
from appliance.upstream.faults import status_fault
from appliance.upstream.limits import MAX_TOKEN_BYTES, MAX_TOKEN_REDIRECTS
from appliance.upstream.redirects import REDIRECTS, Answer, redirect_target
from appliance.upstream.tokens import DEFAULT_LIFE, Token
from appliance.upstream.url import Url


class _Given(msgspec.Struct):
    """A token server's answer, as far as it matters; C{issued_at} does not, since clocks differ."""

    token: str | None = None
    access_token: str | None = None
    expires_in: float | str | None = None


class Realms:
    """
    Which token servers one configured URL may name.

    An entry of C{auth_hosts} is C{host} (any port) or C{host:port}; https only, unless the upstream itself is http.
    """

    def __init__(self, upstream: str, home: Url, auth_hosts: tuple[str, ...]) -> None:
        self._upstream = upstream
        self._home = home
        self._auth_hosts = frozenset(host.lower() for host in auth_hosts)

    def check(self, realm: Url) -> None:
        """Raises L{UpstreamRefused} for a token server that was not agreed on."""
        if realm.origin == self._home.origin:
            return
        if not self._auth_hosts & {realm.host, realm.authority, f"{realm.host}:{realm.port}"}:
            rule = f"it is neither {self._home.authority} nor among auth_hosts"
            raise UpstreamRefused(self._upstream, f"token realm {realm.shown} refused: {rule}")
        if realm.scheme != "https" and self._home.scheme == "https":
            raise UpstreamRefused(self._upstream, f"token realm {realm.shown} refused: it is not https")


def realm_of(upstream: str, challenge: Challenge) -> Url:
    """The URL of a Bearer challenge's realm. Raises L{UpstreamInvalid} when it is none, relative ones included."""
    text = challenge.params.get("realm", "")
    try:
        return Url.parse(text)
    except ValueError as reason:
        raise UpstreamInvalid(upstream, f"token realm: {reason}") from None


def token_url(realm: Url, service: str | None, scope: str) -> Url:
    """The URL to ask for a token; C{service} is left out when the challenge has none."""
    query = urlencode([("service", service), ("scope", scope)] if service is not None else [("scope", scope)])
    return realm.at(realm.target + ("&" if "?" in realm.target else "?") + query)


class TokenServer:
    """Asks token servers on behalf of one configured URL."""

    def __init__(self, exchange: Exchange, agent: Callable[[Url], IAgent]) -> None:
        self._exchange = exchange
        self._agent = agent

    async def fetch(self, url: Url, check: Callable[[Url], None], authorization: bytes | None) -> Token:
        """
        One token.

        @param check: raises for a URL that must not be asked; applied to C{url} and to every redirect.
        @param authorization: sent to the origin of C{url} only.
        @raise UpstreamDenied: the server says no; other L{UpstreamError}s as for any request.
        """
        for _ in range(MAX_TOKEN_REDIRECTS + 1):
            check(url)
            response = await self._exchange.send(self._agent(url), "GET", url, {}, authorization)
            answer = Answer(response, "GET", url, True, self._exchange)
            if answer.status not in REDIRECTS:
                return await self._token(answer)
            discard(response, self._exchange.watch)
            target = redirect_target(self._exchange.upstream, answer)
            if target.origin != url.origin:
                authorization = None
            url = target
        raise UpstreamInvalid(self._exchange.upstream, f"{answer.what}: more than {MAX_TOKEN_REDIRECTS} redirects")

    async def _token(self, answer: Answer) -> Token:
        upstream, watch = self._exchange.upstream, self._exchange.watch
        if answer.status != 200:
            problem = await read_beginning(answer.response, watch)
            raise _denied(status_fault(upstream, answer.what, answer.status, answer.response.headers, problem))
        body = await read_whole(answer.response, MAX_TOKEN_BYTES, watch, answer.what)
        try:
            given = msgspec.json.decode(body, type=_Given)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise UpstreamInvalid(upstream, f"{answer.what} answered no JSON of a token") from None
        text = given.token or given.access_token or ""
        if not (text.isascii() and text.isprintable() and text and " " not in text):
            raise UpstreamInvalid(upstream, f"{answer.what} answered no usable token")
        return Token(text, _life(given.expires_in))


def _life(expires_in: float | str | None) -> float:
    """Seconds; what is no positive number counts as unsaid. NaN is none, as JSON has none."""
    try:
        life = float(expires_in or 0)
    except ValueError:
        return DEFAULT_LIFE
    return life if life > 0 else DEFAULT_LIFE


def _denied(fault: UpstreamError) -> UpstreamError:
    """A token server that knows no such thing, or likes no such question, gives no access; nothing is missing yet."""
    if isinstance(fault, (UpstreamMissing, UpstreamInvalid)):
        return UpstreamDenied(fault.upstream, fault.detail)
    return fault
