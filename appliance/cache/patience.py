"""How often and how soon a line that was cut is tried again."""

from __future__ import annotations

from appliance.errors import PullcacheError, UpstreamRateLimited

# Seconds before the line is tried again, while no byte comes; bytes start the row anew. Their sum, a little over a
# minute, is what a client waits at most before its connection is aborted.
PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# The longest an upstream's Retry-After is obeyed while clients wait.
LONGEST_PAUSE = 60.0


class Patience:
    """What one line has left of it."""

    def __init__(self) -> None:
        self._fruitless = 0

    def pause(self, error: PullcacheError, came: bool, elsewhere: bool = False) -> float:
        """
        The line failed with C{error}: seconds until it is worth another try. Raises C{error} when none is.

        @param came: whether a byte came over it since it was last opened.
        @param elsewhere: whether bytes came over other lines meanwhile: then it is not given up, however long it takes.
        """
        if came:
            self._fruitless = 0
        elif self._fruitless + 1 < len(PAUSES):
            self._fruitless += 1
        elif not elsewhere:
            raise error
        seconds = PAUSES[self._fruitless]
        if isinstance(error, UpstreamRateLimited) and error.retry_after is not None:
            seconds = max(seconds, min(error.retry_after, LONGEST_PAUSE))
        return seconds
