"""
Descriptors: what one document says of another, or of a blob.

OCI image specification, descriptor.md. Fields that are not known here are left alone; the document's bytes are what
is kept.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from appliance.oci.digest import Digest

#: No blob is larger than this, in bytes; what claims to be is refused when decoded.
MAX_SIZE = 2**50


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """
    One descriptor, as decoded from JSON.

    @ivar digest: as written; L{parsed} checks it.
    @ivar size: bytes.
    @ivar media_type: of what it points to, C{""} when absent. Any text: unknown ones must be accepted.
    @ivar platform: of an index's child, as written.
    """

    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]
    media_type: str = ""
    platform: dict[str, Any] | None = None
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None

    def parsed(self) -> Digest:
        """The digest. Raises L{DigestInvalid}; never for a descriptor that came through C{parse_manifest}."""
        return Digest.parse(self.digest)
