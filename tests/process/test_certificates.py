"""Certificates that are replaced while clients pull, and a balancer in front of TLS, on the service as it runs."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask, get
from tests.doubles.certificates import authority
from tests.doubles.remote import RemoteRegistry
from tests.process.service import PATIENCE, UPSTREAM, Appliance, free_port, until
from tests.rooms.cli.runs import run
from tests.rooms.tls.visits import replace

SIZE = 30_000_000

pytestmark = pytest.mark.process


def listen(appliance: Appliance, description: str, **more: Any) -> int:
    """Let it listen on another port, too, which is returned; C{PORT} in C{description} stands for it."""
    port = free_port()
    endpoint = description.replace("PORT", f"port={port}:interface=127.0.0.1")
    appliance.settings["listen"].append({"endpoint": endpoint, "default_upstream": UPSTREAM, **more})
    appliance.write()
    return port


def connected(port: int, context: ssl.SSLContext, before: bytes = b"") -> ssl.SSLSocket:
    """A connection over TLS; C{before} is sent in front of it."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    plain.sendall(before)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def serial(port: int, context: ssl.SSLContext) -> str:
    """The number of the certificate that is shown now, which the client believes."""
    with connected(port, context) as connection:
        return str((connection.getpeercert() or {})["serialNumber"])


def asked(connection: ssl.SSLSocket, path: str) -> http.client.HTTPResponse:
    """The head of the answer to a GET."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def test_a_certificate_is_replaced_while_a_layer_is_pulled(
    idle: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """
    The certificate is of the appliance's own authority and is made anew: new connections are shown it, without a
    restart; the transfer and the connection that were open go on. A file that is no certificate changes nothing, and is
    said in the status; the metric tells when what is shown ends.
    """
    folder = tmp_path / "tls"
    assert run("certificate", "--name", "127.0.0.1", "-o", str(folder)).code == 0
    port = listen(idle, f"tls:{folder}:PORT")
    idle.start()
    digest = upstream.add("team/app", sizes=[SIZE])["blobs"][1][0]
    get(idle.authority, "/v2/team/app/manifests/latest")
    get(idle.authority, f"/v2/team/app/blobs/{digest}", digest)
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))

    first = serial(port, context)
    with connected(port, context) as pulling, connected(port, context) as open_before:
        response = asked(pulling, f"/v2/team/app/blobs/{digest}")
        begun = response.read(SIZE // 100)
        assert run("certificate", "-o", str(folder)).code == 0
        until(lambda: serial(port, context) != first, "the new certificate is shown")
        rest = response.read()
        assert f"sha256:{hashlib.sha256(begun + rest).hexdigest()}" == digest
        assert asked(pulling, "/v2/").status == 200
        assert asked(open_before, "/v2/").status == 200

    second = serial(port, context)
    replace(folder / "server.pem", b"nonsense")
    until(lambda: "what was read before stays in force" in idle.log(), "said")
    assert "holds no certificate" in ask(idle.admin, "/api/v1/status").body.decode()
    assert serial(port, context) == second
    assert 'pullcache_certificate_expiry_timestamp_seconds{path="' in ask(idle.admin, "/metrics").body.decode()


def test_a_balancer_passes_tls_on_and_says_for_whom(idle: Appliance, tmp_path: Path) -> None:
    """The client's address and its certificate both reach the cache; a certificate of another authority does not."""
    root, clients = authority("Root"), authority("Clients")
    certificate, key = root.issue("127.0.0.1").write(tmp_path, "site")
    (tmp_path / "ca.crt").write_bytes(root.certificates)
    (tmp_path / "clients.crt").write_bytes(clients.certificates)
    more = {"login": "required", "client_ca_file": str(tmp_path / "clients.crt"), "trusted_proxies": ["127.0.0.1"]}
    port = listen(idle, f"haproxy:ssl:PORT:certKey={certificate}:privateKey={key}", **more)
    idle.start()
    header = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n"

    def shows(who: Any) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        context.load_cert_chain(*who.write(tmp_path, "client"))
        return context

    with connected(port, shows(clients.issue("node-1")), header) as connection:
        assert asked(connection, "/v2/").status == 200
    until(lambda: any(" node-1" in line and "203.0.113.9" in line for line in idle.log().splitlines()), "logged")
    with pytest.raises(OSError), connected(port, shows(authority("Others").issue("node-1")), header) as connection:
        asked(connection, "/v2/")
    until(lambda: "203.0.113.9 was turned away: certificate: " in idle.log(), "said")
