"""What an archive holds, whichever tool wrote it: names, what they mean, and where the bytes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.bundle.archive import Archive, Item
from appliance.bundle.contents import Bundle
from appliance.errors import BundleDamaged, BundleNotRead
from appliance.oci.digest import Digest
from appliance.oci.reference import DEFAULT_TAG, Reference, full_name


@dataclass(frozen=True)
class BlobFile:
    """
    A file in an archive that holds a blob, or a part of one.

    @ivar sha256: of the part in 64 hex digits; C{""} for a whole blob.
    """

    archive: Archive
    item: Item
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.archive.source}, at {self.item.name!r}"


@dataclass(frozen=True)
class BlobSource:
    """
    Where the bytes of a blob are.

    @ivar size: bytes of the whole.
    @ivar files: what it consists of, in order.
    @ivar data: the bytes, when they were made here: a manifest that was rebuilt.
    """

    digest: Digest
    size: int
    files: tuple[BlobFile, ...] = ()
    data: bytes | None = None

    def __str__(self) -> str:
        return str(self.files[0]) if self.files else f"the rebuilt manifest {self.digest}"

    def read(self, limit: int) -> bytes:
        """
        A small blob's bytes, out of its files. Blocking.

        @raise BundleDamaged: a file has more than C{limit} bytes.
        @raise BundleNotRead: the medium cannot be read.
        """
        try:
            return b"".join(file.archive.whole(file.item, limit) for file in self.files)
        except OSError as error:
            raise BundleNotRead(f"{self}: cannot be read: {error.strerror}; copy the archive again") from None


@dataclass(frozen=True)
class NamedManifest:
    """
    One name to publish.

    @ivar upstream: canonical name of the upstream, configured here or not.
    @ivar tag: C{None} for a manifest that is known by its digest only.
    @ivar digest: what the name means; C{size} bytes of C{media_type}.
    @ivar rebuilt: whether the manifest was made here, so that its digest is not the original one.
    @ivar refers: whether it is a signature or the like of another.
    @ivar original_name: its full name in the archive, when that is another.
    """

    upstream: str
    repository: str
    tag: str | None
    digest: Digest
    size: int
    media_type: str
    rebuilt: bool = False
    refers: bool = False
    original_name: str | None = None

    @classmethod
    def of(cls, name: Reference, digest: Digest, size: int, media_type: str, rebuilt: bool = False) -> NamedManifest:
        """What another tool's archive calls C{name}: the tag C{latest} is meant where it has neither tag nor digest."""
        tag = name.tag or (None if name.digest else DEFAULT_TAG)
        return cls(name.upstream, name.repository, tag, digest, size, media_type, rebuilt)

    @property
    def name(self) -> str:
        """The full name."""
        return full_name(self.upstream, self.repository, self.tag or self.digest)


@dataclass
class ArchiveContents:
    """
    Everything that one import is about.

    @ivar format: for people, C{"pullcache bundle"} or another tool's format.
    @ivar id: of the bundle; for another tool's archive a digest of its names and what they mean.
    @ivar files: the files that were given, as they were named.
    @ivar roots: what is to be published: every name, and what refers to it.
    @ivar blobs: those that are wholly in the files, manifests too.
    @ivar absent: digests that are left out on purpose; C{None}: platforms that are not there are not meant to be.
    @ivar notes: what the user should know.
    @ivar signer: id of the trusted key that signed it, C{None} when none did.
    @ivar comment: what the signer wrote into the signature.
    @ivar unchecked: signatures that were not checked, because no key is trusted.
    @ivar loose: parts of blobs whose other parts are in volumes that were not given.
    @ivar bundle: the list of contents, C{None} for another tool's archive.
    """

    format: str
    id: str
    files: list[str]
    roots: list[NamedManifest] = field(default_factory=list)
    blobs: dict[Digest, BlobSource] = field(default_factory=dict)
    absent: frozenset[Digest] | None = None
    notes: list[str] = field(default_factory=list)
    signer: str | None = None
    comment: str | None = None
    unchecked: list[str] = field(default_factory=list)
    loose: list[BlobFile] = field(default_factory=list)
    bundle: Bundle | None = None

    @property
    def source(self) -> str:
        """The files, for messages."""
        return ", ".join(self.files)


def check_names(source: str, roots: Sequence[NamedManifest]) -> None:
    """Raises L{BundleDamaged} when one name means two things."""
    meanings: dict[str, Digest] = {}
    for root in roots:
        if meanings.setdefault(root.name, root.digest) != root.digest:
            raise BundleDamaged(
                f"{source}: {root.name} is the name of two images in it, {meanings[root.name]} and {root.digest};"
                " export them into separate archives"
            )


def wrong_bytes(what: BlobFile | BlobSource, digest: Digest) -> BundleDamaged:
    """The error for a blob that is not what its digest says."""
    return BundleDamaged(
        f"{what}: its bytes do not have the digest {digest}; copy the archive again, and where that does not help run"
        " pullcache scrub at the site that exported it, and have it exported again"
    )
