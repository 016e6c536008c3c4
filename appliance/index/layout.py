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

from appliance.flow.durable import fsync_folder, write_file

LAYOUT = "_layout"
INDEX = "index.json"
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def furnish(folder: Path, blobs: Path) -> None:
    """Make C{folder} an image layout whose blobs are C{blobs}, durably; doing it again is no error."""
    marker = folder / "oci-layout"
    if not _is_whole(marker):
        write_file(marker, OCI_LAYOUT, folder / ".oci-layout.tmp")
    link = folder / "blobs"
    if not link.is_symlink():
        # Relative, so that a store can be moved or mounted elsewhere.
        link.symlink_to(os.path.relpath(blobs, folder))
        fsync_folder(folder)


def _is_whole(marker: Path) -> bool:
    """Whether it has all its bytes: a power cut may have left it empty."""
    try:
        return marker.stat().st_size == len(OCI_LAYOUT)
    except FileNotFoundError:
        return False
