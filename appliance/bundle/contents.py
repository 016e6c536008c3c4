"""
C{pullcache/bundle.json}: what a bundle holds, what it builds on, and where it came from.

The document opens every bundle and every volume of one; a signature covers its bytes, and its digests cover the rest.
It is canonical JSON: UTF-8, sorted keys, no white space. C{id} is the SHA-256 of the document without its C{id}.
Fields that are not known here are covered by C{id} and otherwise left alone; a new major version is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, NoReturn, TypeVar

import msgspec

from appliance.errors import BundleDamaged, BundleError, BundleTooNew, DigestInvalid
from appliance.oci.descriptor import MAX_SIZE
from appliance.oci.digest import Digest
from appliance.oci.timestamps import seconds_of

T = TypeVar("T")

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


class _Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Fields with a default are left out of the document when they have it."""


class Producer(_Struct, frozen=True, kw_only=True):
    """The program that made the bundle."""

    name: Line
    version: Line


class Stream(_Struct, frozen=True, kw_only=True):
    """For people: a bundle's place in a series of them. Nothing is decided by it."""

    name: Line
    number: Size
    previous: Hash | None = None


class Base(_Struct, frozen=True, kw_only=True):
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


class Provenance(_Struct, frozen=True, kw_only=True):
    """Where a reference came from: canonical upstream name, repository there, tag (none: by digest), when resolved."""

    registry: Line
    repository: Line
    tag: Line | None = None
    resolved_at: Time | None = None


class Platforms(_Struct, frozen=True, kw_only=True):
    """Platforms of a reference, C{os/architecture[/variant]}: those inside or held, those left out on purpose."""

    present: tuple[Line, ...] = ()
    absent: tuple[Line, ...] = ()


class Pulls(_Struct, frozen=True, kw_only=True):
    """How often a reference was pulled at the sending site, and when last."""

    pulls: Size
    last_pull: Time | None = None


class Ref(_Struct, frozen=True, kw_only=True):
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


class Part(_Struct, frozen=True, kw_only=True):
    """
    A piece of a blob that is larger than a volume.

    @ivar n: from 1, without gaps, in the blob's order.
    @ivar sha256: of the part, 64 hex digits.
    """

    n: Number
    size: Size
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    volume: Number


class BlobEntry(_Struct, frozen=True, kw_only=True):
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


class Required(_Struct, frozen=True, kw_only=True):
    """A blob that is not inside and that must be held already. C{needed_by}: names of references."""

    digest: Hash
    size: Size
    kind: BlobKind
    needed_by: tuple[Line, ...] = ()


class AbsentPlatform(_Struct, frozen=True, kw_only=True):
    """A child of an index, left out on purpose: C{digest} in C{index}, for C{platform}."""

    index: Hash
    digest: Hash
    size: Size
    platform: Line = ""


class ReferrerEntry(_Struct, frozen=True, kw_only=True):
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


class KnownReferrers(_Struct, frozen=True, kw_only=True):
    """
    A manifest whose upstream told the sender what refers to it, and all of that is in C{referrers}, or held by the
    reader already: so that the other side can say that nothing else does, without having heard the upstream.
    """

    repository: Line
    subject: Hash


class Volume(_Struct, frozen=True, kw_only=True):
    """One file of the bundle. C{size}: bytes of blob data in it; the file is larger by its headers."""

    n: Number
    size: Size


class Totals(_Struct, frozen=True, kw_only=True):
    """What the bundle holds: blobs, the bytes of their data, references."""

    blobs: Size
    bytes: Size
    refs: Size


_NOTHING = Totals(blobs=0, bytes=0, refs=0)


PlainName = Literal["oci-layout", "index.json", "manifest.json"]


class PlainFile(_Struct, frozen=True, kw_only=True):
    """An entry for other tools beside the blobs: C{oci-layout}, C{index.json} or C{manifest.json}."""

    name: PlainName
    size: Size
    sha256: Hash


class Bundle(_Struct, frozen=True, kw_only=True, tag_field="mediaType", tag=MEDIA_TYPE):
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


class VolumeMark(_Struct, frozen=True, kw_only=True):
    """C{pullcache/volume.json}: volume C{n} of C{of} of the bundle with the id C{bundle}."""

    bundle: Hash
    n: Number
    of: Number


# -- reading and writing --------------------------------------------------------------------------------------------

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Bundle)
_mark_decoder = msgspec.json.Decoder(VolumeMark)


