"""Responses that carry a blob, or ranges of one (RFC 9110 section 14)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from appliance.cache.access import RemoteRepository
from appliance.cache.blobs import BlobAnswer
from appliance.cache.bypass import BypassedRange
from appliance.cache.pullthrough import PullThrough
from appliance.cache.status import HIT, CacheStatus
from appliance.errors import BlobDamaged, PullcacheError, RangeInvalid, RangeUnsatisfiable
from appliance.flow.body import BlobBody, ClientStalled, Part, Relay
from appliance.flow.http import ATTACHMENT, abort, values_of
from appliance.flow.rates import ClientRates
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCTET_STREAM
from appliance.oci.ranges import Span, parse_ranges
from appliance.registry.hotlane import BODY_LIMIT, HotLane
from appliance.registry.request import RegistryRequest

# A range fetched past a flight, and not kept.
BYPASS = CacheStatus(fwd="partial", fwd_status=206)


class BlobResponses:
    """Answers blob requests of one listener."""

    _log = Logger()

    def __init__(self, cache: PullThrough, lane: HotLane, rates: ClientRates, clock: IReactorTime) -> None:
        self._cache = cache
        self._lane = lane
        self._rates = rates
        self._clock = clock

    async def head(
        self, request: RegistryRequest, remote: RemoteRepository, digest: Digest, namespace: str | None
    ) -> bytes:
        """
        Answer HEAD for a blob.

        @param namespace: see L{RequestedName}.
        @raise PullcacheError: nothing was sent; the caller tells the client.
        """
        found = await self._cache.blob_size(remote, digest)
        request.say_where_from(found.status, None, namespace)
        if request.has_current(str(digest)):
            request.begin(304, 0, None, _headers(digest))
            return b""
        request.begin(200, found.size, OCTET_STREAM, _headers(digest))
        if found.status == HIT:
            self._lane.remember(request, b"", None, remote)
        return b""

    async def get(
        self, request: RegistryRequest, remote: RemoteRepository, digest: Digest, namespace: str | None
    ) -> bytes | None:
        """
        Answer GET for a blob; fires when the body was handed over, or its connection was aborted.

        @param namespace: see L{RequestedName}.
        @return: the body where it is small, C{None} where it was sent.
        @raise PullcacheError: nothing was sent yet; the caller tells the client.
        """
        return await self._get(request, remote, digest, namespace, False)

    async def _get(
        self,
        request: RegistryRequest,
        remote: RemoteRepository,
        digest: Digest,
        namespace: str | None,
        is_retried: bool,
    ) -> bytes | None:
        unmodified = request.has_current(str(digest))
        wanted = _wanted_ranges(request, digest)

        def span_of(size: int) -> Span | None:
            """The one range that is wanted of a blob of that size, C{None} where the answer is another one."""
            try:
                spans = parse_ranges(wanted, size)
            except (RangeUnsatisfiable, RangeInvalid):
                return None
            return None if unmodified or spans is None or len(spans) > 1 else spans[0]

        answer = await self._cache.blob(remote, digest, request.platform, None if wanted is None else span_of)
        try:
            if isinstance(answer, BypassedRange):
                request.say_where_from(BYPASS, None, namespace)
                _begin_part(request, digest, answer.span, answer.size)
                await self._relay(request, answer)
                return None
            request.say_where_from(answer.status, None, namespace)
            if unmodified:
                request.begin(304, 0, None, _headers(digest))
                return b""
            spans = None if wanted is None else parse_ranges(wanted, answer.size)
            if spans is None:
                request.begin(200, answer.size, OCTET_STREAM, _headers(digest))
                if answer.growth is None and answer.size <= BODY_LIMIT:
                    body = await self._small(request, remote, digest, answer, is_retried)
                    # Nothing was sent yet: this client gets it from the upstream, where one may be asked.
                    return body if body is not None else await self._get(request, remote, digest, namespace, True)
                await self._send(request, digest, answer, [Span(0, answer.size)])
            elif len(spans) == 1:
                _begin_part(request, digest, spans[0], answer.size)
                await self._send(request, digest, answer, spans)
            else:
                several = multipart(spans, answer.size, digest, OCTET_STREAM)
                request.begin(206, several.length, several.content_type, _headers(digest))
                await self._send(request, digest, answer, several.parts)
            return None
        finally:
            answer.close()

    async def _small(
        self, request: RegistryRequest, remote: RemoteRepository, digest: Digest, answer: BlobAnswer, is_retried: bool
    ) -> bytes | None:
        """The body, C{None} when the blob was damaged and is held no more."""
        try:
            body = await answer.reader.read(0, answer.size)
        except OSError:
            body = b""
        # It may stay in memory: nothing wrong is to be given from there for ever.
        if not digest.matches(body):
            if await self._cache.is_right_blob(digest) or is_retried:
                raise BlobDamaged(f"{digest} has lost its end on disk: {len(body)} of {answer.size} bytes")
            return None
        if answer.status == HIT:
            self._lane.remember(request, body, None, remote)
        return body

    async def _send(
        self, request: RegistryRequest, digest: Digest, answer: BlobAnswer, parts: Sequence[Part]
    ) -> None:
        """
        Send the body. When something comes between, the connection is aborted: an error body would be taken for the
        blob's bytes, and finishing early would splice the next response into it.
        """
        silence = request.stall_timeout
        body = BlobBody(answer.reader, parts, request, request.transport, self._clock, silence, answer.growth)
        request.write(b"")
        try:
            with self._sending(request):
                await body.send()
        except ConnectionDone:
            pass
        except (PullcacheError, ClientStalled, OSError) as error:
            self._abort(request, error)
            if isinstance(error, OSError) and answer.growth is None:
                self._cache.suspect_blob(digest)
        finally:
            request.add_sent(body.sent - body.written)

    async def _relay(self, request: RegistryRequest, bypassed: BypassedRange) -> None:
        relay = Relay(request, bypassed.span.length)
        request.write(b"")
        try:
            with self._sending(request):
                await bypassed.response.deliver(relay)
        except PullcacheError as error:
            self._abort(request, error)
            return
        if relay.missing:
            self._abort(request, ConnectionDone(f"{relay.missing} bytes are missing"))

    def _sending(self, request: RegistryRequest) -> AbstractContextManager[None]:
        return self._rates.transfer(request.sender.user, request.sender.address, request.transport)

    def _abort(self, request: RegistryRequest, error: Exception) -> None:
        self._log.warn("{uri}: cut off: {error}", uri=request.uri.decode("ascii", "replace"), error=error)
        abort(request)


class Multipart(NamedTuple):
    """A C{multipart/byteranges} body (RFC 9110 section 14.6): its content type, parts in order, and length in bytes."""

    content_type: str
    parts: list[Part]
    length: int


def multipart(spans: Sequence[Span], size: int, digest: Digest, media_type: str) -> Multipart:
    """
    The body for several ranges of one blob. Pure.

    The boundary is made of the digest: the same answer always, and nothing a blob could hold by chance.
    """
    boundary = Digest.of(f"byteranges of {digest}".encode("ascii")).encoded[:40]
    parts: list[Part] = []
    before = f"--{boundary}\r\n"
    for span in spans:
        head = f"{before}Content-Type: {media_type}\r\nContent-Range: {_content_range(span, size)}\r\n\r\n"
        parts += [head.encode("ascii"), span]
        before = f"\r\n--{boundary}\r\n"
    parts.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    length = sum(part.length if isinstance(part, Span) else len(part) for part in parts)
    return Multipart(f"multipart/byteranges; boundary={boundary}", parts, length)


def _wanted_ranges(request: RegistryRequest, digest: Digest) -> str | None:
    """The C{Range} that is to be answered, C{None} for the whole blob."""
    values = values_of(request.requestHeaders, b"Range")
    if len(values) != 1:
        return None
    # RFC 9110 section 13.1.5: a condition that does not hold makes the request one for the whole.
    condition = values_of(request.requestHeaders, b"If-Range")
    return None if condition and condition != [f'"{digest}"'] else values[0]


def _begin_part(request: RegistryRequest, digest: Digest, span: Span, size: int) -> None:
    headers = _headers(digest) | {"Content-Range": _content_range(span, size)}
    request.begin(206, span.length, OCTET_STREAM, headers)


def _content_range(span: Span, size: int) -> str:
    return f"bytes {span.start}-{span.stop - 1}/{size}"


def _headers(digest: Digest) -> dict[str, str]:
    text = str(digest)
    return {
        "Docker-Content-Digest": text,
        "ETag": f'"{text}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000, immutable",
        **ATTACHMENT,
    }
