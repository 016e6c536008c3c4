"""
Docker Hub: official images live under C{library/}, tokens come from another host, pulls are counted.

It sends C{ratelimit-limit: 100;w=21600} and C{ratelimit-remaining: 20;w=21600}, w being the window in seconds
(docs.docker.com, "Docker Hub pull usage and limits"). Fields of these names mean something else elsewhere (GitLab
counts requests per minute), so they are read here only.
"""

from __future__ import annotations

import re

from twisted.web.http_headers import Headers

from appliance.upstream.interfaces import RateLimit
from appliance.upstream.kinds.standard import Standard

#: The longest window that is believed, in seconds: a wrong one would keep pulls back for ever.
MAX_WINDOW = 86400.0
#: Characters of a field that are looked at.
_MAX_FIELD = 200
_COUNT = re.compile(r"[ \t]*([0-9]{1,9})[ \t]*(?=[;,]|\Z)")
_WINDOW = re.compile(r";[ \t]*w=([0-9]{1,9})[ \t]*(?=[;,]|\Z)", re.IGNORECASE)


class DockerHub(Standard):
    """
    See L{appliance.upstream.interfaces.IAdapter}.

    Redirect hosts as docs.docker.com's allowlist has them; in some AWS networks blobs come from S3 buckets
    C{docker-images-prod*} of the region instead. What is said of its referrers API differs.
    """

    kind = "dockerhub"
    auth_hosts = ("auth.docker.io",)
    redirect_hosts = (
        "production.cloudflare.docker.com",
        "production.cloudfront.docker.com",
        "*.r2.cloudflarestorage.com",
    )

    #: It is the password of a user or an organisation, whose name has to be given.
    no_token_file = "Docker Hub takes an access token as a password; give username and password_file instead"

    def repository(self, name: str) -> str:
        """C{nginx} is C{library/nginx}; a name with a slash is whole."""
        return name if "/" in name else f"library/{name}"

    def rate_limit(self, headers: Headers) -> RateLimit | None:
        """On every answer for a manifest; C{None} for plans without a limit, and when the fields cannot be read."""
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
