"""
Through an HTTP proxy: tunnels to https origins (CONNECT, RFC 9110 section 9.3.6), whole requests for http ones.

The proxy resolves the name of the target, so its addresses are not known here: what is screened are addresses that
stand in the URL itself, in any notation, and the names of the loopback interface.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet import defer, error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from appliance import __version__
from appliance.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from appliance.upstream.faults import cleaned, connection_fault, was_cancelled
from appliance.upstream.http.body import abandon
from appliance.upstream.http.challenge import parse_challenges
from appliance.upstream.http.proxy import Proxy
from appliance.upstream.url import Url

#: Bytes of the proxy's answer up to the end of its header section.
MAX_HEAD = 16 * 1024

_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(r"\r?\n")
_START = b"HTTP/1."
_STATUS_LINE = re.compile(r"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: (.*))?")


@implementer(IStreamClientEndpoint)
class ProxyEndpoint:
    """Connects to a proxy, whose name is in every failure."""

    def __init__(self, endpoint: IStreamClientEndpoint, proxy: Proxy, upstream: str) -> None:
        """
        @param endpoint: connects to the proxy, TLS included where it is spoken to the proxy.
        """
        self._endpoint = endpoint
        self._proxy = proxy
        self._upstream = upstream

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See L{IStreamClientEndpoint}. Fails with L{UpstreamUnavailable}."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            return await self._endpoint.connect(factory)
        except Exception as reason:
            if was_cancelled(reason):
                raise CancelledError from None
            raise connection_fault(self._upstream, self._proxy.shown, reason) from reason


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """A connection to a host and port on the far side of a proxy."""

    def __init__(
        self,
        to_proxy: IStreamClientEndpoint,
        proxy: Proxy,
        target: Url,
        clock: IReactorTime,
        timeout: float,
        upstream: str,
    ) -> None:
        """
        @param to_proxy: a L{ProxyEndpoint}.
        @param target: whose host and port are connected to.
        @param timeout: seconds for the proxy's answer to CONNECT.
        """
        self._to_proxy = to_proxy
        self._proxy = proxy
        self._target = target
        self._clock = clock
        self._timeout = timeout
        self._upstream = upstream

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        See L{IStreamClientEndpoint}.

        @return: fails with L{UpstreamUnavailable} when the proxy cannot be reached, refuses, or answers with what is
            no HTTP; with L{UpstreamTimeout} when it does not answer.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        opening = Factory.forProtocol(lambda: _Tunnel(self._connect_request()))
        opening.noisy = False
        tunnel: Any = await self._to_proxy.connect(opening)
        what = f"{self._proxy.shown}: CONNECT {_authority(self._target)}"
        head: Deferred[str] = tunnel.head
        head.addTimeout(self._timeout, self._clock)
        try:
            self._check(await head, what)
            protocol: IProtocol = tunnel.open(factory)
        except BaseException as reason:
            tunnel.abort()
            if isinstance(reason, Exception) and not was_cancelled(reason):
                raise self._fault(reason, what) from reason
            raise
        return protocol

    def _fault(self, reason: Exception, what: str) -> UpstreamError:
        if isinstance(reason, defer.TimeoutError):
            return UpstreamTimeout(self._upstream, f"{what}: no answer within {self._timeout:g} seconds")
        if isinstance(reason, _TooLong):
            return UpstreamUnavailable(self._upstream, f"{what}: the answer's head is longer than {MAX_HEAD} bytes")
        return connection_fault(self._upstream, what, reason)

    def _connect_request(self) -> bytes:
        """RFC 9112 section 3.2.3: the port is always given."""
        authority = _authority(self._target)
        fields = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", f"User-Agent: pullcache/{__version__}"]
        head = "\r\n".join(fields).encode("ascii")
        authorization = self._proxy.danger_authorization()
        if authorization is not None:
            head += b"\r\nProxy-Authorization: " + authorization
        return head + b"\r\n\r\n"

    def _check(self, head: str, what: str) -> None:
        """Raises L{UpstreamUnavailable} unless the proxy's answer opens the tunnel."""
        line, *fields = _LINE_END.split(head)
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise UpstreamUnavailable(self._upstream, f"{what}: the answer is no HTTP")
        status = int(match[1])
        if status == 407:
            raise refused(self._upstream, what, self._proxy, _schemes(fields))
        if not 200 <= status < 300:
            message = f"{what} answered {status} {cleaned(match[2] or '')}".rstrip()
            raise UpstreamUnavailable(self._upstream, message)


