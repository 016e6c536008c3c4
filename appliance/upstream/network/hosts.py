"""Hosts that somebody named: C{auth_hosts} and C{redirect_hosts} of the settings and of adapters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.upstream.network.addresses import literal_of
from appliance.upstream.url import Url

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
    """A list of hosts; the addresses behind their names do not matter here."""

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
