"""Bundles over the network: sent to an appliance elsewhere, over a line that is cut, and to one that is killed."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.remote import RemoteRegistry
from tests.process.crossing import command, pull_all
from tests.process.service import CHECKOUT, Appliance, until

pytestmark = pytest.mark.process

LAYERS = [int(float(os.environ.get("PULLCACHE_SENDING_MEGABYTES", "64")) * 1_000_000), 3_000_000, 2000]
"""Bytes of an image's layers; 2000 for the 2 GB that a site may carry."""

RATE = 60_000_000
"""Bytes a second of the line."""


class Line:
    """
    A line to one port, which can be cut.

    @ivar sent: bytes that went over it towards the appliance.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it begins."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def cut(self) -> None:
        """All that is under way is gone, as where a cable is pulled; who connects anew gets through."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for end in (each for pair in pairs for each in pair):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """There is no line any more."""
        self._listening.close()
        self.cut()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                try:
                    server = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._pairs.append((client, server))
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(64 * 1024):
                if counted:
                    self.sent += len(data)
                    time.sleep(len(data) / RATE)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def line(sealed: Appliance) -> Iterator[Line]:
    made = Line(int(sealed.admin.rpartition(":")[2]))
    yield made
    made.close()


def sending(line: Line, folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """C{pullcache import} over the line, under way."""
    environment = {**os.environ, "PULLCACHE_ADMIN": line.url, "PYTHONPATH": str(CHECKOUT)}
    what = [sys.executable, "-m", "appliance.cli.main", "--json", "import", "--send", *map(str, arguments)]
    return subprocess.Popen(
        what, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def receipt(process: subprocess.Popen[str]) -> Any:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out)


def test_a_line_that_is_cut_five_times_costs_next_to_nothing(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path, line: Line
) -> None:
    """What has come stays, also of a layer in the middle, and also where the appliance is killed: kill -9."""
    images = {("team/app", "1"): upstream.add("team/app", "1", sizes=LAYERS)}
    pull_all(appliance, images)
    bundle = tmp_path / "app.tar"
    command(appliance, "export", "--all", "-o", bundle)
    size = bundle.stat().st_size
    process = sending(line, tmp_path, bundle)
    for number in range(1, 6):
        until(lambda share=number / 6: line.sent > share * size or process.poll() is not None, "sent")
        assert process.poll() is None, process.communicate()
        if number == 3:
            sealed.kill()
            line.cut()
            sealed.start()
        else:
            line.cut()
    done = receipt(process)
    assert size <= line.sent < 1.05 * size, line.sent / size
    assert done["refs"][0]["name"].endswith("team/app:1") and done["files"] == [str(bundle)]
    pull_all(sealed, images)
    assert not any(path.suffix == ".tar" for path in sealed.store.rglob("*")), "it was spooled"


def test_a_file_that_becomes_shorter_while_it_is_sent_is_said_to_be(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path, line: Line
) -> None:
    """By who sends it, and the command ends; nobody else can know."""
    pull_all(appliance, {("team/app", "1"): upstream.add("team/app", "1", sizes=LAYERS)})
    bundle = tmp_path / "app.tar"
    command(appliance, "export", "--all", "-o", bundle)
    size = bundle.stat().st_size
    process = sending(line, tmp_path, bundle)
    until(lambda: line.sent > size / 8 or process.poll() is not None, "sent")
    os.truncate(bundle, size // 2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "it is cut off; copy the archive again" in errors and "Traceback" not in errors
