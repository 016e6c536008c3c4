"""
YAML to typed, frozen settings.

The file is read strictly: what is not understood is refused with file, key path, the value at fault and what would be
right, in one line. Numbers are left as they are written (C{1:30} and C{0123} are text here, not the numbers YAML 1.1
makes of them), and anchors, aliases and tags are refused, so that no document grows when it is read.

Passwords stand in files of their own: nothing in this module holds one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

from appliance.errors import ConfigError

FILE_LIMIT = 1 << 20
"""Bytes of a configuration file."""

_DEPTH_LIMIT = 16
"""Levels of nesting; the deepest key of ours stands on the fourth. The YAML composer recurses once a level."""

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS: dict[str, int] = {"B": 1} | {
    f"{letter}{mark}": base**power
    for power, letter in enumerate("KMGTP", start=1)
    for mark, base in (("B", 1000), ("iB", 1024))
}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,12})([KMGTP]i?B|B)")

# One component of a repository name (OCI distribution spec, "Pulling manifests"), with a port if it is a host.
_UPSTREAM_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?::([0-9]{1,5}))?")
_NAME_LIMIT = 200
_SHOWN_LIMIT = 80
_DEFAULT_PORT = re.compile(r":(?:443|80)$")
_PATTERN = re.compile(r"[a-z0-9._*?/-]+")
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_ENDPOINT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):[ -~]+")
_PORT_ENDPOINTS = frozenset({"tcp", "tcp6", "ssl"})

_DOCKER_HUB = "docker.io"
_IMPLIED_ALIASES = {_DOCKER_HUB: ("index.docker.io", "registry-1.docker.io")}
KINDS = ("distribution", "dockerhub")
"""The adapters an upstream's C{kind} can name."""


# -- the settings ---------------------------------------------------------------------------------------------------


class ListenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    One address that clients connect to.

    @ivar endpoint: a Twisted server endpoint string.
    @ivar default_upstream: canonical name of the upstream meant by a request that names none, or C{None}.
    """

    endpoint: str = "tcp:port=5000"
    default_upstream: str | None = None


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The address operators connect to, as a Twisted server endpoint string."""

    endpoint: str = "tcp:port=5001:interface=127.0.0.1"


class StaleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """For which classes of L{UpstreamError} what is cached is served; the fields are its C{kind}s."""

    missing: bool = True
    denied: bool = True
    rate_limited: bool = True
    unavailable: bool = True


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    One registry to pull from; durations in seconds.

    @ivar urls: without a trailing slash, tried in order; C{/v2/} follows each.
    @ivar max_stale: how long past freshness a cached tag may be served, C{None} for ever.
    @ivar password_file: holds the password of C{username}; both are given or neither is.
    @ivar ca_file: PEM certificates that are trusted for this upstream.
    @ivar auth_hosts: host or host:port that a token realm may name, beside the upstream itself.
    @ivar allow: patterns of repositories that may be pulled through, without the upstream's name.
    """

    name: str
    urls: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    kind: str = "distribution"
    fresh_for: float = 60.0
    revalidate_within: float = 2.0
    serve_stale: StaleSettings = StaleSettings()
    max_stale: float | None = None
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    auth_hosts: tuple[str, ...] = ()
    allow: tuple[str, ...] = ("**",)
    deny: tuple[str, ...] = ()

    def permits(self, repository: str) -> bool:
        """Whether the repository (its full name there, as in C{library/nginx}) may be pulled through."""
        return _any_matches(self.allow, repository) and not _any_matches(self.deny, repository)

    def names(self) -> tuple[str, ...]:
        """Every name this upstream answers to, the canonical one first."""
        return (self.name, *self.aliases, *_IMPLIED_ALIASES.get(self.name, ()))


class Settings(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """
    A whole configuration.

    @ivar admin: C{None} when there is no admin endpoint.
    @ivar offline: whether no upstream is ever contacted.
    @ivar shutdown_grace: seconds that transfers under way get to end at a stop.
    @ivar upstreams: by canonical name, in the order of the file.
    """

    store: Path = Path("/var/lib/pullcache")
    listen: tuple[ListenSettings, ...] = (ListenSettings(),)
    admin: AdminSettings | None = AdminSettings()
    offline: bool = False
    shutdown_grace: float = 10.0
    upstreams: dict[str, UpstreamSettings] = {}

    def upstream_for(self, name: str) -> str | None:
        """The canonical name of the upstream that C{name} means, in any case and with or without a default port."""
        return self._canonical.get(_DEFAULT_PORT.sub("", name.lower()))

    @cached_property
    def _canonical(self) -> dict[str, str]:
        return {name: upstream.name for upstream in self.upstreams.values() for name in upstream.names()}


# -- values ---------------------------------------------------------------------------------------------------------


def duration(text: str) -> float:
    """
    Seconds of C{90s}, C{5m}, C{12h}, C{7d}, C{500ms} or C{0}.

    @raise ConfigError: for anything else.
    """
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError(f"{_shown(text)} is no duration; write a whole number with a unit: 500ms, 90s, 5m, 12h, 7d")
    return int(match[1]) * _DURATION_UNITS[match[2]]


def size(text: str) -> int:
    """
    Bytes of C{512MiB} (powers of 1024), C{40GB} (powers of 1000) or C{100B}.

    @raise ConfigError: for anything else.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{_shown(text)} is no size; write a whole number with a unit: 100B, 512MiB, 40GB")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def matches(pattern: str, repository: str) -> bool:
    """
    Whether the pattern covers the whole repository name.

    C{*} and C{?} stand for any characters and for one character within a path component, C{**} for any number of whole
    components, none included. Takes time proportional to the lengths of both, whatever the pattern.
    """
    parts = repository.split("/")
    reached = {0}
    for piece in pattern.split("/"):
        if piece == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], piece)}
    return len(parts) in reached


