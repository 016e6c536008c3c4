"""
What one URL said of the secrets it was shown.

A registry's answer to somebody who shows a wrong password again and again is to lock the account. So a secret that was
finally refused is not shown again until its source gives another one, or a while has passed; then by one request alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from appliance.errors import UpstreamDenied
from appliance.flow.sharing import Sharing
from appliance.interfaces import ICredentials, Secret
from appliance.upstream.credentials.rotation import IFollowed

#: Seconds for which a refused secret is not shown.
BARRED = 60.0
#: Secrets one question shows at most, one after the other: the old one, a half-written one and the new one, and one
#: more for a source that is changed twice.
MAX_TURNS = 4
#: What the secret is called of which only an adapter knows where it comes from.
_OBTAINED = "the credentials that were obtained for it"
#: Refused secrets that are remembered.
_REMEMBERED = 16


@dataclass
class _Bar:
    """
    A refusal.

    @ivar until: seconds of the clock.
    @ivar final: whether the source was looked at in vain.
    @ivar on_trial: whether one request shows it again.
    """

    until: float
    final: bool = False
    on_trial: bool = False


class Acceptance:
    """
    Which secret to show at one URL.

    @ivar known: identity of the secret that was accepted last, C{None} while there is none.
    """

    def __init__(self, upstream: str, where: str, credentials: ICredentials, clock: IReactorTime) -> None:
        """
        @param where: the URL, for messages.
        """
        self.known: str | None = None
        self._upstream = upstream
        self._where = where
        self._credentials = credentials
        self._clock = clock
        self._bars: dict[str, _Bar] = {}
        self._looks: Sharing[str, bool] = Sharing()

    async def current(self) -> Secret | None:
        """The secret of now, whether it may be shown or not: its tokens may. C{None}: there is none for this URL."""
        secret = await self._credentials.current()
        return None if secret.use is Secret.Use.NONE else secret

    async def presentable(self) -> Secret | None:
        """
        The secret that may be shown now; who comes while another one is looked for waits for that. C{None}: there is
        none for this URL.

        @raise UpstreamDenied: it was finally refused; the message says what to do.
        """
        for _ in range(MAX_TURNS):
            secret = await self._credentials.current()
            if secret.use is Secret.Use.NONE:
                return None
            bar = self._bars.get(secret.identity)
            if bar is None or self._may_try(bar):
                return secret
            if bar.final or not await self._another(secret, bar):
                break
        raise self.denied(secret)

    def accepted(self, secret: Secret) -> None:
        """It was shown and accepted."""
        self._bars.pop(secret.identity, None)
        self.known = secret.identity
        if IFollowed.providedBy(self._credentials):
            self._credentials.accepted(secret)

    def is_in_doubt(self, secret: Secret) -> bool:
        """Whether it was refused and not yet accepted again."""
        return secret.identity in self._bars

    async def refused(self, secret: Secret) -> bool:
        """It was shown and refused. Whether there is another one now."""
        bar = self._bars.get(secret.identity)
        if bar is not None and bar.final and not bar.on_trial:
            # A refusal that comes late: everything about this secret is settled.
            return (await self._credentials.current()).identity != secret.identity
        if bar is None or bar.final:
            bar = self._bar(secret)
        return await self._another(secret, bar)

    def denied(self, secret: Secret) -> UpstreamDenied:
        """The error that C{secret} is no use."""
        bar = self._bars.get(secret.identity)
        rest = max(0.0, bar.until - self._clock.seconds()) if bar is not None else 0.0
        detail = f"{self._where} refuses {self.source}; put that right, and the change is noticed at once"
        return UpstreamDenied(self._upstream, f"{detail} (without one it is shown again in {rest:.0f} s)")

    @property
    def source(self) -> str:
        """Where the secret comes from, for messages."""
        return f"what {self._credentials.source} holds" if IFollowed.providedBy(self._credentials) else _OBTAINED

    def _bar(self, secret: Secret) -> _Bar:
        self._bars.pop(secret.identity, None)
        while len(self._bars) >= _REMEMBERED:
            del self._bars[next(iter(self._bars))]
        bar = self._bars[secret.identity] = _Bar(self._clock.seconds() + BARRED)
        return bar

    def _may_try(self, bar: _Bar) -> bool:
        """Whether C{bar} is over; then the others wait for what comes of it."""
        now = self._clock.seconds()
        if now < bar.until:
            return False
        bar.until, bar.on_trial = now + BARRED, True
        return True

    async def _another(self, secret: Secret, bar: _Bar) -> bool:
        return await self._looks.get(secret.identity, lambda: self._look(secret, bar))

    async def _look(self, secret: Secret, bar: _Bar) -> bool:
        found = await self._credentials.refused(secret)
        bar.final = not found
        return found