class _Head(msgspec.Struct, rename="camel"):
    """What tells one format of bundle.json from another."""

    media_type: str
    labels: msgspec.Raw = msgspec.Raw(b"{}")


_head_decoder = msgspec.json.Decoder(_Head)
_VERSION = re.compile(r"application/vnd\.pullcache\.bundle\.v([1-9][0-9]{0,8})\+json")


def content_root(blobs: Iterable[BlobEntry]) -> str:
    """The SHA-256, as a digest, over the sorted lines C{digest SP size LF} of all blobs."""
    lines = sorted(f"{blob.digest} {blob.size}\n" for blob in blobs)
    return str(Digest.of("".join(lines).encode("ascii")))


def sealed(bundle: Bundle) -> Bundle:
    """C{bundle} with everything that follows from the rest: volumes, totals, content root and, of all that, id."""
    volumes = _volumes(bundle.blobs)
    filled = msgspec.structs.replace(
        bundle,
        id="",
        volumes=volumes,
        volume_count=len(volumes),
        totals=_totals(bundle),
        content_root=content_root(bundle.blobs),
    )
    return msgspec.structs.replace(filled, id=str(Digest.of(_encoder.encode(filled))))


def encode(bundle: Bundle) -> bytes:
    """The document of L{sealed} C{bundle}. Raises L{BundleError} when it is no bundle that could be read back."""
    data = _encoder.encode(sealed(bundle))
    try:
        decode(data, "the new bundle")
    except BundleDamaged as error:
        raise BundleError(f"cannot write {BUNDLE}: {error}") from None
    return data


def plain_file(name: PlainName, data: bytes) -> PlainFile:
    """How the document lists the plain file C{name}."""
    return PlainFile(name=name, size=len(data), sha256=str(Digest.of(data)))


