"""Who we are to an upstream: a user name and the file that holds the password."""

from __future__ import annotations

import base64
from pathlib import Path

from appliance.errors import UpstreamDenied


class Credentials:
    """
    A user name and a password that may be changed in its file while the process runs.

    @ivar identity: tells these credentials from others without holding them: it names the user, and changes when the
        password file does. Part of every token's cache key.
    """

    def __init__(self, upstream: str, username: str, password_file: Path) -> None:
        self._upstream = upstream
        self._username = username
        self._file = password_file
        self._password = ""
        self._modified: int | None = None
        self._readings = 0

    @property
    def identity(self) -> str:
        """See the class. Raises L{UpstreamDenied} when the file cannot be read."""
        self._refresh()
        return f"{self._username}#{self._readings}"

    def danger_real_password(self) -> str:
        """The password: never to be logged or put into a message. Raises L{UpstreamDenied}."""
        self._refresh()
        return self._password

    def danger_basic(self) -> bytes:
        """The value of an Authorization field (RFC 7617), as secret as the password. Raises L{UpstreamDenied}."""
        pair = f"{self._username}:{self.danger_real_password()}"
        return b"Basic " + base64.b64encode(pair.encode("utf-8"))

    def _refresh(self) -> None:
        try:
            modified = self._file.stat().st_mtime_ns
            if modified == self._modified:
                return
            text = self._file.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as reason:
            why = reason.strerror if isinstance(reason, OSError) else "it is not UTF-8"
            raise UpstreamDenied(self._upstream, f"password_file {self._file} cannot be read: {why}") from None
        self._password = text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
        self._modified = modified
        self._readings += 1

    def __repr__(self) -> str:
        return f"<Credentials for {self._upstream}>"
