"""What is counted of upstreams."""

from __future__ import annotations

from zope.interface import Interface

from appliance.interfaces import Health, RateLimit


class IUpstreamObserver(Interface):
    """Is called for what passes between this process and its upstreams; must be quick and must not raise."""

    def received(upstream: str, octets: int) -> None:
        """C{octets} bytes of blob bodies came from C{upstream} since the last call; at most once a second."""

    def failed(upstream: str, kind: str) -> None:
        """
        A question to C{upstream} failed, be it without a request; C{kind} is
        L{appliance.errors.UpstreamError.kind}.
        """

    def requested(upstream: str, method: str, status: int) -> None:
        """One HTTP request on behalf of C{upstream} (hops and token requests included) was answered C{status}."""

    def limited(upstream: str, limit: RateLimit) -> None:
        """C{upstream} reported its limit on pulls."""

    def became(upstream: str, url: str, health: Health) -> None:
        """One URL of C{upstream} is C{health} from now on; called first when it is taken into use."""
