"""From settings to the source of an upstream's secret."""

from __future__ import annotations

from appliance.interfaces import ICredentials, Secret
from appliance.settings import UpstreamSettings
from appliance.upstream.access.authfile import AuthFile
from appliance.upstream.access.rotation import Rotation
from appliance.upstream.access.secretfile import PasswordFile, TokenFile
from appliance.upstream.means import Means


def credentials_for(settings: UpstreamSettings, means: Means) -> ICredentials | None:
    """
    Where the secret comes from that the settings name a file of, C{None} for an anonymous upstream.

    For an adapter that has a way of its own it is L{appliance.interfaces.IAdapter.credentials} that is asked first.
    """
    if settings.username is not None and settings.password_file is not None:
        return Rotation(PasswordFile(settings.username, settings.password_file, means), means.clock)
    if settings.auth_file is not None:
        return Rotation(AuthFile(settings.auth_file, settings.urls[0], means), means.clock)
    return token_credentials(settings, means)


def token_credentials(
    settings: UpstreamSettings, means: Means, username: str = "", use: Secret.Use = Secret.Use.BEARER
) -> ICredentials | None:
    """
    The token of C{token_file}, C{None} when the settings name none.

    @param use: how it is presented; as a password, with C{username}.
    """
    if settings.token_file is None:
        return None
    return Rotation(TokenFile(settings.token_file, means, username, use), means.clock)
