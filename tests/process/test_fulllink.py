"""Clients that fill a link together: by a slow loopback interface, in a network of its own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.clients.plain import ask
from tests.doubles.remote import RemoteRegistry
from tests.process.network import in_a_network_of_its_own, ip
from tests.process.service import Appliance, until

pytestmark = pytest.mark.process

LAYER = 40_000_000
MANY = 50
"""Connections of the one client; the other has one."""

WINDOW = 3.0
"""Seconds in which is counted who takes what."""


class Node:
    """
    Pulls a blob again and again, over so many connections from an address of its own.

    @ivar taken: bytes of each connection.
    """

    def __init__(self, authority: str, path: str, address: str, connections: int) -> None:
        host, _, port = authority.partition(":")
        self._request = f"GET {path} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode("ascii") * MANY
        self._open = [
            socket.create_connection((host, int(port)), 60, source_address=(address, 0)) for _ in range(connections)
        ]
        self.taken = [0] * connections
        for number in range(connections):
            threading.Thread(target=self._pull, args=(number,)).start()

    def _pull(self, number: int) -> None:
        buffer = bytearray(65536)
        with self._open[number] as connection, contextlib.suppress(ConnectionError):
            connection.sendall(self._request)
            while count := connection.recv_into(buffer):
                self.taken[number] += count

    def leave(self) -> None:
        """Whatever is still to come."""
        for each in self._open:
            each.shutdown(socket.SHUT_RDWR)


def share(of: Node, beside: Node) -> float:
    """What one took of all that both did."""
    before = [sum(each.taken) for each in (of, beside)]
    time.sleep(WINDOW)
    took = [sum(each.taken) - was for each, was in zip((of, beside), before, strict=True)]
    return took[0] / sum(took)


def level(appliance: Appliance) -> float:
    """What the appliance says that no client gets more than; 0 for none."""
    lines = ask(appliance.admin, "/metrics").body.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("pullcache_client_level_bytes "))


def test_a_node_with_one_transfer_gets_its_part_beside_one_with_fifty(tmp_path: Path) -> None:
    """More than a fourth, where it would get a fiftieth; and one that is alone is never held back."""
    if shutil.which("tc") is None:
        pytest.skip("tc (iproute2) is not installed")

    def body() -> None:
        upstream = RemoteRegistry().start()
        appliance = Appliance(tmp_path / "appliance", upstream.url)
        nodes: list[Node] = []
        try:
            layer = upstream.add("team/app", "1", sizes=[LAYER])["blobs"][1][0]
            appliance.start()
            assert ask(appliance.authority, "/v2/team/app/manifests/1").status == 200
            assert ask(appliance.authority, f"/v2/team/app/blobs/{layer}").status == 200
            ip("link", "set", "lo", "mtu", "1500")
            slow = ["rate", "60mbit", "burst", "16kb", "limit", "200kb"]
            try:
                command = ["tc", "qdisc", "add", "dev", "lo", "root", "tbf", *slow]
                subprocess.run(command, check=True, capture_output=True)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no slow link here: {error.stderr!r}")
            path = f"/v2/team/app/blobs/{layer}"
            nodes.append(Node(appliance.authority, path, "127.0.0.2", MANY))
            time.sleep(WINDOW)
            assert level(appliance) == 0
            nodes.append(Node(appliance.authority, path, "127.0.0.3", 1))
            until(lambda: share(nodes[1], nodes[0]) > 0.25, "more than a fourth", 60)
            nodes[1].leave()
            until(lambda: level(appliance) == 0, "nobody is held back")
        finally:
            # Which ends the nodes' connections, too.
            appliance.kill()
            upstream.kill()

    in_a_network_of_its_own(body)
