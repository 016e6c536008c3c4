"""The ports on which clients and operators are answered."""

from __future__ import annotations

import errno
import os
import socket
import stat
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


def server_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """
    The endpoint that C{description} means; nothing is opened.

    @param reactor: see L{appliance.flow.sendfile.SendfileReactor}.
    @raise ConfigError: it means none: its type is unknown, an argument is wrong, or a file it names cannot be used.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:
        # An endpoint's own parser, or OpenSSL, may raise anything.
        raise ConfigError(f"{description}: {error}; see Twisted's server endpoint strings") from error
    return endpoint


def _remove_unused(path: str) -> None:
    """Remove a socket on which no process listens. Raises L{OSError} for one that is used, and for anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "there is a file that is no socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            # Others wait to be let in.
            pass
    raise OSError(errno.EADDRINUSE, "another process answers there")


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

    def open_socket(self, path: str, factory: IProtocolFactory) -> None:
        """
        Listen on a UNIX socket, which its user and its group may open. What a process that was killed left there is
        removed.

        @raise ConfigError: why not, in one line: somebody answers there, or the folder is missing or not to be written.
        """
        try:
            _remove_unused(path)
        except OSError as error:
            raise ConfigError(f"cannot listen on unix:{path}: {error.strerror}") from None
        if not os.access(folder := os.path.dirname(path), os.W_OK | os.X_OK):
            raise ConfigError(f"cannot listen on unix:{path}: {folder} is no folder that this user may write")
        # No lock file: where each process of a container has the same number, a lock is taken for its own for ever.
        escaped = path.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")
        self.open(f"unix:address={escaped}:mode=660:lockfile=0", factory)

    def accept(self) -> None:
        """Accept connections: those that wait, and those that come from now on."""
        for port in self._open:
            if port.connected:
                port.startReading()

    async def close(self) -> None:
        """Accept no more connections; returns when the ports are free."""
        await DeferredList([maybeDeferred(port.stopListening) for port in self._open])
