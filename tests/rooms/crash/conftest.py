"""Repositories that are soon large, so that their journals are stopped at every call as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.index import repositories


@pytest.fixture(scope="module", autouse=True)
def soon_large() -> Iterator[None]:
    """From some tags on, instead of some hundred."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repositories, "LARGE", 1000)
        yield
