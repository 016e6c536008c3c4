"""Azure Container Registry: an Entra ID access token is exchanged for one of the registry's own."""

from __future__ import annotations

from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.acr import AcrCredentials
from appliance.upstream.credentials.configured import CredentialArguments, token_credentials
from appliance.upstream.interfaces import ICredentials
from appliance.upstream.kinds.standard import Standard


class Acr(Standard):
    """
    See L{appliance.upstream.interfaces.IAdapter}.

    C{token_file} holds an Entra ID access token for the registry, or an ACR refresh token as C{az acr login
    --expose-token} gives it; what renews the first replaces the file. An admin user and a service principal are
    C{username} and C{password_file}.
    """

    kind = "acr"
    redirect_hosts = ("*.blob.core.windows.net", "*.data.azurecr.io")
    has_referrers = True

    def credentials(self, settings: UpstreamSettings, given: CredentialArguments) -> ICredentials | None:
        """From the token file, when there is one."""
        file = token_credentials(settings, given)
        if file is None:
            return None
        return AcrCredentials(file, given.upstream, given.host, given.clock, given.post)
