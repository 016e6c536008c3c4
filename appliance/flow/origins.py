"""
Whose requests a port answers: those that are addressed to it, and of a browser's only those of no other page.

A browser sends what any page makes it send, to any address it can reach. C{Host} (RFC 9110 section 7.2) says which name
the page believes us to have, which keeps out a page whose own name was made to mean our address (DNS rebinding);
C{Origin} (RFC 6454), C{Referer} (RFC 9110 section 10.1.3) and C{Sec-Fetch-Site} (Fetch Metadata) say which page it was.
Programs send none of the last three, but for a C{Referer} where they were redirected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from twisted.web.http_headers import Headers

from appliance.errors import ForeignPage, HostUnknown, RequestInvalid
from appliance.flow.http import values_of

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?)(?::([0-9]{0,5}))?")
_NAME_LIMIT = 253
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SAME = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True)
class Host:
    """
    A C{Host} field, in one spelling.

    @ivar name: in lower case; an IPv6 address without brackets, in its shortest form.
    @ivar port: C{""} when none is named.
    """

    name: str
    port: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether the name means the machine it is said on (RFC 6761 section 6.3)."""
        address = _address(self.name)
        return self.name.split(".")[-1] == "localhost" if address is None else ip_address(address).is_loopback

    def is_at(self, address: str) -> bool:
        """Whether it is that address, literally."""
        return _address(self.name) is not None and _address(self.name) == _address(address)

    def is_one_of(self, patterns: Sequence[str]) -> bool:
        """Whether a pattern means it: C{host} at any port, C{host:port}, C{*.domain}; all in lower case."""
        return any(self._is_meant(pattern) for pattern in patterns)

    def _is_meant(self, pattern: str) -> bool:
        meant = parse_host(pattern.removeprefix("*."))
        if meant.port not in ("", self.port):
            return False
        return self.name.endswith("." + meant.name) if pattern.startswith("*.") else self.name == meant.name


@lru_cache(256)
def parse_host(text: str) -> Host:
    """Read a C{Host}. Raises L{RequestInvalid}. Those that clients use are few, and are remembered."""
    match = _HOST.fullmatch(text)
    if match is None or len(match[1]) > _NAME_LIMIT:
        raise RequestInvalid("Host: is no name of a host, with or without a port")
    name = match[1].lower().removesuffix(".")
    if name.startswith("["):
        address = _address(name[1:-1])
        if address is None:
            raise RequestInvalid("Host: is no name of a host, with or without a port")
        name = address
    return Host(name, match[2] or "")


def host_of(headers: Headers) -> Host | None:
    """The host that a request names, C{None} for none. Raises L{RequestInvalid} when it is none, or there are two."""
    named = values_of(headers, b"Host")
    if len(named) > 1:
        raise RequestInvalid("Host: stands there twice")
    return parse_host(named[0].strip()) if named and named[0].strip() else None


def refuse_other_host(host: Host | None, hosts: Sequence[str], key: str, address: str | None = None) -> None:
    """
    Let a request in by its C{Host}.

    @param hosts: the names that are answered to.
    @param key: where they are configured, for the message.
    @param address: our own address on this connection, to be answered to as loopback names are; C{None}: to neither.
    @raise HostUnknown: it is addressed to another name.
    """
    if host is None:
        raise HostUnknown(f"the request names no Host, and only those of {key} are answered")
    is_own = address is not None and (host.is_loopback or host.is_at(address))
    if not is_own and not host.is_one_of(hosts):
        raise HostUnknown(
            f"nothing here is called {host.name[:160]}; if that is a name of this appliance, add it to {key}"
        )


def refuse_foreign_page(headers: Headers, host: Host | None) -> None:
    """Raises L{ForeignPage} for what a browser sends for a page of another origin than C{host}."""
    sites, origins, pages = (values_of(headers, name) for name in (b"Sec-Fetch-Site", b"Origin", b"Referer"))
    if not (sites or origins or pages):
        return
    foreign = [site for site in sites if site.strip().lower() not in _SAME]
    foreign += [origin for origin in origins if not _is_page_of(origin, host)]
    # A browser that says same-origin knows better than a Host that a proxy between may have replaced.
    if pages and (not sites or "none" in sites):
        program = "Mozilla/" not in "".join(values_of(headers, b"User-Agent"))
        foreign += [
            page
            for page in pages
            # Programs in Go name where they were redirected from: another registry, perhaps below a path.
            if not _is_page_of(page, host) and not (program and "/v2/" in _path(page))
        ]
    if foreign:
        raise ForeignPage("a web page of another origin made a browser send this; nothing here is for other pages")


def _path(url: str) -> str:
    """The path of a URL, C{""} when it is none."""
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _is_page_of(url: str, host: Host | None) -> bool:
    """Whether a page at C{url} is one of C{host}, whichever of http and https was used to get it."""
    try:
        parts = urlsplit(url)
        page = parse_host(parts.netloc)
    except (ValueError, RequestInvalid):
        return False
    if host is None or parts.scheme not in _DEFAULT_PORTS or page.name != host.name:
        return False
    default = _DEFAULT_PORTS[parts.scheme]
    return (page.port or default) == (host.port or default)


def _address(text: str) -> str | None:
    """An address literal in its shortest form, C{None} for what is none; a zone does not count."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