class _TooLong(Exception):
    """The proxy's answer has no end."""


def refused(upstream: str, what: str, proxy: Proxy, offered: set[str]) -> UpstreamUnavailable:
    """The error for a 407 (RFC 9110 section 15.5.8) with challenges of the schemes C{offered}."""
    advice = proxy.advice()
    if offered and "basic" not in offered:
        advice = f"it asks for {', '.join(sorted(offered))}, and only Basic is known here"
    return UpstreamUnavailable(upstream, f"{what} answered 407: {cleaned(advice)}")


def _schemes(fields: list[str]) -> set[str]:
    """The schemes of the Proxy-Authenticate fields among the lines of a header section."""
    named = (field.partition(":") for field in fields)
    challenges = parse_challenges(value for name, _, value in named if name.strip().lower() == "proxy-authenticate")
    return {challenge.scheme for challenge in challenges}


def _authority(url: Url) -> str:
    return f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"


class _Tunnel(Protocol):
    """
    The connection to the proxy: sends CONNECT, takes the head of the answer, then passes everything on.

    @ivar head: fires with the header section of the final answer, its last line end left out, or with what cannot be
        one. Fails with what ended the connection.
    """

    def __init__(self, danger_request: bytes) -> None:
        self.head: Deferred[str] = Deferred()
        self._danger_request = danger_request
        self._received = b""
        self._inner: IProtocol | None = None

    def connectionMade(self) -> None:
        """See L{IProtocol}."""
        self._transport().write(self._danger_request)

    def open(self, factory: IProtocolFactory) -> IProtocol:
        """The tunnel is there: what came behind the head, and all that comes, is for a protocol of C{factory}."""
        peer: IAddress = self._transport().getPeer()
        inner = factory.buildProtocol(peer)
        if inner is None:
            raise error.NoProtocol()
        self._inner = inner
        inner.makeConnection(self._transport())
        early, self._received = self._received, b""
        if early:
            inner.dataReceived(early)
        return inner

    def abort(self) -> None:
        """Drop the connection."""
        if self.transport is not None:
            self._transport().abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """See L{IProtocol}."""
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._received += data
        if not self.head.called:
            self._take_head()

    def _take_head(self) -> None:
        """Fire L{head} once it is whole. Interim answers (RFC 9110 section 15.2) may come before the final one."""
        while (end := _END.search(self._received)) is not None:
            head = self._received[: end.start()].decode("latin-1")
            match = _STATUS_LINE.fullmatch(_LINE_END.split(head)[0])
            self._received = self._received[end.end() :]
            if match is None or int(match[1]) >= 200:
                self.head.callback(head)
                return
        if self._received[: len(_START)] != _START[: len(self._received)]:
            self.head.callback("")
        elif len(self._received) > MAX_HEAD:
            self.head.errback(_TooLong())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See L{IProtocol}."""
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.head.called:
            self.head.errback(reason)

    def _transport(self) -> Any:
        return self.transport


@implementer(IAgent)
class ForwardAgent:
    """Sends whole requests for http URLs to a proxy (RFC 9112 section 3.2.2)."""

    def __init__(self, agent: IAgent, proxy: Proxy, upstream: str) -> None:
        """
        @param agent: writes the whole URL into the request line and connects to the proxy.
        """
        self._agent = agent
        self._proxy = proxy
        self._upstream = upstream

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See L{IAgent}. Fails with L{UpstreamUnavailable} when the proxy wants credentials."""
        return Deferred.fromCoroutine(self._request(method, uri, headers, bodyProducer))

    async def _request(
        self, method: bytes, uri: bytes, headers: Headers | None, body: IBodyProducer | None
    ) -> IResponse:
        fields = Headers() if headers is None else headers.copy()
        authorization = self._proxy.danger_authorization()
        if authorization is not None:
            fields.setRawHeaders(b"Proxy-Authorization", [authorization])
        response: IResponse = await self._agent.request(method, uri, fields, body)
        if response.code != 407:
            return response
        abandon(response)
        challenges = response.headers.getRawHeaders(b"Proxy-Authenticate") or []
        offered = {each.scheme for each in parse_challenges(value.decode("latin-1") for value in challenges)}
        what = f"{self._proxy.shown}: {method.decode('ascii')} {Url.parse(uri.decode('ascii')).shown}"
        raise refused(self._upstream, what, self._proxy, offered)
