"""What a bundle will hold, gathered reference by reference: each blob once, and what is left to the other side."""

from __future__ import annotations

from collections.abc import Iterable
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
from appliance.bundle.toolfiles import DockerImage, IndexEntry
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import is_media_type
from appliance.oci.referrer import subject_of
from appliance.oci.timestamps import timestamp

_MAX_LINE = 1024

Relation = tuple[str, str, str]
"""Repository in full, digest of the referrer, and its tag or nothing: what tells entries of C{referrers} apart."""


class BundleBuilder:
    """
    The contents of one bundle in the making.

    @ivar created: seconds since the epoch: when the newest tag inside came to mean what it means.
    """

    def __init__(self, have: frozenset[Digest]) -> None:
        self._have = have
        self._refs: dict[str, Ref] = {}
        self._blobs: dict[Digest, ImageBlob] = {}
        self._required: dict[Digest, tuple[ImageBlob, list[str]]] = {}
        self._absent: dict[tuple[Digest, Digest], Absent] = {}
        self._referrers: dict[Relation, ReferrerEntry] = {}
        self._heard: set[tuple[str, Digest]] = set()
        self._roots: dict[str, IndexEntry] = {}
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
            platforms=_platforms(closure),
        )
        # What a tag such as sha256-<hex>.sig means is a referrer: no tool may take it for an image.
        if subject_of(candidate.tag) is None:
            self._add_root(IndexEntry(candidate.digest, held.size, held.media_type, candidate.name))
        self._take(closure, candidate.name)

    def add_referrer(
        self, repository: Repository, digest: Digest, subject: Digest, closure: Closure, tag: str | None = None
    ) -> None:
        """A manifest that refers to another one, with everything beneath it."""
        place = f"{repository.upstream}/{repository.name}"
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
        self._add_root(IndexEntry(digest, held.size, held.media_type, None, subject, artifact_type))
        self._take(closure, f"{place}@{digest}" if tag is None else f"{place}:{tag}")

    def add_heard(self, repository: Repository, subject: Digest) -> None:
        """Everything that its upstream says refers to C{subject} is in."""
        self._heard.add((f"{repository.upstream}/{repository.name}", subject))

    def add_image(self, image: DockerImage, name: str | None) -> None:
        """Something that docker and podman can load, under a full reference with a tag or under none."""
        image = self._images.setdefault((image.config, *image.layers), image)
        if name is not None:
            image.names.append(name)

    # -- what came of it --------------------------------------------------------------------------------------------

    @property
    def blobs(self) -> list[ImageBlob]:
        """Everything inside, in file order: what says how things hang together before what is bulky."""
        return sorted(self._blobs.values(), key=lambda piece: KINDS.index(piece.kind))

    @property
    def entries(self) -> list[IndexEntry]:
        """The entries of C{index.json}: names first, then referrers that have none."""
        named = {root.digest for root in self._roots.values() if root.name is not None}
        roots = [root for root in self._roots.values() if root.name is not None or root.digest not in named]
        return sorted(roots, key=lambda root: (root.name is None, root.name or "", root.digest))

    @property
    def images(self) -> list[DockerImage]:
        """The entries of C{manifest.json}."""
        return list(self._images.values())

    def bundle(self, selection: Selection, site: str) -> Bundle:
        """The document, with all blobs in the first volume; not sealed."""
        increment = selection.is_increment or bool(self._required)
        return Bundle(
            created=timestamp(self.created),
            producer=Producer(name="pullcache", version=appliance.__version__),
            site=site,
            title=selection.title,
            labels=selection.labels,
            kind="increment" if increment else "full",
            base=selection.base,
            refs=tuple(self._refs[name] for name in sorted(self._refs)),
            blobs=tuple(_entry(piece) for piece in self.blobs),
            requires=tuple(_required(*self._required[digest]) for digest in sorted(self._required)),
            absent_platforms=tuple(_absent(self._absent[key]) for key in sorted(self._absent) if self._is_absent(key)),
            referrers=tuple(self._referrers[key] for key in sorted(self._referrers)),
            referrers_heard=tuple(
                KnownReferrers(repository=place, subject=str(each)) for place, each in sorted(self._heard)
            ),
        )

    def _take(self, closure: Closure, name: str) -> None:
        for piece in closure.held:
            if piece.digest in self._have:
                self._require(piece, name)
            else:
                self._blobs.setdefault(piece.digest, piece)
        for piece in closure.missing:
            self._require(piece, name)
        for absent in closure.absent:
            self._absent.setdefault((absent.index, absent.digest), absent)

    def _require(self, piece: ImageBlob, name: str) -> None:
        _, needed_by = self._required.setdefault(piece.digest, (piece, []))
        if name not in needed_by:
            needed_by.append(name)

    def _add_root(self, root: IndexEntry) -> None:
        self._roots.setdefault(root.name or str(root.digest), root)

    def _is_absent(self, key: tuple[Digest, Digest]) -> bool:
        """A child left out of one image may be asked for by its own digest."""
        return key[1] not in self._blobs and key[1] not in self._required


def _entry(piece: ImageBlob) -> BlobEntry:
    media_type = piece.media_type if is_media_type(piece.media_type) else ""
    return BlobEntry(digest=str(piece.digest), size=piece.size, kind=_kind(piece), media_type=media_type)


def _required(piece: ImageBlob, needed_by: Iterable[str]) -> Required:
    names = tuple(sorted(needed_by))
    return Required(digest=str(piece.digest), size=piece.size, kind=_kind(piece), needed_by=names)


def _absent(absent: Absent) -> AbsentPlatform:
    return AbsentPlatform(
        index=str(absent.index), digest=str(absent.digest), size=absent.size, platform=_line(absent.platform)
    )


def _platforms(closure: Closure) -> Platforms:
    absent = dict.fromkeys(_line(child.platform) for child in closure.absent)
    present = dict.fromkeys(map(_line, closure.platforms))
    return Platforms(
        present=tuple(name for name in present if name),
        absent=tuple(name for name in absent if name and name not in present),
    )


def _kind(piece: ImageBlob) -> BlobKind:
    return cast(Literal["index", "manifest", "config", "layer", "artifact"], piece.kind)


def _line(text: str | None) -> str:
    """What an image's author wrote, when it is fit to be shown: nothing else may enter the document."""
    return text if text is not None and text.isprintable() and len(text) <= _MAX_LINE else ""