def _any_matches(patterns: tuple[str, ...], repository: str) -> bool:
    return any(matches(pattern, repository) for pattern in patterns)


# -- reading --------------------------------------------------------------------------------------------------------


def load(path: str | Path) -> Settings:
    """
    Read a configuration file.

    @raise ConfigError: the file cannot be read, or what it says cannot be used.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise ConfigError(f"{path}: the file is larger than {FILE_LIMIT} bytes")
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
    if len(text) > FILE_LIMIT:
        raise ConfigError(f"{source}: the text is larger than {FILE_LIMIT} bytes")
    return _settings(_At(_document(text, source), "", source))


class _Loader(yaml.SafeLoader):
    """Knows null and booleans; every other scalar is the text that was written."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":bool"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _document(text: str, source: str) -> object:
    try:
        _refuse_tricks(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{source}: line {line}: no valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source}: line {line}: no valid YAML: a character that may not stand in it") from None
    except (ValueError, OverflowError):
        # PyYAML lets them through for an escape or a version number that is out of all bounds.
        raise ConfigError(f"{source}: no valid YAML: a number in it is too large") from None
    return {} if node is None else _plain(node, source)


def _refuse_tricks(text: str, source: str) -> None:
    """Refuse, before anything is built: anchors, aliases, tags and bottomless nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        what = _trick(event, depth)
        if what:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ConfigError(f"{source}: line {line}: {what}")


def _trick(event: yaml.Event, depth: int) -> str:
    if depth > _DEPTH_LIMIT:
        return f"nested deeper than {_DEPTH_LIMIT} levels"
    if getattr(event, "anchor", None) is not None:
        return "anchors and aliases (& and *) are not used here; write the value out, in quotes if it begins with one"
    if getattr(event, "tag", None) is not None:
        return "tags (!) are not used here; write the value without, in quotes if it begins with one"
    return ""


def _plain(node: yaml.Node, source: str) -> object:
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(node, source)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, source) for item in node.value]
    if node.tag.endswith(":null"):
        return None
    if node.tag.endswith(":bool"):
        return node.value.lower() in ("yes", "true", "on")
    return node.value


def _plain_mapping(node: yaml.MappingNode, source: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{source}: line {line}: a key must be a single word")
        if key.value in found:
            raise ConfigError(f"{source}: line {line}: the key {_shown(key.value)} is given twice; keep one of them")
        found[key.value] = _plain(value, source)
    return found


# -- one value and where it stands ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _At:
    """A value of the document with its key path and its file, which every fault names."""

    value: object
    path: str
    source: str

    def fault(self, why: str, shown: bool = True) -> ConfigError:
        """The error that says so; the value stays out of it unless C{shown}."""
        value = f"{_shown(self.value)} " if shown else ""
        return ConfigError(": ".join(filter(None, (self.source, self.path, value + why))))

    def below(self, key: str, value: object) -> _At:
        key = key if key.isprintable() and len(key) <= _SHOWN_LIMIT else _shown(key)
        return _At(value, f"{self.path}.{key}" if self.path else key, self.source)

    def text(self) -> str:
        if isinstance(self.value, bool):
            raise self.fault("is a truth value to YAML where text is wanted; put it in quotes")
        if not isinstance(self.value, str) or not self.value:
            raise self.fault("stands where text is wanted; write a value, or leave the key out for its default")
        if not self.value.isprintable():
            raise self.fault("holds a character that is not printable")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.fault("is neither true nor false")
        return self.value

    def items(self) -> list[_At]:
        if not isinstance(self.value, list):
            raise self.fault("stands where a list is wanted; write [a, b], or [] for none")
        return [_At(item, f"{self.path}[{number}]", self.source) for number, item in enumerate(self.value)]

    def mapping(self) -> dict[str, _At]:
        if not isinstance(self.value, dict):
            raise self.fault("stands where keys with values are wanted")
        return {key: self.below(key, value) for key, value in self.value.items()}

    def read(self, readers: Mapping[str, Callable[[_At], Any]]) -> dict[str, Any]:
        """Every key that is given, read by its reader."""
        found = self.mapping()
        for key, at in found.items():
            if key not in readers:
                raise at.fault(_unknown(key, readers), shown=False)
        return {key: readers[key](at) for key, at in found.items()}


def _shown(value: object) -> str:
    """A value as a message shows it: one line, not long."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN_LIMIT else value[:_SHOWN_LIMIT] + "...")
    if isinstance(value, bool):
        return str(value).lower()
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "nothing"


