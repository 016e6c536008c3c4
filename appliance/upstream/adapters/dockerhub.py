"""Docker Hub: official images live under C{library/}, tokens come from another host, pulls are counted."""

from __future__ import annotations

from twisted.web.http_headers import Headers

from appliance.errors import ConfigError
from appliance.interfaces import RateLimit
from appliance.settings import UpstreamSettings
from appliance.upstream.adapters import ratelimit
from appliance.upstream.adapters.standard import Standard


class DockerHub(Standard):
    """
    See L{appliance.interfaces.IAdapter}.

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

    def check(self, settings: UpstreamSettings) -> None:
        """An access token is the password of a user or an organisation, whose name has to be given."""
        super().check(settings)
        if settings.token_file is not None:
            raise ConfigError(
                f"upstreams.{settings.name}.token_file: Docker Hub takes an access token as a password; "
                "give username and password_file instead"
            )

    def repository(self, name: str) -> str:
        """C{nginx} is C{library/nginx}; a name with a slash is whole."""
        return name if "/" in name else f"library/{name}"

    def rate_limit(self, headers: Headers) -> RateLimit | None:
        """On every answer for a manifest; absent for plans without a limit."""
        return ratelimit.pulls(headers)
