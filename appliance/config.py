"""
Reading the configuration: a file by the table in C{appliance.settings}, the rules between its keys, and the options of
the command line.

The file is read strictly: what is not understood is refused with file, line, key path, the value at fault and what
would be right, in one line. (C{msgspec.convert} would name neither the line nor the upstream, and would not let numbers
stay as they are written: so the types of the table are followed here.)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import count
from math import isinf
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

from appliance.errors import ConfigError
from appliance.fields import Endpoint, Listed, PossibleSecret, Written
from appliance.oci.reference import official
from appliance.settings import (
    ANY_USER,
    AWS,
    DOCKER_HUB,
    LOGIN_NONE,
    NO_PROXY,
    AdminSettings,
    ListenSettings,
    RuleSettings,
    Settings,
    UpstreamSettings,
)
from appliance.yamltree import LIMIT, Node, tree

S = TypeVar("S", bound=msgspec.Struct)


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
    root = tree(text, source)
    return _consistent(section(root, Settings), root.mapping())


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
    endpoints = [_value(Node(endpoint, "--listen"), Endpoint) for endpoint in listen]
    if endpoints:
        first = settings.listen[0]
        if settings.listen == Settings().listen:
            # The file configures no listener; --listen alone shall be enough for Docker's registry-mirrors.
            first = msgspec.structs.replace(first, default_upstream=settings.upstream_for(DOCKER_HUB))
        others = (name for name in map("listen-{}".format, count(2)) if name != first.name)
        changes["listen"] = listeners = tuple(
            msgspec.structs.replace(first, endpoint=endpoint, name=next(others) if number else first.name)
            for number, endpoint in enumerate(endpoints)
        )
        for listener in listeners:
            for why in _faults(listener, settings):
                raise Node(listener.endpoint, "--listen").fault(why)
        names = {each.name for each in listeners}
        for name in (name for rule in settings.access for name in rule.match.listeners if name not in names):
            raise ConfigError(f"--listen: a rule of access is about the listener {name}, which is not there then")
    if admin is not None:
        known = settings.admin or AdminSettings()
        changes["admin"] = msgspec.structs.replace(known, endpoint=_value(Node(admin, "--admin"), Endpoint))
    if offline:
        changes["offline"] = True
    return msgspec.structs.replace(settings, **changes)


def followed(settings: Settings, before: Settings) -> tuple[Settings, list[str]]:
    """
    What of C{settings} an appliance follows that runs by C{before}: all but what is open, which stays as it is.

    @return: that, and the keys of the rest, which takes effect with a restart.
    @raise ConfigError: a rule is about a listener that is not open, or would be about another one as well.
    """
    kept: dict[str, Any] = {key: getattr(before, key) for key in ("store", "access_log", "send_threads", "bundles")}
    later = [key for key, value in kept.items() if getattr(settings, key) != value]
    if [each.endpoint for each in settings.listen] != [each.endpoint for each in before.listen]:
        later.append("listen: endpoint")
        kept["listen"] = _open_listeners(settings, before)
    if settings.admin is None or before.admin is None:
        later += ["admin"] if settings.admin is not before.admin else []
        kept["admin"] = before.admin
    else:
        where = {key: getattr(before.admin, key) for key in ("endpoint", "socket")}
        later += [f"admin: {key}" for key, value in where.items() if getattr(settings.admin, key) != value]
        kept["admin"] = msgspec.structs.replace(settings.admin, **where)
    return msgspec.structs.replace(settings, **kept), later


def _open_listeners(settings: Settings, before: Settings) -> tuple[ListenSettings, ...]:
    """
    Those of C{before}, each with what C{settings} say of it; one of which they say nothing stays as it was, but that a
    default that is no upstream any more means none.
    """
    said = {listener.endpoint: listener for listener in settings.listen}
    listeners = tuple(
        said.get(listener.endpoint)
        or msgspec.structs.replace(listener, default_upstream=settings.upstream_for(listener.default_upstream or ""))
        for listener in before.listen
    )
    names = [listener.name for listener in listeners]
    for name in (name for rule in settings.access for name in rule.match.listeners):
        if names.count(name) != 1 or not any(each.name == name and each.endpoint in said for each in listeners):
            raise ConfigError(
                f"the endpoints of the listeners changed, which takes a restart; a rule of access is about {name},"
                " which would be another one until then"
            )
    return listeners


# -- by the table ---------------------------------------------------------------------------------------------------

# Types are evaluated anew at each call: that costs milliseconds.
_fields = cache(msgspec.structs.fields)


def section(node: Node, table: type[S], **given: Any) -> S:
    """
    A mapping of the file as the section that C{table} describes.

    @param given: fields that are no keys.
    @raise ConfigError: a key is unknown or missing, or its value cannot be used.
    """
    keys = {field.encode_name: field for field in _fields(table) if field.name not in given}
    found = node.mapping()
    for key, value in found.items():
        if key not in keys:
            raise value.fault(_unknown(key, keys), quoted=False)
    for key, field in keys.items():
        if field.required and key not in found:
            raise _missing(node, key)
    return table(**given, **{keys[key].name: _value(value, keys[key].type) for key, value in found.items()})


def _missing(node: Node, key: str) -> ConfigError:
    return node.absent(key).fault("is missing; it has no default", quoted=False)


def _unknown(key: str, known: Iterable[str]) -> str:
    if key in ("password", "token", "proxy_password"):
        return f"a secret is never written here; put it into a file and name that with {key}_file"
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; the keys here are {', '.join(known)}"


def _value(node: Node, wanted: Any) -> Any:
    """What a node says, for a field of the type C{wanted}."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _listed(node, *inner) if isinstance(inner[1], Listed) else _written(node, inner[1])
    if type(None) in inner:
        return None if node.value is None else _value(node, inner[0])
    if origin is tuple:
        return tuple(_value(item, inner[0]) for item in node.items())
    if origin is dict:
        names = {_value(replace(below, value=name), inner[0]): below for name, below in node.mapping().items()}
        if inner[1] is UpstreamSettings:
            return {name: section(below, inner[1], name=name) for name, below in names.items()}
        return {name: _value(below, inner[1]) for name, below in names.items()}
    if wanted is bool:
        return node.flag()
    if wanted in (str, Path):
        return _written(node, Written(wanted))
    return section(node, wanted)


