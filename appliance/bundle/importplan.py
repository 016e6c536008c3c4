"""
What importing an archive means for this store: what is held, new or missing, and whether every image is whole.

Only manifests and indexes are read for that, so it costs little; nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from appliance.bundle.archive import Archive, whole
from appliance.bundle.archivecontents import ArchiveContents, BlobSource, NamedManifest, in_words
from appliance.bundle.bundlearchive import missing_volumes, volumes_of
from appliance.bundle.closure import Closure, ImageBlob, closure
from appliance.bundle.contents import MAX_MANIFEST_VALUES, MAX_REFS, Bundle, check_values
from appliance.bundle.journal import HeldManifest, Published
from appliance.errors import (
    BlobDamaged,
    BundleDamaged,
    BundleIncomplete,
    BundleNotRead,
    ManifestInvalid,
    NotHeld,
)
from appliance.index.manifests import ManifestReader
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, claimed_type, parse_manifest

#: The most blobs and manifests that one image names, each as often as it is named, and that all images of an import do:
#: a hundred for each name that a bundle may have. Indexes that share their children are walked for each of them.
MAX_BENEATH = 250_000
MAX_PIECES = 100 * MAX_REFS
#: The most bytes of manifests of one image that are in memory at the same time.
MAX_DOCUMENTS = 32 * 1024 * 1024
#: Descriptors in the manifests that are remembered, for images that share some: each takes some 500 bytes.
MAX_REMEMBERED = 100_000
_SHOWN = 5


@dataclass
class ImportPlan:
    """
    @ivar content: every root with the manifests beneath it.
    @ivar needed: sizes of all blobs beneath the roots.
    @ivar new: those of them that are not held.
    @ivar absent: children of indexes that are left out, C{index child platform}, each once.
    @ivar incomplete: why it cannot be published, C{None} when it can.
    """

    content: list[Published] = field(default_factory=list)
    needed: dict[Digest, int] = field(default_factory=dict)
    new: list[BlobSource] = field(default_factory=list)
    absent: dict[str, None] = field(default_factory=dict)
    incomplete: BundleIncomplete | None = None

    @property
    def new_bytes(self) -> int:
        """Bytes of all blobs that are not held."""
        return sum(blob.size for blob in self.new)


async def plan_import(
    contents: ArchiveContents,
    archives: Sequence[Archive],
    store: IBlobStore,
    threads: IThreads,
    assumed: Mapping[Digest, int] = MappingProxyType({}),
) -> ImportPlan:
    """
    Look at everything beneath the roots.

    @param assumed: sizes of blobs that count as held although nobody can read them here: what an increment builds on,
        where it is verified without a store.
    @raise BundleDamaged: a document is not what it should be.
    """
    planner = _Planner(contents, store, threads, assumed)
    found = ImportPlan()
    if contents.bundle is not None:
        found.incomplete = await threads.call(_listed_and_missing, contents, contents.bundle, archives, store, assumed)
    if found.incomplete is None:
        await planner.visit_all(found)
    else:
        found.new = [blob for blob in contents.blobs.values() if store.size(blob.digest) is None]
    return found


@dataclass(frozen=True)
class _Visited:
    """What is known of a root: its type (C{None}: not here), what is published with it, and whether it is whole."""

    media_type: str | None
    manifests: tuple[HeldManifest, ...]
    is_whole: bool


class _Planner:
    def __init__(
        self, contents: ArchiveContents, store: IBlobStore, threads: IThreads, assumed: Mapping[Digest, int]
    ) -> None:
        self._contents = contents
        self._store = store
        self._threads = threads
        self._assumed = assumed
        self._manifests = ManifestReader(self._read, threads, MAX_REMEMBERED)
        # How many blobs and manifests were named so far, by all roots and by the one that is looked at.
        self._pieces = 0
        self._beneath = 0
        # Bytes of manifests that were read for that one.
        self._document_bytes = 0

    async def visit_all(self, found: ImportPlan) -> None:
        """Fill in everything for all roots."""
        missing: dict[Digest, ImageBlob] = {}
        blocked: list[str] = []
        known: dict[Digest, _Visited] = {}
        for root in self._contents.roots:
            if root.digest not in known:
                known[root.digest] = await self._visit(root, found, missing)
            self._check_type(root, known[root.digest])
            if known[root.digest].is_whole:
                found.content.append(Published(root, known[root.digest].manifests))
            else:
                blocked.append(root.name)
        if missing:
            found.incomplete = self._lack(missing, blocked)
        found.new = [
            self._contents.blobs[digest]
            for digest in found.needed
            if self._store.size(digest) is None and digest not in self._assumed
        ]

    def _check_type(self, root: NamedManifest, visited: _Visited) -> None:
        """What names a root and the root itself agree on what it is, as Content-Type and document do in a pull."""
        claimed = claimed_type(root.media_type)
        if visited.media_type is not None and claimed not in (None, visited.media_type.lower()):
            raise BundleDamaged(
                f"{self._contents.source}: {root.name} is named as {root.media_type} and says that it is"
                f" {visited.media_type}; have the archive made again"
            )

    async def _visit(self, root: NamedManifest, found: ImportPlan, missing: dict[Digest, ImageBlob]) -> _Visited:
        """Look at everything beneath one root, and note it; only what is published of it stays in memory."""
        self._beneath = self._document_bytes = 0
        whole = await closure(
            self._manifests,
            self._size,
            root.digest,
            root.size,
            root.media_type,
            counted=lambda pieces: self._count(root, pieces),
        )
        lacking = await self._lacking(root.digest, whole)
        missing.update((piece.digest, piece) for piece in lacking)
        if not lacking:
            found.needed.update((piece.digest, piece.size) for piece in whole.held)
            said = [f"{absent.index} {absent.digest} {absent.platform or ''}".strip() for absent in whole.absent]
            found.absent.update(dict.fromkeys(said))
        manifest = whole.manifests.get(root.digest)
        return _Visited(None if manifest is None else manifest.media_type, tuple(_held_manifests(whole)), not lacking)

    def _count(self, root: NamedManifest, pieces: int) -> None:
        self._beneath += pieces
        self._pieces += pieces
        if self._beneath > MAX_BENEATH or self._pieces > MAX_PIECES:
            raise BundleDamaged(
                f"{self._contents.source}: beneath {root.name} {self._beneath} blobs and manifests are named, and"
                f" {self._pieces} together with the names before it, which nothing honest needs; have it exported in"
                " several archives"
            )

    async def _read(self, digest: Digest) -> bytes | None:
        """A small blob from the store, else from the archive. Raises L{BundleDamaged} when it has another digest."""
        if self._store.size(digest) is not None:
            try:
                return await self._store.read(digest, MAX_MANIFEST_BYTES)
            except (NotHeld, BlobDamaged):
                return None
        blob = self._contents.blobs.get(digest)
        if blob is None or blob.size > MAX_MANIFEST_BYTES:
            return None
        data = blob.data if blob.data is not None else await self._threads.call(_gathered, blob)
        if not digest.matches(data):
            raise BundleDamaged(f"{blob}: its bytes do not have the digest {digest}; copy the archive again")
        self._document_bytes += len(data)
        if self._document_bytes > MAX_DOCUMENTS:
            raise BundleDamaged(f"{blob}: with it an image has more than {MAX_DOCUMENTS} bytes of manifests")
        try:
            check_values(data, MAX_MANIFEST_VALUES)
        except ValueError as error:
            raise BundleDamaged(f"{blob}: {error}; have the archive made again") from None
        return data

    def _size(self, digest: Digest) -> int | None:
        held = self._store.size(digest)
        if held is not None:
            return held
        blob = self._contents.blobs.get(digest)
        return self._assumed.get(digest) if blob is None else blob.size

    async def _lacking(self, root: Digest, found: Closure) -> list[ImageBlob]:
        """What is missing that should not be. Raises L{BundleDamaged} for what is there and is wrong."""
        lacking = [piece for piece in found.missing if self._is_expected(root, piece)]
        for piece in lacking:
            await self._check(piece)
        if self._contents.absent is not None:
            lacking += [
                ImageBlob(absent.digest, absent.size, "manifest", absent.media_type, absent.index)
                for absent in found.absent
                if absent.digest not in self._contents.absent and absent.digest not in self._assumed
            ]
        return lacking

    def _is_expected(self, root: Digest, piece: ImageBlob) -> bool:
        """Whether the piece is to come with this archive, or be held."""
        if piece.digest in self._assumed:
            return False
        # Of a platform that is left out, somebody may have pulled a part here: that is no part of the archive.
        by = piece.needed_by
        if self._contents.absent is not None:
            return by not in self._contents.absent
        return by is None or by == root or by in self._contents.blobs

    async def _check(self, piece: ImageBlob) -> None:
        size = self._size(piece.digest)
        if size is None:
            return
        where = self._contents.blobs.get(piece.digest) or f"{self._contents.source}, {piece.digest} in the store"
        if size != piece.size:
            by = "index.json" if piece.needed_by is None else piece.needed_by
            raise BundleDamaged(f"{where}: {size} bytes where {by} says {piece.size}; have the archive made again")
        data = await self._read(piece.digest)
        try:
            parse_manifest(data or b"", None, piece.media_type)
        except ManifestInvalid as error:
            raise BundleDamaged(f"{where}: {error}; have the archive made again") from None

    def _lack(self, missing: dict[Digest, ImageBlob], blocked: list[str]) -> BundleIncomplete:
        size = in_words(sum(piece.size for piece in missing.values()))
        first = next(iter(missing.values()))
        return BundleIncomplete(
            f"{self._contents.source}: {len(missing)} blobs ({size}) are neither in it nor held here, the {first.kind}"
            f" {first.digest} first; that blocks {_shortened(blocked)}; export the whole image, or import first what it"
            " builds on",
            tuple(map(str, missing)),
        )


def _listed_and_missing(
    contents: ArchiveContents,
    bundle: Bundle,
    archives: Sequence[Archive],
    store: IBlobStore,
    assumed: Mapping[Digest, int],
) -> BundleIncomplete | None:
    """What a bundle's list says is inside, or must be held, and is not."""
    reasons: list[str] = []
    inside = {
        blob.digest: blob
        for blob in bundle.blobs
        if Digest.parse(blob.digest) not in contents.blobs and store.size(Digest.parse(blob.digest)) != blob.size
    }
    absent = missing_volumes(bundle, archives)
    concerned = {number for blob in inside.values() for number in volumes_of(blob)} & absent
    for volume in bundle.volumes:
        if volume.n in concerned:
            reasons.append(
                f"volume {volume.n} of {bundle.volume_count} ({in_words(volume.size)}) is missing; name it together"
                " with the others"
            )
    cut = [blob for blob in inside.values() if not volumes_of(blob) & absent]
    if cut:
        reasons.append(f"{len(cut)} blobs that should be inside are not, {cut[0].digest} first; copy the file again")
    required = [
        each
        for each in bundle.requires
        if store.size(digest := Digest.parse(each.digest)) != each.size and digest not in assumed
    ]
    if required:
        names = sorted({name for each in required for name in each.needed_by})
        reasons.append(
            f"it builds on {len(required)} blobs ({in_words(sum(each.size for each in required))}) that are not held"
            f" here, {required[0].digest} first, for {_shortened(names)}; import the bundle that has them first, or"
            " export anew with --have and this appliance's inventory"
        )
    if not reasons:
        return None
    missing = (*inside, *(each.digest for each in required))
    return BundleIncomplete(f"{contents.source}: {'; '.join(reasons)}", missing)


def _held_manifests(found: Closure) -> list[HeldManifest]:
    sizes = {piece.digest: piece.size for piece in found.held}
    return [
        HeldManifest(str(digest), manifest.media_type, sizes[digest]) for digest, manifest in found.manifests.items()
    ]


def _gathered(blob: BlobSource) -> bytes:
    try:
        return b"".join(whole(file.archive, file.item, MAX_MANIFEST_BYTES) for file in blob.files)
    except OSError as error:
        raise BundleNotRead(f"{blob}: cannot be read: {error.strerror}; copy the archive again") from None


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
