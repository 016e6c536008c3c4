"""Bundles that several modules import."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rooms.bundle.importing import site, write


@pytest.fixture(scope="module")
def plain() -> bytes:
    """A full bundle of two images and an SBOM."""
    made = site()
    return made.file(made.export(all=True))


@pytest.fixture
def bundle(tmp_path: Path, plain: bytes) -> Path:
    return write(tmp_path, plain)
