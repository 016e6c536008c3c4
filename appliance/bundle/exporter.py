"""
Exporting: from a selection to a bundle that can be sent.

The same store, the same selection, the same bytes: nothing in a bundle is taken from the clock, and C{created} is when
the newest tag inside came to mean what it means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import appliance
from appliance.bundle.closure import KINDS, Absent, Closure, ImageBlob, closure
from appliance.bundle.contents import (
    AbsentPlatform,
    BlobEntry,
    BlobKind,
    Bundle,
    KnownReferrers,
    Platforms,
    Producer,
    Provenance,
    Ref,
    ReferrerEntry,
    Required,
)
from appliance.bundle.export import BlobSlice, Export, Omitted, packed
from appliance.bundle.selection import Candidate, Selection, Selector
from appliance.bundle.toolfiles import DockerImage, LayoutEntry, ToolFiles, docker_image
from appliance.errors import BundleError
from appliance.index.graph import Relations, relations_of
from appliance.index.lists import ReferrerLists
from appliance.index.manifests import HeldManifests, SizeOf
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import is_media_type
from appliance.oci.pattern import UpstreamFor
from appliance.oci.reference import full_name
from appliance.oci.referrer import subject_of
from appliance.oci.timestamps import timestamp

LastPulled = Callable[[str, str, str], float | None]
"""When a tag or digest of (upstream, repository) was last pulled, seconds since the epoch; C{None} when not known."""

_READ = 4 * 1024 * 1024
_MAX_LINE = 1024


@dataclass(frozen=True)
class Exporter:
    """
    Plans bundles of what one store holds.

    @ivar site: the stable id of this appliance.
    @ivar lists: the lists of referrers of upstreams; C{None}: there are none.
    @ivar asks: whether a blob that came through another repository is requested of that upstream first.
    """

    store: IBlobStore
    repositories: Repositories
    threads: IThreads
    site: str
    upstream_for: UpstreamFor
    last_pulled: LastPulled = lambda upstream, repository, reference: None
    lists: ReferrerLists | None = None
    asks: Callable[[str], bool] = lambda upstream: False

    async def plan(self, selection: Selection) -> Export:
        """
        Find out what is to be exported. Reads documents only, save for blobs larger than a volume, which are hashed.

        @return: a bundle with the references that are whole; what else was asked for is named in it.
        @raise BundleError: the selection makes no sense, or so small a volume does not; or what was hashed is damaged.
        """
        plan = _ExportPlan(self, selection)
        for upstream, name in await self.repositories.names():
            if plan.selector.concerns(upstream, name):
                await plan.add(await self.repositories.read(upstream, name))
        builder = plan.builder
        export = packed(builder.bundle(selection, self.site), builder.tool_files(), selection.volume_size)
        parts = [each for volume in export.slices for each in volume if each.part is not None]
        if parts:
            export = export.with_hashes(await self._hashes(parts))
        # What was asked for and means nothing held; a wanted digest as well that is not in what it belongs to.
        unanswered = dict.fromkeys(plan.selector.unanswered())
        for want in selection.want:
            if (digest := want.digest) is not None and not builder.covers(digest):
                unanswered[want.name] = None
        nothing = [Omitted(text, "nothing that is held is meant by it") for text in unanswered]
        export.left_out = (*plan.left_out, *nothing)
        export.partial = tuple(plan.partial)
        return export

    async def _hashes(self, parts: Sequence[BlobSlice]) -> dict[BlobSlice, str]:
        """The SHA-256 of each part; those of one blob follow each other. Raises L{BundleError} for a damaged blob."""
        hashes = {}
        for digest, those in groupby(parts, lambda part: part.digest):
            entire = digest.hasher()
            with closing(self.store.open(digest)) as reader:
                for part in those:
                    hasher, start, stop = hashlib.sha256(), part.start, part.start + part.size
                    while start < stop:
                        data = await reader.read(start, min(start + _READ, stop))
                        if not data:
                            raise BundleError("a blob became shorter while it was exported; export again")
                        await self.threads.call(hasher.update, data)
                        await self.threads.call(entire.update, data)
                        start += len(data)
                    hashes[part] = hasher.hexdigest()
            if entire.hexdigest() != digest.encoded:
                raise BundleError(f"{digest} is damaged on disk; run pullcache scrub, which mends it, and export again")
        return hashes


class _ExportPlan:
    """
    What one export will hold, collected repository by repository.

    @ivar selector: what is asked for, and what of it nothing was found for.
    @ivar left_out: references that were asked for and are not in it.
    @ivar partial: those that are in it as far as they go.
    """

    def __init__(self, exporter: Exporter, selection: Selection) -> None:
        self._exporter = exporter
        self._size_of: SizeOf = exporter.store.size
        self._manifests = HeldManifests(exporter.store, exporter.threads)
        self._selection = selection
        self.selector = Selector(selection, exporter.upstream_for)
        self.builder = BundleBuilder(selection.have)
        self.left_out: list[Omitted] = []
        self.partial: list[Omitted] = []

    async def add(self, repository: Repository) -> None:
        """Add what is meant of one repository."""
        looked_for = self.selector.looked_for(repository.upstream, repository.name) - repository.manifests.keys()
        relations = await relations_of(repository, self._manifests)
        self._size_of = self._exporter.store.size
        if self._exporter.asks(repository.upstream):
            self._size_of = relations.sizes_in(repository, self._size_of)
        chosen = self.selector.choose(self._candidates(repository, relations), relations.naming(looked_for))
        for candidate in sorted(chosen, key=lambda candidate: candidate.name):
            if not self.builder.holds(candidate.name):
                await self._add_candidate(repository, relations, candidate)

    def _candidates(self, repository: Repository, relations: Relations) -> Iterator[Candidate]:
        """Every tag of the repository and every manifest by its digest."""
        place = (repository.upstream, repository.name)
        for tag, digest, implied in relations.references(repository):
            # Runtimes ask for a tag with HEAD and pull what it means by digest: both are pulls of the tag.
            references = [str(digest)] if tag is None else [tag, str(digest)]
            pulls = [
                when for reference in references if (when := self._exporter.last_pulled(*place, reference)) is not None
            ]
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
        platforms = self.selector.platforms(candidate)
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
        if (lists := self._exporter.lists) is None:
            return
        added = set(queue)
        for subject in queue:
            known = await lists.get(repository.upstream, repository.name, subject)
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


# -- the document -----------------------------------------------------------------------------------------------------


class BundleBuilder:
    """
    The contents of one bundle in the making: each blob once, and what is left to the other side.

    @ivar created: seconds since the epoch: when the newest tag inside came to mean what it means.
    """

    def __init__(self, have: frozenset[Digest]) -> None:
        """@param have: blobs that the other side holds: they are required instead of carried."""
        self._have = have
        self._refs: dict[str, Ref] = {}
        self._blobs: dict[Digest, ImageBlob] = {}
        self._required: dict[Digest, tuple[ImageBlob, dict[str, None]]] = {}
        self._absent: dict[tuple[Digest, Digest], Absent] = {}
        # By repository in full, digest, and tag or nothing.
        self._referrers: dict[tuple[str, str, str], ReferrerEntry] = {}
        self._known_referrers: set[tuple[str, Digest]] = set()
        self._entries: dict[str, LayoutEntry] = {}
        self._images: dict[tuple[Digest, ...], DockerImage] = {}
        self.created = 0.0

    def holds(self, name: str) -> bool:
        """Whether the reference is in already."""
        return name in self._refs

    def covers(self, digest: Digest) -> bool:
        """Whether the other side has the blob once it has imported this."""
        return digest in self._blobs or digest in self._required or digest in self._have

    def add_reference(self, repository: Repository, candidate: Candidate, closure: Closure) -> None:
        """A reference with everything beneath it."""
        held = repository.manifests[candidate.digest]
        tag = repository.tags[candidate.tag] if candidate.tag is not None else None
        self.created = max(self.created, tag.tagged_at if tag is not None else 0.0)
        present = dict.fromkeys(map(_line, closure.platforms))
        absent = dict.fromkeys(_line(child.platform) for child in closure.absent)
        self._refs[candidate.name] = Ref(
            name=candidate.name,
            digest=str(candidate.digest),
            media_type=held.media_type,
            size=held.size,
            upstream=Provenance(
                registry=candidate.upstream,
                repository=candidate.repository,
                tag=candidate.tag,
                resolved_at=None if tag is None else timestamp(tag.tagged_at),
            ),
            platforms=Platforms(
                present=tuple(name for name in present if name),
                absent=tuple(name for name in absent if name and name not in present),
            ),
        )
        # What a tag such as sha256-<hex>.sig means is a referrer: no tool may take it for an image.
        if subject_of(candidate.tag) is None:
            self._add_entry(LayoutEntry(candidate.digest, held.size, held.media_type, candidate.name))
        self._add_blobs(closure, candidate.name)

    def add_referrer(
        self, repository: Repository, digest: Digest, subject: Digest, closure: Closure, tag: str | None = None
    ) -> None:
        """A manifest that refers to another one, with everything beneath it."""
        place = full_name(repository.upstream, repository.name, "")
        held = repository.manifests[digest]
        manifest = closure.manifests.get(digest)
        artifact_type = manifest.artifact_type if manifest is not None else None
        self._referrers[place, str(digest), tag or ""] = ReferrerEntry(
            subject=str(subject),
            digest=str(digest),
            artifact_type=_line(artifact_type),
            via="subject" if tag is None else "tag",
            repository=place,
            tag=tag,
        )
        self._add_entry(LayoutEntry(digest, held.size, held.media_type, None, subject, artifact_type))
        self._add_blobs(closure, full_name(repository.upstream, repository.name, tag or digest))

    def add_known_referrers(self, repository: Repository, subject: Digest) -> None:
        """Say that everything that refers to C{subject}, by its upstream's list, is in."""
        self._known_referrers.add((full_name(repository.upstream, repository.name, ""), subject))

    def add_image(self, image: DockerImage, name: str | None) -> None:
        """Something that docker and podman can load, under a full reference with a tag or under none."""
        image = self._images.setdefault((image.config, *image.layers), image)
        if name is not None:
            image.names.append(name)

    def _add_entry(self, entry: LayoutEntry) -> None:
        self._entries.setdefault(entry.name or str(entry.digest), entry)

    def _add_blobs(self, closure: Closure, name: str) -> None:
        """Add what C{name} is made of: what the other side does not hold, and what it has to hold."""
        for blob in closure.held:
            if blob.digest not in self._have:
                self._blobs.setdefault(blob.digest, blob)
        for blob in (*(blob for blob in closure.held if blob.digest in self._have), *closure.missing):
            self._required.setdefault(blob.digest, (blob, {}))[1][name] = None
        for absent in closure.absent:
            self._absent.setdefault((absent.index, absent.digest), absent)

    def tool_files(self) -> ToolFiles:
        """What other tools read: in C{index.json} names come first, then referrers that have none."""
        named = {entry.digest for entry in self._entries.values() if entry.name is not None}
        entries = [entry for entry in self._entries.values() if entry.name is not None or entry.digest not in named]
        entries.sort(key=lambda entry: (entry.name is None, entry.name or "", entry.digest))
        return ToolFiles.of(entries, list(self._images.values()))

    def bundle(self, selection: Selection, site: str) -> Bundle:
        """The document, with all blobs in the first volume; not sealed."""
        increment = selection.is_increment or bool(self._required)
        # In file order: what says how things hang together before what is bulky.
        blobs = sorted(self._blobs.values(), key=lambda blob: KINDS.index(blob.kind))
        # A child left out of one image may be asked for by its own digest.
        absent = [
            self._absent[key]
            for key in sorted(self._absent)
            if key[1] not in self._blobs and key[1] not in self._required
        ]
        return Bundle(
            created=timestamp(self.created),
            producer=Producer(name="pullcache", version=appliance.__version__),
            site=site,
            title=selection.title,
            labels=selection.labels,
            kind="increment" if increment else "full",
            base=selection.base,
            refs=tuple(self._refs[name] for name in sorted(self._refs)),
            blobs=tuple(
                BlobEntry(
                    digest=str(blob.digest),
                    size=blob.size,
                    kind=_kind(blob),
                    media_type=blob.media_type if is_media_type(blob.media_type) else "",
                )
                for blob in blobs
            ),
            requires=tuple(
                Required(digest=str(digest), size=blob.size, kind=_kind(blob), needed_by=tuple(sorted(names)))
                for digest, (blob, names) in sorted(self._required.items(), key=lambda each: each[0])
            ),
            absent_platforms=tuple(
                AbsentPlatform(
                    index=str(child.index), digest=str(child.digest), size=child.size, platform=_line(child.platform)
                )
                for child in absent
            ),
            referrers=tuple(self._referrers[key] for key in sorted(self._referrers)),
            referrers_heard=tuple(
                KnownReferrers(repository=place, subject=str(each)) for place, each in sorted(self._known_referrers)
            ),
        )


def _kind(blob: ImageBlob) -> BlobKind:
    return cast(BlobKind, blob.kind)


def _line(text: str | None) -> str:
    """What an image's author wrote, when it is fit to be shown: nothing else may enter the document."""
    return text if text is not None and text.isprintable() and len(text) <= _MAX_LINE else ""
