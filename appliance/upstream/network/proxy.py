"""
Which HTTP proxy a request goes through.

An upstream's own C{proxy} is for all its requests, wherever they lead; C{NO_PROXY} does not count then. Without one the
environment decides for each host: the upstream, its token server and where its redirects lead may each differ.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from appliance.errors import ConfigError
from appliance.settings import NO_PROXY, UpstreamSettings
from appliance.upstream.network.environment import ProxyVariable, read_environment
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
    said = read_environment(environ)
    return Proxies(_named(said.http), _named(said.https), said.exempt.cover)


def _named(variable: ProxyVariable | None) -> Proxy | None:
    return None if variable is None else _proxy(variable.danger_value, variable.name)


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
