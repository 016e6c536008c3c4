"""
Azure Container Registry: an Entra ID access token is exchanged for one of the registry's own.

The exchange is C{POST /oauth2/exchange} with C{grant_type=access_token}; it gives an ACR refresh token, a JWT whose
C{exp} says when it ends (Azure/acr, "Azure Container Registry integration with Azure Active Directory"). From then on
that is an identity token, as any other registry's.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import replace

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from appliance.errors import UpstreamDenied, UpstreamInvalid
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.configured import CredentialArguments, Post, token_credentials
from appliance.upstream.credentials.renewing import IAcceptedCredentials, LeasedSecret, RenewingCredential, SecretLease
from appliance.upstream.interfaces import ICredentials, Secret, is_token
from appliance.upstream.kinds.standard import Standard

#: What the registry calls itself in its tokens.
_ISSUER = "Azure Container Registry"
#: The life of a refresh token that does not tell it, and the bounds of what one that does is believed, in seconds.
_LIFE, _LEAST_LIFE, _MOST_LIFE = 3600.0, 60.0, 86400.0
_MAX_TOKEN = 64 * 1024


class Acr(Standard):
    """
    See L{appliance.upstream.interfaces.IAdapter}.

    C{token_file} holds an Entra ID access token for the registry, or an ACR refresh token as C{az acr login
    --expose-token} gives it; what renews the first replaces the file. An admin user and a service principal are
    C{username} and C{password_file}.
    """

    kind = "acr"
    redirect_hosts = ("*.blob.core.windows.net", "*.data.azurecr.io")
    has_referrers = True

    def credentials(self, settings: UpstreamSettings, given: CredentialArguments) -> ICredentials | None:
        """From the token file, when there is one."""
        file = token_credentials(settings, given)
        if file is None:
            return None
        return AcrCredentials(file, given.upstream, given.host, given.clock, given.post)


class _ExchangeAnswer(msgspec.Struct):
    refresh_token: str = ""


@implementer(IAcceptedCredentials)
class AcrCredentials:
    """
    Refresh tokens of a registry, for the Entra ID token that the token file holds at the time.

    @ivar source: for messages.
    """

    def __init__(self, file: IAcceptedCredentials, upstream: str, host: str, clock: IReactorTime, post: Post) -> None:
        """
        @param file: gives the content of the token file.
        @param host: of the registry.
        @param post: sends the form of the exchange there.
        """
        self.source = file.source
        self._file = file
        self._upstream = upstream
        self._host = host
        self._clock = clock
        self._post = post
        #: The identity of the token that was exchanged last, and what it was exchanged for.
        self._exchanged: tuple[str, RenewingCredential] | None = None

    def current(self) -> Deferred[Secret]:
        """See L{ICredentials.current}: exchanged again when the file has changed, and before the exchanged one ends."""
        return Deferred.fromCoroutine(self._current())

    def refused(self, secret: Secret) -> Deferred[bool]:
        """See L{ICredentials.refused}: by a new file, or by another exchange."""
        return Deferred.fromCoroutine(self._refused(secret))

    def accepted(self, secret: Secret) -> None:
        """
        See L{IAcceptedCredentials.accepted}. What was exchanged is unknown to the file; its token was accepted at the
        exchange.
        """
        self._file.accepted(secret)

    async def _current(self) -> Secret:
        token = await self._file.current()
        if is_refresh_token(token.danger_text):
            return replace(token, use=Secret.Use.IDENTITY)
        return await self._exchange_of(token).current()

    async def _refused(self, secret: Secret) -> bool:
        token = await self._file.current()
        if is_refresh_token(token.danger_text):
            return await self._file.refused(secret)
        exchanged = self._exchange_of(token)
        return (await exchanged.current()).identity != secret.identity or await exchanged.refused(secret)

    def _exchange_of(self, token: Secret) -> RenewingCredential:
        """What C{token} is exchanged for; what an earlier one was exchanged for is forgotten."""

        async def obtain() -> SecretLease:
            try:
                return await self._exchange(token)
            except UpstreamDenied:
                if not await self._file.refused(token):
                    raise
            return await self._exchange(await self._file.current())

        if self._exchanged is None or self._exchanged[0] != token.identity:
            leased = LeasedSecret(
                self._upstream, f"the exchange of {token.identity} at {self._host}", self._clock, obtain
            )
            self._exchanged = token.identity, RenewingCredential(leased, self._clock)
        return self._exchanged[1]

    async def _exchange(self, token: Secret) -> SecretLease:
        """One exchange. C{tenant} is the token's own; it may be left out where the token has none."""
        tenant = claims_of(token.danger_text).get("tid")
        form = {"grant_type": "access_token", "service": self._host}
        if isinstance(tenant, str):
            form["tenant"] = tenant
        body = await self._post("/oauth2/exchange", {**form, "access_token": token.danger_text})
        try:
            text = msgspec.json.decode(body, type=_ExchangeAnswer).refresh_token
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            text = ""
        if not is_token(text):
            raise UpstreamInvalid(self._upstream, "/oauth2/exchange answered no usable refresh_token")
        self._file.accepted(token)
        return SecretLease(Secret("", "", text, Secret.Use.IDENTITY), life_of(text))


def is_refresh_token(text: str) -> bool:
    """Whether it is the registry's own refresh token, not Entra ID's access token."""
    claims = claims_of(text)
    return claims.get("iss") == _ISSUER and claims.get("grant_type") == "refresh_token"


def life_of(text: str) -> float:
    """Seconds that a token lives from its making, so that this machine's clock does not have to be right."""
    claims = claims_of(text)
    begins, ends = (claims.get(name) for name in ("iat", "exp"))
    if not (isinstance(begins, int | float) and isinstance(ends, int | float)):
        return _LIFE
    return float(min(max(ends - begins, _LEAST_LIFE), _MOST_LIFE))


def claims_of(text: str) -> Mapping[str, object]:
    """
    The claims of a JWT (RFC 7519 section 3), unverified; none for what is no JWT.

    They decide only how the token is used and how long, so a false one harms only its issuer.
    """
    parts = text.split(".")
    if len(parts) != 3 or len(text) > _MAX_TOKEN:
        return {}
    try:
        data = binascii.a2b_base64(parts[1].replace("-", "+").replace("_", "/") + "==")
        return msgspec.json.decode(data, type=dict[str, object])
    except (ValueError, msgspec.DecodeError, RecursionError):
        return {}
