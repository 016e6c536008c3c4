"""
What refers to a manifest, as an upstream reports it (distribution spec, "Listing Referrers").

"Nothing refers to it" lets an image pass for one without signatures, so it is said only where the registry says it: an
answer that cannot be read is an error, and so is a list that cannot be had whole. Two places are looked at: the
referrers API, and the tag where clients of registries without one leave a list ("Referrers Tag Schema"); both count,
since a registry may have got its API after the first signatures.

What the API's answer means:

==============================================  ==========================================================
200, an image index by its type and its form    its list, all pages of it
200 of any other type or form, HTML, other      there is no API: the tag alone counts, and nothing there means
2xx, 3xx to another host, 400, any 404 (of an   nothing refers to it, as far as this URL knows
unknown repository, too), 405, 406, 410, 501
200, an index by its type, that is no JSON;     unknown: what the tag lists is given as cut, and where it lists
too long, or encoded; another 4xx               nothing, that is the error
anything else, and whatever fails later on      the error that it is for every request
==============================================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import msgspec
from twisted.internet.interfaces import IReactorTime

from appliance.errors import ManifestInvalid, UpstreamInvalid, UpstreamMissing
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.oci.manifest import parse_manifest
from appliance.oci.referrer import (
    MAX_REFERRERS,
    MAX_REFERRERS_BYTES,
    ReferrerDescriptor,
    fallback_tag,
    parse_referrers,
    within_limits,
)
from appliance.upstream.answer import Answer, Request
from appliance.upstream.distribution import Registry, head, manifest, next_page, quoted
from appliance.upstream.faults import reported
from appliance.upstream.interfaces import FetchedManifest, Referrers
from appliance.upstream.ratelimit import RateLimitBudget
from appliance.upstream.url import Url

#: Bytes of one page, and pages of one list.
MAX_PAGE_BYTES = 4 * 1024 * 1024
MAX_PAGES = 1000
#: Seconds for which it is remembered that there is no API: a registry may have one tomorrow.
REMEMBERED = 24 * 3600.0

_FIELDS = {"Accept": mediatypes.OCI_INDEX}
_NO_API = frozenset({400, 404, 405, 406, 410, 501})
#: What a fallback tag may mean without meaning a list.
_NO_LIST = mediatypes.IMAGES | mediatypes.SCHEMA1 | {mediatypes.DOCKER_MANIFEST_LIST, mediatypes.OCI_ARTIFACT_MANIFEST}


class Support:
    """Whether one URL has the referrers API, as its answers of the last day show."""

    def __init__(self, clock: IReactorTime, expected: bool | None) -> None:
        """
        @param expected: what is known of registries of this kind: only C{False} spares a request, and that for a day,
            since registries change and such tables do not.
        """
        self._clock = clock
        self._listed: float | None = None
        self._lacked = clock.seconds() if expected is False else None

    @property
    def is_lacking(self) -> bool:
        """Whether asking for it brings nothing."""
        return self._is_recent(self._lacked)

    def listed(self) -> None:
        """It gave a list."""
        self._listed, self._lacked = self._clock.seconds(), None

    def lacked(self) -> None:
        """It does not seem to have one. Where there was a list lately this is not believed longer than once."""
        if not self._is_recent(self._listed):
            self._lacked = self._clock.seconds()

    def _is_recent(self, at: float | None) -> bool:
        return at is not None and self._clock.seconds() < at + REMEMBERED


class ReferrersFound:
    """The descriptors found so far, each digest once, in the order found."""

    def __init__(self) -> None:
        self._found: dict[Digest, ReferrerDescriptor] = {}
        self._octets = 0

    def add(self, referrers: Iterable[ReferrerDescriptor]) -> None:
        """Those of C{referrers} that were not found before."""
        for each in referrers:
            if each.digest not in self._found:
                self._found[each.digest] = each
                self._octets += len(each.raw)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        return not self._found

    @property
    def is_full(self) -> bool:
        """Whether there are more than are taken."""
        return len(self._found) > MAX_REFERRERS or self._octets > MAX_REFERRERS_BYTES

    def result(self, cut: bool) -> Referrers:
        """As many as are taken; C{cut}: whether there may be more in any case."""
        kept, more = within_limits(self._found.values())
        return Referrers(tuple(each.raw for each in kept), cut or more)


class _NoApi(Exception):
    """
    The answer is that of a registry without the referrers API.

    @ivar anywhere: whether it says nothing of the subject, so that a request for any other would have it too.
    """

    def __init__(self, what: str, anywhere: bool) -> None:
        super().__init__(what)
        self.what = what
        self.anywhere = anywhere


#: One page of the API's list, and the next one, C{None} after the last.
_Page = tuple[list[ReferrerDescriptor], Url | None]


class ReferrersClient:
    """Asks a registry what refers to a manifest, and remembers which URLs have no API for that."""

    def __init__(
        self, upstream: str, urls: Iterable[Url], budget: RateLimitBudget, clock: IReactorTime, expected: bool | None
    ) -> None:
        """
        @param urls: of all registries that will be asked.
        @param expected: L{IAdapter.has_referrers}.
        """
        self._upstream = upstream
        self._budget = budget
        self._supports = {url: Support(clock, expected) for url in urls}

    async def ask(self, registry: Registry, repository: str, subject: Digest) -> Referrers | None:
        """
        What C{registry} says, C{None} when it has no API and its tag lists nothing.

        @raise UpstreamRateLimited: C{keep_pulls} leaves no pull for a tag's list; other L{UpstreamError}s as above.
        """
        found = ReferrersFound()
        support = self._supports[registry.url]
        url = registry.url.below(f"/v2/{quoted(repository)}/referrers/{subject}")
        lacking: _NoApi | None = None
        unclear: UpstreamInvalid | None = None
        if support.is_lacking:
            lacking = _NoApi(url.shown, anywhere=False)
        else:
            try:
                page = await self._page(registry, repository, url)
            except _NoApi as answer:
                lacking = answer
            except UpstreamInvalid as fault:
                unclear = fault
            else:
                support.listed()
                await self._walk(registry, repository, page, found)
        if not found.is_full:
            found.add(await self._by_tag(registry, repository, subject))
        if lacking is not None and lacking.anywhere:
            # Only now: the registry was there otherwise, so it was no page of a server that stood in for it.
            support.lacked()
        if found.is_empty and unclear is not None:
            raise unclear
        return None if found.is_empty and lacking is not None else found.result(cut=unclear is not None)

    # -- the API ------------------------------------------------------------------------------------------------------

    async def _walk(self, registry: Registry, repository: str, page: _Page, found: ReferrersFound) -> None:
        """All pages from C{page} on, or as many as give more than is taken."""
        followed: set[Url] = set()
        while True:
            referrers, following = page
            found.add(referrers)
            if found.is_full or following is None:
                return
            if following in followed or len(followed) == MAX_PAGES - 1:
                what = f"{following.shown}: more than {MAX_PAGES} pages of referrers, or one of them again"
                raise UpstreamInvalid(self._upstream, what)
            followed.add(following)
            try:
                page = await self._page(registry, repository, following)
            except _NoApi as answer:
                message = f"{answer.what} answered no further page of referrers, and a part would pass for the whole"
                raise UpstreamInvalid(self._upstream, message) from None

    async def _page(self, registry: Registry, repository: str, url: Url) -> _Page:
        """C{artifactType} is never asked for: one unfiltered list serves every filter."""
        answer = await registry.request(Request("GET", url, repository, _FIELDS, may_leave=False))
        if answer.status != 200:
            raise await self._refusal(answer)
        if mediatypes.without_parameters(answer.field(b"Content-Type") or "") != mediatypes.OCI_INDEX:
            answer.body.discard()
            raise _NoApi(answer.what, anywhere=True)
        body = await answer.body.read(MAX_PAGE_BYTES)
        following = next_page(answer)
        try:
            return parse_referrers(body), following
        except ManifestInvalid as reason:
            if _is_json(body):
                raise _NoApi(answer.what, anywhere=True) from None
            raise UpstreamInvalid(self._upstream, f"{answer.what}: {reason}") from None

    async def _refusal(self, answer: Answer) -> Exception:
        if answer.is_redirect or answer.status < 300:
            answer.body.discard()
            return _NoApi(answer.what, anywhere=True)
        fault = await answer.fault()
        if answer.status not in _NO_API:
            return fault
        # An error about a repository, a manifest or a digest is one of a registry that knows the request.
        code, _ = reported(await answer.problem())
        return _NoApi(answer.what, anywhere=code in ("", "UNSUPPORTED"))

    # -- the tag ------------------------------------------------------------------------------------------------------

    async def _by_tag(self, registry: Registry, repository: str, subject: Digest) -> list[ReferrerDescriptor]:
        """What the fallback tag lists, which is nothing where neither the tag nor its repository is there."""
        tag = fallback_tag(subject)
        try:
            fetched = await self._tagged(registry, repository, tag)
        except UpstreamMissing:
            return []
        if fetched is None or mediatypes.without_parameters(fetched.content_type or "") in _NO_LIST:
            return []
        try:
            return parse_referrers(fetched.data)
        except ManifestInvalid as reason:
            if _is_other_manifest(fetched):
                return []
            raise UpstreamInvalid(self._upstream, f"{repository}:{tag} cannot be read: {reason}") from None

    async def _tagged(self, registry: Registry, repository: str, tag: str) -> FetchedManifest | None:
        """What the tag means, C{None} when that is known to be no list; HEAD first, since a GET is a pull."""
        described = await head(registry, repository, tag)
        if described.media_type in _NO_LIST:
            return None
        if described.digest is not None:
            with suppress(UpstreamMissing):
                fetched = await self._pull(registry, repository, described.digest)
                if not described.digest.matches(fetched.data):
                    message = f"{repository}@{described.digest} came with other bytes"
                    raise UpstreamInvalid(self._upstream, message)
                return fetched
        # Also here: who adds to such a list writes a new one and deletes the old, perhaps since the HEAD.
        return await self._pull(registry, repository, tag)

    async def _pull(self, registry: Registry, repository: str, reference: str | Digest) -> FetchedManifest:
        with self._budget.pull():
            return await manifest(registry, repository, reference)


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _is_other_manifest(fetched: FetchedManifest) -> bool:
    """Whether it is a manifest of another kind than an index: then there is no list (distribution spec)."""
    try:
        return parse_manifest(fetched.data, fetched.content_type).media_type != mediatypes.OCI_INDEX
    except ManifestInvalid:
        return False
