"""
Who asks: from a connection and the headers of one request to a L{Client}, by what its listener wants to know.

C{login: none} asks nobody, C{offered} takes who logs in, C{required} answers nobody else. A client certificate counts
as a login; a password that comes with it says more precisely who it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from twisted.internet.interfaces import ISSLTransport

from appliance.cache.access import Client
from appliance.errors import (
    LoginExposed,
    LoginRequired,
    LoginsBusy,
    LoginUnavailable,
    LoginWrong,
    PullcacheError,
    RequestInvalid,
)
from appliance.flow.connections import machine_of
from appliance.flow.lru import LeastRecentlyUsed
from appliance.identity.passwords import Passwords, parse_basic
from appliance.identity.proxies import Networks, is_loopback, is_within, origin, plain_address, was_encrypted
from appliance.interfaces import IAudit
from appliance.registry.request import RegistryRequest
from appliance.settings import LOGIN_NONE, ListenSettings
from appliance.tls.peers import names_of

CLIENTS = 10_000
"""The most clients that stay in memory beside their connections."""

SAID = 4 * 2**20
"""Bytes of what proxies said that stay in memory, as what it means; most of them may be of a client's own making."""

_LOOKED_AT = (b"Authorization", b"X-Forwarded-For", b"X-Forwarded-Proto")

