"""How an appliance's admin endpoint is reached: a socket or a URL, a token, and certificates."""

from __future__ import annotations

import os
import re
import socket
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from OpenSSL.crypto import Error as OpenSSLError
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from appliance.cli.failures import WrongUsage

DEFAULT_ADMIN = "http://127.0.0.1:5001"
DEFAULT_SOCKET = "/run/pullcache/admin.sock"

ADMIN, TOKEN_FILE, CA_FILE, CERT_FILE = (
    f"PULLCACHE_{name}" for name in ("ADMIN", "TOKEN_FILE", "CA_FILE", "CERT_FILE")
)
"""The variables that stand for options that are not given."""

CONNECT_TIMEOUT = 10.0
"""Seconds until an address where nothing answers is given up."""

# The most bytes of a file with a token or with certificates; a system's bundle of authorities has some 250 KB.
_FILE_LIMIT = 4 * 1024 * 1024
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class AdminAddress:
    """
    Where an appliance is asked.

    @ivar name: as a person writes it.
    @ivar url: what requests are sent to, without a slash at the end.
    @ivar path: of the socket, C{None} for a URL.
    @ivar note: why it is not the default socket, though that is there; empty for nothing.
    """

    name: str
    url: str
    path: str | None = None
    note: str = ""


def admin_address(
    option: str | None, environment: Mapping[str, str] = os.environ, default_socket: str = DEFAULT_SOCKET
) -> AdminAddress:
    """
    The option, the environment, or the default: the socket where it can be opened, else the URL.

    @raise WrongUsage: it is neither C{unix:PATH} nor an http or https URL.
    """
    given = option or environment.get(ADMIN)
    if not given:
        why = _why_closed(default_socket)
        if why is None:
            return _at_socket(default_socket)
        # Another appliance may be the one that answers at the URL.
        note = ""
        if why is PermissionError:
            note = f"{default_socket} cannot be opened by this user (sudo, or its group)"
        elif why is ConnectionRefusedError:
            note = f"at {default_socket} no appliance answers"
        return AdminAddress(DEFAULT_ADMIN, DEFAULT_ADMIN, note=note and f"{note}: {DEFAULT_ADMIN} is asked instead")
    if given.startswith("unix:"):
        path = given.removeprefix("unix:")
        if not path.startswith("/"):
            raise WrongUsage(f"{given!r} is no socket; write unix:/PATH, as in unix:{DEFAULT_SOCKET}")
        return _at_socket(path)
    url = given.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        raise WrongUsage(f"{url!r} is no admin endpoint; write it like {DEFAULT_ADMIN} or unix:{DEFAULT_SOCKET}")
    return AdminAddress(url, url)


def token_of(file: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """
    The token that the option, or else the environment, names a file of; C{None} for none. What stands before it on its
    line, a role, does not count, so that an appliance's own file will do; its first token is taken.

    @raise WrongUsage: the file cannot be read, or holds none.
    """
    path = file or environment.get(TOKEN_FILE)
    if not path:
        return None
    for line in _read(path, "--token-file").decode("utf-8-sig", "replace").splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            if len(words) > 2 or not words[-1].isascii() or not words[-1].isprintable():
                break
            return words[-1]
    raise WrongUsage(f"--token-file {path}: holds no token; write TOKEN, or ROLE TOKEN, on a line")


def agent_for(reactor: Any, address: AdminAddress, options: Namespace) -> IAgent:
    """
    What asks there.

    @param options: C{ca_file} and C{cert_file}, C{None} where the environment says it, or nothing does.
    @raise WrongUsage: a file holds nothing of use.
    """
    if address.path is not None:
        found: IAgent = Agent.usingEndpointFactory(reactor, _SocketEndpoints(reactor, address.path))
        return found
    authorities = options.ca_file or os.environ.get(CA_FILE)
    certificate = options.cert_file or os.environ.get(CERT_FILE)
    return Agent(reactor, _HttpsPolicy(authorities, certificate), connectTimeout=CONNECT_TIMEOUT)


@implementer(IAgentEndpointFactory)
class _SocketEndpoints:
    """Leads every request to one socket."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor = reactor
        self._path = path

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See L{IAgentEndpointFactory.endpointForURI}."""
        return UNIXClientEndpoint(self._reactor, self._path, timeout=CONNECT_TIMEOUT)


@implementer(IPolicyForHTTPS)
class _HttpsPolicy:
    """Which certificates are believed, and which one is shown."""

    def __init__(self, authorities: str | None, own: str | None) -> None:
        self._trust = _trusted(authorities) if authorities else None
        self._own = _owned(own) if own else None

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """See L{IPolicyForHTTPS.creatorForNetloc}."""
        creator: IOpenSSLClientConnectionCreator = optionsForClientTLS(
            hostname.decode("ascii"), trustRoot=self._trust, clientCertificate=self._own
        )
        return creator


def _trusted(path: str) -> Any:
    """The authorities of a file, as Twisted takes them."""
    try:
        found = list(map(Certificate.loadPEM, _CERTIFICATE.findall(_read(path, "--ca-file"))))
    except (OpenSSLError, ValueError):
        found = []
    if not found:
        raise WrongUsage(f"--ca-file {path}: holds no certificate in PEM")
    return trustRootFromCertificates(found)


def _owned(path: str) -> Any:
    """The certificate and key of a file, as Twisted takes them."""
    try:
        return PrivateCertificate.loadPEM(_read(path, "--cert-file"))
    except (OpenSSLError, ValueError):
        raise WrongUsage(f"--cert-file {path}: holds no certificate with its key, both in PEM") from None


def _at_socket(path: str) -> AdminAddress:
    return AdminAddress(f"unix:{path}", "http://localhost", path)


def _why_closed(path: str) -> type[OSError] | None:
    """Why nothing can be asked there, C{None} where it can."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            # Others stand in front of it.
            return None
        except OSError as error:
            return type(error)
    return None


def _read(path: str, option: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_FILE_LIMIT)
    except OSError as error:
        raise WrongUsage(f"{option} {path}: cannot be read: {error.strerror}") from None
