"""A registry of the OCI distribution specification with nothing special; every other kind extends it."""

from __future__ import annotations

from twisted.plugin import IPlugin
from twisted.web.http_headers import Headers
from zope.interface import implementer

from appliance.errors import ConfigError
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.configured import CredentialArguments, token_credentials
from appliance.upstream.interfaces import IAdapter, ICredentials, RateLimit, Secret


@implementer(IAdapter, IPlugin)
class Standard:
    """
    See L{IAdapter} for every attribute and method; what is here is what most registries do.

    @cvar token_username: the user name that the content of C{token_file} is the password of; C{None}: it is a token for
        the registry itself.
    @cvar no_token_file: why C{token_file} is refused, and what to give instead; empty where it is not.
    """

    kind = "distribution"
    auth_hosts: tuple[str, ...] = ()
    redirect_hosts: tuple[str, ...] = ()
    has_referrers: bool | None = None
    token_username: str | None = None
    no_token_file = ""

    def check(self, settings: UpstreamSettings) -> None:
        """Refuses C{credentials}, since most kinds have none but those in the settings' files, and L{no_token_file}."""
        if settings.credentials is not None:
            raise ConfigError(
                f"upstreams.{settings.name}.credentials: {settings.credentials!r} is not for the kind {self.kind}; "
                "leave it out"
            )
        if self.no_token_file and settings.token_file is not None:
            raise ConfigError(f"upstreams.{settings.name}.token_file: {self.no_token_file}")

    def repository(self, name: str) -> str:
        """Names are whole as they are written."""
        return name

    def scope(self, repository: str) -> str:
        """Built here, since what challenges say of it is wrong at GHCR and missing elsewhere."""
        return f"repository:{repository}:pull"

    def has_expired(self, status: int, problem: bytes, bearer: bool, challenged: bool) -> bool:
        """A refusal other than 401 is final."""
        return False

    def rate_limit(self, headers: Headers) -> RateLimit | None:
        """Most registries report none."""
        return None

    def credentials(self, settings: UpstreamSettings, given: CredentialArguments) -> ICredentials | None:
        """Only the settings' files; C{token_file} is read here where its content is a password."""
        if self.token_username is None or settings.token_file is None:
            return None
        return token_credentials(settings, given, self.token_username, Secret.Use.PASSWORD)


STANDARD = Standard()