def _unknown(key: str, known: Iterable[str]) -> str:
    if key == "password":
        return "a password is never written here; put it into a file and name that with password_file"
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; the keys here are {', '.join(known)}"


# -- readers of single keys -----------------------------------------------------------------------------------------


def _optional(read: Callable[[_At], Any]) -> Callable[[_At], Any]:
    return lambda at: None if at.value is None else read(at)


def _list_of(read: Callable[[_At], str]) -> Callable[[_At], tuple[str, ...]]:
    return lambda at: tuple(read(item) for item in at.items())


def _duration_at(at: _At) -> float:
    text = at.text()
    try:
        return duration(text)
    except ConfigError as error:
        raise at.fault(str(error), shown=False) from None


def _max_stale(at: _At) -> float | None:
    return None if at.value == "unlimited" else _duration_at(at)


def _path(at: _At) -> Path:
    return Path(at.source).absolute().parent / at.text()


def _readable(at: _At) -> Path:
    path = _path(at)
    try:
        path.open("rb").close()
    except OSError as error:
        raise at.fault(f"cannot be read at {path}: {error.strerror}") from None
    return path


def _endpoint(at: _At) -> str:
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


def _host(at: _At) -> str:
    text = at.text().lower()
    match = _UPSTREAM_NAME.fullmatch(text)
    if match is None or not _is_port(match[1] or "0"):
        raise at.fault("is no host; write host or host:port, without https:// and without a path")
    return text


def _upstream_name(at: _At, name: str) -> str:
    match = _UPSTREAM_NAME.fullmatch(name)
    if match is None or len(name) > _NAME_LIMIT or not _is_port(match[1] or "0"):
        raise at.fault(
            f"{_shown(name)} is no name for an upstream; write a host name such as ghcr.io or registry.example:5000,"
            " or one word, in lower case and without /",
            shown=False,
        )
    if _DEFAULT_PORT.search(name):
        raise at.fault(f"{_shown(name)} ends in a default port; leave the port out", shown=False)
    return name


def _alias(at: _At) -> str:
    return _upstream_name(at, at.text())


def _urls(at: _At) -> tuple[str, ...]:
    if not isinstance(at.value, list):
        return (_url(at),)
    urls = tuple(_url(item) for item in at.items())
    if not urls:
        raise at.fault("is empty; write at least one URL")
    return urls


