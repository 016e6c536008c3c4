"""
Real clients at a door of the appliance: each comes with what it was given, a login, a certificate or nothing.

Every visitor has C{pull(door, name, who)}, which pulls into an empty storage and returns the digests that the client
now knows the reference by. What it could not have raises L{Failed}, with what its user reads. Its folders are its own,
and no network but loopback is there for it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from tests.clients.signing import secluded
from tests.clients.tools import PATIENCE, Containerd, Failed, run
from tests.doubles.certificates import Identity
from tests.doubles.images import sha256
from tests.process.service import CHECKOUT, UPSTREAM, until

CLIENT_FILES = CHECKOUT / "etc" / "clients"
"""The files that are shipped."""


@dataclass(frozen=True)
class Door:
    """
    One listener, as its clients know it.

    @ivar authority: host and port.
    @ivar ca: PEM file of the authority that its certificate is of; C{None}: it speaks plain HTTP.
    """

    authority: str
    ca: Path | None = None

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.ca else 'http'}://{self.authority}"


@dataclass(frozen=True)
class Who:
    """What a visitor says of itself; nothing at all, unless a login or a certificate is given."""

    user: str = ""
    password: str = ""
    certificate: Identity | None = None

    @classmethod
    def of(cls, certificate: Identity) -> Who:
        """Who has this certificate, and no password."""
        return cls(certificate=certificate)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617), empty without a login."""
        return "Basic " + self._encoded if self.user else ""

    @property
    def _encoded(self) -> str:
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def write_logins(self, file: Path, authority: str) -> Path:
        """Write what C{docker login} and C{podman login} leave behind."""
        auths = {authority: {"auth": self._encoded}} if self.user else {}
        file.write_text(json.dumps({"auths": auths}))
        return file

    def write_folder(self, folder: Path, door: Door) -> Path:
        """Write a folder as C{/etc/docker/certs.d/HOST:PORT}: C{ca.crt}, C{client.cert}, C{client.key}."""
        folder.mkdir(parents=True, exist_ok=True)
        if door.ca is not None:
            (folder / "ca.crt").write_bytes(door.ca.read_bytes())
        if self.certificate is not None:
            (folder / "client.cert").write_bytes(self.certificate.certificates)
            (folder / "client.key").write_bytes(self.certificate.private())
        return folder


ANYONE = Who()
"""Who says nothing."""


class Visitor:
    """What all have: a new folder for each pull."""

    programs: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def _fresh(self) -> Path:
        folder = self._folder / f"{type(self).__name__.lower()}-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See the module's docstring; C{name} is repository and tag, without the upstream."""
        raise NotImplementedError


