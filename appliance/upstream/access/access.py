"""What a registry wants to see before it answers, and what we show it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from appliance.errors import UpstreamDenied, UpstreamInvalid, UpstreamRefused
from appliance.flow.sharing import Sharing
from appliance.interfaces import IAdapter, Secret
from appliance.upstream.access.bearer import LoginRefused, Question, Realms, TokenServer, basic, realm_of
from appliance.upstream.credentials.attempts import MAX_ATTEMPTS, LoginAttempts
from appliance.upstream.http.challenge import Challenge, parse_challenges, preferred
from appliance.upstream.http.tokens import Token, TokenKey, Tokens
from appliance.upstream.redirects import Answer
from appliance.upstream.url import Url

_RESOURCE = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/[^/]+")
_PULL = re.compile(r"repository:[a-z0-9][a-z0-9._/-]*:pull")

#: Shows C{/v2/} an Authorization; whether that made a difference, and a good one.
Proof = Callable[[bytes], Awaitable[bool]]


@dataclass(frozen=True)
class Shown:
    """
    What was presented with a request.

    @ivar danger_header: the value of the Authorization field.
    @ivar key: which token it is; C{None} for the secret itself.
    @ivar token: that token.
    @ivar fresh: whether the token came from its server for this request, so that asking again would change nothing.
    @ivar secret: the secret, when it was presented itself.
    """

    danger_header: bytes
    key: TokenKey | None = None
    token: Token | None = None
    fresh: bool = False
    secret: Secret | None = None

    def __repr__(self) -> str:
        return f"<Shown {self.key}>"


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
        self,
        upstream: str,
        registry: str,
        adapter: IAdapter,
        realms: Realms,
        attempts: LoginAttempts | None,
        tokens: Tokens,
        server: TokenServer,
        proof: Proof,
    ) -> None:
        """
        @param registry: the URL's origin, as L{TokenKey} has it.
        @param attempts: of the secret, C{None} for nobody's.
        """
        self._upstream = upstream
        self._registry = registry
        self._adapter = adapter
        self._realms = realms
        self._attempts = attempts
        self._tokens = tokens
        self._server = server
        self._proof = proof
        self._proofs: Sharing[str, bool] = Sharing()
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
        @raise UpstreamDenied: the secret is no use and there is no other.
        """
        challenge = preferred(challenges) or self._challenge
        if challenge is None:
            return None
        self._challenge = challenge
        self.forget(refused)
        if refused is not None and refused.secret is not None:
            if not await self._is_replaced(challenge, refused.secret, 401):
                return None
        shown = await self._show(challenge, repository, refused)
        if shown is None or (refused is not None and shown.danger_header == refused.danger_header):
            return None
        return shown

    def accepted(self, shown: Shown | None) -> None:
        """The registry answered to what was presented."""
        if self._attempts is not None and shown is not None and shown.secret is not None:
            self._attempts.accepted(shown.secret)

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

        question = Question(realm_of(self._upstream, challenge), challenge.params.get("service"), scope)
        check(question.realm)
        realm = str(bytes(question.realm), "ascii")
        key = TokenKey(self._upstream, answer.url.root, "", realm, question.service, scope)
        token = await self._tokens.get(key, lambda: self._server.fetch(question, check, None))
        return _bearer(token)

    async def _show(self, challenge: Challenge, repository: str, refused: Shown | None = None) -> Shown | None:
        """What C{challenge} asks for; C{None} when that is a fresh token and C{refused} was one."""
        for _ in range(MAX_ATTEMPTS):
            secret = None if self._attempts is None else await self._attempts.current()
            if challenge.scheme == "basic" or (secret is not None and secret.use is Secret.Use.BEARER):
                return await self._itself()
            key = self._key(challenge, repository, secret)
            if refused is not None and refused.fresh and refused.key == key:
                return None
            held = self._tokens.held(key)
            if held is not None:
                return Shown(_bearer(held), key, held)
            token = await self._fetched(challenge, key, secret)
            if token is not None:
                return Shown(_bearer(token), key, token, fresh=True)
        raise UpstreamDenied(self._upstream, "one secret after the other was refused by the token server")

    async def _itself(self) -> Shown | None:
        """The secret itself, where that is what it is for."""
        if self._attempts is None:
            return None
        secret = await self._attempts.presentable()
        if secret is None:
            return None
        if secret.use is Secret.Use.PASSWORD:
            return Shown(basic(secret), secret=secret)
        if secret.use is Secret.Use.IDENTITY:
            return None
        text = secret.danger_text
        if not (text.isascii() and text.isprintable() and text and " " not in text):
            why = "is no token, which is ASCII without spaces; write the token there and nothing else"
            raise UpstreamDenied(self._upstream, f"{self._attempts.source} {why}")
        return Shown(b"Bearer " + text.encode("ascii"), secret=secret)

    async def _fetched(self, challenge: Challenge, key: TokenKey, secret: Secret | None) -> Token | None:
        """A new token, C{None} when there is another secret than C{secret} to ask with."""
        question = Question(realm_of(self._upstream, challenge), key.service, key.scope)
        self._realms.check(question.realm)
        if self._attempts is not None and await self._attempts.presentable() != secret:
            return None
        try:
            token = await self._tokens.get(key, lambda: self._server.fetch(question, self._realms.check, secret))
        except LoginRefused as refusal:
            if secret is not None and await self._is_replaced(challenge, secret, refusal.status):
                return None
            raise refusal.fault from None
        if self._attempts is not None and secret is not None:
            self._attempts.accepted(secret)
        return token

    async def _is_replaced(self, challenge: Challenge, secret: Secret, status: int) -> bool:
        """
        Whether there is another secret after C{secret} was refused; when not, it is good and the refusal is about the
        repository.

        Registries answer 401 or 403 also to somebody they know who may not have what he asks for. One forbidden
        repository must not keep us from all others, so a secret that was accepted before is shown once more where that
        makes no difference. One that never was is simply wrong when the answer is 401.

        @raise UpstreamDenied: it is no use and there is no other.
        """
        attempts = self._attempts
        assert attempts is not None, "there is no secret without"
        known = attempts.last_accepted == secret.identity or status == 403
        if known and not attempts.is_suspect(secret) and await self._is_good(challenge, secret):
            attempts.accepted(secret)
            return False
        if await attempts.refused(secret):
            return True
        raise attempts.denied(secret)

    async def _is_good(self, challenge: Challenge, secret: Secret) -> bool:
        return await self._proofs.get(secret.identity, lambda: self._is_proven(challenge, secret))

    async def _is_proven(self, challenge: Challenge, secret: Secret) -> bool:
        if challenge.scheme == "basic" or secret.use is Secret.Use.BEARER:
            bare = secret.use is Secret.Use.BEARER
            return await self._proof(b"Bearer " + secret.danger_text.encode("ascii") if bare else basic(secret))
        question = Question(realm_of(self._upstream, challenge), challenge.params.get("service"), None)
        try:
            await self._server.fetch(question, self._realms.check, secret)
        except (LoginRefused, UpstreamDenied, UpstreamInvalid):
            return False
        return True

    def _key(self, challenge: Challenge, repository: str, secret: Secret | None) -> TokenKey:
        identity = "" if secret is None else secret.identity
        realm, service = challenge.params.get("realm", ""), challenge.params.get("service")
        return TokenKey(self._upstream, self._registry, identity, realm, service, self._adapter.scope(repository))


def _bearer(token: Token) -> bytes:
    return b"Bearer " + token.danger_text.encode("ascii")


def _stranger_scope(url: Url, challenge: Challenge) -> str | None:
    """The repository has another name there: it is in the URL's path, or else in the challenge."""
    match = _RESOURCE.fullmatch(url.path)
    if match is not None:
        return f"repository:{match[1]}:pull"
    scope = challenge.params.get("scope", "")
    return scope if _PULL.fullmatch(scope) else None