def decode(data: bytes, source: str) -> Bundle:
    """
    Read C{pullcache/bundle.json} of the file C{source}.

    @raise BundleTooNew: the document has a major version that is not known here.
    @raise BundleDamaged: it is no such document, contradicts itself, or does not have its C{id}.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        _refuse(source, f"{len(data)} bytes are too many: {MAX_BUNDLE_BYTES} are allowed")
    try:
        check_values(data, MAX_BUNDLE_VALUES)
    except ValueError as error:
        _refuse(source, str(error))
    _check_head(data, source)
    bundle = _parsed(_decoder, data, source, BUNDLE)
    _check_id(data, bundle, source)
    for complaint in _contradictions(bundle):
        _refuse(source, complaint)
    return bundle


def encode_mark(mark: VolumeMark) -> bytes:
    """C{pullcache/volume.json}."""
    return _encoder.encode(mark)


def decode_mark(data: bytes, source: str) -> VolumeMark:
    """Read C{pullcache/volume.json} of the file C{source}. Raises L{BundleDamaged}."""
    mark = _parsed(_mark_decoder, data, source, VOLUME)
    if mark.n > mark.of:
        _refuse(source, f"it is volume {mark.n} of {mark.of}", VOLUME)
    return mark


def file_name(bundle: Bundle, n: int) -> str:
    """
    What the file of volume C{n} is called: C{<title>-<id12>.tar}, C{<title>-<id12>.v01of05.tar}.

    @param bundle: sealed. The name is not in the document, whose C{id} is in the name. Fit for FAT and for a shell.
    """
    title = re.sub(r"[^A-Za-z0-9._]+", "-", bundle.title).strip("-._")[:64] or "bundle"
    digits = max(2, len(str(bundle.volume_count)))
    mark = f".v{n:0{digits}}of{bundle.volume_count:0{digits}}" if bundle.volume_count > 1 else ""
    return f"{title}-{bundle.id.partition(':')[2][:12]}{mark}.tar"


def _parsed(decoder: msgspec.json.Decoder[T], data: bytes, source: str, entry: str) -> T:
    """Decode, with nothing but L{BundleDamaged} for whatever is wrong."""
    try:
        return decoder.decode(data)
    except RecursionError:
        _refuse(source, "it is nested too deeply", entry)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        _refuse(source, str(error), entry)


def check_values(data: bytes, most: int) -> None:
    """
    Look how many values a JSON document has, before an object is made of each.

    @raise ValueError: there are, or in its strings there are signs of, more than C{most}.
    """
    values = 1 + data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > most:
        raise ValueError(f"{values} values are too many for it: {most} are allowed")


def _check_head(data: bytes, source: str) -> None:
    head = _parsed(_head_decoder, data, source, BUNDLE)
    media_type = head.media_type
    version = _VERSION.fullmatch(media_type)
    if version is None:
        _refuse(source, f"{media_type[:160]!r} is not its media type, {MEDIA_TYPE} is")
    if media_type != MEDIA_TYPE:
        raise BundleTooNew(
            f"{source}, {BUNDLE}: format {version[1]} of bundles is not known here, 1 is; "
            "bring a newer pullcache first, or export with the older one"
        )
    if bytes(head.labels).count(b",") >= MAX_LABELS:
        _refuse(source, f"it has more than {MAX_LABELS} labels")


def _check_id(data: bytes, bundle: Bundle, source: str) -> None:
    """The id counts in canonical JSON only, so that taking its member out of the bytes gives what it is the hash of."""
    member = b'"id":"%b",' % bundle.id.encode("utf-8")
    if data.count(member) != 1 or str(Digest.of(data.replace(member, b""))) != bundle.id:
        _refuse(source, f"the document was changed: it does not have its id {bundle.id[:80]!r}")


def _contradictions(bundle: Bundle) -> Iterator[str]:
    """What in a well-formed document cannot be true."""
    for name, digests in _listed(bundle):
        for digest in (digest for digest, times in Counter(digests).items() if times > 1):
            yield f"{name} lists {digest} twice"
    for moment in _moments(bundle):
        try:
            seconds_of(moment)
        except ValueError as error:
            yield f"there is no such time as {moment} ({error})"
    if bundle.kind == "full" and (bundle.requires or bundle.base):
        yield "it says it is full, and builds on something else"
    named = {entry.digest for entry in bundle.blobs} | {entry.digest for entry in bundle.requires}
    for ref in bundle.refs:
        if ref.digest not in named:
            yield f"{ref.name} means {ref.digest}, which is neither inside nor required"
    for blob in bundle.blobs:
        if blob.parts and not _is_whole(blob):
            yield f"the parts of {blob.digest} do not make {blob.size} bytes"
    if (bundle.volumes, bundle.volume_count) != (_volumes(bundle.blobs), len(bundle.volumes)):
        yield "its volumes are not those of its blobs"
    if bundle.totals != _totals(bundle):
        yield "its totals are not those of its blobs and references"
    if bundle.content_root != content_root(bundle.blobs):
        yield "its content root is not that of its blobs"


def _moments(bundle: Bundle) -> Iterator[str]:
    """Every time that is told."""
    base = () if bundle.base is None else (bundle.base.taken, bundle.base.since)
    found = [bundle.created, bundle.not_after, *base]
    for ref in bundle.refs:
        found += (ref.upstream.resolved_at, None if ref.use is None else ref.use.last_pull)
    return (moment for moment in found if moment is not None)


def _listed(bundle: Bundle) -> list[tuple[str, list[str]]]:
    """What may be listed once only."""
    return [
        ("refs", [ref.name for ref in bundle.refs]),
        ("blobs and requires", [*(blob.digest for blob in bundle.blobs), *(blob.digest for blob in bundle.requires)]),
    ]


def _is_whole(blob: BlobEntry) -> bool:
    """Whether a blob's parts follow each other, begin where it says, and add up to it."""
    numbers = [part.n for part in blob.parts]
    follow = numbers == list(range(1, len(numbers) + 1)) and blob.parts[0].volume == blob.volume
    return follow and sum(part.size for part in blob.parts) == blob.size


def _volumes(blobs: Sequence[BlobEntry]) -> tuple[Volume, ...]:
    """Every volume up to the last one used, with the bytes of blobs in it; at least one."""
    sizes: Counter[int] = Counter()
    for blob in blobs:
        for volume, size in [(part.volume, part.size) for part in blob.parts] or [(blob.volume, blob.size)]:
            sizes[volume] += size
    return tuple(Volume(n=n, size=sizes[n]) for n in range(1, max(sizes, default=1) + 1))


def _totals(bundle: Bundle) -> Totals:
    size = sum(blob.size for blob in bundle.blobs)
    return Totals(blobs=len(bundle.blobs), bytes=size, refs=len(bundle.refs))


def _refuse(source: str, why: str, entry: str = BUNDLE) -> NoReturn:
    raise BundleDamaged(f"{source}, {entry}: {why}; copy the file again, or have it exported again")
