"""Archives in the shapes in which other tools write them, made of images in pure Python."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tests.doubles.images import OCI, Blob, Content, encode, sha256
from tests.doubles.images import tar as tar

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
SUBJECT = "io.containerd.manifest.subject"

Files = dict[str, bytes]


def blobs(*contents: Content, without: Iterable[str] = ()) -> Files:
    """The C{blobs/} of an OCI image layout."""
    gone = set(without)
    found = {}
    for content in contents:
        for part in content.walk():
            for blob in (part.manifest, *part.blobs):
                if blob.digest not in gone:
                    found[f"blobs/{blob.digest.replace(':', '/')}"] = blob.data
    return found


def layout(entries: Sequence[tuple[Content, dict[str, str]]], files: Files | None = None) -> Files:
    """An OCI image layout with annotations on the entries of index.json."""
    manifests = [
        content.manifest.descriptor(**({"annotations": annotations} if annotations else {}))
        for content, annotations in entries
    ]
    return {
        "oci-layout": encode({"imageLayoutVersion": "1.0.0"}),
        "index.json": encode({"schemaVersion": 2, "mediaType": OCI.index, "manifests": manifests}),
        **(blobs(*(content for content, _ in entries)) if files is None else files),
    }


def skopeo_oci(content: Content, name: str | None) -> Files:
    """C{skopeo copy ... oci-archive:file:name}: the name as it was typed."""
    return layout([(content, {} if name is None else {REF_NAME: name})])


def containerd(*named: tuple[Content, str], referrers: Sequence[tuple[Content, Content]] = ()) -> Files:
    """C{ctr images export}, C{docker save} with containerd's store: sorted by name, so the index comes last."""
    entries = [(content, {IMAGE_NAME: name, REF_NAME: name.rpartition(":")[2]}) for content, name in named]
    entries += [(referrer, {SUBJECT: subject.digest}) for referrer, subject in referrers]
    files = layout(entries)
    files["manifest.json"] = encode_any(
        [docker_entry(content.children[0] if content.children else content, [name]) for content, name in named]
    )
    return dict(sorted(files.items()))


def docker_entry(image: Content, names: list[str] | None) -> dict[str, Any]:
    """An entry of manifest.json that names blobs."""
    config, *layers = (f"blobs/{blob.digest.replace(':', '/')}" for blob in image.blobs)
    return {"Config": config, "RepoTags": names, "Layers": layers}


def uncompressed(layer: Blob) -> bytes:
    return gzip.decompress(layer.data)


def docker_save(*named: tuple[Content, list[str] | None]) -> tuple[Files, dict[str, str]]:
    """
    C{docker save} before version 25: a folder for each layer, uncompressed; a layer that an earlier image has is a link
    to it.
    """
    files: Files = {}
    links: dict[str, str] = {}
    entries = []
    first: dict[str, str] = {}
    for number, (image, names) in enumerate(named):
        config = image.blobs[0]
        paths = []
        for position, layer in enumerate(image.layers):
            data = uncompressed(layer)
            path = f"{sha256(data + b'%d %d' % (number, position))[7:]}/layer.tar"
            if (original := first.setdefault(sha256(data), path)) != path:
                links[path] = f"../{original}"
            else:
                files[path] = data
            paths.append(path)
        files[f"{config.digest[7:]}.json"] = config.data
        entries.append({"Config": f"{config.digest[7:]}.json", "RepoTags": names, "Layers": paths})
    files["manifest.json"] = encode_any(entries)
    files["repositories"] = b"{}"
    return files, links


def podman_save(image: Content, names: list[str] | None) -> tuple[Files, dict[str, str]]:
    """C{podman save}, C{skopeo copy ... docker-archive:}: uncompressed layers by digest, legacy folders of links."""
    files: Files = {}
    links: dict[str, str] = {}
    paths = []
    for layer in image.layers:
        data = uncompressed(layer)
        path = f"{sha256(data)[7:]}.tar"
        files[path] = data
        links[f"{sha256(data)[7:]}/layer.tar"] = f"../{path}"
        paths.append(path)
    config = image.blobs[0]
    files[f"{config.digest[7:]}.json"] = config.data
    files["manifest.json"] = encode_any([{"Config": f"{config.digest[7:]}.json", "RepoTags": names, "Layers": paths}])
    return files, links


def crane_pull(image: Content, names: list[str]) -> Files:
    """C{crane pull}: compressed layers by digest, the configuration by its digest with a colon."""
    config = image.blobs[0]
    paths = [f"{layer.digest[7:]}.tar.gz" for layer in image.layers]
    entry = {"Config": config.digest, "RepoTags": names, "Layers": paths}
    layers = {path: layer.data for path, layer in zip(paths, image.layers, strict=True)}
    return {config.digest: config.data, **layers, "manifest.json": encode_any([entry])}


def hauler(image: Content, name: str, signature: Content) -> Files:
    """C{hauler store save}, before compression: what refers to an image bears the image's own name."""
    _, _, short = name.partition("/")
    both = {IMAGE_NAME: name, REF_NAME: short}
    return layout(
        [
            (image, {**both, "kind": "dev.hauler/image"}),
            (signature, {**both, "kind": "dev.hauler/sigs"}),
        ]
    )


def encode_any(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
