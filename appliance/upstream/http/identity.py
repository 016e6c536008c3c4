"""
One request and the head of its answer: what every request says of us, how long it may take, and its failures in words.
"""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from appliance import __version__
from appliance.errors import UpstreamInvalid, UpstreamTimeout
from appliance.upstream.answer import Answer, Request
from appliance.upstream.faults import connection_fault, was_cancelled
from appliance.upstream.http.body import ResponseBody
from appliance.upstream.http.limits import BandwidthLimit, BodyLimits, Gate, Timeouts
from appliance.upstream.interfaces import IUpstreamObserver
from appliance.upstream.url import Url

USER_AGENT = f"pullcache/{__version__}"


class _Late(Exception):
    """Our own time limit passed, not one of the connection's."""


@implementer(IBodyProducer)
class _Form:
    """A request's body that is wholly here; it may hold a secret, so it shows nothing of itself."""

    def __init__(self, danger_data: bytes) -> None:
        self.length = len(danger_data)
        self._danger_data = danger_data

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._danger_data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is written at once."""

    def resumeProducing(self) -> None:
        """It is written at once."""

    def stopProducing(self) -> None:
        """It is written at once."""


class HttpClient:
    """
    Sends single requests on behalf of one upstream; redirects and errors are answers like others.

    @ivar upstream: its configured name.
    @ivar small: how a body is read that comes into memory, C{blob}: how one is that does not.
    @ivar answered: how often the configured origin answered with anything but a failure of its own (a status from 500
        on).
    """

    def __init__(
        self,
        upstream: str,
        home: Url,
        agent: IAgent,
        clock: IReactorTime,
        timeouts: Timeouts,
        observer: IUpstreamObserver,
        gate: Gate,
        bandwidth: BandwidthLimit | None = None,
    ) -> None:
        """
        @param home: the configured URL.
        @param agent: reaches it, and wherever it leads.
        @param bandwidth: of all blobs, C{None} when they may come at any speed.
        """
        self.upstream = upstream
        self.answered = 0
        self._home = home.origin
        self._agent = agent
        self._clock = clock
        self._timeouts = timeouts
        self._observer = observer
        self._gate = gate
        received = partial(observer.received, upstream)
        self.small = BodyLimits(upstream, clock, timeouts.silence, whole=timeouts.whole, gate=gate)
        self.blob = BodyLimits(upstream, clock, timeouts.silence, received, bandwidth=bandwidth, gate=gate)

    async def request(self, request: Request) -> Answer:
        """
        See L{appliance.upstream.answer.Http}.

        @raise UpstreamUnavailable: no answer; L{UpstreamTimeout}: none in time.
        @raise UpstreamInvalid: an encoded representation, whose bytes are not those of the digest.
        @raise Offline: the upstream may not be asked any more.
        """
        headers = Headers({"User-Agent": [USER_AGENT], "Accept-Encoding": ["identity"]})
        for name, value in request.fields.items():
            headers.setRawHeaders(name, [value])
        if request.danger_authorization is not None:
            headers.setRawHeaders(b"Authorization", [request.danger_authorization])
        form = None if request.danger_form is None else _Form(request.danger_form)
        self._gate.check()
        sending = self._agent.request(request.method.encode("ascii"), bytes(request.url), headers, form)
        # What comes out of a cancelled request depends on how far it was; the time limit is named in any case.
        sending.addTimeout(self._timeouts.headers, self._clock, lambda _, seconds: Failure(_Late()))
        self._gate.add(sending.cancel)
        try:
            response: IResponse = await sending
        except _Late:
            message = f"{request.shown}: no answer within {self._timeouts.headers:g} seconds"
            raise UpstreamTimeout(self.upstream, message) from None
        except Exception as reason:
            self._gate.check()
            if was_cancelled(reason):
                raise CancelledError from None
            raise connection_fault(self.upstream, request.shown, reason) from reason
        finally:
            self._gate.remove(sending.cancel)
        redirected = request.url.origin != self._home
        self.answered += not redirected and response.code < 500
        self._observer.requested(self.upstream, request.method, response.code)
        body = ResponseBody(response, request.shown, self.small, self.blob)
        answer = Answer(self.upstream, request, response.code, response.headers, body, redirected)
        coding = _coding(response.headers) if response.code in (200, 206) else None
        if coding is not None:
            body.abandon()
            message = f"{answer.what} answered with Content-Encoding {coding!r}, not asked for"
            raise UpstreamInvalid(self.upstream, message)
        return answer


def _coding(headers: Headers) -> str | None:
    """The content codings of a body, C{None} when it is as it was stored."""
    codings = b",".join(headers.getRawHeaders(b"Content-Encoding") or [])
    named = {coding.strip().lower() for coding in codings.split(b",")} - {b"", b"identity"}
    return codings.decode("latin-1")[:40] if named else None
