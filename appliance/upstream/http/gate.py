"""Whether one upstream may be asked."""

from __future__ import annotations

from collections.abc import Callable

from appliance.errors import Offline


class Gate:
    """
    What every request to one upstream, and every body of its answers, passes; L{close} ends them and stops all later
    ones.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._closed = False
        self._under_way: list[Callable[[], object]] = []

    def check(self) -> None:
        """Raises L{Offline} once it has been closed."""
        if self._closed:
            raise Offline(f"{self._upstream} is not asked any more: the configuration was read again")

    def add(self, end: Callable[[], object]) -> None:
        """A transfer is under way until L{remove}; C{end} ends it, at once when the gate is closed already."""
        if self._closed:
            end()
        else:
            self._under_way.append(end)

    def remove(self, end: Callable[[], object]) -> None:
        """The transfer is over; it is no error when it was not under way."""
        if end in self._under_way:
            self._under_way.remove(end)

    def close(self) -> None:
        """End what is under way and let nothing more by, for good."""
        self._closed = True
        # One at a time: the end of one may be that of another.
        while self._under_way:
            self._under_way.pop(0)()
