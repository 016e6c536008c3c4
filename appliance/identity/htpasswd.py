"""
Users and the bcrypt hashes of their passwords in a file, as C{htpasswd -B} of Apache writes it: C{USER:HASH} a line.
C{htpasswd:PATH} in C{checkers} (C{plugins/pullcache_checkers.py}).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import bcrypt
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import implementer

from appliance.errors import ConfigError
from appliance.flow.disk import FileStamp, stamp
from appliance.identity.interfaces import IBlockingChecker, IUserFile

MOST_BYTES = 16 * 2**20
"""Of a file, which is some two hundred thousand users."""
COSTLIEST = 14
"""The most that a hash may cost, as a power of two: a second of a processor for each password, right or wrong."""
SETTLED = 1.0
"""Seconds for which a file must not have been written before it is read again: C{htpasswd} writes over the old one."""

# bcrypt(3): what follows is not looked at, whoever makes or compares the hash.
_COUNTS = 72
_HASH = re.compile(rb"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_OTHERS = (
    (rb"\$apr1\$", "an MD5"),
    (rb"\{SHA\}", "a SHA-1"),
    (rb"\$1\$", "an MD5"),
    (rb"\$[56y]\$|\$2", "another"),
    (rb"[./A-Za-z0-9]{13}$", "a crypt"),
)


def parse_htpasswd(data: bytes, path: object) -> dict[bytes, bytes]:
    """
    The hashes by user.

    @param path: for the message.
    @raise ConfigError: the file cannot be used; the message has the number of the line, and nothing of what stands in
        it but the user.
    """
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} is larger than {MOST_BYTES} bytes; is it a file of htpasswd?")
    hashes: dict[bytes, bytes] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        user, colon, rest = line.partition(b":")
        where = f"{path}, line {number}"
        if not colon or not _is_name(user):
            # What it is may be a password.
            raise ConfigError(f"{where}: is no USER:HASH; make the line with htpasswd -B")
        hashed, _, _ = rest.partition(b":")
        form = _HASH.fullmatch(hashed)
        name = user.decode()
        if form is None:
            kind = next((kind for pattern, kind in _OTHERS if re.match(pattern, hashed)), "no")
            raise ConfigError(f"{where}: the user {name} has {kind} hash, bcrypt is wanted; make it with htpasswd -B")
        if not 4 <= int(form[1]) <= COSTLIEST:
            raise ConfigError(
                f"{where}: the hash of {name} costs {int(form[1])}; make one of 5 to {COSTLIEST} with htpasswd -B -C 10"
            )
        if user in hashes:
            raise ConfigError(f"{where}: the user {name} is there twice; remove one of the lines")
        hashes[user] = hashed
    return hashes


@implementer(IBlockingChecker, IUserFile)
class HtpasswdChecker:
    """
    The users of one file, as it was when it was last looked at.

    A password of a user that is not there costs what that of another user does, always the same one for the same name:
    the time tells nothing.
    """

    credentialInterfaces = (IUsernamePassword,)
    _log = Logger()

    def __init__(self, path: str) -> None:
        """@raise ConfigError: the file cannot be read or used."""
        self._path = Path(path)
        # Kept as long as the process: strangers shall not change to another hash when the file changes.
        self._key = os.urandom(16)
        self._hashes: Mapping[bytes, bytes] = {}
        self._stand_ins: list[bytes] = []
        self._version = 0
        self._seen: FileStamp | None = None
        self._fault = ""
        try:
            self._read()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; give a file that htpasswd -B has made") from error

    def requestAvatarId(self, credentials: IUsernamePassword) -> Deferred[bytes | tuple[()]]:
        """
        See L{ICredentialsChecker}.

        @return: fires with the user's name, or fails with L{UnauthorizedLogin}.
        """
        user, password = credentials.username, credentials.password
        hashed = self._hashes.get(user)
        compared = self._stand_in(user) if hashed is None else hashed
        fits = compared is not None and b"\0" not in password and bcrypt.checkpw(password[:_COUNTS], compared)
        return succeed(user) if fits and hashed is not None else fail(UnauthorizedLogin())

    def look(self, now: float) -> object:
        """See L{IUserFile.look}."""
        try:
            status = self._path.stat()
            if stamp(status) != self._seen and not 0 <= now - status.st_mtime < SETTLED:
                self._seen = stamp(status)
                self._fault = ""
                self._read()
                self._log.info("{path} was read again: {users} users", path=self._path, users=len(self._hashes))
        except (OSError, ConfigError) as error:
            if str(error) != self._fault:
                self._fault = str(error)
                self._log.error("{fault}; the users of before stay in force", fault=self._fault)
        return self._version

    def entry(self, user: str) -> bytes | None:
        """See L{IUserFile.entry}."""
        return self._hashes.get(user.encode())

    def _read(self) -> None:
        with self._path.open("rb") as file:
            self._seen = stamp(os.fstat(file.fileno()))
            hashes = parse_htpasswd(file.read(MOST_BYTES + 1), self._path)
        if hashes != self._hashes:
            self._hashes, self._stand_ins = hashes, list(hashes.values())
            self._version += 1

    def _stand_in(self, user: bytes) -> bytes | None:
        others = self._stand_ins
        if not others:
            return None
        chosen = int.from_bytes(blake2b(user[:255], key=self._key, digest_size=8).digest(), "big")
        return others[chosen % len(others)]


def _is_name(user: bytes) -> bool:
    try:
        return user.decode().isprintable() and 0 < len(user) <= 255
    except UnicodeDecodeError:
        return False
