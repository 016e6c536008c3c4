"""One request and the head of its answer."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from appliance import __version__
from appliance.errors import UpstreamInvalid, UpstreamTimeout
from appliance.upstream.body import Watch, abandon
from appliance.upstream.faults import connection_fault, was_cancelled
from appliance.upstream.limits import Limits
from appliance.upstream.observer import IUpstreamObserver
from appliance.upstream.url import Url

USER_AGENT = f"pullcache/{__version__}"


class _Late(Exception):
    """Our own time limit passed, not one of the connection's."""


class Exchange:
    """
    Sends requests on behalf of one upstream and puts every failure of a connection into our words.

    @ivar watch: how the bodies of the answers are to be read; blobs are counted, so they have a watch of their own.
    """

    def __init__(self, upstream: str, clock: IReactorTime, limits: Limits, observer: IUpstreamObserver) -> None:
        self.upstream = upstream
        self.watch = Watch(upstream, clock, limits.silence)
        self.blob_watch = Watch(upstream, clock, limits.silence, lambda octets: observer.received(upstream, octets))
        self._clock = clock
        self._limits = limits
        self._observer = observer

    async def send(
        self,
        agent: IAgent,
        method: str,
        url: Url,
        fields: Mapping[str, str],
        authorization: bytes | None = None,
    ) -> IResponse:
        """
        Ask once; redirects and errors are answers like others.

        @param fields: header fields beside User-Agent and Accept-Encoding, which are always the same.
        @raise UpstreamUnavailable: no answer; L{UpstreamTimeout}: none in time.
        @raise UpstreamInvalid: an encoded representation, whose bytes are not those of the digest.
        """
        headers = Headers({"User-Agent": [USER_AGENT], "Accept-Encoding": ["identity"]})
        for name, value in fields.items():
            headers.setRawHeaders(name, [value])
        if authorization is not None:
            headers.setRawHeaders(b"Authorization", [authorization])
        response = await self._answer(agent, method, url, headers)
        self._observer.asked(self.upstream, method, response.code)
        self._refuse_encoded(response, f"{method} {url.shown}")
        return response

    async def _answer(self, agent: IAgent, method: str, url: Url, headers: Headers) -> IResponse:
        what = f"{method} {url.shown}"
        request = agent.request(method.encode("ascii"), bytes(url), headers)
        # What comes out of a cancelled request depends on how far it was; the time limit is named in any case.
        request.addTimeout(self._limits.headers, self._clock, lambda _, seconds: Failure(_Late()))
        try:
            response: IResponse = await request
        except _Late:
            seconds = self._limits.headers
            raise UpstreamTimeout(self.upstream, f"{what}: no answer within {seconds:g} seconds") from None
        except Exception as reason:
            if was_cancelled(reason):
                raise CancelledError from None
            raise connection_fault(self.upstream, what, reason) from reason
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
