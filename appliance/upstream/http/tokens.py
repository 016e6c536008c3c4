"""
Bearer tokens: asked of a token server (distribution's "Token Authentication Specification" and "Oauth2 Token
Authentication"), and held while they live.

The realm is input from whatever answers for the registry: credentials go to it only when it is the registry's own
origin or one that the configuration or the kind of upstream names (CVE-2026-33540). GET with Basic is what every server
supports; POST is for identity tokens alone.

The key of a token holds the credential that it was asked with, and the registry that wants it: a token given to one set
of credentials must never serve another, and what one registry is to see must never be shown to a second one that names
the same realm.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from appliance.errors import (
    PullcacheError,
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRefused,
)
from appliance.flow.singleflight import SingleFlight
from appliance.upstream.answer import Answer, Http, Request
from appliance.upstream.http.addresses import HostPatterns
from appliance.upstream.http.challenge import Challenge
from appliance.upstream.interfaces import Secret, is_token
from appliance.upstream.url import Url

CLIENT_ID = "pullcache"
#: Bytes of a token server's answer.
MAX_TOKEN_BYTES = 1024 * 1024
#: Redirects followed for one token request.
MAX_TOKEN_REDIRECTS = 2
#: Seconds that a token lives when its server does not say (distribution's token specification), and at most.
DEFAULT_LIFE = 60.0
MAX_LIFE = 3600.0
#: A token is not used in the last of its life: this many seconds, or this part of it, whichever is less.
_MARGIN = 30.0
_MARGIN_PART = 0.1
#: The most tokens held: a token server may have one of several kilobytes for every name that a client makes up.
MOST = 4000

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
#: What servers answer that take no POST: GCR, Artifactory, ACR, and those that say so (containerd's authorizer).
_NO_POST = frozenset({400, 401, 404, 405})


@dataclass(frozen=True)
class TokenKey:
    """
    Which token.

    @ivar registry: the origin whose challenge it answers, as in L{appliance.upstream.url.Url.root}.
    @ivar credential: L{appliance.upstream.interfaces.Secret.identity}, or C{""} for an anonymous one.
    @ivar realm: the token server's URL.
    @ivar service: as the challenge named it, C{None} when it did not.
    @ivar scope: C{repository:<name>:pull}.
    """

    upstream: str
    registry: str
    credential: str
    realm: str
    service: str | None
    scope: str


@dataclass(frozen=True)
class Token:
    """
    A token as given.

    @ivar life: seconds from its receipt.
    """

    danger_text: str
    life: float = DEFAULT_LIFE

    def __repr__(self) -> str:
        return f"<Token for {self.life:g} s>"


class Tokens:
    """The tokens of one upstream."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._held: dict[TokenKey, tuple[Token, float]] = {}
        self._fetches: SingleFlight[TokenKey, Token] = SingleFlight()

    def held(self, key: TokenKey) -> Token | None:
        """A token that is still good, C{None} when there is none. Immediate."""
        token, until = self._held.get(key, (None, 0.0))
        return token if self._clock.seconds() < until else None

    def evict(self, key: TokenKey, refused: Token) -> None:
        """Forget C{refused}, unless a newer one has taken its place."""
        if key in self._held and self._held[key][0] is refused:
            del self._held[key]

    def get(self, key: TokenKey, fetch: Callable[[], Coroutine[Deferred[Any], Any, Token]]) -> Deferred[Token]:
        """
        The token held, or the result of one C{fetch()}, shared by all requests that need it meanwhile.

        @return: a Deferred of the caller's own; cancelling it leaves the others theirs.
        """
        token = self.held(key)
        return succeed(token) if token is not None else self._fetches.run(key, lambda: self._fetched(key, fetch))

    async def _fetched(self, key: TokenKey, fetch: Callable[[], Coroutine[Deferred[Any], Any, Token]]) -> Token:
        token = await fetch()
        life = min(token.life, MAX_LIFE) if token.life > 0 else DEFAULT_LIFE
        now = self._clock.seconds()
        self._held.pop(key, None)
        if len(self._held) >= MOST:
            # The oldest; one that is used again costs a request.
            del self._held[next(iter(self._held))]
        self._held[key] = token, now + life - min(_MARGIN, life * _MARGIN_PART)
        return token


# -- token servers ----------------------------------------------------------------------------------------------------


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


def basic(secret: Secret) -> bytes:
    """The value of an Authorization field (RFC 7617), in UTF-8 and as secret as the password."""
    pair = f"{secret.username}:{secret.danger_text}"
    return b"Basic " + base64.b64encode(pair.encode("utf-8"))


@dataclass(frozen=True)
class TokenRequest:
    """
    What a token server is asked.

    @ivar service: C{None} when the challenge names none: then it is left out.
    @ivar scope: C{None} for a token that is good for nothing, which only shows whether the secret is.
    """

    realm: Url
    service: str | None
    scope: str | None

    @classmethod
    def of(cls, upstream: str, challenge: Challenge, scope: str | None) -> TokenRequest:
        """For a Bearer challenge. Raises L{UpstreamInvalid} when its realm is no URL; a relative one is none."""
        try:
            realm = Url.parse(challenge.params.get("realm", ""))
        except ValueError as reason:
            raise UpstreamInvalid(upstream, f"token realm: {reason}") from None
        return cls(realm, challenge.params.get("service"), scope)

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


