"""Files that hold a secret: a password, a token, or more than one of them."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from appliance.errors import UpstreamDenied
from appliance.interfaces import IThreads
from appliance.upstream.interfaces import Secret

#: Bytes; a config.json of a thousand registries is far below.
MAX_SECRET_BYTES = 1024 * 1024

#: Modification time in ns, size in bytes, inode: what a file replaced or written to does not keep.
_Stamp = tuple[int, int, int]


class SecretFile:
    """
    A small file that is read again when it has changed.

    @ivar shown: its key in the configuration and its path.
    """

    def __init__(self, key: str, path: Path, upstream: str, threads: IThreads) -> None:
        # Quoted where needed, so that its end can be found when it is left out of what clients are sent.
        self.shown = f"{key} {shlex.quote(str(path))}"
        self._path = path
        self._upstream = upstream
        self._threads = threads
        self._stamp: _Stamp | None = None
        self._danger_data = b""

    async def read(self, again: bool) -> bytes:
        """
        What the file holds.

        @param again: whether it is read although it looks unchanged: two changes in one tick of the file system's clock
            look like one.
        @raise UpstreamDenied: it cannot be read.
        """
        known = None if again else self._stamp
        try:
            changed = await self._threads.call(_read_changed, self._path, known)
        except OSError as reason:
            raise self.fault(f"cannot be read: {reason.strerror}") from None
        if changed is not None:
            self._stamp, self._danger_data = changed
        if len(self._danger_data) > MAX_SECRET_BYTES:
            self._danger_data = b""
            self._stamp = None
            raise self.fault(f"is larger than {MAX_SECRET_BYTES} bytes")
        return self._danger_data

    async def text(self, again: bool) -> str:
        """What the file holds, without the newline at its end that editors and echo put there."""
        try:
            text = (await self.read(again)).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault("cannot be read: it is not UTF-8") from None
        return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")

    def fault(self, why: str) -> UpstreamDenied:
        """The error that the file cannot be used."""
        return UpstreamDenied(self._upstream, f"{self.shown} {why}")

    def __repr__(self) -> str:
        return f"<SecretFile {self.shown}>"


class PasswordFile:
    """A L{appliance.upstream.credentials.renewing.SecretSource}: the password of a user whose name is known."""

    edited = True

    def __init__(self, username: str, path: Path, upstream: str, threads: IThreads) -> None:
        self._username = username
        self._file = SecretFile("password_file", path, upstream, threads)
        self.shown = self._file.shown

    async def read(self, again: bool) -> Secret:
        """See L{SecretSource.read}. The password may be empty."""
        return Secret("", self._username, await self._file.text(again))


class TokenFile:
    """A L{appliance.upstream.credentials.renewing.SecretSource}: a token, white space around it left out."""

    edited = True

    def __init__(self, path: Path, upstream: str, threads: IThreads, username: str, use: Secret.Use) -> None:
        """
        @param use: how it is presented; as a password it goes with C{username}.
        """
        self._username = username
        self._use = use
        self._file = SecretFile("token_file", path, upstream, threads)
        self.shown = self._file.shown

    async def read(self, again: bool) -> Secret:
        """See L{SecretSource.read}."""
        text = (await self._file.text(again)).strip()
        if not text:
            raise self._file.fault("is empty; write the token into it")
        return Secret("", self._username, text, self._use)


def _read_changed(path: Path, known: _Stamp | None) -> tuple[_Stamp, bytes] | None:
    """The file's stamp and content, C{None} when its stamp is C{known}. Blocks."""
    if known is not None and _stamp(os.stat(path)) == known:
        return None
    # Opening a pipe or a device must not hang a thread.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no regular file")
        return _stamp(status), file.read(MAX_SECRET_BYTES + 1)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino
