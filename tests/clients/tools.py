"""
Real clients and a real registry, each with folders of its own, so that nothing of this machine's is read or changed.

Every client has C{pull(source)}, which pulls into an empty storage and returns the digests that the client now knows
the reference by: podman gives an index and its platform's image, the others one digest.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.doubles.images import Blob, Content, sha256
from tests.process.service import UPSTREAM, Appliance, free_port, until

PATIENCE = 120.0
"""Seconds that any one command may take."""


class Failed(AssertionError):
    """A command ended with an error; the message holds its standard error."""


def missing(*programs: str) -> str | None:
    """Why what needs C{programs} cannot run here, C{None} when it can."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def need(*programs: str) -> None:
    """Skip the test where one of C{programs} is not installed."""
    # Here, since scripts/demo uses this module where pytest is not installed.
    import pytest

    if reason := missing(*programs):
        pytest.skip(reason)


def run(*command: str | Path, **environment: str) -> bytes:
    """Run a command to its end and return its standard output."""
    arguments = [str(part) for part in command]
    surroundings = {**os.environ, **environment}
    ended = subprocess.run(arguments, capture_output=True, timeout=PATIENCE, env=surroundings, check=False)
    if ended.returncode:
        raise Failed(f"{' '.join(arguments)}: {ended.stderr.decode(errors='replace')}")
    return ended.stdout


@dataclass(frozen=True)
class Source:
    """A repository of the upstream as seen through C{appliance}, and a tag."""

    appliance: Appliance
    repository: str
    tag: str


class Skopeo:
    """Copies an image with every platform into a folder, nothing converted."""

    programs = ("skopeo",)

    def __init__(self, folder: Path) -> None:
        self._folders = (folder / f"skopeo-{number}" for number in itertools.count())
        self._temporary = folder

    def fresh(self) -> Path:
        """A folder that does not exist yet."""
        return next(self._folders)

    def run(self, *arguments: str) -> bytes:
        """Any skopeo command."""
        return run("skopeo", "--insecure-policy", "--tmpdir", self._temporary, *arguments)

    def pull(self, source: Source) -> set[str]:
        """See the module's docstring."""
        name = f"docker://{source.appliance.authority}/{source.repository}:{source.tag}"
        folder = self.fresh()
        self.run("copy", "--quiet", "--all", "--src-tls-verify=false", name, f"dir:{folder}")
        return {sha256((folder / "manifest.json").read_bytes())}

    def raw(self, name: str, *options: str) -> str:
        """The digest of the manifest that C{skopeo inspect --raw} prints."""
        return sha256(self.run("inspect", "--raw", *options, name))

    def tags(self, authority: str, repository: str) -> list[str]:
        """What C{skopeo list-tags} lists."""
        output = self.run("list-tags", "--tls-verify=false", f"docker://{authority}/{repository}")
        tags: list[str] = json.loads(output)["Tags"]
        return tags


