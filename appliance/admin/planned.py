"""What is told of a planned export."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from appliance.bundle.closure import ImageBlob
from appliance.bundle.contents import Totals
from appliance.bundle.export import Export, Omitted


class VolumeFile(msgspec.Struct, frozen=True, rename="camel"):
    """One file of an export. C{size}: bytes of it; C{url}: its path on this endpoint."""

    n: int
    file: str
    size: int
    url: str


class LackingBlob(msgspec.Struct, frozen=True, rename="camel"):
    """A blob that an image lacks; C{size} in bytes, as promised by what names it."""

    digest: str
    size: int
    kind: str


class Lack(msgspec.Struct, frozen=True, rename="camel"):
    """An image that is not whole. C{why}: in words."""

    ref: str
    why: str
    missing: list[LackingBlob]


class PlannedExport(msgspec.Struct, frozen=True, rename="camel"):
    """
    What C{POST /api/v1/exports} came to.

    @ivar id: the bundle's.
    @ivar expires: until when it is kept if nobody asks for it, RFC 3339.
    @ivar left_out: what was asked for and is not in it, for blobs it lacks.
    @ivar partial: what is in it as far as it goes.
    @ivar unanswered: names and patterns that mean nothing that could be in it.
    @ivar notes: what else there is to know, in words.
    """

    id: str
    kind: str
    title: str
    expires: str
    content_root: str
    totals: Totals
    signed: bool
    volumes: list[VolumeFile]
    left_out: list[Lack]
    partial: list[Lack]
    unanswered: list[str]
    notes: list[str]


def planned(export: Export, signed: bool, expires: str, notes: Sequence[str]) -> PlannedExport:
    """
    All there is to tell of C{export}.

    @param notes: what is to be told before its own.
    """
    bundle = export.bundle
    return PlannedExport(
        id=bundle.id,
        kind=bundle.kind,
        title=bundle.title,
        expires=expires,
        content_root=bundle.content_root,
        totals=bundle.totals,
        signed=signed,
        volumes=[_file(export, n) for n in range(1, export.volumes + 1)],
        left_out=[_lack(lack) for lack in export.left_out if lack.missing],
        partial=[_lack(lack) for lack in export.partial],
        unanswered=[lack.ref for lack in export.left_out if not lack.missing],
        notes=[*notes, *export.notes],
    )


def _file(export: Export, n: int) -> VolumeFile:
    return VolumeFile(n, export.file_name(n), export.size(n), f"/api/v1/exports/{export.bundle.id}/volumes/{n}")


def _lack(lack: Omitted) -> Lack:
    return Lack(lack.ref, lack.why, [_lacking(piece) for piece in lack.missing])


def _lacking(piece: ImageBlob) -> LackingBlob:
    return LackingBlob(str(piece.digest), piece.size, piece.kind)
