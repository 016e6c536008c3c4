"""An open file with several readers."""

from __future__ import annotations

import os

from zope.interface import implementer

from appliance.interfaces import IOpenFile


@implementer(IOpenFile)
class SharedFile:
    """
    A file descriptor that is closed when its last reader lets go.

    Readers use explicit offsets (C{os.pread}, C{os.sendfile}), so that one descriptor serves them all.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._readers = 1

    def acquire(self) -> None:
        """See L{IOpenFile.acquire}."""
        if self._readers == 0:
            raise ValueError("the file is closed already")
        self._readers += 1

    def release(self) -> None:
        """See L{IOpenFile.release}."""
        if self._readers == 0:
            raise ValueError("the file is closed already")
        self._readers -= 1
        if self._readers == 0:
            os.close(self.fd)
