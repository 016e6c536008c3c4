"""
A listener in memory: raw bytes into a L{RegistryChannel}, raw bytes out, no sockets.

Everything behind it is real but the stores and the upstreams.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from appliance.interfaces import IAccounts
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.registry.listener import Listener
from appliance.settings import ListenSettings, Settings
from tests.doubles.manifests import CONFIG, image, index
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream

Fields = Sequence[tuple[str, str]]

LAYER = bytes(range(256)) * 40
LARGE = bytes(range(1, 251)) * 1000
IMAGE = image(LAYER, LARGE, b"")
INDEX = index(IMAGE)
HUB, GHCR = "docker.io", "ghcr.io"


@dataclass(frozen=True)
class Answer:
    """One response as it stood on the wire; C{raw} is all of it."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    raw: bytes

    def __getitem__(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        assert len(values) < 2, f"{name} stands there twice"
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        """The one error of an OCI error document; asserts that it is one."""
        assert self["Content-Type"] == "application/json", self.raw
        errors = json.loads(self.body)["errors"]
        assert len(errors) == 1 and set(errors[0]) <= {"code", "message", "detail"}
        found: dict[str, Any] = errors[0]
        return found

    @property
    def undated(self) -> bytes:
        """The response without the value of its Date."""
        head, _, rest = self.raw.partition(b"Date: ")
        return head + rest.partition(b"\r\n")[2]


@implementer(IAccounts)
class Accounts:
    """Keeps what it receives."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.told: list[tuple[Any, ...]] = []

    def answered(
        self,
        client: str,
        user: str | None,
        method: str,
        path: str,
        kind: str,
        code: int,
        octets: int,
        seconds: float,
        cache: str,
    ) -> None:
        self.told.append((client, user, method, path, kind, code, octets, seconds, cache))


class Line:
    """One client connection."""

    def __init__(self, listener: Listener) -> None:
        self.transport = StringTransport(lenient=True)
        self.channel = listener.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    @property
    def aborted(self) -> bool:
        return bool(self.transport.disconnected)

    @property
    def closed(self) -> bool:
        return bool(self.transport.disconnecting)

    def send(self, data: bytes) -> Line:
        self.channel.dataReceived(data)
        return self

    def received(self) -> bytes:
        """What came since the last call."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def lose(self) -> None:
        """The client hangs up, or the abort takes effect; a transport stops its producer first."""
        if self.transport.producer is not None:
            self.transport.producer.stopProducing()
        self.channel.connectionLost(Failure(ConnectionDone()))

    def answers(self, *methods: str) -> list[Answer]:
        """The responses that came, one for each method; asserts that nothing else did."""
        data, found = self.received(), []
        for method in methods:
            answer, data = parse(data, method)
            found.append(answer)
        assert not data, f"more than was asked for: {data[:200]!r}"
        return found

    def ask(self, method: str, path: str, fields: Fields = ()) -> Answer:
        self.send(request(method, path, fields))
        return self.answers(method)[0]


def request(method: str, path: str, fields: Fields = (), version: str = "HTTP/1.1") -> bytes:
    """A request as bytes."""
    lines = [f"{method} {path} {version}", "Host: cache.test", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parse(data: bytes, method: str) -> tuple[Answer, bytes]:
    """The first response of C{data}, and the rest; it must have a length."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    assert blank, f"no response: {data[:200]!r}"
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = first.split(" ", 2)
    assert version.startswith("HTTP/1.")
    fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    names = [name.lower() for name, _ in fields]
    assert "transfer-encoding" not in names, first
    length = 0
    if status != "304":
        length = int(next(value for name, value in fields if name.lower() == "content-length"))
    body = b"" if method == "HEAD" else rest[:length]
    assert method == "HEAD" or len(body) == length, f"{len(body)} of {length} bytes"
    end = len(head) + 4 + len(body)
    return Answer(int(status), fields, body, data[:end]), data[end:]


class Shop:
    """A listener with Docker Hub as its default, GHCR beside it, an image in both, and a client."""

    def __init__(self, default: str | None = HUB, before: Shop | None = None, offline: bool = False, **more: Any):
        self.hub: ScriptedUpstream = ScriptedUpstream(HUB, library=True) if before is None else before.hub
        self.ghcr: ScriptedUpstream = ScriptedUpstream(GHCR) if before is None else before.ghcr
        if before is None:
            for upstream, name in ((self.hub, "library/app"), (self.ghcr, "team/app")):
                stock(upstream, name)
        self.cache: Cache = Cache(
            self.hub, self.ghcr, before=None if before is None else before.cache, offline=offline, **more
        )
        self.accounts = Accounts(self.cache.clock)
        upstreams = {name: remote.settings for name, remote in self.cache.remotes.items()}
        self.listen = ListenSettings(default_upstream=default)
        self.settings = Settings(listen=(self.listen,), upstreams=upstreams, offline=offline)
        self.listener = Listener(
            self.cache.through, self.settings, self.listen, self.accounts, self.cache.audit, self.cache.clock
        )
        self.line = Line(self.listener)

    @property
    def clock(self) -> Any:
        return self.cache.clock

    def ask(self, method: str, path: str, fields: Fields = ()) -> Answer:
        """Over a connection of its own, which is closed afterwards."""
        line = Line(self.listener)
        answer = line.ask(method, path, fields)
        line.lose()
        return answer

    def get(self, path: str, *fields: tuple[str, str]) -> Answer:
        return self.ask("GET", path, fields)

    def calls(self) -> int:
        return len(self.hub.calls) + len(self.ghcr.calls)


def stock(upstream: ScriptedUpstream, name: str) -> None:
    """An image with three layers, and an index over it."""
    upstream.add_manifest(name, IMAGE, OCI_MANIFEST, "latest", "v1", "v2")
    upstream.add_manifest(name, INDEX, OCI_INDEX, "multi")
    for blob in (CONFIG, LAYER, LARGE, b""):
        upstream.add_blob(name, blob)


def blob(data: bytes, name: str = "app") -> str:
    """The path of a blob."""
    return f"/v2/{name}/blobs/{Digest.of(data)}"


def manifest(reference: object = "latest", name: str = "app") -> str:
    """The path of a manifest."""
    return f"/v2/{name}/manifests/{reference}"


def names_of(fields: Iterable[tuple[str, str]]) -> set[str]:
    return {name for name, _ in fields}
