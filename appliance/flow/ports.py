"""The ports on which clients and operators are answered."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)

from appliance.errors import ConfigError
from appliance.flow.sendfile import SendfileReactor


def server_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """
    The endpoint that C{description} means; nothing is opened.

    @raise ConfigError: it means none: its type is unknown, an argument is wrong, or a file it names cannot be used.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(SendfileReactor(reactor), description)
    except Exception as error:
        # An endpoint's own parser, or OpenSSL, may raise anything.
        raise ConfigError(f"{description}: {error}; see Twisted's server endpoint strings") from error
    return endpoint


class Ports:
    """All that are open. Connections wait until L{accept}."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        # Every stream port of Twisted is a file descriptor as well, which can be read or not.
        self._open: list[Any] = []

    def open(self, description: str, factory: IProtocolFactory, endpoint: IStreamServerEndpoint | None = None) -> None:
        """
        Listen.

        @param endpoint: what C{description} means; C{None} for what Twisted says that it does.
        @raise ConfigError: why not, in one line.
        """
        outcome: list[Any] = []
        # Every endpoint here binds its port before it returns.
        wanted = server_endpoint(self._reactor, description) if endpoint is None else endpoint
        wanted.listen(factory).addBoth(outcome.append)
        if outcome and IListeningPort.providedBy(outcome[0]):
            self._open.append(outcome[0])
            self._open[-1].stopReading()
            return
        reason = outcome[0].value if outcome else "it did not open at once"
        if isinstance(reason, CannotListenError):
            reason = reason.socketError
        raise ConfigError(f"cannot listen on {description}: {reason}; is another process using it?")

    def accept(self) -> None:
        """Accept connections: those that wait, and those that come from now on."""
        for port in self._open:
            if port.connected:
                port.startReading()

    async def close(self) -> None:
        """Accept no more connections; returns when the ports are free."""
        await DeferredList([maybeDeferred(port.stopListening) for port in self._open])
