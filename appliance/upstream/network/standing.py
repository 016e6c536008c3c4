"""
Public or private: where an upstream stands, and where it may lead us.

An upstream is private when every address of the host in its configured URL is; a private one may lead to private
addresses (a site's own registry with the site's own storage). A public one that leads inside is an attack on whatever
listens there, unless the settings name the host. To link-local addresses nobody leads, since metadata services of
clouds answer there; whoever wants that has to name the very address.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from appliance.errors import UpstreamRefused
from appliance.upstream.network.addresses import Reach, literal_of, reach_of


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
        rule = "a public upstream may not lead to private addresses, unless its redirect_hosts name the host"
        passed = [address for address in addresses if reach_of(address) is Reach.PUBLIC]
        return passed or self._refuse(host, addresses, rule)

    def led_by_private(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """The screen for hosts a private upstream names: all but link-local ones. Raises L{UpstreamRefused}."""
        passed = [address for address in addresses if reach_of(address) is not Reach.LINK_LOCAL]
        return passed or self._refuse(host, addresses, "no upstream may")

    def named(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """
        The screen for hosts that the settings name: a link-local address only when it is what they name.

        Raises L{UpstreamRefused}.
        """
        literal = literal_of(host)
        meant = None if literal is None else ip_address(literal)
        passed = [
            address
            for address in addresses
            if reach_of(address) is not Reach.LINK_LOCAL or ip_address(address.partition("%")[0]) == meant
        ]
        return passed or self._refuse(host, addresses, "no upstream may")

    def _refuse(self, host: str, addresses: Sequence[str], rule: str) -> Sequence[str]:
        if any(reach_of(address) is Reach.LINK_LOCAL for address in addresses):
            rule = "no upstream may lead to link-local addresses, unless its redirect_hosts name the very address"
        raise UpstreamRefused(self._upstream, f"led to {host} ({', '.join(addresses)}): {rule}")
