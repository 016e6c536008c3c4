"""Responses that carry a blob, or ranges of one."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache.access import RemoteRepository
from appliance.cache.blobs import BlobAnswer, SideRange, whole
from appliance.cache.pullthrough import PullThrough
from appliance.cache.status import HIT, CacheStatus
from appliance.errors import BlobDamaged, PullcacheError, RangeInvalid, RangeUnsatisfiable
from appliance.flow.body import BlobBody, ClientStalled, Part, Relay
from appliance.flow.http import ATTACHMENT, values_of
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCTET_STREAM
from appliance.oci.ranges import Span, parse_ranges
from appliance.registry.hotlane import BODY_LIMIT, HotLane
from appliance.registry.multipart import content_range, multipart
from appliance.registry.request import RegistryRequest
from appliance.registry.responses import abort, begin, etag_matches, say_where_from
from appliance.registry.useragent import platform_of
from appliance.upstream.interfaces import IBlobResponse

# A range fetched past a flight, and not kept.
ASIDE = CacheStatus(fwd="partial", fwd_status=206)


class BlobResponses:
    """Answers blob requests of one listener."""

    _log = Logger()

    def __init__(self, cache: PullThrough, lane: HotLane, clock: IReactorTime) -> None:
        self._cache = cache
        self._lane = lane
        self._clock = clock

    async def answer(
        self, request: RegistryRequest, remote: RemoteRepository, digest: Digest, namespace: str | None
    ) -> bytes | None:
        """
        Answer GET or HEAD for a blob; fires when the body was handed over, or its connection was aborted.

        @param namespace: see L{RequestedName}.
        @raise PullcacheError: nothing was sent yet; the caller tells the client.
        """
        if request.method == b"HEAD":
            return await self._head(request, remote, digest, namespace)
        platform = platform_of("".join(values_of(request.requestHeaders, b"User-Agent")))
        span_of = partial(self._span, request, digest) if request.requestHeaders.hasHeader("Range") else whole
        answer = await self._cache.blob(remote, digest, platform, span_of)
        try:
            if isinstance(answer, SideRange):
                await self._side(request, digest, answer, namespace)
                return None
            return await self._get(request, remote, digest, answer, namespace)
        finally:
            answer.close()

    async def _head(
        self, request: RegistryRequest, remote: RemoteRepository, digest: Digest, namespace: str | None
    ) -> bytes:
        answer = await self._cache.blob_size(remote, digest)
        say_where_from(request, answer.status, None, namespace)
        if not self._unmodified(request, digest):
            begin(request, 200, answer.size, OCTET_STREAM, _headers(digest))
            if answer.status == HIT:
                self._lane.remember(request, b"", None, remote)
        return b""

    async def _get(
        self,
        request: RegistryRequest,
        remote: RemoteRepository,
        digest: Digest,
        answer: BlobAnswer,
        namespace: str | None,
    ) -> bytes | None:
        say_where_from(request, answer.status, None, namespace)
        if self._unmodified(request, digest):
            return b""
        spans = self._spans(request, digest, answer.size)
        if spans is None:
            return await self._whole(request, remote, digest, answer)
        if len(spans) > 1:
            parts = multipart(spans, answer.size, digest, OCTET_STREAM)
            begin(request, 206, parts.length, parts.content_type, _headers(digest))
            await self._send(request, answer, parts.parts)
            return None
        _begin_part(request, digest, spans[0], answer.size)
        await self._send(request, answer, [spans[0]])
        return None

    async def _whole(
        self, request: RegistryRequest, remote: RemoteRepository, digest: Digest, answer: BlobAnswer
    ) -> bytes | None:
        begin(request, 200, answer.size, OCTET_STREAM, _headers(digest))
        if answer.growth is None and answer.size <= BODY_LIMIT:
            body = await answer.reader.read(0, answer.size)
            if len(body) != answer.size:
                raise BlobDamaged(f"{digest} has lost its end on disk: {len(body)} of {answer.size} bytes")
            if answer.status == HIT:
                self._lane.remember(request, body, None, remote)
            return body
        await self._send(request, answer, [Span(0, answer.size)])
        return None

    async def _side(self, request: RegistryRequest, digest: Digest, side: SideRange, namespace: str | None) -> None:
        say_where_from(request, ASIDE, None, namespace)
        _begin_part(request, digest, side.span, side.size)
        await self._relay(request, side.response, side.span)

    async def _send(self, request: RegistryRequest, answer: BlobAnswer, parts: list[Part]) -> None:
        """
        Send the body; whatever comes between, the connection is aborted: an error body would be taken for the blob's
        bytes, and finishing early would splice the next response into it.
        """
        silence = request.stall_timeout
        body = BlobBody(answer.reader, parts, request, request.transport, self._clock, silence, answer.growth)
        request.write(b"")
        try:
            await body.send()
        except CancelledError:
            raise
        except ConnectionDone:
            pass
        except (PullcacheError, ClientStalled, OSError) as error:
            self._abort(request, error)
        finally:
            request.add_sent(body.sent - body.written)

    async def _relay(self, request: RegistryRequest, aside: IBlobResponse, span: Span) -> None:
        relay = Relay(request, span.length)
        request.write(b"")
        try:
            await aside.deliver(relay)
        except PullcacheError as error:
            self._abort(request, error)
            return
        if relay.missing:
            self._abort(request, ConnectionDone(f"{relay.missing} bytes are missing"))

    def _abort(self, request: RegistryRequest, error: Exception) -> None:
        self._log.warn("{uri}: cut off: {error}", uri=request.uri.decode("ascii", "replace"), error=error)
        abort(request)

    def _is_unmodified(self, request: RegistryRequest, digest: Digest) -> bool:
        return etag_matches(values_of(request.requestHeaders, b"If-None-Match"), str(digest))

    def _unmodified(self, request: RegistryRequest, digest: Digest) -> bool:
        if self._is_unmodified(request, digest):
            begin(request, 304, 0, None, _headers(digest))
            return True
        return False

    def _span(self, request: RegistryRequest, digest: Digest, size: int) -> Span | None:
        """The one range that is wanted of a blob of that size, C{None} where the answer is another one."""
        try:
            spans = self._spans(request, digest, size)
        except (RangeUnsatisfiable, RangeInvalid):
            return None
        if spans is None or len(spans) > 1 or self._is_unmodified(request, digest):
            return None
        return spans[0]

    def _spans(self, request: RegistryRequest, digest: Digest, size: int) -> tuple[Span, ...] | None:
        values = values_of(request.requestHeaders, b"Range")
        condition = values_of(request.requestHeaders, b"If-Range")
        # RFC 9110 section 13.1.5: a condition that does not hold makes the request one for the whole.
        if condition and condition != [f'"{digest}"']:
            return None
        return parse_ranges(values[0] if len(values) == 1 else None, size)


def _begin_part(request: RegistryRequest, digest: Digest, span: Span, size: int) -> None:
    headers = _headers(digest) | {"Content-Range": content_range(span, size)}
    begin(request, 206, span.length, OCTET_STREAM, headers)


def _headers(digest: Digest) -> dict[str, str]:
    return {
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000, immutable",
        **ATTACHMENT,
    }
