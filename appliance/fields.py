"""
The types of the configuration's keys: what the value of each may say, and what is made of it.

A type is the Python type with a L{Written} beside it, as in C{Duration}. The functions named there take the text of one
value and raise L{ConfigError} with what is wrong and what would be right; the place and the value are put before that
by C{appliance.config}. How durations and sizes are written is in C{appliance.units}.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from math import inf
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from appliance import units
from appliance.errors import ConfigError, NameInvalid
from appliance.oci.pattern import ReferencePattern


@dataclass(frozen=True, eq=False)
class Written:
    """
    How a value is written in the file.

    @ivar read: makes the value of its text; C{None} when only C{words} may be written.
    @ivar words: what some words mean instead.
    @ivar file: for a path: refuses one that cannot be used, given absolute.
    """

    read: Callable[[str], Any] | None = None
    words: Mapping[Any, Any] = field(default_factory=dict)
    file: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Listed:
    """
    How a list is written in the file.

    @ivar filled: whether it must have a member.
    @ivar alone: whether one member may be written without being a list.
    """

    filled: bool = False
    alone: bool = False


class PossibleSecret(ConfigError):
    """The value may hold a password or a key: no message may repeat it."""


def one_of(*words: str) -> Written:
    """One of a few words, which are the value."""
    return Written(words={word: word for word in words})


# -- numbers --------------------------------------------------------------------------------------------------------


def whole(least: int, most: int) -> Written:
    """A whole number from C{least} to C{most}, in decimal digits."""

    def read(text: str) -> int:
        # Ten digits are more than any number here may have.
        if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text) or not least <= int(text) <= most:
            raise ConfigError(f"is no whole number from {least} to {most}")
        return int(text)

    return Written(read)


Duration = Annotated[float, Written(units.duration)]
"""Seconds."""


def _timeout(text: str) -> float:
    seconds = units.duration(text)
    if seconds < 1:
        raise ConfigError("is too short; give at least 1s")
    return seconds


Timeout = Annotated[float, Written(_timeout)]
"""Seconds, at least one."""


def _rate(text: str) -> int:
    try:
        return units.rate(text)
    except ConfigError as error:
        raise ConfigError(f"{error}, or ~ for any") from None


Rate = Annotated[int, Written(_rate)]
"""Bytes per second."""

RateOf = Annotated[int, Written(units.rate_of)]
"""The same, which may be written C{50MB/s}."""


def _interval(text: str) -> float:
    seconds = units.duration(text)
    if seconds < 3600:
        raise ConfigError("is less than an hour; write a duration such as 30d, or never")
    return seconds


Interval = Annotated[float | None, Written(_interval, words={"never": None})]
"""Seconds, an hour or more; C{None} for never."""


def _size(text: str) -> int:
    octets = units.size(text)
    if octets < 1000:
        raise ConfigError("is too small; write a size such as 100MB")
    return octets


Size = Annotated[int, Written(_size)]
"""Bytes, a thousand or more."""


# -- what is kept ---------------------------------------------------------------------------------------------------

UNLIMITED = "unlimited"


def _keep_for(text: str) -> float:
    seconds = units.duration(text)
    if not seconds:
        raise ConfigError("keeps nothing; write a duration such as 7d")
    return seconds


KeepFor = Annotated[float, Written(_keep_for, words={UNLIMITED: inf})]
"""Seconds, more than none; C{inf} for any number."""


def _budget(text: str) -> int:
    octets = units.size(text)
    if not octets:
        raise ConfigError("keeps nothing; write a size such as 200GB")
    return octets


Budget = Annotated[float, Written(_budget, words={UNLIMITED: inf})]
"""Bytes, more than none; C{inf} for any number."""


KeepLast = Annotated[float, Written(whole(1, 1_000_000).read, words={UNLIMITED: inf})]
"""So many tags, C{inf} for any number."""


@dataclass(frozen=True)
class Share:
    """
    Some of a disk.

    @ivar octets: so many bytes; C{None} where C{percent} says it.
    """

    octets: int | None = None
    percent: int = 0

    def of(self, disk: int) -> int:
        """Bytes of a disk that has C{disk} of them."""
        return disk * self.percent // 100 if self.octets is None else self.octets

    def __str__(self) -> str:
        return f"{self.percent}%" if self.octets is None else units.size_words(self.octets)


def _share(text: str) -> Share:
    if match := re.fullmatch(r"([0-9]{1,9})%", text):
        if int(match[1]) >= 100:
            raise ConfigError("leaves nothing of the disk for the store; write less than 100%")
        return Share(percent=int(match[1]))
    try:
        return Share(units.size(text))
    except ConfigError as error:
        raise ConfigError(f"{error}, or a share of the disk: 5%") from None


Reserve = Annotated[Share, Written(_share)]


def _kept(text: str) -> str:
    # Of any upstream: which there are is not known yet.
    try:
        place = ReferencePattern.parse(text, lambda name: None).place
    except NameInvalid:
        place = ""
    if not re.fullmatch(r"[a-z0-9._*?!:/\[\]-]+", place):
        raise ConfigError("is no reference and no pattern; write such as library/nginx:1.27*, team/** or **")
    return text


Kept = Annotated[str, Written(_kept)]
"""A pattern of references (C{appliance.oci.pattern})."""


# -- files ----------------------------------------------------------------------------------------------------------


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"cannot be read at {path}: {error.strerror}") from None


ReadableFile = Annotated[Path, Written(Path, file=_check_readable)]


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise ConfigError(f"is no folder at {path}; make it, for the user that pullcache runs as")


Folder = Annotated[Path, Written(Path, file=_check_folder)]


def check_log_file(path: Path) -> None:
    """Raises L{ConfigError} unless it is a file, or may become one."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"is no file at {path}, or one in a folder that is not there")


