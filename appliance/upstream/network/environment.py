"""
HTTP_PROXY, HTTPS_PROXY and NO_PROXY, read as Go's golang.org/x/net/http/httpproxy reads them.

Container tools are written in Go, so an environment that serves them has to mean the same here. What Go passes over in
silence because it cannot be read as a proxy is for whoever calls this to complain about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_PREFIX_LENGTH = re.compile(r"[^/]+/[0-9]{1,3}")

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class ProxyVariable:
    """
    One variable that names a proxy.

    @ivar name: as it is spelled in the environment.
    @ivar danger_value: as it stands there; may hold a password.
    """

    name: str
    danger_value: str

    def __repr__(self) -> str:
        return f"<ProxyVariable {self.name}>"


@dataclass(frozen=True)
class Environment:
    """
    What the environment says of proxies.

    @ivar http: the proxy for http URLs, C{None} for none; C{https}: the one for https URLs.
    @ivar exempt: the hosts that are reached without.
    """

    http: ProxyVariable | None
    https: ProxyVariable | None
    exempt: Exemptions


def read_environment(environ: Mapping[str, str]) -> Environment:
    """What C{environ} says: the name in capitals counts before the one in small letters, an empty value not at all."""
    no_proxy = _variable(environ, "NO_PROXY")
    return Environment(
        http=_variable(environ, "HTTP_PROXY"),
        https=_variable(environ, "HTTPS_PROXY"),
        exempt=Exemptions(no_proxy.danger_value if no_proxy else ""),
    )


def _variable(environ: Mapping[str, str], name: str) -> ProxyVariable | None:
    for spelling in (name, name.lower()):
        if environ.get(spelling):
            return ProxyVariable(spelling, environ[spelling])
    return None


class Exemptions:
    """
    The hosts of one NO_PROXY, and those that never are reached through a proxy: C{localhost} and loopback addresses.

    Entries stand between commas, blanks around them do not count. C{*} means every host, an address that address, a
    CIDR block the addresses in it, C{.domain} and C{*.domain} the subdomains, C{domain} also itself. All but blocks may
    be followed by a port; an IPv6 address needs brackets then, and must have none otherwise.
    """

    def __init__(self, no_proxy: str) -> None:
        entries = [entry for text in no_proxy.split(",") if (entry := _entry(text.strip().lower())) is not None]
        self._blocks = tuple(entry for entry in entries if isinstance(entry, _Block))
        self._hosts = tuple(entry for entry in entries if isinstance(entry, _Host))
        self._all = any(isinstance(entry, _Everything) for entry in entries)

    def cover(self, host: str, port: int) -> bool:
        """
        Whether C{host} is reached without a proxy.

        @param host: in lower case, an IPv6 address without its brackets. Names are not resolved.
        """
        address = _address(host)
        if self._all or host == "localhost" or (address is not None and address.is_loopback):
            return True
        if address is not None:
            return any(block.covers(address, port) for block in self._blocks)
        return any(entry.covers(host, port) for entry in self._hosts)


@dataclass(frozen=True)
class _Everything:
    """C{*}."""


@dataclass(frozen=True)
class _Block:
    """Addresses; C{port} as text, empty for any."""

    network: IPv4Network | IPv6Network
    port: str = ""

    def covers(self, address: Address, port: int) -> bool:
        return address in self.network and self.port in ("", str(port))


@dataclass(frozen=True)
class _Host:
    """Names that end in C{suffix}, which begins with a dot; and the rest of it, when C{itself}."""

    suffix: str
    itself: bool
    port: str

    def covers(self, host: str, port: int) -> bool:
        meant = host.endswith(self.suffix) or (self.itself and host == self.suffix[1:])
        return meant and self.port in ("", str(port))


def _entry(text: str) -> _Everything | _Block | _Host | None:
    """What one entry means, C{None} when Go passes over it."""
    if text == "*":
        return _Everything()
    if (network := _network(text)) is not None:
        return _Block(network)
    host, port = _split(text) or (text, "")
    if (address := _address(host)) is not None:
        return _Block(ip_network(address), port)
    if not host:
        return None
    host = host[1:] if host.startswith("*.") else host
    itself = not host.startswith(".")
    return _Host(_ascii("." + host if itself else host), itself, port)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    """A block with the length of its prefix; bits behind the prefix may be set."""
    if not _PREFIX_LENGTH.fullmatch(text) or "%" in text:
        return None
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    inner = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if inner is None or network.prefixlen < 96 else ip_network((inner, network.prefixlen - 96))


def _address(text: str) -> Address | None:
    """An address without a zone; an IPv4 address mapped into IPv6 is that IPv4 address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return None if address.scope_id is not None else address.ipv4_mapped or address
    return address


def _split(text: str) -> tuple[str, str] | None:
    """Host and port as Go's C{net.SplitHostPort} tells them apart, C{None} where it sees an error."""
    colon = text.rfind(":")
    if colon < 0:
        return None
    host, port = text[:colon], text[colon + 1 :]
    if host.startswith("["):
        if not host.endswith("]") or "]" in host[:-1]:
            return None
        host = host[1:-1]
    elif ":" in host:
        return None
    return None if set("[]") & set(host + port) else (host, port)


def _ascii(suffix: str) -> str:
    """The same name as DNS spells it (IDNA), or unchanged when it has no such spelling."""
    try:
        return suffix if suffix.isascii() else "." + suffix[1:].encode("idna").decode("ascii")
    except UnicodeError:
        return suffix
