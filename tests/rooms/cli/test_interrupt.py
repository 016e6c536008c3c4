"""The command as a process: Ctrl-C, and no appliance at the address."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SIZE = 1_000_000
PATIENCE = 60

pytestmark = pytest.mark.process


def started(*arguments: str, admin: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "appliance.cli.main", *arguments]
    environment = {**os.environ, "PULLCACHE_ADMIN": admin, "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=ROOT, env=environment, text=True, **pipes)


class Stalling(BaseHTTPRequestHandler):
    """Offers a volume of L{SIZE} bytes, sends half of it, and then nothing."""

    half = threading.Event()
    over = threading.Event()

    def do_POST(self) -> None:
        """See L{BaseHTTPRequestHandler}."""
        self.rfile.read(int(self.headers["Content-Length"]))
        offer = {"id": "1", "volumes": [{"n": 1, "file": "a.tar", "size": SIZE}], "leftOut": []}
        self._answer(json.dumps(offer).encode())

    def do_GET(self) -> None:
        """See L{BaseHTTPRequestHandler}."""
        self._answer(bytes(SIZE // 2), SIZE)
        self.half.set()
        self.over.wait(PATIENCE)

    def _answer(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: object) -> None:
        """It is not read."""


@pytest.fixture
def stalling() -> Iterator[str]:
    """The URL of an appliance that stalls."""
    Stalling.half.clear()
    Stalling.over.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Stalling.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_half_bundle(stalling: str, tmp_path: Path, number: signal.Signals) -> None:
    """Interrupted half-way: exit 1, one line, and no file, not even a part of one."""
    command = started("export", "--all", "-o", str(tmp_path / "a.tar"), admin=stalling)
    try:
        assert Stalling.half.wait(PATIENCE)
        command.send_signal(number)
        out, err = command.communicate(timeout=PATIENCE)
    finally:
        command.kill()
    assert (command.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "pullcache: interrupted; nothing half is left behind"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_no_appliance_is_said_with_the_address_and_how_to_change_it() -> None:
    """One line: which URL, and how to name another one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        command = started("inventory", "-o", "-", admin=url)
        out, err = command.communicate(timeout=PATIENCE)
    assert (command.returncode, out, err.count("\n")) == (1, "", 1)
    assert url in err and "--admin" in err and "PULLCACHE_ADMIN" in err


@pytest.mark.parametrize("admin", ["127.0.0.1:5001", "ftp://x", "http://"])
def test_an_address_that_is_none_is_wrong_usage(admin: str) -> None:
    """A mistyped variable is distinguished from an appliance that is down."""
    command = started("inventory", "-o", "-", admin=admin)
    out, err = command.communicate(timeout=PATIENCE)
    assert (command.returncode, out, err.count("\n")) == (2, "", 1)
    assert admin in err
