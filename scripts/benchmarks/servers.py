"""The servers that are measured beside the appliance, each in a folder and on a loopback port of its own."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.contents import Image
from tests.clients.plain import ask
from tests.clients.tools import DockerRegistry
from tests.process.service import PATIENCE, Appliance, free_port, until

LINE = Path(__file__).with_name("line.py")
_SENT = re.compile(r"http\.response\.written=([0-9]+)")
_KIB = re.compile(r"(VmRSS|VmHWM):\s+([0-9]+) kB")


def appliance(folder: Path, upstream_url: str, **upstream: Any) -> Appliance:
    """The appliance, configured as it is shipped where it matters here, but for C{upstream}; its store is empty."""
    shipped = {"fresh_for": "1m", "revalidate_within": "2s"}
    return Appliance(folder, upstream_url, upstream={**shipped, **upstream})


def received(of: Appliance) -> int:
    """Bytes of bodies that the appliance says it got from its upstreams."""
    text = ask(of.admin, "/metrics").body.decode()
    values = re.findall(r"^pullcache_upstream_received_bytes_total\{[^}]*\} ([0-9.e+]+)$", text, re.MULTILINE)
    return int(sum(map(float, values)))


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process: now, and the most since L{forget_peak}."""
    found = dict(_KIB.findall(Path(f"/proc/{pid}/status").read_text()))
    return int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024


def forget_peak(pid: int) -> None:
    """Let the most resident memory of a process be what it has now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Registry(DockerRegistry):
    """Debian's docker-registry; with a C{remote} URL it is a pull-through cache of that registry."""

    def __init__(self, folder: Path, remote: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self._remote = remote

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, **sections: Any) -> Registry:
        """Start it and wait until it answers."""
        super().start(**sections, **({} if self._remote is None else {"proxy": {"remoteurl": self._remote}}))
        return self

    def push(self, image: Image) -> None:
        """Hold an image from now on."""
        self.add(image.repository, "latest", image.content)

    def sent(self, image: Image) -> int:
        """Bytes of the layer of C{image} that it sent, as its log has them."""
        uri = f'http.request.uri="{image.blob_path}"'
        with (self._folder / "log").open(errors="replace") as lines:
            return sum(int(found[1]) for line in lines if uri in line and (found := _SENT.search(line)))


class Nginx:
    """nginx with the files of one image, and C{sendfile} as Debian's configuration has it."""

    programs = ("nginx",)

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = folder / "files"
        self._files.mkdir(parents=True)
        self.authority = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def hold(self, image: Image) -> None:
        """Put the files where a registry would have them."""
        layer, manifest = image.layer, image.content.manifest
        for path, blob in ((image.blob_path, layer), (image.tag_path, manifest), (image.digest_path, manifest)):
            file = self._files / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(blob.data)

    def start(self) -> Nginx:
        """Start it and wait until it answers."""
        config = self._folder / "nginx.conf"
        config.write_text(self._configuration())
        with (self._folder / "log").open("wb") as log:
            command = ["nginx", "-p", str(self._folder), "-c", str(config), "-e", str(self._folder / "error.log")]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until(self._answers, "nginx answers")
        return self

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.authority, timeout=PATIENCE)
        try:
            connection.request("GET", "/")
            connection.getresponse()
            return True
        except OSError:
            return False
        finally:
            connection.close()

    def _configuration(self) -> str:
        # Its workers become nobody where the master is root, and nobody cannot read a temporary folder.
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "\n".join(
            f"{kind}_temp_path {self._folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
{user}
daemon off;
worker_processes auto;
pid {self._folder}/pid;
events {{ worker_connections 768; }}
http {{
    {temporary}
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    access_log {self._folder}/access.log;
    server {{
        listen {self.authority};
        root {self._files};
        location ~ /manifests/ {{ default_type application/vnd.oci.image.manifest.v1+json; }}
        location / {{ default_type application/octet-stream; }}
    }}
}}
"""

    def kill(self) -> None:
        """End the master, and with it the workers."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()


class Line:
    """A L{line} of limited speed in front of a server; with C{each} that is the speed of every connection."""

    def __init__(self, to: str, rate: float, round_trip: float, each: bool = False) -> None:
        self.authority = f"127.0.0.1:{free_port()}"
        ports = [authority.rpartition(":")[2] for authority in (self.authority, to)]
        more = ["each"] if each else []
        self._command = [sys.executable, "-S", str(LINE), *ports, str(rate), str(round_trip), *more]
        self.start()

    def start(self) -> None:
        """Listen, again after L{kill} at the same address."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.authority}"

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class BlackHole:
    """Listens where another server did before, and never answers; it is there from the beginning to L{close}."""

    def __init__(self, authority: str) -> None:
        host, _, port = authority.rpartition(":")
        # The kernel accepts for it; nothing is ever read.
        self._listening = socket.create_server((host, int(port)), backlog=1024)

    def close(self) -> None:
        """Leave the address; connections to it are reset."""
        self._listening.close()
