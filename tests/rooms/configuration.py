"""Texts of configurations, for the tests of what reads them."""

from __future__ import annotations

import pytest

from appliance import config
from appliance.errors import ConfigError

PUBLIC_KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
ONE = "upstreams: {ghcr.io: {url: https://ghcr.io, %s}}"


def fault(text: str, source: str = "/etc/p.yaml") -> str:
    """What is wrong with it, as the operator reads it."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text, source)
    return str(caught.value)
