"""A body that is made while it is sent: clients that leave or halt, and a store that changes meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from appliance.flow.body import CLIENT_SILENCE
from appliance.oci.digest import Digest
from tests.doubles.appliance import Appliance
from tests.doubles.images import image

REQUEST = b"GET /api/v1/exports?all=1 HTTP/1.1\r\nHost: 127.0.0.1:5001\r\n\r\n"


class SlowTransport(StringTransport):
    """A client that takes so many bytes, and then none until it is resumed."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.aborted = False

    def write(self, data: bytes) -> None:
        """Take it, and ask for a pause when that was enough."""
        super().write(data)
        self._halt()

    def writeSequence(self, data: Any) -> None:
        """As L{write}."""
        self.write(b"".join(data))

    def abortConnection(self) -> None:
        """Note that it was cut off."""
        self.aborted = True

    def _halt(self) -> None:
        producer: Any = self.producer
        if producer is not None and len(self.value()) >= self.room:
            producer.pauseProducing()

    def go_on(self) -> None:
        """Take the rest."""
        self.room = 10**9
        producer: Any = self.producer
        producer.resumeProducing()


def asked(site: Appliance, request: bytes, room: int) -> tuple[Any, SlowTransport]:
    """A connection on which C{request} was made by a client that takes C{room} bytes for now."""
    connection = site.app.site().buildProtocol(None)  # type: ignore[arg-type]
    transport = SlowTransport(room)
    connection.makeConnection(transport)
    connection.dataReceived(request)
    return connection, transport


def halted(site: Appliance) -> tuple[Any, SlowTransport]:
    """A connection on which an export has begun and halted in the middle."""
    connection, transport = asked(site, REQUEST, 40_000)
    assert site.services.busy and not transport.aborted
    return connection, transport


def held() -> tuple[Appliance, Any]:
    site, content = Appliance(), image(sizes=(50_000, 60_000, 70_000))
    site.hold(content, "1")
    return site, content


def test_a_client_that_halts_holds_nothing_but_its_own_export() -> None:
    """No more than a piece waits in memory, and when it goes on it gets the rest, to the byte."""
    site, _ = held()
    connection, transport = halted(site)
    head, _, body = transport.value().partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert 40_000 <= len(body) < length
    transport.go_on()
    assert len(transport.value()) - len(head) - 4 == length
    assert not site.services.busy
    connection.connectionLost(Failure(ConnectionDone()))


def test_a_client_that_leaves_is_no_error() -> None:
    """Nothing is logged, nothing is left open."""
    site, _ = held()
    connection, _ = halted(site)
    connection.connectionLost(Failure(ConnectionDone()))
    assert not site.services.busy


def test_a_client_that_takes_nothing_for_too_long_is_cut_off() -> None:
    """A connection is not held for ever."""
    site, _ = held()
    connection, transport = halted(site)
    for _ in range(3):
        site.clock.advance(CLIENT_SILENCE)
    assert transport.aborted and not site.services.busy
    connection.connectionLost(Failure(ConnectionDone()))


def test_a_blob_that_is_gone_breaks_the_connection_off() -> None:
    """Less than was promised is never taken for the whole file."""
    site, content = held()
    connection, transport = halted(site)
    for layer in content.layers:
        site.store._blobs.pop(Digest.parse(layer.digest), None)
    transport.go_on()
    assert transport.aborted and not site.services.busy
    connection.connectionLost(Failure(ConnectionDone()))


def test_a_blob_that_is_shorter_than_it_was_breaks_the_connection_off() -> None:
    """A damaged disk is not padded over."""
    site, content = held()
    connection, transport = halted(site)
    site.store._blobs[Digest.parse(content.layers[-1].digest)] = b"short"
    transport.go_on()
    assert transport.aborted and not site.services.busy
    connection.connectionLost(Failure(ConnectionDone()))


def test_the_next_request_on_the_connection_is_answered() -> None:
    """An export leaves the connection as it found it."""
    site, _ = held()
    connection, transport = halted(site)
    transport.go_on()
    transport.clear()
    connection.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:5001\r\n\r\n")
    assert transport.value().endswith(b'{"status":"ok"}')
    connection.connectionLost(Failure(ConnectionDone()))


# -- documents in pieces ----------------------------------------------------------------------------------------------

INVENTORY = b"GET /api/v1/inventory HTTP/1.0\r\nHost: 127.0.0.1:5001\r\n\r\n"


def test_an_inventory_is_made_while_it_is_read() -> None:
    """Little of it waits in memory for a client that halts, and when it goes on it gets the rest."""
    site, content = held()
    whole = site.get("inventory")
    connection, transport = asked(site, INVENTORY, 250)
    begun = len(transport.value())
    assert 250 <= begun < 600
    transport.go_on()
    assert msgspec.json.decode(transport.value().partition(b"\r\n\r\n")[2]) == whole
    assert len(whole["blobs"]) == 5
    connection.connectionLost(Failure(ConnectionDone()))


def test_a_client_that_leaves_ends_its_inventory() -> None:
    """Nothing more is looked for on its behalf, and nothing is logged as an error."""
    site, _ = held()
    connection, _ = asked(site, INVENTORY, 250)
    looked: list[Digest] = []
    size = site.store.size
    site.store.size = lambda digest: looked.append(digest) or size(digest)  # type: ignore
    connection.connectionLost(Failure(ConnectionDone()))
    assert not looked
