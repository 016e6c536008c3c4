"""
What is held, image by image, and what refers to an image: C{/api/v1/images}.

What refers to an image is what the cache would list without asking an upstream: what the upstream said last, and what
is held. What is known and not held can be verified as little as what is held in part only; it is shown all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cache
from heapq import merge
from itertools import islice

import msgspec
from twisted.web.server import Request

from appliance.admin.failures import Refused
from appliance.admin.route import Parameter, Reply, Route, json, number, send_pieces, value
from appliance.api import Image, ImageDetail, ImageList, MissingBlob, PlatformState, Referrer, TagMove, Verifiable
from appliance.bundle.closure import Closure, closure, is_image
from appliance.bundle.names import Names
from appliance.bundle.selection import Candidate, Pattern, parse_pattern
from appliance.cache.moves import Moves
from appliance.cache.referrers import ReferrersAnswer
from appliance.cache.usage import Usage
from appliance.errors import NotHeld
from appliance.index.graph import ManifestGraph, Relations, relations_of, tagged_about
from appliance.index.manifests import AT_ONCE, HeldManifests, Read, SizeOf
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.imageconfig import named
from appliance.oci.pattern import matches
from appliance.oci.reference import DEFAULT_TAG
from appliance.oci.referrer import fallback_tag
from appliance.oci.timestamps import timestamp

_EVERYTHING = Pattern("**", "**", None, None)
_WILD = frozenset("*?[")

BY_NAME = "name"

# By the word for it; the greatest first.
_ORDERS: dict[str, Callable[[Image], float | str]] = {
    "size": lambda image: image.size,
    "last-pulled": lambda image: image.last_pulled or "",
    "pulls": lambda image: image.pulls,
}

# Lines that are sorted in one turn, and that are sent in one piece.
_RUN, _PIECE = 1000, 100

# Manifests from which on a repository is large: what it holds is looked through on a thread, and remembered.
_LARGE = 1000


# The garbage collector need not look at a hundred thousand.
class _Line(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An image of a list that is sorted by C{key}; C{image}: as it is sent."""

    key: float | str
    name: str
    image: bytes

    def __lt__(self, other: _Line) -> bool:
        return (self.name < other.name) if self.key == other.key else (self.key > other.key)  # type: ignore[operator]


