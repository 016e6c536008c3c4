"""Both ways in which a file goes out over TCP keep what every one of them promises."""

from __future__ import annotations

import socket
from types import SimpleNamespace

from twisted.internet.protocol import Protocol

from appliance.flow.pump import Pump
from appliance.flow.sendfile import SendfileServer
from tests.contracts.file_transport import FileTransportContract


class ReactorSendsTests(FileTransportContract):
    """Where there is one core."""

    __test__ = True

    def begin(self) -> None:
        """It needs nothing."""
        self.pump: Pump | None = None

    def make(self, ours: socket.socket, protocol: Protocol) -> SendfileServer:
        """See L{FileTransportContract.make}."""
        port = SimpleNamespace(pump=self.pump, _realPortNumber=5000)
        return SendfileServer(ours, protocol, ours.getpeername(), port, 1, self.reactor)

    def stop(self) -> None:
        """There is nothing to end."""


class ThreadsSendTests(ReactorSendsTests):
    """Where there are more."""

    def begin(self) -> None:
        """Start two."""
        self.pump = Pump(self.reactor, 2)
        self.pump.start()

    def stop(self) -> None:
        """End them."""
        assert self.pump is not None
        self.pump.stop()
