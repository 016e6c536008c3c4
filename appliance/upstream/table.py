"""From settings to a provider of IUpstream: the one place that knows which kinds there are."""

from __future__ import annotations

from typing import Any

from appliance.errors import ConfigError
from appliance.interfaces import IUpstream
from appliance.settings import UpstreamSettings
from appliance.upstream.agents import Agents, agents_for
from appliance.upstream.distribution import DistributionUpstream
from appliance.upstream.dockerhub import DOCKERHUB
from appliance.upstream.kind import DISTRIBUTION, Kind
from appliance.upstream.limits import Limits
from appliance.upstream.observer import IUpstreamObserver
from appliance.upstream.offline import OfflineUpstream
from appliance.upstream.trust import Trust
from appliance.upstream.url import Url

KINDS: dict[str, Kind] = {"distribution": DISTRIBUTION, "dockerhub": DOCKERHUB}


def kind_of(settings: UpstreamSettings) -> Kind:
    """The adapter that the settings name. Raises L{ConfigError}."""
    try:
        return KINDS[settings.kind]
    except KeyError:
        known = ", ".join(sorted(KINDS))
        raise ConfigError(f"upstreams.{settings.name}.kind: {settings.kind!r} is not known; {known} are") from None


def upstream_for(
    settings: UpstreamSettings, reactor: Any, observe: IUpstreamObserver, limits: Limits | None = None
) -> IUpstream:
    """
    The upstream that the settings describe.

    @param reactor: IReactorTime, IReactorTCP and IReactorPluggableNameResolver.
    @raise ConfigError: C{kind} is not known, C{ca_file} cannot be used, or a URL cannot be read.
    """
    trust, bounds = Trust(settings.ca_file), limits or Limits()

    def agents(url: Url) -> Agents:
        return agents_for(settings.name, reactor, trust, bounds)

    try:
        return DistributionUpstream(settings, agents, reactor, kind_of(settings), observe, bounds)
    except ValueError as reason:
        raise ConfigError(f"upstreams.{settings.name}.url: {reason}") from None


def offline_upstream_for(settings: UpstreamSettings) -> IUpstream:
    """The same upstream while the appliance is offline. Raises L{ConfigError} for a C{kind} that is not known."""
    return OfflineUpstream(settings.name, kind_of(settings))
