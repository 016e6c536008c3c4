"""An upstream as the cache sees it: what is configured, and who is asked."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.interfaces import IUpstream
from appliance.settings import UpstreamSettings


@dataclass(frozen=True)
class Remote:
    """
    @ivar settings: the upstream's part of the configuration.
    @ivar registry: asks it.
    @ivar offline: whether it is never contacted.
    """

    settings: UpstreamSettings
    registry: IUpstream
    offline: bool

    @property
    def name(self) -> str:
        """The configured name."""
        return self.settings.name
