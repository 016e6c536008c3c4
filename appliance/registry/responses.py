"""The one place where a response of the registry gets its status, its headers and its length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from appliance.cache.status import CacheStatus
from appliance.registry.failures import for_clients
from appliance.registry.request import RegistryRequest

API_VERSION = "registry/2.0"
# RFC 9110 section 5.5: what a header value may hold; a warning is quoted, so these two are left out as well.
_WARNING_LIMIT = 1000


def begin(
    request: RegistryRequest,
    code: int,
    length: int,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Set status and headers; the body of C{length} bytes follows, unless the request was HEAD."""
    request.setResponseCode(code)
    put = request.responseHeaders.setRawHeaders
    if content_type is not None:
        put("Content-Type", [content_type])
    if code != 304:
        put("Content-Length", [str(length)])
    put("Docker-Distribution-API-Version", [API_VERSION])
    for name, value in (headers or {}).items():
        put(name, [value])


def say_where_from(request: RegistryRequest, status: CacheStatus, warning: str | None, namespace: str | None) -> None:
    """C{Cache-Status} (RFC 9211), C{Warning} for what is stale, and the C{ns} that was followed."""
    request.cache = status.label
    request.setHeader("Cache-Status", str(status))
    if warning is not None:
        request.setHeader("Warning", f'299 - "{quotable(for_clients(warning))}"')
    if namespace is not None:
        request.setHeader("OCI-Namespace", quotable(namespace))


def abort(request: RegistryRequest) -> None:
    """Break the connection off, so that what was sent is not taken for the whole response."""
    transport: Any = request.transport
    transport.abortConnection()


def quotable(text: str) -> str:
    """C{text} as it may stand in a quoted string: printable ASCII, no quotes or backslashes, bounded."""
    kept = "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in text)
    return kept[:_WARNING_LIMIT]


def etag_matches(values: Iterable[str], etag: str) -> bool:
    """
    Whether C{If-None-Match} names C{etag} (RFC 9110 section 13.1.2: weak comparison).

    A bare digest is accepted as well, as some registries send it without quotes.
    """
    for value in values:
        for candidate in value.split(","):
            candidate = candidate.strip().removeprefix("W/").strip('"')
            if candidate in ("*", etag):
                return True
    return False
