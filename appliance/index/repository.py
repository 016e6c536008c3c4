"""
What one repository is known to hold, as an OCI image index.

A tag is a descriptor whose annotation C{org.opencontainers.image.ref.name} is the tag (image-spec,
C{annotations.md}); a manifest held without a tag is a descriptor without it. What OCI has no field for:

=======================  =========================================================================================
on a tag's descriptor
``io.pullcache.tagged``  when the tag was first seen to mean this digest, RFC 3339 UTC
``io.pullcache.checked`` when the upstream last said so
``io.pullcache.locked``  C{"true"}: an operator wants that it never means another digest
on any descriptor
``io.pullcache.pinned``  what keeps it from retention: the id of the bundle that brought it, or C{operator}
``io.pullcache.confirm`` C{"true"}: an upstream gave the manifest. What it names is this repository's only where the
                         upstream has said so, digest by digest. Without it, what the manifest names is the
                         repository's: a bundle brought it, or a version that did not know this annotation
on the index
``io.pullcache.blobs``   JSON object of digest to size: blobs that the upstream gave in this repository, or said that
                         it has there
``io.pullcache.journal`` number of the first journal that goes on where the document ends; only on large documents
=======================  =========================================================================================

A line of a journal (L{appliance.index.journal}) says what became of some of it: descriptors as above, which replace
what was there, and what is there no longer. Applying it again changes nothing::

    {"manifests": [descriptor...], "untagged": [tag...], "dropped": [digest...], "blobs": {digest: size or null}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from sys import intern
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from appliance.errors import DigestInvalid, DocumentDamaged, TagInvalid
from appliance.index.journal import records
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX
from appliance.oci.reference import parse_tag
from appliance.oci.timestamps import timestamp

K = TypeVar("K", bound=Any)
V = TypeVar("V")

REF_NAME = "org.opencontainers.image.ref.name"
TAGGED = "io.pullcache.tagged"
CHECKED = "io.pullcache.checked"
PINNED = "io.pullcache.pinned"
LOCKED = "io.pullcache.locked"
CONFIRM = "io.pullcache.confirm"
BLOBS = "io.pullcache.blobs"
JOURNAL = "io.pullcache.journal"

OPERATOR = "operator"
"""In the place of a bundle's id: an operator pinned it."""

# How a descriptor begins, with any blanks that an editor put there.
_DESCRIPTOR = re.compile(r'\{\s*"mediaType"')
_JOURNAL = re.compile(rf'"{re.escape(JOURNAL)}"\s*:\s*"([0-9]{{1,15}})"')


# What parsers raise for what is not theirs; msgspec's errors are ValueErrors.
_DAMAGE = (DigestInvalid, TagInvalid, ValueError, OverflowError, RecursionError)


