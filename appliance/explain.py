"""What a configuration means, in words for its operator (C{--check}), and what in it deserves a second look."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from appliance.fields import UNLIMITED, endpoint_parts
from appliance.oci.pattern import matches
from appliance.settings import (
    ANY_USER,
    AWS,
    DEFAULT_RESERVE,
    DOCKER_HUB,
    IMAGE_INDEX,
    IMAGE_NONE,
    IMAGE_PULLED,
    LOGIN_NONE,
    METRICS_OPEN,
    NO_LOG,
    STANDARD_OUTPUT,
    AdminSettings,
    BundleSettings,
    ListenSettings,
    MatchSettings,
    RetentionRules,
    RetentionSettings,
    ScrubSettings,
    Settings,
    UpstreamSettings,
)
from appliance.units import size_words, words

_LOG_WORDS = {STANDARD_OUTPUT: "standard output", NO_LOG: "none"}
_IMAGE_WORDS = {
    IMAGE_PULLED: "the platforms that are pulled are made whole in the background",
    IMAGE_INDEX: "all platforms of what is pulled are made whole in the background",
    IMAGE_NONE: "only what clients ask for is fetched",
}
_LOOPBACK = re.compile(r"(?:interface=)?(?:127(?:\.[0-9]+){3}|localhost|\\:\\:1)")


def describe(settings: Settings, strangers: Iterable[str] = (), more: Iterable[str] = ()) -> str:
    """
    A plain-text account of the configuration for its operator, ending with a newline; names no secret.

    @param strangers: users that rules name and that cannot log in.
    @param more: warnings of others than this module.
    """
    lines = [f"store: {settings.store}"]
    for listener in settings.listen:
        meaning = listener.default_upstream or "nothing"
        called = f"; answers only to {', '.join(listener.hosts)}" if listener.hosts else ""
        known = _login(listener, settings)
        lines.append(f"listens on {listener.endpoint}; a name without an upstream means {meaning}{called}{known}")
    admin = settings.admin
    limits = settings.connections
    lines += [
        f"admin endpoint: {_admin(admin) if admin else 'none'}",
        f"access log: {_LOG_WORDS.get(str(settings.access_log), settings.access_log)}",
        f"audit log: {_audit(settings)}",
        *_access(settings),
        "offline: no upstream is ever contacted" if settings.offline else "online",
        f"connections: at most {limits.max}, {limits.max_per_address} from one address; a request has"
        f" {words(limits.head_timeout)} to arrive, a client that takes nothing {words(limits.stall_timeout)}",
        f"at a stop, transfers under way get {words(settings.shutdown_grace)}",
        f"bundles: {_bundles(settings.bundles)}",
        f"retention: {_retention(settings.retention)}",
        f"scrub: {_scrub(settings.scrub)}",
    ]
    for upstream in settings.upstreams.values():
        aliases = f" (also {', '.join(upstream.names()[1:])})" if upstream.names()[1:] else ""
        lines += ["", f"upstream {upstream.name}{aliases}", *(f"  {what}: {fact}" for what, fact in _facts(upstream))]
    found = [*warnings(settings, strangers), *more]
    lines += ["", *(f"warning: {warning}" for warning in found)] if found else []
    return "\n".join(lines) + "\n"


def _audit(settings: Settings) -> str:
    size = size_words(settings.audit_size)
    return "none" if settings.audit_path is None else f"{settings.audit_path}, put aside when it has {size}"


def warnings(settings: Settings, strangers: Iterable[str] = ()) -> list[str]:
    """
    What may be meant and is more often a mistake, one line each; names no secret. Looks at permissions of files.

    @param strangers: users that rules name and that cannot log in.
    """
    found = [] if settings.upstreams else ["no upstream is configured: every name is unknown"]
    if settings.admin is not None:
        found += _admin_exposures(settings.admin)
    if settings.bundles.require_signature and not settings.bundles.trust:
        found.append(
            "bundles: a signature is required and no key is trusted: only an import that names a key takes a bundle"
        )
    found += [f"{each.name}: {warning}" for each in settings.listen for warning in _open_doors(each, settings)]
    found += [*_doubts(settings), *(f"access: no checker knows the user {name}" for name in strangers)]
    reachable = [listener.endpoint for listener in settings.listen if is_open(listener.endpoint)]
    for name, upstream in settings.upstreams.items():
        found += [f"{name}: {warning}" for warning in (*_exposures(upstream, reachable), *_slips(upstream))]
    return found


def _admin_exposures(admin: AdminSettings) -> Iterator[str]:
    """Who can order what at the admin endpoint, and was perhaps not meant."""
    if not admin.asks and not _is_socket(admin.endpoint):
        yield (
            f"the admin endpoint {admin.endpoint} asks for no login: whoever has a process on this machine may order"
            " anything there; admin: {token_file: PATH} names who may"
        )
    parts = endpoint_parts(admin.endpoint)
    if "unix" in parts[:2] and not any(re.fullmatch(r"mode=[0-7]*[0-7]0", each) for each in parts):
        yield (
            f"the admin endpoint {admin.endpoint} can be opened by every user of this machine and asks for nothing: who"
            " opens a socket may order anything there; add :mode=660"
        )
    if admin.token_file is not None and is_open(admin.endpoint) and not admin.is_tls:
        yield f"tokens are sent to the admin endpoint {admin.endpoint} unencrypted, unless TLS is spoken in front of it"
    if admin.token_file is not None and _is_read_by_others(admin.token_file):
        yield f"{admin.token_file} holds tokens and can be read by everybody on this machine; chmod o-r it"


def _is_socket(endpoint: str) -> bool:
    parts = endpoint_parts(endpoint)
    return "unix" in parts[:2] or "domain=UNIX" in parts


def is_open(endpoint: str) -> bool:
    """Whether a Twisted server endpoint may be reached from other machines: all but loopback and unix sockets."""
    return not (_is_socket(endpoint) or any(map(_LOOPBACK.fullmatch, endpoint_parts(endpoint))))


# -- what the keys mean ---------------------------------------------------------------------------------------------


def _admin(admin: AdminSettings) -> str:
    asked = [f"a token of {admin.token_file}"] if admin.token_file else []
    if admin.client_ca_file:
        named = ", ".join(f"{name} ({role})" for name, role in admin.client_roles.items())
        asked.append(f"a certificate of {named} by {admin.client_ca_file}")
    said = [admin.endpoint, f"asks for {' or '.join(asked)}" if asked else "asks for no login"]
    said += [f"answers to {', '.join(admin.hosts)} as well"] if admin.hosts else []
    said.append(f"metrics are {'open' if admin.metrics == METRICS_OPEN else 'for the role read'}")
    said.append(f"also at {admin.socket}" if admin.socket else "no socket")
    return "; ".join(said)


def _login(listener: ListenSettings, settings: Settings) -> str:
    """How its clients log in, to follow what else is said of it; empty where they do not."""
    # What follows the colon may be a password.
    kinds = [each.partition(":")[0] for each in settings.checkers_of(listener)] if listener.login != LOGIN_NONE else []
    ways = [*dict.fromkeys(kinds), *(["certificates"] if listener.client_ca_file else [])]
    return f"; {listener.name}: login {listener.login}, by {' or '.join(ways)}" if ways else ""


def _access(settings: Settings) -> Iterator[str]:
    """Who may read what, and what each may take."""
    if not settings.access:
        yield "access: everybody who reaches a listener may read everything"
    for number, rule in enumerate(settings.access):
        yield f"access[{number}]: {rule}"
    for name, users in settings.groups.items():
        yield f"group {name}: {' '.join(users) or 'nobody'}"
    rate = settings.client_rate
    limits = [
        f"{rate.requests} requests" if rate.requests is not None else "",
        size_words(rate.bytes) if rate.bytes is not None else "",
    ]
    if any(limits):
        yield f"each client: at most {' and '.join(filter(None, limits))} a second"


def _bundles(bundles: BundleSettings) -> str:
    keys = len(bundles.trust)
    signed = f"signed by one of {keys} trusted keys" if keys > 1 else "signed by the trusted key" if keys else "signed"
    taken = f"only when {signed}" if keys or bundles.require_signature else "signed or not"
    if keys and bundles.accept_callers_keys:
        taken += ", or by a key that the caller of the import names"
    aliases = f"; also known as {', '.join(bundles.aliases)}" if bundles.aliases else ""
    watched = f", also from {bundles.inbox}" if bundles.inbox else ""
    return f"exported as {bundles.site or 'the name of this machine'}; imported {taken}{watched}{aliases}"


def _retention(retention: RetentionSettings) -> str:
    default = " or ".join(map(str, DEFAULT_RESERVE))
    reserve = retention.reserve or f"{default} of the disk, the smaller,"
    grace = f"a blob stays for {words(retention.grace)} in any case" if retention.grace else "none is too new to go"
    return f"{_rules(retention) or 'no rule'}; {reserve} is left free, the least recently pulled goes for it; {grace}"


def _scrub(scrub: ScrubSettings) -> str:
    if scrub.every is None:
        return "only when it is ordered"
    return f"what is held is hashed again {words(scrub.every)} after the last time, {size_words(scrub.rate)} a second"


def _rules(rules: RetentionRules) -> str:
    """What a rule says of images and blobs, empty when none says anything."""
    kept = []
    if rules.keep_for not in (None, inf):
        kept.append(f"for {words(rules.keep_for)} since the last pull")
    if rules.keep_last not in (None, inf):
        kept.append(f"the {rules.keep_last:.0f} tags of a repository that were pulled last")
    said = [f"kept {' and '.join(kept)}"] if kept else []
    if rules.max_size not in (None, inf):
        said.append(f"at most {size_words(int(rules.max_size))}, the least recently pulled goes first")
    for key in ("keep_for", "keep_last", "max_size"):
        if getattr(rules, key) == inf:
            said.append(f"{key.replace('_', ' ')}: {UNLIMITED}")
    if rules.keep:
        said.append(f"always {' '.join(rules.keep)}")
    return "; ".join(said)


def _facts(upstream: UpstreamSettings) -> Iterator[tuple[str, str]]:
    """The lines about one upstream: the word before the colon, and the rest."""
    yield "from", ", then ".join(upstream.urls)
    if upstream.offline:
        yield "offline", "never contacted, only what is held is served"
    yield "kind", upstream.kind
    if upstream.fresh_for is None:
        yield "tags", "not asked for again once held"
    else:
        fresh = f"fresh for {words(upstream.fresh_for)}, then" if upstream.fresh_for else "always"
        yield "tags", f"{fresh} revalidated within {words(upstream.revalidate_within)}"
    yield "stale", _stale(upstream)
    believed = f"believed for {words(upstream.missing_for)}" if upstream.missing_for else "asked for again each time"
    gone = "deleted" if upstream.delete_missing else "kept"
    yield "missing", f"{believed}; a held tag that the upstream has no more is {gone}"
    yield "credentials", _credentials(upstream)
    if upstream.insecure:
        yield "certificates", "any is accepted"
    elif upstream.ca_file:
        yield "certificates", f"only from the authorities in {upstream.ca_file}"
    if upstream.client_cert:
        yield (
            "shows",
            f"the certificate from {upstream.client_cert}, with the key from {upstream.client_key or 'there'}",
        )
    yield "proxy", _proxy(upstream)
    if upstream.auth_hosts:
        yield "tokens", f"may also come from {', '.join(upstream.auth_hosts)}"
    if upstream.redirect_hosts:
        yield "redirects", f"may lead to private addresses of {', '.join(upstream.redirect_hosts)}"
    limits = [
        f"at most {upstream.max_connections} requests at once" if upstream.max_connections is not None else "",
        f"at most {size_words(upstream.max_rate)} of blobs a second" if upstream.max_rate is not None else "",
        f"{upstream.keep_pulls} pulls of its rate limit are left to others" if upstream.keep_pulls else "",
    ]
    if any(limits):
        yield "limits", ", ".join(filter(None, limits))
    if upstream.segments > 1:
        yield "large blobs", f"in {upstream.segments} ranges at once"
    yield "images", _IMAGE_WORDS[upstream.prefetch.image]
    fresh = f"fresh for {words(upstream.referrers_fresh_for)}" if upstream.referrers_fresh_for else "always asked for"
    yield "referrers", fresh + (", fetched along with an image" if upstream.prefetch.referrers else "")
    if rules := _rules(upstream.retention):
        yield "retention", rules
    denied = f", but not {' '.join(upstream.deny)}" if upstream.deny else ""
    yield "repositories", f"{' '.join(upstream.allow)}{denied}" or "none"
    if upstream.is_private:
        yield "private", "served to those whom a rule of access lets in, and to no others"
    for field in msgspec.structs.fields(upstream):
        value = getattr(upstream, field.name)
        if field.name not in _IN_WORDS and value != field.default:
            yield field.encode_name.replace("_", " "), str(value)


_IN_WORDS = frozenset(
    """
    name urls aliases kind offline fresh_for revalidate revalidate_within serve_stale max_stale missing_for
    delete_missing username password_file token_file auth_file credentials ca_file client_cert client_key insecure proxy
    proxy_username proxy_password_file auth_hosts redirect_hosts keep_pulls max_connections max_rate segments
    referrers_fresh_for prefetch retention allow deny private
    """.split()
)
"""The keys that L{_facts} puts into sentences; a newer one is shown with its value when it is not the default."""


def _stale(upstream: UpstreamSettings) -> str:
    stale = upstream.serve_stale
    cases = [name.replace("_", " ") for name in stale.__struct_fields__ if getattr(stale, name)]
    if not cases:
        return "never served"
    limit = "at any age" if upstream.max_stale is None else f"up to {words(upstream.max_stale)} past freshness"
    return f"served {limit} when the upstream answers: {', '.join(cases)}"


def _credentials(upstream: UpstreamSettings) -> str:
    if upstream.username is not None:
        return f"username {upstream.username}, password from {upstream.password_file}"
    if upstream.token_file is not None:
        return f"token from {upstream.token_file}"
    if upstream.auth_file is not None:
        return f"from {upstream.auth_file}, in docker's form"
    if upstream.credentials == AWS or upstream.kind == "ecr":
        return "from where AWS's own tools take theirs"
    return "none, asks anonymously"


def _proxy(upstream: UpstreamSettings) -> str:
    if upstream.proxy is None:
        return "as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say"
    if upstream.proxy_username is None:
        return upstream.proxy
    return f"{upstream.proxy}, username {upstream.proxy_username}, password from {upstream.proxy_password_file}"


# -- what deserves a second look ------------------------------------------------------------------------------------


def _exposures(upstream: UpstreamSettings, reachable: list[str]) -> Iterator[str]:
    """How its secrets, or what they give access to, may be given away."""
    given = upstream.username or upstream.token_file or upstream.auth_file or upstream.credentials
    known = given or upstream.kind == "ecr"
    secret = "password is" if upstream.username else "token is" if upstream.token_file else "credentials are"
    if upstream.has_credentials and not upstream.is_private and reachable:
        yield f"what its credentials may pull is served to anyone who can reach {', '.join(reachable)}"
    if known and any(url.startswith("http:") for url in upstream.urls):
        yield f"the {secret} sent over plain http"
    hosts = dict.fromkeys(urlsplit(url).netloc.lower() for url in upstream.urls)
    if len(hosts) > 1 and given and not upstream.auth_file:
        yield (
            f"the {secret} shown to every host of it: {', '.join(hosts)};"
            " give auth_file, where each host has its own, or make an upstream of each"
        )
    if upstream.insecure:
        shown = ", and the server that shows it is given the credentials" if known else ""
        yield f"insecure: any certificate is accepted{shown}"
    key_file = upstream.client_key or upstream.client_cert
    files = (upstream.password_file, upstream.token_file, upstream.auth_file, key_file, upstream.proxy_password_file)
    for path in files:
        if path is not None and _is_read_by_others(path):
            yield f"{path} holds a secret and can be read by everybody on this machine; chmod o-r it"


def _is_read_by_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        # It was readable when the settings were made, and is looked at again when it is needed.
        return False


def _open_doors(listener: ListenSettings, settings: Settings) -> Iterator[str]:
    """What anybody on the network may make of a listener."""
    if settings.proxies_of(listener) or not is_open(listener.endpoint):
        return
    if listener.endpoint.startswith("haproxy:"):
        yield (
            "whoever reaches it may say that he is any address (PROXY), whatever networks the rules name; give the"
            " balancers as trusted_proxies"
        )


def _doubts(settings: Settings) -> Iterator[str]:
    """Logins and rules that do not do what they seem to."""
    anybody_logs_in = any(each.login != LOGIN_NONE or each.client_ca_file for each in settings.listen)
    for listener in settings.listen:
        is_exposed = is_open(listener.endpoint) and not listener.is_tls and not settings.proxies_of(listener)
        if listener.login != LOGIN_NONE and is_exposed:
            yield (
                f"{listener.name}: over plain http a password is taken from this machine alone: give it a tls:"
                " endpoint, or trusted_proxies"
            )
    ended_by: int | None = None
    named = set[str]()
    for number, rule in enumerate(settings.access):
        match, which = rule.match, f"access[{number}]"
        named.update(match.groups)
        if ended_by is not None:
            yield f"{which} is never asked: access[{ended_by}] decides about everything before it"
        if (match.users or match.groups) and not anybody_logs_in:
            yield f"{which} is about users, and no listener has a login or a client_ca_file"
        if match.groups and not match.users and not any(settings.groups.get(name) for name in match.groups):
            yield f"{which} is about nobody: its groups are empty"
        for user in match.users:
            if ANY_USER in user and user != ANY_USER:
                yield f"{which} is about a user called {user}: {ANY_USER} stands for others only where it stands alone"
        for pattern in match.repositories:
            first = pattern.partition("/")[0]
            if not any(matches(first, upstream) for upstream in settings.upstreams):
                yield f"{which}: {pattern} matches nothing: no upstream is called {first}"
        # What allows everything leaves private upstreams to the rules behind it.
        opens = rule.allow is not None and any(each.is_private for each in settings.upstreams.values())
        if ended_by is None and not opens and match == MatchSettings():
            ended_by = number
    for name in settings.groups:
        if name not in named:
            yield f"groups.{name} is in no rule of access"
    allowed = [rule.allow for rule in settings.access if rule.allow is not None]
    for name, upstream in settings.upstreams.items():
        open_by = [
            match
            for match in allowed
            if anybody_logs_in
            or match.networks
            or match.listeners
            or any(pattern.startswith(f"{name}/") for pattern in match.repositories)
        ]
        if settings.access and upstream.is_private and not open_by:
            yield (
                f"{name} is private, no rule of access that allows something names it, networks or listeners, and"
                " nobody logs in: nothing of it is served"
            )


def _slips(upstream: UpstreamSettings) -> Iterator[str]:
    """What does not do what it seems to."""
    if upstream.name == DOCKER_HUB and upstream.kind != "dockerhub":
        yield "without kind: dockerhub, nginx is not found as library/nginx"
    if not upstream.allow:
        yield "allow is empty, nothing may be pulled through"
    if upstream.segments > 1 and (upstream.max_connections or upstream.segments + 1) <= upstream.segments:
        yield (
            f"one large blob in {upstream.segments} segments takes every connection;"
            f" give max_connections at least {upstream.segments + 1}"
        )
