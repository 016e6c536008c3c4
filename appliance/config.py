"""
The configuration file: its keys, what each may say, and the settings that come of it.

The file is read strictly: what is not understood is refused with file, key path, the value at fault and what would be
right, in one line. Passwords stand in files of their own: nothing in this module holds one.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from appliance.errors import ConfigError
from appliance.settings import (
    DEFAULT_PORT,
    DOCKER_HUB,
    KINDS,
    NO_LOG,
    STANDARD_OUTPUT,
    AdminSettings,
    BundleSettings,
    ListenSettings,
    Settings,
    StaleSettings,
    UpstreamSettings,
)
from appliance.units import duration
from appliance.yamltree import LIMIT, At, shown, tree

# One component of a repository name (OCI distribution spec, "Pulling manifests"), with a port if it is a host.
_UPSTREAM_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?::([0-9]{1,5}))?")
_NAME_LIMIT = 200
_PATTERN = re.compile(r"[a-z0-9._*?/-]+")
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_ENDPOINT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):[ -~]+")
_PORT_ENDPOINTS = frozenset({"tcp", "tcp6", "ssl"})
_SITE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
# A public key of minisign: the algorithm's two letters, eight bytes of key id, 32 of Ed25519.
_KEY_BYTES = 42
_KEY_BEGINNING = b"Ed"


def load(path: str | Path) -> Settings:
    """
    Read a configuration file.

    @raise ConfigError: the file cannot be read, or what it says cannot be used.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise ConfigError(f"{path}: the file is larger than {LIMIT} bytes")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Settings:
    """
    Read a configuration from text.

    @param source: the file's path, for messages; relative paths in the text are relative to its folder.
    @raise ConfigError: what the text says cannot be used.
    """
    return _settings(tree(text, source))


# -- readers of single keys -----------------------------------------------------------------------------------------


def _optional(read: Callable[[At], Any]) -> Callable[[At], Any]:
    return lambda at: None if at.value is None else read(at)


def _list_of(read: Callable[[At], str]) -> Callable[[At], tuple[str, ...]]:
    return lambda at: tuple(read(item) for item in at.items())


def _duration_at(at: At) -> float:
    text = at.text()
    try:
        return duration(text)
    except ConfigError as error:
        raise at.fault(str(error)) from None


def _max_stale(at: At) -> float | None:
    return None if at.value == "unlimited" else _duration_at(at)


def _path(at: At) -> Path:
    return Path(at.source).absolute().parent / at.text()


def _readable(at: At) -> Path:
    path = _path(at)
    try:
        path.open("rb").close()
    except OSError as error:
        raise at.fault(f"cannot be read at {path}: {error.strerror}") from None
    return path


def _access_log(at: At) -> str | Path:
    # YAML makes a truth value of off.
    if at.value is False or at.value == NO_LOG:
        return NO_LOG
    if isinstance(at.value, bool):
        raise at.fault('is no access log; write "-" for standard output, the path of a file, or off')
    if at.text() == STANDARD_OUTPUT:
        return STANDARD_OUTPUT
    path = _path(at)
    if path.is_dir() or not path.parent.is_dir():
        raise at.fault(f"is no file at {path}, or one in a folder that is not there")
    return path


def _endpoint(at: At) -> str:
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


def _host(at: At) -> str:
    text = at.text().lower()
    match = _UPSTREAM_NAME.fullmatch(text)
    if match is None or not _is_port(match[1] or "0"):
        raise at.fault("is no host; write host or host:port, without https:// and without a path")
    return text


def _upstream_name(at: At, name: str) -> str:
    match = _UPSTREAM_NAME.fullmatch(name)
    if match is None or len(name) > _NAME_LIMIT or not _is_port(match[1] or "0"):
        raise at.fault(
            f"{shown(name)} is no name for an upstream; write a host name such as ghcr.io or registry.example:5000,"
            " or one word, in lower case and without /",
            quoted=False,
        )
    if DEFAULT_PORT.search(name):
        raise at.fault(f"{shown(name)} ends in a default port; leave the port out", quoted=False)
    return name


