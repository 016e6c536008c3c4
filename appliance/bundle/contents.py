"""
C{pullcache/bundle.json}: what a bundle holds, what it builds on, and where it came from.

The document opens every bundle and every volume of one; a signature covers its bytes, and its digests cover the rest.
These are its values, the names of an archive's entries, and the bounds of both. L{appliance.bundle.bundlejson} reads
and writes the document.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from appliance.errors import DigestInvalid
from appliance.oci.descriptor import MAX_SIZE
from appliance.oci.digest import Digest

MEDIA_TYPE = "application/vnd.pullcache.bundle.v1+json"

#: The largest C{pullcache/bundle.json}, in bytes.
MAX_BUNDLE_BYTES = 64 * 1024 * 1024
#: The largest C{index.json}, in bytes, our own or a foreign one. A manifest's limit is C{MAX_MANIFEST_BYTES} of oci.
MAX_INDEX_BYTES = 20 * 1024 * 1024
#: The most values in C{pullcache/bundle.json}, in an C{index.json} or C{manifest.json}, and in a manifest. Each becomes
#: an object of 50 bytes and more; it can be written in three, where one of an honest document takes 25 and more.
MAX_BUNDLE_VALUES = 2_500_000
MAX_INDEX_VALUES = 1_000_000
MAX_MANIFEST_VALUES = 200_000
#: The most labels of a bundle.
MAX_LABELS = 10_000
#: The most references of one bundle, and the most volumes.
MAX_REFS = 100_000
MAX_VOLUMES = 9999


def check_values(data: bytes, most: int) -> None:
    """
    Look how many values a JSON document has, before an object is made of each.

    @raise ValueError: there are, or in its strings there are signs of, more than C{most}.
    """
    values = 1 + data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > most:
        raise ValueError(f"{values} values are too many for it: {most} are allowed")


# -- the entries of the archive -------------------------------------------------------------------------------------

OCI_LAYOUT = "oci-layout"
BUNDLE = "pullcache/bundle.json"
#: The signature of L{BUNDLE}'s bytes, in minisign's format.
SIGNATURE = "pullcache/bundle.json.minisig"
VOLUME = "pullcache/volume.json"
INDEX = "index.json"
MANIFEST = "manifest.json"

_BLOB_NAME = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]{64,128})")
_PART_NAME = re.compile(r"pullcache/parts/(sha256|sha512)/([0-9a-f]{64,128})/([0-9]{4})")


def blob_name(digest: Digest) -> str:
    """The entry of a whole blob, as in an OCI image layout."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"


def part_name(digest: Digest, n: int) -> str:
    """The entry of the part number C{n} (from 1) of a blob that is larger than a volume."""
    return f"pullcache/parts/{digest.algorithm}/{digest.encoded}/{n:04}"


def parse_name(name: str) -> tuple[Digest, int | None] | None:
    """The blob that an entry holds, with the part's number if it is one; C{None} for every other entry."""
    match = _BLOB_NAME.fullmatch(name) or _PART_NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return Digest(match[1], match[2]), int(match[3]) if match.re is _PART_NAME else None
    except DigestInvalid:
        return None


# -- the document ---------------------------------------------------------------------------------------------------

