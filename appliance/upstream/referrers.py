"""
What refers to a manifest, as one URL of an upstream tells it (distribution spec, "Listing Referrers").

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
too long, or encoded; another 4xx                nothing, that is the error
anything else, and whatever fails later on      the error it is for every question
==============================================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from twisted.internet.interfaces import IReactorTime

from appliance.errors import ManifestInvalid, UpstreamInvalid, UpstreamMissing, UpstreamUnavailable
from appliance.interfaces import FetchedManifest, Referrers
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.oci.manifest import parse_manifest
from appliance.oci.referrer import (
    MAX_REFERRERS,
    MAX_REFERRERS_BYTES,
    Referrer,
    fallback_tag,
    parse_referrers,
    within_limits,
)
from appliance.upstream.body import read_whole
from appliance.upstream.exchange import Exchange
from appliance.upstream.faults import first_header, reported, status_fault
from appliance.upstream.questions import Questions, quoted
from appliance.upstream.redirects import REDIRECTS, Answer
from appliance.upstream.resting import Allowance
from appliance.upstream.sites import Place, Sites
from appliance.upstream.taglist import next_page
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
    """Whether one URL has the referrers API, as its answers of the last day tell."""

    def __init__(self, clock: IReactorTime, told: bool | None) -> None:
        """
        @param told: what is said of registries of this kind: only C{False} spares a question, and that for a day, since
            registries change and such tables do not.
        """
        self._clock = clock
        self._listed: float | None = None
        self._lacked = clock.seconds() if told is False else None

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


class Gathered:
    """The descriptors found so far, each digest once, in the order found."""

    def __init__(self) -> None:
        self._found: dict[Digest, Referrer] = {}
        self._octets = 0

    def add(self, referrers: Iterable[Referrer]) -> None:
        """These too."""
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

    def referrers(self, cut: bool) -> Referrers:
        """As many as are taken; C{cut}: whether there may be more in any case."""
        kept, more = within_limits(self._found.values())
        return Referrers(tuple(each.raw for each in kept), cut or more)


class _NoApi(Exception):
    """
    The answer is that of a registry without the referrers API.

    @ivar anywhere: whether it says nothing of what was asked for, so that every other question would have it too.
    """

    def __init__(self, what: str, anywhere: bool) -> None:
        super().__init__(what)
        self.what = what
        self.anywhere = anywhere


@dataclass(frozen=True)
class _Page:
    """
    One page of the API's list.

    @ivar following: the next one, C{None} after the last.
    """

    referrers: list[Referrer]
    following: Url | None


class ReferrerQuestions:
    """Asks the places of an upstream what refers to a manifest, and remembers which of them have no API for that."""

    def __init__(
        self,
        questions: Questions,
        exchange: Exchange,
        allowance: Allowance,
        sites: Sites,
        clock: IReactorTime,
        told: bool | None,
    ) -> None:
        """
        @param told: L{IAdapter.has_referrers}.
        """
        self._questions = questions
        self._exchange = exchange
        self._upstream = exchange.upstream
        self._allowance = allowance
        self._sites = sites
        self._supports = {place.url: Support(clock, told) for place in sites.places}

    async def ask(self, repository: str, subject: Digest) -> Referrers:
        """
        See L{IUpstream.referrers}. Raises L{UpstreamRateLimited} when C{keep_pulls} leaves none for a tag's list.

        A place without the API that knows of none leads on to the next one, as silence does: it may be a mirror that
        has the images without their signatures. There are none when every place says so.
        """
        unaware: list[Url] = []

        async def question(place: Place) -> Referrers:
            listed = await self._at(place, repository, subject)
            if listed is not None:
                return listed
            unaware.append(place.url)
            if len(unaware) == len(self._sites.places):
                return Referrers(())
            what = f"{place.url.shown} lists no referrers and has no API for them, and no other URL answers"
            raise UpstreamUnavailable(self._upstream, what)

        return await self._sites.ask(repository, question)

    async def _at(self, place: Place, repository: str, subject: Digest) -> Referrers | None:
        """What C{place} says, C{None} when it has no API and its tag lists nothing."""
        found = Gathered()
        first = await self._first_page(place, repository, subject)
        if isinstance(first, _Page):
            await self._walk(place, repository, first, found)
        if not found.is_full:
            found.add(await self._by_tag(place, repository, subject))
        if isinstance(first, _NoApi) and first.anywhere:
            # Only now: the registry was there otherwise, so it was no page of somebody who stood in for it.
            self._supports[place.url].lacked()
        if isinstance(first, UpstreamInvalid) and found.is_empty:
            raise first
        if isinstance(first, _NoApi) and found.is_empty:
            return None
        return found.referrers(cut=isinstance(first, UpstreamInvalid))

    # -- the API ------------------------------------------------------------------------------------------------------

    async def _first_page(self, place: Place, repository: str, subject: Digest) -> _Page | _NoApi | UpstreamInvalid:
        """The error where nobody can tell what was answered."""
        url = place.url.below(f"/v2/{quoted(repository)}/referrers/{subject}")
        support = self._supports[place.url]
        if support.is_lacking:
            return _NoApi(url.shown, anywhere=False)
        try:
            page = await self._page(place, repository, url)
        except (_NoApi, UpstreamInvalid) as none:
            return none
        support.listed()
        return page

    async def _walk(self, place: Place, repository: str, page: _Page, found: Gathered) -> None:
        """All pages from C{page} on, or as many as give more than is taken."""
        followed: set[Url] = set()
        while True:
            found.add(page.referrers)
            if found.is_full or page.following is None:
                return
            if page.following in followed or len(followed) == MAX_PAGES - 1:
                what = f"{page.following.shown}: more than {MAX_PAGES} pages of referrers, or one of them again"
                raise UpstreamInvalid(self._upstream, what)
            followed.add(page.following)
            page = await self._further_page(place, repository, page.following)

    async def _further_page(self, place: Place, repository: str, url: Url) -> _Page:
        try:
            return await self._page(place, repository, url)
        except _NoApi as answer:
            message = f"{answer.what} answered no further page of referrers, and a part would pass for the whole"
            raise UpstreamInvalid(self._upstream, message) from None

    async def _page(self, place: Place, repository: str, url: Url) -> _Page:
        """C{artifactType} is never asked for: one unfiltered list serves every filter."""
        answer = await place.ask("GET", url, repository, _FIELDS, may_leave=False)
        if answer.status != 200:
            raise await self._refusal(answer)
        content_type = first_header(answer.response.headers, b"Content-Type") or ""
        if mediatypes.without_parameters(content_type) != mediatypes.OCI_INDEX:
            answer.discard()
            raise _NoApi(answer.what, anywhere=True)
        body = await read_whole(answer.response, MAX_PAGE_BYTES, self._exchange.watch, answer.what)
        following = next_page(answer.response.headers, answer.url, self._upstream)
        return _Page(self._listed(body, answer.what), following)

    async def _refusal(self, answer: Answer) -> Exception:
        if answer.status in REDIRECTS or answer.status < 300:
            answer.discard()
            return _NoApi(answer.what, anywhere=True)
        problem = await answer.problem()
        fault = status_fault(self._upstream, answer.what, answer.status, answer.response.headers, problem)
        if answer.status not in _NO_API:
            return fault
        # An error about a repository, a manifest or a digest is one of a registry that knows what it was asked for.
        code, _ = reported(problem)
        return _NoApi(answer.what, anywhere=code in ("", "UNSUPPORTED"))

    def _listed(self, body: bytes, what: str) -> list[Referrer]:
        try:
            return parse_referrers(body)
        except ManifestInvalid as reason:
            if _is_json(body):
                raise _NoApi(what, anywhere=True) from None
            raise UpstreamInvalid(self._upstream, f"{what}: {reason}") from None

    # -- the tag ------------------------------------------------------------------------------------------------------

    async def _by_tag(self, place: Place, repository: str, subject: Digest) -> list[Referrer]:
        """What the fallback tag lists, which is nothing where neither the tag nor its repository is there."""
        try:
            fetched = await self._tagged(place, repository, fallback_tag(subject))
        except UpstreamMissing:
            return []
        if fetched is None or mediatypes.without_parameters(fetched.content_type or "") in _NO_LIST:
            return []
        try:
            return parse_referrers(fetched.data)
        except ManifestInvalid as reason:
            if _is_other_manifest(fetched):
                return []
            what = f"{repository}:{fallback_tag(subject)} cannot be read"
            raise UpstreamInvalid(self._upstream, f"{what}: {reason}") from None

    async def _tagged(self, place: Place, repository: str, tag: str) -> FetchedManifest | None:
        """What the tag means, C{None} when that is known to be no list; HEAD first, since a GET is a pull."""
        head = await self._questions.head(place, repository, tag)
        if head.media_type in _NO_LIST:
            return None
        if head.digest is not None:
            with suppress(UpstreamMissing):
                return await self._verified(place, repository, head.digest)
        # Also here: who adds to such a list writes a new one and deletes the old, perhaps since the HEAD.
        return await self._pulled(place, repository, tag)

    async def _verified(self, place: Place, repository: str, digest: Digest) -> FetchedManifest:
        fetched = await self._pulled(place, repository, digest)
        if not digest.matches(fetched.data):
            raise UpstreamInvalid(self._upstream, f"{repository}@{digest} came with other bytes")
        return fetched

    async def _pulled(self, place: Place, repository: str, reference: str | Digest) -> FetchedManifest:
        with self._allowance.pull():
            return await self._questions.manifest(place, repository, reference)


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