class SkopeoVisitor(Visitor):
    """skopeo with an authfile and a folder of certificates."""

    programs = ("skopeo",)

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See L{Visitor.pull}."""
        folder = self._fresh()
        source = f"docker://{door.authority}/{UPSTREAM}/{name}"
        self._skopeo(
            folder, "copy", "--quiet", "--all", *self._given(folder, door, who, "--src-"), source, f"dir:{folder}/image"
        )
        return {sha256((folder / "image" / "manifest.json").read_bytes())}

    def tags(self, door: Door, repository: str, who: Who = ANYONE) -> list[str]:
        """What it lists; raises L{Failed} as L{Visitor.pull} does."""
        folder = self._fresh()
        source = f"docker://{door.authority}/{UPSTREAM}/{repository}"
        tags: list[str] = json.loads(self._skopeo(folder, "list-tags", *self._given(folder, door, who, "--"), source))[
            "Tags"
        ]
        return tags

    def _given(self, folder: Path, door: Door, who: Who, prefix: str) -> list[str]:
        options = [f"{prefix}tls-verify=false"] if door.ca is None else []
        options.append(f"{prefix}cert-dir={who.write_folder(folder / 'certs', door)}")
        # Of both, only copy has one for the source alone.
        return [*options, f"--authfile={who.write_logins(folder / 'auth.json', door.authority)}"]

    def _skopeo(self, folder: Path, *arguments: str) -> bytes:
        return run("skopeo", "--insecure-policy", "--tmpdir", folder, *arguments, **secluded(folder))


class PodmanVisitor(Visitor):
    """podman with the upstream's own name, its location in registries.conf, C{--authfile} and C{--cert-dir}."""

    programs = ("podman",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # podman refuses a run folder whose path is longer than 50 bytes, and pytest's folders are.
        self._runtime = Path(tempfile.mkdtemp(prefix="podman"))

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See L{Visitor.pull}."""
        folder = self._fresh()
        logins = who.write_logins(folder / "auth.json", door.authority)
        # Not a mirror: what a mirror refuses is asked of the registry itself, and its answer is what the user reads.
        (folder / "registries.conf").write_text(
            f'[[registry]]\nprefix = "{UPSTREAM}"\nlocation = "{door.authority}/{UPSTREAM}"\n'
            f"insecure = {'false' if door.ca else 'true'}\n"
        )
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        storage = ["--root", f"{folder}/root", "--runroot", f"{self._runtime}/{folder.name}", "--storage-driver", "vfs"]
        podman = ["podman", *storage, "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        environment = {"CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"), "TMPDIR": str(folder)}
        options = ["--signature-policy", folder / "policy.json", "--authfile", logins]
        options += ["--cert-dir", who.write_folder(folder / "certs", door)]
        full = f"{UPSTREAM}/{name}"
        run(*podman, "pull", "--quiet", *options, full, **secluded(folder), **environment)
        output = run(*podman, "image", "inspect", full, **environment)
        return {digest.partition("@")[2] for digest in json.loads(output)[0]["RepoDigests"]}

    def close(self) -> None:
        """Remove what does not lie in the test's folder."""
        shutil.rmtree(self._runtime)


class ContainerdVisitor(Visitor):
    """containerd with a hosts.toml: C{ca}, C{client}, and the login as a header."""

    programs = Containerd.programs

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._containerd = Containerd(folder)

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See L{Visitor.pull}."""
        return self._containerd.pull_by(self._hosts(door, who), name)

    def _hosts(self, door: Door, who: Who) -> str:
        folder = self._fresh()
        settings = []
        if door.ca is not None:
            settings.append(f'ca = "{door.ca}"')
        if who.certificate is not None:
            certificate, key = who.certificate.write(folder, "client")
            settings.append(f'client = [["{certificate}", "{key}"]]')
        header = [f'Authorization = ["{who.basic}"]'] if who.user else []
        # What a host refuses is asked of the server, which is to be reached in the same way: its answer is the one
        # that the user reads.
        lines = [f'server = "{door.url}"', *settings, "[header]", *header]
        lines += [f'[host."{door.url}"]', 'capabilities = ["pull", "resolve"]', *settings]
        return "\n".join([*lines, f'[host."{door.url}".header]', *header, ""])

    def close(self) -> None:
        """End the daemon."""
        self._containerd.close()


class K3sVisitor(Visitor):
    """
    containerd as k3s sets it up from the shipped registries.yaml (k3s, C{pkg/agent/containerd/config.go}): C{tls}
    becomes a hosts.toml, C{auth} a section of containerd's own configuration. It is asked as the kubelet asks, by
    PullImage of the Container Runtime Interface.
    """

    programs = ("containerd", "ctr", "curl")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # The path of a Unix socket is at most 107 bytes long, and pytest's folders are not.
        self._runtime = Path(tempfile.mkdtemp(prefix="k3s"))
        self._process: subprocess.Popen[bytes] | None = None

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See L{Visitor.pull}."""
        folder = self._fresh()
        self._restart(folder, self._registries(folder, door, who))
        image = _field(1, _field(1, f"{UPSTREAM}/{name}".encode()))
        (folder / "request").write_bytes(b"\0" + len(image).to_bytes(4) + image)
        url = "http://localhost/runtime.v1.ImageService/PullImage"
        headers = ("-H", "Content-Type: application/grpc", "-H", "TE: trailers", "--dump-header", "-")
        transport = ("--http2-prior-knowledge", "--unix-socket", self._runtime / "socket")
        sent = ("--data-binary", f"@{folder}/request", "--output", "/dev/null")
        answer = run("curl", "-sS", *transport, *headers, *sent, url).decode()
        if "grpc-status: 0" not in answer:
            raise Failed(answer)
        listed = run("ctr", "--address", self._runtime / "socket", "--namespace", "k8s.io", "images", "list").decode()
        return {line.split()[2] for line in listed.splitlines() if line.startswith(f"{UPSTREAM}/{name} ")}

    def _registries(self, folder: Path, door: Door, who: Who) -> dict[str, Any]:
        """The shipped file with what the site and this visitor have."""
        text = (CLIENT_FILES / "k3s" / "registries-login.yaml").read_text()
        address = "pullcache.example:5443"
        text = text.replace(f"https://{address}", door.url).replace(address, door.authority)
        registries: dict[str, Any] = yaml.safe_load(text)
        config = registries["configs"][door.authority]
        assert set(config) == {"auth", "tls"} and set(config["tls"]) == {"ca_file", "cert_file", "key_file"}
        config["auth"] = {"username": who.user, "password": who.password} if who.user else {}
        config["tls"] = {"ca_file": str(door.ca)} if door.ca else {}
        if who.certificate is not None:
            certificate, key = who.certificate.write(folder, "node")
            config["tls"] |= {"cert_file": str(certificate), "key_file": str(key)}
        return registries

    def _restart(self, folder: Path, registries: dict[str, Any]) -> None:
        self._stop()
        (endpoint,) = registries["mirrors"]["*"]["endpoint"]
        ((registry, config),) = registries["configs"].items()
        tls, auth = config["tls"], config["auth"]
        lines = [f'ca = ["{tls["ca_file"]}"]'] if tls else []
        if "cert_file" in tls:
            lines.append(f'client = [["{tls["cert_file"]}", "{tls["key_file"]}"]]')
        hosts = folder / "certs.d" / "_default"
        hosts.mkdir(parents=True)
        host = [f'[host."{endpoint}/v2"]', 'capabilities = ["pull", "resolve"]', *lines]
        (hosts / "hosts.toml").write_text("\n".join([f'server = "{endpoint}/v2"', *lines, *host, ""]))
        plugin = 'plugins."io.containerd.grpc.v1.cri"'
        text = [
            f'version = 2\nroot = "{folder}/root"\nstate = "{self._runtime}/state"',
            f'[grpc]\naddress = "{self._runtime}/socket"',
            f'[{plugin}]\nstream_server_address = "127.0.0.1"\nstream_server_port = "0"',
            f'[{plugin}.containerd]\nsnapshotter = "native"',
            f'[{plugin}.registry]\nconfig_path = "{folder}/certs.d"',
            *[f'[{plugin}.registry.configs."{registry}".auth]' for _ in auth][:1],
            *[f'{key} = "{value}"' for key, value in auth.items()],
        ]
        (folder / "config.toml").write_text("\n".join(text))
        with (folder / "log").open("wb") as log:
            command = ["containerd", "--config", str(folder / "config.toml")]
            surroundings = {**os.environ, **secluded(folder)}
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=surroundings)
        until(self._answers, "containerd answers")

    def _answers(self) -> bool:
        with contextlib.suppress(Failed):
            return b"io.containerd.grpc.v1" in run("ctr", "--address", self._runtime / "socket", "plugins", "list")
        return False

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(PATIENCE)

    def close(self) -> None:
        """End the daemon."""
        self._stop()
        shutil.rmtree(self._runtime)


