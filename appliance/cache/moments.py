"""
Moments of the wall's clock, in seconds of the clock that nobody can set.

What an upstream said is kept with the moment at which it said so, in years and hours, since a restart must not make it
new. How old it is, is measured from the first look at that moment on: what happens to the wall's clock later does not
make it younger or older. A moment that lies in the future says nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorTime

from appliance.flow.clock import wall

K = TypeVar("K", bound=Hashable)

LIMIT = 20_000
"""The most moments remembered; one that was forgotten is looked at anew."""


class Moments(Generic[K]):
    """The moments of one kind of thing."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._known: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def seconds(self, key: K, moment: float) -> float:
        """
        The seconds that the clock showed at C{moment}, or would have; 0 when that cannot be known.

        @param key: what happened then.
        @param moment: seconds since the epoch, 0 when it is not known.
        """
        known = self._known.get(key)
        if known is not None and known[0] == moment:
            self._known.move_to_end(key)
            return known[1]
        age = wall(self._clock) - moment
        if not moment or age < 0:
            return 0.0
        seconds = self._clock.seconds() - age
        self._known[key] = moment, seconds
        self._known.move_to_end(key)
        if len(self._known) > LIMIT:
            self._known.popitem(last=False)
        return seconds
