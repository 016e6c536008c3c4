"""
A plain client that pulls over HTTP from 127.0.0.1, blocking, and checks every digest.

Standard library only, so that it runs where no real client is installed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
from dataclasses import dataclass, field
from typing import Any

ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
PATIENCE = 60.0
"""Seconds without a byte after which a test fails: nothing comes."""

PIECE = 256 * 1024


class Wrong(AssertionError):
    """A response is not what a registry may send."""


@dataclass
class Reply:
    """A response; C{headers} by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cache_status(self) -> str:
        """What the appliance says about where this came from (RFC 9211)."""
        return self.headers.get("cache-status", "")

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Pulled:
    """An image as pulled: its digest, its media type, bytes of everything, and each Cache-Status with its count."""

    digest: str
    media_type: str
    size: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    def count(self, reply: Reply) -> None:
        """Take a response into the sums."""
        self.size += len(reply.body)
        self.statuses[reply.cache_status] = self.statuses.get(reply.cache_status, 0) + 1


class Transfer:
    """A response whose body is taken at the caller's pace."""

    def __init__(self, authority: str, path: str, headers: dict[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection(authority, timeout=PATIENCE)
        self._connection.request("GET", path, headers=headers or {})
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.length = int(self._response.getheader("Content-Length") or -1)

    def read(self, size: int) -> bytes:
        """Up to C{size} bytes, fewer at the end of the body."""
        return self._response.read(size)

    def rest(self) -> bytes:
        """Everything that is left; raises L{http.client.IncompleteRead} or L{OSError} when the line breaks."""
        return self._response.read()

    def leave(self) -> None:
        """Close the connection, whatever is still to come."""
        self._response.close()
        self._connection.close()


def ask(
    authority: str, path: str, method: str = "GET", headers: dict[str, str] | None = None, patience: float = PATIENCE
) -> Reply:
    """One request on a connection of its own; C{patience} in seconds between two arrivals."""
    connection = http.client.HTTPConnection(authority, timeout=patience)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body = response.read()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
    finally:
        connection.close()


def get(authority: str, path: str, digest: str | None = None, patience: float = PATIENCE) -> Reply:
    """A 200 response whose body has C{digest}; raises L{Wrong} for anything else."""
    reply = ask(authority, path, headers={"Accept": ACCEPT}, patience=patience)
    if reply.status != 200:
        raise Wrong(f"{path}: {reply.status} {reply.body[:300]!r}")
    actual = "sha256:" + hashlib.sha256(reply.body).hexdigest()
    if digest is not None and actual != digest:
        raise Wrong(f"{path}: the body has the digest {actual}")
    return reply


def pull(authority: str, repository: str, reference: str, patience: float = PATIENCE) -> Pulled:
    """Pull a manifest or an index and everything it names, one after the other."""
    first = get(authority, f"/v2/{repository}/manifests/{reference}", patience=patience)
    digest = "sha256:" + hashlib.sha256(first.body).hexdigest()
    if first.headers.get("docker-content-digest") != digest:
        raise Wrong(f"{reference}: Docker-Content-Digest is {first.headers.get('docker-content-digest')}")
    pulled = Pulled(digest, first.headers["content-type"])
    _follow(authority, repository, first, pulled, patience)
    return pulled


def _follow(authority: str, repository: str, manifest: Reply, pulled: Pulled, patience: float) -> None:
    pulled.count(manifest)
    parsed = manifest.json()
    for child in parsed.get("manifests", []):
        path = f"/v2/{repository}/manifests/{child['digest']}"
        _follow(authority, repository, get(authority, path, child["digest"], patience), pulled, patience)
    blobs = [parsed["config"], *parsed["layers"]] if "config" in parsed else []
    for blob in blobs:
        pulled.count(get(authority, f"/v2/{repository}/blobs/{blob['digest']}", blob["digest"], patience))
