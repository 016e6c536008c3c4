"""
Secrets that an issuer gives for a time: renewed before they end.

Nothing runs by itself: a secret is renewed when it is used in the last part of its life, without holding up the request
that uses it; a request waits only when there is no secret that is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from appliance.errors import UpstreamError, UpstreamTimeout
from appliance.flow.singleflight import SingleFlight
from appliance.upstream.interfaces import Secret

#: A secret is renewed when this part of its life is left.
RENEWED_BEFORE = 0.2
#: Seconds between the beginning of a renewal that failed and the next one, while the secret is still alive; also the
#: least age of a secret that was refused for which another is asked for.
MIN_INTERVAL = 60.0
#: Seconds for which a failure is the answer to every request.
FAILURE_SHARED = 5.0
#: Seconds that a request waits for a secret. Longer than the two attempts of C{aws}.
TIMEOUT = 75.0


@dataclass(frozen=True)
class Lease:
    """
    A secret as given.

    @ivar secret: its C{identity} is empty.
    @ivar life: seconds from its receipt.
    """

    secret: Secret
    life: float


#: Asks the issuer. Fails with the subclasses of L{appliance.errors.UpstreamError}.
Obtain = Callable[[], Coroutine[Deferred[Any], Any, Lease]]


class LeasedSecret:
    """
    A L{appliance.upstream.credentials.renewing.SecretSource}: one secret at a time, from C{obtain}. That is never under
    way twice: an issuer that hangs costs one thread, however many requests come.

    @ivar shown: the issuer, for messages.
    """

    edited = False

    def __init__(self, upstream: str, shown: str, clock: IReactorTime, obtain: Obtain) -> None:
        self.shown = shown
        self._upstream = upstream
        self._clock = clock
        self._obtain = obtain
        self._requests: SingleFlight[None, Secret] = SingleFlight()
        self._lease: Lease | None = None
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
