"""
Who we are to a registry, and to the hosts that it leads to.

The configured origin is shown what its challenge asks for: a token of its own token server, or the configured secret
itself. The last challenge is remembered, so that a request for the next repository carries its token at once. A host
that a redirect leads to may itself ask for a token, as Artifact Registry behind registry.k8s.io does: it is shown an
anonymous one that it gives itself, never a secret, hop by hop.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from appliance.errors import UpstreamDenied, UpstreamError, UpstreamInvalid, UpstreamRefused
from appliance.flow.singleflight import SingleFlight
from appliance.upstream.answer import Answer, Http, Request
from appliance.upstream.credentials.attempts import MAX_ATTEMPTS, LoginAttempts
from appliance.upstream.http.challenge import Challenge, parse_challenges, preferred
from appliance.upstream.http.tokens import (
    LoginRefused,
    Realms,
    Token,
    TokenKey,
    TokenRequest,
    Tokens,
    TokenServer,
    basic,
)
from appliance.upstream.interfaces import IAdapter, Secret, is_token
from appliance.upstream.url import Url

#: How stores refuse a signed URL that is too old or was not meant for this request.
_SIGNATURE_REFUSED = frozenset({400, 401, 403})
#: Refusals that are about what was requested, never about who requests it.
_ABOUT_THE_CONTENT = frozenset({404, 405, 410, 416, 429})
_RESOURCE = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/[^/]+")
_PULL = re.compile(r"repository:[a-z0-9][a-z0-9._/-]*:pull")


@dataclass(frozen=True)
class Presented:
    """
    What was presented with a request.

    @ivar danger_header: the value of the Authorization field.
    @ivar key: which token it is; C{None} for the secret itself.
    @ivar token: that token.
    @ivar fresh: whether the token came from its server for this request, so that another one would change nothing.
    @ivar secret: the secret, when it was presented itself.
    """

    danger_header: bytes
    key: TokenKey | None = None
    token: Token | None = None
    fresh: bool = False
    secret: Secret | None = None

    def __repr__(self) -> str:
        return f"<Presented {self.key}>"


class AuthenticatingClient:
    """Authenticates the requests for one configured URL."""

    def __init__(
        self,
        upstream: str,
        http: Http,
        home: Url,
        adapter: IAdapter,
        realms: Realms,
        attempts: LoginAttempts | None,
        tokens: Tokens,
        server: TokenServer,
    ) -> None:
        """
        @param http: follows redirects.
        @param attempts: of the secret, C{None} for anonymous requests.
        """
        self._upstream = upstream
        self._http = http
        self._home = home
        self._adapter = adapter
        self._realms = realms
        self._attempts = attempts
        self._tokens = tokens
        self._server = server
        self._proofs: SingleFlight[str, bool] = SingleFlight()
        self._challenge: Challenge | None = None

    async def request(self, request: Request) -> Answer:
        """
        The answer after authentication, redirects, and one return to the request's URL when a signed URL that it led to
        was not accepted. The status may be any.
        """
        repository = request.repository
        at_home = request.url.origin == self._home.origin
        presented: Presented | None = None
        if at_home and self._challenge is not None:
            presented = await self._present(self._challenge, repository)
        replaced, returned = 0, False
        while True:
            answer = await self._send(request, presented)
            if answer.redirected:
                if at_home:
                    self._accepted(presented)
                if returned or not at_home or request.method != "GET" or answer.status not in _SIGNATURE_REFUSED:
                    return answer
                returned = True
            else:
                # What was presented is replaced once, and a secret more often, by the next one of its source.
                is_secret = presented is not None and presented.secret is not None
                may_replace = replaced == 0 or (is_secret and replaced < MAX_ATTEMPTS)
                other = await self._instead(answer, repository, presented) if may_replace else None
                if other is None:
                    if answer.status == 401:
                        self._forget(presented)
                    elif answer.status < 400:
                        self._accepted(presented)
                    return answer
                replaced, presented = replaced + 1, other
            answer.body.discard()

    async def _send(self, request: Request, presented: Presented | None) -> Answer:
        """The answer after redirects, with an anonymous token for every host elsewhere that wants one."""
        authorization = None if presented is None else presented.danger_header
        answer = await self._http.request(replace(request, danger_authorization=authorization))
        while answer.redirected and answer.status == 401 and answer.request.danger_authorization is None:
            try:
                token = await self._anonymous_token(answer)
            except Exception:
                answer.body.discard()
                raise
            if token is None:
                break
            answer.body.discard()
            answer = await self._http.request(replace(answer.request, danger_authorization=_bearer(token)))
        return answer

    # -- at the configured origin -------------------------------------------------------------------------------------

    async def _instead(self, answer: Answer, repository: str, presented: Presented | None) -> Presented | None:
        """What to present instead of what was presented, C{None} when the answer stands."""
        try:
            challenges = challenges_of(answer) if answer.status == 401 else []
            if answer.status == 401 and not challenges and self._challenge is None:
                # Some registries have the challenge at C{/v2/} where the resource has none.
                front = await self._front_door(None)
                challenges = challenges_of(front) if front.status == 401 and not front.redirected else []
            elif answer.status != 401 and not await self._has_expired(answer, presented):
                return None
            return await self._after(challenges, repository, presented)
        except Exception:
            # The answer will not be read.
            answer.body.discard()
            raise

    async def _has_expired(self, answer: Answer, presented: Presented | None) -> bool:
        """Whether a refusal that is no 401 is about the age of what was presented."""
        if presented is None or presented.fresh or not 400 <= answer.status < 500:
            return False
        if answer.status in _ABOUT_THE_CONTENT:
            return False
        bearer, challenged = presented.token is not None, bool(challenges_of(answer))
        return self._adapter.has_expired(answer.status, await answer.problem(), bearer, challenged)

    async def _after(self, challenges: list[Challenge], repository: str, refused: Presented | None) -> Presented | None:
        """
        What to present after a refusal, C{None} when there is nothing that has not been refused.

        @param challenges: the refusal's; when it has none that we know, the last one remembered is answered again.
        @raise UpstreamDenied: the secret is refused and there is no other.
        """
        challenge = preferred(challenges) or self._challenge
        if challenge is None:
            return None
        self._challenge = challenge
        self._forget(refused)
        if refused is not None and refused.secret is not None:
            if not await self._is_replaced(challenge, refused.secret, 401):
                return None
        other = await self._present(challenge, repository, refused)
        if other is None or (refused is not None and other.danger_header == refused.danger_header):
            return None
        return other

    async def _present(
        self, challenge: Challenge, repository: str, refused: Presented | None = None
    ) -> Presented | None:
        """What C{challenge} asks for; C{None} when that is a fresh token and C{refused} was one, or there is none."""
        realm, service = challenge.params.get("realm", ""), challenge.params.get("service")
        for _ in range(MAX_ATTEMPTS):
            secret = None if self._attempts is None else await self._attempts.current()
            if challenge.scheme == "basic" or (secret is not None and secret.use is Secret.Use.BEARER):
                return await self._secret_itself()
            identity = "" if secret is None else secret.identity
            scope = self._adapter.scope(repository)
            key = TokenKey(self._upstream, self._home.root, identity, realm, service, scope)
            if refused is not None and refused.fresh and refused.key == key:
                return None
            held = self._tokens.held(key)
            if held is not None:
                return Presented(_bearer(held), key, held)
            token = await self._fetch(challenge, key, secret)
            if token is not None:
                return Presented(_bearer(token), key, token, fresh=True)
        raise UpstreamDenied(self._upstream, "one secret after the other was refused by the token server")

    async def _secret_itself(self) -> Presented | None:
        """The secret, where it may be presented to the registry."""
        secret = None if self._attempts is None else await self._attempts.presentable()
        if self._attempts is None or secret is None or secret.use is Secret.Use.IDENTITY:
            return None
        if secret.use is Secret.Use.PASSWORD:
            return Presented(basic(secret), secret=secret)
        text = secret.danger_text
        if not is_token(text):
            why = "is no token, which is ASCII without spaces; write the token there and nothing else"
            raise UpstreamDenied(self._upstream, f"{self._attempts.source} {why}")
        return Presented(b"Bearer " + text.encode("ascii"), secret=secret)

    async def _fetch(self, challenge: Challenge, key: TokenKey, secret: Secret | None) -> Token | None:
        """A new token, C{None} when there is another secret than C{secret} to ask with."""
        wanted = self._token_request(challenge, key.scope)
        if self._attempts is not None and await self._attempts.presentable() != secret:
            return None
        try:
            token = await self._tokens.get(key, lambda: self._server.fetch(wanted, self._realms.check, secret))
        except LoginRefused as refusal:
            if secret is not None and await self._is_replaced(challenge, secret, refusal.status):
                return None
            raise refusal.fault from None
        if self._attempts is not None and secret is not None:
            self._attempts.accepted(secret)
        return token

    def _token_request(self, challenge: Challenge, scope: str | None) -> TokenRequest:
        """
        What C{challenge} wants asked. One that cannot be used is not remembered, so that the next request gets another.

        @raise UpstreamInvalid: its realm is no URL; L{UpstreamRefused}: the realm was not agreed on.
        """
        try:
            wanted = TokenRequest.of(self._upstream, challenge, scope)
            self._realms.check(wanted.realm)
        except UpstreamError:
            self._challenge = None
            raise
        return wanted

    # -- the secret ---------------------------------------------------------------------------------------------------

    def _accepted(self, presented: Presented | None) -> None:
        if self._attempts is not None and presented is not None and presented.secret is not None:
            self._attempts.accepted(presented.secret)

    def _forget(self, refused: Presented | None) -> None:
        if refused is not None and refused.key is not None and refused.token is not None:
            self._tokens.evict(refused.key, refused.token)

    async def _is_replaced(self, challenge: Challenge, secret: Secret, status: int) -> bool:
        """
        Whether there is another secret after C{secret} was refused; when not, it is good and the refusal is about the
        repository.

        Registries answer 401 or 403 also to a user they know who may not have that repository. One forbidden repository
        must not keep us from all others, so a secret that was accepted before is shown once more where that makes no
        difference. One that never was is simply wrong when the answer is 401.

        @raise UpstreamDenied: it is not accepted and there is no other.
        """
        attempts = self._attempts
        assert attempts is not None, "there is no secret without"
        known = attempts.last_accepted == secret.identity or status == 403
        if known and not attempts.is_suspect(secret):
            if await self._proofs.run(secret.identity, lambda: self._is_proven(challenge, secret)):
                attempts.accepted(secret)
                return False
        if await attempts.refused(secret):
            return True
        raise attempts.denied(secret)

    async def _is_proven(self, challenge: Challenge, secret: Secret) -> bool:
        """Whether showing C{secret} makes a difference, and a good one: at C{/v2/}, or at the token server."""
        if challenge.scheme == "basic" or secret.use is Secret.Use.BEARER:
            bare = secret.use is Secret.Use.BEARER
            shown = b"Bearer " + secret.danger_text.encode("ascii") if bare else basic(secret)
            if (await self._front_door(None)).status != 401:
                return False
            return (await self._front_door(Presented(shown))).status == 200
        # A challenge that cannot be used says nothing of the secret: that error is not among those caught here.
        wanted = self._token_request(challenge, None)
        try:
            await self._server.fetch(wanted, self._realms.check, secret)
        except (LoginRefused, UpstreamDenied, UpstreamInvalid):
            return False
        return True

    async def _front_door(self, presented: Presented | None) -> Answer:
        """What C{/v2/} answers."""
        answer = await self._send(Request("GET", self._home.below("/v2/")), presented)
        answer.body.discard()
        return answer

    # -- elsewhere ----------------------------------------------------------------------------------------------------

    async def _anonymous_token(self, answer: Answer) -> Token | None:
        """
        A token that the host which answered gives to any client, from itself; C{None} when it asks for something else.

        @raise UpstreamRefused: its realm is elsewhere.
        """
        challenge = preferred(challenges_of(answer))
        if challenge is None or challenge.scheme != "bearer":
            return None
        # The repository has another name there: it is in the URL's path, or else in the challenge.
        resource = _RESOURCE.fullmatch(answer.url.path)
        scope = challenge.params.get("scope", "") if resource is None else f"repository:{resource[1]}:pull"
        if resource is None and not _PULL.fullmatch(scope):
            return None

        def check(realm: Url) -> None:
            if realm.origin != answer.url.origin:
                where = f"{answer.url.authority} sent us to {realm.shown} for a token"
                raise UpstreamRefused(self._upstream, f"{where}: only its own are taken")

        wanted = TokenRequest.of(self._upstream, challenge, scope)
        check(wanted.realm)
        realm = str(bytes(wanted.realm), "ascii")
        key = TokenKey(self._upstream, answer.url.root, "", realm, wanted.service, scope)
        return await self._tokens.get(key, lambda: self._server.fetch(wanted, check, None))


def challenges_of(answer: Answer) -> list[Challenge]:
    """The challenges of a 401, empty when it has none."""
    fields = answer.headers.getRawHeaders(b"WWW-Authenticate") or []
    return parse_challenges(field.decode("latin-1") for field in fields)


def _bearer(token: Token) -> bytes:
    return b"Bearer " + token.danger_text.encode("ascii")