def _listed(node: Node, wanted: Any, how: Listed) -> tuple[Any, ...]:
    if how.alone and not isinstance(node.value, list):
        node = replace(node, value=[node])
    found: tuple[Any, ...] = _value(node, wanted)
    if how.filled and not found:
        raise node.fault("is empty; write at least one")
    return found


def _written(node: Node, how: Written) -> Any:
    if isinstance(node.value, str | bool) and node.value in how.words:
        return how.words[node.value]
    words = [word for word in how.words if isinstance(word, str)]
    if how.read is None:
        raise node.fault(f"is not one of {', '.join(words)}")
    if isinstance(node.value, bool) and words:
        raise node.fault(f"is a truth value to YAML; write {' or '.join(words)}, or put other text in quotes")
    text = node.text()
    try:
        value = how.read(text)
        if isinstance(value, Path):
            value = Path(node.source).absolute().parent / value
            if how.file is not None:
                how.file(value)
    except PossibleSecret as error:
        raise node.fault(str(error), quoted=False) from None
    except ConfigError as error:
        raise node.fault(f"{error}; or write {' or '.join(words)}" if words else str(error)) from None
    return value


# -- the rules between keys -----------------------------------------------------------------------------------------


def _consistent(settings: Settings, file: dict[str, Node]) -> Settings:
    """The settings with names resolved, when what the keys of C{file} say fits together."""
    upstreams: dict[str, UpstreamSettings] = {}
    owners: dict[str, str] = {}
    for upstream in settings.upstreams.values():
        node = file["upstreams"].mapping()[upstream.name]
        for why in _contradictions(upstream, "fresh_for" in node.mapping()):
            raise node.fault(why, quoted=False)
        for name in upstream.names():
            owner = owners.setdefault(name, upstream.name)
            if owner != upstream.name:
                raise replace(node, value=name).fault(f"already means the upstream {owner}; give it to one of them")
        if (fresh_for := upstream.revalidate) is not None:
            fresh_for = None if isinf(fresh_for) else fresh_for
            upstream = msgspec.structs.replace(upstream, fresh_for=fresh_for, revalidate=None)
        upstreams[upstream.name] = upstream
    settings = msgspec.structs.replace(settings, upstreams=upstreams)

    for number, alias in enumerate(settings.bundles.aliases):
        if (meant := settings.upstream_for(alias)) is not None:
            node = file["bundles"].mapping()["aliases"].items()[number]
            raise node.fault(f"already means the upstream {meant}; give it to one of them")

    listeners: dict[str, ListenSettings] = {}
    nodes = file["listen"].items() if "listen" in file else [Node({"endpoint": Node(settings.listen[0].endpoint)})]
    for number, (node, listener) in enumerate(zip(nodes, settings.listen, strict=True), start=1):
        if "endpoint" not in node.mapping():
            raise _missing(node, "endpoint")
        if listener.endpoint in listeners:
            raise node.mapping()["endpoint"].fault("is listened on twice; keep one of them")
        if listener.default_upstream is not None:
            canonical = settings.upstream_for(listener.default_upstream)
            if canonical is None:
                known = ", ".join(upstreams) or "none yet"
                raise node.mapping()["default_upstream"].fault(f"is no upstream; configured are: {known}")
            listener = msgspec.structs.replace(listener, default_upstream=canonical)
        listener = msgspec.structs.replace(listener, name=listener.name or f"listen-{number}")
        if listener.name in [each.name for each in listeners.values()]:
            raise replace(node, value=listener.name).fault("is the name of two listeners; give each its own")
        for why in _faults(listener, settings):
            raise node.fault(why, quoted=False)
        listeners[listener.endpoint] = listener
    settings = msgspec.structs.replace(settings, listen=tuple(listeners.values()))

    if (admin := settings.admin) is not None and admin.client_ca_file is None:
        for key in ("client_crl_file", "client_roles"):
            if getattr(admin, key):
                raise file["admin"].mapping()[key].fault("is of no use without client_ca_file", quoted=False)
    return msgspec.structs.replace(settings, access=tuple(_rules(settings, file)))


