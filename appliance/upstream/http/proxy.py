"""
Which HTTP proxy a request goes through.

An upstream's own C{proxy} is for all its requests, wherever they lead; C{NO_PROXY} does not count then. Without one the
environment decides for each host: the upstream, its token server and where its redirects lead may each differ.

HTTP_PROXY, HTTPS_PROXY and NO_PROXY are read as Go's golang.org/x/net/http/httpproxy reads them: container tools are
written in Go, so an environment that serves them has to mean the same here. What Go silently ignores because it cannot
be read as the URL of a proxy is an error here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import quote, unquote

from appliance.errors import ConfigError
from appliance.settings import NO_PROXY, UpstreamSettings
from appliance.upstream.url import Url

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USABLE = "http://proxy.example:3128 would be one"


@dataclass(frozen=True)
class Proxy:
    """
    One proxy.

    @ivar url: its scheme, host and port.
    @ivar source: the key or the variable that names it.
    @ivar danger_pair: gives user and password as Basic wants them, C{user:password}; C{None} when there are none.
    """

    url: Url
    source: str
    danger_pair: Callable[[], bytes] | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """For messages."""
        return f"proxy {self.url.scheme}://{self.url.authority}"

    def danger_authorization(self) -> bytes | None:
        """The value of a Proxy-Authorization field (RFC 7617), C{None} when there are no credentials."""
        return None if self.danger_pair is None else b"Basic " + base64.b64encode(self.danger_pair())

    def danger_url(self) -> str:
        """The URL with user and password, as other libraries want it."""
        userinfo = ""
        if self.danger_pair is not None:
            username, _, password = self.danger_pair().partition(b":")
            userinfo = f"{quote(username, safe='')}:{quote(password, safe='')}@"
        return f"{self.url.scheme}://{userinfo}{self.url.authority}"

    def advice(self) -> str:
        """What to do about a 407."""
        if self.danger_pair is not None:
            return f"it did not accept the user and the password given with {self.source}"
        remedy = "give the upstream proxy, proxy_username and proxy_password_file"
        return f"it wants a user and a password, and none are given with {self.source}; {remedy}"


@dataclass(frozen=True)
class Proxies:
    """
    The decision for one upstream.

    @ivar http: the proxy for http URLs, C{None} for none; C{https}: the one for https URLs.
    @ivar exempts: whether a host and port are reached without.
    """

    http: Proxy | None = None
    https: Proxy | None = None
    exempts: Callable[[str, int], bool] = field(default=lambda host, port: False, repr=False)

    def proxy_for(self, url: Url) -> Proxy | None:
        """The proxy to go through to C{url}, C{None} for the direct way. Always the same for one origin."""
        proxy = self.https if url.scheme == "https" else self.http
        return None if proxy is None or self.exempts(url.host, url.port) else proxy


def proxies_for(settings: UpstreamSettings, environ: Mapping[str, str]) -> Proxies:
    """
    What settings and environment say for one upstream.

    C{proxy_username} and C{proxy_password_file} belong to C{proxy}; a variable has its own as userinfo.

    @raise ConfigError: a proxy whose URL cannot be read or is of another scheme than http and https, or a password file
        that cannot be read; the message names key or variable, and nothing of a value that may hold a password.
    """
    key = f"upstreams.{settings.name}"
    if settings.proxy == NO_PROXY:
        return Proxies()
    if settings.proxy is not None:
        fixed = _proxy(settings.proxy, f"{key}.proxy", _pair_of(settings, key))
        return Proxies(fixed, fixed)

    def named(name: str) -> Proxy | None:
        spelling, danger_value = _variable(environ, name)
        return _proxy(danger_value, spelling) if danger_value else None

    _, no_proxy = _variable(environ, "NO_PROXY")
    return Proxies(named("HTTP_PROXY"), named("HTTPS_PROXY"), Exemptions(no_proxy).cover)


def _proxy(danger_text: str, source: str, pair: Callable[[], bytes] | None = None) -> Proxy:
    """A value without a scheme means http, as in Go."""
    match = _SCHEME.match(danger_text)
    scheme = match[1].lower() if match else "http"
    if scheme not in ("http", "https"):
        raise ConfigError(f"{source}: proxies of the scheme {scheme} are not known here; {_USABLE}")
    rest = danger_text[match.end() :] if match else danger_text
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    userinfo, at, host = authority.rpartition("@")
    try:
        url = Url.parse(f"{scheme}://{host}")
    except ValueError:
        raise ConfigError(f"{source}: cannot be read as the URL of a proxy; {_USABLE}") from None
    return Proxy(url, source, pair or (_decoded(userinfo) if at else None))


def _decoded(danger_userinfo: str) -> Callable[[], bytes]:
    """Userinfo of a URL (RFC 3986 section 3.2.1); a user without a password has an empty one."""
    user, _, password = danger_userinfo.partition(":")
    danger = f"{unquote(user)}:{unquote(password)}".encode()
    return lambda: danger


def _pair_of(settings: UpstreamSettings, key: str) -> Callable[[], bytes] | None:
    if settings.proxy_username is None or settings.proxy_password_file is None:
        return None
    if ":" in settings.proxy_username:
        raise ConfigError(f"{key}.proxy_username: no user name of Basic may hold a colon (RFC 7617 section 2)")
    return _PasswordFile(settings.proxy_username, settings.proxy_password_file, f"{key}.proxy_password_file")


class _PasswordFile:
    """User and password, the latter as it stands in its file now; or as it last stood there, while that is gone."""

    def __init__(self, username: str, path: Path, key: str) -> None:
        """Raises L{ConfigError} when there is no password to begin with."""
        self._username = username
        self._path = path
        try:
            self._danger_password = self._read()
        except OSError as reason:
            raise ConfigError(f"{key}: {path} cannot be read: {reason.strerror}") from None

    def _read(self) -> bytes:
        return self._path.read_bytes().removesuffix(b"\n").removesuffix(b"\r")

    def __call__(self) -> bytes:
        try:
            self._danger_password = self._read()
        except OSError:
            pass
        return self._username.encode() + b":" + self._danger_password


# -- the environment --------------------------------------------------------------------------------------------------


_PREFIX_LENGTH = re.compile(r"[^/]+/[0-9]{1,3}")

Address = IPv4Address | IPv6Address


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """How C{name} is spelled, in capitals before small letters, and its value; an empty value does not count."""
    return next(((each, environ[each]) for each in (name, name.lower()) if environ.get(each)), (name, ""))


class Exemptions:
    """
    The hosts of one NO_PROXY, and those that never are reached through a proxy: C{localhost} and loopback addresses.

    Entries stand between commas, blanks around them do not count. C{*} means every host, an address that address, a
    CIDR block the addresses in it, C{.domain} and C{*.domain} the subdomains, C{domain} also itself. All but blocks may
    be followed by a port; an IPv6 address needs brackets then, and must have none otherwise.
    """

    def __init__(self, no_proxy: str) -> None:
        texts = [text.strip().lower() for text in no_proxy.split(",")]
        entries = [_entry(text) for text in texts]
        self._all = "*" in texts
        self._blocks = tuple(entry for entry in entries if isinstance(entry, _Block))
        self._hosts = tuple(entry for entry in entries if isinstance(entry, _Host))

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


def _entry(text: str) -> _Block | _Host | None:
    """What one entry means, C{None} when Go passes over it."""
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
