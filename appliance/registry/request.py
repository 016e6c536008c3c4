"""A request as the registry counts and logs it."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from appliance.cache.access import Client
from appliance.flow.http import ServerRequest


class RegistryRequest(ServerRequest):
    """
    @ivar accounts: is told how this request ended; set on the class by the listener.
    @ivar kind: see L{IAccounts.answered}.
    @ivar cache: see L{IAccounts.answered}.
    @ivar sender: who asks.
    @ivar generation: L{HotLane.generation} when the request was routed; C{None}: its answer is for nobody else.
    """

    accounts: Any = None
    kind = "other"
    cache = "-"
    generation: int | None = None
    _accounted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.began = self._clock.seconds()
        self.sender: Client = self.channel.client

    @property
    def _clock(self) -> IReactorTime:
        clock: IReactorTime = self.accounts.clock
        return clock

    def add_sent(self, octets: int) -> None:
        """Bytes of the body went out that were not given to C{write}."""
        self.sentLength += octets

    def finish(self) -> None:
        """The response is complete."""
        self._account()
        super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """The client left, or was cut off."""
        self._account()
        super().connectionLost(reason)

    def _account(self) -> None:
        if self._accounted:
            return
        self._accounted = True
        self.accounts.answered(
            self.sender.address,
            self.method.decode("ascii", "replace"),
            self.uri.decode("ascii", "backslashreplace"),
            self.kind,
            self.code,
            self.sentLength,
            self._clock.seconds() - self.began,
            self.cache,
        )