class Images:
    """Answers about what is held."""

    def __init__(
        self,
        store: IBlobStore,
        threads: IThreads,
        repositories: Repositories,
        graph: ManifestGraph,
        usage: Usage,
        moves: Moves,
        names: Names,
        known_referrers: Callable[[str, str, Digest], Awaitable[ReferrersAnswer | None]],
        is_fetching: Callable[[str, str, Digest], bool],
        asks: Callable[[str], bool],
    ) -> None:
        """
        @param known_referrers: what is known to refer to a manifest of (upstream, repository), whether the upstream is
            configured or not, without asking it; C{None} when it never listed them and nothing is held.
        @param is_fetching: whether what a manifest of (upstream, repository) lacks is on its way.
        @param asks: whether that upstream is asked for what came through another repository.
        """
        self._store = store
        self._threads = threads
        self._moves = moves
        self._repositories = repositories
        self._graph = graph
        self._usage = usage
        self._names = names
        self._known_referrers = known_referrers
        self._is_fetching = is_fetching
        self._asks = asks
        self._manifests = HeldManifests(store, threads)

    def routes(self) -> list[Route]:
        """The routes of this part."""
        pattern = Parameter("pattern", "A name or a pattern, as in ghcr.io/team/*:1.*; absent: everything.")
        count = Parameter("n", "The most images of one page; absent: all of them.")
        last = Parameter("last", "A full name: the images after it, in the order of names. The field next of a page.")
        order = Parameter("sort", f"By {BY_NAME}, if absent; or by {', '.join(_ORDERS)}, the greatest or latest first.")
        query = (pattern, count, last, order)
        return [
            Route("GET", "/api/v1/images", self.images, "The images held.", ImageList, query),
            Route(
                "GET",
                "/api/v1/images/<path:reference>",
                self.image,
                "One image: platforms, referrers, what it lacks.",
                ImageDetail,
            ),
        ]

    async def images(self, request: Request) -> Reply | None:
        """
        Tags, and what is held by digest alone; children and referrers come with what they belong to.

        With C{n} no more than so many by name, and C{next} when there are more: the C{last} of the next page.
        """
        text, last, limit = value(request, "pattern"), value(request, "last"), number(request, "n")
        order = value(request, "sort") or BY_NAME
        pattern = _EVERYTHING if text is None else parse_pattern(self._names.behind(text), self._names.upstream_for)
        if order == BY_NAME:
            if limit is None:
                lines = (msgspec.json.encode(image) async for image in self._listed(pattern, last))
                await send_pieces(request, _in_pieces(lines))
                return None
            # One more shows whether there is another page.
            found = [image async for image in self._listed(pattern, last, limit + 1)]
            if len(found) <= limit:
                return json(ImageList(found))
            return json(ImageList(found[:limit], found[limit - 1].name))
        if order not in _ORDERS:
            there = ", ".join((BY_NAME, *_ORDERS))
            raise Refused(400, "bad-request", f"sort={order[:40]}: there is no such order; there are {there}")
        if last is not None:
            raise Refused(400, "bad-request", f"last goes with the order of names, not with sort={order}")
        await send_pieces(request, _in_pieces(self._sorted(self._listed(pattern), _ORDERS[order], limit)))
        return None

    async def _listed(self, pattern: Pattern, last: str | None = None, most: int | None = None) -> AsyncIterator[Image]:
        """
        The images that C{pattern} means, by name.

        @param last: only those after it.
        @param most: so many of them, C{None} for all.
        """
        count = 0
        async for repository in self._meant(pattern, last or ""):
            relations = await self._relations(repository)
            size_of = self._size_of(repository, relations)
            if len(repository.manifests) < _LARGE:
                chosen = _chosen(repository, relations, pattern, last)
            else:
                chosen = await self._threads.call(_chosen, repository, relations, pattern, last)
            if most is not None:
                chosen = chosen[: most - count]
            count += len(chosen)
            for first in range(0, len(chosen), AT_ONCE):
                batch = chosen[first : first + AT_ONCE]
                config = await self._read_ahead(repository, batch)
                for candidate in batch:
                    whole = await self._closure(repository, candidate.digest, size_of, config)
                    yield self._image(repository, candidate, whole)
            if count == most:
                return

    async def _sorted(
        self, images: AsyncIterator[Image], key: Callable[[Image], float | str], limit: int | None
    ) -> AsyncIterator[bytes]:
        """
        The images as they are sent: that of the greatest key first, by name where keys are equal; C{limit}: so many.

        They are sorted as they come, in runs that take some milliseconds each: there may be a hundred thousand.
        """
        runs: list[list[_Line]] = [[]]
        async for image in images:
            if len(runs[-1]) == _RUN:
                runs[-1].sort()
                if limit is not None and limit <= _RUN:
                    runs = [list(islice(merge(*runs), limit))]
                runs.append([])
            runs[-1].append(_Line(key(image), image.name, msgspec.json.encode(image)))
        runs[-1].sort()
        for at, line in enumerate(islice(merge(*runs), limit), 1):
            yield line.image
            if at % _RUN == 0:
                await self._threads.call(lambda: None)

    async def image(self, request: Request, reference: str) -> Reply:
        """Without a tag or digest C{latest} is meant."""
        pattern = parse_pattern(self._names.behind(reference), self._names.upstream_for)
        if _WILD & set(reference):
            raise Refused(400, "bad-request", f"{reference[:160]} is a pattern, and means several: list them")
        async for repository in self._meant(pattern):
            candidate = _exact(repository, pattern)
            if candidate is None:
                continue
            size_of = self._size_of(repository, await self._relations(repository))
            found = await self._closure(repository, candidate.digest, size_of)
            known = await self._known_referrers(*repository.place, found.root)
            referrers = [each async for each in self._referrers(repository, found, size_of)]
            verifiable: Verifiable = "unknown" if known is None else "nothing"
            if referrers:
                verifiable = "yes" if all(each.state == "held" for each in referrers) else "incomplete"
            record = repository.tags.get(candidate.tag or "")
            refused = self._moves.refused(*repository.place, candidate.tag or "")
            return json(
                ImageDetail(
                    image=self._image(repository, candidate, found),
                    missing=[MissingBlob(str(blob.digest), blob.size, blob.kind) for blob in found.missing],
                    referrers=referrers,
                    verifiable=verifiable,
                    warning=None if known is None else known.warning,
                    tagged=None if record is None else timestamp(record.tagged_at),
                    checked=None if record is None or not record.checked_at else timestamp(record.checked_at),
                    moves=[
                        TagMove(timestamp(each.at), each.source, each.target, each.by, each.refused)
                        for each in self._moves.of(*repository.place, candidate.tag or "")
                    ],
                    upstream_digest=None if refused is None else refused.target,
                )
            )
        raise NotHeld(f"{reference[:160]} is not held")

    # -- one image --------------------------------------------------------------------------------------------------

    def _image(self, repository: Repository, candidate: Candidate, found: Closure) -> Image:
        # Runtimes ask what a tag means, and pull the manifest of their platform by its digest.
        root = found.manifests.get(found.root)
        children = [child.digest for child in root.manifests] if root is not None else []
        use = self._usage.of(*repository.place, candidate.tag or "", str(candidate.digest), *children)
        record = repository.tags.get(candidate.tag or "")
        platforms = self._platforms(repository, found)
        return Image(
            name=candidate.name,
            upstream=repository.upstream,
            repository=repository.name,
            tag=candidate.tag,
            digest=str(candidate.digest),
            media_type=repository.manifests[candidate.digest].media_type,
            size=sum(blob.size for blob in found.held),
            platforms=platforms,
            offline=not found.missing and not found.nothing,
            pulls=0 if use is None else use.pulls,
            last_pulled=None if use is None else timestamp(use.last),
            # A tag is kept by a pin of what it means, too.
            pinned=(record and record.pinned) or repository.pinned.get(candidate.digest),
            locked=record is not None and record.locked,
            fetching=any(platform.fetching for platform in platforms)
            or (bool(found.missing) and self._is_fetching(*repository.place, found.root)),
        )

    def _platforms(self, repository: Repository, found: Closure) -> list[PlatformState]:
        """The platforms of an index in its order; of a plain image the one in its configuration."""
        lacking = Counter(blob.needed_by for blob in found.missing)
        gone = {blob.digest for blob in found.missing}
        platforms = [
            (platform, child.parsed())
            for manifest in found.manifests.values()
            for child in manifest.manifests
            if (platform := named(child.platform)) is not None
        ]
        if not platforms and found.root in found.manifests:
            platforms = [(platform, found.root) for platform in found.platforms]
        states = []
        for platform, digest in platforms:
            missing = lacking[digest] + (digest in gone)
            state = "incomplete" if missing else "held" if digest in found.manifests else "absent"
            fetching = state != "held" and any(
                self._is_fetching(*repository.place, each) for each in {found.root, digest}
            )
            states.append(PlatformState(platform, str(digest), state, missing, fetching))
        return states

    async def _referrers(self, repository: Repository, image: Closure, size_of: SizeOf) -> AsyncIterator[Referrer]:
        """What refers to the image or to anything beneath it, what refers to that, and so on."""
        subjects = dict.fromkeys(image.manifests)
        queue = list(subjects)
        for subject in queue:
            async for digest, referrer in self._known_about(repository, subject):
                found = None
                if digest in repository.manifests:
                    found = await self._closure(repository, digest, size_of)
                if found is None or digest not in found.manifests:
                    yield referrer
                    continue
                yield msgspec.structs.replace(
                    referrer,
                    artifact_type=referrer.artifact_type or found.manifests[digest].artifact_type or "",
                    size=sum(blob.size for blob in found.held),
                    state="incomplete" if found.missing else "held",
                    missing=len(found.missing),
                )
                new = [each for each in found.manifests if each not in subjects]
                subjects.update(dict.fromkeys(new))
                queue += new

    async def _known_about(self, repository: Repository, subject: Digest) -> AsyncIterator[tuple[Digest, Referrer]]:
        """What is known to refer to C{subject} itself, as if none of it were held."""
        answer = await self._known_referrers(*repository.place, subject)
        for each in [] if answer is None else answer.referrers:
            kind, size = each.artifact_type or "", _size(each.raw)
            yield each.digest, Referrer(str(each.digest), each.media_type, kind, str(subject), size=size)
        for tag, digest in tagged_about(repository, subject):
            # What the fallback tag names is among them already.
            if tag != fallback_tag(subject):
                held = repository.manifests[digest]
                yield digest, Referrer(str(digest), held.media_type, "", str(subject), tag, held.size)

    # -- what is held -----------------------------------------------------------------------------------------------

    async def _meant(self, pattern: Pattern, last: str = "") -> AsyncIterator[Repository]:
        """
        The repositories that C{pattern} may mean something of, one after the other, in the order of full references.

        @param last: a full reference: those are left out that have none after it.
        """
        # A colon follows the name in most references, and an @ in those that come after them.
        for place in sorted(await self._repositories.names(), key=lambda place: f"{'/'.join(place)}:"):
            if matches(pattern.place, "/".join(place)) and f"{'/'.join(place)}@~" > last:
                # As it is now: what leaves it meanwhile is shown as it was.
                yield (await self._repositories.read(*place)).copy()

    async def _relations(self, repository: Repository) -> Relations:
        """Each manifest is read once as a rule; what is learnt of a large repository is kept, for its next page."""
        if len(repository.manifests) < _LARGE:
            return await relations_of(repository, self._manifests)
        return await self._graph.relations(repository)

    def _size_of(self, repository: Repository, relations: Relations) -> SizeOf:
        """The size of a blob that is held and may be served there."""
        size_of: SizeOf = cache(self._store.size)
        return relations.sizes_in(repository, size_of) if self._asks(repository.upstream) else size_of

    async def _read_ahead(self, repository: Repository, candidates: Sequence[Candidate]) -> Read:
        """
        Read what the lines of several images need, all at once: one by one each takes a thread's turn.

        @return: reads their configurations.
        """
        roots = {each.digest: repository.manifests[each.digest].media_type for each in candidates}
        # A full batch may mean one image by many tags: nothing to read, and work enough for one turn.
        full = len(candidates) >= AT_ONCE
        manifests = list((await self._manifests.manifests(roots, others_first=full)).values())
        children = {child.parsed(): child.media_type for manifest in manifests for child in manifest.manifests}
        if children:
            await self._manifests.manifests(children)
        # The platform of an image without an index stands in its configuration.
        configs = [manifest.blobs[0].parsed() for manifest in manifests if is_image(manifest)]
        at_hand = await self._manifests.documents(configs) if configs else {}

        async def read(digest: Digest) -> bytes | None:
            return at_hand.get(digest) or await self._manifests.document(digest)

        return read

    async def _closure(
        self, repository: Repository, digest: Digest, size_of: SizeOf, config: Read | None = None
    ) -> Closure:
        held = repository.manifests[digest]
        return await closure(self._manifests, size_of, digest, held.size, held.media_type, config=config)


