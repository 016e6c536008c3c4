"""
C{index.json} and C{manifest.json} of a bundle whose list of contents does not name them: what other tools read of it.

No signature covers them then, and no import of ours reads them. Whoever verifies a bundle and then hands it to another
tool must be sure all the same that a name there means what the signed list of contents says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from appliance.bundle.contents import INDEX, MANIFEST, Bundle, parse_name
from appliance.errors import BundleDamaged, DigestInvalid
from appliance.oci.digest import Digest

#: Annotations that tools take a name from.
NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")

#: How deep indexes may be nested.
MAX_DEPTH = 4

Read = Callable[[Digest], bytes | None]
"""A document among the blobs, C{None} when it is not there."""


class Descriptor(msgspec.Struct):
    """What is looked at of a descriptor."""

    digest: str
    annotations: dict[str, str] = {}


class Document(msgspec.Struct):
    """What is looked at of C{index.json}, of an index and of a manifest."""

    manifests: list[Descriptor] = []
    config: Descriptor | None = None


class DockerImage(msgspec.Struct, rename="pascal"):
    """One entry of C{manifest.json}."""

    config: str
    layers: list[str] = []
    repo_tags: list[str] | None = None


class ToolFiles:
    """Compares both with the list of contents."""

    def __init__(self, bundle: Bundle, source: str, read: Read) -> None:
        self._source = source
        self._read = read
        self._meant = {ref.name: ref.digest for ref in bundle.refs}
        self._listed = {blob.digest for blob in bundle.blobs} | {blob.digest for blob in bundle.requires}

    def check_index(self, data: bytes) -> None:
        """Every name in C{index.json} means what it means in the list. Raises L{BundleDamaged}."""
        for root in self._parsed(data, Document, INDEX).manifests:
            names = {root.annotations[key] for key in NAMES if key in root.annotations}
            if root.digest not in self._listed or any(self._meant.get(name) != root.digest for name in names):
                raise self._wrong(INDEX, ", ".join(names) or root.digest)

    def check_docker(self, data: bytes) -> None:
        """Every name in C{manifest.json} means an image that it means in the list. Raises L{BundleDamaged}."""
        for image in self._parsed(data, list[DockerImage], MANIFEST):
            for name in image.repo_tags or ():
                if _digest_of(image.config) not in set(self._configs(self._meant.get(name), MAX_DEPTH)):
                    raise self._wrong(MANIFEST, name)
            for entry in (image.config, *image.layers):
                if _digest_of(entry) not in self._listed:
                    raise self._wrong(MANIFEST, entry)

    def _configs(self, digest: str | None, depth: int) -> Iterator[str]:
        """The configurations of all images at and beneath C{digest}."""
        data = None if digest is None or depth == 0 else self._read(Digest.parse(digest))
        if data is None:
            return
        document = self._parsed(data, Document, str(digest))
        if document.config is not None:
            yield document.config.digest
        for child in document.manifests:
            yield from self._configs(child.digest, depth - 1)

    def _parsed(self, data: bytes, kind: Any, name: str) -> Any:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BundleDamaged(f"{self._source}, {name}: {error}; have it exported again") from error

    def _wrong(self, name: str, what: str) -> BundleDamaged:
        return BundleDamaged(
            f"{self._source}, {name}: {what} is not what the list of contents says; "
            "do not hand this file to other tools, have it exported again"
        )


def _digest_of(entry: str) -> str | None:
    """The digest that an entry's name stands for."""
    try:
        parsed = parse_name(entry)
    except DigestInvalid:
        return None
    return None if parsed is None else str(parsed[0])
