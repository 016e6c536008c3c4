"""
cosign, oras and regctl: what signs, what attaches and what lists referrers.

Each runs with folders of its own, and where the network would be there is a port without a listener: Go's HTTP
client asks no proxy for a loopback address (C{golang.org/x/net/http/httpproxy}), so registries here are reached and
nothing else is. cosign 3 looks for the keys of the public Sigstore before it signs; it says that it did not get them,
and goes on.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.clients.tools import run
from tests.doubles import images

REPOSITORY, TAG = "team/app", "1"
NAME = f"{REPOSITORY}:{TAG}"
IMAGE = images.multi_arch(REPOSITORY)
"""What is signed, and what artifacts are attached to."""

NOBODY = "http://127.0.0.1:9"
"""A proxy that refuses every connection."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def secluded(folder: Path) -> dict[str, str]:
    """The environment of a client that has no home but C{folder} and no network but loopback."""
    names = [name for lower in PROXIES for name in (lower, lower.upper())]
    homes = {name: str(folder) for name in ("HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    return {**homes, **dict.fromkeys(names, NOBODY), "no_proxy": "", "NO_PROXY": "", "TUF_ROOT": str(folder / "tuf")}


class Cosign:
    """
    cosign 2 with a key pair of its own: leaves a signature as the tag C{sha256-HEX.sig}.

    @ivar key: the private key; the public one is beside it.
    """

    programs: tuple[str, ...] = ("cosign",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.programs[0]
        self.folder.mkdir()
        self._environment = {**secluded(self.folder), "COSIGN_PASSWORD": "a-password-of-this-test"}
        self.key = self.folder / "pair.key"
        self.run("generate-key-pair", "--output-key-prefix", self.key.with_suffix(""))

    def run(self, command: str, *arguments: str | Path) -> bytes:
        """Any cosign command; returns its standard output."""
        return run(self.programs[0], command, *arguments, **self._environment)

    def sign(self, authority: str, repository: str, digest: str) -> None:
        """Sign a manifest where it lies."""
        key = ("--key", self.key, *self._signing())
        self.run("sign", "--yes", *key, "--allow-http-registry", f"{authority}/{repository}@{digest}")

    def _signing(self) -> list[str | Path]:
        return ["--tlog-upload=false"]

    def verify(self, authority: str, repository: str, reference: str) -> set[str]:
        """
        The digests that were signed with the key, of the manifest with this tag or digest.

        @raise Failed: there is no such signature, or it could not be looked for.
        """
        name = f"{authority}/{repository}{'@' if ':' in reference else ':'}{reference}"
        offline = ("--insecure-ignore-tlog=true", "--allow-http-registry")
        payloads = json.loads(self.run("verify", "--key", self.key.with_suffix(".pub"), *offline, name))
        return {payload["critical"]["image"]["docker-manifest-digest"] for payload in payloads}

    def tree(self, authority: str, name: str) -> str:
        """What C{cosign tree} shows, the registry's own address left out."""
        return self.run("tree", "--allow-http-registry", f"{authority}/{name}").decode().replace(authority, "")

    def save(self, authority: str, name: str, folder: Path) -> set[str]:
        """Save an image with its signatures into a layout; returns the digests of what lies there."""
        folder.mkdir()
        self.run("save", "--allow-http-registry", "--dir", folder, f"{authority}/{name}")
        return {f"sha256:{file.name}" for file in (folder / "blobs" / "sha256").iterdir()}

    def load(self, folder: Path, authority: str, name: str) -> None:
        """Push what was saved to a registry."""
        self.run("load", "--allow-http-registry", "--dir", folder, f"{authority}/{name}")


class Cosign3(Cosign):
    """cosign 3, installed beside the other: leaves a signature as a referrer."""

    programs = ("cosign3",)

    def _signing(self) -> list[str | Path]:
        # One without a transparency log and without a timestamp authority.
        config = self.folder / "signing-config.json"
        if not config.exists():
            self.run("signing-config", "create", "--out", config)
        return ["--signing-config", config]


class Oras:
    """oras."""

    programs = ("oras",)

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "oras"
        self._folder.mkdir()
        self._environment = secluded(self._folder)

    def run(self, *arguments: str | Path) -> bytes:
        """Any oras command; returns its standard output."""
        return run("oras", *arguments, **self._environment)

    def attach(self, name: str, artifact_type: str, text: str) -> str:
        """Attach a file that holds C{text}; returns the digest of its manifest."""
        file = self._folder / "attached.txt"
        file.write_text(text)
        options = ("--plain-http", "--disable-path-validation", "--artifact-type", artifact_type, "--format", "json")
        digest: str = json.loads(self.run("attach", *options, name, f"{file}:text/plain"))["digest"]
        return digest

    def referrers(self, name: str, *options: str) -> list[tuple[str, str]]:
        """Digest and artifact type of what C{oras discover} lists, in order of their digests."""
        listed = json.loads(self.run("discover", "--format", "json", *(options or ("--plain-http",)), name))
        return sorted((each["digest"], each.get("artifactType", "")) for each in listed["manifests"] or ())

    def tree(self, authority: str, name: str) -> str:
        """What C{oras discover} shows of an image, the referrers of its referrers too, in order of lines."""
        lines = self.run("discover", "--plain-http", f"{authority}/{name}").decode().replace(authority, "")
        return "\n".join(sorted(line.strip("├└│─ ") for line in lines.splitlines()))


class Regctl:
    """regctl."""

    programs = ("regctl",)

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "regctl"
        self._folder.mkdir()

    def run(self, authority: str, *arguments: str | Path) -> bytes:
        """Any regctl command that talks to a registry without TLS; returns its standard output."""
        return run("regctl", "--host", f"reg={authority},tls=disabled", *arguments, **secluded(self._folder))

    def referrers(self, authority: str, name: str, *options: str) -> list[tuple[str, str]]:
        """Digest and artifact type of what C{regctl artifact list} lists, in order of their digests."""
        line = "{{range .Descriptors}}{{.Digest}} {{.ArtifactType}}{{println}}{{end}}"
        listed = self.run(authority, "artifact", "list", *options, f"{authority}/{name}", "--format", line)
        found = [line.partition(" ") for line in listed.decode().splitlines() if line]
        return sorted((digest, artifact_type) for digest, _, artifact_type in found)