class LoginRefused(PullcacheError):
    """
    A token server answered 401 or 403 to a secret; it does not leave this room.

    @ivar fault: the same as one of C{appliance.errors}.
    """

    def __init__(self, fault: UpstreamError, status: int) -> None:
        super().__init__(str(fault))
        self.fault = fault
        self.status = status


class _TokenAnswer(msgspec.Struct):
    """A token server's answer, as far as it matters; C{issued_at} does not, since clocks differ."""

    token: str | None = None
    access_token: str | None = None
    expires_in: float | str | None = None


class TokenServer:
    """Asks token servers on behalf of one configured URL; redirects are followed here, under the rule for realms."""

    def __init__(self, http: Http) -> None:
        """
        @param http: sends single requests.
        """
        self._http = http
        #: By realm, whether it takes POST; absent while that is not known.
        self._takes_post: dict[Url, bool] = {}

    async def fetch(self, wanted: TokenRequest, check: Callable[[Url], None], secret: Secret | None) -> Token:
        """
        One token.

        @param check: raises for a URL that must not be asked; applied to the realm and to every redirect.
        @param secret: sent to the origin of the realm only; its use is not C{BEARER}.
        @raise LoginRefused: C{secret} is not accepted, or not for that scope.
        @raise UpstreamDenied: the server refuses otherwise; other L{UpstreamError}s as for any request.
        """
        check(wanted.realm)
        if secret is None or secret.use is not Secret.Use.IDENTITY:
            return await self._token(await self._get(wanted.url, check, secret), secret)
        takes = self._takes_post.get(wanted.realm)
        if takes is not False:
            answer = await self._post(wanted, secret)
            if takes or answer.status not in _NO_POST:
                self._takes_post[wanted.realm] = takes or answer.status == 200
                return await self._token(answer, secret)
            answer.body.discard()
        token = await self._token(await self._get(wanted.url, check, secret), secret)
        self._takes_post[wanted.realm] = False
        return token

    async def _get(self, url: Url, check: Callable[[Url], None], secret: Secret | None) -> Answer:
        authorization = None if secret is None else basic(secret)
        for _ in range(MAX_TOKEN_REDIRECTS + 1):
            check(url)
            answer = await self._http.request(Request("GET", url, danger_authorization=authorization))
            if not answer.is_redirect:
                return answer
            answer.body.discard()
            target = answer.target()
            if target.origin != url.origin:
                authorization = None
            url = target
        raise UpstreamInvalid(answer.upstream, f"{answer.what}: more than {MAX_TOKEN_REDIRECTS} redirects")

    async def _post(self, wanted: TokenRequest, secret: Secret) -> Answer:
        """The answer to the identity token; redirects are not followed with it."""
        form = {
            "grant_type": "refresh_token",
            "client_id": CLIENT_ID,
            **wanted.fields,
            "refresh_token": secret.danger_text,
        }
        sent = (secret.danger_text.encode("utf-8"),)
        body = urlencode(form).encode("ascii")
        return await self._http.request(Request("POST", wanted.realm, fields=_FORM, danger_form=body, danger_sent=sent))

    async def _token(self, answer: Answer, secret: Secret | None) -> Token:
        if answer.status != 200:
            fault = _denied(await answer.fault())
            if secret is not None and answer.status in (401, 403):
                raise LoginRefused(fault, answer.status)
            raise fault
        body = await answer.body.read(MAX_TOKEN_BYTES)
        try:
            given = msgspec.json.decode(body, type=_TokenAnswer)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise UpstreamInvalid(answer.upstream, f"{answer.what} answered no JSON of a token") from None
        text = given.token or given.access_token or ""
        if not is_token(text):
            raise UpstreamInvalid(answer.upstream, f"{answer.what} answered no usable token")
        # What is no positive number counts as not given. NaN is none, as JSON has none.
        try:
            life = float(given.expires_in or 0)
        except ValueError:
            life = 0.0
        return Token(text, life if life > 0 else DEFAULT_LIFE)


async def post_form(http: Http, url: Url, danger_fields: Mapping[str, str]) -> bytes:
    """
    Send a form whose values may all be secret, and follow nothing from there.

    @return: the body of a 200, of at most C{MAX_TOKEN_BYTES}.
    @raise UpstreamDenied: a 404, and every other answer that refuses; else the L{UpstreamError} that names the fault.
        The server's own words are in the message only when they repeat nothing of what was sent.
    """
    sent = tuple(value.encode() for value in danger_fields.values())
    fields = {**_FORM, "Accept": "application/json"}
    body = urlencode(danger_fields).encode("ascii")
    answer = await http.request(Request("POST", url, fields=fields, danger_form=body, danger_sent=sent))
    if answer.status != 200:
        raise _denied(await answer.fault())
    return await answer.body.read(MAX_TOKEN_BYTES)


def _denied(fault: UpstreamError) -> UpstreamError:
    """A token server that does not know the request, or does not accept it, gives no access; no image is missing."""
    if isinstance(fault, (UpstreamMissing, UpstreamInvalid)):
        return UpstreamDenied(fault.upstream, fault.detail)
    return fault
