"""The appliance as a process of its own, started from the checkout as C{python twistd-plugin.py -n pullcache} does."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
UPSTREAM = "up.test"
"""The configured name of the one upstream."""

PATIENCE = 120.0
"""Seconds to wait for something that has to happen; on a busy machine a start alone takes twenty."""

PORTS = range(12_000, 32_000)
"""
Below those that connections get (C{ip_local_port_range}): while a process that was killed is started again, another
connection would have its port, and the start be refused.
"""

PAUSE = 0.05
"""Seconds between two looks."""


class Died(AssertionError):
    """The process ended when it should have gone on; the message holds the end of its log."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that no process has right now, nor gets by chance; another one each time."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


_given: set[int] = set()


def until(happened: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Look until C{happened()} is true and return it; C{what} names it in the failure."""
    end = time.monotonic() + patience
    while not (result := happened()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {patience:g} s")
        threading.Event().wait(PAUSE)
    return result


class Appliance:
    """
    One store, one configuration file, and the process that serves it, in C{folder}.

    @ivar settings: what C{write} puts into the configuration file.
    @ivar environment: variables that its process has besides.
    @ivar authority: host and port of the listener whose default upstream is L{UPSTREAM}.
    @ivar bare: host and port of the listener without a default upstream.
    @ivar admin: host and port of the admin endpoint.
    """

    def __init__(self, folder: Path, upstream_url: str, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.store = folder / "store"
        self.config = folder / "pullcache.yaml"
        ports = [free_port() for _ in range(3)]
        self.authority, self.bare, self.admin = (f"127.0.0.1:{port}" for port in ports)
        endpoints = [f"tcp:port={port}:interface=127.0.0.1" for port in ports]
        upstream = {"url": upstream_url, "fresh_for": "1s", "revalidate_within": "1s", **settings.pop("upstream", {})}
        self.settings: dict[str, Any] = {
            "store": str(self.store),
            "listen": [{"endpoint": endpoints[0], "default_upstream": UPSTREAM}, {"endpoint": endpoints[1]}],
            "admin": {"endpoint": endpoints[2]},
            "upstreams": {UPSTREAM: upstream},
            **settings,
        }
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.write()

    @property
    def url(self) -> str:
        """The first listener, as a URL."""
        return f"http://{self.authority}"

    def write(self) -> None:
        """Write C{settings} to the configuration file; JSON is YAML."""
        self.config.write_text(json.dumps(self.settings, indent=1))

    # -- the process --------------------------------------------------------------------------------------------------

    def _command(self, *options: str) -> list[str]:
        twistd = [sys.executable, str(CHECKOUT / "twistd-plugin.py"), "-n", "--pidfile="]
        return [*twistd, "pullcache", "--config", str(self.config), *options]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, for starts that are to fail and for C{--check}."""
        command = self._command(*options)
        environment = _environment() | self.environment
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def start(self) -> Appliance:
        """Start it and wait until it says that it is ready."""
        self.launch()
        until(self._is_ready, "ready")
        return self

    def launch(self) -> None:
        """Start it and wait for nothing."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=_environment() | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise Died(f"exit status {self.process.returncode}\n{self.log()[-4000:]}")
        connection = http.client.HTTPConnection(self.admin, timeout=PATIENCE)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "not started"
        return self._process

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for its end; returns the exit status."""
        status = self.process.wait(patience)
        self._process = None
        return status

    def stop(self) -> int:
        """SIGTERM, then wait."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, where it runs."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def reload(self) -> None:
        """Write C{settings}, send SIGHUP, and wait until they are in force."""
        read_again = "the configuration was read again"
        before = self.log().count(read_again)
        self.write()
        self.signal(signal.SIGHUP)
        until(lambda: self.log().count(read_again) > before, "read again")

    def restart(self) -> Appliance:
        """Stop it cleanly and start it again."""
        self.stop()
        return self.start()

    def asks(self) -> bool:
        """Whether each URL of its upstreams is asked now, and not known to be down."""
        connection = http.client.HTTPConnection(self.admin, timeout=PATIENCE)
        try:
            connection.request("GET", "/api/v1/status")
            status = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return all(url["health"] in ("up", "doubtful") for each in status["upstreams"] for url in each["urls"])

    # -- looking at it ------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """Everything it wrote so far."""
        return (self.folder / "log").read_text(errors="replace")

    def rss(self) -> int:
        """Resident memory in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Died("no VmRSS")

    def blob(self, digest: str) -> Path:
        """Where the store keeps this blob once it is whole."""
        algorithm, _, encoded = digest.partition(":")
        return self.store / "blobs" / algorithm / encoded

    def layouts(self) -> dict[str, Path]:
        """The OCI layouts in the store by repository, the upstream's name first."""
        root = self.store / "repositories"
        return {str(path.parent.parent.relative_to(root)): path.parent for path in root.rglob("_layout/index.json")}


def _environment() -> dict[str, str]:
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    return {name: value for name, value in os.environ.items() if name.lower() not in proxies}
