"""
A network in memory: servers that answer with exactly the bytes a test wants, real HTTP parsing on our side.

A server is a function from what was asked to a L{Reply}, or C{None} to say nothing at all. Everything happens when the
clock is advanced, or in L{Net.settle}.
"""

from __future__ import annotations

import random as chance
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IProcessTransport,
    IProducer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorProcess,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

from appliance.flow.disk import InlineThreads
from appliance.settings import UpstreamSettings
from appliance.upstream.client import RegistryClient
from appliance.upstream.credentials.configured import CredentialArguments, credentials_for
from appliance.upstream.http.connect import OriginAgent
from appliance.upstream.http.limits import Gate, Timeouts
from appliance.upstream.interfaces import Health, IAdapter, ICredentials, IUpstreamObserver, RateLimit
from appliance.upstream.kinds.standard import STANDARD
from appliance.upstream.table import client_for
from appliance.upstream.url import Url
from tests.doubles.deferreds import failing, result

T = TypeVar("T")

REGISTRY = "https://registry.example"
AUTH = "https://auth.example"
CDN = "https://cdn.example"

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@dataclass
class Asked:
    """One request as the server saw it; field names in lower case, all their values."""

    method: str
    origin: str
    target: str
    fields: dict[str, list[str]]
    agent: str = ""
    body: bytes = b""

    @property
    def url(self) -> str:
        return self.origin + self.target

    def one(self, name: str) -> str | None:
        """A field's value, C{None} when it is absent; more than one is a mistake of ours."""
        values = self.fields.get(name, [])
        assert len(values) <= 1, values
        return values[0] if values else None


@dataclass
class Reply:
    """
    An answer.

    @ivar framing: C{"length"}, C{"chunked"} or C{"close"}.
    @ivar claim: bytes the Content-Length claims beyond those that come, before the connection is cut; chunked bodies
        are cut before their last chunk when it is not 0.
    @ivar stall: nothing happens after the bytes.
    """

    status: int = 200
    fields: dict[str, str | list[str]] = field(default_factory=dict)
    body: bytes = b""
    framing: str = "length"
    claim: int = 0
    stall: bool = False

    def head(self, method: str) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Because"]
        for name, values in self.fields.items():
            lines += [f"{name}: {value}" for value in ([values] if isinstance(values, str) else values)]
        if self.framing == "length" and "Content-Length" not in self.fields:
            lines.append(f"Content-Length: {len(self.body) + self.claim}")
        if self.framing == "chunked" and method != "HEAD":
            lines.append("Transfer-Encoding: chunked")
        if self.framing == "close":
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def rest(self) -> bytes:
        if self.framing == "chunked":
            chunk = b"%x\r\n%b\r\n" % (len(self.body), self.body) if self.body else b""
            return chunk if self.claim or self.stall else chunk + b"0\r\n\r\n"
        return self.body

    @property
    def ends(self) -> bool:
        return not self.stall and (self.framing == "close" or self.claim != 0)


Server = Callable[[Asked], Reply | None]


