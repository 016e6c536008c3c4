"""
One secret over its replacements.

A secret is replaced in two places, its source and the registry, and never in both at once. Whichever is first, no pull
has to fail:

 - The registry first: a secret that was accepted before is refused. The source is read again and again for three
   seconds, once for all requests that wait.
 - The source first: the new secret is refused. The one before it, which was accepted, is presented for a minute, or
   until it is refused.

Each time another secret is presented it gets a new identity, also when it is the one before: tokens of an earlier one
are not used again, and a refusal that comes late is not counted against the secret that is presented now.

A secret that an issuer gives for a time is renewed before it ends. Nothing runs by itself: it is renewed when it is
used in the last part of its life, without holding up the request that uses it; a request waits only when there is no
secret that is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import Attribute, implementer

from appliance.errors import UpstreamError, UpstreamTimeout
from appliance.flow.singleflight import SingleFlight
from appliance.upstream.interfaces import ICredentials, Secret

#: Seconds between readings of the source of a secret that is accepted no more: three seconds together.
RETRY_DELAYS = (0.25, 0.25, 0.5, 1.0, 1.0)
#: Seconds for which the secret before is presented when the new one is refused, and for which one is kept whose source
#: cannot be read or is empty: it may be being written.
GRACE = 60.0


class SecretSource(Protocol):
    """
    Where a secret comes from.

    @ivar shown: its name for messages, as C{password_file /etc/pullcache/hub}.
    @ivar edited: whether it is changed from outside without notice, as a file is: then it may hold nothing for a
        moment, and change a little after the registry. C{False} for an issuer, which gives a good one when it is asked.
    """

    shown: str
    edited: bool

    def read(self, again: bool) -> Coroutine[Deferred[Any], Any, Secret]:
        """
        The secret of now, whose C{identity} is left empty.

        @param again: whether what was kept from an earlier reading is not good enough, since it was refused.
        @raise UpstreamDenied: it cannot be read; other L{UpstreamError}s where another machine is asked. No message
            holds anything of the secret.
        """


class IAcceptedCredentials(ICredentials):
    """Credentials that use what the registry accepted; the power is optional."""

    source = Attribute("where the secret comes from, for messages (str)")

    def accepted(secret: Secret) -> None:
        """C{secret} was presented and accepted."""


@implementer(IAcceptedCredentials)
class RenewingCredential:
    """
    See the module, and L{ICredentials}.

    @ivar source: the source's name.
    """

    def __init__(self, source: SecretSource, clock: IReactorTime) -> None:
        self.source = source.shown
        self._source = source
        self._clock = clock
        self._readings: SingleFlight[bool, None] = SingleFlight()
        self._renewals: SingleFlight[str, bool] = SingleFlight()
        #: Readings begun, the latest one that counted, and secrets presented so far.
        self._begun = self._taken = self._presentations = 0
        #: When the source was first found empty or unreadable; C{None} while it is neither.
        self._unreadable_since: float | None = None
        #: What the source holds, and what is presented (another, after a fallback), which has an identity.
        self._found: Secret | None = None
        self._presented: Secret | None = None
        self._fell_back = False
        self._accepted = False
        #: The accepted one before, without its identity, and until when it may be presented again.
        self._before: Secret | None = None
        self._until = 0.0

    def current(self) -> Deferred[Secret]:
        """See L{ICredentials.current}."""
        return Deferred.fromCoroutine(self._current())

    def refused(self, secret: Secret) -> Deferred[bool]:
        """
        See L{ICredentials.refused}.

        A secret that was never accepted is simply wrong: its source is read once more, without waiting for a change.
        """
        identity = secret.identity
        if self._presented is None or self._presented.identity != identity:
            return succeed(True)
        return self._renewals.run(identity, lambda: self._renew(identity))

    def accepted(self, secret: Secret) -> None:
        """See L{IAcceptedCredentials.accepted}."""
        if self._presented is not None and secret.identity == self._presented.identity:
            self._accepted = True
            if not self._fell_back:
                self._before = None

    async def _current(self) -> Secret:
        try:
            await self._read(again=False)
        except UpstreamError:
            if not self._may_be_being_written():
                raise
        if self._fell_back and self._clock.seconds() >= self._until:
            self._present(self._found)
        assert self._presented is not None, "a reading gives a secret or fails"
        return self._presented

    async def _renew(self, identity: str) -> bool:
        """Whether another secret than the refused one is presented now."""
        delays = RETRY_DELAYS if self._accepted and self._source.edited else ()
        self._accepted = False
        if await self._gives_another(identity):
            return True
        before, self._before = self._before, None
        if before not in (None, self._found) and self._clock.seconds() < self._until:
            self._present(before, fell_back=True)
            return True
        end = self._clock.seconds() + sum(delays)
        for delay in delays:
            await deferLater(self._clock, delay)
            if await self._gives_another(identity):
                return True
            if self._clock.seconds() >= end:
                break
        return False

    async def _gives_another(self, identity: str) -> bool:
        """Whether reading the source leads to another secret than the refused one of C{identity}."""
        try:
            await self._read(again=True)
        except UpstreamError:
            if not self._source.edited:
                raise
        if self._fell_back and self._presented is not None and self._presented.identity == identity:
            self._present(self._found)
        return self._presented is not None and self._presented.identity != identity

    async def _read(self, again: bool) -> None:
        # One reading of a file is for all who wait. An issuer is asked once for all, too, but each waits its own time.
        if self._source.edited:
            await self._readings.run(again, lambda: self._read_source(again))
        else:
            await self._read_source(again)

    async def _read_source(self, again: bool) -> None:
        self._begun += 1
        number = self._begun
        try:
            found = await self._source.read(again)
        except UpstreamError:
            self._note_unreadable()
            raise
        # A reading that began earlier and ends later brings what is older.
        if number < self._taken:
            return
        self._taken = number
        if not found.danger_text and self._may_be_being_written():
            self._note_unreadable()
            return
        self._unreadable_since = None
        if found != self._found:
            if self._presented is not None and self._accepted and self._source.edited:
                self._before, self._until = replace(self._presented, identity=""), self._clock.seconds() + GRACE
            self._found = found
            self._present(found)

    def _present(self, secret: Secret | None, fell_back: bool = False) -> None:
        assert secret is not None, "only what was read is presented"
        self._presentations += 1
        identity = f"{secret.username or self.source}#{self._presentations}"
        self._presented = replace(secret, identity=identity)
        self._fell_back, self._accepted = fell_back, False

    def _note_unreadable(self) -> None:
        if self._unreadable_since is None:
            self._unreadable_since = self._clock.seconds()

    def _may_be_being_written(self) -> bool:
        """Whether the secret of before is kept although the source holds none now."""
        since = self._unreadable_since
        in_time = since is None or self._clock.seconds() < since + GRACE
        return self._source.edited and self._presented is not None and in_time

    def __repr__(self) -> str:
        return f"<RenewingCredential of {self.source}>"


# -- secrets that an issuer gives for a time --------------------------------------------------------------------------

#: A secret is renewed when this part of its life is left.
RENEWED_BEFORE = 0.2
#: Seconds between the beginning of a renewal that failed and the next one, while the secret is still alive; also the
#: least age of a secret that was refused for which another is asked for.
MIN_INTERVAL = 60.0
#: Seconds for which a failure is the answer to every request.
FAILURE_SHARED = 5.0
#: Seconds that a request waits for a secret. Longer than the two attempts of L{appliance.upstream.kinds.ecr}.
TIMEOUT = 75.0


@dataclass(frozen=True)
class SecretLease:
    """
    A secret as given.

    @ivar secret: its C{identity} is empty.
    @ivar life: seconds from its receipt.
    """

    secret: Secret
    life: float


#: Asks the issuer. Fails with the subclasses of L{appliance.errors.UpstreamError}.
Obtain = Callable[[], Coroutine[Deferred[Any], Any, SecretLease]]


class LeasedSecret:
    """
    A L{SecretSource}: one secret at a time, from C{obtain}. That is never under way twice: an issuer that hangs costs
    one thread, however many requests come.

    @ivar shown: the issuer, for messages.
    """

    edited = False

    def __init__(self, upstream: str, shown: str, clock: IReactorTime, obtain: Obtain) -> None:
        self.shown = shown
        self._upstream = upstream
        self._clock = clock
        self._obtain = obtain
        self._requests: SingleFlight[None, Secret] = SingleFlight()
        self._lease: SecretLease | None = None
        #: When the lease was received, and when the issuer was asked last; seconds of the clock.
        self._received = 0.0
        self._requested: float | None = None
        self._failed: tuple[UpstreamError, float] | None = None

    async def read(self, again: bool) -> Secret:
        """
        See L{SecretSource.read}. Raises L{UpstreamTimeout} after L{TIMEOUT}.

        A secret that was received less than a minute ago and is refused will not get better by asking again.
        """
        now = self._clock.seconds()
        age = now - self._received
        if again and age >= MIN_INTERVAL:
            self._lease = None
        if self._lease is not None and age < self._lease.life:
            may_request = self._requested is None or now - self._requested >= MIN_INTERVAL
            if age >= self._lease.life * (1 - RENEWED_BEFORE) and may_request:
                # The secret is still alive, so a failure is no request's; there is another try before its end.
                self._requests.run(None, self._request).addErrback(lambda _: None)
            return self._lease.secret
        if self._failed is not None and now < self._failed[1]:
            raise self._failed[0].with_traceback(None)
        late = UpstreamTimeout(self._upstream, f"{self.shown} gave no credentials within {TIMEOUT:g} seconds")
        requested = self._requests.run(None, self._request)
        return await requested.addTimeout(TIMEOUT, self._clock, lambda result, seconds: Failure(late))

    async def _request(self) -> Secret:
        self._requested = self._clock.seconds()
        try:
            lease = await self._obtain()
        except UpstreamError as fault:
            self._failed = fault, self._clock.seconds() + FAILURE_SHARED
            raise
        self._lease, self._received = lease, self._clock.seconds()
        self._requested = self._failed = None
        return lease.secret
