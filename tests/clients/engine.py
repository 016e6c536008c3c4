"""
Docker Engine: dockerd with folders of its own, and the docker command that drives it.

dockerd reads C{/etc/docker/certs.d} wherever its other folders are, and looks names up in C{/etc/hosts}: it runs in a
mount namespace in which both are the test's. There Docker Hub's names mean this machine, where no server listens for
them, so that what a mirror does not give is asked of no one else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.clients import tools
from tests.clients.signing import secluded
from tests.clients.visitors import ANYONE, Door, Visitor, Who
from tests.process.service import UPSTREAM, until

SITE = "cache.test"
"""
What the appliance is called. dockerd checks no certificate of an address in 127.0.0.0/8, nor of a name for one, and
tries such without TLS; so here the name is one for 0.0.0.0, which on Linux is another word for this machine.
"""

HUB = ("docker.io", "index.docker.io", "registry-1.docker.io", "auth.docker.io")

# Where Debian has what only an administrator starts.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])


class Dockerd:
    """
    One dockerd without a network for containers; the test is skipped where the machine does not let it run.

    @ivar certs: what it takes for C{/etc/docker/certs.d}.
    """

    programs = ("dockerd", "docker", "containerd", "runc", "unshare")

    def __init__(self, folder: Path) -> None:
        tools.need(*self.programs)
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
            pytest.skip("dockerd needs a mount namespace of its own, which only root gets")
        self._folder = folder / "dockerd"
        # The path of a Unix socket is at most 107 bytes long, and pytest's folders are not.
        self._runtime = Path(tempfile.mkdtemp(prefix="dockerd"))
        self._etc = self._folder / "etc"
        self.certs = self._etc / "certs.d"
        self.certs.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *mirrors: str) -> Dockerd:
        """Start it with the URLs of C{mirrors} for Docker Hub, and wait until it answers."""
        settings = {
            "data-root": f"{self._folder}/data",
            "exec-root": f"{self._runtime}/exec",
            "pidfile": f"{self._runtime}/pid",
            "hosts": [self._host],
            "iptables": False,
            "ip6tables": False,
            "bridge": "none",
            "storage-driver": "vfs",
            "registry-mirrors": mirrors,
        }
        config, hosts = self._folder / "daemon.json", self._folder / "hosts"
        config.write_text(json.dumps(settings))
        hosts.write_text(f"127.0.0.1 localhost {' '.join(HUB)}\n0.0.0.0 {SITE}\n")
        mounts = f"mkdir -p /etc/docker; mount --bind {hosts} /etc/hosts; mount --bind {self._etc} /etc/docker"
        command = ["unshare", "--mount", "sh", "-ec", f"{mounts}; exec dockerd --config-file {config}"]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **_environment(self._folder)}
            )
        until(self._answers, "dockerd answers")
        return self

    @property
    def _host(self) -> str:
        return f"unix://{self._runtime}/socket"

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            # Nothing of ours has been asked yet: it is the machine.
            pytest.skip(f"dockerd does not run here: {(self._folder / 'log').read_text(errors='replace')[-1000:]}")
        return (self._runtime / "socket").exists()

    def docker(self, *arguments: str | Path, config: Path, given: str = "") -> str:
        """Any docker command; C{config} is the folder of its logins, C{given} its standard input."""
        command = ["docker", "--host", self._host, "--config", str(config), *map(str, arguments)]
        surroundings = {**os.environ, **_environment(config)}
        ended = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=tools.PATIENCE, env=surroundings, check=False
        )
        if ended.returncode:
            raise tools.Failed(f"{' '.join(command)}: {ended.stderr}")
        return ended.stdout

    def close(self) -> None:
        """End it, and its containerd."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(tools.PATIENCE)
        shutil.rmtree(self._runtime)


def _environment(folder: Path) -> dict[str, str]:
    return {**secluded(folder), "no_proxy": SITE, "NO_PROXY": SITE}


class DockerVisitor(Visitor):
    """docker with C{docker login}, the appliance's address in the name, and C{certs.d}."""

    programs = Dockerd.programs

    def __init__(self, folder: Path, dockerd: Dockerd) -> None:
        super().__init__(folder)
        self._dockerd = dockerd

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See L{Visitor.pull}; a login that is refused raises L{tools.Failed}, too."""
        config = self._fresh()
        registry = self.introduce(door, who)
        if who.user:
            login = ("login", "--username", who.user, "--password-stdin", registry)
            self._dockerd.docker(*login, config=config, given=who.password)
        full = f"{registry}/{UPSTREAM}/{name}"
        output = self._dockerd.docker("pull", full, config=config)
        self._dockerd.docker("image", "rm", "--force", full, config=config)
        return set(re.findall(r"^Digest: (\S+)$", output, re.MULTILINE))

    def introduce(self, door: Door, who: Who) -> str:
        """Let dockerd know the door's authority and the visitor's certificate; returns what it is called there."""
        if door.ca is None:
            return door.authority
        registry = f"{SITE}:{door.authority.rpartition(':')[2]}"
        shutil.rmtree(self._dockerd.certs / registry, ignore_errors=True)
        who.write_folder(self._dockerd.certs / registry, door)
        return registry
