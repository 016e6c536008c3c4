"""From what is asked for to a planned export, with what is lacking fetched first where that is wanted."""

from __future__ import annotations

from dataclasses import replace

from appliance.bundle.closure import INDEX, MANIFEST
from appliance.bundle.export import Export, LeftOut
from appliance.bundle.exporter import Exporter
from appliance.bundle.names import Names
from appliance.bundle.references import Reference, parse_full
from appliance.bundle.selection import Selection, parse_pattern
from appliance.cache.completion import Completion
from appliance.errors import PullcacheError
from appliance.oci.digest import Digest

ROUNDS = 6
"""An index leads to manifests and these to blobs; each round goes one step down. Nested indexes are rare."""

LATEST = "latest"


class Ordering:
    """Plans exports of one appliance."""

    def __init__(self, exporter: Exporter, completion: Completion, names: Names) -> None:
        self._exporter = exporter
        self._completion = completion
        self._names = names

    async def plan(self, selection: Selection, complete: bool) -> tuple[Export, list[str]]:
        """
        The export, and in words what could not be fetched for it.

        @param complete: whether what is lacking is pulled through first.
        @raise BundleError: see L{Exporter.plan}.
        @raise NameInvalid: see L{Names.behind}.
        """
        selection = replace(selection, refs=tuple(map(self._names.behind, selection.refs)))
        # A client that has its image whole may be a moment ahead of the disk.
        await self._completion.settled()
        export = await self._exporter.plan(selection)
        troubles: dict[str, None] = {}
        for _ in range(ROUNDS if complete else 0):
            lacks = (*export.left_out, *export.partial)
            if not lacks:
                break
            failed = await self._fetch(lacks)
            troubles.update(dict.fromkeys(failed))
            before, export = lacks, await self._exporter.plan(selection)
            if (*export.left_out, *export.partial) == before:
                break
        return export, list(troubles)

    async def _fetch(self, lacks: tuple[LeftOut, ...]) -> list[str]:
        troubles = []
        for lack in lacks:
            place = self._place(lack)
            if place is not None:
                manifests = [*_named(place, lack), *(p.digest for p in lack.missing if p.kind in (INDEX, MANIFEST))]
                blobs = [piece.digest for piece in lack.missing if piece.kind not in (INDEX, MANIFEST)]
                troubles += await self._completion.fetch(place.upstream, place.repository, manifests, blobs)
        return troubles

    def _place(self, lack: LeftOut) -> Reference | None:
        """What a lack is about; C{None} for a pattern, which means nothing until something is held."""
        if lack.missing:
            return parse_full(lack.ref)
        try:
            pattern = parse_pattern(lack.ref, self._names.upstream_for)
            return parse_full(f"{pattern.place}{_suffix(pattern.tag, pattern.digest)}")
        except PullcacheError:
            # Wild cards are in no name.
            return None


def _named(place: Reference, lack: LeftOut) -> list[str | Digest]:
    """The reference itself, where nothing of it is held."""
    if lack.missing:
        return []
    return [place.digest or place.tag or LATEST]


def _suffix(tag: str | None, digest: str | None) -> str:
    return f"{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