class Wire:
    """
    One connection, our side's transport of it.

    @ivar paused: whether our side reads.
    @ivar dropped: whether our side closed it.
    """

    disconnecting = False

    def __init__(self, net: Net, origin: str, agent: str) -> None:
        self.protocol: IProtocol | None = None
        self.paused = False
        self.dropped = False
        self.pauses = 0
        self._net = net
        self._origin = origin
        self._agent = agent
        self._heard = b""
        self._waiting: list[bytes | None] = []

    # -- our side ----

    def write(self, data: bytes) -> None:
        self._heard += data
        while b"\r\n\r\n" in self._heard:
            head, _, rest = self._heard.partition(b"\r\n\r\n")
            length = _CONTENT_LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self._heard = rest[size:]
            self._net.clock.callLater(0, self._answer, head.decode("latin-1"), rest[:size])

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """A request's body is written at once."""

    def unregisterProducer(self) -> None:
        """See L{registerProducer}."""

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        self._net.clock.callLater(0, self._flow)

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        if not self.dropped:
            self.dropped = True
            self._net.clock.callLater(0, self._lost, ConnectionDone())

    abortConnection = loseConnection

    # -- the other side ----

    def send(self, data: bytes) -> None:
        self._waiting.append(data)
        self._flow()

    def cut(self) -> None:
        self._waiting.append(None)
        self._flow()

    def _answer(self, head: str, body: bytes) -> None:
        start, *lines = head.split("\r\n")
        method, target, _ = start.split(" ")
        fields: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields.setdefault(name.lower(), []).append(value.strip())
        asked = Asked(method, self._origin, target, fields, self._agent, body)
        self._net.asked.append(asked)
        reply = self._net.servers[self._origin](asked)
        if reply is not None:
            self.send(reply.head(method))
            if method != "HEAD":
                if reply.body or reply.framing == "chunked":
                    self.send(reply.rest())
                if reply.ends:
                    self.cut()

    def _flow(self) -> None:
        while self._waiting and not self.paused and not self.dropped:
            data = self._waiting.pop(0)
            if data is None:
                self.dropped = True
                self._lost(ConnectionLost())
            else:
                assert self.protocol is not None
                self.protocol.dataReceived(data)

    def _lost(self, reason: Exception) -> None:
        if self.protocol is not None:
            protocol, self.protocol = self.protocol, None
            protocol.connectionLost(Failure(reason))


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, net: Net, origin: str, agent: str) -> None:
        self._net = net
        self._origin = origin
        self._agent = agent

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        if self._origin in self._net.blocked:
            return fail(self._net.blocked[self._origin])
        if self._origin in self._net.refusing:
            return fail(ConnectionRefusedError())
        if self._origin not in self._net.servers:
            return fail(DNSLookupError())
        connected: Deferred[IProtocol] = Deferred()
        if self._origin not in self._net.holes:
            self._net.clock.callLater(0, self._connected, protocolFactory, connected)
        return connected

    def _connected(self, factory: IProtocolFactory, connected: Deferred[IProtocol]) -> None:
        wire = Wire(self._net, self._origin, self._agent)
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        assert protocol is not None
        wire.protocol = protocol
        self._net.wires.append(wire)
        protocol.makeConnection(wire)  # type: ignore[arg-type]
        connected.callback(protocol)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    def __init__(self, net: Net, agent: str) -> None:
        self._net = net
        self._agent = agent

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        default = {b"http": 80, b"https": 443}[uri.scheme]
        port = "" if uri.port == default else f":{uri.port}"
        return _Endpoint(self._net, f"{uri.scheme.decode()}://{uri.host.decode()}{port}", self._agent)