def _rules(settings: Settings, file: dict[str, Node]) -> Iterator[RuleSettings]:
    """The rules of C{access} with the upstreams' canonical names, when they fit the rest."""
    nodes = file["access"].items() if "access" in file else []
    for group, users in settings.groups.items():
        if ANY_USER in users:
            node = replace(file["groups"].mapping()[group], value=ANY_USER)
            raise node.fault("stands for any user only in users of a rule; write users: '*' there")
    known = {"groups": list(settings.groups), "listeners": [str(each.name) for each in settings.listen]}
    for node, rule in zip(nodes, settings.access, strict=True):
        if (rule.allow is None) == (rule.deny is None):
            raise node.fault("a rule is either an allow or a deny; write one of them", quoted=False)
        key = "deny" if rule.allow is None else "allow"
        match = rule.match
        for what, names in known.items():
            for name in getattr(match, what):
                if name not in names:
                    there = ", ".join(names) or "none yet"
                    at = replace(node.mapping()[key].mapping()[what], value=name)
                    raise at.fault(f"is not among the {what}; there are: {there}")
        meant = []
        for pattern in match.repositories:
            first, slash, rest = pattern.partition("/")
            upstream = settings.upstream_for(first) or first
            meant.append(f"{upstream}{slash}{rest if '**' in rest else official(upstream, rest)}" if slash else pattern)
        yield RuleSettings(**{key: msgspec.structs.replace(match, repositories=tuple(meant))})
    if not settings.access:
        for each in settings.upstreams.values():
            if each.is_private:
                raise file["upstreams"].mapping()[each.name].fault(_unguarded(each), quoted=False)


def _unguarded(upstream: UpstreamSettings) -> str:
    """What to write where a private upstream has no rule that says to whom it is served."""
    why = "has credentials" if upstream.private is None else "is private"
    return (
        f"{why}, and no rule says who may pull what they give access to. Name those who may:"
        f" access: [{{allow: {{networks: [10.0.0.0/8], repositories: ['{upstream.name}/**']}}}}, {{allow: {{}}}}]; the"
        " second rule goes on serving everything that is not private to everybody."
        f" Or give {upstream.name} private: false, if everybody who reaches a listener may have it"
    )


def _faults(listener: ListenSettings, settings: Settings) -> Iterator[str]:
    """Why the keys of one listener do not fit together."""
    if listener.client_ca_file is not None and not listener.is_tls:
        yield "client_ca_file is of use only where the endpoint begins with tls: or ssl:"
    if listener.client_crl_file is not None and listener.client_ca_file is None:
        yield "client_crl_file is of no use without client_ca_file; give the authority, too"
    if listener.login == LOGIN_NONE:
        if listener.checkers is not None:
            yield "checkers are of no use with login: none; give login: offered or login: required"
    elif listener.client_ca_file is None and not settings.checkers_of(listener):
        yield (
            f"login: {listener.login} needs somebody who knows the users; give"
            " checkers: ['htpasswd:/etc/pullcache/htpasswd'], or client_ca_file"
        )


def _contradictions(upstream: UpstreamSettings, fresh_for_given: bool) -> Iterator[str]:
    """Why the keys of one upstream do not fit together."""
    for one, other in (("username", "password_file"), ("proxy_username", "proxy_password_file")):
        if (getattr(upstream, one) is None) != (getattr(upstream, other) is None):
            yield f"{one} and {other} go together; give both or neither"
    ways = {
        "username with password_file": upstream.username,
        "token_file": upstream.token_file,
        "auth_file": upstream.auth_file,
        f"credentials: {AWS}": upstream.credentials,
    }
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        yield f"{' and '.join(given)} are both credentials; keep one of them"
    if upstream.client_key and not upstream.client_cert:
        yield "client_key is of no use without client_cert; give the certificate, too"
    if upstream.insecure and upstream.ca_file:
        yield "insecure takes any certificate, and ca_file does not; keep one of them"
    if upstream.proxy_username and upstream.proxy in (None, NO_PROXY):
        yield "proxy_username is of no use without the URL of a proxy; give it with proxy"
    if upstream.revalidate is not None and fresh_for_given:
        yield "fresh_for and revalidate say the same in two ways; keep one of them"
