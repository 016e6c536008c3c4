"""
One appliance between a client and a registry that has outages and faults, in memory: real HTTP on both sides, a clock
of our own, and no sockets.

Everything between L{RegistryChannel} and the bytes of the upstream's connections is real, but the store.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred, fail
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from appliance.errors import UpstreamRefused
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.registry.listener import Listener
from appliance.settings import ListenSettings, Settings, UpstreamSettings
from appliance.upstream.client import OfflineUpstream
from appliance.upstream.http.addresses import AddressPolicy, literal_of
from appliance.upstream.http.connect import OriginAgent
from appliance.upstream.kinds.standard import STANDARD
from appliance.upstream.url import Url
from tests.doubles.manifests import CONFIG, image
from tests.doubles.pullthrough import NOW, Cache
from tests.rooms.upstream.net import REGISTRY, Asked, Net, Reply, Wire, client_over
from tests.wire.line import Accounts, Answer, Line, parse, request

UP = "up.example"
REPOSITORY = "team/app"
LAYER, OTHER_LAYER = b"a layer that is held", b"a layer that is not held"
HELD = image(LAYER, OTHER_LAYER)
MOVED = image(LAYER, note="moved")
COLD = image(LAYER, note="cold")
BLOBS = {str(Digest.of(each)): each for each in (LAYER, OTHER_LAYER, CONFIG)}
METADATA = "https://169.254.169.254"
PATIENCE = 300.0
"""Seconds after which an answer is taken to come never."""

Server = Callable[[Asked], Reply | None]


class Shelf:
    """What the registry has; C{latest} is what the tag of that name means."""

    latest = HELD

    def serve(self, asked: Asked) -> Reply:
        """Answer as a registry does."""
        if asked.target == "/v2/":
            return Reply(body=b"{}")
        repository, kind, reference = asked.target.removeprefix("/v2/").rsplit("/", 2)
        if kind == "tags":
            return Reply(fields={"Content-Type": "application/json"}, body=tag_list(repository))
        data = self._manifests().get(reference) if kind == "manifests" else BLOBS.get(reference)
        if data is None:
            return missing(asked)
        media_type = OCI_MANIFEST if kind == "manifests" else "application/octet-stream"
        return Reply(fields={"Content-Type": media_type, "Docker-Content-Digest": str(Digest.of(data))}, body=data)

    def _manifests(self) -> dict[str, bytes]:
        named = {"latest": self.latest, "cold": COLD}
        return named | {str(Digest.of(each)): each for each in (HELD, MOVED, COLD)}


def tag_list(repository: str) -> bytes:
    """The registry's list of a repository's tags."""
    return json.dumps({"name": repository, "tags": ["latest", "cold"]}).encode()


def problem(status: int, code: str, **fields: str) -> Reply:
    """An OCI error document."""
    told = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in fields.items()}
    return Reply(status, told, json.dumps({"errors": [{"code": code, "message": "no"}]}).encode())  # type: ignore[arg-type]


def missing(asked: Asked) -> Reply:
    """What a registry says of what it does not have."""
    return problem(404, "BLOB_UNKNOWN" if "/blobs/" in asked.target else "MANIFEST_UNKNOWN")


@implementer(IAgent)
class ScreenedAgent:
    """Refuses where the real endpoints do: before anything is sent."""

    def __init__(self, agent: IAgent, policy: AddressPolicy) -> None:
        self._agent = agent
        self._policy = policy

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        host = Url.parse(uri.decode("ascii")).host
        literal = literal_of(host)
        try:
            if literal is not None:
                self._policy.from_public(host, [literal])
        except UpstreamRefused:
            return fail()
        return self._agent.request(method, uri, headers, bodyProducer)


class FaultyNet(Net):
    """
    A network with one registry in it.

    @ivar shelf: what the registry has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock.advance(NOW)
        self.shelf = Shelf()
        self.clear()

    def origin_agent(self, url: Url) -> IAgent:
        """See L{Net.origin_agent}."""
        return OriginAgent(url, self.agent("own"), ScreenedAgent(self.agent("foreign"), AddressPolicy(UP)))

    def clear(self) -> None:
        """The registry is well."""
        self.refusing.clear(), self.holes.clear(), self.blocked.clear()
        self.serve(lambda asked: self.shelf.serve(asked))

    def serve(self, server: Server) -> None:
        """The registry answers like this, and on new connections only."""
        self.servers[REGISTRY] = server
        for wire in self.wires:
            wire.cut()
        self.wires.clear()

    # -- what it may do ---------------------------------------------------------------------------------------------

    def moved(self) -> None:
        """The tag means another manifest."""
        self.shelf.latest = MOVED

    def answers(self, status: int, code: str = "UNKNOWN", **fields: str) -> None:
        """Every question gets this error; C{/v2/} as well, when it is the server's own."""
        self.serve(
            lambda asked: (
                self.shelf.serve(asked) if asked.target == "/v2/" and status < 500 else problem(status, code, **fields)
            )
        )

    def refuses(self) -> None:
        """No connection is accepted."""
        self.clear()
        self.refusing.add(REGISTRY)

    def vanishes(self) -> None:
        """The name does not resolve."""
        self.clear()
        del self.servers[REGISTRY]

    def breaks_tls(self) -> None:
        """Its certificate is nothing to be trusted."""
        self.clear()
        self.blocked[REGISTRY] = SSL.Error([("SSL routines", "", "certificate verify failed")])

    def swallows(self) -> None:
        """No connection is ever answered."""
        self.clear()
        self.holes.add(REGISTRY)

    def falls_silent(self) -> None:
        """Connections are accepted, questions are not answered."""
        self.serve(lambda asked: None)

    def trickles(self) -> None:
        """The headers come, and then a byte of the body each second."""
        self.moved()

        def server(asked: Asked) -> Reply | None:
            reply = self.shelf.serve(asked)
            if asked.method == "HEAD" or asked.target == "/v2/":
                return reply
            wire = self.wires[-1]
            wire.send(reply.head(asked.method))
            self._drip(wire, reply.body)
            return None

        self.serve(server)

    def _drip(self, wire: Wire, body: bytes) -> None:
        if body and not wire.dropped:
            wire.send(body[:1])
            self.clock.callLater(1.0, self._drip, wire, body[1:])

    def says_html(self) -> None:
        """A captive portal, or a proxy's page: 200 for everything."""
        self.serve(lambda asked: Reply(fields={"Content-Type": "text/html"}, body=b"<html>Please log in</html>"))

    def lies(self) -> None:
        """The bytes are others than the digest says, of the same number."""
        self.moved()

        def server(asked: Asked) -> Reply:
            reply = self.shelf.serve(asked)
            reply.body = reply.body.replace(b"a", b"e") if "/tags/" not in asked.target else reply.body
            return reply

        self.serve(server)

    def zips(self) -> None:
        """Everything comes gzipped, although identity was asked for."""
        self.moved()

        def server(asked: Asked) -> Reply:
            reply = self.shelf.serve(asked)
            reply.body, reply.fields["Content-Encoding"] = gzip.compress(reply.body), "gzip"
            return reply

        self.serve(server)

    def leads(self, where: str | None) -> None:
        """Every question is redirected: C{where}, or to itself for ever."""
        self.serve(lambda asked: Reply(307, {"Location": where or asked.url}))


