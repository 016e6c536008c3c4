"""What several modules need before their first test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.cache import segments
from tests.rooms.cache.segmenting import PIECE


@pytest.fixture(scope="module")
def small_pieces() -> Iterator[None]:
    """Pieces of a hundred bytes, and blobs of three hundred are large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "PIECE", PIECE)
        patch.setattr(segments, "SEGMENT_FROM", 3 * PIECE)
        yield
