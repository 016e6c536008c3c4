"""HAProxy and nginx in front of the appliance, with the files of etc/balancers: rules see the client's address."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from tests.clients import tools
from tests.clients.doors import ANA, BOB, Doors
from tests.clients.relays import BALANCER, Haproxy, NginxBalancer
from tests.clients.tools import Failed
from tests.clients.visitors import ANYONE, Door, SkopeoVisitor
from tests.doubles.remote import RemoteRegistry
from tests.process.service import PATIENCE, UPSTREAM, free_port, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]

NEAR, FAR = "127.0.0.1", "127.0.0.2"
"""Addresses of clients; the first may pull."""

BALANCER_IN_HEX = socket.inet_aton(BALANCER)[::-1].hex().upper()

ACCESS = [
    {"allow": {"users": [ANA.user, "node-7"], "repositories": [f"{UPSTREAM}/team/**"]}},
    {"allow": {"networks": [NEAR], "repositories": [f"{UPSTREAM}/library/**"]}},
]
TEAMS, OPEN = "team/app", "library/tiny"


class Site:
    """
    An appliance whose one listener is behind a balancer.

    @ivar inner: where the balancer finds it.
    @ivar door: what clients know; the balancer's.
    """

    def __init__(self, doors: Doors, inner: str) -> None:
        self.doors = doors
        self.inner = inner
        self.door = doors.required

    def status(self, path: str, source: str = NEAR, **headers: str) -> int:
        """What a client at the address C{source} is answered by the balancer."""
        host, port = self.door.authority.split(":")
        context = ssl.create_default_context(cafile=str(self.door.ca))
        connection = HTTPSConnection(host, int(port), timeout=PATIENCE, context=context, source_address=(source, 0))
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


@pytest.fixture
def upstream() -> Iterator[RemoteRegistry]:
    """A registry with an image of the team's and one for all that are near."""
    registry = RemoteRegistry().start()
    for name in (TEAMS, OPEN):
        registry.add(name, "1", "index")
    yield registry
    registry.kill()


Building = Callable[..., Site]


@pytest.fixture
def site(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Building]:
    """Builds a L{Site} with a kind of balancer, given the settings of the appliance's listener."""
    with ExitStack() as running:

        def build(kind: Any, endpoint: str, *options: Any, **listener: Any) -> Site:
            tools.need(*kind.programs)
            doors = Doors(tmp_path / "site", upstream.url, access=ACCESS)
            inner = f"127.0.0.1:{free_port()}"
            endpoint = endpoint.format(port=inner.rpartition(":")[2], folder=doors.folder)
            behind = {"name": "balanced", "endpoint": endpoint, "login": "offered", "trusted_proxies": [BALANCER]}
            if "client_ca_file" not in listener:
                behind["checkers"] = [f"htpasswd:{doors.folder}/htpasswd"]
            own = {key: value.format(folder=doors.folder) for key, value in listener.items()}
            doors.appliance.settings["listen"].append({**behind, **own})
            doors.appliance.write()
            running.callback(doors.appliance.kill)
            doors.appliance.start()
            server = doors.ca.issue("127.0.0.1")
            balancer = kind(tmp_path, inner, *([server, None] if kind is NginxBalancer else []))
            running.callback(balancer.kill)
            balancer.start(*options)
            made = Site(doors, inner)
            made.door = Door(balancer.authority, doors.ca_file)
            return made

        yield build


def manifest(repository: str) -> str:
    """The path of an image."""
    return f"/v2/{UPSTREAM}/{repository}/manifests/1"


def seen(site: Site) -> set[str]:
    """The addresses in the access log of requests for images."""
    return set(re.findall(r"^\S+ (\S+) .*(?:GET|HEAD) /v2/\S+/manifests/", site.doors.appliance.log(), re.MULTILINE))


TLS_BEHIND = "haproxy:ssl:port={port}:interface=127.0.0.1:privateKey={folder}/server.key:certKey={folder}/server.pem"
PLAIN_BEHIND = "tcp:port={port}:interface=127.0.0.1"


