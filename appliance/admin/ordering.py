"""From what is asked for to a planned export, with what is lacking fetched first where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from appliance.api import ExportProgress
from appliance.bundle.closure import INDEX, MANIFEST
from appliance.bundle.export import Export, Omitted
from appliance.bundle.exporter import Exporter
from appliance.bundle.names import Names
from appliance.bundle.selection import Selection, parse_pattern
from appliance.cache.completion import Completion
from appliance.errors import PullcacheError
from appliance.oci.digest import Digest
from appliance.oci.reference import Reference

ROUNDS = 6
"""An index leads to manifests and these to blobs; each round goes one step down. Nested indexes are rare."""

LATEST = "latest"


class _Fetched:
    """
    What was fetched for one export: each object is asked for once.

    @ivar troubles: why some could not be.
    """

    def __init__(self, progress: Callable[[ExportProgress], None]) -> None:
        self._progress = progress
        self._begun: set[tuple[str, str, str | Digest, bool]] = set()
        self._done = 0
        self._total = 0
        self.troubles: dict[str, None] = {}

    def begins(self, upstream: str, repository: str, what: str | Digest, is_blob: bool = False) -> bool:
        """Whether it was not asked for before, as what it is: a wanted digest is asked for as a manifest's first."""
        key = (upstream, repository, what, is_blob)
        is_new = key not in self._begun
        self._begun.add(key)
        return is_new

    def expect(self, ref: str, octets: int) -> None:
        """So many bytes more are to be fetched."""
        self._total += octets
        self._progress(ExportProgress(done=self._done, total=self._total, entry=ref))

    def ended(self, ref: str, sizes: Mapping[Digest, int], what: str | Digest) -> None:
        """One object is held, or cannot be."""
        self._done += sizes.get(what, 0) if isinstance(what, Digest) else 0
        self._progress(ExportProgress(done=self._done, total=self._total, entry=ref))


class Ordering:
    """Plans exports of one appliance."""

    def __init__(self, exporter: Exporter, completion: Completion, names: Names) -> None:
        self._exporter = exporter
        self._completion = completion
        self._names = names

    async def plan(
        self, selection: Selection, complete: bool, progress: Callable[[ExportProgress], None] = lambda _: None
    ) -> tuple[Export, list[str]]:
        """
        The export, and in words what could not be fetched for it.

        What the other side wants and is not held is pulled through first, as a client would; cancelling ends that.

        @param complete: whether everything that is lacking is.
        @raise BundleError: see L{Exporter.plan}.
        @raise NameInvalid: see L{Names.behind}.
        """
        selection = replace(
            selection,
            refs=tuple(map(self._names.behind, selection.refs)),
            want=tuple(
                replace(want, upstream=self._names.upstream_for(want.upstream) or want.upstream)
                for want in selection.want
            ),
        )
        # A client that has its image whole may be a moment ahead of the disk.
        await self._completion.settled()
        if not (complete or selection.want):
            return await self._exporter.plan(selection), []
        fetching = replace(selection, volume_size=None)
        if not complete:
            fetching = replace(fetching, refs=(), all=False, since=None)
        fetched = _Fetched(progress)
        for _ in range(ROUNDS):
            export = await self._exporter.plan(fetching)
            if not await self._fetch((*export.left_out, *export.partial), fetched):
                break
        return await self._exporter.plan(selection), list(fetched.troubles)

    async def _fetch(self, lacks: tuple[Omitted, ...], fetched: _Fetched) -> bool:
        """Fetch what was not asked for yet; whether there was anything."""
        asked = False
        for lack in lacks:
            place = self._place(lack)
            if place is None:
                continue
            where = (place.upstream, place.repository)
            named = [*_named(place, lack), *(p.digest for p in lack.missing if p.kind in (INDEX, MANIFEST))]
            manifests = [each for each in named if fetched.begins(*where, each)]
            layers = [p for p in lack.missing if p.kind not in (INDEX, MANIFEST)]
            blobs = [p for p in layers if fetched.begins(*where, p.digest, is_blob=True)]
            if not manifests and not blobs:
                continue
            asked = True
            sizes = {piece.digest: piece.size for piece in lack.missing}
            fetched.expect(
                lack.ref,
                sum(
                    sizes.get(each, 0) for each in (*manifests, *(p.digest for p in blobs)) if isinstance(each, Digest)
                ),
            )
            ended = partial(fetched.ended, lack.ref, sizes)
            digests = [piece.digest for piece in blobs]
            fetched.troubles.update(dict.fromkeys(await self._completion.fetch(*where, manifests, digests, ended)))
        return asked

    def _place(self, lack: Omitted) -> Reference | None:
        """What a lack is about; C{None} for a pattern, which means nothing until something is held."""
        if lack.missing:
            return Reference.parse(lack.ref)
        try:
            pattern = parse_pattern(lack.ref, self._names.upstream_for)
            return Reference.parse(f"{pattern.place}{_suffix(pattern.tag, pattern.digest)}")
        except PullcacheError:
            # Wild cards are in no name.
            return None


def _named(place: Reference, lack: Omitted) -> list[str | Digest]:
    """The reference itself, where nothing of it is held."""
    if lack.missing:
        return []
    return [place.digest or place.tag or LATEST]


def _suffix(tag: str | None, digest: str | None) -> str:
    return f"{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
