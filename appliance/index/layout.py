"""
The OCI image layout of one repository (image-spec, C{image-layout.md}), as other tools read it.

::

    repositories/<upstream>/<repository>/_layout/
        oci-layout    {"imageLayoutVersion": "1.0.0"}
        index.json    an OCI image index: the tags and manifests held (L{appliance.index.repository})
        blobs      -> the store's blobs
"""

from __future__ import annotations

import os
from pathlib import Path

LAYOUT = "_layout"
INDEX = "index.json"
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def furnish(folder: Path, blobs: Path) -> None:
    """Make C{folder} an image layout whose blobs are C{blobs}; doing it again is no error."""
    marker = folder / "oci-layout"
    if not marker.exists():
        marker.write_bytes(OCI_LAYOUT)
    link = folder / "blobs"
    if not link.is_symlink():
        # Relative, so that a store can be moved or mounted elsewhere.
        link.symlink_to(os.path.relpath(blobs, folder))
