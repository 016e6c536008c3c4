"""What a Deferred or a coroutine has come to, without waiting; and time that passes when a test says so."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

T = TypeVar("T")


def begin(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run it up to its first wait."""
    return Deferred.fromCoroutine(work)


def result(work: Coroutine[Any, Any, T] | Deferred[T]) -> T:
    """What it gives, now; raises what it fails with."""
    deferred = work if isinstance(work, Deferred) else begin(work)
    outcome: list[Any] = []
    deferred.addBoth(outcome.append)
    assert outcome, "it has not fired"
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    given: T = outcome[0]
    return given


def failing(work: Coroutine[Any, Any, Any] | Deferred[Any], *kinds: type[BaseException]) -> BaseException:
    """What it fails with, now; one of C{kinds} where they are given."""
    try:
        given = result(work)
    except Exception as error:
        assert isinstance(error, kinds or Exception), repr(error)
        return error
    raise AssertionError(f"no failure but {given!r}")


def pending(deferred: Deferred[Any]) -> bool:
    """Whether it has neither fired nor failed."""
    return not deferred.called


def step(clock: Clock, seconds: float, piece: float = 0.5) -> None:
    """Let time pass in pieces, so that what is called may call again."""
    while seconds > 0:
        clock.advance(min(piece, seconds))
        seconds -= piece
