"""An appliance in memory."""

from __future__ import annotations

import pytest

from tests.doubles.appliance import Appliance


@pytest.fixture
def site() -> Appliance:
    return Appliance()
