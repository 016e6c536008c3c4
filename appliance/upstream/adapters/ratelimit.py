"""
What header fields say of a limit on pulls.

Docker Hub sends C{ratelimit-limit: 100;w=21600} and C{ratelimit-remaining: 20;w=21600}, w being the window in seconds
(docs.docker.com, "Docker Hub pull usage and limits"). Fields of these names mean something else elsewhere (GitLab
counts requests per minute), so only an adapter that knows its registry reads them.
"""

from __future__ import annotations

import re

from twisted.web.http_headers import Headers

from appliance.interfaces import RateLimit

#: The longest window that is believed, in seconds: a wrong one would keep pulls back for ever.
MAX_WINDOW = 86400.0
#: Characters of a field that are looked at.
_MAX_FIELD = 200
_COUNT = re.compile(r"[ \t]*([0-9]{1,9})[ \t]*(?=[;,]|\Z)")
_WINDOW = re.compile(r";[ \t]*w=([0-9]{1,9})[ \t]*(?=[;,]|\Z)", re.IGNORECASE)


def pulls(headers: Headers) -> RateLimit | None:
    """The limit on pulls, C{None} when the fields do not tell how many are left."""
    remaining, window = _counted(headers, b"ratelimit-remaining")
    if remaining is None:
        return None
    limit, other = _counted(headers, b"ratelimit-limit")
    return RateLimit(limit, remaining, window or other)


def _counted(headers: Headers, name: bytes) -> tuple[int | None, float | None]:
    """Count and window of the first item of a field, C{None} for what is missing or cannot be read."""
    text = (headers.getRawHeaders(name) or [b""])[0].decode("latin-1")
    count = _COUNT.match(text) if len(text) <= _MAX_FIELD else None
    if count is None:
        return None, None
    window = _WINDOW.search(text.partition(",")[0])
    return int(count[1]), (min(float(window[1]), MAX_WINDOW) or None) if window else None
