"""Sessions of browsers: who logged in with a token is known by a cookie from then on, for some hours."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_bytes, token_urlsafe

from twisted.internet.interfaces import IReactorTime

DURATION = 12 * 3600.0
"""Seconds from the log-in on, however much the session is used."""

MOST = 1000
"""Sessions at a time; the oldest goes for a new one."""


@dataclass(frozen=True)
class OpenSession:
    """
    One session; the secret that the browser has for it is not kept.

    @ivar grant: the digest of the token that it was opened with (L{appliance.identity.roles.Grant}).
    @ivar csrf: what a page of the session adds to every request that changes something. It follows from the secret,
        and the secret does not follow from it.
    @ivar until: when it ends, seconds of the clock.
    """

    grant: bytes
    csrf: str
    until: float

    def __repr__(self) -> str:
        return "OpenSession()"


class Sessions:
    """The sessions of one appliance; a restart ends them."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._key = token_bytes(32)
        self._open: OrderedDict[bytes, OpenSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, grant: bytes) -> str:
        """Begin one for who has shown that token; the secret for the cookie."""
        secret = token_urlsafe(32)
        csrf = urlsafe_b64encode(self._hashed(secret, b"csrf")).rstrip(b"=").decode("ascii")
        while len(self._open) >= MOST:
            self._open.popitem(last=False)
        self._open[self._hashed(secret)] = OpenSession(grant, csrf, self._clock.seconds() + DURATION)
        return secret

    def find(self, secret: str) -> OpenSession | None:
        """The session that the secret is of, C{None} when there is none, or not any more."""
        name = self._hashed(secret)
        found = self._open.get(name)
        if found is not None and found.until <= self._clock.seconds():
            del self._open[name]
            return None
        return found

    def end(self, secret: str) -> None:
        """End it, if there is one."""
        self._open.pop(self._hashed(secret), None)

    def _hashed(self, secret: str, person: bytes = b"") -> bytes:
        # Sessions are looked up by a hash with a key: how long that takes says nothing about the secrets there are.
        return blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=32, key=self._key, person=person).digest()
