"""
Exporting: from a selection to a bundle that can be sent.

The same store, the same selection, the same bytes: nothing in a bundle is taken from the clock, and C{created} is when
the newest tag inside came to mean what it means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from appliance.bundle.builder import BundleBuilder
from appliance.bundle.closure import Closure, closure
from appliance.bundle.export import BlobSlice, Export, Omitted, packed
from appliance.bundle.names import UpstreamFor
from appliance.bundle.selection import Candidate, Selection, Selector
from appliance.bundle.toolfiles import ToolFiles, docker_image
from appliance.errors import BundleError
from appliance.index.graph import Relations, relations_of
from appliance.index.lists import ReferrerLists
from appliance.index.manifests import HeldManifests, SizeOf
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.referrer import subject_of

LastPulled = Callable[[str, str, str], float | None]
"""When a tag or digest of (upstream, repository) was last pulled, seconds since the epoch; C{None} when not known."""

_READ = 4 * 1024 * 1024


def never(upstream: str, repository: str, reference: str) -> float | None:
    """No pull is known of anything."""
    return None


class Exporter:
    """Plans bundles of what one store holds."""

    def __init__(
        self,
        store: IBlobStore,
        repositories: Repositories,
        threads: IThreads,
        site: str,
        upstream_for: UpstreamFor,
        last_pulled: LastPulled = never,
        lists: ReferrerLists | None = None,
        asks: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """
        @param site: the stable id of this appliance.
        @param lists: the lists of referrers of upstreams; C{None}: there are none.
        @param asks: whether a blob that came through another repository is requested of that upstream first.
        """
        self._asks = asks
        self._lists = lists
        self._store = store
        self._repositories = repositories
        self._threads = threads
        self._site = site
        self._upstream_for = upstream_for
        self._last_pulled = last_pulled

    async def plan(self, selection: Selection) -> Export:
        """
        Find out what is to be exported. Reads documents only, save for blobs larger than a volume, which are hashed.

        @return: a bundle with the references that are whole; what else was asked for is named in it.
        @raise BundleError: the selection makes no sense, or so small a volume does not.
        """
        selector = Selector(selection, self._upstream_for)
        plan = _ExportPlan(self._store, self._threads, selector, selection, self._last_pulled, self._lists, self._asks)
        for upstream, name in await self._repositories.names():
            if selector.concerns(upstream, name):
                await plan.add(await self._repositories.read(upstream, name))
        builder = plan.builder
        tool_files = ToolFiles.of(builder.entries, builder.images)
        export = packed(builder.bundle(selection, self._site), tool_files, selection.volume_size)
        parts = [each for volume in export.slices for each in volume if each.part is not None]
        if parts:
            export = export.with_hashes({part: await self._hash(part) for part in parts})
        # What was asked for and means nothing held; a wanted digest as well that is not in what it belongs to.
        unanswered = dict.fromkeys(selector.unanswered())
        for want in selection.want:
            if (digest := want.digest) is not None and not builder.covers(digest):
                unanswered[want.name] = None
        nothing = [Omitted(text, "nothing that is held is meant by it") for text in unanswered]
        export.left_out = (*plan.left_out, *nothing)
        export.partial = tuple(plan.partial)
        return export

    async def _hash(self, part: BlobSlice) -> str:
        hasher, start, stop = hashlib.sha256(), part.start, part.start + part.size
        reader = self._store.open(part.digest)
        try:
            while start < stop:
                data = await reader.read(start, min(start + _READ, stop))
                if not data:
                    raise BundleError("a blob became shorter while it was exported; export again")
                await self._threads.call(hasher.update, data)
                start += len(data)
        finally:
            reader.close()
        return hasher.hexdigest()


class _ExportPlan:
    """
    What one export will hold, collected repository by repository.

    @ivar left_out: references that were asked for and are not in it.
    @ivar partial: those that are in it as far as they go.
    """

    def __init__(
        self,
        store: IBlobStore,
        threads: IThreads,
        selector: Selector,
        selection: Selection,
        last_pulled: LastPulled,
        lists: ReferrerLists | None,
        asks: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._asks = asks
        self._size_of: SizeOf = store.size
        self._lists = lists
        self._manifests = HeldManifests(store, threads)
        self._selector = selector
        self._selection = selection
        self._last_pulled = last_pulled
        self.builder = BundleBuilder(selection.have)
        self.left_out: list[Omitted] = []
        self.partial: list[Omitted] = []

    async def add(self, repository: Repository) -> None:
        """Add what is meant of one repository."""
        looked_for = self._selector.looked_for(repository.upstream, repository.name) - repository.manifests.keys()
        relations = await relations_of(repository, self._manifests)
        self._size_of = self._store.size
        if self._asks(repository.upstream):
            self._size_of = relations.sizes_in(repository, self._store.size)
        chosen = self._selector.choose(self._candidates(repository, relations), relations.naming(looked_for))
        for candidate in sorted(chosen, key=lambda candidate: candidate.name):
            if not self.builder.holds(candidate.name):
                await self._add_candidate(repository, relations, candidate)

    def _candidates(self, repository: Repository, relations: Relations) -> Iterator[Candidate]:
        """Every tag of the repository and every manifest by its digest."""
        place = (repository.upstream, repository.name)
        for tag, digest, implied in relations.references(repository):
            # Runtimes ask for a tag with HEAD and pull what it means by digest: both are pulls of the tag.
            references = [str(digest)] if tag is None else [tag, str(digest)]
            pulls = [when for reference in references if (when := self._last_pulled(*place, reference)) is not None]
            yield Candidate(*place, tag, digest, max(pulls, default=None), implied)

    async def _add_candidate(self, repository: Repository, relations: Relations, candidate: Candidate) -> None:
        """Add one reference, with what refers to it."""
        found = await self._with_wanted_platforms(repository, candidate)
        if found is None:
            found = await self._closure(repository, candidate.digest, self._selection.platforms)
        if not self._is_fit(candidate.name, found):
            return
        self.builder.add_reference(repository, candidate, found)
        if (subject := subject_of(candidate.tag)) is not None:
            self.builder.add_referrer(repository, candidate.digest, subject, found, candidate.tag)
        elif (image := await docker_image(self._manifests.document, found, self._selection.platforms)) is not None:
            self.builder.add_image(image, None if candidate.tag is None else candidate.name)
        if self._selection.referrers:
            await self._add_referrers(repository, relations, found)

    async def _with_wanted_platforms(self, repository: Repository, candidate: Candidate) -> Closure | None:
        """
        The image with the platforms that the other side wants of it; C{None} when it wants none, or one of them is not
        held: that is noted, and the others are taken all the same.
        """
        platforms = self._selector.platforms(candidate)
        if self._selection.platforms or not platforms:
            return None
        found = await self._closure(repository, candidate.digest, frozenset(), platforms)
        plain = await self._closure(repository, candidate.digest, frozenset())
        missing = tuple(
            blob for blob in found.missing if blob not in plain.missing and blob.digest not in self._selection.have
        )
        if not missing:
            return found
        why = f"{', '.join(sorted(platforms))}, which the other side wants, is not wholly held"
        _note(self.left_out, Omitted(candidate.name, why, missing))
        return None

    async def _add_referrers(self, repository: Repository, relations: Relations, found: Closure) -> None:
        """Add what refers to anything in the closure, what refers to that, and so on; by subject and by tag."""
        queue = list(found.manifests)
        for subject in queue:
            for digest, tag in relations.about(repository, subject):
                queue += await self._add_referrer(repository, digest, subject, tag, queue)
        if self._lists is None:
            return
        added = set(queue)
        for subject in queue:
            known = await self._lists.get(repository.upstream, repository.name, subject)
            if known is not None and not known.cut and added.issuperset(each.digest for each in known.referrers):
                self.builder.add_known_referrers(repository, subject)

    async def _add_referrer(
        self, repository: Repository, digest: Digest, subject: Digest, tag: str | None, seen: list[Digest]
    ) -> list[Digest]:
        """Add one referrer; the manifests beneath it that were not seen yet, for they may be referred to as well."""
        candidate = Candidate(repository.upstream, repository.name, tag, digest)
        found = await self._closure(repository, digest, frozenset())
        if not self._is_fit(candidate.name, found, f"refers to {subject}; "):
            return []
        if tag is not None and not self.builder.holds(candidate.name):
            self.builder.add_reference(repository, candidate, found)
        self.builder.add_referrer(repository, digest, subject, found, tag)
        return [manifest for manifest in found.manifests if manifest not in seen]

    def _is_fit(self, name: str, found: Closure, what: str = "") -> bool:
        """Whether it is to be in the bundle; what is not whole is noted, once."""
        if found.nothing:
            _note(self.left_out, Omitted(name, f"{what}none of the platforms asked for is in it"))
            return False
        missing = tuple(blob for blob in found.missing if blob.digest not in self._selection.have)
        if not missing:
            return True
        omitted = Omitted(name, f"{what}{len(missing)} of its blobs are not held, or damaged", missing)
        fit = self._selection.partial and found.root in found.manifests
        _note(self.partial if fit else self.left_out, omitted)
        return fit

    async def _closure(
        self, repository: Repository, digest: Digest, platforms: frozenset[str], also: frozenset[str] = frozenset()
    ) -> Closure:
        held = repository.manifests[digest]
        return await closure(self._manifests, self._size_of, digest, held.size, held.media_type, platforms, also=also)


def _note(where: list[Omitted], omitted: Omitted) -> None:
    if all(noted.ref != omitted.ref for noted in where):
        where.append(omitted)
