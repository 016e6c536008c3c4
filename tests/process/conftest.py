"""Fixtures for tests that run the real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.sides import NOWHERE
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance


@pytest.fixture
def upstream() -> Iterator[RemoteRegistry]:
    """A running simulated registry that holds nothing yet."""
    registry = RemoteRegistry().start()
    yield registry
    registry.kill()


@pytest.fixture
def idle(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """An appliance in front of C{upstream} that has not been started."""
    made = Appliance(tmp_path / "appliance", upstream.url)
    yield made
    made.kill()


@pytest.fixture
def appliance(idle: Appliance) -> Appliance:
    """A running appliance in front of C{upstream}."""
    return idle.start()


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Appliance]:
    """A running appliance without any network."""
    made = Appliance(tmp_path / "sealed", NOWHERE, offline=True)
    yield made.start()
    made.kill()