async def _in_pieces(images: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """An L{ImageList} of images as they are sent."""
    piece, count = b'{"images":[', 0
    async for image in images:
        piece += b"," * (count > 0) + image
        count += 1
        if count % _PIECE == 0:
            yield piece
            piece = b""
    yield piece + b"]}"


def _chosen(repository: Repository, relations: Relations, pattern: Pattern, last: str | None) -> list[Candidate]:
    """What C{pattern} means of a repository that nobody changes, by name, and only what is after C{last}."""
    references = relations.references(repository)
    found = (Candidate(*repository.place, tag, digest, None, implied) for tag, digest, implied in references)
    meant = [(each.name, each) for each in found if pattern.pick(each) is not None]
    return [each for name, each in sorted(meant) if last is None or name > last]


def _exact(repository: Repository, pattern: Pattern) -> Candidate | None:
    """The one reference that a name means in C{repository}."""
    if pattern.digest is not None:
        digest = next((digest for digest in repository.manifests if str(digest) == pattern.digest), None)
        return None if digest is None else Candidate(*repository.place, None, digest)
    record = repository.tags.get(pattern.tag or DEFAULT_TAG)
    return None if record is None else Candidate(*repository.place, pattern.tag or DEFAULT_TAG, record.digest)


class _Sized(msgspec.Struct):
    size: int = 0


def _size(descriptor: bytes) -> int:
    """The size in bytes that a descriptor says, 0 when it says none."""
    with suppress(msgspec.MsgspecError, ValueError):
        return max(0, msgspec.json.decode(descriptor, type=_Sized).size)
    return 0
