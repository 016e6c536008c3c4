"""The servers that are measured beside the appliance, each in a folder and on a loopback port of its own."""

from __future__ import annotations

import json
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
    """
    Debian's docker-registry, or a newer distribution.

    @param remote: URL of the registry that it is a pull-through cache of.
    @param program: where it is.
    @param tls: PEM files of a certificate and its key, with which it speaks TLS.
    @param beside: another one, whose storage it has.
    """

    def __init__(
        self,
        folder: Path,
        remote: str | None = None,
        program: str = "docker-registry",
        tls: tuple[Path, Path] | None = None,
        beside: Registry | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, program)
        self._remote, self._tls = remote, tls
        self.storage: Path = (self._folder if beside is None else beside._folder) / "storage"

    @property
    def scheme(self) -> str:
        """What it speaks."""
        return "http" if self._tls is None else "https"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, **sections: Any) -> Registry:
        """Start it and wait until it answers."""
        sections["storage"] = {"filesystem": {"rootdirectory": str(self.storage)}}
        if self._remote is not None:
            sections["proxy"] = {"remoteurl": self._remote}
        if self._tls is not None:
            certificate, key = map(str, self._tls)
            sections["http"] = {"addr": self.authority, "tls": {"certificate": certificate, "key": key}}
        super().start(**sections)
        return self

    def _answers(self) -> bool:
        return super()._answers() if self._tls is None else _listens(self.authority)

    def push(self, image: Image) -> None:
        """Hold an image from now on."""
        self.add(image.repository, "latest", image.content)

    def place(self, repository: str, digest: str, file: Path) -> None:
        """Hold a file as a blob, in the form that it has in its storage."""
        algorithm, _, encoded = digest.partition(":")
        root = self.storage / "docker" / "registry" / "v2"
        blob = root / "blobs" / algorithm / encoded[:2] / encoded
        link = root / "repositories" / repository / "_layers" / algorithm / encoded
        for folder in (blob, link):
            folder.mkdir(parents=True)
        os.link(file, blob / "data")
        (link / "link").write_text(digest)

    def sent(self, image: Image) -> int:
        """Bytes of the layers of C{image} that it sent, as its log has them."""
        uris = [f'http.request.uri="{image.path_of(layer)}"' for layer in image.content.layers]
        # Newer ones leave quotes out where nothing needs them.
        uris += [uri.replace('"', "") + " " for uri in uris]
        with (self._folder / "log").open(errors="replace") as lines:
            return sum(
                int(found[1]) for line in lines if any(uri in line for uri in uris) and (found := _SENT.search(line))
            )


class Zot(Registry):
    """zot, which takes images as every registry does."""

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder, program=program)

    def start(self, **sections: Any) -> Zot:
        """Start it and wait until it answers."""
        host, _, port = self.authority.partition(":")
        config = self._folder / "config.json"
        document = {
            "distSpecVersion": "1.1.1",
            "storage": {"rootDirectory": str(self.storage)},
            "http": {"address": host, "port": port},
            "log": {"level": "info", "output": str(self._folder / "zot.log")},
            **sections,
        }
        config.write_text(json.dumps(document))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen([self._program, "serve", config], stdout=log, stderr=subprocess.STDOUT)
        until(self._answers, "zot answers")
        return self


class Nginx:
    """nginx with one worker and the files of images, C{sendfile} as Debian's configuration has it; plain and TLS."""

    def __init__(self, folder: Path, tls: tuple[Path, Path]) -> None:
        self._folder, self._tls_files = folder, tls
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        self.authority, self.tls = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The master."""
        assert self._process is not None, "not started"
        return self._process.pid

    def link(self, path: str, file: Path) -> None:
        """Hold a file without a copy of it."""
        target = self.files / path.lstrip("/")
        target.parent.mkdir(parents=True)
        target.hardlink_to(file)

    def push(self, image: Image) -> None:
        """Put the files where a registry would have them."""
        manifest = image.content.manifest
        held = {image.tag_path: manifest, image.digest_path: manifest}
        held |= {image.path_of(blob): blob for blob in image.content.blobs}
        for path, blob in held.items():
            file = self.files / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(blob.data)

    def start(self) -> Nginx:
        """Start it and wait until it answers."""
        config = self._folder / "nginx.conf"
        config.write_text(self._configuration())
        with (self._folder / "log").open("wb") as log:
            command = ["nginx", "-p", str(self._folder), "-c", str(config), "-e", str(self._folder / "error.log")]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until(lambda: _listens(self.authority), "nginx answers")
        return self

    def _configuration(self) -> str:
        # Its worker becomes nobody where the master is root, and nobody cannot read a temporary folder.
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "\n".join(
            f"{kind}_temp_path {self._folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        certificate, key = self._tls_files
        return f"""
{user}
daemon off;
worker_processes 1;
pid {self._folder}/pid;
events {{ worker_connections 4096; }}
http {{
    {temporary}
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    access_log {self._folder}/access.log;
    server {{
        listen {self.authority} backlog=4096;
        listen {self.tls} ssl backlog=4096;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {self.files};
        location ~ /manifests/ {{ default_type application/vnd.oci.image.manifest.v1+json; }}
        location / {{ default_type application/octet-stream; }}
    }}
}}
"""

    def kill(self) -> None:
        """End the master, and with it the worker."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()


def _listens(authority: str) -> bool:
    host, _, port = authority.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except OSError:
        return False
    return True


class Line:
    """A L{line} of limited speed in front of a server; with C{each} that is the speed of every connection."""

    def __init__(self, to: str, rate: float, round_trip: float, each: bool = False, scheme: str = "http") -> None:
        self._scheme = scheme
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
        return f"{self._scheme}://{self.authority}"

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
