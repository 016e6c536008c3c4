"""What upstreams do, as somebody who counts sees it."""

from __future__ import annotations

from zope.interface import Interface, implementer

from appliance.interfaces import Health, RateLimit


class IUpstreamObserver(Interface):
    """Told what passes between this process and its upstreams; must be quick and must not raise."""

    def received(upstream: str, octets: int) -> None:
        """C{octets} bytes of blob bodies came from C{upstream} since this was last said; at most once a second."""

    def failed(upstream: str, kind: str) -> None:
        """
        A question to C{upstream} failed, be it without having been asked; C{kind} is
        L{appliance.errors.UpstreamError.kind}.
        """

    def asked(upstream: str, method: str, status: int) -> None:
        """One HTTP request on behalf of C{upstream} (hops and token requests included) was answered C{status}."""

    def limited(upstream: str, limit: RateLimit) -> None:
        """C{upstream} said how its limit on pulls stands."""

    def became(upstream: str, url: str, health: Health) -> None:
        """One URL of C{upstream} is C{health} from now on; said first when it is taken into use."""


@implementer(IUpstreamObserver)
class SilentObserver:
    """Counts nothing."""

    def received(self, upstream: str, octets: int) -> None:
        """Forget it."""

    def failed(self, upstream: str, kind: str) -> None:
        """Forget it."""

    def asked(self, upstream: str, method: str, status: int) -> None:
        """Forget it."""

    def limited(self, upstream: str, limit: RateLimit) -> None:
        """Forget it."""

    def became(self, upstream: str, url: str, health: Health) -> None:
        """Forget it."""