def _field(number: int, value: bytes) -> bytes:
    """A field of a message (protocol buffers' encoding, "Length-Delimited Records"), of less than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


class CraneVisitor(Visitor):
    """crane with docker's config.json; it knows no client certificates."""

    programs = ("crane",)

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See L{Visitor.pull}."""
        folder = self._fresh()
        who.write_logins(folder / "config.json", door.authority)
        trusted = {"SSL_CERT_FILE": str(door.ca)} if door.ca else {}
        source = f"{door.authority}/{UPSTREAM}/{name}"
        run("crane", "pull", "--format", "oci", source, folder / "image", **secluded(folder), **trusted)
        return pulled_layout(folder / "image")


class RegctlVisitor(Visitor):
    """regctl with a configuration of its own."""

    programs = ("regctl",)

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See L{Visitor.pull}."""
        folder = self._fresh()
        host: dict[str, Any] = {"tls": "enabled" if door.ca else "disabled", "hostname": door.authority}
        if door.ca is not None:
            host["regcert"] = door.ca.read_text()
        if who.user:
            host |= {"user": who.user, "pass": who.password}
        if who.certificate is not None:
            host["clientCert"] = who.certificate.certificates.decode()
            host["clientKey"] = who.certificate.private().decode()
        (folder / "regctl.json").write_text(json.dumps({"hosts": {door.authority: host}}))
        environment = {**secluded(folder), "REGCTL_CONFIG": str(folder / "regctl.json")}
        source = f"{door.authority}/{UPSTREAM}/{name}"
        run("regctl", "image", "copy", source, f"ocidir://{folder}/image:pulled", **environment)
        return pulled_layout(folder / "image")


class OrasVisitor(Visitor):
    """oras with a file of logins."""

    programs = ("oras",)

    def pull(self, door: Door, name: str, who: Who = ANYONE) -> set[str]:
        """See L{Visitor.pull}."""
        folder = self._fresh()
        options: list[str | Path] = ["--from-registry-config", who.write_logins(folder / "auth.json", door.authority)]
        options += ["--from-ca-file", door.ca] if door.ca else ["--from-plain-http"]
        if who.certificate is not None:
            certificate, key = who.certificate.write(folder, "client")
            options += ["--from-cert-file", certificate, "--from-key-file", key]
        source = f"{door.authority}/{UPSTREAM}/{name}"
        run("oras", "copy", *options, source, "--to-oci-layout", f"{folder}/image:pulled", **secluded(folder))
        return pulled_layout(folder / "image")


def pulled_layout(folder: Path) -> set[str]:
    """The digests that an OCI layout names (image specification, image-layout.md, "index.json file")."""
    return {each["digest"] for each in json.loads((folder / "index.json").read_text())["manifests"]}
