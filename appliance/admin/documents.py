"""
The documents of the return path, inventory and wants, and what an export is asked for.

C{pullcache inventory} and C{wants} write these as they are; C{export --have} and C{--want} hand them in again, at
another site and maybe to another version: fields that are not known here are left alone.
"""

from __future__ import annotations

import msgspec

from appliance.api import ExportOrder, WantEntry, WantList
from appliance.bundle.contents import Base
from appliance.bundle.selection import Selection, WantedReference
from appliance.errors import BundleError, DigestInvalid, PullcacheError
from appliance.oci.digest import Digest
from appliance.oci.reference import parse_identifier, parse_repository

MAX_WANTS = 10_000
"""The most wants of one export: as many as an appliance writes down."""


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
