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
    """The other end: remembers what it was asked to do."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def loseConnection(self) -> None:
        self.calls.append("close")


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def body(wire: Wire) -> BodyPieces:
    body = BodyPieces("http://a.test")
    body.makeConnection(wire)
    return body


async def everything(body: BodyPieces) -> bytes:
    return b"".join([piece async for piece in body])


def outcome(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


def test_pieces_come_in_order_and_end_with_the_body(body: BodyPieces) -> None:
    """What was sent is what is read."""
    result = outcome(Deferred.fromCoroutine(everything(body)))
    body.dataReceived(b"one ")
    body.dataReceived(b"two")
    assert result == []
    body.connectionLost(Failure(ResponseDone()))
    assert result == [b"one two"]


def test_what_came_before_it_was_read_is_not_lost(body: BodyPieces) -> None:
    """A body that is faster than its reader is read whole."""
    body.dataReceived(b"all")
    body.connectionLost(Failure(PotentialDataLoss()))
    assert outcome(Deferred.fromCoroutine(everything(body))) == [b"all"]


def test_a_body_that_is_cut_is_an_error(body: BodyPieces) -> None:
    """Half a bundle is never taken for a whole one."""
    result = outcome(Deferred.fromCoroutine(everything(body)))
    body.dataReceived(b"half")
    body.connectionLost(Failure(ResponseFailed([])))
    assert result[0].check(CommandFailed)
    assert "http://a.test broke" in str(result[0].value)


def test_a_slow_disk_holds_the_sender_back(body: BodyPieces, wire: Wire) -> None:
    """A slow stick does not fill my memory with the bundle."""
    body.dataReceived(bytes(WAITING))
    assert wire.calls == []
    body.dataReceived(b"x")
    body.dataReceived(b"x")
    assert wire.calls == ["pause"]
    outcome(Deferred.fromCoroutine(everything(body)))
    assert wire.calls == ["pause", "resume"]


def test_ctrl_c_closes_the_connection(body: BodyPieces, wire: Wire) -> None:
    """The appliance learns that its reader has left."""
    reading = Deferred.fromCoroutine(everything(body))
    result = outcome(reading)
    reading.cancel()
    assert result[0].check(CancelledError)
    assert wire.calls == ["close"]
    body.dataReceived(b"late")
    body.connectionLost(Failure(ResponseFailed([])))
