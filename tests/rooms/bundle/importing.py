"""Bundles of a small site, to be imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.bundle import tar
from appliance.errors import (
    BundleError,
)
from tests.doubles import images
from tests.doubles.exports import NGINX, Site, entries
from tests.doubles.receiver import Receiver

MULTI = images.multi_arch("multi", (50_000, 30_000))
OTHER = images.image("other", (900_000, 20_000))
NEWER = images.image("newer")
SBOM = images.artifact(MULTI)
GHCR = ("ghcr.io", "a/b")


def site() -> Site:
    return Site().hold(MULTI, NGINX, "1.27").hold(SBOM, NGINX).hold(OTHER, GHCR, "v1")


def write(folder: Path, data: bytes, name: str = "bundle.tar") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


EXPECTED = {
    "docker.io/library/nginx:1.27": MULTI.digest,
    f"docker.io/library/nginx@{SBOM.digest}": SBOM.digest,
    "ghcr.io/a/b:v1": OTHER.digest,
}


def refuse(path: Path, receiver: Receiver | None = None, **options: Any) -> BundleError:
    """The refusal of an import that leaves nothing behind."""
    receiver = receiver or Receiver()
    with pytest.raises(BundleError) as caught:
        receiver.run(path, **options)
    assert receiver.names() == {}
    assert path.name in str(caught.value)
    return caught.value


def repacked(plain: bytes, change: Any) -> bytes:
    """The bundle with its entries changed."""
    found = entries(plain)
    change(found)
    packed = (tar.header(name, len(data)) + data + tar.padding(len(data)) for name, data in found.items())
    return b"".join(packed) + tar.END
