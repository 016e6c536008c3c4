"""From settings to a provider of IUpstream: the one place that knows which kinds there are and what wraps what."""

from __future__ import annotations

import os
import random as chance
from collections.abc import Callable, Mapping
from typing import Any

import twisted.plugins
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.plugin import getCache, getPlugins
from twisted.web.iweb import IAgent
from zope.interface import Invalid
from zope.interface.verify import verifyObject

from appliance.errors import ConfigError
from appliance.interfaces import IThreads
from appliance.settings import Settings, UpstreamSettings
from appliance.upstream.client import OfflineUpstream, RegistryClient
from appliance.upstream.concurrency import ConcurrencyLimit, LimitedUpstream
from appliance.upstream.credentials.attempts import LoginAttempts
from appliance.upstream.credentials.configured import CredentialArguments, credentials_for
from appliance.upstream.failover import Endpoint
from appliance.upstream.http.auth import AuthenticatingClient
from appliance.upstream.http.connect import agent_for
from appliance.upstream.http.identity import HttpClient
from appliance.upstream.http.limits import BandwidthLimit, Gate, Timeouts
from appliance.upstream.http.proxy import Proxies, proxies_for
from appliance.upstream.http.redirect import RedirectingClient
from appliance.upstream.http.tokens import Realms, Tokens, TokenServer, post_form
from appliance.upstream.http.trust import Trust
from appliance.upstream.interfaces import IAdapter, ICredentials, IUpstream, IUpstreamObserver
from appliance.upstream.ratelimit import RateLimitBudget
from appliance.upstream.url import Url

# -- kinds ----------------------------------------------------------------------------------------------------------


def adapter_of(settings: UpstreamSettings) -> IAdapter:
    """
    The adapter that the settings name.

    A plugin that cannot be imported is in the log, and matters only where the settings name its kind.

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
    timeouts: Timeouts | None = None,
    environ: Mapping[str, str] = os.environ,
) -> IUpstream:
    """
    The upstream that the settings describe.

    @param reactor: IReactorTime, IReactorTCP, IReactorPluggableNameResolver and IReactorProcess.
    @param threads: for what blocks: reading files of credentials, asking AWS.
    @param environ: for proxies and for where docker keeps its files.
    @raise ConfigError: as for L{check_upstreams}.
    """
    timeouts = timeouts or Timeouts()
    adapter, trust, proxies = _checked(settings, environ)
    gate = Gate(settings.name)

    def agent(url: Url) -> IAgent:
        return agent_for(settings, url, reactor, trust, timeouts, proxies)

    def credentials(url: Url) -> ICredentials | None:
        """The adapter's own before those of the settings' files, which it takes into account."""
        http = HttpClient(settings.name, url, agent(url), reactor, timeouts, observer, gate)

        def post(path: str, fields: Mapping[str, str]) -> Deferred[bytes]:
            return Deferred.fromCoroutine(post_form(http, url.at(path), fields))

        proxy = proxies.https
        given = CredentialArguments(
            upstream=settings.name,
            host=url.host,
            clock=reactor,
            threads=threads,
            processes=reactor,
            post=post,
            environ=environ,
            danger_proxy=lambda: None if proxy is None else proxy.danger_url(),
        )
        own: ICredentials | None = adapter.credentials(settings, given)
        return own if own is not None else credentials_for(settings, url, given)

    try:
        registry: IUpstream = client_for(settings, agent, reactor, adapter, credentials, observer, timeouts, gate)
    except ValueError as reason:
        raise ConfigError(f"upstreams.{settings.name}: {reason}") from None
    if settings.max_connections is None:
        return registry
    return LimitedUpstream(registry, ConcurrencyLimit(settings.max_connections))


def client_for(
    settings: UpstreamSettings,
    agent: Callable[[Url], IAgent],
    clock: IReactorTime,
    adapter: IAdapter,
    credentials: Callable[[Url], ICredentials | None],
    observer: IUpstreamObserver,
    timeouts: Timeouts,
    gate: Gate,
    random: Callable[[], float] = chance.random,
) -> RegistryClient:
    """
    The client that asks the URLs of the settings: for each of them the layers of C{http/}, each over the next.

    @param agent: makes the agent that reaches one configured URL and wherever that leads.
    @param credentials: gives those of the origin of one configured URL; called once for each origin.
    @param random: gives numbers from 0 to 1.
    @raise ValueError: one of the URLs is none.
    """
    name = settings.name
    bandwidth = None if settings.max_rate is None else BandwidthLimit(clock, settings.max_rate)
    budget = RateLimitBudget(name, settings.keep_pulls, clock, observer)
    tokens = Tokens(clock)
    urls = [Url.parse(url) for url in settings.urls]
    # The first URL of an origin stands for all of them.
    secrets = {root: credentials(url) for root, url in {url.root: url for url in reversed(urls)}.items()}

    def endpoint(url: Url) -> Endpoint:
        plain = HttpClient(name, url, agent(url), clock, timeouts, observer, gate, bandwidth)
        secret = secrets[url.root]
        attempts = None if secret is None else LoginAttempts(name, url.shown, secret, clock)
        realms = Realms(name, url, settings.auth_hosts + adapter.auth_hosts)
        redirecting = RedirectingClient(plain, url)
        http = AuthenticatingClient(name, redirecting, url, adapter, realms, attempts, tokens, TokenServer(plain))
        return Endpoint(url, http, plain, adapter, budget, clock, random, observer)

    return RegistryClient(name, adapter, [endpoint(url) for url in urls], budget, gate, clock, observer)


def offline_upstream_for(settings: UpstreamSettings) -> IUpstream:
    """The same upstream while the appliance is offline. Raises L{ConfigError} for a C{kind} that is not known."""
    return OfflineUpstream(settings.name, adapter_of(settings))


# -- at the start ---------------------------------------------------------------------------------------------------


def check_upstreams(settings: Settings, source: str = "", environ: Mapping[str, str] = os.environ) -> None:
    """
    Whether every upstream can be made; nothing is connected to and no packet is sent.

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