def _alias(at: At) -> str:
    return _upstream_name(at, at.text())


def _urls(at: At) -> tuple[str, ...]:
    if not isinstance(at.value, list):
        return (_url(at),)
    urls = tuple(_url(item) for item in at.items())
    if not urls:
        raise at.fault("is empty; write at least one URL")
    return urls


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
    host = parts.hostname or ""
    # A literal IPv6 address has been checked by urlsplit; any other host follows the grammar of names.
    host_right = ":" in host or _UPSTREAM_NAME.fullmatch(host) is not None
    port_right = port != 0 and not parts.netloc.endswith(":")
    return host_right and port_right and _URL_PATH.fullmatch(parts.path.rstrip("/")) is not None


def _kind(at: At) -> str:
    if at.text() not in KINDS:
        raise at.fault(f"is no kind of upstream; the kinds are {', '.join(KINDS)}")
    return at.text()


def _username(at: At) -> str:
    text = at.text()
    if ":" in text:
        # RFC 7617 section 2: a user-id has no colon; what follows one here may be the password.
        raise at.fault("may hold no colon; the password goes into password_file", quoted=False)
    return text


def _pattern(at: At) -> str:
    text = at.text()
    pieces = text.split("/")
    if not _PATTERN.fullmatch(text) or any(not piece or ("**" in piece and piece != "**") for piece in pieces):
        raise at.fault("is no pattern of repositories; write such as library/*, team/** or **, in lower case")
    return text


def _public_key(at: At) -> str:
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


def _inbox(at: At) -> Path:
    path = _path(at)
    if not path.is_dir():
        raise at.fault(f"is no folder at {path}; make it, for the user that pullcache runs as")
    return path


def _site(at: At) -> str:
    if not _SITE.fullmatch(at.text()):
        raise at.fault("is no name for a site; write letters, digits, dots, dashes and underscores")
    return at.text()


def _no_proxy(at: At) -> None:
    if at.value is not None:
        # The URL of a proxy may carry a password: the value is not shown.
        raise at.fault("proxies are not supported by this version; leave it empty (~)", quoted=False)


# -- readers of sections --------------------------------------------------------------------------------------------


def _settings(at: At) -> Settings:
    found = at.read(
        {
            "store": _path,
            "listen": _listen,
            "admin": _optional(lambda section: AdminSettings(**section.read({"endpoint": _endpoint}))),
            "offline": At.flag,
            "access_log": _access_log,
            "shutdown_grace": _duration_at,
            "bundles": _bundles,
            "upstreams": _upstreams,
        }
    )
    settings = Settings(**found)
    if "listen" not in found:
        return settings
    listen = at.mapping()["listen"].items()
    return msgspec.structs.replace(
        settings, listen=tuple(_resolved(settings, *pair) for pair in zip(settings.listen, listen, strict=True))
    )


def _listen(at: At) -> tuple[ListenSettings, ...]:
    """The listeners, each C{default_upstream} still as it is written."""
    readers: dict[str, Callable[[At], Any]] = {"endpoint": _endpoint, "default_upstream": _optional(At.text)}
    seen: set[str] = set()
    listeners = []
    for item in at.items():
        listener = ListenSettings(**_with("endpoint", item, readers))
        if listener.endpoint in seen:
            raise item.below("endpoint", listener.endpoint).fault("is listened on twice; keep one of them")
        seen.add(listener.endpoint)
        listeners.append(listener)
    if not listeners:
        raise at.fault("is empty; write at least one endpoint, or leave the key out for its default")
    return tuple(listeners)