class Peer:
    """
    The other end of one connection.

    @ivar silent: who it is, by L{Login.known}, while it says nothing of itself and C{configured} is in force.
    """

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.silent: Client | None = None
        self.configured: object = None

    @cached_property
    def address(self) -> str:
        """The IP address, C{"-"} for none. A load balancer says it before the first request (PROXY)."""
        return plain_address(self._host or "-")

    @cached_property
    def is_sheltered(self) -> bool:
        """Whether what is sent over this connection can be read by nobody on the way: TLS, or it stays here."""
        return self._host is None or self.is_encrypted or is_loopback(self._host)

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is one of TLS."""
        return bool(ISSLTransport.providedBy(self.transport))

    @property
    def _host(self) -> str | None:
        return getattr(self.transport.getPeer(), "host", None)


class Login:
    """What one listener wants to know of its clients."""

    def __init__(self, audit: IAudit) -> None:
        self._audit = audit
        self._passwords: Passwords | None = None
        self._proxies: Networks = ()
        self._listen = ListenSettings()
        self._clients: LeastRecentlyUsed[Any, Client] = LeastRecentlyUsed(CLIENTS)
        self._origins: LeastRecentlyUsed[Any, tuple[str, bool]] = LeastRecentlyUsed(SAID)

    def configure(self, listen: ListenSettings, proxies: Networks, passwords: Passwords | None) -> None:
        """
        What is in force from now on.

        @param proxies: who may say for whom a request is.
        @param passwords: of its users, C{None} where no password is taken.
        """
        self._listen = listen
        self._name = listen.name or ""
        self._passwords = None if listen.login == LOGIN_NONE else passwords
        self._proxies = proxies
        self._clients = LeastRecentlyUsed(CLIENTS)
        self._origins = LeastRecentlyUsed(SAID)
        # Stands for what is in force now.
        self._configured = object()

    @property
    def asks(self) -> bool:
        """Whether its answers may depend on who logs in."""
        return self._listen.login != LOGIN_NONE

    def recognises(self, request: RegistryRequest) -> bool:
        """Whether it is known at once who sends a request, as L{known} does: its C{sender} then."""
        values = [request.requestHeaders.getRawHeaders(name, ()) for name in _LOOKED_AT]
        if any(len(each) > 1 for each in values):
            return False
        client = self.known(request.channel.peer, *(each[0] if each else None for each in values))
        if client is None:
            return False
        request.sender = client
        return True

    def known(
        self,
        peer: Peer,
        authorization: bytes | None = None,
        forwarded_for: bytes | None = None,
        forwarded_proto: bytes | None = None,
    ) -> Client | None:
        """
        Who asks, when that is known at once; C{None}: L{identify} finds out, or refuses. Immediate.

        The values of three headers, C{None} for none; for those that stand there more than once that is to be asked of
        L{identify}.
        """
        is_silent = (authorization is None or self._passwords is None) and (
            forwarded_for is None and forwarded_proto is None or not self._proxies
        )
        if is_silent and peer.configured is self._configured:
            return peer.silent
        try:
            address, is_sheltered = self._origin(peer, forwarded_for, forwarded_proto)
        except RequestInvalid:
            return None
        user = None
        if authorization is not None and self._passwords is not None:
            user = self._passwords.known(authorization) if is_sheltered else None
            if user is None:
                return None
        try:
            client = self._client(peer, address, is_sheltered, user)
        except (LoginRequired, LoginExposed):
            return None
        # A certificate may be revoked meanwhile.
        if is_silent and self._listen.client_ca_file is None:
            peer.silent, peer.configured = client, self._configured
        return client

    async def identify(self, request: RegistryRequest) -> None:
        """
        Find out who sends a request: its C{sender} afterwards.

        @raise LoginRequired: it has to say so.
        @raise LoginWrong: it said it wrongly; the audit log has that.
        @raise LoginExposed: it would have to, or did, over a connection that others can read; what it said was not
            looked at, and the audit log has it where something was said.
        @raise LoginsBusy: it may be so, but too many wait to be checked.
        @raise LoginUnavailable: whoever has to know gives no answer.
        @raise RequestInvalid: a trusted proxy wrote nonsense.
        """
        peer, configured = request.channel.peer, None
        # Once more after a new configuration: who somebody is and what that is good for are decided by the same one.
        while configured is not self._configured:
            configured, passwords = self._configured, self._passwords
            sent, forwarded_for, forwarded_proto = map(request.requestHeaders.getRawHeaders, _LOOKED_AT)
            address, is_sheltered = self._origin(peer, _joined(forwarded_for), _joined(forwarded_proto))
            may_log_in = passwords is not None and is_sheltered
            request.sender = Client(address, listener=self._name, may_log_in=may_log_in)
            user = None
            if sent and passwords is not None:
                user = await self._user(passwords, sent, address, is_sheltered)
        request.sender = self._client(peer, address, is_sheltered, user)

    async def _user(
        self, passwords: Passwords, sent: Sequence[bytes], address: str, is_sheltered: bool
    ) -> str | None:
        login = None
        try:
            if not is_sheltered:
                raise LoginExposed(was_sent=True)
            if len(sent) > 1:
                raise LoginWrong("there is more than one Authorization header; send one")
            login = parse_basic(sent[0])
            return None if login is None else await passwords.check(sent[0], login, machine_of(address))
        except LoginsBusy:
            # It was not looked at.
            raise
        except PullcacheError as error:
            user = None if login is None else passwords.knows(login)
            outcome = "failed" if isinstance(error, LoginUnavailable) else "refused"
            self._audit.note("login", self._name, outcome, user=user, means="basic", address=address, why=str(error))
            raise

    def _origin(
        self, peer: Peer, forwarded_for: bytes | None, forwarded_proto: bytes | None
    ) -> tuple[str, bool]:
        """The client's address, and whether its password was sheltered all the way."""
        if not self._proxies or (forwarded_for is None and forwarded_proto is None):
            return peer.address, peer.is_sheltered
        key = peer.address, peer.is_encrypted, forwarded_for, forwarded_proto
        known = self._origins.get(key)
        if known is None:
            known = peer.address, peer.is_sheltered
            if is_within(peer.address, self._proxies):
                address = origin(peer.address, _said(forwarded_for), self._proxies)
                encrypted = was_encrypted(_said(forwarded_proto))
                # Of what it does not say no more is known than how it was itself connected.
                known = address, (peer.is_encrypted if encrypted is None else encrypted) or is_loopback(address)
            self._origins.put(key, known, 500 + len(forwarded_for or b"") + len(forwarded_proto or b""))
        return known

    def _client(self, peer: Peer, address: str, is_sheltered: bool, user: str | None) -> Client:
        """See L{Client.admitted}."""
        means = "address" if user is None else "basic"
        if user is None and self._listen.client_ca_file is not None:
            names = names_of(peer.transport, self._listen.client_name)
            if names:
                user, means = names[0], "certificate"
        key = address, user, means, is_sheltered
        client = self._clients.get(key)
        if client is None:
            takes_passwords = self._passwords is not None
            client = Client.admitted(
                self._listen, address, user, means, takes_passwords=takes_passwords, is_sheltered=is_sheltered
            )
            self._clients.put(key, client, 1)
        return client


def _said(value: bytes | None) -> list[str]:
    return [] if value is None else [value.decode("latin-1")]


def _joined(values: Sequence[bytes] | None) -> bytes | None:
    """Several header lines are one list (RFC 9110 section 5.3)."""
    return b",".join(values) if values else None
