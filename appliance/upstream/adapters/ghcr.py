"""GitHub's registry: a token even for what is public, and a placeholder for the scope in the challenge of C{/v2/}."""

from __future__ import annotations

from appliance.upstream.adapters.standard import Standard


class Ghcr(Standard):
    """
    See L{appliance.interfaces.IAdapter}.

    A referrers question is redirected to C{github.com}, where it comes to nothing. A personal access token or one of an
    app is a password; which user name goes with it does not matter (C{x-access-token} is the one GitHub documents for
    an app's).
    """

    kind = "ghcr"
    redirect_hosts = ("pkg-containers.githubusercontent.com",)
    has_referrers = False
    token_username = "x-access-token"
