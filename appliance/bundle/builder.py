"""What a bundle will hold, collected reference by reference."""

from __future__ import annotations

from typing import Literal, cast

import appliance
from appliance.bundle.closure import KINDS, Absent, Closure, ImageBlob
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
from appliance.bundle.selection import Candidate, Selection
from appliance.bundle.toolfiles import DockerImage, LayoutEntry
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import is_media_type
from appliance.oci.reference import full_name
from appliance.oci.referrer import subject_of
from appliance.oci.timestamps import timestamp

_MAX_LINE = 1024

Relation = tuple[str, str, str]
"""Repository in full, digest of the referrer, and its tag or nothing: the key of an entry of C{referrers}."""


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
        self._referrers: dict[Relation, ReferrerEntry] = {}
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

    # -- the result -------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[LayoutEntry]:
        """The entries of C{index.json}: names first, then referrers that have none."""
        named = {entry.digest for entry in self._entries.values() if entry.name is not None}
        entries = [entry for entry in self._entries.values() if entry.name is not None or entry.digest not in named]
        return sorted(entries, key=lambda entry: (entry.name is None, entry.name or "", entry.digest))

    @property
    def images(self) -> list[DockerImage]:
        """The entries of C{manifest.json}."""
        return list(self._images.values())

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
    return cast(Literal["index", "manifest", "config", "layer", "artifact"], blob.kind)


def _line(text: str | None) -> str:
    """What an image's author wrote, when it is fit to be shown: nothing else may enter the document."""
    return text if text is not None and text.isprintable() and len(text) <= _MAX_LINE else ""