class Appliance:
    """
    An appliance behind a L{FaultyNet}: C{latest}, one layer of it and the list of tags are held and fresh.

    @ivar clock: that of the network.
    """

    def __init__(self, offline: bool = False, **settings: Any) -> None:
        self.net = FaultyNet()
        self.clock = self.net.clock
        self._upstream = UpstreamSettings(name=UP, urls=(REGISTRY,), **settings)
        online = client_over(self.net, self._upstream)
        self._cache = Cache(online, clock=self.clock, **settings)
        self._listen(self._cache, False)
        for path in (manifest("latest"), blob(LAYER), tags()):
            assert self.ask(path).status == 200, path
        if offline:
            self._listen(Cache(OfflineUpstream(UP, STANDARD), offline=True, before=self._cache, **settings), True)

    def _listen(self, cache: Cache, offline: bool) -> None:
        remote = cache.remotes[UP]
        listen = ListenSettings(default_upstream=UP)
        self.settings = Settings(listen=(listen,), upstreams={UP: remote.settings}, offline=offline)
        self.accounts = Accounts(self.clock)
        self.listener = Listener(cache.through, self.settings, listen, self.accounts, cache.audit, self.clock)

    def ask(self, path: str, method: str = "GET") -> Seen:
        """What a client sees, and for how long it waited."""
        line, began = Line(self.listener), self.clock.seconds()
        line.send(request(method, path))
        data = b""
        while True:
            self.clock.advance(0)
            data += line.received()
            waited = self.clock.seconds() - began
            if line.aborted:
                return Seen(None, waited)
            if _is_whole(data, method):
                line.lose()
                return Seen(parse(data, method)[0], waited)
            assert waited < PATIENCE, f"{path}: nothing came"
            self._go_on(PATIENCE)

    def wait(self, seconds: float) -> None:
        """Let time pass, everything happening in its turn."""
        until = self.clock.seconds() + seconds
        while (left := until - self.clock.seconds()) > 1e-6:
            self._go_on(left)

    def _go_on(self, most: float) -> None:
        """Up to what happens next."""
        due = min((call.getTime() for call in self.clock.getDelayedCalls()), default=math.inf)
        self.clock.advance(min(max(due - self.clock.seconds(), 1e-3), most))


@dataclass(frozen=True)
class Seen:
    """
    What a client saw.

    @ivar answer: C{None} when the connection was cut.
    @ivar seconds: until the last byte.
    """

    answer: Answer | None
    seconds: float

    @property
    def status(self) -> int:
        """0 for a connection that was cut."""
        return 0 if self.answer is None else self.answer.status

    def field(self, name: str) -> str:
        """A header's value, empty when there is none."""
        return "" if self.answer is None else self.answer[name] or ""


def manifest(reference: object) -> str:
    """The path of a manifest."""
    return f"/v2/{REPOSITORY}/manifests/{reference}"


def blob(data: bytes) -> str:
    """The path of a blob."""
    return f"/v2/{REPOSITORY}/blobs/{Digest.of(data)}"


def tags(repository: str = REPOSITORY) -> str:
    """The path of a repository's list of tags."""
    return f"/v2/{repository}/tags/list"


def _is_whole(data: bytes, method: str) -> bool:
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank or method == "HEAD":
        return bool(blank)
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return len(body) >= int(length.partition(b":")[2])
