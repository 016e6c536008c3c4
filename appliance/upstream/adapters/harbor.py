"""Harbor: repositories live in projects, robots have a user name with a dollar sign."""

from __future__ import annotations

from appliance.errors import ConfigError
from appliance.settings import UpstreamSettings
from appliance.upstream.adapters.standard import Standard


class Harbor(Standard):
    """
    See L{appliance.interfaces.IAdapter}.

    A project that is itself a proxy stands in the URL's path or in the name, as any other project. Whether there is a
    referrers API depends on the version.
    """

    kind = "harbor"

    def check(self, settings: UpstreamSettings) -> None:
        """A robot's secret is a password, and nothing without its name."""
        super().check(settings)
        if settings.token_file is not None:
            raise ConfigError(
                f"upstreams.{settings.name}.token_file: Harbor takes a robot's secret as a password; "
                "give username (as robot$project+name) and password_file instead"
            )
