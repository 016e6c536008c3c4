"""GitLab's registry: tokens come from GitLab itself, which has another host name."""

from __future__ import annotations

from appliance.upstream.adapters.standard import Standard


class GitLab(Standard):
    """
    See L{appliance.interfaces.IAdapter}.

    For an installation of one's own C{auth_hosts} has to name GitLab's host. C{token_file} holds a personal, project or
    group access token with C{read_registry}, for which any user name will do; a deploy token is the password of a user
    name of its own.
    """

    kind = "gitlab"
    auth_hosts = ("gitlab.com",)
    redirect_hosts = ("cdn.registry.gitlab-static.net", "storage.googleapis.com")
    has_referrers = False
    token_username = "oauth2"
