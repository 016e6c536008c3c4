"""
A repository's tags, over as many pages as the upstream makes of them (distribution spec, "Listing Tags").

Pages are followed by their C{Link} only, since some registries page by opaque tokens, and never to another origin. A
list that cannot be had whole is an error: part of it would pass for all of it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import msgspec
from twisted.web.http_headers import Headers

from appliance.errors import UpstreamInvalid, UpstreamRefused
from appliance.oci.reference import is_tag
from appliance.upstream.body import Watch, read_whole
from appliance.upstream.limits import MAX_TAGS, MAX_TAGS_PAGE_BYTES, MAX_TAGS_PAGES
from appliance.upstream.redirects import Answer
from appliance.upstream.url import Url

#: RFC 8288 section 3: the target, and its parameters up to the comma before the next.
_LINK = re.compile(r'<([^<>]*)>((?:"(?:[^"\\]|\\.)*"|[^",])*)')
_PARAMETER = re.compile(r';[ \t]*([\w!#$&+.^`|~*-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^",; \t]*))')


class _Page(msgspec.Struct):
    """C{null} is what Go servers write for no tags; a body without the key is no tag list."""

    tags: list[str] | None


#: Asks for one page; fires with an answer of status 200 or raises.
AskPage = Callable[[Url], Awaitable[Answer]]


async def all_tags(ask: AskPage, first: Url, watch: Watch) -> list[str]:
    """
    The tags of all pages from C{first} on, in the order received, those left out that are none.

    @raise UpstreamInvalid: no JSON of a tag list; more pages, bytes or tags than are taken.
    @raise UpstreamRefused: a page at another origin.
    """
    found: list[str] = []
    url = first
    for _ in range(MAX_TAGS_PAGES):
        answer = await ask(url)
        body = await read_whole(answer.response, MAX_TAGS_PAGE_BYTES, watch, answer.what)
        found += [tag for tag in _tags(body, watch.upstream, answer.what) if is_tag(tag)]
        if len(found) > MAX_TAGS:
            raise UpstreamInvalid(watch.upstream, f"{answer.what}: more than {MAX_TAGS} tags")
        following = next_page(answer.response.headers, answer.url, watch.upstream)
        if following is None:
            return found
        url = following
    raise UpstreamInvalid(watch.upstream, f"{first.shown}: more than {MAX_TAGS_PAGES} pages of tags")


def next_page(headers: Headers, page: Url, upstream: str) -> Url | None:
    """The page after C{page} (RFC 8288), C{None} after the last. Raises as L{all_tags}."""
    reference = _next_reference(headers)
    if reference is None:
        return None
    try:
        url = page.join(reference)
    except ValueError as reason:
        raise UpstreamInvalid(upstream, f"{page.shown} links to no usable URL: {reason}") from None
    if url.origin != page.origin:
        raise UpstreamRefused(upstream, f"{page.shown} links to {url.shown} as its next page, which is not its own")
    return url


def _next_reference(headers: Headers) -> str | None:
    for field in headers.getRawHeaders(b"Link") or []:
        for match in _LINK.finditer(field.decode("latin-1")):
            if "next" in _relations(match[2]):
                return match[1]
    return None


def _relations(parameters: str) -> list[str]:
    """Of a link; of a C{rel} given twice, the first counts."""
    for name, quoted, bare in _PARAMETER.findall(parameters):
        if name.lower() == "rel":
            return str(quoted or bare).lower().split()
    return []


def _tags(body: bytes, upstream: str, what: str) -> list[str]:
    try:
        return msgspec.json.decode(body, type=_Page).tags or []
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise UpstreamInvalid(upstream, f"{what} answered no JSON of a tag list") from None
