"""
Everything that one manifest or index is made of, and what of it is not here.

A cache holds what was pulled. So a platform of an index that no client pulled is no damage: the index stays as it is
and the platform is declared absent. A blob that is missing beneath a manifest that was pulled is damage, unless it is a
layer that may not be distributed: clients get that from the servers that its descriptor's C{urls} name (image-spec,
layer.md, "Non-Distributable Layers").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.index.manifests import ManifestReader, Read, SizeOf
from appliance.oci import imageconfig, mediatypes
from appliance.oci.descriptor import Descriptor
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest

INDEX, MANIFEST, CONFIG, ARTIFACT, LAYER = KINDS = ("index", "manifest", "config", "artifact", "layer")
"""What a blob is to an image, in the order in which a bundle carries them."""

_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")

#: Annotations by which BuildKit ties an attestation to the image beside it in the index.
_REFERENCE_TYPE = "vnd.docker.reference.type"
_REFERENCE_DIGEST = "vnd.docker.reference.digest"


@dataclass(frozen=True)
class ImageBlob:
    """
    One blob of an image.

    @ivar size: bytes.
    @ivar kind: one of L{KINDS}.
    @ivar media_type: as the descriptor says that names it.
    @ivar needed_by: the manifest or index that names it, C{None} for the root.
    """

    digest: Digest
    size: int
    kind: str
    media_type: str
    needed_by: Digest | None = None


@dataclass(frozen=True)
class Absent:
    """A child of an index that is not meant to be there: not asked for, or never pulled."""

    index: Digest
    digest: Digest
    size: int
    media_type: str
    platform: str | None


@dataclass
class Closure:
    """
    What a root is made of.

    @ivar held: what is here; indexes, then manifests, then the rest, each parents first and in the order of first use.
    @ivar missing: what should be here and is not; sizes are those that were promised.
    @ivar absent: children left out.
    @ivar platforms: the platforms that are here, in the order of the index.
    @ivar manifests: the documents among C{held}, parsed.
    @ivar nothing: whether the root is an index of which no child is meant to be there: no platform asked for is in it.
    """

    root: Digest
    held: tuple[ImageBlob, ...] = ()
    missing: tuple[ImageBlob, ...] = ()
    absent: tuple[Absent, ...] = ()
    platforms: tuple[str, ...] = ()
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    nothing: bool = False


async def closure(
    manifests: ManifestReader,
    size_of: SizeOf,
    root: Digest,
    size: int,
    media_type: str,
    platforms: frozenset[str] = frozenset(),
    counted: Callable[[int], None] = lambda _: None,
    also: frozenset[str] = frozenset(),
    config: Read | None = None,
) -> Closure:
    """
    Follow everything beneath C{root}.

    @param size: bytes of the root, as the repository knows it.
    @param media_type: what the root is served as; counts when the document does not say.
    @param platforms: the platforms of an index to take (C{linux/amd64}); none: whatever was pulled. An image without
        an index is taken whatever its platform, there is nothing to choose from.
    @param counted: called for each manifest that was visited with how many blobs and manifests it names, itself
        included; what it raises ends the walk.
    @param also: platforms to take although no client pulled them, where C{platforms} names none.
    @param config: reads the configuration of an image without an index; C{None}: as C{manifests} reads documents.
    """
    walk = _Walk(manifests, size_of, platforms, counted, also, config or manifests.document)
    return await walk.run(ImageBlob(root, size, _kind_of_manifest(media_type), media_type))


@dataclass
class _Walk:
    """
    One walk through the documents, breadth first: parents come before children, and no depth is too deep.

    The first six are the arguments of L{closure}.

    @ivar documents: those that were read, C{None} for what is no manifest.
    @ivar named: the platform of each child taken, as its index names it.
    """

    reader: ManifestReader
    size_of: SizeOf
    wanted: frozenset[str]
    counted: Callable[[int], None]
    also: frozenset[str]
    config: Read
    documents: dict[Digest, Manifest | None] = field(default_factory=dict)
    queue: list[ImageBlob] = field(default_factory=list)
    held: dict[Digest, ImageBlob] = field(default_factory=dict)
    missing: dict[Digest, ImageBlob] = field(default_factory=dict)
    absent: list[Absent] = field(default_factory=list)
    named: dict[Digest, str] = field(default_factory=dict)

    async def run(self, root: ImageBlob) -> Closure:
        self.queue = [root]
        for blob in self.queue:
            if blob.digest not in self.held and blob.digest not in self.missing:
                await self._visit(blob)
        held = sorted(self.held.values(), key=lambda blob: KINDS.index(blob.kind))
        manifests = {digest: manifest for digest in self.held if (manifest := self.documents.get(digest)) is not None}
        platforms = [platform for digest, platform in self.named.items() if digest in manifests]
        plain = manifests.get(root.digest)
        if plain is not None and not plain.is_index and is_image(plain):
            # That of an image without an index stands in its configuration.
            data = await self.config(plain.blobs[0].parsed())
            config = None if data is None else imageconfig.parse_config(data)
            platforms = [] if config is None or config.platform is None else [config.platform]
        return Closure(
            root=root.digest,
            held=tuple(held),
            missing=tuple(self.missing.values()),
            absent=tuple(self.absent),
            platforms=tuple(dict.fromkeys(platforms)),
            manifests=manifests,
            nothing=bool(self.absent) and not self.missing and all(blob.kind == INDEX for blob in held),
        )

    async def _visit(self, blob: ImageBlob) -> None:
        manifest = await self._document(blob.digest, blob.media_type)
        if manifest is None or self.size_of(blob.digest) != blob.size:
            self.missing[blob.digest] = blob
            return
        self.counted(1 + len(manifest.descriptors))
        await self.reader.walked(1 + len(manifest.descriptors))
        kind = INDEX if manifest.is_index else MANIFEST
        self.held[blob.digest] = ImageBlob(blob.digest, blob.size, kind, manifest.media_type, blob.needed_by)
        await self._descend(blob.digest, manifest.manifests)
        for position, named in enumerate(manifest.blobs):
            digest, size = named.parsed(), self.size_of(named.parsed())
            if size is None and named.media_type in mediatypes.NONDISTRIBUTABLE:
                continue
            kind = LAYER if named.media_type.startswith(_LAYERS) else ARTIFACT
            if position == 0 and manifest.media_type in mediatypes.IMAGES:
                kind = CONFIG
            where = self.held if size == named.size else self.missing
            where.setdefault(digest, ImageBlob(digest, named.size, kind, named.media_type, blob.digest))

    async def _descend(self, index: Digest, children: Sequence[Descriptor]) -> None:
        """Go on with the children that are meant to be there, and note the others as absent."""
        attested = {
            position: (child.annotations or {}).get(_REFERENCE_DIGEST)
            for position, child in enumerate(children)
            if _REFERENCE_TYPE in (child.annotations or {})
        }
        images = [position for position in range(len(children)) if position not in attested]
        taken = {position for position in images if await self._is_meant(children[position])}
        if not taken and not self.wanted:
            # No client pulled any: then it is the image that is missing, not a platform of it.
            taken = set(images)
        chosen = {None, *(children[position].digest for position in taken)}
        for position, subject in attested.items():
            if await self._is_pulled(children[position]) and subject in chosen:
                taken.add(position)
        for position, child in enumerate(children):
            digest, platform = child.parsed(), imageconfig.named(child.platform)
            if position not in taken:
                self.absent.append(Absent(index, digest, child.size, child.media_type, platform))
                continue
            kind = _kind_of_manifest(child.media_type)
            self.queue.append(ImageBlob(digest, child.size, kind, child.media_type, index))
            if platform is not None:
                self.named.setdefault(digest, platform)

    async def _is_meant(self, child: Descriptor) -> bool:
        platform = imageconfig.named(child.platform)
        if self.wanted and platform is not None:
            return any(imageconfig.covers(wanted, platform) for wanted in self.wanted)
        if platform is not None and any(imageconfig.covers(wanted, platform) for wanted in self.also):
            return True
        return await self._is_pulled(child)

    async def _is_pulled(self, child: Descriptor) -> bool:
        """Whether a client pulled it: a request for its manifest alone is no pull, one for its first blob is."""
        manifest = await self._document(child.parsed(), child.media_type)
        if manifest is None:
            return False
        return not manifest.blobs or self.size_of(manifest.blobs[0].parsed()) is not None

    async def _document(self, digest: Digest, media_type: str) -> Manifest | None:
        if digest not in self.documents:
            if self.size_of(digest) is None:
                return None
            self.documents[digest] = await self.reader.manifest(digest, media_type)
        return self.documents[digest]


def is_image(manifest: Manifest) -> bool:
    """Whether the manifest is of an image that can be run, by the media types it names."""
    return (
        manifest.media_type in mediatypes.IMAGES
        and bool(manifest.blobs)
        and manifest.blobs[0].media_type in imageconfig.TYPES
        and all(layer.media_type.startswith(_LAYERS) for layer in manifest.blobs[1:])
    )


def _kind_of_manifest(media_type: str) -> str:
    return INDEX if media_type in mediatypes.INDEXES else MANIFEST