# -- hosts and addresses --------------------------------------------------------------------------------------------

# One component of a repository name (OCI distribution spec, "Pulling manifests"), with a port if it is a host.
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?::([0-9]{1,5}))?")
_IPV6 = re.compile(r"\[([0-9a-f:.]+)\](?::([0-9]{1,5}))?")


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and int(text) <= 65535


def _is_name(text: str) -> bool:
    match = _NAME.fullmatch(text)
    return match is not None and _is_port(match[1] or "0")


def endpoint_parts(endpoint: str) -> list[str]:
    """The parts of a Twisted endpoint string as they are written, its type first."""
    return re.split(r"(?<!\\):", endpoint)


def _endpoint(text: str) -> str:
    advice = "is no endpoint; write one such as tcp:port=5000 or tcp:port=5000:interface=127.0.0.1"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[ -~]+", text):
        raise ConfigError(advice)
    kind, *arguments = endpoint_parts(text)
    if kind in ("tcp", "tcp6", "ssl"):
        ports = [each.removeprefix("port=") for each in arguments if each.startswith("port=")] or arguments[:1]
        if not _is_port(ports[0]):
            raise ConfigError(f"{advice}; a port is a number up to 65535")
    elif len(arguments) == 1 and arguments[0].isdigit():
        # localhost:5000 and the like
        raise ConfigError(advice)
    return text


Endpoint = Annotated[str, Written(_endpoint)]
"""A Twisted server endpoint string."""


def _host(text: str) -> str:
    text = text.lower()
    if _is_name(text.removeprefix("*.")):
        return text
    match = _IPV6.fullmatch(text)
    if match is not None and _is_port(match[2] or "0"):
        try:
            return f"[{IPv6Address(match[1])}]" + (f":{match[2]}" if match[2] else "")
        except ValueError:
            pass
    raise ConfigError("is no host; write HOST, HOST:PORT, [IPv6]:PORT or *.DOMAIN, without https:// and without a path")


Host = Annotated[str, Written(_host)]
"""A host or C{*.domain}, with a port or without, in lower case; IPv6 in brackets and its shortest form."""


def _address(text: str) -> str:
    found = _host(text)
    if found.startswith("*."):
        raise ConfigError("is a pattern; write each HOST or HOST:PORT by itself")
    return found


Address = Annotated[str, Written(_address)]
"""One host, as L{Host}."""


def _upstream_name(text: str) -> str:
    if not _is_name(text) or len(text) > 200:
        raise ConfigError(
            "is no name for an upstream; write a host name such as ghcr.io or registry.example:5000, or one word,"
            " in lower case and without /"
        )
    if text.endswith((":443", ":80")):
        raise ConfigError("ends in a default port; leave the port out")
    return text


UpstreamName = Annotated[str, Written(_upstream_name)]
"""The name of an upstream, which may stand at the head of a reference."""


