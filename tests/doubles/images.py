"""
Small real images, made in pure Python, the same bytes every time.

Layers are gzipped tar files around bytes from a seeded generator, so that they cannot be compressed away; configs name
the right C{diff_ids}, so that a client that unpacks is content. Shapes follow the OCI image specification (config.md,
manifest.md, image-index.md) and, where asked, Docker image manifest version 2, schema 2.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

CREATED = "2024-01-01T00:00:00Z"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class Flavour:
    """The media types of one family of manifests."""

    manifest: str
    index: str
    config: str
    layer: str


OCI = Flavour(
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)
DOCKER = Flavour(
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)
LISTS = (OCI.index, DOCKER.index)


def sha256(data: bytes) -> str:
    """The digest of C{data}, as in C{sha256:...}."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encode(document: dict[str, Any]) -> bytes:
    """JSON in the order given, without blanks."""
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Blob:
    """Bytes with the media type under which a descriptor names them."""

    media_type: str
    data: bytes

    @cached_property
    def digest(self) -> str:
        """The digest of the bytes."""
        return sha256(self.data)

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """A descriptor (image specification, descriptor.md) with C{more} members."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **more}


@dataclass(frozen=True)
class Content:
    """
    A manifest or an index with everything beneath it.

    @ivar manifest: the document itself.
    @ivar blobs: what a manifest names, the config first.
    @ivar children: what an index names.
    @ivar platform: architecture of an image, C{None} for everything else.
    """

    manifest: Blob
    blobs: tuple[Blob, ...] = ()
    children: tuple[Content, ...] = ()
    platform: str | None = None

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return self.manifest.digest

    @property
    def layers(self) -> tuple[Blob, ...]:
        """The blobs without the config."""
        return self.blobs[1:]

    def walk(self) -> Iterator[Content]:
        """This and everything beneath it, children first."""
        for child in self.children:
            yield from child.walk()
        yield self


def tar(
    files: Mapping[str, bytes] | Sequence[tuple[str, bytes]],
    links: Mapping[str, str] | None = None,
    mode: int = 0o644,
    form: int = tarfile.GNU_FORMAT,
) -> bytes:
    """An uncompressed tar of C{files} by name, in order, then symbolic C{links} by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return out.getvalue()


def layer_tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A layer of executable C{files}."""
    return tar(files, links, 0o755, tarfile.USTAR_FORMAT)


def random_tar(seed: str, size: int) -> bytes:
    """A tar holding one file of C{size} bytes that do not compress."""
    return layer_tar({f"data-{seed.replace('/', '-')}.bin": random.Random(seed).randbytes(size)})


def assemble(tars: Sequence[bytes], architecture: str, flavour: Flavour = OCI, **config: Any) -> Content:
    """An image of the uncompressed layers C{tars}; C{config} goes into its run configuration."""
    layers = tuple(Blob(flavour.layer, gzip.compress(tar, 1, mtime=0)) for tar in tars)
    document = {
        "created": CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
        "history": [{"created": CREATED, "created_by": f"layer {number}"} for number in range(len(tars))],
    }
    blob = Blob(flavour.config, encode(document))
    return _manifest(flavour.manifest, blob, layers, platform=architecture)


def _manifest(
    media_type: str, config: Blob, layers: tuple[Blob, ...], platform: str | None = None, **more: Any
) -> Content:
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        **more,
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    return Content(Blob(media_type, encode(document)), (config, *layers), platform=platform)


def image(
    seed: str = "image", sizes: Sequence[int] = (20_000, 3_000), architecture: str = "amd64", flavour: Flavour = OCI
) -> Content:
    """An image with one layer of about each of C{sizes} bytes."""
    tars = [random_tar(f"{seed}-{architecture}-{number}", size) for number, size in enumerate(sizes)]
    return assemble(tars, architecture, flavour, Cmd=["/bin/sh"])


def index(*children: Content, flavour: Flavour = OCI) -> Content:
    """An index of images, artifacts or further indexes."""
    entries = []
    for child in children:
        platform = {"platform": {"architecture": child.platform, "os": "linux"}} if child.platform else {}
        entries.append(child.manifest.descriptor(**platform))
    document = {"schemaVersion": 2, "mediaType": flavour.index, "manifests": entries}
    return Content(Blob(flavour.index, encode(document)), children=children)


def multi_arch(seed: str = "multi", sizes: Sequence[int] = (20_000, 3_000), flavour: Flavour = OCI) -> Content:
    """An index of a linux/amd64 and a linux/arm64 image."""
    return index(*(image(seed, sizes, arch, flavour) for arch in ("amd64", "arm64")), flavour=flavour)


def nested(seed: str = "nested") -> Content:
    """An index that names an index."""
    return index(multi_arch(seed))


def artifact(subject: Content, artifact_type: str = "application/vnd.example.sbom.v1+json") -> Content:
    """A referrer of C{subject} (image specification, manifest.md, "Guidelines for Artifact Usage")."""
    payload = Blob(artifact_type, encode({"describes": subject.digest}))
    return _manifest(
        OCI.manifest,
        Blob(EMPTY_TYPE, b"{}"),
        (payload,),
        artifactType=artifact_type,
        subject=subject.manifest.descriptor(),
    )


def large_manifest(size: int = 5 * 1024 * 1024) -> Content:
    """An image whose manifest is at least C{size} bytes long."""
    plain = image("large")
    return _manifest(OCI.manifest, plain.blobs[0], plain.layers, annotations={"org.example.padding": "x" * size})


def confused() -> Content:
    """A document with both C{manifests} and C{layers} (CVE-2021-41190)."""
    plain = image("confused")
    document = {**json.loads(plain.manifest.data), "manifests": [image("other").manifest.descriptor()]}
    return Content(Blob(OCI.manifest, encode(document)), plain.blobs)


def busybox(binary: Path = BUSYBOX) -> Content:
    """A runnable image around a statically linked busybox; fails with L{OSError} where there is none."""
    layer = layer_tar({"bin/busybox": binary.read_bytes()}, {"bin/sh": "busybox", "bin/echo": "busybox"})
    return assemble([layer], "amd64", Cmd=["/bin/echo", "pulled"])


def write_layout(content: Content, folder: Path, tag: str) -> None:
    """Write an OCI image layout (image-layout.md) that holds C{content} as C{tag}."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for part in content.walk():
        for blob in (part.manifest, *part.blobs):
            (blobs / blob.digest.removeprefix("sha256:")).write_bytes(blob.data)
    entry = content.manifest.descriptor(annotations={"org.opencontainers.image.ref.name": tag})
    (folder / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_bytes(encode({"schemaVersion": 2, "mediaType": OCI.index, "manifests": [entry]}))
