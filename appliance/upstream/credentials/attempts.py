"""
Which secrets may be shown at one URL.

A registry that is shown a wrong password again and again locks the account. So a secret that was finally refused is not
shown again until its source gives another one, or a minute has passed; then by one request alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from appliance.errors import UpstreamDenied
from appliance.flow.singleflight import SingleFlight
from appliance.upstream.credentials.renewing import IAcceptedCredentials
from appliance.upstream.interfaces import ICredentials, Secret

#: Seconds for which a refused secret is not shown.
LOCKOUT = 60.0
#: Secrets that one request shows at most, one after the other: the old one, a half-written one and the new one, and one
#: more for a source that is changed twice.
MAX_ATTEMPTS = 4
#: What the secret is called of which only an adapter knows where it comes from.
_OBTAINED = "the credentials that were obtained for it"
#: Refused secrets that are remembered.
_REMEMBERED = 16


@dataclass
class _Refusal:
    """
    A refused secret.

    @ivar until: seconds of the clock up to which it is not shown.
    @ivar final: whether its source was read again and gave no other.
    @ivar on_trial: whether one request shows it again now.
    """

    until: float
    final: bool = False
    on_trial: bool = False


class LoginAttempts:
    """
    What one URL answered to the secrets that it was shown.

    @ivar last_accepted: identity of the secret that was accepted last, C{None} while there is none.
    """

    def __init__(self, upstream: str, url: str, credentials: ICredentials, clock: IReactorTime) -> None:
        """
        @param url: for messages.
        """
        self.last_accepted: str | None = None
        self._upstream = upstream
        self._url = url
        self._credentials = credentials
        self._clock = clock
        self._refusals: dict[str, _Refusal] = {}
        self._renewals: SingleFlight[str, bool] = SingleFlight()

    async def current(self) -> Secret | None:
        """
        The secret of now; it may not be one to show, but tokens that were given for it are good. C{None}: there is none
        for this URL.
        """
        secret = await self._credentials.current()
        return None if secret.use is Secret.Use.NONE else secret

    async def presentable(self) -> Secret | None:
        """
        The secret that may be shown now; it is waited for while its source is read again. C{None}: there is none for
        this URL.

        @raise UpstreamDenied: it was finally refused; the message says what to do.
        """
        for _ in range(MAX_ATTEMPTS):
            secret = await self._credentials.current()
            if secret.use is Secret.Use.NONE:
                return None
            refusal = self._refusals.get(secret.identity)
            if refusal is None:
                return secret
            now = self._clock.seconds()
            if now >= refusal.until:
                # This request shows it; the others wait for the answer.
                refusal.until, refusal.on_trial = now + LOCKOUT, True
                return secret
            if refusal.final or not await self._is_renewed(secret, refusal):
                break
        raise self.denied(secret)

    def accepted(self, secret: Secret) -> None:
        """C{secret} was shown and accepted."""
        self._refusals.pop(secret.identity, None)
        self.last_accepted = secret.identity
        if IAcceptedCredentials.providedBy(self._credentials):
            self._credentials.accepted(secret)

    def is_suspect(self, secret: Secret) -> bool:
        """Whether C{secret} was refused and not accepted since."""
        return secret.identity in self._refusals

    async def refused(self, secret: Secret) -> bool:
        """C{secret} was shown and refused: whether there is another one now."""
        refusal = self._refusals.get(secret.identity)
        if refusal is not None and refusal.final and not refusal.on_trial:
            # An answer to a request of before: everything about this secret is settled.
            return (await self._credentials.current()).identity != secret.identity
        if refusal is None or refusal.final:
            self._refusals.pop(secret.identity, None)
            while len(self._refusals) >= _REMEMBERED:
                del self._refusals[next(iter(self._refusals))]
            refusal = self._refusals[secret.identity] = _Refusal(self._clock.seconds() + LOCKOUT)
        return await self._is_renewed(secret, refusal)

    def denied(self, secret: Secret) -> UpstreamDenied:
        """The error for a request that has no other secret than the refused C{secret}."""
        refusal = self._refusals.get(secret.identity)
        rest = max(0.0, refusal.until - self._clock.seconds()) if refusal is not None else 0.0
        detail = f"{self._url} refuses {self.source}; put that right, and the change is noticed at once"
        return UpstreamDenied(self._upstream, f"{detail} (without one it is shown again in {rest:.0f} s)")

    @property
    def source(self) -> str:
        """Where the secret comes from, for messages."""
        if IAcceptedCredentials.providedBy(self._credentials):
            return f"what {self._credentials.source} holds"
        return _OBTAINED

    async def _is_renewed(self, secret: Secret, refusal: _Refusal) -> bool:
        async def ask_credentials() -> bool:
            renewed = await self._credentials.refused(secret)
            refusal.final = not renewed
            return renewed

        return await self._renewals.run(secret.identity, ask_credentials)