class Net:
    """
    Servers by origin, and what was asked of them.

    @ivar refusing: origins where no connection is accepted.
    @ivar holes: origins where no connection is ever answered.
    @ivar blocked: origins that our own rules refuse, and with what.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.servers: dict[str, Server] = {}
        self.refusing: set[str] = set()
        self.holes: set[str] = set()
        self.blocked: dict[str, Exception] = {}
        self.asked: list[Asked] = []
        self.wires: list[Wire] = []

    def origin_agent(self, url: Url) -> IAgent:
        """For L{client_for}: which of its agents was used stands in L{Asked.agent}."""
        return OriginAgent(url, self.agent("own"), self.agent("foreign"))

    def agent(self, name: str) -> IAgent:
        pool = HTTPConnectionPool(self.clock)
        made: IAgent = Agent.usingEndpointFactory(self.clock, _Endpoints(self, name), pool)
        return made

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(200):
            self.clock.advance(0)

    def result(self, deferred: Deferred[T]) -> T:
        """What it fires with, without time passing. Raises what it fails with."""
        self.settle()
        return result(deferred)

    def fault(self, deferred: Deferred[T]) -> BaseException:
        """What it fails with, without time passing."""
        self.settle()
        return failing(deferred)

    def timers(self) -> list[IDelayedCall]:
        """What is still going to happen, the ends of idle connections left out."""
        calls = self.clock.getDelayedCalls()
        return [call for call in calls if "_removeConnection" not in str(call)]

    def urls(self) -> list[str]:
        return [asked.url for asked in self.asked]


@implementer(IConsumer)
class Sink:
    """
    Takes a body.

    @ivar pause_at: pauses its producer as soon as it holds that many bytes.
    """

    def __init__(self, pause_at: int | None = None) -> None:
        self.data = b""
        self.pieces: list[bytes] = []
        self.producer: IPushProducer | None = None
        self.streaming: bool | None = None
        self._pause_at = pause_at

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert self.producer is None
        self.producer = producer  # type: ignore[assignment]
        self.streaming = streaming

    def unregisterProducer(self) -> None:
        assert self.producer is not None
        self.producer = None

    def write(self, data: bytes) -> None:
        self.data += data
        self.pieces.append(data)
        if self._pause_at is not None and len(self.data) >= self._pause_at and self.producer is not None:
            self._pause_at = None
            self.producer.pauseProducing()


@implementer(IUpstreamObserver)
@dataclass
class Counting:
    """An L{IUpstreamObserver} that remembers."""

    octets: int = 0
    kinds: list[str] = field(default_factory=list)
    answers: list[tuple[str, int]] = field(default_factory=list)
    limits: list[RateLimit] = field(default_factory=list)
    healths: list[tuple[str, Health]] = field(default_factory=list)

    def received(self, upstream: str, octets: int) -> None:
        self.octets += octets

    def failed(self, upstream: str, kind: str) -> None:
        self.kinds.append(kind)

    def requested(self, upstream: str, method: str, status: int) -> None:
        self.answers.append((method, status))

    def limited(self, upstream: str, limit: RateLimit) -> None:
        self.limits.append(limit)

    def became(self, upstream: str, url: str, health: Health) -> None:
        self.healths.append((url, health))


@implementer(IUpstreamObserver)
class SilentObserver:
    """An L{IUpstreamObserver} that counts nothing."""

    def received(self, upstream: str, octets: int) -> None:
        pass

    def failed(self, upstream: str, kind: str) -> None:
        pass

    def requested(self, upstream: str, method: str, status: int) -> None:
        pass

    def limited(self, upstream: str, limit: RateLimit) -> None:
        pass

    def became(self, upstream: str, url: str, health: Health) -> None:
        pass


@implementer(IReactorProcess)
class NoProcesses:
    """Where nothing may be run."""

    def spawnProcess(self, *args: object, **named: object) -> IProcessTransport:
        raise AssertionError(f"a process was started: {args[1:]}")


def arguments(
    clock: IReactorTime,
    processes: IReactorProcess | None = None,
    host: str = "registry.example",
    environ: Mapping[str, str] | None = None,
) -> CredentialArguments:
    """What credentials of C{up.example} are made with: files are read at once, and no form can be posted."""
    return CredentialArguments(
        upstream="up.example",
        host=host,
        clock=clock,
        threads=InlineThreads(),
        processes=processes or NoProcesses(),
        post=lambda path, fields: fail(AssertionError(f"a form was posted to {path}")),
        environ=environ or {},
    )


def upstream(
    net: Net,
    urls: Sequence[str] = (REGISTRY,),
    *,
    auth_hosts: tuple[str, ...] = (),
    username: str | None = None,
    password_file: Path | None = None,
    token_file: Path | None = None,
    auth_file: Path | None = None,
    credentials: ICredentials | None = None,
    adapter: IAdapter = STANDARD,
    observer: IUpstreamObserver | None = None,
    timeouts: Timeouts | None = None,
) -> RegistryClient:
    """
    An upstream named C{up.example} in this network.

    @param credentials: in place of what the files hold.
    """
    settings = UpstreamSettings(
        name="up.example",
        urls=tuple(urls),
        auth_hosts=auth_hosts,
        username=username,
        password_file=password_file,
        token_file=token_file,
        auth_file=auth_file,
    )
    clock: IReactorTime = net.clock

    def shown(url: Url) -> ICredentials | None:
        return credentials or credentials_for(settings, url, arguments(clock))

    return client_over(net, settings, adapter, shown, observer, timeouts)


def client_over(
    net: Net,
    settings: UpstreamSettings,
    adapter: IAdapter = STANDARD,
    credentials: Callable[[Url], ICredentials | None] = lambda url: None,
    observer: IUpstreamObserver | None = None,
    timeouts: Timeouts | None = None,
    random: Callable[[], float] = chance.random,
) -> RegistryClient:
    """The client of these settings in this network."""
    return client_for(
        settings,
        net.origin_agent,
        net.clock,
        adapter,
        credentials,
        observer or SilentObserver(),
        timeouts or Timeouts(),
        Gate(settings.name),
        random,
    )
