"""
The requests that pull from a registry (distribution spec, "Pull" and "Listing Tags"), and what their answers become.

Lists are followed page by page, by their C{Link} only, since some registries page by opaque tokens, and never to
another origin. A list that cannot be had whole is an error: part of it would pass for all of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote

import msgspec

from appliance.errors import DigestInvalid, RangeIgnored, UpstreamInvalid, UpstreamRefused
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.oci.ranges import parse_content_range
from appliance.oci.reference import is_tag
from appliance.upstream.answer import Answer, Request
from appliance.upstream.interfaces import FetchedManifest, IBlobResponse, ManifestHead
from appliance.upstream.url import Url

#: Bytes of one page of a tag list, pages of one list, and tags of one repository.
MAX_TAGS_PAGE_BYTES = 4 * 1024 * 1024
MAX_TAGS_PAGES = 1000
MAX_TAGS = 500_000

_NOTHING_KNOWN = ManifestHead(None, None, None)
#: Answers to HEAD that are about the manifest and not about the method.
_MEANT = frozenset({401, 403, 404, 410, 429})
#: RFC 8288 section 3: the target, and its parameters up to the comma before the next.
_LINK = re.compile(r'<([^<>]*)>((?:"(?:[^"\\]|\\.)*"|[^",])*)')
_PARAMETER = re.compile(r';[ \t]*([\w!#$&+.^`|~*-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^",; \t]*))')


class Registry(Protocol):
    """
    A registry at one URL.

    @ivar url: that URL, whose path comes before C{/v2/}.
    """

    url: Url

    async def request(self, request: Request) -> Answer:
        """See L{appliance.upstream.answer.Http}."""


# -- manifests --------------------------------------------------------------------------------------------------------


async def head(registry: Registry, repository: str, reference: str | Digest) -> ManifestHead:
    """What HEAD says; nothing where HEAD itself is refused, or answered by a login page."""
    answer = await registry.request(_manifest_request("HEAD", registry, repository, reference))
    if answer.status == 501 or (400 <= answer.status < 500 and answer.status not in _MEANT):
        answer.body.discard()
        return _NOTHING_KNOWN
    await _require_200(answer)
    media_type = mediatypes.without_parameters(answer.field(b"Content-Type") or "")
    if media_type == "text/html":
        return _NOTHING_KNOWN
    try:
        digest: Digest | None = Digest.parse(answer.field(b"Docker-Content-Digest") or "")
    except DigestInvalid:
        digest = None
    return ManifestHead(digest, _content_length(answer), media_type or None)


async def manifest(registry: Registry, repository: str, reference: str | Digest) -> FetchedManifest:
    """The manifest, of at most C{MAX_MANIFEST_BYTES}. HTML is none: L{UpstreamInvalid}."""
    answer = await registry.request(_manifest_request("GET", registry, repository, reference))
    await _require_200(answer)
    content_type = answer.field(b"Content-Type")
    if mediatypes.without_parameters(content_type or "") == "text/html":
        answer.body.discard()
        raise UpstreamInvalid(answer.upstream, f"{answer.what} answered HTML instead of a manifest")
    return FetchedManifest(await answer.body.read(MAX_MANIFEST_BYTES), content_type)


def _manifest_request(method: str, registry: Registry, repository: str, reference: str | Digest) -> Request:
    url = registry.url.below(f"/v2/{quoted(repository)}/manifests/{quoted(str(reference))}")
    return Request(method, url, repository, {"Accept": mediatypes.ACCEPT})


# -- blobs ------------------------------------------------------------------------------------------------------------


async def blob(
    registry: Registry,
    repository: str,
    digest: Digest,
    start: int = 0,
    stop: int | None = None,
    validator: str | None = None,
    background: bool = False,
) -> IBlobResponse:
    """
    See L{IUpstream.blob}.

    @raise RangeIgnored: a part was requested, and what comes is neither that part nor the whole.
    """
    fields = _range_fields(start, stop, validator)
    answer = await registry.request(Request("GET", _blob_url(registry, repository, digest), repository, fields))
    first, size = 0, answer.body.length
    if fields and answer.status in (206, 416):
        try:
            if answer.status == 416:
                raise ValueError("it has no such range")
            first, _, size = parse_content_range(answer.field(b"Content-Range") or "")
            if first != start:
                raise ValueError(f"its part begins at {first}")
        except ValueError as reason:
            answer.body.abandon()
            message = f"{answer.what} was asked for bytes from {start} on and answered {answer.status}: {reason}"
            raise RangeIgnored(answer.upstream, message) from None
    else:
        await _require_200(answer)
    # Fit to be sent back is a strong entity tag only (RFC 9110 section 8.8.3).
    tag = answer.field(b"ETag") or ""
    strong = len(tag) > 2 and tag[0] == tag[-1] == '"' and tag.isascii() and tag.isprintable()
    return answer.body.blob(first, size, tag if strong else None, background)


async def blob_size(registry: Registry, repository: str, digest: Digest) -> int | None:
    """
    A blob's size by HEAD, or from the answer to a range of one byte where it is HEAD that is refused: signed URLs are
    made for GET only, and some servers do not know it. C{None}: the registry has the blob and does not say.
    """
    answer = await registry.request(Request("HEAD", _blob_url(registry, repository, digest), repository))
    if answer.status not in (400, 405, 501) and not (answer.redirected and answer.status in (401, 403)):
        await _require_200(answer)
        return _content_length(answer)
    answer.body.discard()
    response = await blob(registry, repository, digest, 0, 1)
    response.abandon()
    size: int | None = response.size
    return size


def _blob_url(registry: Registry, repository: str, digest: Digest) -> Url:
    return registry.url.below(f"/v2/{quoted(repository)}/blobs/{digest}")


def _range_fields(start: int, stop: int | None, validator: str | None) -> Mapping[str, str]:
    """Range and If-Range (RFC 9110 sections 14.2 and 13.1.5), nothing for the whole."""
    if start == 0 and stop is None:
        return {}
    last = "" if stop is None else str(stop - 1)
    fields = {"Range": f"bytes={start}-{last}"}
    return fields if validator is None else {**fields, "If-Range": validator}


# -- tags -------------------------------------------------------------------------------------------------------------


class _TagsPage(msgspec.Struct):
    """C{null} is what Go servers write for no tags; a body without the key is no tag list."""

    tags: list[str] | None


async def tags(registry: Registry, repository: str) -> list[str]:
    """
    The tags of all pages, in the order received; what is no tag is left out.

    @raise UpstreamInvalid: no JSON of a tag list; more pages, bytes or tags than are taken.
    @raise UpstreamRefused: a page at another origin.
    """
    found: list[str] = []
    first = url = registry.url.below(f"/v2/{quoted(repository)}/tags/list")
    for _ in range(MAX_TAGS_PAGES):
        answer = await registry.request(Request("GET", url, repository, {"Accept": "application/json"}))
        await _require_200(answer)
        body = await answer.body.read(MAX_TAGS_PAGE_BYTES)
        try:
            listed = msgspec.json.decode(body, type=_TagsPage).tags or []
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise UpstreamInvalid(answer.upstream, f"{answer.what} answered no JSON of a tag list") from None
        found += filter(is_tag, listed)
        if len(found) > MAX_TAGS:
            raise UpstreamInvalid(answer.upstream, f"{answer.what}: more than {MAX_TAGS} tags")
        following = next_page(answer)
        if following is None:
            return found
        url = following
    raise UpstreamInvalid(answer.upstream, f"{first.shown}: more than {MAX_TAGS_PAGES} pages of tags")


def next_page(answer: Answer) -> Url | None:
    """
    The page after one of a list (RFC 8288), C{None} after the last.

    @raise UpstreamInvalid: a link that is no URL.
    @raise UpstreamRefused: one to another origin.
    """
    reference = _next_reference(answer)
    if reference is None:
        return None
    page = answer.url
    try:
        url = page.join(reference)
    except ValueError as reason:
        raise UpstreamInvalid(answer.upstream, f"{page.shown} links to no usable URL: {reason}") from None
    if url.origin != page.origin:
        message = f"{page.shown} links to {url.shown} as its next page, which is not its own"
        raise UpstreamRefused(answer.upstream, message)
    return url


def _next_reference(answer: Answer) -> str | None:
    for field in answer.headers.getRawHeaders(b"Link") or []:
        for target, parameters in _LINK.findall(field.decode("latin-1")):
            named = ((name.lower(), quoted or bare) for name, quoted, bare in _PARAMETER.findall(parameters))
            # Of a C{rel} given twice, the first counts.
            relations: str = next((value for name, value in named if name == "rel"), "")
            if "next" in relations.lower().split():
                return str(target)
    return None


# -- what they have in common -----------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """Names, tags and digests need no quoting; whatever else comes must not become another path."""
    return quote(text, safe="/:")


async def _require_200(answer: Answer) -> None:
    """Raises for every other status; the body is read then."""
    if answer.status != 200:
        raise await answer.fault()


def _content_length(answer: Answer) -> int | None:
    """Of an answer to HEAD, whose body has no length while the field is left in its place."""
    text = answer.field(b"Content-Length") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
