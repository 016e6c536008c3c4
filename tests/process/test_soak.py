"""A short run of C{scripts/soak}: kill -9 under load, with a collection running."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.process.service import CHECKOUT

ROUNDS = int(os.environ.get("PULLCACHE_SOAK_ROUNDS", "10"))

pytestmark = pytest.mark.process


def test_nothing_that_was_promised_is_lost_by_kills_under_load() -> None:
    """Pulled within the budget, pinned or imported: it is there after each kill, and nothing is fetched again."""
    command = [sys.executable, str(CHECKOUT / "scripts" / "soak"), "--rounds", str(ROUNDS), "--seed", "3"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-8000:]
    assert f"{ROUNDS} kills" in run.stdout and "collections" in run.stdout
