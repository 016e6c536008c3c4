"""
Secrets that somebody gives for a time: renewed before they end.

Nothing runs by itself: a secret is renewed when it is used in the last part of its life, behind the back of whoever
uses it, and waited for only when there is none that is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.errors import UpstreamError, UpstreamTimeout
from appliance.flow.sharing import Sharing
from appliance.interfaces import Secret
from appliance.upstream.credentials.rotation import IFollowed

#: A secret is renewed when this part of its life is left.
RENEWED_BEFORE = 0.2
#: Seconds between the beginning of a renewal that failed and the next one, while the secret is still alive; also the
#: least age of a secret that was refused for which another is asked for.
PAUSE = 60.0
#: Seconds for which a failure is everybody's who asks.
FAILURE_SHARED = 5.0
#: Seconds that anybody waits for a secret. Longer than the two attempts of C{aws}.
PATIENCE = 75.0


@dataclass(frozen=True)
class Lease:
    """
    A secret as given.

    @ivar life: seconds from its receipt.
    """

    username: str
    danger_text: str = field(repr=False)
    use: Secret.Use
    life: float


@dataclass(frozen=True)
class _Held:
    """A secret with its times, in seconds of the clock."""

    secret: Secret
    since: float
    renew: float
    ends: float


#: Asks for a secret. Fails with the subclasses of L{appliance.errors.UpstreamError}.
Obtain = Callable[[], Coroutine[Deferred[Any], Any, Lease]]


@implementer(IFollowed)
class LeasedCredentials:
    """
    One secret at a time, from C{obtain}, which is never under way twice: who hangs must not be asked by one thread
    after another.

    @ivar source: who is asked, for messages; the beginning of every secret's identity.
    """

    def __init__(self, upstream: str, source: str, clock: IReactorTime, obtain: Obtain) -> None:
        self.source = source
        self._upstream = upstream
        self._clock = clock
        self._obtain = obtain
        self._runs: Sharing[None, Secret] = Sharing()
        self._held: _Held | None = None
        self._last: Secret | None = None
        self._failed: tuple[Failure, float] | None = None
        self._asked: float | None = None
        self._given = 0

    def current(self) -> Deferred[Secret]:
        """See L{appliance.interfaces.ICredentials.current}. Fails with L{UpstreamTimeout} after L{PATIENCE}."""
        now = self._clock.seconds()
        if self._held is not None and now < self._held.ends:
            if now >= self._held.renew and (self._asked is None or now - self._asked >= PAUSE):
                # A failure behind the back of a living secret is nobody's: there is another try before its end.
                self._renewed().addErrback(lambda _: None)
            return succeed(self._held.secret)
        if self._failed is not None and now < self._failed[1]:
            return fail(self._failed[0])
        late = UpstreamTimeout(self._upstream, f"{self.source} gave no credentials within {PATIENCE:g} seconds")
        return self._renewed().addTimeout(PATIENCE, self._clock, lambda result, seconds: Failure(late))

    def refused(self, secret: Secret) -> Deferred[bool]:
        """
        See L{appliance.interfaces.ICredentials.refused}; fails as L{current} does.

        A secret that was given less than a minute ago and is refused will not get better by asking again.
        """
        return Deferred.fromCoroutine(self._refused(secret))

    def accepted(self, secret: Secret) -> None:
        """It is held as long as it lives, whoever accepted it."""

    async def _refused(self, secret: Secret) -> bool:
        if self._held is not None and self._held.secret == secret:
            if self._clock.seconds() - self._held.since < PAUSE:
                return False
            self._held = None
        other = await self.current()
        return other.identity != secret.identity

    def _renewed(self) -> Deferred[Secret]:
        return self._runs.get(None, self._renew)

    async def _renew(self) -> Secret:
        self._asked = self._clock.seconds()
        try:
            lease = await self._obtain()
        except UpstreamError:
            self._failed = Failure(), self._clock.seconds() + FAILURE_SHARED
            raise
        return self._keep(lease)

    def _keep(self, lease: Lease) -> Secret:
        now = self._clock.seconds()
        if self._last is None or self._last.danger_text != lease.danger_text:
            self._given += 1
            self._last = Secret(f"{self.source}#{self._given}", lease.username, lease.danger_text, lease.use)
        self._held = _Held(self._last, now, now + lease.life * (1 - RENEWED_BEFORE), now + lease.life)
        self._asked = self._failed = None
        return self._last

    def __repr__(self) -> str:
        return f"<LeasedCredentials of {self.source}>"
