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


class _Walk:
    """One walk through the documents, breadth first: parents come before children, and no depth is too deep."""

    def __init__(
        self,
        manifests: ManifestReader,
        size_of: SizeOf,
        platforms: frozenset[str],
        counted: Callable[[int], None],
        also: frozenset[str],
        config: Read,
    ) -> None:
        self._manifests = manifests
        self._size_of = size_of
        self._counted = counted
        self._also = also
        self._config = config
        self._wanted = platforms
        self._documents: dict[Digest, Manifest | None] = {}
        self._queue: list[ImageBlob] = []
        self._held: dict[Digest, ImageBlob] = {}
        self._missing: dict[Digest, ImageBlob] = {}
        self._absent: list[Absent] = []
        self._platforms: dict[Digest, str] = {}

    async def run(self, root: ImageBlob) -> Closure:
        self._queue = [root]
        for piece in self._queue:
            if piece.digest not in self._held and piece.digest not in self._missing:
                await self._visit(piece)
        held = sorted(self._held.values(), key=lambda piece: KINDS.index(piece.kind))
        manifests = {digest: manifest for digest in self._held if (manifest := self._documents.get(digest)) is not None}
        return Closure(
            root=root.digest,
            held=tuple(held),
            missing=tuple(self._missing.values()),
            absent=tuple(self._absent),
            platforms=tuple(dict.fromkeys(await self._present(root.digest, manifests))),
            manifests=manifests,
            nothing=bool(self._absent) and not self._missing and all(piece.kind == INDEX for piece in held),
        )

    async def _visit(self, piece: ImageBlob) -> None:
        manifest = await self._document(piece.digest, piece.media_type)
        if manifest is None or self._size_of(piece.digest) != piece.size:
            self._missing[piece.digest] = piece
            return
        self._counted(1 + len(manifest.descriptors))
        await self._manifests.walked(1 + len(manifest.descriptors))
        kind = INDEX if manifest.is_index else MANIFEST
        self._held[piece.digest] = ImageBlob(piece.digest, piece.size, kind, manifest.media_type, piece.needed_by)
        await self._descend(piece.digest, manifest)
        for position, descriptor in enumerate(manifest.blobs):
            self._take_blob(piece.digest, descriptor, _kind_of_blob(manifest, position, descriptor))

    def _take_blob(self, manifest: Digest, descriptor: Descriptor, kind: str) -> None:
        digest = descriptor.parsed()
        size = self._size_of(digest)
        if size is None and descriptor.media_type in mediatypes.NONDISTRIBUTABLE:
            return
        piece = ImageBlob(digest, descriptor.size, kind, descriptor.media_type, manifest)
        where = self._held if size == descriptor.size else self._missing
        where.setdefault(digest, piece)

    async def _descend(self, index: Digest, manifest: Manifest) -> None:
        taken = await self._choose(manifest.manifests)
        for child in manifest.manifests:
            digest, platform = child.parsed(), imageconfig.named(child.platform)
            if child in taken:
                self._queue.append(
                    ImageBlob(digest, child.size, _kind_of_manifest(child.media_type), child.media_type, index)
                )
                if platform is not None:
                    self._platforms.setdefault(digest, platform)
            else:
                self._absent.append(Absent(index, digest, child.size, child.media_type, platform))

    async def _choose(self, children: Sequence[Descriptor]) -> list[Descriptor]:
        """The children that are meant to be there."""
        images = [child for child in children if not _is_attestation(child)]
        taken = [child for child in images if await self._is_meant(child)]
        if not taken and not self._wanted:
            # No client pulled any: then it is the image that is missing, not a platform of it.
            taken = images
        chosen = {child.digest for child in taken}
        for child in children:
            if _is_attestation(child) and await self._is_pulled(child) and _attested(child) in {None, *chosen}:
                taken.append(child)
        return taken

    async def _is_meant(self, child: Descriptor) -> bool:
        platform = imageconfig.named(child.platform)
        if self._wanted and platform is not None:
            return any(imageconfig.covers(wanted, platform) for wanted in self._wanted)
        if platform is not None and any(imageconfig.covers(wanted, platform) for wanted in self._also):
            return True
        return await self._is_pulled(child)

    async def _is_pulled(self, child: Descriptor) -> bool:
        """Whether a client pulled it: a request for its manifest alone is no pull, one for its first blob is."""
        manifest = await self._document(child.parsed(), child.media_type)
        if manifest is None:
            return False
        return not manifest.blobs or self._size_of(manifest.blobs[0].parsed()) is not None

    async def _document(self, digest: Digest, media_type: str) -> Manifest | None:
        if digest not in self._documents:
            if self._size_of(digest) is None:
                return None
            self._documents[digest] = await self._manifests.manifest(digest, media_type)
        return self._documents[digest]

    async def _present(self, root: Digest, manifests: dict[Digest, Manifest]) -> list[str]:
        """Platforms as the indexes name them; that of a plain image stands in its configuration."""
        named = [platform for digest, platform in self._platforms.items() if digest in manifests]
        plain = manifests.get(root)
        if plain is None or plain.is_index or not is_image(plain):
            return named
        data = await self._config(plain.blobs[0].parsed())
        config = None if data is None else imageconfig.parse_config(data)
        return [] if config is None or config.platform is None else [config.platform]


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


def _kind_of_blob(manifest: Manifest, position: int, descriptor: Descriptor) -> str:
    if position == 0 and manifest.media_type in mediatypes.IMAGES:
        return CONFIG
    return LAYER if descriptor.media_type.startswith(_LAYERS) else ARTIFACT


def _is_attestation(child: Descriptor) -> bool:
    return _REFERENCE_TYPE in (child.annotations or {})


def _attested(child: Descriptor) -> str | None:
    return (child.annotations or {}).get(_REFERENCE_DIGEST)
