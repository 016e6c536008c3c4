"""
What upstreams listed, as last received: the tags of a repository, and what refers to a manifest.

``<upstream>/<repository>/_tags.json`` is the JSON of a L{TagList}.

``<upstream>/<repository>/_referrers/<algorithm>-<hex>.json`` is an OCI image index as the referrers API of the
distribution specification gives it. Its descriptors are the upstream's, bit for bit; its annotations are the list's:

=======================  =================================================
``io.pullcache.heard``   when the upstream said so, RFC 3339 UTC
``io.pullcache.cut``     C{true} when it has more referrers than are kept
=======================  =================================================

Nothing else is in them: what bundles brought and what clients pulled are tags and manifests held, which say of
themselves what they are. So replacing such a document loses nothing but an older answer of the upstream, and one that
is damaged is set aside and asked for again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

from appliance.errors import DocumentDamaged, ManifestInvalid, VersionConflict
from appliance.flow.disk import is_refusal
from appliance.flow.lru import LeastRecentlyUsed
from appliance.flow.singleflight import SingleFlight
from appliance.index.documents import read_document
from appliance.interfaces import IDocuments
from appliance.oci.digest import Digest
from appliance.oci.referrer import ReferrerDescriptor, index_of, parse_referrers
from appliance.oci.timestamps import timestamp

TAGS = "_tags.json"
REFERRERS = "_referrers"
HEARD = "io.pullcache.heard"
CUT = "io.pullcache.cut"

BUDGET = 16 * 1024 * 1024
"""The most bytes of lists in memory, of tags and of referrers each."""

LIMIT = 1000
"""The most lists of referrers in memory."""

# What an entry takes beside its characters, roughly.
_TAG_OVERHEAD = 64
_REFERRER_OVERHEAD = 500
_TRIES = 3

Key = tuple[str, ...]
T = TypeVar("T")


class TagList(msgspec.Struct, frozen=True):
    """
    Tags that an upstream listed.

    @ivar tags: sorted, each once.
    @ivar checked_at: when it did, seconds since the epoch.
    """

    tags: list[str]
    checked_at: float


@dataclass(frozen=True)
class ReferrerList:
    """
    What refers to a manifest, as its upstream listed it.

    @ivar referrers: each digest once, in the upstream's order.
    @ivar received_at: when it said so, seconds since the epoch.
    @ivar cut: whether it has more of them.
    """

    referrers: tuple[ReferrerDescriptor, ...]
    received_at: float
    cut: bool = False


class _Lists(Generic[T]):
    """Lists of one kind, each read when it is asked for; those used last stay in memory, with their versions."""

    def __init__(
        self,
        documents: IDocuments,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T],
        weigh: Callable[[T], int],
        known: LeastRecentlyUsed[Key, tuple[T | None, int]],
    ) -> None:
        """
        @param decode: see L{read_document}.
        @param weigh: bytes of a list in memory.
        """
        self._documents = documents
        self._encode = encode
        self._decode = decode
        self._weigh = weigh
        self._known = known
        self._loading: SingleFlight[Key, tuple[T | None, int]] = SingleFlight()

    async def entry(self, key: Key) -> tuple[T | None, int]:
        """The list, C{None} when none was received; and the document's version, 0 when there is none."""
        return self._known.get(key) or await self._loading.run(key, lambda: self._load(key))

    async def _load(self, key: Key) -> tuple[T | None, int]:
        found, version = await read_document(self._documents, key, self._decode)
        if found is not None:
            # That there is none is not remembered: names that a client makes up drive nothing out of memory.
            self._known.put(key, (found, version), self._weigh(found))
        return found, version

    async def replace(self, key: Key, new: T, keep: bool) -> None:
        """See L{TagLists.save}."""
        version = (await self.entry(key))[1]
        if keep or version:
            try:
                version = await self._write(key, self._encode(new), version)
            except OSError as error:
                # What the disk does not take is known all the same.
                if is_refusal(error):
                    self._known.put(key, (new, version), self._weigh(new))
                raise
        self._known.put(key, (new, version), self._weigh(new))

    async def _write(self, key: Key, data: bytes, version: int) -> int:
        """Replace the document, whatever was written meanwhile: each list is the whole of what the upstream said."""
        for _ in range(_TRIES - 1):
            try:
                return await self._documents.write(key, data, version)
            except VersionConflict:
                found = await self._documents.read(key)
                version = 0 if found is None else found[1]
        return await self._documents.write(key, data, version)


