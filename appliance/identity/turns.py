"""
Whose turn it is, where many want what only a few may do at once: each address in turn, and at each address every name.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from twisted.internet.defer import Deferred, succeed

from appliance.errors import LoginsBusy

PLACES = 1024
"""The most that wait in all."""
PLACES_OF_ADDRESS = 128
"""Of one address: a site's clients behind one router may all begin at the same time."""
PLACES_OF_NAME = 32
"""Of one name at one address."""

_Names = OrderedDict[str, deque[Deferred[None]]]


class Turns:
    """
    Who guesses passwords waits behind himself: another address, or another name at the same one, is next all the same.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: OrderedDict[str, _Names] = OrderedDict()
        self._length = 0

    def take(self, address: str, name: str) -> Deferred[None]:
        """
        Wait for a turn; L{end} ends it. Cancelling gives the place in the queue up.

        @return: fires when it has come.
        @raise LoginsBusy: too many wait already.
        """
        if self._free:
            self._free -= 1
            return succeed(None)
        names = self._waiting.get(address, OrderedDict())
        others = names.get(name, deque())
        if (
            self._length >= PLACES
            or sum(map(len, names.values())) >= PLACES_OF_ADDRESS
            or len(others) >= PLACES_OF_NAME
        ):
            raise LoginsBusy()
        turn: Deferred[None] = Deferred(lambda _: self._forget(address, name, turn))
        self._waiting.setdefault(address, names).setdefault(name, others).append(turn)
        self._length += 1
        return turn

    def end(self) -> None:
        """The work of one turn is done: the next who waits has it."""
        if not self._waiting:
            self._free += 1
            return
        address, names = next(iter(self._waiting.items()))
        name, turns = next(iter(names.items()))
        turn = turns[0]
        self._forget(address, name, turn)
        # Who has had a turn is the last to have another.
        if address in self._waiting:
            self._waiting.move_to_end(address)
            if name in names:
                names.move_to_end(name)
        turn.callback(None)

    def _forget(self, address: str, name: str, turn: Deferred[None]) -> None:
        names = self._waiting[address]
        names[name].remove(turn)
        self._length -= 1
        if not names[name]:
            del names[name]
        if not names:
            del self._waiting[address]
