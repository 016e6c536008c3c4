"""
The values of single keys of the configuration: what each may say, and what is made of it.

Every reader takes the value where it stands and raises L{ConfigError} that says what would be right. A value that may
hold a password is never repeated.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from math import inf
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from appliance import units
from appliance.errors import ConfigError
from appliance.settings import DEFAULT_PORT, NO_LOG, NO_PROXY, STANDARD_OUTPUT
from appliance.yamltree import At, shown

T = TypeVar("T")

# One component of a repository name (OCI distribution spec, "Pulling manifests"), with a port if it is a host.
_UPSTREAM_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?::([0-9]{1,5}))?")
_IPV6_HOST = re.compile(r"\[([0-9a-f:.]+)\](?::([0-9]{1,5}))?")
_NAME_LIMIT = 200
_KIND = re.compile(r"[a-z0-9-]{1,64}")
_PATTERN = re.compile(r"[a-z0-9._*?/-]+")
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_ENDPOINT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):[ -~]+")
_PORT_ENDPOINTS = frozenset({"tcp", "tcp6", "ssl"})
_SITE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
# Ten digits are more than any number here may have.
_WHOLE = re.compile(r"0|[1-9][0-9]{0,9}")
# A smaller limit is a unit that was mistaken.
_LEAST_RATE = 1000
# A public key of minisign: the algorithm's two letters, eight bytes of key id, 32 of Ed25519.
_KEY_BYTES = 42
_KEY_BEGINNING = b"Ed"


# -- of any value ---------------------------------------------------------------------------------------------------


def optional(read: Callable[[At], T]) -> Callable[[At], T | None]:
    """A reader that takes C{~} for C{None}."""
    return lambda at: None if at.value is None else read(at)


def list_of(read: Callable[[At], T]) -> Callable[[At], tuple[T, ...]]:
    """A reader of lists."""
    return lambda at: tuple(read(item) for item in at.items())


def one_of(meanings: Mapping[str, T]) -> Callable[[At], T]:
    """A reader of words, each of which means something."""

    def read(at: At) -> T:
        if not isinstance(at.value, str) or at.value not in meanings:
            raise at.fault(f"is not one of {', '.join(meanings)}")
        return meanings[at.value]

    return read


# -- numbers --------------------------------------------------------------------------------------------------------


def whole(least: int, most: int) -> Callable[[At], int]:
    """A reader of whole numbers from C{least} to C{most}, in decimal digits."""

    def read(at: At) -> int:
        text = at.text()
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise at.fault(f"is no whole number from {least} to {most}")
        return int(text)

    return read


def duration(at: At) -> float:
    """Seconds."""
    text = at.text()
    try:
        return units.duration(text)
    except ConfigError as error:
        raise at.fault(str(error)) from None


def timeout(at: At) -> float:
    """Seconds, and more than none."""
    seconds = duration(at)
    if seconds < 1:
        raise at.fault("is too short; give at least 1s")
    return seconds


def max_stale(at: At) -> float | None:
    """Seconds, C{None} for C{unlimited}."""
    return None if at.value == "unlimited" else duration(at)


def revalidate(at: At) -> float:
    """Seconds for which a tag is fresh, infinitely many for C{never}."""
    if at.value in ("never", "always"):
        return inf if at.value == "never" else 0.0
    try:
        return duration(at)
    except ConfigError:
        raise at.fault("says not when; write never, always, or a duration such as 90s, 5m, 12h") from None


def rate(at: At) -> int:
    """Bytes per second."""
    text = at.text()
    try:
        count = units.size(text)
    except ConfigError:
        raise at.fault("is no rate; write a size per second: 500KB, 40MB, 1GiB, or ~ for any") from None
    if count < _LEAST_RATE:
        raise at.fault("is less than 1KB per second; write a larger size, or ~ for any")
    return count


# -- files ----------------------------------------------------------------------------------------------------------


def path(at: At) -> Path:
    """A path, relative to the folder of the configuration file."""
    return Path(at.source).absolute().parent / at.text()


def readable(at: At) -> Path:
    """The path of a file that can be read."""
    where = path(at)
    try:
        where.open("rb").close()
    except OSError as error:
        raise at.fault(f"cannot be read at {where}: {error.strerror}") from None
    return where


def access_log(at: At) -> str | Path:
    """A file to append to, C{STANDARD_OUTPUT} or C{NO_LOG}."""
    # YAML makes a truth value of off.
    if at.value is False or at.value == NO_LOG:
        return NO_LOG
    if isinstance(at.value, bool):
        raise at.fault('is no access log; write "-" for standard output, the path of a file, or off')
    if at.text() == STANDARD_OUTPUT:
        return STANDARD_OUTPUT
    where = path(at)
    if where.is_dir() or not where.parent.is_dir():
        raise at.fault(f"is no file at {where}, or one in a folder that is not there")
    return where


def inbox(at: At) -> Path:
    """A folder that is there."""
    where = path(at)
    if not where.is_dir():
        raise at.fault(f"is no folder at {where}; make it, for the user that pullcache runs as")
    return where


# -- hosts and addresses --------------------------------------------------------------------------------------------


def endpoint(at: At) -> str:
    """A Twisted server endpoint string, its port looked at."""
    text = at.text()
    match = _ENDPOINT.fullmatch(text)
    advice = "is no endpoint; write one such as tcp:port=5000 or tcp:port=5000:interface=127.0.0.1"
    if match is None:
        raise at.fault(advice)
    kind, *arguments = re.split(r"(?<!\\):", text)
    if kind in _PORT_ENDPOINTS:
        ports = [a.removeprefix("port=") for a in arguments if a.startswith("port=")] or arguments[:1]
        if not _is_port(ports[0]):
            raise at.fault(f"{advice}; a port is a number up to 65535")
    elif len(arguments) == 1 and arguments[0].isdigit():
        # localhost:5000 and the like
        raise at.fault(advice)
    return text


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and int(text) <= 65535


def host(at: At) -> str:
    """A host or C{*.domain}, with a port or without, in lower case; IPv6 in brackets and its shortest form."""
    text = at.text().lower()
    found = _ipv6_host(text) if text.startswith("[") else text if _is_host(text.removeprefix("*.")) else None
    if found is None:
        raise at.fault(
            "is no host; write HOST, HOST:PORT, [IPv6]:PORT or *.DOMAIN, without https:// and without a path"
        )
    return found


def address(at: At) -> str:
    """One host, with a port or without, as L{host} reads it."""
    found = host(at)
    if found.startswith("*."):
        raise at.fault("is a pattern; write each HOST or HOST:PORT by itself")
    return found


def _is_host(text: str) -> bool:
    match = _UPSTREAM_NAME.fullmatch(text)
    return match is not None and _is_port(match[1] or "0")


def _ipv6_host(text: str) -> str | None:
    match = _IPV6_HOST.fullmatch(text)
    if match is None or not _is_port(match[2] or "0"):
        return None
    try:
        address = IPv6Address(match[1])
    except ValueError:
        return None
    return f"[{address}]:{match[2]}" if match[2] else f"[{address}]"


def upstream_name(at: At, name: str) -> str:
    """The name of an upstream, which may stand at the head of a reference."""
    if not _is_host(name) or len(name) > _NAME_LIMIT:
        raise at.fault(
            f"{shown(name)} is no name for an upstream; write a host name such as ghcr.io or registry.example:5000,"
            " or one word, in lower case and without /",
            quoted=False,
        )
    if DEFAULT_PORT.search(name):
        raise at.fault(f"{shown(name)} ends in a default port; leave the port out", quoted=False)
    return name


def alias(at: At) -> str:
    """One more name of an upstream."""
    return upstream_name(at, at.text())


def urls(at: At) -> tuple[str, ...]:
    """One base URL of a registry, or a list of them."""
    if not isinstance(at.value, list):
        return (_url(at),)
    found = tuple(_url(item) for item in at.items())
    if not found:
        raise at.fault("is empty; write at least one URL")
    return found


def _url(at: At) -> str:
    text = at.text()
    if "@" in text:
        # Whatever stands before it may be a password: the value is not shown.
        raise at.fault("carries a name or password; use username and password_file instead", quoted=False)
    if "?" in text or "#" in text:
        raise at.fault("has a query or a fragment; write scheme, host and path only", quoted=False)
    if not _is_base_url(text):
        raise at.fault("is no URL of a registry; write http:// or https://, a host, and a path prefix if there is one")
    if re.search(r"/v2/?$", text):
        raise at.fault("ends in /v2, which is added to every URL; leave it out")
    return text.rstrip("/")


def _is_base_url(text: str) -> bool:
    if not re.fullmatch(r"https?://[!-~]+", text):
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    name = parts.hostname or ""
    # A literal IPv6 address has been checked by urlsplit; any other host follows the grammar of names.
    host_right = ":" in name or _UPSTREAM_NAME.fullmatch(name) is not None
    port_right = port != 0 and not parts.netloc.endswith(":")
    return host_right and port_right and _URL_PATH.fullmatch(parts.path.rstrip("/")) is not None


def proxy(at: At) -> str:
    """The URL of an HTTP proxy, without a path, or C{NO_PROXY}."""
    text = at.text()
    if text == NO_PROXY:
        return text
    if "@" in text:
        # Whatever stands before it may be a password: the value is not shown.
        raise at.fault("carries a name or password; use proxy_username and proxy_password_file instead", quoted=False)
    scheme, separator, rest = text.partition("://")
    if separator and scheme not in ("http", "https"):
        raise at.fault(
            "is of no use here: only HTTP proxies are spoken to; write http://HOST:PORT or https://HOST:PORT"
        )
    if not separator or not _is_base_url(text) or not re.fullmatch(r"[^/?#]+:[0-9]+/?", rest):
        raise at.fault("is no URL of a proxy; write http://HOST:PORT or https://HOST:PORT, none, or ~")
    return text.rstrip("/")


# -- words ----------------------------------------------------------------------------------------------------------


def kind(at: At) -> str:
    """The word for an adapter; which there are is known to the plugins."""
    if not _KIND.fullmatch(at.text()):
        raise at.fault("is no kind; write one word in lower case, such as distribution or dockerhub")
    return at.text()


def username(at: At) -> str:
    """RFC 7617 section 2: a user-id has no colon."""
    text = at.text()
    if ":" in text:
        # What follows it may be the password.
        raise at.fault("may hold no colon; the password goes into a file of its own", quoted=False)
    return text


def pattern(at: At) -> str:
    """A pattern of repositories, as L{appliance.settings.matches} understands it."""
    text = at.text()
    pieces = text.split("/")
    if not _PATTERN.fullmatch(text) or any(not piece or ("**" in piece and piece != "**") for piece in pieces):
        raise at.fault("is no pattern of repositories; write such as library/*, team/** or **, in lower case")
    return text


def public_key(at: At) -> str:
    """A public key in minisign's form."""
    text = at.text().strip()
    try:
        key = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES or not key.startswith(_KEY_BEGINNING):
        # Not shown: whoever confuses the two files has written the secret one.
        raise at.fault(
            "is no public key of minisign; write the second line of NAME.pub, which begins with RW", quoted=False
        )
    return text


def site(at: At) -> str:
    """What an appliance is called."""
    if not _SITE.fullmatch(at.text()):
        raise at.fault("is no name for a site; write letters, digits, dots, dashes and underscores")
    return at.text()