def _url(at: _At) -> str:
    text = at.text()
    if "@" in text:
        # Whatever stands before it may be a password: the value is not shown.
        raise at.fault("carries a name or password; use username and password_file instead", shown=False)
    if "?" in text or "#" in text:
        raise at.fault("has a query or a fragment; write scheme, host and path only", shown=False)
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


def _kind(at: _At) -> str:
    if at.text() not in KINDS:
        raise at.fault(f"is no kind of upstream; the kinds are {', '.join(KINDS)}")
    return at.text()


def _username(at: _At) -> str:
    text = at.text()
    if ":" in text:
        # RFC 7617 section 2: a user-id has no colon; what follows one here may be the password.
        raise at.fault("may hold no colon; the password goes into password_file", shown=False)
    return text


def _pattern(at: _At) -> str:
    text = at.text()
    pieces = text.split("/")
    if not _PATTERN.fullmatch(text) or any(not piece or ("**" in piece and piece != "**") for piece in pieces):
        raise at.fault("is no pattern of repositories; write such as library/*, team/** or **, in lower case")
    return text


def _no_proxy(at: _At) -> None:
    if at.value is not None:
        # The URL of a proxy may carry a password: the value is not shown.
        raise at.fault("proxies are not supported by this version; leave it empty (~)", shown=False)


# -- readers of sections --------------------------------------------------------------------------------------------