class DescriptorEntry(msgspec.Struct, rename="camel", omit_defaults=True):
    """A descriptor in the index document."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}


class ImageIndex(msgspec.Struct, rename="camel"):
    """The index document (image-spec, C{image-index.md})."""

    schema_version: int
    media_type: str
    # One by one: ten thousand at once would keep all other threads from running meanwhile.
    manifests: list[msgspec.Raw]
    annotations: dict[str, str] = {}


class ChangeRecord(msgspec.Struct, omit_defaults=True):
    """A line of a journal."""

    manifests: list[DescriptorEntry] = []
    untagged: list[str] = []
    dropped: list[str] = []
    blobs: dict[str, int | None] = {}


_entry_decoder = msgspec.json.Decoder(DescriptorEntry)
_index_decoder = msgspec.json.Decoder(ImageIndex)
_change_decoder = msgspec.json.Decoder(ChangeRecord)
_encoder = msgspec.json.Encoder()


# Of records and tags too there may be a million (L{Digest}).
class ManifestRecord(msgspec.Struct, frozen=True, gc=False):
    """
    A manifest held.

    @ivar media_type: never changes.
    @ivar size: bytes.
    @ivar confirm: whether what it names is the repository's only where the upstream has said so. Without it the
        manifest is I{trusted}: what it names is the repository's.
    """

    media_type: str
    size: int
    confirm: bool = False


class Tag(msgspec.Struct, frozen=True, gc=False):
    """
    What a tag means.

    @ivar digest: the manifest's digest.
    @ivar tagged_at: when it was first seen to mean this, seconds since the epoch.
    @ivar checked_at: when the upstream last said so, seconds since the epoch; 0 when that is not known.
    @ivar pinned: what keeps it from retention: the id of the bundle that brought it, or L{OPERATOR}; C{None}: nothing.
    @ivar locked: whether it is to mean this digest whatever an upstream or a bundle says.
    """

    digest: Digest
    tagged_at: float
    checked_at: float
    pinned: str | None = None
    locked: bool = False


@dataclass(slots=True)
class Changed:
    """What of a repository has changed: names of tags, digests of manifests (their pins too) and of blobs."""

    tags: set[str] = field(default_factory=set)
    manifests: set[Digest] = field(default_factory=set)
    blobs: set[Digest] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.tags or self.manifests or self.blobs)


class Repository:
    """
    One repository of one upstream, in memory. All that changes it is a method of it.

    @ivar tags: by name; each tag's manifest is in L{manifests}.
    @ivar manifests: manifests held, by digest.
    @ivar blobs: sizes of blobs that the upstream gave here, or said that it has here, by digest.
    @ivar pinned: manifests without a tag that are kept from retention, with the bundle's id or L{OPERATOR}.
    @ivar journal: number of the first journal that goes on where the document ends that it was read from; 0: none does.
    @ivar when_changed: is called at each change.
    """

    def __init__(self, upstream: str, name: str) -> None:
        self.upstream = upstream
        self.name = name
        self._tags: dict[str, Tag] = {}
        self._manifests: dict[Digest, ManifestRecord] = {}
        self._blobs: dict[Digest, int] = {}
        self._pinned: dict[Digest, str] = {}
        self.tags: Mapping[str, Tag] = MappingProxyType(self._tags)
        self.manifests: Mapping[Digest, ManifestRecord] = MappingProxyType(self._manifests)
        self.blobs: Mapping[Digest, int] = MappingProxyType(self._blobs)
        self.pinned: Mapping[Digest, str] = MappingProxyType(self._pinned)
        self.journal = 0
        self._tag_names: list[str] | None = None
        self.when_changed: Callable[[], None] | None = None
        # Made with the first change: most repositories are only read.
        self._changed: Changed | None = None

    @property
    def place(self) -> tuple[str, str]:
        """The upstream's configured name and the repository's full name there."""
        return self.upstream, self.name

    @property
    def tag_names(self) -> list[str]:
        """The names of the tags, sorted: the same list, not to be changed, until a tag comes or goes."""
        if self._tag_names is None:
            self._tag_names = sorted(self._tags)
        return self._tag_names

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is held."""
        return not (self._tags or self._manifests or self._blobs)

    @property
    def weight(self) -> int:
        """What it takes in memory in bytes, roughly."""
        return 1000 + 250 * len(self.tags) + 450 * len(self.manifests) + 300 * (len(self.blobs) + len(self.pinned))

    # -- what is held -----------------------------------------------------------------------------------------------

    def hold(self, digest: Digest, media_type: str, size: int, confirm: bool = False) -> None:
        """
        Note a manifest; the first media type a digest came with stays.

        @param confirm: see L{ManifestRecord}; a manifest that was trusted once stays so.
        """
        held = self._manifests.get(digest)
        if held is None:
            self._manifests[digest] = ManifestRecord(media_type, size, confirm)
            self._note().manifests.add(digest)
        elif held.confirm and not confirm:
            self._manifests[digest] = replace(held, confirm=False)
            self._note().manifests.add(digest)

    def drop(self, *digests: Digest) -> None:
        """
        Hold these manifests no longer, nor their pins; one that is not held is no error. What they name stays noted.

        @raise ValueError: a tag means one of them.
        """
        gone = set(digests)
        for name, tag in self._tags.items():
            if tag.digest in gone:
                raise ValueError(f"{self.upstream}/{self.name}:{name} means {tag.digest}")
        for digest in digests:
            self._pinned.pop(digest, None)
            self._manifests.pop(digest, None)
        self._note().manifests.update(digests)

    def link(self, digest: Digest, size: int) -> bool:
        """Its upstream has a blob of that many bytes here; whether that is news, to be saved."""
        if self._blobs.get(digest) == size:
            return False
        self._blobs[digest] = size
        self._note().blobs.add(digest)
        return True

    def unlink(self, digest: Digest) -> bool:
        """Forget that its upstream has the blob here; whether that is news, to be saved."""
        self._note().blobs.add(digest)
        return self._blobs.pop(digest, None) is not None

    # -- what tags mean ---------------------------------------------------------------------------------------------

    def tag(self, name: str, digest: Digest, now: float, pinned: str | None = None) -> bool:
        """
        Let the tag mean C{digest}, a manifest held; whether it meant something else before.

        A bundle's pin stays while the digest does, an operator's wherever the tag goes. A locked tag does not move.

        @param pinned: the bundle that says so, C{None} for an upstream.
        """
        before = self._tags.get(name)
        if before is not None and before.pinned == OPERATOR:
            pinned = OPERATOR
        self._note().tags.add(name)
        if before is not None and before.digest == digest:
            self._tags[name] = replace(before, checked_at=now, pinned=pinned or before.pinned)
            return False
        if before is None:
            self._tag_names = None
        elif before.locked:
            return False
        self._tags[name] = Tag(digest, now, now, pinned)
        return True

    def untag(self, name: str) -> None:
        """Forget the tag, with its pin; its manifest is held on. One that is not there is no error."""
        if self._tags.pop(name, None) is not None:
            self._tag_names = None
            self._note().tags.add(name)

    # -- what is kept -----------------------------------------------------------------------------------------------

    def pin(self, what: str | Digest, by: str) -> None:
        """
        Keep a tag, or a manifest without one, from retention. An operator's pin stays that.

        @param what: a tag, or the digest of a manifest held.
        @param by: id of the bundle that brought it, or L{OPERATOR}.
        @raise KeyError: there is no such tag.
        """
        if isinstance(what, Digest):
            if self._pinned.get(what) != OPERATOR:
                self._pinned[what] = by
                self._note().manifests.add(what)
        elif self._tags[what].pinned != OPERATOR:
            self._tags[what] = replace(self._tags[what], pinned=by)
            self._note().tags.add(what)

    def unpin(self, what: str | Digest) -> str | None:
        """
        Lift what keeps a tag, or a manifest without one, from retention; and the tag's lock.

        @return: who had pinned it, as in L{pin}; C{None} when it was not pinned.
        @raise KeyError: there is no such tag.
        """
        if isinstance(what, Digest):
            self._note().manifests.add(what)
            return self._pinned.pop(what, None)
        before = self._tags[what]
        self._note().tags.add(what)
        self._tags[what] = replace(before, pinned=None, locked=False)
        return before.pinned

    def lock(self, name: str) -> None:
        """
        Let the tag mean what it means whatever an upstream or a bundle says, until it is unpinned.

        @raise KeyError: there is no such tag.
        """
        self._tags[name] = replace(self._tags[name], locked=True)
        self._note().tags.add(name)

    # -- what has changed -------------------------------------------------------------------------------------------

    def take_changed(self) -> Changed:
        """What has changed since this was called before, or since it was read."""
        changed, self._changed = self._changed, None
        return changed or Changed()

    def note(self, changed: Changed) -> None:
        """What was L{taken<take_changed>} has yet to be written."""
        noted = self._note()
        noted.tags |= changed.tags
        noted.manifests |= changed.manifests
        noted.blobs |= changed.blobs

    def _note(self) -> Changed:
        if self.when_changed is not None:
            self.when_changed()
        if self._changed is None:
            self._changed = Changed()
        return self._changed

    def copy(self) -> Repository:
        """As it is now, for another thread; cheap, for what it holds is never changed, only replaced."""
        copied = Repository(self.upstream, self.name)
        copied.overlay(self)
        return copied

    def overlay(self, other: Repository) -> None:
        """Take over what C{other} holds, in place of what is held here under the same names; noted as no change."""
        # Of dicts, which know the hashes of their keys; their views would compute each again.
        self._manifests.update(other._manifests)
        self._tags.update(other._tags)
        self._blobs.update(other._blobs)
        self._pinned.update(other._pinned)
        self._tag_names = None

    # -- the document -----------------------------------------------------------------------------------------------

    def encode(self, journal: int = 0) -> bytes:
        """
        The index document.

        @param journal: see L{journal}.
        """
        described: list[tuple[Digest, dict[str, str]]] = []
        for name, tag in sorted(self.tags.items()):
            described.append((tag.digest, _said_of(name, tag)))
        tagged = {tag.digest for tag in self.tags.values()}
        for digest in self.manifests:
            if digest in self.pinned:
                described.append((digest, {PINNED: self.pinned[digest]}))
            elif digest not in tagged:
                described.append((digest, {}))
        entries = [msgspec.Raw(_encoder.encode(self._entry(digest, said))) for digest, said in described]
        annotations = {"io.pullcache.upstream": self.upstream, "io.pullcache.repository": self.name}
        if self.blobs:
            annotations[BLOBS] = _encoder.encode({str(digest): size for digest, size in self.blobs.items()}).decode()
        if journal:
            annotations[JOURNAL] = str(journal)
        return _encoder.encode(ImageIndex(2, OCI_INDEX, entries, annotations))

    def encode_changes(self, changed: Changed) -> bytes:
        """A record for the journal: what has become of what changed."""
        entries = [self._entry(tag.digest, _said_of(name, tag)) for name, tag in _of(changed.tags, self._tags)]
        for digest, _ in _of(changed.manifests, self._manifests):
            entries.append(self._entry(digest, {PINNED: self._pinned[digest]} if digest in self._pinned else {}))
        return _encoder.encode(
            ChangeRecord(
                entries,
                sorted(changed.tags - self._tags.keys()),
                [str(digest) for digest in sorted(changed.manifests - self._manifests.keys())],
                {str(digest): self._blobs.get(digest) for digest in sorted(changed.blobs)},
            )
        )

    def _entry(self, digest: Digest, said: dict[str, str]) -> DescriptorEntry:
        record = self._manifests[digest]
        if record.confirm:
            said[CONFIRM] = "true"
        return DescriptorEntry(record.media_type, str(digest), record.size, said)

    @classmethod
    def decode(cls, upstream: str, name: str, data: bytes) -> Repository:
        """
        Read an index document.

        @raise DocumentDamaged: it is not one of ours, or not whole.
        """
        repository = cls(upstream, name)
        try:
            index = _index_decoder.decode(data)
            for raw in index.manifests:
                repository._admit(_entry_decoder.decode(raw))
            for digest, size in msgspec.json.decode(index.annotations.get(BLOBS, "{}"), type=dict[str, int]).items():
                repository._blobs[Digest.parse(digest)] = size
            repository.journal = int(index.annotations.get(JOURNAL, "0"))
        except _DAMAGE as error:
            raise DocumentDamaged(f"index of {upstream}/{name}: {error}") from error
        repository._changed = None
        return repository

    def apply(self, record: bytes) -> None:
        """
        What a record of the journal says; it is noted as no change.

        @raise DocumentDamaged: it is none. Some of it may have been applied.
        """
        try:
            change = _change_decoder.decode(record)
            for digest in map(Digest.parse, change.dropped):
                self._manifests.pop(digest, None)
                self._pinned.pop(digest, None)
            for entry in change.manifests:
                digest = Digest.parse(entry.digest)
                self._manifests.pop(digest, None)
                if REF_NAME not in entry.annotations:
                    self._pinned.pop(digest, None)
                self._admit(entry)
            for name in change.untagged:
                self._tags.pop(name, None)
            for text, size in change.blobs.items():
                if size is None:
                    self._blobs.pop(Digest.parse(text), None)
                else:
                    self._blobs[Digest.parse(text)] = size
        except _DAMAGE as error:
            raise DocumentDamaged(f"journal of {self.upstream}/{self.name}: {error}") from error
        finally:
            self._changed = self._tag_names = None

    def replay(self, data: bytes) -> int:
        """
        Apply what a journal says, as far as it is whole.

        @return: how many of its lines are damaged. The last one may be torn, which is none: it was never promised.
        """
        whole, damaged = records(data)
        for record in whole:
            try:
                self.apply(record)
            except DocumentDamaged:
                damaged += 1
        # Where lines are missing, a tag may be left whose manifest went.
        for name in [name for name, tag in self._tags.items() if tag.digest not in self._manifests]:
            del self._tags[name]
        return damaged

    @classmethod
    def salvage(cls, upstream: str, name: str, data: bytes) -> Repository:
        """
        What can still be read of a damaged index document: the descriptors that are whole, and L{journal} where that
        is.
        """
        repository = cls(upstream, name)
        text = data.decode("utf-8", "replace")
        if (found := _JOURNAL.search(text)) is not None:
            repository.journal = int(found[1])
        decoder = json.JSONDecoder()
        for beginning in _DESCRIPTOR.finditer(text):
            try:
                _, end = decoder.raw_decode(text, beginning.start())
                # Decoded as strictly as the whole document is: what is taken now has to be written again.
                repository._admit(msgspec.json.decode(text[beginning.start() : end], type=DescriptorEntry))
            except _DAMAGE:
                pass
        repository._changed = None
        return repository

    def _admit(self, entry: DescriptorEntry) -> None:
        digest = Digest.parse(entry.digest)
        # The same few texts on ten thousands of descriptors.
        self.hold(digest, intern(entry.media_type), entry.size, entry.annotations.get(CONFIRM) == "true")
        if (pinned := entry.annotations.get(PINNED)) is not None:
            pinned = intern(pinned)
        if (name := entry.annotations.get(REF_NAME)) is not None:
            tagged_at, checked_at = _seconds(entry.annotations.get(TAGGED)), _seconds(entry.annotations.get(CHECKED))
            locked = entry.annotations.get(LOCKED) == "true"
            self._tags[parse_tag(name)] = Tag(digest, tagged_at, checked_at, pinned, locked)
        elif pinned is not None:
            self._pinned[digest] = pinned


def _said_of(name: str, tag: Tag) -> dict[str, str]:
    """The annotations of a tag's descriptor."""
    said = {REF_NAME: name, TAGGED: timestamp(tag.tagged_at), CHECKED: timestamp(tag.checked_at)}
    if tag.pinned is not None:
        said[PINNED] = tag.pinned
    if tag.locked:
        said[LOCKED] = "true"
    return said


def _of(keys: set[K], held: Mapping[K, V]) -> list[tuple[K, V]]:
    """Those that are held, sorted by key."""
    return [(key, held[key]) for key in sorted(keys) if key in held]


def _seconds(text: str | None) -> float:
    # In UTC, so that what was read can be written again: the last day of 9999 may be the first of 10000 there.
    return 0.0 if text is None else datetime.fromisoformat(text).astimezone(UTC).timestamp()
