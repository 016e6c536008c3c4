"""
The HTTP agents of one configured URL, each with connections of its own.

A connection is made under the rule of its agent and kept in that agent's pool, so none is ever used again under a
stricter rule than it was made under. What goes through a proxy is screened with each request instead, as far as it can
be: one connection to a proxy may serve several origins. Twisted's own agents add no Accept-Encoding and follow nothing
by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.web.client import Agent, HTTPConnectionPool, ProxyAgent, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from appliance.errors import UpstreamRefused
from appliance.settings import UpstreamSettings
from appliance.upstream.limits import Limits
from appliance.upstream.network.addresses import literal_of
from appliance.upstream.network.endpoints import Screen, ScreenedEndpoints, way_to
from appliance.upstream.network.hosts import HostPatterns
from appliance.upstream.network.proxy import Proxies
from appliance.upstream.network.standing import Standing
from appliance.upstream.network.tunnel import ForwardAgent
from appliance.upstream.url import Url

#: Idle connections kept to one host. Twisted keeps two, which a pull of many layers at once does not fit in.
KEPT_CONNECTIONS = 16


class _QuietFactory(_HTTP11ClientFactory):
    """Twisted's own, which would log two lines for each connection."""

    noisy = False


@dataclass(frozen=True)
class Agents:
    """
    How to reach what.

    @ivar own: for the origin of the configured URL.
    @ivar led: for wherever a redirect, a realm or a link leads.
    """

    own: IAgent
    led: IAgent


def agents_for(
    settings: UpstreamSettings, url: Url, reactor: Any, trust: IPolicyForHTTPS, limits: Limits, proxies: Proxies
) -> Agents:
    """
    The agents of one configured URL.

    @param url: that URL; what its host says of an address without being resolved is known from the beginning.
    @param reactor: as for L{ScreenedEndpoints}.
    @raise ValueError: an entry of C{auth_hosts} or C{redirect_hosts} is none.
    """
    standing = Standing(settings.name)
    screen_literal(standing.own, url.host)

    def agent(screen: Screen) -> IAgent:
        return _agent(settings.name, reactor, trust, limits, proxies, screen)

    # An adapter's auth_hosts are not among them: what stands in a program gives nobody a way inside.
    named = HostPatterns(settings.redirect_hosts + settings.auth_hosts)
    led = LedAgent(
        standing, named, agent(standing.led_by_public), agent(standing.led_by_private), agent(standing.named)
    )
    return Agents(own=agent(standing.own), led=led)


def screen_literal(screen: Screen, host: str) -> None:
    """Screen what C{host} says of an address without being resolved. Raises what C{screen} raises."""
    literal = literal_of(host)
    if literal is not None:
        screen(host, [literal])


def _agent(
    upstream: str, reactor: Any, trust: IPolicyForHTTPS, limits: Limits, proxies: Proxies, screen: Screen
) -> IAgent:
    pool = _pool(reactor, limits)
    endpoints = ScreenedEndpoints(reactor, trust, limits, screen, proxies, upstream)
    direct: IAgent = Agent.usingEndpointFactory(reactor, endpoints, pool)
    if proxies.http is None:
        return ProxiedAgent(direct, direct, proxies, screen)
    way = way_to(proxies.http, reactor, limits, upstream)
    forward = ForwardAgent(ProxyAgent(way, reactor, pool), proxies.http, upstream)
    return ProxiedAgent(direct, forward, proxies, screen)


def _pool(reactor: Any, limits: Limits) -> HTTPConnectionPool:
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool._factory = _QuietFactory
    pool.maxPersistentPerHost = KEPT_CONNECTIONS
    pool.cachedConnectionTimeout = limits.idle
    return pool


@implementer(IAgent)
class ProxiedAgent:
    """Goes the way that is decided for each URL: directly, through a tunnel, or as a whole request to a proxy."""

    def __init__(self, direct: IAgent, forward: IAgent, proxies: Proxies, screen: Screen) -> None:
        """
        @param direct: connects to origins, for https through a proxy where one is meant.
        @param forward: sends whole requests to the proxy for http URLs.
        @param screen: for what goes through a proxy; C{direct} does so itself for the rest.
        """
        self._direct = direct
        self._forward = forward
        self._proxies = proxies
        self._screen = screen

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See L{IAgent}. Fails with L{UpstreamRefused} where the rule says no."""
        url = Url.parse(uri.decode("ascii"))
        if self._proxies.proxy_for(url) is None:
            return self._direct.request(method, uri, headers, bodyProducer)
        try:
            screen_literal(self._screen, url.host)
        except UpstreamRefused:
            return fail()
        agent = self._forward if url.scheme == "http" else self._direct
        return agent.request(method, uri, headers, bodyProducer)


@implementer(IAgent)
class LedAgent:
    """Goes where an upstream leads, under the rule for that host and for what the upstream is at that moment."""

    def __init__(
        self, standing: Standing, names: HostPatterns, by_public: IAgent, by_private: IAgent, to_named: IAgent
    ) -> None:
        self._standing = standing
        self._names = names
        self._by_public = by_public
        self._by_private = by_private
        self._to_named = to_named

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See L{IAgent}. Fails with L{UpstreamRefused} where the rule says no."""
        return self._agent(Url.parse(uri.decode("ascii"))).request(method, uri, headers, bodyProducer)

    def _agent(self, url: Url) -> IAgent:
        if self._names.covers(url):
            return self._to_named
        return self._by_private if self._standing.private else self._by_public
