"""How often and how soon a transfer that was cut is tried again."""

from __future__ import annotations

from appliance.errors import PullcacheError, UpstreamRateLimited

RETRY_DELAYS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""
Seconds before the next try, while no byte comes; bytes begin the row anew. Their sum, a little over a minute, is what a
client waits at most before its connection is aborted.
"""

LONGEST_DELAY = 60.0
"""The longest an upstream's C{Retry-After} is obeyed while clients wait, in seconds."""


class Backoff:
    """The tries of one transfer."""

    def __init__(self) -> None:
        self._fruitless = 0

    def delay(self, error: PullcacheError, came: bool, elsewhere: bool = False) -> float:
        """
        A try failed with C{error}: seconds until the next one. Raises C{error} when there is to be none.

        @param came: whether it brought a byte.
        @param elsewhere: whether other transfers of the same blob brought some meanwhile: then it is not given up,
            however long it takes.
        """
        if came:
            self._fruitless = 0
        elif self._fruitless + 1 < len(RETRY_DELAYS):
            self._fruitless += 1
        elif not elsewhere:
            raise error
        seconds = RETRY_DELAYS[self._fruitless]
        if isinstance(error, UpstreamRateLimited) and error.retry_after is not None:
            seconds = max(seconds, min(error.retry_after, LONGEST_DELAY))
        return seconds