def _resolved(settings: Settings, listener: ListenSettings, at: At) -> ListenSettings:
    if listener.default_upstream is None:
        return listener
    name = settings.upstream_for(listener.default_upstream)
    if name is None:
        known = ", ".join(settings.upstreams) or "none yet"
        raise at.below("default_upstream", listener.default_upstream).fault(f"is no upstream; configured are: {known}")
    return ListenSettings(endpoint=listener.endpoint, default_upstream=name)


def _upstreams(at: At) -> dict[str, UpstreamSettings]:
    upstreams = {name: _upstream(below, _upstream_name(below, name)) for name, below in at.mapping().items()}
    owners: dict[str, str] = {}
    for upstream in upstreams.values():
        for name in upstream.names():
            owner = owners.setdefault(name, upstream.name)
            if owner != upstream.name:
                raise at.below(upstream.name, name).fault(f"already means the upstream {owner}; give it to one of them")
    return upstreams


def _upstream(at: At, name: str) -> UpstreamSettings:
    found = _with("url", at, _UPSTREAM_KEYS)
    found.pop("proxy", None)
    if (found.get("username") is None) != (found.get("password_file") is None):
        raise at.fault("username and password_file go together; give both or neither", quoted=False)
    return UpstreamSettings(name=name, urls=found.pop("url"), **found)


def _with(needed: str, at: At, readers: Mapping[str, Callable[[At], Any]]) -> dict[str, Any]:
    found = at.read(readers)
    if needed not in found:
        raise at.below(needed, None).fault("is missing; it has no default", quoted=False)
    return found


def _bundles(at: At) -> BundleSettings:
    return BundleSettings(
        **at.read(
            {
                "trust": _list_of(_public_key),
                "require_signature": At.flag,
                "inbox": _optional(_inbox),
                "site": _optional(_site),
            }
        )
    )


def _stale(at: At) -> StaleSettings:
    return StaleSettings(**at.read(dict.fromkeys(StaleSettings.__struct_fields__, At.flag)))


_UPSTREAM_KEYS: dict[str, Callable[[At], Any]] = {
    "url": _urls,
    "aliases": _list_of(_alias),
    "kind": _kind,
    "fresh_for": _duration_at,
    "revalidate_within": _duration_at,
    "serve_stale": _stale,
    "max_stale": _max_stale,
    "username": _optional(_username),
    "password_file": _optional(_readable),
    "ca_file": _optional(_readable),
    "proxy": _no_proxy,
    "auth_hosts": _list_of(_host),
    "allow": _list_of(_pattern),
    "deny": _list_of(_pattern),
}


# -- options of the command line ------------------------------------------------------------------------------------


def overridden(
    settings: Settings,
    *,
    store: str | Path | None = None,
    listen: Iterable[str] = (),
    admin: str | None = None,
    offline: bool = False,
) -> Settings:
    """
    The settings with the options of C{twistd pullcache} in force; an option that is absent changes nothing.

    Endpoints given with C{listen} replace the configured ones and keep what a name without an upstream means on the
    first of those.

    @param store: relative to the working directory.
    @raise ConfigError: an endpoint cannot be used; the message names the option.
    """
    changes: dict[str, Any] = {}
    if store is not None:
        changes["store"] = Path(store).absolute()
    endpoints = [_endpoint(At(endpoint, "--listen", "")) for endpoint in listen]
    if endpoints:
        default = _default_upstream(settings)
        changes["listen"] = tuple(ListenSettings(endpoint=e, default_upstream=default) for e in endpoints)
    if admin is not None:
        changes["admin"] = AdminSettings(endpoint=_endpoint(At(admin, "--admin", "")))
    if offline:
        changes["offline"] = True
    return msgspec.structs.replace(settings, **changes)


def _default_upstream(settings: Settings) -> str | None:
    """Of the first configured listener; Docker Hub, if it is there, when the file configures no listener."""
    if settings.listen == Settings().listen:
        return settings.upstream_for(DOCKER_HUB)
    return settings.listen[0].default_upstream
