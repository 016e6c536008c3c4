"""
Who asks the admin endpoint, decided once for each request from its head and its connection.

A socket file is reached by whom its mode lets in, and is C{manage}. On TCP a bearer token (RFC 6750), the session of a
browser that has shown one, or a client certificate says who it is; where the configuration wants none of these, who
reaches the endpoint is an operator.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from hmac import compare_digest
from secrets import token_bytes
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.unix import Server
from twisted.web.http_headers import Headers

from appliance.admin.failures import Refused
from appliance.flow.http import values_of
from appliance.flow.origins import host_of
from appliance.identity.roles import TOKEN_LIMIT, Grant, Operator, OperatorTokens, Role
from appliance.identity.sessions import OpenSession, Sessions
from appliance.settings import AdminSettings
from appliance.tls.peers import names_of

COOKIE = "pullcache_session"
"""Holds the secret of a session; where the endpoint is reached at a port, C{_PORT} follows."""

CSRF = "X-CSRF-Token"
"""The field that a page of a session adds to every request that changes something."""

WRONG_TOKEN = "that token is not, or no longer, in the appliance's admin: token_file"

_SAFE = frozenset({b"GET", b"HEAD"})
_PEER = struct.Struct("3i")


class Operators:
    """
    Knows the operators.

    @ivar sessions: those of browsers.
    @ivar metrics_open: whether metrics are for everybody.
    """

    def __init__(self, settings: AdminSettings, clock: IReactorTime) -> None:
        """Raises L{ConfigError}, as L{configure} does."""
        self.sessions = Sessions(clock)
        # Of tokens' digests: a session outlives that their file is read again.
        self._key = token_bytes(32)
        self.configure(settings)

    def configure(self, settings: AdminSettings) -> None:
        """
        Follow a configuration; files are read again.

        @raise ConfigError: a file cannot be used; then nothing has changed.
        """
        tokens = None if settings.token_file is None else OperatorTokens(settings.token_file, self._key)
        self._tokens, self._asks_certificates = tokens, settings.client_ca_file is not None
        self._roles: Mapping[str, Role] = {name: Role[word.upper()] for name, word in settings.client_roles.items()}
        self.metrics_open = settings.metrics == "open"

    @property
    def asks(self) -> bool:
        """Whether anything is asked for on TCP."""
        return self._tokens is not None or self._asks_certificates

    def identify(self, method: bytes, headers: Headers, transport: Any) -> Operator:
        """
        Who sends a request.

        @raise Refused: 401: it has to say who, or what it says is wrong. 403: it comes from a browser's session without
            what only a page of that session knows, or has a certificate without a role.
        """
        # Not by the address: what stands in front of haproxy: may say of anybody that they came by a socket.
        if isinstance(transport, Server):
            return Operator(Role.MANAGE, _user_of(transport), "socket")
        address = getattr(transport.getPeer(), "host", "-")
        if not self.asks:
            return Operator(Role.MANAGE, "", "address", address)
        authorization = values_of(headers, b"Authorization")
        if authorization:
            grant = self.granted(_bearer(authorization))
            if grant is None:
                raise login_required(WRONG_TOKEN, "invalid_token")
            return Operator(grant.role, grant.name, "token", address)
        session, grant = self.session_of(headers)
        if session is not None and grant is not None:
            shown = "".join(values_of(headers, CSRF.encode("ascii"))).encode("utf-8")
            if method not in _SAFE and not compare_digest(shown, session.csrf.encode("ascii")):
                why = f"a browser's session changes something only with {CSRF}, as its own pages send it"
                raise Refused(403, "csrf", why)
            return Operator(grant.role, grant.name, "session", address)
        names = names_of(transport) if self._asks_certificates else None
        if names:
            name = max((name for name in names if name in self._roles), key=self._roles.__getitem__, default=None)
            if name is None:
                raise Refused(403, "role-too-low", f"{names[0][:160]} has no role; give it one in admin: client_roles")
            return Operator(self._roles[name], name, "certificate", address)
        raise login_required("the admin endpoint asks who you are: give pullcache a --token-file, or log in at /login")

    def granted(self, token: str) -> Grant | None:
        """What a token gives, C{None} for one that is not known, or where none is."""
        return self._tokens.find(token) if self._tokens is not None and len(token) <= TOKEN_LIMIT else None

    def session_of(self, headers: Headers) -> tuple[OpenSession | None, Grant | None]:
        """A browser's session and what its token gives now; one whose token is gone is none."""
        session = self.sessions.find(cookie_of(headers))
        grant = None if session is None or self._tokens is None else self._tokens.held(session.grant)
        return (None, None) if grant is None else (session, grant)


def cookie_name(headers: Headers) -> str:
    """
    What the cookie is called where a browser reaches us.

    Cookies are not told apart by their port (RFC 6265 section 8.5): the sessions of two appliances that are reached at
    C{localhost}, by tunnels perhaps, would end each other.
    """
    host = host_of(headers)
    return f"{COOKIE}_{host.port}" if host is not None and host.port else COOKIE


def cookie_of(headers: Headers) -> str:
    """The secret in the session's cookie, empty where there is none (RFC 6265 section 4.2)."""
    wanted = cookie_name(headers)
    for field in values_of(headers, b"Cookie"):
        for pair in field.split(";"):
            name, _, value = pair.strip().partition("=")
            if name == wanted:
                return value
    return ""


def _bearer(values: Sequence[str]) -> str:
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer":
        raise login_required("Authorization: this endpoint takes a token, as in Authorization: Bearer TOKEN")
    return token.strip()


def login_required(why: str, error: str = "") -> Refused:
    """RFC 6750 section 3: no error code for who has shown nothing yet."""
    challenge = 'Bearer realm="pullcache"' + (f', error="{error}"' if error else "")
    return Refused(401, "login-required", why, {"WWW-Authenticate": challenge})


def _user_of(transport: Server) -> str:
    """The user at the other end of a socket, as the kernel says (unix(7), SO_PEERCRED)."""
    handle = transport.socket
    _, user, _ = _PEER.unpack(handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return f"uid {user}"
