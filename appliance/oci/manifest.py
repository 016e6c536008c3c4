"""
Manifests and indexes: what they point to, and what they are.

OCI image specification, manifest.md and image-index.md. The document is only read here: what is kept and served is
its bytes. A document is refused when two readers could take it for different things (CVE-2021-41190), or when it
names something by a digest that cannot be verified.

Readers in Go take a key in any case for the field it resembles, and of two the last one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec

from appliance.errors import DigestInvalid, ManifestInvalid
from appliance.oci import mediatypes
from appliance.oci.descriptor import Descriptor

#: The largest manifest, in bytes; what distribution and containers/image accept too.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

#: Content-Types that say nothing of a manifest: servers give them to any file.
_GENERIC = frozenset({"application/json", mediatypes.OCTET_STREAM, "binary/octet-stream"})

_SCHEMA_VERSION = 2

#: The fields that point to something; a document of an unknown type has at least one.
_POINTERS = ("manifests", "config", "layers", "blobs")

#: The keys that mean something in a document, in its descriptors and in their platforms.
_KEYS = frozenset(
    "schemaVersion mediaType artifactType annotations manifests config layers blobs subject fsLayers".split()
)
_DESCRIPTOR_KEYS = frozenset("mediaType digest size urls annotations data artifactType platform".split())
_PLATFORM_KEYS = frozenset("architecture os os.version os.features variant features".split())
_FOLDED = {name.casefold(): name for name in _KEYS | _DESCRIPTOR_KEYS | _PLATFORM_KEYS}
_DESCRIBING = frozenset({"manifests", "config", "layers", "blobs", "subject"})


@dataclass(frozen=True)
class Manifest:
    """
    One manifest or index.

    @ivar media_type: what it is to be served as; without parameters and safe as a header's value.
    @ivar manifests: an index's children.
    @ivar blobs: an image's config, then its layers; an artifact manifest's blobs.
    @ivar subject: what it refers to, a weak link.
    @ivar artifact_type: as written in the document.
    """

    media_type: str
    manifests: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def is_index(self) -> bool:
        """Whether its children are manifests."""
        return self.media_type in mediatypes.INDEXES or bool(self.manifests)

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        """Of all that it names: its children, then its blobs; not of its subject."""
        return (*self.manifests, *self.blobs)


class _ManifestDocument(msgspec.Struct, rename="camel"):
    """Every field of any manifest that is looked at. Unset and null differ: both count as said, one as nothing."""

    schema_version: int | None = None
    media_type: str | None = None
    artifact_type: str | None = None
    manifests: list[Descriptor] | None | msgspec.UnsetType = msgspec.UNSET
    config: Descriptor | None | msgspec.UnsetType = msgspec.UNSET
    layers: list[Descriptor] | None | msgspec.UnsetType = msgspec.UNSET
    blobs: list[Descriptor] | None | msgspec.UnsetType = msgspec.UNSET
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    def has(self, name: str) -> bool:
        """Whether the field stands in the document, null or not."""
        return getattr(self, name) is not msgspec.UNSET


_decoder = msgspec.json.Decoder(_ManifestDocument)

#: Gives objects as tuples of pairs, so that no key is lost; numbers stay text, which costs the same for any length.
_pairs = json.JSONDecoder(object_pairs_hook=tuple, parse_int=str, parse_float=str)


def parse_manifest(data: bytes, content_type: str | None, described_as: str | None = None) -> Manifest:
    """
    Read a manifest or index.

    @param content_type: the Content-Type it came with; counts when the document does not say what it is, and must not
        name another type of manifest when it does.
    @param described_as: the media type in the descriptor that names it; counts when neither of them says.
    @raise ManifestInvalid: it must not be stored; the message says why.
    """
    document = _decode(data)
    check_keys(data)
    _refuse_ambiguous(document)
    media_type = _media_type(document, content_type, described_as)
    _check_shape(document, media_type)
    config = (document.config,) if isinstance(document.config, Descriptor) else ()
    manifest = Manifest(
        media_type=media_type,
        manifests=tuple(document.manifests or ()),
        blobs=(*config, *(document.layers or ()), *(document.blobs or ())),
        subject=document.subject,
        artifact_type=document.artifact_type,
        annotations=document.annotations or {},
    )
    subject = () if manifest.subject is None else (manifest.subject,)
    for descriptor in (*manifest.manifests, *manifest.blobs, *subject):
        try:
            descriptor.parsed()
        except DigestInvalid as error:
            raise ManifestInvalid(f"cannot verify what it points to: {error}") from None
    return manifest


def _decode(data: bytes) -> _ManifestDocument:
    """The document's fields. Raises L{ManifestInvalid} for anything but a JSON object of the right types."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"{len(data)} bytes are too many for a manifest: {MAX_MANIFEST_BYTES} are allowed")
    try:
        return _decoder.decode(data)
    except RecursionError:
        raise ManifestInvalid("nested too deeply for a manifest") from None
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise ManifestInvalid(f"no manifest: {error}") from None


