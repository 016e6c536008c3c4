"""
Reading and writing C{pullcache/bundle.json}, and what in a well-formed one cannot be true.

It is canonical JSON: UTF-8, sorted keys, no white space. C{id} is the SHA-256 of the document without its C{id}. Fields
that are not known here are covered by C{id} and otherwise left alone; a new major version is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, TypeVar

import msgspec

from appliance.bundle.contents import (
    BUNDLE,
    MAX_BUNDLE_BYTES,
    MAX_BUNDLE_VALUES,
    MAX_LABELS,
    MEDIA_TYPE,
    VOLUME,
    BlobEntry,
    Bundle,
    PlainFile,
    PlainName,
    Totals,
    Volume,
    VolumeMark,
    check_values,
)
from appliance.errors import BundleDamaged, BundleError, BundleTooNew
from appliance.oci.digest import Digest
from appliance.oci.timestamps import seconds_of

T = TypeVar("T")


class _Head(msgspec.Struct, rename="camel"):
    """What one format of bundle.json differs by from another."""

    media_type: str
    labels: msgspec.Raw = msgspec.Raw(b"{}")


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Bundle)
_head_decoder = msgspec.json.Decoder(_Head)
_mark_decoder = msgspec.json.Decoder(VolumeMark)
_VERSION = re.compile(r"application/vnd\.pullcache\.bundle\.v([1-9][0-9]{0,8})\+json")


# -- writing --------------------------------------------------------------------------------------------------------


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


def encode_mark(mark: VolumeMark) -> bytes:
    """The bytes of C{pullcache/volume.json}."""
    return _encoder.encode(mark)


def plain_file(name: PlainName, data: bytes) -> PlainFile:
    """How the document lists the plain file C{name}."""
    return PlainFile(name=name, size=len(data), sha256=str(Digest.of(data)))


def file_name(bundle: Bundle, n: int) -> str:
    """
    What the file of volume C{n} is called: C{<title>-<id12>.tar}, C{<title>-<id12>.v01of05.tar}.

    @param bundle: sealed. The name is not in the document, whose C{id} is in the name. Fit for FAT and for a shell.
    """
    title = re.sub(r"[^A-Za-z0-9._]+", "-", bundle.title).strip("-._")[:64] or "bundle"
    digits = max(2, len(str(bundle.volume_count)))
    mark = f".v{n:0{digits}}of{bundle.volume_count:0{digits}}" if bundle.volume_count > 1 else ""
    return f"{title}-{bundle.id.partition(':')[2][:12]}{mark}.tar"


# -- reading --------------------------------------------------------------------------------------------------------


def decode(data: bytes, source: str) -> Bundle:
    """
    Read C{pullcache/bundle.json} of the file C{source}.

    @raise BundleTooNew: the document has a major version that is not known here.
    @raise BundleDamaged: it is no such document, contradicts itself, or does not have its C{id}.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        _refuse(source, f"{len(data)} bytes are too many: {MAX_BUNDLE_BYTES} are allowed")
    head = _parsed(_head_decoder, data, source, BUNDLE)
    version = _VERSION.fullmatch(head.media_type)
    if version is None:
        _refuse(source, f"{head.media_type[:160]!r} is not its media type, {MEDIA_TYPE} is")
    if head.media_type != MEDIA_TYPE:
        raise BundleTooNew(
            f"{source}, {BUNDLE}: format {version[1]} of bundles is not known here, 1 is; "
            "bring a newer pullcache first, or export with the older one"
        )
    if bytes(head.labels).count(b",") >= MAX_LABELS:
        _refuse(source, f"it has more than {MAX_LABELS} labels")
    bundle = _parsed(_decoder, data, source, BUNDLE)
    # The id counts in canonical JSON only, so that taking its member out of the bytes gives what it is the hash of.
    member = b'"id":"%b",' % bundle.id.encode("utf-8")
    if data.count(member) != 1 or str(Digest.of(data.replace(member, b""))) != bundle.id:
        _refuse(source, f"the document was changed: it does not have its id {bundle.id[:80]!r}")
    for contradiction in _contradictions(bundle):
        _refuse(source, contradiction)
    return bundle


def decode_mark(data: bytes, source: str) -> VolumeMark:
    """Read C{pullcache/volume.json} of the file C{source}. Raises L{BundleDamaged}."""
    mark = _parsed(_mark_decoder, data, source, VOLUME)
    if mark.n > mark.of:
        _refuse(source, f"it is volume {mark.n} of {mark.of}", VOLUME)
    return mark


def _parsed(decoder: msgspec.json.Decoder[T], data: bytes, source: str, entry: str) -> T:
    """Decode; everything that is wrong is a L{BundleDamaged}."""
    try:
        check_values(data, MAX_BUNDLE_VALUES)
        return decoder.decode(data)
    except RecursionError:
        _refuse(source, "it is nested too deeply", entry)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        _refuse(source, str(error), entry)


def _contradictions(bundle: Bundle) -> Iterator[str]:
    """What in a well-formed document cannot be true."""
    blobs = [*(blob.digest for blob in bundle.blobs), *(blob.digest for blob in bundle.requires)]
    for name, texts in (("refs", [ref.name for ref in bundle.refs]), ("blobs and requires", blobs)):
        yield from (f"{name} lists {text} twice" for text, times in Counter(texts).items() if times > 1)
    for moment in _moments(bundle):
        try:
            seconds_of(moment)
        except ValueError as error:
            yield f"there is no such time as {moment} ({error})"
    if bundle.kind == "full" and (bundle.requires or bundle.base):
        yield "it says it is full, and builds on something else"
    named = set(blobs)
    for ref in bundle.refs:
        if ref.digest not in named:
            yield f"{ref.name} means {ref.digest}, which is neither inside nor required"
    for blob in bundle.blobs:
        if blob.parts:
            in_order = [part.n for part in blob.parts] == list(range(1, len(blob.parts) + 1))
            if not in_order or blob.parts[0].volume != blob.volume or sum(p.size for p in blob.parts) != blob.size:
                yield f"the parts of {blob.digest} do not make {blob.size} bytes"
    if (bundle.volumes, bundle.volume_count) != (_volumes(bundle.blobs), len(bundle.volumes)):
        yield "its volumes are not those of its blobs"
    if bundle.totals != _totals(bundle):
        yield "its totals are not those of its blobs and references"
    if bundle.content_root != content_root(bundle.blobs):
        yield "its content root is not that of its blobs"


def _moments(bundle: Bundle) -> Iterator[str]:
    """Every time in the document."""
    base = () if bundle.base is None else (bundle.base.taken, bundle.base.since)
    found = [bundle.created, bundle.not_after, *base]
    for ref in bundle.refs:
        found += (ref.upstream.resolved_at, None if ref.use is None else ref.use.last_pull)
    return (moment for moment in found if moment is not None)


def _refuse(source: str, why: str, entry: str = BUNDLE) -> NoReturn:
    raise BundleDamaged(f"{source}, {entry}: {why}; copy the file again, or have it exported again")


# -- what follows from the rest -------------------------------------------------------------------------------------


def content_root(blobs: Iterable[BlobEntry]) -> str:
    """The SHA-256, as a digest, over the sorted lines C{digest SP size LF} of all blobs."""
    lines = sorted(f"{blob.digest} {blob.size}\n" for blob in blobs)
    return str(Digest.of("".join(lines).encode("ascii")))


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
