"""
Where an IP address lies: out in the world, inside a site, or on the link.

The networks are listed here and not taken from C{ipaddress.is_private}, whose meaning changed between releases of
Python and which counts documentation ranges as private.
"""

from __future__ import annotations

import re
import socket
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


class Reach(Enum):
    """Who can be found at an address."""

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
    The address that C{host} means without anybody being asked, C{None} when it is a name to be resolved.

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
