"""Microsoft's own images: no token for anybody, blobs from regional hosts."""

from __future__ import annotations

from appliance.upstream.adapters.standard import Standard


class Mcr(Standard):
    """See L{appliance.interfaces.IAdapter}."""

    kind = "mcr"
    redirect_hosts = ("*.data.mcr.microsoft.com",)
