"""
Debian's docker-registry that asks who is there: with a file of passwords, or with a token server of its own.

Each kind has C{section()}, which goes into the registry's configuration; C{upstream}, what the appliance has to be told
beside the credentials; C{allow(user, password)}, after which that login and no other is good; and C{refused()}, how
often a wrong login was shown so far.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.clients import tools
from tests.clients.tools import DockerRegistry
from tests.process.service import free_port

SERVICE = "docker-registry"
ISSUER = "tests"
LIFE = 300
"""Seconds that a token is good for."""


def replace(path: Path, data: str, mode: int = 0o600) -> None:
    """Put a whole new file in the place of C{path}, as who replaces secrets does."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(data)
    fresh.chmod(mode)
    os.replace(fresh, path)


class Htpasswd:
    """Basic, checked by the registry itself (distribution's configuration reference, "htpasswd")."""

    programs = (*DockerRegistry.programs, "htpasswd")

    def __init__(self, folder: Path, registry: DockerRegistry) -> None:
        self._registry = registry
        self._file = folder / "htpasswd"
        self.upstream: dict[str, Any] = {}

    def section(self) -> dict[str, Any]:
        """See the module's docstring."""
        return {"htpasswd": {"realm": "tests", "path": str(self._file)}}

    def allow(self, user: str, password: str) -> None:
        """See the module's docstring; the registry looks at the file with every request."""
        # bcrypt is what the registry understands; its least cost, since every request pays it.
        replace(self._file, tools.run("htpasswd", "-nbB", "-C", "4", user, password).decode())

    def refused(self) -> int:
        """See the module's docstring."""
        return self._registry.log().count("authentication failure")

    def stop(self) -> None:
        """Nothing runs beside the registry."""


class TokenServer:
    """
    Bearer (distribution's "Token Authentication Specification" and "Oauth2 Token Authentication").

    Logins get a token with GET and Basic; a refresh token, C{<user>-refresh-<password>}, gets one with POST. The tokens
    are JSON web tokens, signed with ES256, whose header carries the certificate that the registry trusts.
    """

    programs = DockerRegistry.programs

    def __init__(self, folder: Path, registry: DockerRegistry) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _certificate(self._key)
        self._bundle = folder / "tokens.pem"
        self._bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self._login = ("", "")
        self._refused = 0
        self.authority = f"127.0.0.1:{free_port()}"
        self.upstream: dict[str, Any] = {"auth_hosts": [self.authority]}
        self._server = ThreadingHTTPServer(("127.0.0.1", int(self.authority.partition(":")[2])), _handler(self.answer))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def section(self) -> dict[str, Any]:
        """See the module's docstring."""
        realm = f"http://{self.authority}/token"
        return {"token": {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self._bundle)}}

    def allow(self, user: str, password: str) -> None:
        """See the module's docstring; tokens that were given before stay good."""
        self._login = (user, password)

    def refused(self) -> int:
        """See the module's docstring."""
        return self._refused

    def stop(self) -> None:
        """Let go of the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, target: str, authorization: str, form: str) -> tuple[int, dict[str, Any]]:
        """Status and document for a request of a token."""
        user, password = self._login
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        asked = parse_qs(form if method == "POST" else urlsplit(target).query)
        refresh = asked.get("refresh_token") == [refresh_token(user, password)]
        if not (refresh if method == "POST" else authorization == basic):
            self._refused += 1
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong login"}]}
        token = self._token(user, asked.get("scope", []))
        return 200, {"access_token" if method == "POST" else "token": token, "expires_in": LIFE}

    def _token(self, user: str, scopes: list[str]) -> str:
        chain = [base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()]
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "iat": now,
            "nbf": now,
            "exp": now + LIFE,
            "jti": base64.b16encode(os.urandom(8)).decode(),
            "access": [_granted(scope) for scope in scopes],
        }
        signed = f"{_encoded({'typ': 'JWT', 'alg': 'ES256', 'x5c': chain})}.{_encoded(claims)}"
        # RFC 7518 section 3.4: both numbers, 32 bytes each, one after the other.
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def refresh_token(user: str, password: str) -> str:
    """What L{TokenServer} exchanges for a token."""
    return f"{user}-refresh-{password}"


def _granted(scope: str) -> dict[str, Any]:
    kind, name, actions = scope.split(":")
    return {"type": kind, "name": name, "actions": [action for action in actions.split(",") if action == "pull"]}


def _encoded(document: dict[str, Any]) -> str:
    return _base64url(json.dumps(document).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    return builder.sign(key, hashes.SHA256())


Answering = Callable[[str, str, str, str], tuple[int, dict[str, Any]]]


def _handler(answer: Answering) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            form = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            status, document = answer(self.command, self.path, self.headers.get("Authorization", ""), form)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """A test's output is its own."""

    return Handler
