"""
Public or private: where an upstream stands, and where it may lead us.

An upstream is private when every address of the host in its configured URL is; a private one may lead to private
addresses (a site's own registry with the site's own storage). A public one that leads inside is an attack on whatever
listens there. To link-local addresses nobody leads: metadata services of clouds answer there.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.errors import UpstreamRefused
from appliance.upstream.addresses import Reach, reach_of


class Standing:
    """
    What is known of one configured URL.

    @ivar private: whether it was private when last resolved; public until known.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.private = False

    def own(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """The screen for the configured host itself: everything passes, since the operator chose it, and is noted."""
        self.private = all(reach_of(address) is not Reach.PUBLIC for address in addresses)
        return addresses

    def led_by_public(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """The screen for hosts a public upstream names: public addresses. Raises L{UpstreamRefused}."""
        return self._screened(host, addresses, {Reach.PUBLIC}, "a public upstream may not lead to private addresses")

    def led_by_private(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """The screen for hosts a private upstream names: all but link-local ones. Raises L{UpstreamRefused}."""
        return self._screened(host, addresses, {Reach.PUBLIC, Reach.PRIVATE}, "no upstream may")

    def _screened(self, host: str, addresses: Sequence[str], allowed: set[Reach], rule: str) -> Sequence[str]:
        passed = [address for address in addresses if reach_of(address) in allowed]
        if passed:
            return passed
        reaches = {reach_of(address) for address in addresses}
        if Reach.LINK_LOCAL in reaches:
            rule = "no upstream may lead to link-local addresses"
        raise UpstreamRefused(self._upstream, f"led to {host} ({', '.join(addresses)}): {rule}")
