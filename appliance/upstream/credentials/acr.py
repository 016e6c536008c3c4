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
from zope.interface import implementer

from appliance.errors import UpstreamDenied, UpstreamInvalid
from appliance.interfaces import ICredentials, Secret
from appliance.upstream.credentials.leases import Lease, LeasedCredentials
from appliance.upstream.credentials.rotation import IFollowed
from appliance.upstream.means import Means

#: What the registry calls itself in its tokens.
_ISSUER = "Azure Container Registry"
#: The life of a refresh token that does not tell it, and the bounds of what one that does is believed, in seconds.
_LIFE, _LEAST_LIFE, _MOST_LIFE = 3600.0, 60.0, 86400.0
_MAX_TOKEN = 64 * 1024


class _Given(msgspec.Struct):
    """What the exchange answers."""

    refresh_token: str = ""


@implementer(IFollowed)
class AcrCredentials:
    """
    Refresh tokens of a registry, for the Entra ID token that the token file holds at the time.

    @ivar source: for messages.
    """

    def __init__(self, file: ICredentials, means: Means) -> None:
        """
        @param file: gives the content of the token file.
        """
        self.source = file.source if IFollowed.providedBy(file) else "token_file"
        self._file = file
        self._means = means
        self._leased: tuple[str, LeasedCredentials] | None = None

    def current(self) -> Deferred[Secret]:
        """See L{ICredentials.current}: exchanged again when the file has changed, and before the exchanged one ends."""
        return Deferred.fromCoroutine(self._current())

    def refused(self, secret: Secret) -> Deferred[bool]:
        """See L{ICredentials.refused}: by a new file, or by another exchange."""
        return Deferred.fromCoroutine(self._refused(secret))

    def accepted(self, secret: Secret) -> None:
        """See L{IFollowed.accepted}. What was exchanged is unknown to the file; its token was accepted then."""
        if IFollowed.providedBy(self._file):
            self._file.accepted(secret)

    async def _current(self) -> Secret:
        token = await self._file.current()
        if is_refresh_token(token.danger_text):
            return replace(token, use=Secret.Use.IDENTITY)
        return await self._exchanged(token).current()

    async def _refused(self, secret: Secret) -> bool:
        token = await self._file.current()
        if not is_refresh_token(token.danger_text):
            return await self._exchanged(token).refused(secret)
        return await self._file.refused(secret)

    def _exchanged(self, token: Secret) -> LeasedCredentials:
        """The exchange of this very token; what an earlier one was exchanged for is forgotten."""
        if self._leased is None or self._leased[0] != token.identity:

            async def obtain() -> Lease:
                return await self._obtain(token)

            source = f"the exchange of {token.identity} at {self._means.host}"
            self._leased = token.identity, LeasedCredentials(self._means.upstream, source, self._means.clock, obtain)
        return self._leased[1]

    async def _obtain(self, token: Secret) -> Lease:
        """One exchange, and another one when the file is replaced after the first was denied."""
        try:
            return await self._exchange(token)
        except UpstreamDenied:
            if not await self._file.refused(token):
                raise
        return await self._exchange(await self._file.current())

    async def _exchange(self, token: Secret) -> Lease:
        body = await self._means.post("/oauth2/exchange", self._form(token))
        try:
            text = msgspec.json.decode(body, type=_Given).refresh_token
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            text = ""
        if not (text and text.isascii() and text.isprintable() and " " not in text):
            raise UpstreamInvalid(self._means.upstream, "/oauth2/exchange answered no usable refresh_token")
        self.accepted(token)
        return Lease("", text, Secret.Use.IDENTITY, life_of(text))

    def _form(self, token: Secret) -> dict[str, str]:
        """C{tenant} is the token's own; it may be left out where the token does not tell."""
        tenant = claims_of(token.danger_text).get("tid")
        form = {"grant_type": "access_token", "service": self._means.host}
        if isinstance(tenant, str):
            form["tenant"] = tenant
        return {**form, "access_token": token.danger_text}


def is_refresh_token(text: str) -> bool:
    """Whether it is the registry's own refresh token, not Entra ID's access token."""
    claims = claims_of(text)
    return claims.get("iss") == _ISSUER and claims.get("grant_type") == "refresh_token"


def life_of(text: str) -> float:
    """Seconds a token lives from its making, so that this machine's clock does not have to be right."""
    claims = claims_of(text)
    begins, ends = (claims.get(name) for name in ("iat", "exp"))
    if not (isinstance(begins, int | float) and isinstance(ends, int | float)):
        return _LIFE
    return float(min(max(ends - begins, _LEAST_LIFE), _MOST_LIFE))


def claims_of(text: str) -> Mapping[str, object]:
    """
    The claims of a JWT (RFC 7519 section 3), unverified; none for what is no JWT.

    They decide only how the token is used and how long: whoever gave it may lie about that to his own harm alone.
    """
    parts = text.split(".")
    if len(parts) != 3 or len(text) > _MAX_TOKEN:
        return {}
    try:
        data = binascii.a2b_base64(parts[1].replace("-", "+").replace("_", "/") + "==")
        return msgspec.json.decode(data, type=dict[str, object])
    except (ValueError, msgspec.DecodeError, RecursionError):
        return {}
