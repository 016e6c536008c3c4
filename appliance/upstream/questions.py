"""What is asked of a registry (distribution spec, "Pull"), and what its answers become."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from appliance.errors import DigestInvalid, RangeIgnored, UpstreamInvalid
from appliance.interfaces import FetchedManifest, IBlobResponse, ManifestHead
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.oci.ranges import parse_content_range
from appliance.upstream.body import BlobResponse, Watch, abandon, read_whole
from appliance.upstream.exchange import Exchange
from appliance.upstream.faults import first_header, status_fault
from appliance.upstream.redirects import Answer
from appliance.upstream.sites import Place
from appliance.upstream.taglist import all_tags
from appliance.upstream.url import Url

_MANIFEST_FIELDS = {"Accept": mediatypes.ACCEPT}
_NOTHING_SAID = ManifestHead(None, None, None)
#: What an answer to HEAD must not be taken for "this method is not for you".
_MEANT = frozenset({401, 403, 404, 410, 429})


class Questions:
    """The questions of L{appliance.interfaces.IUpstream}, each asked at one place; they raise what those fail with."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._upstream = exchange.upstream

    async def head(self, place: Place, repository: str, reference: str | Digest) -> ManifestHead:
        """Nothing is said where HEAD itself is refused, or answered by a login page."""
        answer = await place.ask("HEAD", _manifest_url(place, repository, reference), repository, _MANIFEST_FIELDS)
        if answer.status == 501 or (400 <= answer.status < 500 and answer.status not in _MEANT):
            answer.discard()
            return _NOTHING_SAID
        await self._only_200(answer)
        return _described(answer.response)

    async def manifest(self, place: Place, repository: str, reference: str | Digest) -> FetchedManifest:
        """At most C{MAX_MANIFEST_BYTES}, and no HTML."""
        answer = await place.ask("GET", _manifest_url(place, repository, reference), repository, _MANIFEST_FIELDS)
        await self._only_200(answer)
        content_type = first_header(answer.response.headers, b"Content-Type")
        if mediatypes.without_parameters(content_type or "") == "text/html":
            answer.discard()
            raise UpstreamInvalid(self._upstream, f"{answer.what} answered HTML instead of a manifest")
        data = await read_whole(answer.response, MAX_MANIFEST_BYTES, self._exchange.watch, answer.what)
        return FetchedManifest(data, content_type)

    async def blob(
        self, place: Place, repository: str, digest: Digest, start: int, fields: Mapping[str, str], watch: Watch
    ) -> IBlobResponse:
        """The whole from nought, or, when C{fields} ask for a range, the part that begins at C{start}."""
        answer = await place.ask("GET", _blob_url(place, repository, digest), repository, fields)
        if "Range" in fields and answer.status in (206, 416):
            return self._part(answer, start, watch)
        await self._only_200(answer)
        length = answer.response.length
        return _opened(answer.response, watch, 0, None if length is UNKNOWN_LENGTH else length)

    def _part(self, answer: Answer, start: int, watch: Watch) -> IBlobResponse:
        """A 206 that holds bytes from C{start} on; L{RangeIgnored} for every other, and for a 416."""
        field = first_header(answer.response.headers, b"Content-Range") or ""
        try:
            if answer.status == 416:
                raise ValueError("it has no such range")
            first, _, total = parse_content_range(field)
            if first != start:
                raise ValueError(f"its part begins at {first}")
        except ValueError as reason:
            abandon(answer.response)
            message = f"{answer.what} was asked for bytes from {start} on and answered {answer.status}: {reason}"
            raise RangeIgnored(self._upstream, message) from None
        return _opened(answer.response, watch, start, total)

    async def blob_size(self, place: Place, repository: str, digest: Digest) -> int | None:
        """By HEAD, or from the answer to a range of one byte where HEAD is refused."""
        answer = await place.ask("HEAD", _blob_url(place, repository, digest), repository, {})
        if not _head_refused(answer):
            await self._only_200(answer)
            return _content_length(answer.response)
        answer.discard()
        watch = self._exchange.watch_for(False)
        response = await self.blob(place, repository, digest, 0, range_fields(0, 1, None), watch)
        response.abandon()
        size: int | None = response.size
        return size

    async def tags(self, place: Place, repository: str) -> list[str]:
        """See L{all_tags}."""

        async def ask(url: Url) -> Answer:
            answer = await place.ask("GET", url, repository, {"Accept": "application/json"})
            await self._only_200(answer)
            return answer

        first = place.url.below(f"/v2/{quoted(repository)}/tags/list")
        return await all_tags(ask, first, self._exchange.watch)

    async def _only_200(self, answer: Answer) -> None:
        """Raises for every other status; the body is read then."""
        if answer.status != 200:
            problem = await answer.problem()
            raise status_fault(self._upstream, answer.what, answer.status, answer.response.headers, problem)


def quoted(text: str) -> str:
    """Names, tags and digests need no quoting; whatever else comes must not become another path."""
    return quote(text, safe="/:")


def _manifest_url(place: Place, repository: str, reference: str | Digest) -> Url:
    return place.url.below(f"/v2/{quoted(repository)}/manifests/{quoted(str(reference))}")


def _blob_url(place: Place, repository: str, digest: Digest) -> Url:
    return place.url.below(f"/v2/{quoted(repository)}/blobs/{digest}")


def range_fields(start: int, stop: int | None, validator: str | None) -> dict[str, str]:
    """Range and If-Range (RFC 9110 sections 14.2 and 13.1.5), nothing for the whole."""
    if start == 0 and stop is None:
        return {}
    last = "" if stop is None else str(stop - 1)
    fields = {"Range": f"bytes={start}-{last}"}
    return fields if validator is None else {**fields, "If-Range": validator}


def _opened(response: IResponse, watch: Watch, start: int, size: int | None) -> IBlobResponse:
    return BlobResponse(response, watch, start, size, _strong_validator(response))


def _strong_validator(response: IResponse) -> str | None:
    """The entity tag, when it is a strong one (RFC 9110 section 8.8.3) and fit to be sent back."""
    tag = first_header(response.headers, b"ETag") or ""
    return tag if len(tag) > 2 and tag[0] == tag[-1] == '"' and tag.isascii() and tag.isprintable() else None


def _content_length(response: IResponse) -> int | None:
    """Of an answer to HEAD, where C{length} is 0 and the field is left in its place."""
    text = first_header(response.headers, b"Content-Length") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _described(response: IResponse) -> ManifestHead:
    media_type = mediatypes.without_parameters(first_header(response.headers, b"Content-Type") or "")
    if media_type == "text/html":
        return _NOTHING_SAID
    try:
        digest = Digest.parse(first_header(response.headers, b"Docker-Content-Digest") or "")
    except DigestInvalid:
        return ManifestHead(None, _content_length(response), media_type or None)
    return ManifestHead(digest, _content_length(response), media_type or None)


def _head_refused(answer: Answer) -> bool:
    """Whether it is HEAD that is refused: signed URLs are made for GET only, and some servers do not know it."""
    return answer.status in (400, 405, 501) or (answer.led and answer.status in (401, 403))
