"""A clock that counts, with another one on the wall that can be set."""

from __future__ import annotations

from twisted.internet.task import Clock
from zope.interface import implementer

from appliance.interfaces import IWallClock


@implementer(IWallClock)
class TwoClocks(Clock):
    """
    Both go on with L{advance}.

    @ivar set: seconds by which the one on the wall was set since, forwards or, negative, back.
    """

    def __init__(self, moment: float = 1_800_000_000.0) -> None:
        super().__init__()
        self.rightNow = moment
        self.set = 0.0

    def wall(self) -> float:
        """See L{IWallClock.wall}."""
        return self.seconds() + self.set