@pytest.mark.parametrize("header", ["send-proxy", "send-proxy-v2"])
def test_behind_haproxy_a_rule_about_networks_is_about_the_client(site: Building, header: str) -> None:
    """TLS goes through HAProxy; who is near gets the image, who is far does not, and neither is HAProxy."""
    made = site(Haproxy, TLS_BEHIND, header)
    assert made.status(manifest(OPEN)) == 200
    assert made.status(manifest(OPEN), FAR) == 401
    until(lambda: seen(made) == {NEAR, FAR}, "both in the access log")


def test_behind_nginx_a_rule_about_networks_is_about_the_client(site: Building) -> None:
    """nginx speaks TLS; what it says of a client is believed, and what a client says of itself is not."""
    made = site(NginxBalancer, PLAIN_BEHIND)
    assert made.status(manifest(OPEN)) == 200
    assert made.status(manifest(OPEN), FAR) == 401
    assert made.status(manifest(OPEN), FAR, X_Forwarded_For=NEAR) == 401
    until(lambda: seen(made) == {NEAR, FAR}, "both in the access log")


def test_behind_nginx_many_clients_share_a_connection_and_no_rights(site: Building) -> None:
    """One who may and one who may not take turns; each answer is for the one who asked."""
    made = site(NginxBalancer, PLAIN_BEHIND)
    for _ in range(10):
        assert made.status(manifest(TEAMS), Authorization=ANA.basic) == 200
        assert made.status(manifest(TEAMS), Authorization=BOB.basic) == 404
        assert made.status(manifest(TEAMS)) == 401
        assert made.status(manifest(OPEN)) == 200
        assert made.status(manifest(OPEN), FAR) == 401
    # Those that were closed a moment ago are listed, too, by both ends.
    port = int(made.inner.rpartition(":")[2])
    lines = Path("/proc/net/tcp").read_text().splitlines()
    assert len([line for line in lines if BALANCER_IN_HEX in line and f":{port:04X} " in line]) < 10


def test_who_goes_round_nginx_is_not_believed(site: Building) -> None:
    """Straight to the appliance with a header that says another address: it is the address of the connection."""
    made = site(NginxBalancer, PLAIN_BEHIND)
    host, port = made.inner.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE, source_address=(FAR, 0)) as connection:
        connection.sendall(f"GET {manifest(OPEN)} HTTP/1.0\r\nX-Forwarded-For: {NEAR}\r\n\r\n".encode())
        assert connection.recv(100).split()[1] == b"401"


def test_who_goes_round_haproxy_is_cut_off(site: Building) -> None:
    """Only HAProxy may say where a connection comes from."""
    made = site(Haproxy, TLS_BEHIND)
    host, port = made.inner.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE, source_address=(FAR, 0)) as connection:
        connection.sendall(f"PROXY TCP4 {NEAR} 127.0.0.1 1000 2000\r\n".encode())
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


@pytest.mark.parametrize(
    ("kind", "endpoint"), [(Haproxy, TLS_BEHIND), (NginxBalancer, PLAIN_BEHIND)], ids=["haproxy", "nginx"]
)
def test_logins_pass_a_balancer(site: Building, kind: Any, endpoint: str, tmp_path: Path) -> None:
    """skopeo with a password gets what is the team's; without one it is told to log in."""
    tools.need(*SkopeoVisitor.programs)
    made = site(kind, endpoint, login="required")
    skopeo = SkopeoVisitor(tmp_path)
    assert skopeo.pull(made.door, f"{TEAMS}:1", ANA)
    with pytest.raises(Failed, match="docker login"):
        skopeo.pull(made.door, f"{TEAMS}:1", ANYONE)


def test_clients_certificates_pass_haproxy(site: Building, tmp_path: Path) -> None:
    """The handshake is with the appliance: who has a certificate gets what is the team's, who has none gets nothing."""
    tools.need(*SkopeoVisitor.programs)
    made = site(Haproxy, TLS_BEHIND, login="required", client_ca_file="{folder}/ca.pem")
    skopeo = SkopeoVisitor(tmp_path)
    assert skopeo.pull(made.door, f"{TEAMS}:1", made.doors.node)
    with pytest.raises(Failed, match="certificate required"):
        skopeo.pull(made.door, f"{OPEN}:1")
