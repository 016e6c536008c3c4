"""
The documents of the return path, inventory and wants, and what an export is asked for.

C{pullcache inventory} and C{wants} write these as they are; C{export --have} and C{--want} hand them in again, at
another site and maybe to another version: fields that are not known here are left alone.
"""

from __future__ import annotations

import msgspec

from appliance.bundle.contents import Base
from appliance.bundle.selection import Selection, WantedReference
from appliance.errors import BundleError, DigestInvalid, PullcacheError
from appliance.oci.digest import Digest
from appliance.oci.reference import parse_identifier, parse_repository

MAX_WANTS = 10_000
"""The most wants of one export: as many as an appliance writes down."""


class _Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Names in the documents are in camel case."""


class HeldBlob(_Struct, frozen=True, kw_only=True):
    """A blob that is held; manifests are blobs too. C{size}: bytes."""

    digest: str
    size: int = 0


class Inventory(_Struct, frozen=True, kw_only=True):
    """
    What one appliance holds.

    @ivar taken: when, RFC 3339.
    @ivar generation: the same as long as the same blobs are held.
    @ivar manifests: digests.
    """

    site: str = ""
    taken: str = ""
    generation: str = ""
    manifests: list[str] = []
    blobs: list[HeldBlob] = []


class WantEntry(_Struct, frozen=True, kw_only=True):
    """
    Something that was asked for and lacking.

    @ivar name: in full.
    @ivar reference: a tag, or a digest.
    @ivar reason: in one word.
    @ivar first: when it was asked for first, RFC 3339; C{last}: and last.
    """

    upstream: str
    repository: str
    reference: str
    name: str = ""
    platform: str | None = None
    reason: str = ""
    first: str = ""
    last: str = ""
    count: int = 1


class WantList(_Struct, frozen=True, kw_only=True):
    """What one appliance was asked for and lacks. C{taken}: when that was written down, RFC 3339."""

    site: str = ""
    taken: str = ""
    wants: list[WantEntry] = []


class EarlierBundle(_Struct, frozen=True, kw_only=True):
    """A bundle that the other side has: its id, and the digests of its blobs."""

    id: str
    blobs: list[str] = []


class ExportOrder(_Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What is to be exported; L{appliance.bundle.selection.Selection} explains it.

    @ivar since: only what was pulled in so many seconds before now.
    @ivar complete: whether what an image lacks is fetched first.
    @ivar have: the other side's inventory.
    @ivar base: bundles it has, when its inventory is not known.
    @ivar want: the other side's wants; of these, what is not held is fetched first.
    @ivar volume_size: the most bytes of one file.
    """

    refs: list[str] = []
    all: bool = False
    since: float | None = None
    platforms: list[str] = []
    partial: bool = False
    complete: bool = False
    referrers: bool = True
    have: Inventory | None = None
    base: list[EarlierBundle] = []
    want: WantList | None = None
    title: str = ""
    labels: dict[str, str] = {}
    volume_size: int | None = None


def selection(order: ExportOrder, now: float) -> Selection:
    """
    What C{order} means.

    @param now: seconds since the epoch.
    @raise BundleError: what it says of the other side makes no sense.
    """
    return Selection(
        refs=tuple(order.refs),
        all=order.all,
        since=None if order.since is None else now - order.since,
        platforms=frozenset(order.platforms),
        partial=order.partial,
        referrers=order.referrers,
        have=_have(order),
        base=_base(order),
        want=_wants(order.want),
        title=order.title,
        labels=order.labels,
        volume_size=order.volume_size,
    )


def _have(order: ExportOrder) -> frozenset[Digest]:
    if order.have is not None and order.base:
        raise BundleError("an inventory is exact, and earlier bundles are a guess: give have or base, not both")
    texts = [text for bundle in order.base for text in bundle.blobs]
    if order.have is not None:
        texts += [*order.have.manifests, *(blob.digest for blob in order.have.blobs)]
    try:
        return frozenset(map(Digest.parse, texts))
    except DigestInvalid as error:
        raise BundleError(f"what the other side is said to have cannot be read: {error}") from error


def _base(order: ExportOrder) -> Base | None:
    if order.base:
        return Base(source="bundles", ids=tuple(bundle.id for bundle in order.base))
    if order.have is None:
        return None
    return Base(
        source="inventory",
        site=order.have.site or None,
        inventory=str(Digest.of(msgspec.json.encode(order.have))),
        taken=order.have.taken or None,
    )


def _wants(wanted: WantList | None) -> tuple[WantedReference, ...]:
    if wanted is None:
        return ()
    if len(wanted.wants) > MAX_WANTS:
        raise BundleError(f"{len(wanted.wants)} wants are too many for one export: {MAX_WANTS} are allowed; split them")
    return tuple(map(_want, wanted.wants))


def _want(entry: WantEntry) -> WantedReference:
    try:
        parse_repository(entry.repository)
        parse_identifier(entry.reference)
    except PullcacheError as error:
        raise BundleError(f"the wants name what cannot be wanted: {error}") from error
    return WantedReference(entry.upstream, entry.repository, entry.reference, entry.platform)
