"""From settings to the source of an upstream's secret."""

from __future__ import annotations

from appliance.interfaces import ICredentials, Secret
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.dockerconfig import AuthFile
from appliance.upstream.credentials.file import PasswordFile, TokenFile
from appliance.upstream.credentials.rotation import Rotation
from appliance.upstream.means import Means
from appliance.upstream.url import Url


def credentials_for(settings: UpstreamSettings, url: Url, means: Means) -> ICredentials | None:
    """
    Where the secret for C{url} comes from that the settings name a file of, C{None} for an anonymous upstream.

    In C{auth_file} secrets stand by host, and C{url} is shown the one of its own. An upstream with URLs of several
    hosts may have some that want none: what the file does not know is asked as anybody would. The other files hold one
    secret for whatever host is asked (see L{appliance.description.warnings}).

    For an adapter that has a way of its own it is L{appliance.interfaces.IAdapter.credentials} that is asked first.
    """
    if settings.username is not None and settings.password_file is not None:
        return Rotation(PasswordFile(settings.username, settings.password_file, means), means.clock)
    if settings.auth_file is not None:
        several = len({Url.parse(each).authority for each in settings.urls}) > 1
        return Rotation(AuthFile(settings.auth_file, url, means, or_none=several), means.clock)
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
