"""What a registry wants to see before it answers, and what we show it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.errors import UpstreamRefused
from appliance.upstream.bearer import Realms, TokenServer, realm_of, token_url
from appliance.upstream.challenge import Challenge, parse_challenges, preferred
from appliance.upstream.credentials import Credentials
from appliance.upstream.redirects import Answer
from appliance.upstream.tokens import Token, TokenKey, Tokens
from appliance.upstream.url import Url

_RESOURCE = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/[^/]+")
_PULL = re.compile(r"repository:[a-z0-9][a-z0-9._/-]*:pull")


@dataclass(frozen=True)
class Shown:
    """
    What was presented with a request.

    @ivar danger_header: the value of the Authorization field.
    @ivar key: which token it is; C{None} for Basic.
    @ivar token: that token.
    @ivar fresh: whether the token came from its server for this request, so that asking again would change nothing.
    """

    danger_header: bytes
    key: TokenKey | None = None
    token: Token | None = None
    fresh: bool = False

    def __repr__(self) -> str:
        return f"<Shown {self.key}>"


def pull_scope(repository: str) -> str:
    """The scope to ask for: built here, since what challenges say of it is wrong at GHCR and missing elsewhere."""
    return f"repository:{repository}:pull"


def challenges_of(answer: Answer) -> list[Challenge]:
    """The challenges of a 401, empty when it has none."""
    fields = answer.response.headers.getRawHeaders(b"WWW-Authenticate") or []
    return parse_challenges(field.decode("latin-1") for field in fields)


class Access:
    """
    Access to one configured URL.

    The last challenge is remembered, so that a request for the next repository carries its token at once.
    """

    def __init__(
        self, upstream: str, realms: Realms, credentials: Credentials | None, tokens: Tokens, server: TokenServer
    ) -> None:
        self._upstream = upstream
        self._realms = realms
        self._credentials = credentials
        self._tokens = tokens
        self._server = server
        self._challenge: Challenge | None = None

    @property
    def known(self) -> bool:
        """Whether a challenge that we can answer has been seen."""
        return self._challenge is not None

    async def before(self, repository: str) -> Shown | None:
        """What to present with the first request, C{None} when nothing is known to be wanted."""
        return None if self._challenge is None else await self._show(self._challenge, repository)

    async def after(self, challenges: list[Challenge], repository: str, refused: Shown | None) -> Shown | None:
        """
        What to present after a refusal, C{None} when there is nothing that has not been refused.

        @param challenges: the refusal's; when it has none that we know, the last one remembered is answered again.
        @param refused: what was presented.
        """
        challenge = preferred(challenges) or self._challenge
        if challenge is None:
            return None
        self._challenge = challenge
        self.forget(refused)
        if refused is not None and refused.fresh and refused.key == self._key(challenge, repository):
            return None
        shown = await self._show(challenge, repository)
        if shown is None or (refused is not None and shown.danger_header == refused.danger_header):
            return None
        return shown

    def forget(self, refused: Shown | None) -> None:
        """Keep no token that was refused."""
        if refused is not None and refused.key is not None and refused.token is not None:
            self._tokens.evict(refused.key, refused.token)

    async def stranger(self, answer: Answer) -> bytes | None:
        """
        What to present to a host we were redirected to: a token it gives to anybody, from itself.

        @raise UpstreamRefused: its realm is elsewhere.
        """
        challenge = preferred(challenges_of(answer))
        if challenge is None or challenge.scheme != "bearer":
            return None
        scope = _stranger_scope(answer.url, challenge)
        if scope is None:
            return None

        def check(realm: Url) -> None:
            if realm.origin != answer.url.origin:
                where = f"{answer.url.authority} sent us to {realm.shown} for a token"
                raise UpstreamRefused(self._upstream, f"{where}: only its own are taken")

        realm, service = realm_of(self._upstream, challenge), challenge.params.get("service")
        check(realm)
        url = token_url(realm, service, scope)
        key = TokenKey(self._upstream, "", str(bytes(realm), "ascii"), service, scope)
        token = await self._tokens.get(key, lambda: self._server.fetch(url, check, None))
        return b"Bearer " + token.danger_text.encode("ascii")

    async def _show(self, challenge: Challenge, repository: str) -> Shown | None:
        if challenge.scheme == "basic":
            return Shown(self._credentials.danger_basic()) if self._credentials is not None else None
        key = self._key(challenge, repository)
        held = self._tokens.held(key)
        realm = realm_of(self._upstream, challenge)
        self._realms.check(realm)
        basic = self._credentials.danger_basic() if self._credentials is not None else None
        url = token_url(realm, key.service, key.scope)
        token = held or await self._tokens.get(key, lambda: self._server.fetch(url, self._realms.check, basic))
        return Shown(b"Bearer " + token.danger_text.encode("ascii"), key, token, fresh=held is None)

    def _key(self, challenge: Challenge, repository: str) -> TokenKey:
        identity = self._credentials.identity if self._credentials is not None else ""
        realm, service = challenge.params.get("realm", ""), challenge.params.get("service")
        return TokenKey(self._upstream, identity, realm, service, pull_scope(repository))


def _stranger_scope(url: Url, challenge: Challenge) -> str | None:
    """The repository has another name there: it is in the URL's path, or else in the challenge."""
    match = _RESOURCE.fullmatch(url.path)
    if match is not None:
        return pull_scope(match[1])
    scope = challenge.params.get("scope", "")
    return scope if _PULL.fullmatch(scope) else None
