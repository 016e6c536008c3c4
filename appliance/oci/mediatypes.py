"""
Media types of the OCI image specification (media-types.md) and of the Docker formats it grew from.
"""

from __future__ import annotations

import re

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
#: Only in release candidates of image-spec 1.1; registries still hold some.
OCI_ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCTET_STREAM = "application/octet-stream"

INDEXES: frozenset[str] = frozenset({OCI_INDEX, DOCKER_MANIFEST_LIST})
IMAGES: frozenset[str] = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
#: Layers that registries need not have: their descriptors name other places (image-spec, layer.md).
NONDISTRIBUTABLE: frozenset[str] = frozenset(
    {
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)
#: Never asked for and never kept: the bytes of a signed one do not have its digest.
SCHEMA1: frozenset[str] = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})

#: What upstreams are asked for, whatever the client asked: a type left out is a 404 at one, a conversion at another.
ACCEPT: str = f"{OCI_INDEX}, {DOCKER_MANIFEST_LIST}, {OCI_MANIFEST}, {DOCKER_MANIFEST}, */*;q=0.1"

#: RFC 6838 section 4.2; what it matches is safe as a header's value.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(f"{_NAME}/{_NAME}")


def is_media_type(text: str) -> bool:
    """Whether C{text} is a media type without parameters."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def may_be_manifest(media_type: str) -> bool:
    """Whether C{media_type} may be that of a manifest: what a browser would show, as C{text/html}, never is."""
    return media_type.startswith("application/") and is_media_type(media_type)


def without_parameters(content_type: str) -> str:
    """The media type of a Content-Type header (RFC 9110 section 8.3.1), parameters off, in lower case."""
    return content_type.partition(";")[0].strip().lower()
