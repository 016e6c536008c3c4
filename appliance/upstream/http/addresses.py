"""
Where an upstream may lead us: addresses by their reach, the rule for them, and hosts that are named.

An upstream is private when every address of the host in its configured URL is; a private one may lead to private
addresses (a site's own registry with the site's own storage). A public one that leads inside is an attack on whatever
listens there, unless the settings name the host. No upstream leads to link-local addresses, since metadata services of
clouds answer there, unless the settings name the very address.

The networks are listed here and not taken from C{ipaddress.is_private}, whose meaning changed between releases of
Python and which counts documentation ranges as private.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from appliance.errors import UpstreamRefused
from appliance.upstream.url import Url

# -- addresses --------------------------------------------------------------------------------------------------------


class Reach(Enum):
    """From where an address can be reached."""

    PUBLIC = "public"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"


def _networks(*texts: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in texts)


PRIVATE = _networks(
    "0.0.0.0/8",  # RFC 1122 section 3.2.1.3: this host; Linux connects 0.0.0.0 to itself
    "10.0.0.0/8",  # RFC 1918
    "100.64.0.0/10",  # RFC 6598: shared address space
    "127.0.0.0/8",  # RFC 1122 section 3.2.1.3: loopback
    "172.16.0.0/12",  # RFC 1918
    "192.168.0.0/16",  # RFC 1918
    "::/128",  # RFC 4291 section 2.5.2: unspecified
    "::1/128",  # RFC 4291 section 2.5.3: loopback
    "64:ff9b:1::/48",  # RFC 8215: local-use IPv4/IPv6 translation
    "fc00::/7",  # RFC 4193: unique local
    "fec0::/10",  # RFC 3879: the former site-local addresses
)
LINK_LOCAL = _networks(
    "169.254.0.0/16",  # RFC 3927; cloud metadata services live there
    "fe80::/10",  # RFC 4291 section 2.5.6
)

_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291 section 2.5.5.2
_COMPATIBLE = IPv6Network("::/96")  # RFC 4291 section 2.5.5.1
_TRANSLATED = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
_6TO4 = IPv6Network("2002::/16")  # RFC 3056 section 2


#: RFC 6761 section 6.3, and the name that C{/etc/hosts} of many distributions has for the same.
_LOOPBACK_NAME = re.compile(r"(?:.*\.)?localhost|localhost\.localdomain")
#: A last label that no top-level domain has; C libraries read such a name as an IPv4 address.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


def literal_of(host: str) -> str | None:
    """
    The address that C{host} means without a resolver, C{None} when it is a name to be resolved.

    Notations of IPv4 that the C library takes (C{127.1}, C{0x7f000001}) are addresses, too; and so are the names of
    the loopback interface.

    @param host: in lower case, IPv6 addresses without brackets.
    """
    host = host.removesuffix(".")
    if ":" in host:
        return host
    if _LOOPBACK_NAME.fullmatch(host):
        return "127.0.0.1"
    if not _NUMERIC_END.fullmatch(host):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def reach_of(text: str) -> Reach:
    """Where the address C{text} (its zone, if any, is ignored) lies. Raises L{ValueError} when it is no address."""
    address = _meant(ip_address(text.partition("%")[0]))
    if any(address in network for network in LINK_LOCAL):
        return Reach.LINK_LOCAL
    if any(address in network for network in PRIVATE):
        return Reach.PRIVATE
    return Reach.PUBLIC


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address carries, where it carries one."""
    if isinstance(address, IPv4Address):
        return address
    bits = int(address)
    if bits > 1 and any(address in network for network in (_MAPPED, _COMPATIBLE, _TRANSLATED)):
        return IPv4Address(bits & 0xFFFFFFFF)
    if address in _6TO4:
        return IPv4Address(bits >> 80 & 0xFFFFFFFF)
    return address


# -- the rule ---------------------------------------------------------------------------------------------------------


class AddressPolicy:
    """
    Which addresses may be connected to on behalf of one configured URL; each method is a rule for one sort of host.

    A rule takes a host and what it resolved to, and gives the addresses that passed, one at least.

    @ivar private: whether it was private when last resolved; public until known.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.private = False

    def own(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """For the configured host itself: all pass, since the operator chose it, and L{private} is noted."""
        self.private = all(reach_of(address) is not Reach.PUBLIC for address in addresses)
        return addresses

    def from_public(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """For a host that a public upstream leads to: public addresses. Raises L{UpstreamRefused}."""
        rule = "a public upstream may not lead to private addresses, unless its redirect_hosts name the host"
        passed = [address for address in addresses if reach_of(address) is Reach.PUBLIC]
        return passed or self._refuse(host, addresses, rule)

    def from_private(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """For a host that a private upstream leads to: all but link-local ones. Raises L{UpstreamRefused}."""
        passed = [address for address in addresses if reach_of(address) is not Reach.LINK_LOCAL]
        return passed or self._refuse(host, addresses, "no upstream may")

    def named(self, host: str, addresses: Sequence[str]) -> Sequence[str]:
        """
        For a host that the settings name: a link-local address only when it is what they name.

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


# -- hosts that are named ---------------------------------------------------------------------------------------------


_PATTERN = re.compile(r"(\*\.)?([a-z0-9_-][a-z0-9_.-]*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class _Pattern:
    """One entry: C{host} without brackets, C{port} as C{None} for any, C{below} for subdomains only."""

    host: str
    port: int | None
    below: bool

    def covers(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.below:
            # An address has no subdomains, though its text may end like another one's.
            return host.endswith("." + self.host) and literal_of(host) is None
        return host == self.host


class HostPatterns:
    """A list of hosts, compared by name: nothing is resolved."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        """
        @param patterns: each is C{host} (at any port), C{host:port}, C{*.domain} (its subdomains at any port, not the
            domain itself) or C{*.domain:port}; in any case, IPv6 addresses in brackets.
        @raise ValueError: one of them is none of these; the message names it.
        """
        self._patterns = tuple(_parsed(pattern) for pattern in patterns)

    def covers(self, url: Url) -> bool:
        """Whether one of the patterns means the host and port of C{url}."""
        host = url.host.removesuffix(".")
        return any(pattern.covers(host, url.port) for pattern in self._patterns)


def _parsed(text: str) -> _Pattern:
    match = _PATTERN.fullmatch(text.lower())
    if match is None or (match[1] and match[2].startswith("[")):
        raise ValueError(f"{text!r} is no host, host:port or *.domain")
    # Reading it as a URL gives the same spelling of IPv6 addresses on both sides.
    try:
        url = Url.parse(f"https://{match[2]}:{match[3] or 443}")
    except ValueError as reason:
        raise ValueError(f"{text!r} is no host, host:port or *.domain: {reason}") from None
    return _Pattern(url.host.removesuffix("."), url.port if match[3] else None, bool(match[1]))
