"""A registry of the OCI distribution specification, asked over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

from appliance.errors import (
    DigestInvalid,
    RangeIgnored,
    UpstreamError,
    UpstreamInvalid,
    UpstreamUnavailable,
)
from appliance.interfaces import FetchedManifest, IBlobResponse, IUpstream, ManifestHead
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.oci.ranges import parse_content_range
from appliance.settings import UpstreamSettings
from appliance.upstream.agents import Agents
from appliance.upstream.body import BlobResponse, abandon, read_whole
from appliance.upstream.credentials import Credentials
from appliance.upstream.exchange import Exchange
from appliance.upstream.faults import first_header, status_fault
from appliance.upstream.kind import DISTRIBUTION, Kind
from appliance.upstream.limits import Limits
from appliance.upstream.observer import IUpstreamObserver, SilentObserver
from appliance.upstream.redirects import Answer
from appliance.upstream.site import Site
from appliance.upstream.taglist import all_tags
from appliance.upstream.tokens import Tokens
from appliance.upstream.url import Url

T = TypeVar("T")

_MANIFEST_FIELDS = {"Accept": mediatypes.ACCEPT}
_NOTHING_SAID = ManifestHead(None, None, None)
#: What an answer to HEAD must not be taken for "this method is not for you".
_MEANT = frozenset({401, 403, 404, 410, 429})


@implementer(IUpstream)
class DistributionUpstream:
    """
    Asks the configured URLs in order, the next one when one is unavailable.

    @ivar name: the configured name.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        agents: Callable[[Url], Agents],
        clock: IReactorTime,
        kind: Kind = DISTRIBUTION,
        observer: IUpstreamObserver | None = None,
        limits: Limits | None = None,
    ) -> None:
        """
        @param agents: makes the agents for one configured URL.
        """
        self.name = settings.name
        self._kind = kind
        self._observer: IUpstreamObserver = SilentObserver() if observer is None else observer
        self._exchange = Exchange(self.name, clock, limits or Limits(), self._observer)
        credentials, tokens = credentials_of(settings), Tokens(clock)
        auth_hosts = settings.auth_hosts + kind.auth_hosts
        urls = [Url.parse(url) for url in settings.urls]
        self._sites = [Site(url, agents(url), self._exchange, auth_hosts, credentials, tokens) for url in urls]

    def repository(self, name: str) -> str:
        """See L{IUpstream.repository}."""
        return self._kind.repository(name)

    def head(self, repository: str, reference: str | Digest) -> Deferred[ManifestHead]:
        """See L{IUpstream.head}."""
        return self._anywhere(lambda site: self._head(site, repository, reference))

    def manifest(self, repository: str, reference: str | Digest) -> Deferred[FetchedManifest]:
        """See L{IUpstream.manifest}."""
        return self._anywhere(lambda site: self._manifest(site, repository, reference))

    def blob(
        self, repository: str, digest: Digest, start: int = 0, stop: int | None = None, validator: str | None = None
    ) -> Deferred[IBlobResponse]:
        """See L{IUpstream.blob}. Fails with L{RangeIgnored} when what comes is neither that range nor the whole."""
        fields = _range_fields(start, stop, validator)
        return self._anywhere(lambda site: self._blob(site, repository, digest, start, fields))

    def blob_size(self, repository: str, digest: Digest) -> Deferred[int | None]:
        """See L{IUpstream.blob_size}."""
        return self._anywhere(lambda site: self._blob_size(site, repository, digest))

    def tags(self, repository: str) -> Deferred[list[str]]:
        """See L{IUpstream.tags}."""
        return self._anywhere(lambda site: self._tags(site, repository))

    def _anywhere(self, ask: Callable[[Site], Awaitable[T]]) -> Deferred[T]:
        return Deferred.fromCoroutine(self._in_order(ask))

    async def _in_order(self, ask: Callable[[Site], Awaitable[T]]) -> T:
        try:
            for site in self._sites[:-1]:
                try:
                    return await ask(site)
                except UpstreamUnavailable:
                    continue
            return await ask(self._sites[-1])
        except UpstreamError as fault:
            self._observer.failed(self.name, fault.kind)
            raise

    async def _head(self, site: Site, repository: str, reference: str | Digest) -> ManifestHead:
        answer = await site.ask("HEAD", _manifest_url(site, repository, reference), repository, _MANIFEST_FIELDS)
        if answer.status == 501 or (400 <= answer.status < 500 and answer.status not in _MEANT):
            answer.discard()
            return _NOTHING_SAID
        await self._only_200(answer)
        return _described(answer.response)

    async def _manifest(self, site: Site, repository: str, reference: str | Digest) -> FetchedManifest:
        answer = await site.ask("GET", _manifest_url(site, repository, reference), repository, _MANIFEST_FIELDS)
        await self._only_200(answer)
        content_type = first_header(answer.response.headers, b"Content-Type")
        if mediatypes.without_parameters(content_type or "") == "text/html":
            answer.discard()
            raise UpstreamInvalid(self.name, f"{answer.what} answered HTML instead of a manifest")
        data = await read_whole(answer.response, MAX_MANIFEST_BYTES, self._exchange.watch, answer.what)
        return FetchedManifest(data, content_type)

    async def _blob(
        self, site: Site, repository: str, digest: Digest, start: int, fields: Mapping[str, str]
    ) -> IBlobResponse:
        answer = await site.ask("GET", _blob_url(site, repository, digest), repository, fields)
        if "Range" in fields and answer.status in (206, 416):
            return await self._part(answer, start)
        await self._only_200(answer)
        length = answer.response.length
        return self._opened(answer.response, 0, None if length is UNKNOWN_LENGTH else length)

    async def _part(self, answer: Answer, start: int) -> IBlobResponse:
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
            raise RangeIgnored(self.name, message) from None
        return self._opened(answer.response, start, total)

    def _opened(self, response: IResponse, start: int, size: int | None) -> IBlobResponse:
        return BlobResponse(response, self._exchange.blob_watch, start, size, _strong_validator(response))

    async def _blob_size(self, site: Site, repository: str, digest: Digest) -> int | None:
        answer = await site.ask("HEAD", _blob_url(site, repository, digest), repository, {})
        if not _head_refused(answer):
            await self._only_200(answer)
            return _content_length(answer.response)
        answer.discard()
        response = await self._blob(site, repository, digest, 0, _range_fields(0, 1, None))
        response.abandon()
        size: int | None = response.size
        return size

    async def _tags(self, site: Site, repository: str) -> list[str]:
        async def ask(url: Url) -> Answer:
            answer = await site.ask("GET", url, repository, {"Accept": "application/json"})
            await self._only_200(answer)
            return answer

        first = site.url.below(f"/v2/{_quoted(repository)}/tags/list")
        return await all_tags(ask, first, self._exchange.watch)

    async def _only_200(self, answer: Answer) -> None:
        """Raises for every other status; the body is read then."""
        if answer.status != 200:
            problem = await answer.problem()
            raise status_fault(self.name, answer.what, answer.status, answer.response.headers, problem)


def credentials_of(settings: UpstreamSettings) -> Credentials | None:
    """The configured credentials, C{None} for an anonymous upstream."""
    if settings.username is None or settings.password_file is None:
        return None
    return Credentials(settings.name, settings.username, settings.password_file)


def _quoted(text: str) -> str:
    """Names, tags and digests need no quoting; whatever else comes must not become another path."""
    return quote(text, safe="/:")


def _manifest_url(site: Site, repository: str, reference: str | Digest) -> Url:
    return site.url.below(f"/v2/{_quoted(repository)}/manifests/{_quoted(str(reference))}")


def _blob_url(site: Site, repository: str, digest: Digest) -> Url:
    return site.url.below(f"/v2/{_quoted(repository)}/blobs/{digest}")


def _range_fields(start: int, stop: int | None, validator: str | None) -> dict[str, str]:
    """Range and If-Range (RFC 9110 sections 14.2 and 13.1.5), nothing for the whole."""
    if start == 0 and stop is None:
        return {}
    last = "" if stop is None else str(stop - 1)
    fields = {"Range": f"bytes={start}-{last}"}
    return fields if validator is None else {**fields, "If-Range": validator}


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
