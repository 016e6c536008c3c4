"""Files over TLS keep what every file transport promises, sent by the reactor and by threads."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet.protocol import Protocol

from appliance.flow.pump import Pump
from appliance.flow.sendfile import SendfileServer, file_transport
from appliance.tls.certificates import NamedFiles
from appliance.tls.server import NO_DEMANDS, TlsServer
from appliance.tls.transport import TlsConnection
from tests.contracts.file_transport import FileTransportContract, Remembered
from tests.doubles.certificates import authority

ROOT = authority("Root")
SITE = ROOT.issue("a.site")


class Client:
    """A client's end that has the manners of a socket."""

    def __init__(self, plain: socket.socket) -> None:
        self._tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD), plain)
        self._tls.set_connect_state()
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def shakes_hands(self) -> bool:
        """Whether the handshake is done."""
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        return True

    def recv(self, size: int) -> bytes:
        try:
            return self._tls.recv(size)
        except SSL.WantReadError:
            raise BlockingIOError from None
        except SSL.ZeroReturnError:
            self.shutdown(socket.SHUT_WR)
            return b""
        except SSL.SysCallError as error:
            raise ConnectionResetError(*error.args) from None

    def shutdown(self, how: int) -> None:
        try:
            self._tls.shutdown()
            self._plain.shutdown(how)
        except (SSL.Error, OSError):
            pass


class ReactorSendsTlsTests(FileTransportContract):
    """Where there is one core."""

    __test__ = True

    def begin(self) -> None:
        self.pump: Pump | None = None
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        files = NamedFiles(*SITE.write(Path(folder.name), "site"))
        self.tls = TlsServer(files, NO_DEMANDS, self.reactor)

    def make(self, ours: socket.socket, protocol: Protocol) -> SendfileServer:
        port = SimpleNamespace(pump=self.pump, _realPortNumber=5000)
        return TlsConnection(self.tls, ours, protocol, ours.getpeername(), port, 1, self.reactor)

    def connect(self, protocol: Remembered) -> None:
        super().connect(protocol)
        client: Any = Client(self.client)
        self.client = client
        self.run_until(client.shakes_hands, is_reading=False)
        self.reactor.turn()

    def stop(self) -> None:
        pass

    def test_bytes_of_files_go_by_way_of_openssl(self) -> None:
        assert file_transport(self.server) is self.server
        assert self.server.fileno() != -1


class ThreadsSendTlsTests(ReactorSendsTlsTests):
    """Where there are more."""

    def begin(self) -> None:
        super().begin()
        self.pump = Pump(self.reactor, 2)
        self.pump.start()

    def stop(self) -> None:
        assert self.pump is not None
        self.pump.stop()

    def test_what_a_client_says_meanwhile_is_read(self) -> None:
        """As its next request, or that it closes."""
        said: list[bytes] = []
        self.protocol.dataReceived = said.append  # type: ignore[method-assign]
        self.send()
        self.get_stuck()
        self.client._tls.send(b"GET")
        self.run_until(lambda: said, is_reading=False)
        assert said == [b"GET"]
        self.run_until(lambda: sum(self.sent) == len(self.data) == len(self.received))
        assert bytes(self.received) == self.data

    @property
    def data(self) -> bytes:
        return os.pread(self.file, 1 << 30, 0)
