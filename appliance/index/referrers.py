"""
What upstreams say refers to a manifest, as last heard: C{<upstream>/<repository>/_referrers/<algorithm>-<hex>.json}.

An OCI image index as the distribution specification's referrers API gives it; its descriptors are the upstream's, bit
for bit. What the list itself has to say is in its annotations:

=======================  ===============================================
``io.pullcache.heard``   when the upstream said so, RFC 3339 UTC
``io.pullcache.cut``     C{true} when it has more referrers than are kept
=======================  ===============================================

Nothing else is in it: what bundles brought and what the cache has seen by itself are manifests held, which say of
themselves what they refer to. So whoever replaces this document loses nothing but an older word of the upstream.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from appliance.errors import DocumentDamaged, ManifestInvalid, VersionConflict
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight
from appliance.index.documents import read_document
from appliance.interfaces import IDocuments
from appliance.oci.digest import Digest
from appliance.oci.referrer import Referrer, index_of, parse_referrers
from appliance.oci.timestamps import timestamp

FOLDER = "_referrers"
HEARD = "io.pullcache.heard"
CUT = "io.pullcache.cut"

LIMIT = 1000
"""The most lists kept in memory."""

BUDGET = 64 * 1024 * 1024
"""The most bytes of them."""

# What an entry of a list takes beside the bytes of its descriptor, roughly.
_OVERHEAD = 500
_TRIES = 3

Key = tuple[str, ...]


@dataclass(frozen=True)
class ReferrerList:
    """
    An upstream's word.

    @ivar referrers: each digest once, in the upstream's order.
    @ivar heard_at: when it said so, seconds since the epoch.
    @ivar cut: whether it has more of them.
    """

    referrers: tuple[Referrer, ...]
    heard_at: float
    cut: bool = False


@dataclass(frozen=True)
class _Entry:
    """
    @ivar heard: C{None} when the upstream never said anything.
    @ivar version: of the document, 0 when there is none.
    """

    heard: ReferrerList | None
    version: int

    @property
    def weight(self) -> int:
        referrers = () if self.heard is None else self.heard.referrers
        return sum(len(each.raw) + _OVERHEAD for each in referrers)


class _Annotations(msgspec.Struct):
    heard: Annotated[datetime, msgspec.Meta(tz=True)] = msgspec.field(name=HEARD)
    cut: Literal["true", "false"] = msgspec.field(name=CUT, default="false")


class _Document(msgspec.Struct):
    manifests: list[msgspec.Raw]
    annotations: _Annotations


class ReferrerLists:
    """The lists of all subjects, each read when it is asked for; those used last stay in memory."""

    def __init__(self, documents: IDocuments, budget: int = BUDGET) -> None:
        """
        @param budget: bytes.
        """
        self._documents = documents
        self._known: LeastRecentlyUsed[Key, _Entry] = LeastRecentlyUsed(budget, LIMIT)
        self._loading: SingleFlight[Key, _Entry] = SingleFlight()

    async def get(self, upstream: str, name: str, subject: Digest) -> ReferrerList | None:
        """The list as last heard, C{None} when there was none."""
        return (await self._entry(_key(upstream, name, subject))).heard

    async def save(self, upstream: str, name: str, subject: Digest, heard: ReferrerList, keep: bool = True) -> None:
        """
        Replace the list; durable on return.

        @param keep: whether it is worth a document: without one it is known as long as memory has room for it. A
            document that is there is replaced in any case.
        @raise VersionConflict: others replace it all the time.
        """
        key = _key(upstream, name, subject)
        version = (await self._entry(key)).version
        if keep or version:
            version = await self._write(key, _encode(heard), version)
        entry = _Entry(heard, version)
        self._known.put(key, entry, entry.weight)

    async def _write(self, key: Key, data: bytes, version: int) -> int:
        """Replace the document, whoever else did meanwhile: each of them has the upstream's whole word."""
        for _ in range(_TRIES - 1):
            try:
                return await self._documents.write(key, data, version)
            except VersionConflict:
                found = await self._documents.read(key)
                version = 0 if found is None else found[1]
        return await self._documents.write(key, data, version)

    # -- in memory --------------------------------------------------------------------------------------------------

    async def _entry(self, key: Key) -> _Entry:
        entry = self._known.get(key)
        if entry is None:
            # One reading for all who ask at the same time.
            return await self._loading.run(key, lambda: self._load(key))
        return entry

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _load(self, key: Key) -> _Entry:
        entry = await self._read(key)
        if entry.heard is not None:
            # Whoever makes digests up drives nothing out of memory.
            self._known.put(key, entry, entry.weight)
        return entry

    async def _read(self, key: Key) -> _Entry:
        # When it is damaged nothing is lost for good: the upstream is asked again.
        return _Entry(*await read_document(self._documents, key, _decode))


def _key(upstream: str, name: str, subject: Digest) -> Key:
    return (upstream, *name.split("/"), FOLDER, f"{subject.file_name}.json")


def _encode(heard: ReferrerList) -> bytes:
    return index_of(heard.referrers, {HEARD: timestamp(heard.heard_at)} | ({CUT: "true"} if heard.cut else {}))


def _decode(data: bytes) -> ReferrerList:
    """Raises L{DocumentDamaged}, also when a single descriptor cannot be read."""
    try:
        document = msgspec.json.decode(data, type=_Document)
        referrers = tuple(parse_referrers(data))
        heard_at = document.annotations.heard.timestamp()
    except (ValueError, OverflowError, RecursionError, ManifestInvalid) as error:
        raise DocumentDamaged(str(error)) from error
    if len(referrers) != len(document.manifests):
        raise DocumentDamaged(f"{len(document.manifests) - len(referrers)} entries are no descriptors, or twice there")
    return ReferrerList(referrers, heard_at, document.annotations.cut == "true")
