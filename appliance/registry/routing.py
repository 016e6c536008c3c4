"""
Which upstream and repository a request means: path prefix, then C{ns}, then the listener's default. Pure.

C{ns} is the OCI distribution spec's "Registry Proxying" query parameter, sent by containerd and BuildKit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from appliance.errors import NameInvalid, NamespaceConflict, UpstreamUnknown
from appliance.oci.reference import parse_repository


@dataclass(frozen=True)
class RequestedName:
    """
    What the path and C{ns} of a request name.

    @ivar upstream: configured name.
    @ivar repository: the repository's name as the client wrote it, checked against the grammar.
    @ivar namespace: the C{ns} that chose the upstream, to be echoed in C{OCI-Namespace}; C{None} when something else
        did.
    """

    upstream: str
    repository: str
    namespace: str | None = None


def requested_name(
    name: str, namespaces: Sequence[str], default: str | None, upstream_for: Callable[[str], str | None]
) -> RequestedName:
    """
    @param name: the path between C{/v2/} and C{/manifests/}, C{/blobs/}...
    @param namespaces: the values of C{ns}.
    @param default: configured name of the upstream that a request naming none means here, or C{None}.
    @param upstream_for: configured name for a name or alias, C{None} when it is neither.
    @raise NamespaceConflict: C{ns} came twice, or means another upstream than the path.
    @raise UpstreamUnknown: no configured upstream is meant.
    @raise NameInvalid: what remains is no repository name.
    """
    if len(namespaces) > 1:
        raise NamespaceConflict(f"ns was given {len(namespaces)} times; give it once")
    namespace = namespaces[0] if namespaces else None
    named = None if namespace is None else upstream_for(namespace)
    first, slash, rest = name.partition("/")
    prefixed = upstream_for(first) if slash else None
    if prefixed is not None:
        if named is not None and named != prefixed:
            raise NamespaceConflict(f"the path means upstream {prefixed}, ns={namespace} means {named}")
        return RequestedName(prefixed, parse_repository(rest))
    if namespace is not None:
        if named is None:
            raise UpstreamUnknown(f"ns={namespace[:255]}: no such upstream is configured")
        return RequestedName(named, parse_repository(name), namespace)
    if slash and (":" in first or "." in first) and not _is_bad(rest):
        raise UpstreamUnknown(f"{first[:255]}: no such upstream is configured")
    repository = parse_repository(name)
    if default is None:
        raise UpstreamUnknown(f"{repository} names no upstream, and this listener has no default_upstream")
    return RequestedName(default, repository)


def is_plain(uri: bytes, name: str, named: RequestedName, names: Collection[str]) -> bool:
    """
    Whether a request is written in one of the few usual ways of naming a thing: no other case of an
    upstream's name, no percent-encoding, no slash at the end, no query beside an C{ns} of that upstream.

    @param uri: path and query as received.
    @param name: as with L{requested_name}, which gave C{named}.
    @param names: the upstream's name and aliases.
    """
    path, question, query = uri.partition(b"?")
    prefix = name.removesuffix(named.repository).removesuffix("/")
    if b"%" in path or path.endswith(b"/") or (prefix and prefix not in names):
        return False
    if not question:
        return True
    # containerd encodes the colon before a port.
    spelled = {text for each in names for text in (each, quote(each, safe=""))}
    return query in {b"ns=%b" % text.encode() for text in spelled}


def _is_bad(name: str) -> bool:
    try:
        parse_repository(name)
    except NameInvalid:
        return True
    return False
