"""What an operator may order: roles, who has which, and the tokens that say so, from a file that is read again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from secrets import token_bytes
from typing import Any

from twisted.logger import Logger

from appliance.errors import ConfigError
from appliance.flow.disk import stamp_of

FILE_LIMIT = 256 * 1024
"""The most bytes of a file of tokens."""

TOKEN_LIMIT = 1024
"""The longest token, in characters."""

_SHORT = 16
# Printable, without blanks: what RFC 6750 section 2.1 has room for, and a little more.
_TOKEN = re.compile(rf"[!-~]{{1,{TOKEN_LIMIT}}}")


class Role(IntEnum):
    """What an operator may order; who has one has all below it."""

    READ = 1
    """Look at everything."""
    OPERATE = 2
    """Also what brings or keeps images: export, import, seed, pin."""
    MANAGE = 3
    """Also what takes them away or changes the appliance: remove, collect, scrub, reload."""

    @property
    def word(self) -> str:
        """As it is written in files and answers."""
        return self.name.lower()

    @classmethod
    def named(cls, word: str) -> Role | None:
        """The role that C{word} is, C{None} for none."""
        return next((role for role in cls if role.word == word), None)


ROLES = ", ".join(role.word for role in Role)
"""The words of all roles, for messages."""


@dataclass(frozen=True)
class Operator:
    """
    Who asks the admin endpoint.

    @ivar role: what it may order.
    @ivar name: which one it is: a certificate's name, the place of a token in its file (C{token 2}), a user of this
        machine (C{uid 1000}), or empty where nothing is asked for.
    @ivar means: how that is known: C{"socket"}, C{"token"}, C{"session"}, C{"certificate"}, or C{"address"}: not at
        all, who reaches the endpoint is an operator.
    @ivar address: where the request comes from, C{"-"} for a socket.
    """

    role: Role
    name: str = ""
    means: str = "address"
    address: str = "-"

    @property
    def noted(self) -> dict[str, Any]:
        """As L{appliance.interfaces.IAudit.note} takes it."""
        return {"user": self.name or None, "means": self.means, "address": self.address}


@dataclass(frozen=True)
class Grant:
    """
    One token of the file; its text is not kept.

    @ivar digest: a hash with a key that only this process has.
    @ivar place: which token of the file it is, from 1 on.
    """

    digest: bytes
    place: int
    role: Role

    def __repr__(self) -> str:
        return f"Grant({self.name}, {self.role.word})"

    @property
    def name(self) -> str:
        """See L{Operator.name}."""
        return f"token {self.place}"


class OperatorTokens:
    """
    The tokens of a file: a line C{ROLE TOKEN} for each, or C{TOKEN} alone, which is C{manage}; empty lines and those
    that begin with C{#} do not count.

    The file is looked at whenever a token is to be found. One that cannot be read, or is not understood, leaves those
    that were read before in force, and is told in the log once.
    """

    _log = Logger()

    def __init__(self, path: Path, key: bytes | None = None) -> None:
        """
        Read the file.

        @param key: for L{Grant.digest}; C{None} for one that nothing else has.
        @raise ConfigError: it cannot be read, or is not understood. No message has anything of a token.
        """
        self._path = path
        self._key = token_bytes(32) if key is None else key
        self._seen = stamp_of(path)
        self._grants = self._read()

    def find(self, token: str) -> Grant | None:
        """What C{token} gives, C{None} for one that is not in the file; takes as long wherever it stands there."""
        return self.held(blake2b(token.encode("utf-8", "surrogatepass"), key=self._key).digest())

    def held(self, digest: bytes) -> Grant | None:
        """What the token with this L{Grant.digest} gives now, C{None} when it is not in the file any more."""
        self._look()
        found = None
        for grant in self._grants:
            if compare_digest(grant.digest, digest):
                found = grant
        return found

    def _look(self) -> None:
        state = stamp_of(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._grants = self._read()
        except ConfigError as error:
            self._log.error("the tokens were not read again, those from before stay in force: {error}", error=error)
        else:
            self._log.info("the tokens of {path} were read again", path=self._path)

    def _read(self) -> tuple[Grant, ...]:
        try:
            with self._path.open("rb") as file:
                data = file.read(FILE_LIMIT + 1)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be read: {error.strerror}") from None
        if len(data) > FILE_LIMIT:
            raise ConfigError(f"{self._path}: is larger than {FILE_LIMIT} bytes; a line for each token is enough")
        grants = tuple(self._parsed(data))
        if not grants:
            raise ConfigError(f"{self._path}: holds no token; write a line ROLE TOKEN, with a role of {ROLES}")
        return grants

    def _parsed(self, data: bytes) -> Iterator[Grant]:
        places: dict[bytes, int] = {}
        for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            role = Role.MANAGE if len(words) == 1 else Role.named(words[0])
            # A role alone is a line whose token was forgotten.
            if role is None or len(words) > 2 or Role.named(words[-1]) or not _TOKEN.fullmatch(words[-1]):
                raise ConfigError(
                    f"{self._path}: line {number} is no token; write ROLE TOKEN, with a role of {ROLES} and a token"
                    f" of at most {TOKEN_LIMIT} characters without blanks"
                )
            grant = Grant(blake2b(words[-1].encode(), key=self._key).digest(), len(places) + 1, role)
            if (before := places.setdefault(grant.digest, grant.place)) != grant.place:
                raise ConfigError(f"{self._path}: line {number} is the same as token {before}; keep one of them")
            if len(words[-1]) < _SHORT:
                short = "{path}: {name} has less than {least} characters and can be guessed; try openssl rand -hex 32"
                self._log.warn(short, path=self._path, name=grant.name, least=_SHORT)
            yield grant
