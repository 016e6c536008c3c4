"""What is told of a planned export."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.api import Lack, LackingBlob, PlannedExport, VolumeFile
from appliance.bundle.closure import ImageBlob
from appliance.bundle.export import Export, Omitted


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
