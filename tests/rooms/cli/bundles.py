"""Small bundles in files, made with the same pieces as real ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from appliance.bundle import bundlejson, contents, tar
from appliance.bundle.contents import BlobEntry, Bundle, Part, Platforms, Producer, Provenance, Ref
from appliance.bundle.minisign import SecretKey
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_CONFIG, OCI_MANIFEST
from tests.doubles.manifests import descriptor

NAME = "docker.io/library/tiny:1"
LAYER = bytes(range(256)) * 8


def manifest(config: bytes, *layers: bytes) -> bytes:
    """An OCI manifest of these blobs."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
    }
    return json.dumps(document).encode()


MANIFEST = manifest(LAYER)
BLOBS = (MANIFEST, LAYER)
Entries = list[tuple[str, bytes]]


def bundle(*blobs: BlobEntry, title: str = "weekly", image: bytes = MANIFEST) -> Bundle:
    """A sealed list of contents with one reference, to C{image}."""
    digest = str(Digest.of(image))
    upstream = Provenance(registry="docker.io", repository="library/tiny", tag="1")
    platforms = Platforms(present=("linux/amd64",), absent=("linux/arm64",))
    size = len(image)
    ref = Ref(name=NAME, digest=digest, media_type=OCI_MANIFEST, size=size, upstream=upstream, platforms=platforms)
    return bundlejson.sealed(
        Bundle(
            created="2026-11-21T08:00:00Z",
            producer=Producer(name="pullcache", version="0"),
            site="site-a",
            title=title,
            kind="full",
            refs=(ref,),
            blobs=blobs or tuple(entry(data) for data in BLOBS),
            requires=(),
            absent_platforms=(),
            referrers=(),
        )
    )


def entry(data: bytes, volume: int = 1) -> BlobEntry:
    """The line of a blob in the list of contents."""
    kind = "manifest" if data == MANIFEST else "layer"
    return BlobEntry(digest=str(Digest.of(data)), size=len(data), kind=kind, volume=volume)  # type: ignore[arg-type]


def head(listed: Bundle, key: SecretKey | None = None) -> Entries:
    """The entries every file begins with."""
    document = bundlejson.encode(listed)
    signature = [] if key is None else [(contents.SIGNATURE, key.sign(document, "from site-a").encode())]
    return [(contents.BUNDLE, document), *signature]


def blob(data: bytes) -> tuple[str, bytes]:
    """The entry of a whole blob."""
    return contents.blob_name(Digest.of(data)), data


def write(path: Path, entries: Entries) -> Path:
    """A tar file of these entries."""
    pieces = [tar.header(name, len(data)) + data + tar.padding(len(data)) for name, data in entries]
    path.write_bytes(b"".join(pieces) + tar.END)
    return path


def single(path: Path, key: SecretKey | None = None) -> Path:
    """A bundle in one file."""
    return write(path, [*head(bundle(), key), *map(blob, BLOBS)])


def in_volumes(folder: Path) -> list[Path]:
    """A bundle in two files; the layer is cut into two parts, one in each."""
    cut = 1000
    halves = (LAYER[:cut], LAYER[cut:])
    digest = Digest.of(LAYER)
    parts = tuple(
        Part(n=n, size=len(half), sha256=hashlib.sha256(half).hexdigest(), volume=n) for n, half in enumerate(halves, 1)
    )
    layer = BlobEntry(digest=str(digest), size=len(LAYER), kind="layer", volume=1, parts=parts)
    listed = bundle(entry(MANIFEST), layer)
    first = [*head(listed), blob(MANIFEST), (contents.part_name(digest, 1), halves[0])]
    second = [*head(listed), (contents.part_name(digest, 2), halves[1])]
    return [write(folder / "v1.tar", first), write(folder / "v2.tar", second)]
