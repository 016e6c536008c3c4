"""Whose turn it is: who guesses waits behind himself, and nobody can fill all places alone."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from appliance.errors import LoginsBusy
from appliance.identity import turns
from appliance.identity.turns import Turns
from tests.doubles.deferreds import failing


def waiting(queue: Turns, address: str, name: str, order: list[str]) -> Deferred[None]:
    return queue.take(address, name).addCallback(lambda _: order.append(f"{name}@{address}"))


def test_each_address_has_its_turn_and_each_name_there() -> None:
    """However many one of them has waiting."""
    queue, order = Turns(1), list[str]()
    queue.take("a", "x")
    for n in range(3):
        waiting(queue, "a", f"guess{n}", order)
        waiting(queue, "a", "guess0", order)
    waiting(queue, "b", "ann", order)
    waiting(queue, "b", "ann", order)
    for _ in range(8):
        queue.end()
    assert order == [
        "guess0@a", "ann@b", "guess1@a", "ann@b", "guess2@a", "guess0@a", "guess0@a", "guess0@a"
    ]  # fmt: skip


def test_as_many_go_on_at_once_as_may() -> None:
    """And a turn that has ended is free again when nobody waits."""
    queue, order = Turns(2), list[str]()
    for name in "xyz":
        waiting(queue, "a", name, order)
    assert order == ["x@a", "y@a"]
    queue.end()
    queue.end()
    waiting(queue, "a", "w", order)
    assert order == ["x@a", "y@a", "z@a", "w@a"]


def test_places_are_bounded_for_a_name_an_address_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes above that is told so at once, and others find room."""
    monkeypatch.setattr(turns, "PLACES", 40)
    monkeypatch.setattr(turns, "PLACES_OF_ADDRESS", 20)
    monkeypatch.setattr(turns, "PLACES_OF_NAME", 5)
    queue = Turns(0)
    for _ in range(5):
        queue.take("a", "x")
    with pytest.raises(LoginsBusy, match="come again"):
        queue.take("a", "x")
    for n in range(15):
        queue.take("a", f"y{n}")
    with pytest.raises(LoginsBusy):
        queue.take("a", "z")
    for n in range(20):
        queue.take(f"b{n}", "x")
    with pytest.raises(LoginsBusy):
        queue.take("c", "x")


def test_who_gives_up_leaves_no_trace() -> None:
    """The turn goes to the next."""
    queue, order = Turns(0), list[str]()
    leaving = queue.take("a", "x")
    waiting(queue, "b", "y", order)
    leaving.cancel()
    failing(leaving, CancelledError)
    queue.end()
    assert order == ["y@b"]
    assert not queue._waiting and queue._length == 0
