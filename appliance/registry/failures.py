"""
The only table from what went wrong to status codes and OCI error codes (distribution-spec, "Error Codes"), and to what
C{Cache-Status} says of it (RFC 9211).

Errors are worded for operators, who read them in the log and in C{pullcache status}; clients get the same text without
what is of this site alone: paths on the disk, proxies, private addresses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import msgspec

from appliance import errors
from appliance.cache.status import CacheStatus


@dataclass(frozen=True)
class Refusal:
    """
    An error as a client sees it.

    @ivar status: HTTP status code.
    @ivar body: the OCI error document.
    @ivar headers: to be sent with it.
    @ivar cache: where it came from, C{None} when neither the store nor an upstream was looked at.
    """

    status: int
    body: bytes
    headers: dict[str, str]
    cache: CacheStatus | None = None


CHALLENGE = 'Basic realm="pullcache", charset="UTF-8"'
"""What asks clients for a name and a password (RFC 7617 section 2)."""

# C{None} stands for the code of what was requested: MANIFEST_UNKNOWN, BLOB_UNKNOWN or NAME_UNKNOWN.
_TABLE: tuple[tuple[type[Exception], int, str | None], ...] = (
    (errors.DigestInvalid, 400, "DIGEST_INVALID"),
    (errors.NameInvalid, 400, "NAME_INVALID"),
    (errors.TagInvalid, 400, "TAG_INVALID"),
    (errors.PathInvalid, 400, "NAME_INVALID"),
    (errors.RequestInvalid, 400, "UNSUPPORTED"),
    (errors.HostUnknown, 421, "DENIED"),
    (errors.ForeignPage, 403, "DENIED"),
    (errors.NamespaceConflict, 400, "NAME_INVALID"),
    (errors.QueryInvalid, 400, "PAGINATION_NUMBER_INVALID"),
    (errors.RangeInvalid, 400, "RANGE_INVALID"),
    (errors.RangeUnsatisfiable, 416, "RANGE_INVALID"),
    (errors.UpstreamUnknown, 404, "NAME_UNKNOWN"),
    (errors.LoginRequired, 401, "UNAUTHORIZED"),
    # Not 403, which would say that it exists.
    (errors.AccessDenied, 404, None),
    (errors.NotPermitted, 403, "DENIED"),
    (errors.LoginExposed, 403, "DENIED"),
    (errors.ClientLimited, 429, "TOOMANYREQUESTS"),
    (errors.LoginsBusy, 429, "TOOMANYREQUESTS"),
    (errors.LoginUnavailable, 503, "UNAVAILABLE"),
    (errors.NotHeld, 404, None),
    (errors.Offline, 404, None),
    # Not 404, which means that there is no referrers API here and sends clients to a tag: then an image whose
    # signatures are not known passes for one that has none.
    (errors.ReferrersUnknown, 502, "UNAVAILABLE"),
    (errors.Unsupported, 405, "UNSUPPORTED"),
    (errors.UpstreamMissing, 404, None),
    # Never 401: a relayed challenge would send clients, with their credentials, to the upstream's token server. And
    # registries say "denied" of what does not exist.
    (errors.UpstreamDenied, 404, "NAME_UNKNOWN"),
    (errors.UpstreamRateLimited, 429, "TOOMANYREQUESTS"),
    (errors.UpstreamTimeout, 504, "UNAVAILABLE"),
    # 502 and not 503: containerd goes to its next registry at once.
    (errors.UpstreamError, 502, "UNAVAILABLE"),
    (errors.NoSpace, 503, "UNAVAILABLE"),
    (errors.StoreError, 500, "UNKNOWN"),
)

#: What is written for operators; all others are about the request, in the client's own words.
_FOR_OPERATORS = (errors.UpstreamError, errors.StoreError, errors.ReferrersUnknown)

_PROXY = re.compile(r"\bproxy https?://[^\s,;]+?(?=:?(?:[\s,;]|$))")
# A path of the disk begins a word; that of a URL stands behind its host, and that of the registry API begins with /v2/.
# One with blanks and the like is quoted as for a shell.
_QUOTED = r"""(?<=')/(?!v2/)[^']+(?:'"'"'[^']*)*(?=')"""
_PATH = re.compile(rf"{_QUOTED}|(?<![^\s\"(=,;])/(?!v2/)[^\s'\",;)]*[^\s'\",;):.]")
_IPV6 = r"(?<![\w.:-])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*"
_IPV4 = r"(?<![\w.:-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.\w)"
_ADDRESS = re.compile(rf"\[[0-9A-Fa-f:.]+\]|{_IPV6}|{_IPV4}")

_UNKNOWN = {"manifest": "MANIFEST_UNKNOWN", "blob": "BLOB_UNKNOWN"}


def refusal(error: BaseException, kind: str) -> Refusal | None:
    """
    The answer to the client, C{None} when C{error} is none of L{appliance.errors}: a mistake in the program, to be
    logged.

    @param kind: what was requested: C{manifest}, C{blob}, C{tags}...
    """
    for exception, status, code in _TABLE:
        if isinstance(error, exception):
            message = for_clients(str(error)) if isinstance(error, _FOR_OPERATORS) else str(error)
            body = document(code or _unknown(error, kind), message, _detail(error))
            return Refusal(status, body, _headers(error), _where_from(error))
    return None


def internal() -> Refusal:
    """The answer to the client after a mistake in the program: it says no more than that."""
    return Refusal(500, document("UNKNOWN", "internal error; see the log of the appliance", {}), {})


def for_clients(message: str) -> str:
    """C{message} without paths on the disk, proxies of ours and addresses that are not public, on one line."""
    text = _ADDRESS.sub(_public, _PATH.sub("[file]", _PROXY.sub("the proxy", message)))
    return "".join(each if each.isprintable() else " " for each in text)


def _public(address: re.Match[str]) -> str:
    try:
        is_public = ip_address(address[0].strip("[]")).is_global
    except ValueError:
        return address[0]
    return address[0] if is_public else "[private address]"


def document(code: str, message: str, detail: dict[str, Any]) -> bytes:
    """An OCI error document."""
    error: dict[str, Any] = {"code": code, "message": message}
    if detail:
        error["detail"] = detail
    return msgspec.json.encode({"errors": [error]})


def _unknown(error: BaseException, kind: str) -> str:
    if isinstance(error, errors.UpstreamMissing) and error.repository_unknown:
        return "NAME_UNKNOWN"
    return _UNKNOWN.get(kind, "NAME_UNKNOWN")


def _detail(error: BaseException) -> dict[str, Any]:
    if isinstance(error, errors.UpstreamError):
        return {"upstream": error.upstream, "fault": error.kind}
    return {}


def _where_from(error: BaseException) -> CacheStatus | None:
    if isinstance(error, errors.UpstreamMissing):
        if error.remembered:
            return CacheStatus(hit=True, detail="missing")
        return CacheStatus(fwd="uri-miss", fwd_status=404)
    if isinstance(error, errors.UpstreamError):
        return CacheStatus(fwd="uri-miss", detail=error.kind)
    if isinstance(error, errors.Offline):
        return CacheStatus(detail="offline")
    if isinstance(error, errors.ReferrersUnknown):
        return CacheStatus(detail="referrers-unknown")
    return CacheStatus(detail="not-held") if isinstance(error, errors.NotHeld) else None


def _headers(error: BaseException) -> dict[str, str]:
    if isinstance(error, errors.RangeUnsatisfiable):
        return {"Content-Range": f"bytes */{error.size}"}
    if isinstance(error, errors.ClientLimited | errors.LoginsBusy):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, errors.UpstreamRateLimited):
        return {"Retry-After": str(math.ceil(error.retry_after or 60))}
    if isinstance(error, errors.Unsupported):
        return {"Allow": "GET, HEAD"}
    if isinstance(error, errors.LoginRequired):
        return {"WWW-Authenticate": CHALLENGE}
    return {}
