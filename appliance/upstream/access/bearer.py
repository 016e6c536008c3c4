"""
Asking a token server (distribution's "Token Authentication Specification" and "Oauth2 Token Authentication").

The realm is input from whoever answers for the registry: credentials go to it only when it is the registry's own origin
or one the configuration or the kind of upstream names (CVE-2026-33540). GET with Basic is what every server supports;
POST is for identity tokens alone.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
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
from appliance.interfaces import Secret
from appliance.upstream.body import discard, read_whole
from appliance.upstream.exchange import Exchange
from appliance.upstream.faults import status_fault
from appliance.upstream.http.addresses import HostPatterns
from appliance.upstream.http.challenge import Challenge
from appliance.upstream.http.tokens import DEFAULT_LIFE, Token
from appliance.upstream.limits import MAX_TOKEN_BYTES, MAX_TOKEN_REDIRECTS
from appliance.upstream.redirects import REDIRECTS, Answer, redirect_target, secrets_of
from appliance.upstream.url import Url

CLIENT_ID = "pullcache"
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
#: What servers answer that take no POST: GCR, Artifactory, ACR, and those that say so (containerd's authorizer).
_NO_POST = frozenset({400, 401, 404, 405})


class _Given(msgspec.Struct):
    """A token server's answer, as far as it matters; C{issued_at} does not, since clocks differ."""

    token: str | None = None
    access_token: str | None = None
    expires_in: float | str | None = None


class Realms:
    """
    Which token servers one configured URL may name.

    C{auth_hosts} are as L{HostPatterns} reads them; https only, unless the upstream itself is http.
    """

    def __init__(self, upstream: str, home: Url, auth_hosts: tuple[str, ...]) -> None:
        self._upstream = upstream
        self._home = home
        self._auth_hosts = HostPatterns(auth_hosts)

    def check(self, realm: Url) -> None:
        """Raises L{UpstreamRefused} for a token server that was not agreed on."""
        if realm.origin == self._home.origin:
            return
        if not self._auth_hosts.covers(realm):
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


def basic(secret: Secret) -> bytes:
    """The value of an Authorization field (RFC 7617), in UTF-8 and as secret as the password."""
    pair = f"{secret.username}:{secret.danger_text}"
    return b"Basic " + base64.b64encode(pair.encode("utf-8"))


@dataclass(frozen=True)
class Question:
    """
    What a token server is asked.

    @ivar service: C{None} when the challenge names none: then it is left out.
    @ivar scope: C{None} for a token that is good for nothing, which only shows whether the secret is.
    """

    realm: Url
    service: str | None
    scope: str | None

    @property
    def fields(self) -> dict[str, str]:
        """The parameters."""
        pairs = {"service": self.service, "scope": self.scope}
        return {name: value for name, value in pairs.items() if value is not None}

    @property
    def url(self) -> Url:
        """The URL to GET; a query of the realm's own stays."""
        target, query = self.realm.target, urlencode(self.fields)
        return self.realm.at(target + ("&" if "?" in target else "?") + query) if query else self.realm


class LoginRefused(Exception):
    """
    A token server answered 401 or 403 to a secret.

    @ivar fault: the same in the words of C{appliance.errors}.
    """

    def __init__(self, fault: UpstreamError, status: int) -> None:
        super().__init__(str(fault))
        self.fault = fault
        self.status = status


class TokenServer:
    """Asks token servers on behalf of one configured URL."""

    def __init__(self, exchange: Exchange, agent: Callable[[Url], IAgent]) -> None:
        self._exchange = exchange
        self._agent = agent
        #: By realm, whether it takes POST; C{None} while that is not known.
        self._takes_post: dict[Url, bool] = {}

    async def fetch(self, question: Question, check: Callable[[Url], None], secret: Secret | None) -> Token:
        """
        One token.

        @param check: raises for a URL that must not be asked; applied to the realm and to every redirect.
        @param secret: sent to the origin of the realm only; its use is not C{BEARER}.
        @raise LoginRefused: C{secret} is not accepted, or not for that scope.
        @raise UpstreamDenied: the server says no otherwise; other L{UpstreamError}s as for any request.
        """
        check(question.realm)
        if secret is None or secret.use is not Secret.Use.IDENTITY:
            return await self._token(await self._got(question.url, check, secret), secret)
        takes = self._takes_post.get(question.realm)
        if takes is not False:
            answer = await self._posted(question, secret)
            if takes or answer.status not in _NO_POST:
                self._takes_post[question.realm] = takes or answer.status == 200
                return await self._token(answer, secret)
            answer.discard()
        token = await self._token(await self._got(question.url, check, secret), secret)
        self._takes_post[question.realm] = False
        return token

    async def _got(self, url: Url, check: Callable[[Url], None], secret: Secret | None) -> Answer:
        authorization = None if secret is None else basic(secret)
        for _ in range(MAX_TOKEN_REDIRECTS + 1):
            check(url)
            response = await self._exchange.send(self._agent(url), "GET", url, {}, authorization)
            sent = () if authorization is None else secrets_of(authorization)
            answer = Answer(response, "GET", url, True, self._exchange, sent)
            if answer.status not in REDIRECTS:
                return answer
            discard(response, self._exchange.watch)
            target = redirect_target(self._exchange.upstream, answer)
            if target.origin != url.origin:
                authorization = None
            url = target
        raise UpstreamInvalid(self._exchange.upstream, f"{answer.what}: more than {MAX_TOKEN_REDIRECTS} redirects")

    async def _posted(self, question: Question, secret: Secret) -> Answer:
        """The answer to the identity token; redirects are not followed with it."""
        form = {
            "grant_type": "refresh_token",
            "client_id": CLIENT_ID,
            **question.fields,
            "refresh_token": secret.danger_text,
        }
        url = question.realm
        body = urlencode(form).encode("ascii")
        response = await self._exchange.send(self._agent(url), "POST", url, _FORM, body=body)
        return Answer(response, "POST", url, True, self._exchange, (secret.danger_text.encode("utf-8"),))

    async def _token(self, answer: Answer, secret: Secret | None) -> Token:
        upstream, watch = self._exchange.upstream, self._exchange.watch
        if answer.status != 200:
            problem = await answer.problem()
            fault = _denied(status_fault(upstream, answer.what, answer.status, answer.response.headers, problem))
            if secret is not None and answer.status in (401, 403):
                raise LoginRefused(fault, answer.status)
            raise fault
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
