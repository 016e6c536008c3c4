"""
What importing an archive means for this store: what is held, new or missing, and whether every image is whole.

Only manifests and indexes are read for that, so it costs little; nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from appliance.bundle.archive import Archive
from appliance.bundle.archivecontents import ArchiveContents, BlobSource, NamedManifest, wrong_bytes
from appliance.bundle.closure import Closure, ImageBlob, closure
from appliance.bundle.contents import MAX_MANIFEST_VALUES, MAX_REFS, Bundle, check_values
from appliance.bundle.publication import HeldManifest, Published
from appliance.bundle.reader import missing_volumes, volumes_of
from appliance.errors import BlobDamaged, BundleDamaged, BundleIncomplete, ManifestInvalid, NotHeld
from appliance.index.manifests import ManifestReader
from appliance.interfaces import IBlobStore, IThreads
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, claimed_type, parse_manifest
from appliance.store.leases import Lease

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
    lease: Lease | None = None,
) -> ImportPlan:
    """
    Look at everything beneath the roots.

    @param lease: is taken of each blob beneath a root before it is looked for in the store, so that it stays there.
    @param assumed: sizes of blobs that count as held although they cannot be read here: what an increment builds on,
        where it is verified without a store.
    @raise BundleDamaged: a document is not what it should be.
    """
    if contents.bundle is not None:
        incomplete = await threads.call(_listed_and_missing, contents, contents.bundle, archives, store, assumed)
        if incomplete is not None:
            new = [blob for blob in contents.blobs.values() if store.size(blob.digest) is None]
            return ImportPlan(new=new, incomplete=incomplete)
    return await _ImportPlanner(contents, store, threads, assumed, lease or store.leases.take(())).run()


@dataclass(frozen=True)
class _Seen:
    """What is known of a root: its type (C{None}: not here), what is published with it, and whether it is whole."""

    media_type: str | None
    manifests: tuple[HeldManifest, ...]
    is_whole: bool


class _ImportPlanner:
    """Looks at what is beneath each root, and plans the import."""

    def __init__(
        self,
        contents: ArchiveContents,
        store: IBlobStore,
        threads: IThreads,
        assumed: Mapping[Digest, int],
        lease: Lease,
    ) -> None:
        self._contents = contents
        self._store = store
        self._threads = threads
        self._assumed = assumed
        self._lease = lease
        self._manifests = ManifestReader(self._read, threads, MAX_REMEMBERED)
        self._plan = ImportPlan()
        self._missing: dict[Digest, ImageBlob] = {}
        # How many blobs and manifests were named so far, by all roots and by the one that is looked at.
        self._named = 0
        self._beneath = 0
        # Bytes of manifests that were read for that one.
        self._document_bytes = 0

    async def run(self) -> ImportPlan:
        blocked: list[str] = []
        seen: dict[Digest, _Seen] = {}
        for root in self._contents.roots:
            if root.digest not in seen:
                seen[root.digest] = await self._visit(root)
            media_type = seen[root.digest].media_type
            # What names a root and the root itself agree on what it is, as Content-Type and document do in a pull.
            if media_type is not None and claimed_type(root.media_type) not in (None, media_type.lower()):
                raise BundleDamaged(
                    f"{self._contents.source}: {root.name} is named as {root.media_type} and says that it is"
                    f" {media_type}; have the archive made again"
                )
            if seen[root.digest].is_whole:
                self._plan.content.append(Published(root, seen[root.digest].manifests))
            else:
                blocked.append(root.name)
        if self._missing:
            size = _in_words(sum(blob.size for blob in self._missing.values()))
            first = next(iter(self._missing.values()))
            self._plan.incomplete = BundleIncomplete(
                f"{self._contents.source}: {len(self._missing)} blobs ({size}) are neither in it nor held here, the"
                f" {first.kind} {first.digest} first; that blocks {_shortened(blocked)}; export the whole image, or"
                " import first what it builds on",
                tuple(map(str, self._missing)),
            )
        self._plan.new = [
            self._contents.blobs[digest]
            for digest in self._plan.needed
            if self._held(digest) is None and digest not in self._assumed
        ]
        return self._plan

    async def _visit(self, root: NamedManifest) -> _Seen:
        """Look at everything beneath one root, and note it; only what is published of it stays in memory."""
        self._beneath = self._document_bytes = 0
        found = await closure(
            self._manifests,
            self._size,
            root.digest,
            root.size,
            root.media_type,
            counted=lambda named: self._count(root, named),
        )
        missing = await self._missing_of(root.digest, found)
        self._missing.update((blob.digest, blob) for blob in missing)
        sizes = {blob.digest: blob.size for blob in found.held}
        if not missing:
            self._plan.needed.update(sizes)
            for absent in found.absent:
                self._plan.absent[f"{absent.index} {absent.digest} {absent.platform or ''}".strip()] = None
        manifest = found.manifests.get(root.digest)
        manifests = (HeldManifest(str(each), m.media_type, sizes[each]) for each, m in found.manifests.items())
        return _Seen(None if manifest is None else manifest.media_type, tuple(manifests), not missing)

    def _count(self, root: NamedManifest, named: int) -> None:
        self._beneath += named
        self._named += named
        if self._beneath > MAX_BENEATH or self._named > MAX_PIECES:
            raise BundleDamaged(
                f"{self._contents.source}: beneath {root.name} {self._beneath} blobs and manifests are named, and"
                f" {self._named} together with the names before it, which nothing honest needs; have it exported in"
                " several archives"
            )

    async def _read(self, digest: Digest) -> bytes | None:
        """A small blob from the store, else from the archive. Raises L{BundleDamaged} when it has another digest."""
        self._lease.add(digest)
        if self._held(digest) is not None:
            try:
                data = await self._store.read(digest, MAX_MANIFEST_BYTES)
            except (NotHeld, BlobDamaged):
                return None
            if digest.matches(data):
                return data
            # The archive may have it whole.
            await self._store.set_aside(digest)
        blob = self._contents.blobs.get(digest)
        if blob is None or blob.size > MAX_MANIFEST_BYTES:
            return None
        data = blob.data if blob.data is not None else await self._threads.call(blob.read, MAX_MANIFEST_BYTES)
        if not digest.matches(data):
            raise wrong_bytes(blob, digest)
        self._document_bytes += len(data)
        if self._document_bytes > MAX_DOCUMENTS:
            raise BundleDamaged(f"{blob}: with it an image has more than {MAX_DOCUMENTS} bytes of manifests")
        try:
            check_values(data, MAX_MANIFEST_VALUES)
        except ValueError as error:
            raise BundleDamaged(f"{blob}: {error}; have the archive made again") from None
        return data

    def _held(self, digest: Digest) -> int | None:
        """The size of a held blob. One of another length than the archive's is damaged here, or there: it is stored."""
        held, inside = self._store.size(digest), self._contents.blobs.get(digest)
        return None if inside is not None and inside.size != held else held

    def _size(self, digest: Digest) -> int | None:
        self._lease.add(digest)
        held = self._held(digest)
        if held is not None:
            return held
        blob = self._contents.blobs.get(digest)
        return self._assumed.get(digest) if blob is None else blob.size

    async def _missing_of(self, root: Digest, found: Closure) -> list[ImageBlob]:
        """What is missing that should not be. Raises L{BundleDamaged} for what is there and is wrong."""
        missing = [blob for blob in found.missing if self._is_expected(root, blob)]
        for blob in missing:
            size = self._size(blob.digest)
            if size is None:
                continue
            where = self._contents.blobs.get(blob.digest) or f"{self._contents.source}, {blob.digest} in the store"
            if size != blob.size:
                by = "index.json" if blob.needed_by is None else blob.needed_by
                raise BundleDamaged(f"{where}: {size} bytes where {by} says {blob.size}; have the archive made again")
            try:
                parse_manifest(await self._read(blob.digest) or b"", None, blob.media_type)
            except ManifestInvalid as error:
                raise BundleDamaged(f"{where}: {error}; have the archive made again") from None
        if self._contents.absent is not None:
            missing += [
                ImageBlob(absent.digest, absent.size, "manifest", absent.media_type, absent.index)
                for absent in found.absent
                if absent.digest not in self._contents.absent and absent.digest not in self._assumed
            ]
        return missing

    def _is_expected(self, root: Digest, blob: ImageBlob) -> bool:
        """Whether the blob is to come with this archive, or be held."""
        if blob.digest in self._assumed:
            return False
        # Of a platform that is left out, a client may have pulled a part here: that is no part of the archive.
        by = blob.needed_by
        if self._contents.absent is not None:
            return by not in self._contents.absent
        return by is None or by == root or by in self._contents.blobs


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
                f"volume {volume.n} of {bundle.volume_count} ({_in_words(volume.size)}) is missing; name it together"
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
            f"it builds on {len(required)} blobs ({_in_words(sum(each.size for each in required))}) that are not held"
            f" here, {required[0].digest} first, for {_shortened(names)}; import the bundle that has them first, or"
            " export anew with --have and this appliance's inventory"
        )
    if not reasons:
        return None
    missing = (*inside, *(each.digest for each in required))
    return BundleIncomplete(f"{contents.source}: {'; '.join(reasons)}", missing)


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _in_words(octets: int) -> str:
    """A number of bytes for people, in powers of 1000: C{812 MB}."""
    amount, unit = float(octets), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
