"""
Referrers: manifests that say of themselves that they are about another one.

OCI distribution specification, "Listing Referrers" and "Referrers Tag Schema". A list is an image index; its
descriptors are kept bit for bit, so that what is not known here is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from appliance.errors import DigestInvalid, ManifestInvalid
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest, check_keys
from appliance.oci.mediatypes import OCI_INDEX

#: Descriptors, and bytes of them, that are kept for one subject.
MAX_REFERRERS = 10_000
MAX_REFERRERS_BYTES = 16 * 1024 * 1024
#: Entries of one list that are looked at, rubbish included.
_MAX_ENTRIES = 5 * MAX_REFERRERS

#: What cosign puts behind the tag of a subject: its signatures, attestations and SBOMs.
COSIGN_SUFFIXES = (".att", ".sbom", ".sig")

_MAX_ALGORITHM = 32
_MAX_ENCODED = 64
_NOT_IN_A_TAG = re.compile(r"[^A-Za-z0-9._-]")
_ABOUT = re.compile(r"(sha256|sha512)-([a-f0-9]{64}(?:[a-f0-9]{64})?)(?:\.(?:att|sbom|sig))?")
_SCHEMA_VERSION = 2


@dataclass(frozen=True)
class ReferrerDescriptor:
    """
    One descriptor of a list of referrers.

    @ivar artifact_type: as written, C{None} when it is not.
    @ivar raw: the descriptor's JSON, as it was received.
    """

    digest: Digest
    media_type: str
    artifact_type: str | None
    raw: bytes


class _List(msgspec.Struct, rename="camel"):
    schema_version: int
    manifests: list[msgspec.Raw] | None
    media_type: str = OCI_INDEX


class _Descriptor(msgspec.Struct, rename="camel"):
    digest: str
    media_type: str = ""
    artifact_type: str | None = None


class _Made(msgspec.Struct, rename="camel", omit_defaults=True):
    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct, rename="camel", omit_defaults=True):
    schema_version: int
    media_type: str
    manifests: list[msgspec.Raw]
    annotations: dict[str, str] | None = None


def parse_referrers(data: bytes) -> list[ReferrerDescriptor]:
    """
    The descriptors of an image index, each digest once; those that are none, or whose digest cannot be verified, are
    left out.

    @raise ManifestInvalid: it is no image index, or one that readers may differ in.
    """
    check_keys(data)
    try:
        found = msgspec.json.decode(data, type=_List)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ManifestInvalid(f"no list of referrers: {error}") from None
    if found.schema_version != _SCHEMA_VERSION or found.media_type != OCI_INDEX:
        raise ManifestInvalid(f"no list of referrers: schemaVersion {found.schema_version}, {found.media_type[:160]!r}")
    return distinct(filter(None, map(_parsed, (found.manifests or ())[:_MAX_ENTRIES])))


def parse_descriptor(raw: bytes) -> ReferrerDescriptor:
    """One descriptor. Raises L{ManifestInvalid} when it is none, or its digest cannot be verified."""
    found = _parsed(raw)
    if found is None:
        raise ManifestInvalid("no descriptor of a referrer")
    return found


def referrer_of(digest: Digest, size: int, manifest: Manifest) -> ReferrerDescriptor:
    """
    The descriptor of a held manifest that has a C{subject}, as a registry would make it (distribution-spec, "Pushing
    Manifests with Subject"): an image's artifact type is its configuration's media type when it names none.
    """
    kind = manifest.artifact_type
    if kind is None and not manifest.is_index and manifest.blobs:
        kind = manifest.blobs[0].media_type or None
    made = _Made(manifest.media_type, str(digest), size, kind, manifest.annotations or None)
    return ReferrerDescriptor(digest, manifest.media_type, kind, msgspec.json.encode(made))


def index_of(referrers: Iterable[ReferrerDescriptor], annotations: dict[str, str] | None = None) -> bytes:
    """The image index of these descriptors, each as it was received."""
    manifests = [msgspec.Raw(each.raw) for each in referrers]
    return msgspec.json.encode(_Index(_SCHEMA_VERSION, OCI_INDEX, manifests, annotations))


def distinct(referrers: Iterable[ReferrerDescriptor]) -> list[ReferrerDescriptor]:
    """Each digest once, the first of it."""
    found: dict[Digest, ReferrerDescriptor] = {}
    for each in referrers:
        found.setdefault(each.digest, each)
    return list(found.values())


def within_limits(referrers: Iterable[ReferrerDescriptor]) -> tuple[list[ReferrerDescriptor], bool]:
    """As many of them as are kept for one subject, and whether there were more."""
    kept: list[ReferrerDescriptor] = []
    room = MAX_REFERRERS_BYTES
    for each in referrers:
        room -= len(each.raw)
        if room < 0 or len(kept) == MAX_REFERRERS:
            return kept, True
        kept.append(each)
    return kept, False


def fallback_tag(subject: Digest) -> str:
    """The tag that lists what refers to C{subject} where there is no referrers API (distribution-spec)."""
    algorithm, encoded = subject.algorithm[:_MAX_ALGORITHM], subject.encoded[:_MAX_ENCODED]
    return _NOT_IN_A_TAG.sub("-", f"{algorithm}-{encoded}")


def cosign_tags(subject: Digest) -> list[str]:
    """The tags under which cosign before version 3 leaves something about C{subject}."""
    return [f"{subject.file_name}{suffix}" for suffix in COSIGN_SUFFIXES]


def subject_of(tag: str | None) -> Digest | None:
    """What a manifest with such a tag is about, C{None} when the tag is an ordinary one."""
    match = _ABOUT.fullmatch(tag or "")
    try:
        return None if match is None else Digest.parse(f"{match[1]}:{match[2]}")
    except DigestInvalid:
        return None


def _parsed(raw: bytes | msgspec.Raw) -> ReferrerDescriptor | None:
    try:
        found = msgspec.json.decode(raw, type=_Descriptor)
        return ReferrerDescriptor(Digest.parse(found.digest), found.media_type, found.artifact_type, bytes(raw))
    except (msgspec.MsgspecError, DigestInvalid, ValueError, RecursionError):
        return None
