"""What a configuration means, in words for its operator (C{--check})."""

from __future__ import annotations

import re

from appliance.settings import (
    DOCKER_HUB,
    NO_LOG,
    STANDARD_OUTPUT,
    BundleSettings,
    Settings,
    UpstreamSettings,
)
from appliance.units import words

_LOG_WORDS = {STANDARD_OUTPUT: "standard output", NO_LOG: "none"}


def describe(settings: Settings) -> str:
    """A plain-text account of the configuration for its operator, ending with a newline; names no secret."""
    lines = [f"store: {settings.store}"]
    for listener in settings.listen:
        meaning = listener.default_upstream or "nothing"
        lines.append(f"listens on {listener.endpoint}; a name without an upstream means {meaning}")
    lines.append(f"admin endpoint: {settings.admin.endpoint if settings.admin else 'none'}")
    lines.append(f"access log: {_LOG_WORDS.get(str(settings.access_log), settings.access_log)}")
    lines.append("offline: no upstream is ever contacted" if settings.offline else "online")
    lines.append(f"at a stop, transfers under way get {words(settings.shutdown_grace)}")
    lines.append(_bundles(settings.bundles))
    for upstream in settings.upstreams.values():
        lines += ["", *_described(upstream)]
    warnings = _warnings(settings)
    lines += ["", *(f"warning: {warning}" for warning in warnings)] if warnings else []
    return "\n".join(lines) + "\n"


def _bundles(bundles: BundleSettings) -> str:
    keys = len(bundles.trust)
    signed = f"signed by one of {keys} trusted keys" if keys > 1 else "signed by the trusted key" if keys else "signed"
    taken = f"only when {signed}" if keys or bundles.require_signature else "signed or not"
    watched = f", also from {bundles.inbox}" if bundles.inbox else ""
    return f"bundles: exported as {bundles.site or 'the name of this machine'}; imported {taken}{watched}"


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
    if settings.bundles.require_signature and not settings.bundles.trust:
        found.append("bundles: a signature is required and no key is trusted: no bundle can be imported")
    for upstream in settings.upstreams.values():
        if upstream.username and any(url.startswith("http:") for url in upstream.urls):
            found.append(f"{upstream.name}: the password is sent over plain http")
        if upstream.name == DOCKER_HUB and upstream.kind != "dockerhub":
            found.append(f"{upstream.name}: without kind: dockerhub, nginx is not found as library/nginx")
        if not upstream.allow:
            found.append(f"{upstream.name}: allow is empty, nothing may be pulled through")
    return found