class Podman:
    """Pulls the upstream's own name through a mirror in registries.conf."""

    programs = ("podman",)

    def __init__(self, folder: Path) -> None:
        self._folders = (folder / f"podman-{number}" for number in itertools.count())
        # podman refuses a run folder whose path is longer than 50 bytes, and pytest's folders are.
        self._runtime = Path(tempfile.mkdtemp(prefix="podman"))

    def pull(self, source: Source) -> set[str]:
        """See the module's docstring."""
        folder = next(self._folders)
        folder.mkdir()
        mirror = f"{source.appliance.bare}/{UPSTREAM}"
        (folder / "registries.conf").write_text(
            f'[[registry]]\nprefix = "{UPSTREAM}"\nlocation = "{UPSTREAM}.invalid"\n'
            f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
        )
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        storage = ["--root", f"{folder}/root", "--runroot", f"{self._runtime}/{folder.name}", "--storage-driver", "vfs"]
        podman = ["podman", *storage, "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        environment = {"CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"), "TMPDIR": str(folder)}
        name = f"{UPSTREAM}/{source.repository}:{source.tag}"
        run(*podman, "pull", "--quiet", "--signature-policy", folder / "policy.json", name, **environment)
        output = run(*podman, "image", "inspect", name, **environment)
        return {digest.partition("@")[2] for digest in json.loads(output)[0]["RepoDigests"]}

    def close(self) -> None:
        """Remove what does not lie in the test's folder."""
        shutil.rmtree(self._runtime)


class Containerd:
    """Pulls the upstream's own name through a mirror in hosts.toml, so that every request carries C{ns}."""

    programs = ("containerd", "ctr")

    def __init__(self, folder: Path) -> None:
        # The path of a Unix socket is at most 107 bytes long, and pytest's folders are not.
        self._runtime = Path(tempfile.mkdtemp(prefix="ctr"))
        self._folder = folder / "containerd"
        self._folder.mkdir()
        self._names = (f"pull-{number}" for number in itertools.count())
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        config = self._folder / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{self._folder}/root"\nstate = "{self._runtime}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self._runtime}/socket"\n'
        )
        with (self._folder / "log").open("wb") as log:
            command = ["containerd", "--config", str(config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until(self._answers, "containerd answers")

    def _answers(self) -> bool:
        with contextlib.suppress(Failed):
            self._ctr("version")
            return True
        return False

    def _ctr(self, *arguments: str | Path) -> bytes:
        return run("ctr", "--address", self._runtime / "socket", *arguments)

    def pull(self, source: Source) -> set[str]:
        """See the module's docstring; each pull has a containerd namespace of its own."""
        mirror = f"http://{source.appliance.bare}"
        hosts = f'server = "{mirror}"\n[host."{mirror}"]\n  capabilities = ["pull", "resolve"]\n'
        return self.pull_by(hosts, f"{source.repository}:{source.tag}")

    def pull_by(self, hosts: str, name: str, *options: str) -> set[str]:
        """Pull repository and tag with a hosts.toml that holds C{hosts}; see L{pull}."""
        if self._process is None:
            self._start()
        folder = self._folder / "certs.d" / UPSTREAM
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(hosts)
        namespace = ["--namespace", next(self._names)]
        full = f"{UPSTREAM}/{name}"
        where = ["--hosts-dir", str(folder.parent), "--snapshotter", "native", "--platform", "linux/amd64"]
        self._ctr(*namespace, "images", "pull", *where, *options, full)
        listed = self._ctr(*namespace, "images", "list").decode().splitlines()[1:]
        return {line.split()[2] for line in listed if line.startswith(f"{full} ")}

    def close(self) -> None:
        """End the daemon."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
        shutil.rmtree(self._runtime)


class DockerRegistry:
    """Debian's docker-registry, or a newer distribution by its C{program}."""

    programs = ("docker-registry",)

    def __init__(self, folder: Path, program: str = "docker-registry") -> None:
        self._program = program
        self._folder = folder / "docker-registry"
        self._folder.mkdir()
        self.authority = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.authority}"

    def start(self, **sections: Any) -> DockerRegistry:
        """Start it, with C{sections} of its configuration, and wait until it answers."""
        config = self._folder / "config.yml"
        storage = {"filesystem": {"rootdirectory": str(self._folder / "storage")}}
        configuration = {"version": 0.1, "storage": storage, "http": {"addr": self.authority}, **sections}
        config.write_text(json.dumps(configuration))
        with (self._folder / "log").open("wb") as log:
            command = [self._program, "serve", str(config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        until(self._answers, f"{self._program} answers")
        return self

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.authority, timeout=PATIENCE)
        try:
            connection.request("GET", "/v2/")
            # 401: it answers those who say who they are.
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()

    def log(self) -> str:
        """Everything it wrote since it was started."""
        return (self._folder / "log").read_text(errors="replace")

    def add(self, repository: str, tag: str, content: Content) -> None:
        """Push C{content} and everything beneath it (distribution specification, "Pushing manifests")."""
        for part in content.walk():
            for blob in part.blobs:
                self._push_blob(repository, blob)
            reference = tag if part is content else part.digest
            self._send("PUT", f"/v2/{repository}/manifests/{reference}", part.manifest.data, part.manifest.media_type)

    def _push_blob(self, repository: str, blob: Blob) -> None:
        location = self._send("POST", f"/v2/{repository}/blobs/uploads/")
        self._send("PUT", f"{location}&digest={blob.digest}", blob.data, "application/octet-stream")

    def _send(self, method: str, path: str, data: bytes = b"", content_type: str = "text/plain") -> str:
        connection = http.client.HTTPConnection(self.authority, timeout=PATIENCE)
        try:
            connection.request(method, path.removeprefix(self.url), data, {"Content-Type": content_type})
            response = connection.getresponse()
            if response.status not in (201, 202):
                raise Failed(f"{method} {path}: {response.status} {response.read(300)!r}")
            return response.getheader("Location") or ""
        finally:
            connection.close()

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def opened(client: Any) -> Iterator[Any]:
    """Give the client away, and close it afterwards where it has something to close."""
    yield client
    if hasattr(client, "close"):
        client.close()
