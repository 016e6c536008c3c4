"""From settings to a provider of IUpstream: the one place that knows which kinds there are and what wraps what."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import twisted.plugins
from twisted.plugin import getCache, getPlugins
from zope.interface import Invalid
from zope.interface.verify import verifyObject

from appliance.errors import ConfigError
from appliance.interfaces import IAdapter, ICredentials, IThreads, IUpstream
from appliance.settings import Settings, UpstreamSettings
from appliance.upstream.access.forms import Forms
from appliance.upstream.credentials.configured import CredentialArguments, credentials_for
from appliance.upstream.distribution import DistributionUpstream
from appliance.upstream.exchange import Exchange
from appliance.upstream.fair import FairUpstream
from appliance.upstream.gate import Gate
from appliance.upstream.http.connect import Agents, agents_for
from appliance.upstream.http.proxy import Proxies, proxies_for
from appliance.upstream.http.trust import Trust
from appliance.upstream.limits import Limits
from appliance.upstream.observer import IUpstreamObserver
from appliance.upstream.offline import OfflineUpstream
from appliance.upstream.permits import Permits
from appliance.upstream.url import Url

# -- kinds ----------------------------------------------------------------------------------------------------------


def adapter_of(settings: UpstreamSettings) -> IAdapter:
    """
    The adapter that the settings name.

    A plugin that cannot be imported is in the log, and nobody's problem who does not use it.

    @raise ConfigError: no plugin is of that kind, or more than one, or the one that is lacks something.
    """
    key = f"upstreams.{settings.name}.kind"
    plugins: list[Any] = list(getPlugins(IAdapter))
    found = [each for each in plugins if _kind(each) == settings.kind]
    if not found:
        known = ", ".join(sorted({_kind(each) for each in plugins} - {""}))
        raise ConfigError(f"{key}: {settings.kind!r} is not known; {known} are")
    if len(found) > 1:
        modules = " and ".join(_modules_of(settings.kind))
        raise ConfigError(f"{key}: {settings.kind!r} is claimed by the plugins {modules}; remove all but one of them")
    try:
        verifyObject(IAdapter, found[0])
    except Invalid as reason:
        lacking = " ".join(str(reason).split())
        raise ConfigError(f"{key}: the plugin {_modules_of(settings.kind)[0]} cannot be used: {lacking}") from None
    adapter: IAdapter = found[0]
    return adapter


def _kind(plugin: Any) -> str:
    kind = getattr(plugin, "kind", "")
    return kind if isinstance(kind, str) else ""


def _modules_of(kind: str) -> list[str]:
    """The plugin modules that have an adapter of that kind, one for each adapter."""
    return [
        dropin.moduleName
        for dropin in getCache(twisted.plugins).values()
        for plugin in dropin.plugins
        if IAdapter in plugin.provided and _kind(plugin.load()) == kind
    ]


# -- one upstream ---------------------------------------------------------------------------------------------------


def upstream_for(
    settings: UpstreamSettings,
    reactor: Any,
    observer: IUpstreamObserver,
    threads: IThreads,
    limits: Limits | None = None,
    environ: Mapping[str, str] = os.environ,
) -> IUpstream:
    """
    The upstream that the settings describe.

    @param reactor: IReactorTime, IReactorTCP, IReactorPluggableNameResolver and IReactorProcess.
    @param threads: for what blocks: reading files of credentials, asking AWS.
    @param environ: for proxies and for where docker keeps its things.
    @raise ConfigError: as for L{check_upstreams}.
    """
    made = _Composition(settings, reactor, observer, threads, limits or Limits(), environ)
    registry: IUpstream = made.upstream()
    return registry if settings.max_connections is None else FairUpstream(registry, Permits(settings.max_connections))


def offline_upstream_for(settings: UpstreamSettings) -> IUpstream:
    """The same upstream while the appliance is offline. Raises L{ConfigError} for a C{kind} that is not known."""
    return OfflineUpstream(settings.name, adapter_of(settings))


class _Composition:
    """What an upstream is made of. Raises L{ConfigError}."""

    def __init__(
        self,
        settings: UpstreamSettings,
        reactor: Any,
        observer: IUpstreamObserver,
        threads: IThreads,
        limits: Limits,
        environ: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._observer = observer
        self._threads = threads
        self._limits = limits
        self._environ = environ
        self._gate = Gate(settings.name)
        self._adapter, self._trust, self._proxies = _checked(settings, environ)

    def upstream(self) -> DistributionUpstream:
        settings, observer, limits = self._settings, self._observer, self._limits
        try:
            return DistributionUpstream(
                settings,
                self._agents,
                self._reactor,
                self._adapter,
                self._credentials,
                observer,
                limits,
                gate=self._gate,
            )
        except ValueError as reason:
            raise ConfigError(f"upstreams.{settings.name}: {reason}") from None

    def _agents(self, url: Url) -> Agents:
        return agents_for(self._settings, url, self._reactor, self._trust, self._limits, self._proxies)

    def _credentials(self, url: Url) -> ICredentials | None:
        """The adapter's own before those of the settings' files, which it takes into account."""
        given = self._credential_arguments(url)
        own: ICredentials | None = self._adapter.credentials(self._settings, given)
        return own if own is not None else credentials_for(self._settings, url, given)

    def _credential_arguments(self, url: Url) -> CredentialArguments:
        name = self._settings.name
        exchange = Exchange(name, self._reactor, self._limits, self._observer, gate=self._gate)
        forms = Forms(exchange, self._agents(url).own, url)
        proxy = self._proxies.https
        return CredentialArguments(
            upstream=name,
            host=url.host,
            clock=self._reactor,
            threads=self._threads,
            processes=self._reactor,
            post=forms.post,
            environ=self._environ,
            danger_proxy=lambda: None if proxy is None else proxy.danger_url(),
        )


# -- at the start ---------------------------------------------------------------------------------------------------


def check_upstreams(settings: Settings, source: str = "", environ: Mapping[str, str] = os.environ) -> None:
    """
    Whether every upstream can be made; nothing is connected to and nobody is asked.

    Of an upstream that is offline only the kind matters.

    @param source: the configuration file's path, for messages; empty: it is not named.
    @raise ConfigError: C{kind} is not known or claimed twice, the adapter cannot work with the settings, a certificate
        or a key cannot be used, or a proxy cannot be read; the message begins with the key's path.
    """
    try:
        for upstream in settings.upstreams.values():
            if settings.offline or upstream.offline:
                adapter_of(upstream)
            else:
                _checked(upstream, environ)
    except ConfigError as reason:
        raise ConfigError(f"{source}: {reason}" if source else str(reason)) from None


def _checked(settings: UpstreamSettings, environ: Mapping[str, str]) -> tuple[IAdapter, Trust, Proxies]:
    """What may be wrong with an upstream, so that it is wrong before anything is made."""
    for url in settings.urls:
        try:
            Url.parse(url)
        except ValueError as reason:
            raise ConfigError(f"upstreams.{settings.name}.url: {reason}") from None
    adapter = adapter_of(settings)
    adapter.check(settings)
    return adapter, Trust(settings), proxies_for(settings, environ)
