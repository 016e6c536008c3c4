"""C{multipart/byteranges} (RFC 9110 section 14.6). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.flow.body import Part
from appliance.oci.digest import Digest
from appliance.oci.ranges import Span


@dataclass(frozen=True)
class Multipart:
    """A multipart body: its content type, its parts in order, and its length in bytes."""

    content_type: str
    parts: list[Part]
    length: int


def multipart(spans: Sequence[Span], size: int, digest: Digest, media_type: str) -> Multipart:
    """
    The body for several ranges of one blob.

    The boundary is made of the digest: the same answer always, and nothing a blob could hold by chance.
    """
    boundary = Digest.of(f"byteranges of {digest}".encode("ascii")).encoded[:40]
    parts: list[Part] = []
    before = f"--{boundary}\r\n"
    for span in spans:
        head = f"{before}Content-Type: {media_type}\r\nContent-Range: {content_range(span, size)}\r\n\r\n"
        parts += [head.encode("ascii"), span]
        before = f"\r\n--{boundary}\r\n"
    parts.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    length = sum(part.length if isinstance(part, Span) else len(part) for part in parts)
    return Multipart(f"multipart/byteranges; boundary={boundary}", parts, length)


def content_range(span: Span, size: int) -> str:
    """The C{Content-Range} of a span."""
    return f"bytes {span.start}-{span.stop - 1}/{size}"
