"""One request and the head of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from appliance import __version__
from appliance.errors import UpstreamInvalid, UpstreamTimeout
from appliance.upstream.body import Watch, abandon
from appliance.upstream.faults import connection_fault, was_cancelled
from appliance.upstream.gate import Gate
from appliance.upstream.limits import Limits
from appliance.upstream.observer import IUpstreamObserver
from appliance.upstream.pace import Pace
from appliance.upstream.url import Url

USER_AGENT = f"pullcache/{__version__}"


class _Late(Exception):
    """Our own time limit passed, not one of the connection's."""


@implementer(IBodyProducer)
class _Body:
    """A request's body that is wholly here; it may hold a secret, so it shows nothing of itself."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is written at once."""

    def resumeProducing(self) -> None:
        """It is written at once."""

    def stopProducing(self) -> None:
        """It is written at once."""


class Exchange:
    """
    Sends requests on behalf of one upstream and puts every failure of a connection into our words.

    @ivar watch: how the bodies of answers are to be read that are small and come into memory; for blobs there is
        L{watch_for}.
    """

    def __init__(
        self,
        upstream: str,
        clock: IReactorTime,
        limits: Limits,
        observer: IUpstreamObserver,
        pace: Pace | None = None,
        gate: Gate | None = None,
    ) -> None:
        """
        @param pace: of all blobs, C{None} when they may come as fast as they do.
        @param gate: whether the upstream may be asked; C{None} for one that nobody closes.
        """

        def received(octets: int) -> None:
            observer.received(upstream, octets)

        self.upstream = upstream
        self._gate = gate = gate or Gate(upstream)
        self.watch = Watch(upstream, clock, limits.silence, whole=limits.whole, gate=gate)
        self._blob_watch = Watch(upstream, clock, limits.silence, received, pace=pace, gate=gate)
        self._background_watch = replace(self._blob_watch, background=True)
        self._clock = clock
        self._limits = limits
        self._observer = observer

    def watch_for(self, background: bool) -> Watch:
        """How the body of a blob is to be read: counted, at the upstream's pace, and for as long as it takes."""
        return self._background_watch if background else self._blob_watch

    async def send(
        self,
        agent: IAgent,
        method: str,
        url: Url,
        fields: Mapping[str, str],
        authorization: bytes | None = None,
        body: bytes | None = None,
    ) -> IResponse:
        """
        Ask once; redirects and errors are answers like others.

        @param fields: header fields beside User-Agent and Accept-Encoding, which are always the same.
        @param body: what is sent along, with its Content-Length; its Content-Type is for C{fields} to say.
        @raise UpstreamUnavailable: no answer; L{UpstreamTimeout}: none in time.
        @raise UpstreamInvalid: an encoded representation, whose bytes are not those of the digest.
        @raise Offline: the upstream may not be asked any more.
        """
        headers = Headers({"User-Agent": [USER_AGENT], "Accept-Encoding": ["identity"]})
        for name, value in fields.items():
            headers.setRawHeaders(name, [value])
        if authorization is not None:
            headers.setRawHeaders(b"Authorization", [authorization])
        response = await self._answer(agent, method, url, headers, None if body is None else _Body(body))
        self._observer.asked(self.upstream, method, response.code)
        self._refuse_encoded(response, f"{method} {url.shown}")
        return response

    async def _answer(
        self, agent: IAgent, method: str, url: Url, headers: Headers, body: IBodyProducer | None
    ) -> IResponse:
        what = f"{method} {url.shown}"
        self._gate.check()
        request = agent.request(method.encode("ascii"), bytes(url), headers, body)
        # What comes out of a cancelled request depends on how far it was; the time limit is named in any case.
        request.addTimeout(self._limits.headers, self._clock, lambda _, seconds: Failure(_Late()))
        self._gate.add(request.cancel)
        try:
            response: IResponse = await request
        except _Late:
            seconds = self._limits.headers
            raise UpstreamTimeout(self.upstream, f"{what}: no answer within {seconds:g} seconds") from None
        except Exception as reason:
            self._gate.check()
            if was_cancelled(reason):
                raise CancelledError from None
            raise connection_fault(self.upstream, what, reason) from reason
        finally:
            self._gate.remove(request.cancel)
        return response

    def _refuse_encoded(self, response: IResponse, what: str) -> None:
        if response.code not in (200, 206):
            return
        codings = b",".join(response.headers.getRawHeaders(b"Content-Encoding") or [])
        named = {coding.strip().lower() for coding in codings.split(b",")} - {b"", b"identity"}
        if named:
            abandon(response)
            shown = codings.decode("latin-1")[:40]
            raise UpstreamInvalid(self.upstream, f"{what} answered with Content-Encoding {shown!r}, not asked for")
