"""Quay: an OAuth token is a password, robots have a user name of their own."""

from __future__ import annotations

from appliance.upstream.adapters.standard import Standard


class Quay(Standard):
    """
    See L{appliance.interfaces.IAdapter}.

    C{token_file} holds an OAuth 2 access token, which goes with the user name C{$oauthtoken}; a robot's token is the
    password of C{organisation+robot}. Redirect hosts as OpenShift's firewall documentation lists them.
    """

    kind = "quay"
    redirect_hosts = ("cdn.quay.io", *(f"cdn0{number}.quay.io" for number in range(1, 7)))
    token_username = "$oauthtoken"