#: RFC 3339, in UTC.
Time = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]
Number = Annotated[int, msgspec.Meta(ge=1, le=MAX_VOLUMES)]
#: Shown to people: one line without control characters.
Line = Annotated[str, msgspec.Meta(max_length=1024, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
Hash = Annotated[str, msgspec.Meta(pattern=r"\A(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")]

BlobKind = Literal["index", "manifest", "config", "layer", "artifact"]


class _ContentsStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Fields with a default are left out of the document when they have it."""


class Producer(_ContentsStruct, frozen=True, kw_only=True):
    """The program that made the bundle."""

    name: Line
    version: Line


class Stream(_ContentsStruct, frozen=True, kw_only=True):
    """For people: a bundle's place in a series of them. Nothing is decided by it."""

    name: Line
    number: Size
    previous: Hash | None = None


class Base(_ContentsStruct, frozen=True, kw_only=True):
    """
    How it was known what the other side holds.

    @ivar source: C{from} in the document.
    @ivar site: of the inventory; C{inventory} is that document's digest and C{taken} its time.
    @ivar ids: the earlier bundles.
    @ivar since: everything from then on.
    """

    source: Literal["inventory", "bundles", "date"] = msgspec.field(name="from")
    site: Line | None = None
    inventory: Hash | None = None
    taken: Time | None = None
    ids: tuple[Hash, ...] = ()
    since: Time | None = None


class Provenance(_ContentsStruct, frozen=True, kw_only=True):
    """Where a reference came from: canonical upstream name, repository there, tag (none: by digest), when resolved."""

    registry: Line
    repository: Line
    tag: Line | None = None
    resolved_at: Time | None = None


class Platforms(_ContentsStruct, frozen=True, kw_only=True):
    """Platforms of a reference, C{os/architecture[/variant]}: those inside or held, those left out on purpose."""

    present: tuple[Line, ...] = ()
    absent: tuple[Line, ...] = ()


class Pulls(_ContentsStruct, frozen=True, kw_only=True):
    """How often a reference was pulled at the sending site, and when last."""

    pulls: Size
    last_pull: Time | None = None


class Ref(_ContentsStruct, frozen=True, kw_only=True):
    """
    One reference.

    @ivar name: in full: C{docker.io/library/nginx:1.2}, C{ghcr.io/a/b@sha256:...}.
    @ivar digest: of the index or manifest it means, of C{media_type} and C{size} bytes.
    @ivar previous_digest: what it meant in the bundle before, if that is known.
    """

    name: Line
    digest: Hash
    media_type: Line
    size: Size
    upstream: Provenance
    platforms: Platforms
    use: Pulls | None = None
    previous_digest: Hash | None = None


class Part(_ContentsStruct, frozen=True, kw_only=True):
    """
    A piece of a blob that is larger than a volume.

    @ivar n: from 1, without gaps, in the blob's order.
    @ivar sha256: of the part, 64 hex digits.
    """

    n: Number
    size: Size
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    volume: Number


class BlobEntry(_ContentsStruct, frozen=True, kw_only=True):
    """
    One blob inside, manifests and indexes too.

    @ivar volume: the volume it is in (left out: 1); with C{parts}, that of the first.
    """

    digest: Hash
    size: Size
    kind: BlobKind
    media_type: Line = ""
    volume: Number = 1
    parts: tuple[Part, ...] = ()

    @property
    def is_document(self) -> bool:
        """Whether it is looked at before it is known what an import lacks."""
        return self.kind in ("index", "manifest", "config")


class Required(_ContentsStruct, frozen=True, kw_only=True):
    """A blob that is not inside and that must be held already. C{needed_by}: names of references."""

    digest: Hash
    size: Size
    kind: BlobKind
    needed_by: tuple[Line, ...] = ()


class AbsentPlatform(_ContentsStruct, frozen=True, kw_only=True):
    """A child of an index, left out on purpose: C{digest} in C{index}, for C{platform}."""

    index: Hash
    digest: Hash
    size: Size
    platform: Line = ""


class ReferrerEntry(_ContentsStruct, frozen=True, kw_only=True):
    """
    A manifest that refers to another: a signature, an SBOM.

    @ivar via: C{"subject"}: by its own field; C{"tag"}: by C{tag}, such as cosign's C{sha256-<hex>.sig}.
    @ivar repository: where it stands, in full: C{docker.io/library/nginx}.
    """

    subject: Hash
    digest: Hash
    artifact_type: Line = ""
    via: Literal["subject", "tag"] = "subject"
    repository: Line
    tag: Line | None = None


class KnownReferrers(_ContentsStruct, frozen=True, kw_only=True):
    """
    A manifest of which every referrer that the sender's upstream listed is in C{referrers}, or held by the reader
    already: so the reader can answer that there are no others, without asking that upstream.
    """

    repository: Line
    subject: Hash


class Volume(_ContentsStruct, frozen=True, kw_only=True):
    """One file of the bundle. C{size}: bytes of blob data in it; the file is larger by its headers."""

    n: Number
    size: Size


class Totals(_ContentsStruct, frozen=True, kw_only=True):
    """What the bundle holds: blobs, the bytes of their data, references."""

    blobs: Size
    bytes: Size
    refs: Size


_NOTHING = Totals(blobs=0, bytes=0, refs=0)


PlainName = Literal["oci-layout", "index.json", "manifest.json"]


class PlainFile(_ContentsStruct, frozen=True, kw_only=True):
    """An entry for other tools beside the blobs: C{oci-layout}, C{index.json} or C{manifest.json}."""

    name: PlainName
    size: Size
    sha256: Hash


class Bundle(_ContentsStruct, frozen=True, kw_only=True, tag_field="mediaType", tag=MEDIA_TYPE):
    """
    The whole document.

    C{id}, C{volumes}, C{volume_count}, C{totals} and C{content_root} follow from the rest: L{sealed} fills them in.

    @ivar created: of the newest thing in it, not of the writing, so that equal selections give equal bytes.
    @ivar site: the stable id of the appliance that made it.
    @ivar blobs: everything inside, in file order.
    @ivar files: what other tools read beside the blobs, so that the signature covers it too.
    @ivar content_root: short enough to be compared over the telephone.
    @ivar not_after: when the trust material inside expires.
    """

    id: Hash | Literal[""] = ""
    created: Time
    producer: Producer
    site: Line
    title: Line = ""
    labels: dict[Line, Line] = {}
    kind: Literal["full", "increment"]
    stream: Stream | None = None
    base: Base | None = None
    refs: Annotated[tuple[Ref, ...], msgspec.Meta(max_length=MAX_REFS)]
    blobs: tuple[BlobEntry, ...]
    files: tuple[PlainFile, ...] = ()
    requires: tuple[Required, ...]
    absent_platforms: tuple[AbsentPlatform, ...]
    referrers: tuple[ReferrerEntry, ...]
    referrers_heard: tuple[KnownReferrers, ...] = ()
    volumes: tuple[Volume, ...] = ()
    volume_count: Annotated[int, msgspec.Meta(le=MAX_VOLUMES)] = 0
    totals: Totals = _NOTHING
    content_root: Hash | Literal[""] = ""
    not_after: Time | None = None


class VolumeMark(_ContentsStruct, frozen=True, kw_only=True):
    """C{pullcache/volume.json}: volume C{n} of C{of} of the bundle with the id C{bundle}."""

    bundle: Hash
    n: Number
    of: Number