def _base_url(text: str) -> str:
    if "@" in text:
        raise PossibleSecret("carries a name or password; use username and password_file instead")
    if "?" in text or "#" in text:
        raise PossibleSecret("has a query or a fragment; write scheme, host and path only")
    if not _is_base_url(text):
        raise ConfigError(
            "is no URL of a registry; write http:// or https://, a host, and a path prefix if there is one"
        )
    if re.search(r"/v2/?$", text):
        raise ConfigError("ends in /v2, which is added to every URL; leave it out")
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
    host_right = ":" in name or _NAME.fullmatch(name) is not None
    port_right = port != 0 and not parts.netloc.endswith(":")
    path_right = re.fullmatch(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", parts.path.rstrip("/"))
    return host_right and port_right and path_right is not None


BaseUrl = Annotated[str, Written(_base_url)]
"""The URL of a registry, without C{/v2} and without a trailing slash."""


def proxy_url(text: str) -> str:
    """The URL of an HTTP proxy, without a path. Raises L{ConfigError}."""
    if "@" in text:
        raise PossibleSecret("carries a name or password; use proxy_username and proxy_password_file instead")
    scheme, separator, rest = text.partition("://")
    if separator and scheme not in ("http", "https"):
        raise ConfigError(
            "is of no use here: only HTTP proxies are spoken to; write http://HOST:PORT or https://HOST:PORT"
        )
    if not separator or not _is_base_url(text) or not re.fullmatch(r"[^/?#]+:[0-9]+/?", rest):
        raise ConfigError("is no URL of a proxy; write http://HOST:PORT or https://HOST:PORT, or ~")
    return text.rstrip("/")


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError:
        pass
    else:
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        if mapped is not None:
            # Addresses are compared as what they are, so that it would match none.
            prefix = max(0, network.prefixlen - 96)
            raise ConfigError(f"is IPv4 written as IPv6; write {ip_network((mapped, prefix), strict=False)}")
        return network
    try:
        meant = ip_network(text, strict=False)
        ip_address(text.partition("/")[0])
    except ValueError:
        raise ConfigError("is no network; write an address, or 10.1.0.0/16, 2001:db8::/32 and the like") from None
    raise ConfigError(f"has bits set behind its prefix; write {meant}, or the address alone")


Network = Annotated[IPv4Network | IPv6Network, Written(_network)]
"""Addresses: C{10.1.0.0/16}, C{2001:db8::/32}, or a single one."""


def _unix_socket(text: str) -> str:
    kind, _, path = text.partition(":")
    # 108 bytes is what the system takes (sun_path), with a zero at its end.
    if kind != "unix" or not path.startswith("/") or ":" in path or len(path.encode()) > 107:
        raise ConfigError("is no socket; write unix:/PATH, of no more than 107 bytes, or ~ for none")
    return text


UnixSocket = Annotated[str, Written(_unix_socket)]
"""C{unix:} and an absolute path."""


# -- words ----------------------------------------------------------------------------------------------------------


def _username(text: str) -> str:
    # RFC 7617 section 2: a user-id has no colon. What follows it may be the password.
    if ":" in text:
        raise PossibleSecret("may hold no colon; the password goes into a file of its own")
    return text


Username = Annotated[str, Written(_username)]


def _word(what: str) -> Written:
    def read(text: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", text):
            raise ConfigError(f"is no name for {what}; write letters, digits, dots, dashes and underscores")
        return text

    return Written(read)


GroupName = Annotated[str, _word("a group")]
ListenerName = Annotated[str, _word("a listener")]


def _certificate_name(text: str) -> str:
    if len(text) > 255:
        raise ConfigError("is too long for a name in a certificate")
    return text


CertificateName = Annotated[str, Written(_certificate_name)]
"""A name as it stands in a certificate: a common name or a SAN, such as C{system:node:worker-1}."""

ClientName = CertificateName
"""Who a client is, by a password or a certificate."""


def _checker(text: str) -> str:
    # What follows the colon may be a password (memory:USER:PASSWORD): no message repeats it.
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}(?::.*)?", text):
        raise PossibleSecret("is no checker; write such as htpasswd:/etc/pullcache/htpasswd")
    return text


Checker = Annotated[str, Written(_checker)]
"""Who knows users' passwords, as C{twisted.cred.strcred} writes it."""


def _pattern(text: str) -> str:
    pieces = text.split("/")
    if not re.fullmatch(r"[a-z0-9._*?/-]+", text) or any(
        not piece or ("**" in piece and piece != "**") for piece in pieces
    ):
        raise ConfigError("is no pattern of repositories; write such as library/*, team/** or **, in lower case")
    return text


Pattern = Annotated[str, Written(_pattern)]
"""A pattern of repositories, as L{appliance.oci.pattern.matches} understands it."""


def _readable(text: str) -> str:
    upstream, slash, repository = text.partition("/")
    pieces = repository.split("/")
    if text != "**" and (
        not re.fullmatch(r"[a-z0-9._*?:-]+", upstream)
        or not re.fullmatch(r"[a-z0-9._*?/-]+", repository)
        or any(not piece or ("**" in piece and piece != "**") for piece in (upstream, *pieces))
    ):
        raise ConfigError(
            "is no pattern of repositories that begins with an upstream; write such as ghcr.io/team/**,"
            " docker.io/library/* or **"
        )
    return text


Readable = Annotated[str, Written(_readable)]
"""A pattern of repositories that begins with the upstream, as L{appliance.oci.pattern.matches} understands it."""


def _public_key(text: str) -> str:
    try:
        key = binascii.a2b_base64(text.strip(), strict_mode=True)
    except ValueError:
        key = b""
    # The algorithm's two letters, eight bytes of key id, 32 of Ed25519.
    if len(key) != 42 or not key.startswith(b"Ed"):
        # A person who confuses the two files has written the secret key.
        raise PossibleSecret("is no public key of minisign; write the second line of NAME.pub, which begins with RW")
    return text.strip()


PublicKey = Annotated[str, Written(_public_key)]
"""A public key in minisign's form, one line of base64."""


def _kind(text: str) -> str:
    # Which kinds there are is known to the plugins.
    if not re.fullmatch(r"[a-z0-9-]{1,64}", text):
        raise ConfigError("is no kind; write one word in lower case, such as distribution or dockerhub")
    return text


Kind = Annotated[str, Written(_kind)]


def _site(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", text):
        raise ConfigError("is no name for a site; write letters, digits, dots, dashes and underscores")
    return text


SiteName = Annotated[str, Written(_site)]