def check_keys(data: bytes) -> None:
    """
    Look at the keys of a manifest, an index or a list of descriptors.

    @raise ManifestInvalid: at the top, in a descriptor or in its platform a key that is known stands twice, or in
        another case; or it is no JSON.
    """
    try:
        document = _pairs.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"no manifest: {error}") from None
    for name, value in _checked(document, _KEYS, "the document"):
        if name in _DESCRIBING:
            for descriptor in value if isinstance(value, list) else (value,):
                for key, inner in _checked(descriptor, _DESCRIPTOR_KEYS, f"a descriptor of '{name}'"):
                    if key == "platform":
                        _checked(inner, _PLATFORM_KEYS, f"a platform of '{name}'")


def _checked(found: Any, known: frozenset[str], where: str) -> tuple[tuple[str, Any], ...]:
    """The pairs of an object, none of what is no object. Raises L{ManifestInvalid} for what readers may differ in."""
    pairs: tuple[tuple[str, Any], ...] = found if isinstance(found, tuple) else ()
    seen = {key for key, _ in pairs}
    if len(seen) == len(pairs) and known.issuperset(seen):
        return pairs
    counted: set[str] = set()
    for key, _ in pairs:
        name = _FOLDED.get(key.casefold())
        if name in known and key != name:
            raise ManifestInvalid(f"{key!r} stands in {where}: readers differ in whether that is {name!r}")
        if key in counted:
            raise ManifestInvalid(f"{key!r} stands twice in {where}: readers differ in which of them counts")
        if key in known:
            counted.add(key)
    return pairs


def _refuse_ambiguous(document: _ManifestDocument) -> None:
    """Raises L{ManifestInvalid} for what readers may take for different things, or cannot verify."""
    for other in ("config", "layers", "blobs"):
        if document.has("manifests") and document.has(other):
            raise ManifestInvalid(f"'manifests' and '{other}' in one document: it is neither index nor image")
    if document.has("fs_layers") or document.schema_version == 1:
        raise ManifestInvalid("a manifest of Docker schema 1; only schema version 2 is kept")
    if document.schema_version not in (None, _SCHEMA_VERSION):
        raise ManifestInvalid(f"schemaVersion {document.schema_version} is not known; {_SCHEMA_VERSION} is")


def _media_type(document: _ManifestDocument, content_type: str | None, described_as: str | None) -> str:
    """
    What the document is: by its own word, else its sender's, else that of what names it, else its fields.

    @raise ManifestInvalid: it is none, or its own word and its sender's differ.
    """
    claimed = claimed_type(content_type)
    if document.media_type and claimed and document.media_type.lower() != claimed:
        raise ManifestInvalid(f"it came as {claimed} and says that it is {document.media_type[:160]!r}")
    media_type = document.media_type or claimed or claimed_type(described_as) or _inferred(document)
    if media_type in mediatypes.SCHEMA1:
        raise ManifestInvalid("a manifest of Docker schema 1; only schema version 2 is kept")
    # A known type in another case: some readers know it then, and some do not.
    is_misspelt = media_type != media_type.lower() in mediatypes.INDEXES | mediatypes.IMAGES
    if not mediatypes.may_be_manifest(media_type) or is_misspelt:
        raise ManifestInvalid(f"{media_type[:160]!r} is no media type of a manifest")
    return media_type


def claimed_type(content_type: str | None) -> str | None:
    """
    The type of manifest that a Content-Type or a descriptor's media type claims, in lower case; C{None} when it claims
    none: what servers give to any file, or what no manifest may be.
    """
    claimed = mediatypes.without_parameters(content_type or "")
    return None if claimed in _GENERIC or not mediatypes.may_be_manifest(claimed) else claimed


def _inferred(document: _ManifestDocument) -> str:
    """The OCI type whose fields the document has. Raises L{ManifestInvalid}."""
    if document.has("manifests"):
        return mediatypes.OCI_INDEX
    if document.has("config") and document.has("layers"):
        return mediatypes.OCI_MANIFEST
    raise ManifestInvalid("no manifest: there is no media type, no 'manifests', and no 'config' with 'layers'")


def _check_shape(document: _ManifestDocument, media_type: str) -> None:
    """Raises L{ManifestInvalid} when the document is not of the shape of its type; other types need only some shape."""
    if media_type in mediatypes.INDEXES:
        if not document.has("manifests"):
            raise ManifestInvalid(f"no 'manifests' in a document of type {media_type}")
    elif media_type in mediatypes.IMAGES:
        if not isinstance(document.config, Descriptor):
            raise ManifestInvalid(f"no 'config' in a document of type {media_type}")
    elif media_type != mediatypes.OCI_ARTIFACT_MANIFEST and not any(map(document.has, _POINTERS)):
        raise ManifestInvalid(f"a document of type {media_type} that points to nothing")
