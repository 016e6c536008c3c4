"""
The configuration file: its sections, the rules between their keys, and the settings that come of it.

The file is read strictly: what is not understood is refused with file, key path, the value at fault and what would be
right, in one line. Passwords stand in files of their own: nothing in this module holds one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isinf
from pathlib import Path
from typing import Any

import msgspec

from appliance import scalars
from appliance.errors import ConfigError
from appliance.settings import (
    AWS,
    DOCKER_HUB,
    IMAGE_INDEX,
    IMAGE_NONE,
    IMAGE_PULLED,
    NO_PROXY,
    AdminSettings,
    BundleSettings,
    ConnectionSettings,
    ListenSettings,
    PrefetchSettings,
    Settings,
    StaleSettings,
    UpstreamSettings,
)
from appliance.yamltree import LIMIT, At, tree


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


# -- readers of sections --------------------------------------------------------------------------------------------


def _settings(at: At) -> Settings:
    found = at.read(
        {
            "store": scalars.path,
            "listen": _listen,
            "admin": scalars.optional(
                lambda at: AdminSettings(**at.read({"endpoint": scalars.endpoint, "hosts": _host_list}))
            ),
            "offline": At.flag,
            "access_log": scalars.access_log,
            "shutdown_grace": scalars.duration,
            "connections": _connections,
            "bundles": _bundles,
            "upstreams": _upstreams,
        }
    )
    settings = Settings(**found)
    for number, alias in enumerate(settings.bundles.aliases):
        if (owner := settings.upstream_for(alias)) is not None:
            where = at.mapping()["bundles"].mapping()["aliases"].items()[number]
            raise where.fault(f"already means the upstream {owner}; give it to one of them")
    if "listen" not in found:
        return settings
    listen = at.mapping()["listen"].items()
    return msgspec.structs.replace(
        settings, listen=tuple(_resolved(settings, *pair) for pair in zip(settings.listen, listen, strict=True))
    )


def _listen(at: At) -> tuple[ListenSettings, ...]:
    """The listeners, each C{default_upstream} still as it is written."""
    readers: dict[str, Callable[[At], Any]] = {
        "endpoint": scalars.endpoint,
        "default_upstream": scalars.optional(At.text),
        "hosts": _host_list,
    }
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
    return msgspec.structs.replace(listener, default_upstream=name)


def _upstreams(at: At) -> dict[str, UpstreamSettings]:
    upstreams = {name: _upstream(below, scalars.upstream_name(below, name)) for name, below in at.mapping().items()}
    owners: dict[str, str] = {}
    for upstream in upstreams.values():
        for name in upstream.names():
            owner = owners.setdefault(name, upstream.name)
            if owner != upstream.name:
                raise at.below(upstream.name, name).fault(f"already means the upstream {owner}; give it to one of them")
    return upstreams


def _upstream(at: At, name: str) -> UpstreamSettings:
    found = _with("url", at, _UPSTREAM_KEYS)
    _check_credentials(at, found)
    _check_certificates(at, found)
    _check_proxy(at, found)
    revalidate = found.pop("revalidate", None)
    if revalidate is not None:
        if "fresh_for" in found:
            raise at.fault("fresh_for and revalidate say the same in two ways; keep one of them", quoted=False)
        found["fresh_for"] = None if isinf(revalidate) else revalidate
    return UpstreamSettings(
        name=name,
        urls=found.pop("url"),
        delete_missing=found.pop("missing", False),
        **found,
    )


def _check_credentials(at: At, found: dict[str, Any]) -> None:
    """At most one source of credentials, and a whole one."""
    _both_or_neither(at, found, "username", "password_file")
    ways = {
        "username with password_file": found.get("username"),
        "token_file": found.get("token_file"),
        "auth_file": found.get("auth_file"),
        f"credentials: {AWS}": found.get("credentials"),
    }
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        raise at.fault(f"{' and '.join(given)} are both credentials; keep one of them", quoted=False)


def _check_certificates(at: At, found: dict[str, Any]) -> None:
    if found.get("client_key") and not found.get("client_cert"):
        raise at.fault("client_key is of no use without client_cert; give the certificate, too", quoted=False)
    if found.get("insecure") and found.get("ca_file"):
        raise at.fault("insecure takes any certificate, and ca_file does not; keep one of them", quoted=False)


def _check_proxy(at: At, found: dict[str, Any]) -> None:
    _both_or_neither(at, found, "proxy_username", "proxy_password_file")
    if found.get("proxy_username") and found.get("proxy") in (None, NO_PROXY):
        raise at.fault("proxy_username is of no use without the URL of a proxy; give it with proxy", quoted=False)


def _both_or_neither(at: At, found: dict[str, Any], one: str, other: str) -> None:
    if (found.get(one) is None) != (found.get(other) is None):
        raise at.fault(f"{one} and {other} go together; give both or neither", quoted=False)


def _with(needed: str, at: At, readers: Mapping[str, Callable[[At], Any]]) -> dict[str, Any]:
    found = at.read(readers)
    if needed not in found:
        raise at.below(needed, None).fault("is missing; it has no default", quoted=False)
    return found


def _connections(at: At) -> ConnectionSettings:
    return ConnectionSettings(
        **at.read(
            {
                "max": scalars.whole(1, 1_000_000),
                "max_per_address": scalars.whole(1, 1_000_000),
                "head_timeout": scalars.timeout,
                "stall_timeout": scalars.timeout,
            }
        )
    )


def _bundles(at: At) -> BundleSettings:
    return BundleSettings(
        **at.read(
            {
                "trust": scalars.list_of(scalars.public_key),
                "require_signature": At.flag,
                "accept_callers_keys": At.flag,
                "inbox": scalars.optional(scalars.inbox),
                "site": scalars.optional(scalars.site),
                "aliases": scalars.list_of(scalars.address),
            }
        )
    )


def _stale(at: At) -> StaleSettings:
    return StaleSettings(**at.read(dict.fromkeys(StaleSettings.__struct_fields__, At.flag)))


_host_list = scalars.list_of(scalars.host)
_file = scalars.optional(scalars.readable)
_name = scalars.optional(scalars.username)
_image = scalars.one_of({what: what for what in (IMAGE_PULLED, IMAGE_INDEX, IMAGE_NONE)})

_UPSTREAM_KEYS: dict[str, Callable[[At], Any]] = {
    "url": scalars.urls,
    "aliases": scalars.list_of(scalars.alias),
    "kind": scalars.kind,
    "offline": At.flag,
    "fresh_for": scalars.duration,
    "revalidate": scalars.optional(scalars.revalidate),
    "revalidate_within": scalars.duration,
    "serve_stale": _stale,
    "max_stale": scalars.max_stale,
    "missing_for": scalars.duration,
    "missing": scalars.one_of({"keep": False, "delete": True}),
    "username": _name,
    "password_file": _file,
    "token_file": _file,
    "auth_file": _file,
    "credentials": scalars.optional(scalars.one_of({AWS: AWS})),
    "ca_file": _file,
    "client_cert": _file,
    "client_key": _file,
    "insecure": At.flag,
    "proxy": scalars.optional(scalars.proxy),
    "proxy_username": _name,
    "proxy_password_file": _file,
    "auth_hosts": _host_list,
    "redirect_hosts": _host_list,
    "keep_pulls": scalars.whole(0, 1_000_000),
    "max_connections": scalars.optional(scalars.whole(1, 1000)),
    "max_rate": scalars.optional(scalars.rate),
    "segments": scalars.whole(1, 16),
    "referrers_fresh_for": scalars.duration,
    "prefetch": lambda at: PrefetchSettings(**at.read({"image": _image, "referrers": At.flag})),
    "allow": scalars.list_of(scalars.pattern),
    "deny": scalars.list_of(scalars.pattern),
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
    first of those, and by which names it is called; so does C{admin}.

    @param store: relative to the working directory.
    @raise ConfigError: an endpoint cannot be used; the message names the option.
    """
    changes: dict[str, Any] = {}
    if store is not None:
        changes["store"] = Path(store).absolute()
    endpoints = [scalars.endpoint(At(endpoint, "--listen", "")) for endpoint in listen]
    if endpoints:
        default = _default_upstream(settings)
        hosts = settings.listen[0].hosts
        changes["listen"] = tuple(ListenSettings(endpoint=e, default_upstream=default, hosts=hosts) for e in endpoints)
    if admin is not None:
        hosts = () if settings.admin is None else settings.admin.hosts
        changes["admin"] = AdminSettings(endpoint=scalars.endpoint(At(admin, "--admin", "")), hosts=hosts)
    if offline:
        changes["offline"] = True
    return msgspec.structs.replace(settings, **changes)


def _default_upstream(settings: Settings) -> str | None:
    """Of the first configured listener; Docker Hub, if it is there, when the file configures no listener."""
    if settings.listen == Settings().listen:
        return settings.upstream_for(DOCKER_HUB)
    return settings.listen[0].default_upstream
