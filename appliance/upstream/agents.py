"""
The HTTP agents of one configured URL, each with connections of its own.

A connection is made under the rule of its agent and kept in that agent's pool, so none is ever used again under a
stricter rule than it was made under. Twisted's own agents add no Accept-Encoding and follow nothing by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from appliance.upstream.endpoints import Screen, ScreenedEndpoints
from appliance.upstream.limits import Limits
from appliance.upstream.standing import Standing

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


def agents_for(upstream: str, reactor: Any, trust: IPolicyForHTTPS, limits: Limits) -> Agents:
    """The agents of one configured URL of C{upstream}; C{reactor} as for L{ScreenedEndpoints}."""
    standing = Standing(upstream)

    def agent(screen: Screen) -> IAgent:
        endpoints = ScreenedEndpoints(reactor, trust, limits, screen)
        made: IAgent = Agent.usingEndpointFactory(reactor, endpoints, _pool(reactor, limits))
        return made

    led = LedAgent(standing, agent(standing.led_by_public), agent(standing.led_by_private))
    return Agents(own=agent(standing.own), led=led)


def _pool(reactor: Any, limits: Limits) -> HTTPConnectionPool:
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool._factory = _QuietFactory
    pool.maxPersistentPerHost = KEPT_CONNECTIONS
    pool.cachedConnectionTimeout = limits.idle
    return pool


@implementer(IAgent)
class LedAgent:
    """Goes where an upstream leads, under the rule for what the upstream is at that moment."""

    def __init__(self, standing: Standing, by_public: IAgent, by_private: IAgent) -> None:
        self._standing = standing
        self._by_public = by_public
        self._by_private = by_private

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See L{IAgent}. Fails with L{UpstreamRefused} where the rule says no."""
        agent = self._by_private if self._standing.private else self._by_public
        return agent.request(method, uri, headers, bodyProducer)
