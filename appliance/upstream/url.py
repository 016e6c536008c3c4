"""
URLs as this room uses them: absolute, http or https, without userinfo, and with their target kept byte for byte.

The target of a signed URL is part of its signature, so nothing here decodes, encodes or reorders it. The authority is
read strictly: two parsers that disagree about a host are how a check of one host becomes a request to another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}

_ABSOLUTE = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_VISIBLE = re.compile(r"[\x21-\x7e]*")

#: RFC 1035 section 2.3.4, in characters.
_MAX_HOST = 253
_MAX_PORT = 65535

OriginKey = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Url:
    """
    One URL.

    @ivar scheme: C{"http"} or C{"https"}.
    @ivar host: lower case, an IPv6 address without its brackets.
    @ivar port: the port, also when it is the scheme's own.
    @ivar target: path and query as received, C{"/"} at least; no fragment.
    """

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Read an absolute http(s) URL. Raises L{ValueError}, whose message holds no query."""
        match = _ABSOLUTE.match(text) if _VISIBLE.fullmatch(text) else None
        if match is None:
            raise ValueError(f"{_shown(text)!r} is no http or https URL")
        scheme, rest = match[1].lower(), match[3]
        host, port = _authority(match[2], scheme)
        return cls(scheme, host, port, rest if rest.startswith("/") else "/" + rest)

    @property
    def origin(self) -> OriginKey:
        """Scheme, host and port: what must be equal for two URLs to be of one origin (RFC 9110 section 4.3.1)."""
        return self.scheme, self.host, self.port

    @property
    def root(self) -> str:
        """The origin as text: the URL without its target."""
        return f"{self.scheme}://{self.authority}"

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL, the port left out when it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL for people: without its query, which may be a signature."""
        return self.root + self.path

    def at(self, target: str) -> Url:
        """Another target at the same origin."""
        return Url(self.scheme, self.host, self.port, target)

    def below(self, path: str) -> Url:
        """C{path} (which starts with a slash) below this URL's own path."""
        return self.at(self.path.rstrip("/") + path)

    def join(self, reference: str) -> Url:
        """The URL that C{reference} means when found at this one (RFC 3986 section 5.2.2). Raises L{ValueError}."""
        reference = reference.strip(" \t")
        if reference.startswith("//"):
            reference = f"{self.scheme}:{reference}"
        if _HAS_SCHEME.match(reference):
            return Url.parse(reference)
        if not _VISIBLE.fullmatch(reference):
            raise ValueError(f"{_shown(reference)!r} holds what no URL may hold")
        return self.at(self._target(reference.partition("#")[0]))

    def _target(self, reference: str) -> str:
        if reference.startswith("/"):
            return reference
        if not reference or reference.startswith("?"):
            return self.path + reference if reference else self.target
        path, question, query = reference.partition("?")
        return _without_dots(self.path.rpartition("/")[0] + "/" + path) + question + query

    def __bytes__(self) -> bytes:
        return f"{self.root}{self.target}".encode("ascii")

    def __repr__(self) -> str:
        return f"<Url {self.shown}>"


def _authority(text: str, scheme: str) -> tuple[str, int]:
    """Host and port. Raises L{ValueError} for userinfo, for a port out of range, and for what is no host."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text.rpartition('@')[2][:100]!r} is no host and port")
    port = int(match[2]) if match[2] else _DEFAULT_PORTS[scheme]
    if not 0 < port <= _MAX_PORT:
        raise ValueError(f"there is no port {port}")
    return _host(match[1]), port


def _host(text: str) -> str:
    if text.startswith("["):
        return str(IPv6Address(text[1:-1]))
    labels = text.removesuffix(".").split(".")
    if len(text) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text[:100]!r} is no host name")
    return text.lower()


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4."""
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if last in (".", ".."):
        del kept[len(kept) - (last == "..") :]
        last = ""
    return "/" + "/".join([*kept, last])


def _shown(text: str) -> str:
    """As much of a wrong URL as may be repeated: no query, no userinfo, not too long."""
    head = re.split(r"[?#]", text, maxsplit=1)[0]
    return re.sub(r"//[^/]*@", "//", head)[:200]
