"""Clients that open too many connections, that send nothing and that take nothing, on the service as it runs."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import ssl
from pathlib import Path

import pytest

from tests.clients.plain import ask, get
from tests.doubles.certificates import authority
from tests.doubles.remote import RemoteRegistry
from tests.process.service import PATIENCE, UPSTREAM, Appliance, free_port, until

SIZE = 30_000_000

pytestmark = pytest.mark.process


def held(appliance: Appliance, upstream: RemoteRegistry) -> str:
    """The path of a large blob that the appliance holds."""
    digest = upstream.add("team/app", sizes=[SIZE])["blobs"][1][0]
    get(appliance.authority, "/v2/team/app/manifests/latest")
    get(appliance.authority, f"/v2/team/app/blobs/{digest}", digest)
    return f"/v2/team/app/blobs/{digest}"


def dropped(appliance: Appliance, reason: str) -> float:
    """What the metric says."""
    name = f'pullcache_connections_dropped_total{{reason="{reason}"}} '
    lines = ask(appliance.admin, "/metrics").body.decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def listen_with_tls(appliance: Appliance, folder: Path) -> int:
    """Let it listen with a certificate of its own on another port, too, which is returned."""
    port = free_port()
    certificate, key = authority().issue("127.0.0.1").write(folder, "own")
    endpoint = f"ssl:port={port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    appliance.settings["listen"].append({"endpoint": endpoint, "default_upstream": UPSTREAM})
    appliance.write()
    return port


def without_checks() -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def closed(connection: socket.socket) -> bool:
    """Whether the appliance has closed it; what it sent is thrown away."""
    connection.settimeout(0.1)
    try:
        while True:
            if not connection.recv(1 << 20):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True


def test_one_address_cannot_take_every_connection(idle: Appliance, upstream: RemoteRegistry) -> None:
    """Above its share it gets 503 and when to come again; what it has goes on working; a reload raises the limit."""
    idle.settings["connections"] = {"max_per_address": 20}
    idle.write()
    idle.start()
    upstream.add("team/app", sizes=[1000])
    host, port = idle.authority.split(":")
    with contextlib.ExitStack() as opened:
        for _ in range(19):
            opened.enter_context(socket.create_connection((host, int(port))))
        kept = http.client.HTTPConnection(idle.authority, timeout=PATIENCE)
        kept.request("GET", "/v2/")
        assert kept.getresponse().read() == b"{}"
        late = ask(idle.authority, "/v2/")
        assert (late.status, late.headers["retry-after"]) == (503, "5")
        assert late.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
        assert ask(idle.admin, "/healthz").status == 503
        kept.request("GET", "/v2/team/app/manifests/latest")
        assert kept.getresponse().status == 200
        idle.settings["connections"]["max_per_address"] = 100
        idle.write()
        idle.signal(signal.SIGHUP)
        until(lambda: ask(idle.authority, "/v2/").status == 200, "the new limit holds")
        assert dropped(idle, "address") >= 2
        kept.close()
    until(lambda: b"pullcache_connections 1.0" in ask(idle.admin, "/metrics").body, "those that left are forgotten")


def test_clients_that_speak_tls_get_an_answer_too(idle: Appliance, tmp_path: Path) -> None:
    """Within what they speak; a flood of them is closed, and leaves no mistake in the log."""
    idle.settings["connections"] = {"max": 1}
    place = ("127.0.0.1", listen_with_tls(idle, tmp_path))
    idle.start()
    host, port = idle.authority.split(":")
    with contextlib.ExitStack() as opened:
        kept = opened.enter_context(socket.create_connection((host, int(port))))
        kept.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(12) == b"HTTP/1.1 200"
        client = opened.enter_context(without_checks().wrap_socket(socket.create_connection(place)))
        client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 503"
        flood = [opened.enter_context(socket.create_connection(place)) for _ in range(100)]
        until(lambda: sum(map(closed, flood)) == len(flood), "they are closed")
    assert "Traceback" not in idle.log()


def test_a_thousand_connections_of_one_machine_are_served(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """As many nodes behind one address as there may be; open files are no limit where the administrator set none."""
    upstream.add("team/app", sizes=[1000])
    host, port = appliance.authority.split(":")
    with contextlib.ExitStack() as opened:
        opened_all = [opened.enter_context(socket.create_connection((host, int(port)), PATIENCE)) for _ in range(1000)]
        for connection in opened_all:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in opened_all:
            assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_request_that_does_not_come_is_not_waited_for(idle: Appliance) -> None:
    """Byte by byte, or not at all; both ports."""
    idle.settings["connections"] = {"head_timeout": "2s"}
    idle.write()
    idle.start()
    with contextlib.ExitStack() as opened:
        silent, slow, operator = (
            opened.enter_context(socket.create_connection(tuple(place.split(":"))))  # type: ignore[arg-type]
            for place in (idle.authority, idle.authority, idle.admin)
        )
        requested = iter(b"GET /v2/ HTTP/1.1\r\nX-Slow: " + b"a" * 10_000)

        def all_closed() -> bool:
            for trickling in (slow, operator):
                with contextlib.suppress(OSError):
                    trickling.send(bytes([next(requested)]))
            ended = [closed(each) for each in (silent, slow, operator)]
            return all(ended)

        until(all_closed, "they are closed")
    assert dropped(idle, "slow") == 3


@pytest.mark.parametrize("secured", [False, True], ids=["sendfile", "TLS"])
def test_a_client_that_takes_nothing_is_cut_off(
    idle: Appliance, upstream: RemoteRegistry, tmp_path: Path, secured: bool
) -> None:
    """In the middle of a blob; its file and its connection are free again, and the log names it."""
    port = listen_with_tls(idle, tmp_path)
    idle.start()
    path = held(idle, upstream)
    # From here on: who fills the store may stand still as long as this machine likes.
    idle.settings["connections"] = {"stall_timeout": "2s"}
    idle.reload()
    place = ("127.0.0.1", port if secured else int(idle.authority.split(":")[1]))
    raw = socket.create_connection(place)
    with without_checks().wrap_socket(raw) if secured else raw as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        until(lambda: dropped(idle, "stalled") == 1, "it is cut off")
    assert "took nothing for" in idle.log()


def test_a_file_that_cannot_be_read_is_in_the_log(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """It ends early while it is sent: the client sees a cut, and the operator which one it was and why."""
    path = held(appliance, upstream)
    with socket.create_connection(tuple(appliance.authority.split(":"))) as client:  # type: ignore[arg-type]
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        os.truncate(appliance.blob(path.rpartition("/")[2]), SIZE // 2)
        until(lambda: closed(client), "it is cut off")
    until(lambda: "cut off: [Errno 5] the file ends at" in appliance.log(), "it is logged")
    assert path in appliance.log().partition("cut off: [Errno 5]")[0].splitlines()[-1]
