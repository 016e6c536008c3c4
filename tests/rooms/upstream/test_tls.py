"""TLS towards upstreams, in memory: bytes in few pieces, none lost at the end and none after a broken record."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from appliance.upstream.http.tls import TlsEndpoint
from tests.doubles.certificates import authority

CA = authority()
HOST = "registry.example"
SERVER = CA.issue(HOST)


class Reader(Protocol):
    """Our side above TLS: each piece as it came, and how it ended."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ended: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        assert not self.ended
        self.pieces.append(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.ended.append(reason)


@implementer(IStreamClientEndpoint)
class Connected:
    """An endpoint that has its connection."""

    def __init__(self, wire: StringTransport) -> None:
        self.wire = wire
        self.protocol: Any = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See L{IStreamClientEndpoint}."""
        self.protocol = protocolFactory.buildProtocol(None)  # type: ignore[arg-type]
        self.protocol.makeConnection(self.wire)
        return succeed(self.protocol)


class Line:
    """Our side, and a server whose bytes come when the test says so."""

    def __init__(self) -> None:
        self.reader, wire = Reader(), StringTransport()
        root = trustRootFromCertificates([Certificate.loadPEM(CA.certificates)])
        connected = Connected(wire)
        endpoint = TlsEndpoint(optionsForClientTLS(HOST, trustRoot=root), connected, Clock())
        assert verifyObject(IStreamClientEndpoint, endpoint)
        given: list[Any] = []
        endpoint.connect(Factory.forProtocol(lambda: self.reader)).addCallback(given.append)
        assert given == [self.reader]
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(SERVER.certificate)
        context.use_privatekey(SERVER.key)
        self.server = SSL.Connection(context, None)
        self.server.set_accept_state()
        self.ours, self.wire = connected.protocol, wire
        for _ in range(4):
            self.server.bio_write(wire.value())
            wire.clear()
            try:
                self.server.do_handshake()
            except SSL.WantReadError:
                self.ours.dataReceived(self.sent())
            else:
                break
        self.ours.dataReceived(self.sent())

    def sent(self) -> bytes:
        """What the server has sent since."""
        return self.server.bio_read(1 << 20)

    def read(self, data: bytes) -> None:
        """One read of our socket."""
        self.ours.dataReceived(data)
        if self.wire.disconnecting:
            self.ours.connectionLost(Failure(ConnectionDone()))


@pytest.fixture
def line() -> Line:
    return Line()


def records(line: Line, count: int) -> list[bytes]:
    """So many full records, as bytes of the blob."""
    blob = [bytes([number]) * 16384 for number in range(count)]
    for each in blob:
        line.server.send(each)
    return blob


def test_what_was_read_at_once_is_passed_on_at_once(line: Line) -> None:
    """Thirty records are one piece of a blob, and what is left of a record waits for the rest of it."""
    blob = records(line, 30)
    sent = line.sent()
    line.read(sent[:-1])
    assert line.reader.pieces == [b"".join(blob[:-1])]
    line.read(sent[-1:])
    assert line.reader.pieces[1:] == blob[-1:]


def test_the_last_bytes_come_before_the_end(line: Line) -> None:
    """A server that closes right after its answer: all in one read."""
    blob = records(line, 3)
    line.server.shutdown()
    line.read(line.sent())
    assert line.reader.pieces == [b"".join(blob)]
    assert len(line.reader.ended) == 1


def test_a_broken_record_ends_the_connection(line: Line) -> None:
    """What stood whole before it is passed on, nothing of it or after it is, and the reason is what OpenSSL said."""
    blob = records(line, 2)
    whole = line.sent()
    records(line, 2)
    broken = bytearray(line.sent())
    broken[100] ^= 1
    line.read(whole + broken)
    assert line.reader.pieces == [b"".join(blob)]
    [reason] = line.reader.ended
    assert "bad record mac" in str(reason.value)
