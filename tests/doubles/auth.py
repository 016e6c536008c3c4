"""
Logins of the simulated registry: Basic (RFC 7617) and Bearer with its token endpoint (distribution's token
specification, "Token Authentication").
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qs

from twisted.internet.interfaces import IReactorTime

from tests.doubles.answers import Answer, Exchange, document, error


class Guard(Protocol):
    """Who may ask for what."""

    def refusal(self, exchange: Exchange, repository: str | None) -> Answer | None:
        """The 401 for this request, or C{None}; C{repository} is C{None} for C{/v2/}."""


def basic_login(exchange: Exchange) -> tuple[str, str] | None:
    """User and password of a Basic Authorization header, C{None} when there is none that can be read."""
    scheme, _, credentials = (exchange.header("Authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(credentials).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


def _unauthorized(challenge: str) -> Answer:
    return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})


@dataclass
class BasicAuth:
    """Every request must carry a login out of C{accounts}: passwords by user."""

    accounts: dict[str, str]
    realm: str = "simulated"

    def refusal(self, exchange: Exchange, repository: str | None) -> Answer | None:
        """See L{Guard}."""
        login = basic_login(exchange)
        if login is not None and self.accounts.get(login[0]) == login[1]:
            return None
        return _unauthorized(f'Basic realm="{self.realm}"')


@dataclass
class BearerAuth:
    """
    Every request must carry a token that this object has handed out for the repository and that has not expired.

    @ivar realm: URL of the token endpoint; empty: C{/token} on the origin that was asked.
    @ivar accounts: passwords by user; a wrong login gets no token.
    @ivar anonymous: whether a token is given without a login.
    @ivar lifetime: seconds a token is good for.
    @ivar told: what C{expires_in} says; C{None} leaves it out.
    @ivar challenge: sent in place of the usual one, for challenges that are hard to read.
    """

    clock: IReactorTime
    realm: str = ""
    service: str = "simulated"
    accounts: dict[str, str] = field(default_factory=dict)
    anonymous: bool = True
    lifetime: float = 60.0
    told: int | None = 60
    challenge: str = ""
    issued: dict[str, tuple[float, list[str]]] = field(default_factory=dict)

    def refusal(self, exchange: Exchange, repository: str | None) -> Answer | None:
        """See L{Guard}."""
        wanted = f"repository:{repository}:pull" if repository else None
        scheme, _, token = (exchange.header("Authorization") or "").partition(" ")
        expires, scopes = self.issued.get(token, (0.0, []))
        alive = scheme.lower() == "bearer" and token in self.issued and self.clock.seconds() < expires
        if alive and (wanted is None or wanted in scopes):
            return None
        return _unauthorized(self.challenge or self._challenge(exchange, wanted))

    def _challenge(self, exchange: Exchange, scope: str | None) -> str:
        realm = self.realm or f"http://{exchange.header('Host')}/token"
        parts = [f'Bearer realm="{realm}"', f'service="{self.service}"']
        return ",".join([*parts, f'scope="{scope}"'] if scope else parts)

    def token(self, exchange: Exchange) -> Answer:
        """Answer a request to the token endpoint."""
        login = basic_login(exchange)
        if login is None and not self.anonymous:
            return error(401, "UNAUTHORIZED", "a login is needed")
        if login is not None and self.accounts.get(login[0]) != login[1]:
            return error(401, "UNAUTHORIZED", "wrong login")
        token = f"token-{len(self.issued) + 1}"
        self.issued[token] = (self.clock.seconds() + self.lifetime, parse_qs(exchange.query).get("scope", []))
        expiry = {} if self.told is None else {"expires_in": self.told}
        return document({"token": token, "access_token": token, **expiry})