class TagLists:
    """The tags that upstreams listed, by repository."""

    def __init__(self, documents: IDocuments, budget: int = BUDGET) -> None:
        """
        @param budget: bytes of memory.
        """

        def weigh(tags: TagList) -> int:
            # The list of a very large repository stays while no other is asked for: it takes longest to read.
            return min(sum(_TAG_OVERHEAD + len(tag) for tag in tags.tags) + _TAG_OVERHEAD, budget)

        self._lists = _Lists(documents, msgspec.json.encode, _decode_tags, weigh, LeastRecentlyUsed(budget))

    async def get(self, upstream: str, name: str) -> TagList | None:
        """The list as last received, C{None} when there was none."""
        return (await self._lists.entry((upstream, *name.split("/"), TAGS)))[0]

    async def save(self, upstream: str, name: str, tags: TagList, keep: bool = True) -> None:
        """
        Replace the list; durable on return.

        @param keep: whether it is worth a document: without one it is known as long as memory has room for it. A
            document that is there is replaced in any case.
        @raise VersionConflict: it is replaced by others all the time.
        @raise OSError: the disk does not take it; it is known as long as memory has room for it.
        """
        await self._lists.replace((upstream, *name.split("/"), TAGS), tags, keep)


class ReferrerLists:
    """What upstreams listed as referring to a manifest, by repository and subject."""

    def __init__(self, documents: IDocuments, budget: int = BUDGET) -> None:
        """
        @param budget: bytes of memory.
        """

        def weigh(found: ReferrerList) -> int:
            return sum(len(each.raw) + _REFERRER_OVERHEAD for each in found.referrers)

        known = LeastRecentlyUsed[Key, tuple[ReferrerList | None, int]](budget, LIMIT)
        self._lists = _Lists(documents, _encode_referrers, _decode_referrers, weigh, known)

    async def get(self, upstream: str, name: str, subject: Digest) -> ReferrerList | None:
        """The list as last received, C{None} when there was none."""
        return (await self._lists.entry(_referrers_key(upstream, name, subject)))[0]

    async def save(self, upstream: str, name: str, subject: Digest, new: ReferrerList, keep: bool = True) -> None:
        """As L{TagLists.save}."""
        await self._lists.replace(_referrers_key(upstream, name, subject), new, keep)


_tags_decoder = msgspec.json.Decoder(TagList)


def _decode_tags(data: bytes) -> TagList:
    found = _tags_decoder.decode(data)
    # Whether it is sorted is not looked at before each page; sorting what is sorted costs next to nothing.
    return TagList(sorted(set(found.tags)), found.checked_at)


class _Annotations(msgspec.Struct):
    heard: Annotated[datetime, msgspec.Meta(tz=True)] = msgspec.field(name=HEARD)
    cut: Literal["true", "false"] = msgspec.field(name=CUT, default="false")


class _ReferrersDocument(msgspec.Struct):
    manifests: list[msgspec.Raw]
    annotations: _Annotations


def _referrers_key(upstream: str, name: str, subject: Digest) -> Key:
    return (upstream, *name.split("/"), REFERRERS, f"{subject.file_name}.json")


def _encode_referrers(found: ReferrerList) -> bytes:
    return index_of(found.referrers, {HEARD: timestamp(found.received_at)} | ({CUT: "true"} if found.cut else {}))


def _decode_referrers(data: bytes) -> ReferrerList:
    """Raises L{DocumentDamaged}, also when a single descriptor cannot be read."""
    try:
        document = msgspec.json.decode(data, type=_ReferrersDocument)
        referrers = tuple(parse_referrers(data))
        received_at = document.annotations.heard.timestamp()
    except (ValueError, OverflowError, RecursionError, ManifestInvalid) as error:
        raise DocumentDamaged(str(error)) from error
    if len(referrers) != len(document.manifests):
        raise DocumentDamaged(f"{len(document.manifests) - len(referrers)} entries are no descriptors, or twice there")
    return ReferrerList(referrers, received_at, document.annotations.cut == "true")