def _settings(at: _At) -> Settings:
    found = at.read(
        {
            "store": _path,
            "listen": _listen,
            "admin": _optional(lambda section: AdminSettings(**section.read({"endpoint": _endpoint}))),
            "offline": _At.flag,
            "shutdown_grace": _duration_at,
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


def _listen(at: _At) -> tuple[ListenSettings, ...]:
    """The listeners, each C{default_upstream} still as it is written."""
    readers: dict[str, Callable[[_At], Any]] = {"endpoint": _endpoint, "default_upstream": _optional(_At.text)}
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


def _resolved(settings: Settings, listener: ListenSettings, at: _At) -> ListenSettings:
    if listener.default_upstream is None:
        return listener
    name = settings.upstream_for(listener.default_upstream)
    if name is None:
        known = ", ".join(settings.upstreams) or "none yet"
        raise at.below("default_upstream", listener.default_upstream).fault(f"is no upstream; configured are: {known}")
    return ListenSettings(endpoint=listener.endpoint, default_upstream=name)


def _upstreams(at: _At) -> dict[str, UpstreamSettings]:
    upstreams = {name: _upstream(below, _upstream_name(below, name)) for name, below in at.mapping().items()}
    owners: dict[str, str] = {}
    for upstream in upstreams.values():
        for name in upstream.names():
            owner = owners.setdefault(name, upstream.name)
            if owner != upstream.name:
                raise at.below(upstream.name, name).fault(f"already means the upstream {owner}; give it to one of them")
    return upstreams


def _upstream(at: _At, name: str) -> UpstreamSettings:
    found = _with("url", at, _UPSTREAM_KEYS)
    found.pop("proxy", None)
    if (found.get("username") is None) != (found.get("password_file") is None):
        raise at.fault("username and password_file go together; give both or neither", shown=False)
    return UpstreamSettings(name=name, urls=found.pop("url"), **found)


def _with(needed: str, at: _At, readers: Mapping[str, Callable[[_At], Any]]) -> dict[str, Any]:
    found = at.read(readers)
    if needed not in found:
        raise at.below(needed, None).fault("is missing; it has no default", shown=False)
    return found


def _stale(at: _At) -> StaleSettings:
    return StaleSettings(**at.read(dict.fromkeys(StaleSettings.__struct_fields__, _At.flag)))


_UPSTREAM_KEYS: dict[str, Callable[[_At], Any]] = {
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
    endpoints = [_endpoint(_At(endpoint, "--listen", "")) for endpoint in listen]
    if endpoints:
        default = _default_upstream(settings)
        changes["listen"] = tuple(ListenSettings(endpoint=e, default_upstream=default) for e in endpoints)
    if admin is not None:
        changes["admin"] = AdminSettings(endpoint=_endpoint(_At(admin, "--admin", "")))
    if offline:
        changes["offline"] = True
    return msgspec.structs.replace(settings, **changes)


def _default_upstream(settings: Settings) -> str | None:
    """Of the first configured listener; Docker Hub, if it is there, when the file configures no listener."""
    if settings.listen == Settings().listen:
        return settings.upstream_for(_DOCKER_HUB)
    return settings.listen[0].default_upstream


# -- what a configuration means -------------------------------------------------------------------------------------


def describe(settings: Settings) -> str:
    """A plain-text account of the configuration for its operator, ending with a newline; names no secret."""
    lines = [f"store: {settings.store}"]
    for listener in settings.listen:
        meaning = listener.default_upstream or "nothing"
        lines.append(f"listens on {listener.endpoint}; a name without an upstream means {meaning}")
    lines.append(f"admin endpoint: {settings.admin.endpoint if settings.admin else 'none'}")
    lines.append("offline: no upstream is ever contacted" if settings.offline else "online")
    lines.append(f"at a stop, transfers under way get {words(settings.shutdown_grace)}")
    for upstream in settings.upstreams.values():
        lines += ["", *_described(upstream)]
    warnings = _warnings(settings)
    lines += ["", *(f"warning: {warning}" for warning in warnings)] if warnings else []
    return "\n".join(lines) + "\n"


def words(seconds: float) -> str:
    """A duration as the configuration writes it, in the largest unit that fits without a fraction."""
    if not seconds:
        return "0"
    milliseconds = round(seconds * 1000)
    unit = max((u for u in _DURATION_UNITS if not milliseconds % _scale(u)), key=_scale)
    return f"{milliseconds // _scale(unit)}{unit}"


def _scale(unit: str) -> int:
    return round(_DURATION_UNITS[unit] * 1000)


def _described(upstream: UpstreamSettings) -> list[str]:
    aliases = f" (also {', '.join(upstream.names()[1:])})" if upstream.names()[1:] else ""
    patterns = " ".join(upstream.allow) + (f", but not {' '.join(upstream.deny)}" if upstream.deny else "")
    facts = [
        ("from", ", then ".join(upstream.urls)),
        ("kind", upstream.kind),
        ("tags", f"fresh for {words(upstream.fresh_for)}, then revalidated within {words(upstream.revalidate_within)}"),
        ("stale", _stale_words(upstream)),
        ("credentials", _credentials(upstream)),
        ("trusted CAs", str(upstream.ca_file or "")),
        ("tokens", f"may also come from {', '.join(upstream.auth_hosts)}" if upstream.auth_hosts else ""),
        ("repositories", patterns or "none"),
    ]
    return [f"upstream {upstream.name}{aliases}", *(f"  {what}: {fact}" for what, fact in facts if fact)]


def _credentials(upstream: UpstreamSettings) -> str:
    if upstream.username is None:
        return "none, asks anonymously"
    return f"username {upstream.username}, password from {upstream.password_file}"


def _stale_words(upstream: UpstreamSettings) -> str:
    stale = upstream.serve_stale
    cases = [name.replace("_", " ") for name in stale.__struct_fields__ if getattr(stale, name)]
    if not cases:
        return "never served"
    limit = "at any age" if upstream.max_stale is None else f"up to {words(upstream.max_stale)} past freshness"
    return f"served {limit} when the upstream answers: {', '.join(cases)}"


def _warnings(settings: Settings) -> list[str]:
    found = [] if settings.upstreams else ["no upstream is configured: every name is unknown"]
    admin = settings.admin.endpoint if settings.admin else ""
    if admin.startswith(("tcp", "ssl", "tls")) and not re.search(r"interface=(127\.|localhost|\\:\\:1)", admin):
        found.append(f"the admin endpoint {admin} can be reached from other machines, and asks nobody who they are")
    for upstream in settings.upstreams.values():
        if upstream.username and any(url.startswith("http:") for url in upstream.urls):
            found.append(f"{upstream.name}: the password is sent over plain http")
        if upstream.name == _DOCKER_HUB and upstream.kind != "dockerhub":
            found.append(f"{upstream.name}: without kind: dockerhub, nginx is not found as library/nginx")
        if not upstream.allow:
            found.append(f"{upstream.name}: allow is empty, nothing may be pulled through")
    return found
