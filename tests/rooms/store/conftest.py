"""An ingest whose work waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.interfaces import IIngest
from tests.doubles.deferreds import result
from tests.doubles.threads import HeldThreads
from tests.rooms.store.partials import DIGEST, opened


@pytest.fixture
def slow(tmp_path: Path) -> tuple[HeldThreads, IIngest]:
    """An ingest whose next work waits."""
    threads = HeldThreads()
    loading = opened(tmp_path, threads).ingest(DIGEST)
    threads.work()
    return threads, result(loading)
