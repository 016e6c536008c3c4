"""Bodies of responses, piece by piece."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from appliance.cli.client import WAITING, BodyPieces
from appliance.cli.failures import CommandFailed


class Wire:
    """The other end: remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def loseConnection(self) -> None:
        self.told.append("close")


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def arrival(wire: Wire) -> BodyPieces:
    arrival = BodyPieces("http://a.test")
    arrival.makeConnection(wire)
    return arrival


async def everything(arrival: BodyPieces) -> bytes:
    return b"".join([piece async for piece in arrival])


def outcome(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


def test_pieces_come_in_order_and_end_with_the_body(arrival: BodyPieces) -> None:
    """What was sent is what is read."""
    result = outcome(Deferred.fromCoroutine(everything(arrival)))
    arrival.dataReceived(b"one ")
    arrival.dataReceived(b"two")
    assert result == []
    arrival.connectionLost(Failure(ResponseDone()))
    assert result == [b"one two"]


def test_what_came_before_anybody_read_is_not_lost(arrival: BodyPieces) -> None:
    """A body that is faster than its reader is read whole."""
    arrival.dataReceived(b"all")
    arrival.connectionLost(Failure(PotentialDataLoss()))
    assert outcome(Deferred.fromCoroutine(everything(arrival))) == [b"all"]


def test_a_body_that_is_cut_is_an_error(arrival: BodyPieces) -> None:
    """Half a bundle is never taken for a whole one."""
    result = outcome(Deferred.fromCoroutine(everything(arrival)))
    arrival.dataReceived(b"half")
    arrival.connectionLost(Failure(ResponseFailed([])))
    assert result[0].check(CommandFailed)
    assert "http://a.test broke" in str(result[0].value)


def test_a_slow_disk_holds_the_sender_back(arrival: BodyPieces, wire: Wire) -> None:
    """A slow stick does not fill my memory with the bundle."""
    arrival.dataReceived(bytes(WAITING))
    assert wire.told == []
    arrival.dataReceived(b"x")
    arrival.dataReceived(b"x")
    assert wire.told == ["pause"]
    outcome(Deferred.fromCoroutine(everything(arrival)))
    assert wire.told == ["pause", "resume"]


def test_ctrl_c_closes_the_connection(arrival: BodyPieces, wire: Wire) -> None:
    """The appliance learns that nobody reads any more."""
    reading = Deferred.fromCoroutine(everything(arrival))
    result = outcome(reading)
    reading.cancel()
    assert result[0].check(CancelledError)
    assert wire.told == ["close"]
    arrival.dataReceived(b"late")
    arrival.connectionLost(Failure(ResponseFailed([])))
