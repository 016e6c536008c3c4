"""Registries that are standard but for the names of their hosts and of the user that a token is the password of."""

from __future__ import annotations

from appliance.upstream.kinds.standard import Standard


class Gcr(Standard):
    """
    Google's Container Registry and Artifact Registry.

    C{token_file} holds an OAuth 2 access token of at most an hour, as C{gcloud auth print-access-token} prints it: what
    renews it replaces the file. A service account's key is the password of C{_json_key}, or in base64 of
    C{_json_key_base64} (Google Cloud, "Configure authentication to Artifact Registry for Docker"). Sources differ on
    whether it has the referrers API.
    """

    kind = "gcr"
    redirect_hosts = ("storage.googleapis.com", "*.pkg.dev")
    token_username = "oauth2accesstoken"


class Ghcr(Standard):
    """
    GitHub's registry: a token is needed even for what is public, and the challenge of C{/v2/} has a placeholder for the
    scope.

    A referrers request is redirected to C{github.com}, which has no such page. A personal access token or one of an
    app is a password; any user name goes with it (C{x-access-token} is the one GitHub documents for an app's).
    """

    kind = "ghcr"
    redirect_hosts = ("pkg-containers.githubusercontent.com",)
    has_referrers = False
    token_username = "x-access-token"


class GitLab(Standard):
    """
    GitLab's registry: tokens come from GitLab itself, which has another host name.

    For an installation of one's own C{auth_hosts} has to name GitLab's host. C{token_file} holds a personal, project or
    group access token with C{read_registry}, for which any user name will do; a deploy token is the password of a user
    name of its own.
    """

    kind = "gitlab"
    auth_hosts = ("gitlab.com",)
    redirect_hosts = ("cdn.registry.gitlab-static.net", "storage.googleapis.com")
    has_referrers = False
    token_username = "oauth2"


class Harbor(Standard):
    """
    Harbor: repositories live in projects; robots have a user name with a dollar sign.

    A project that is itself a proxy stands in the URL's path or in the name, as any other project. Whether there is a
    referrers API depends on the version.
    """

    kind = "harbor"
    no_token_file = (
        "Harbor takes a robot's secret as a password; give username (as robot$project+name) and password_file instead"
    )


class K8s(Standard):
    """
    registry.k8s.io: redirects everything, manifests too.

    Manifests are redirected to an Artifact Registry of the region, blobs to that or to S3 by the client's address
    (registry.k8s.io, "Request Handling"). Artifact Registry wants an anonymous token of its own.
    """

    kind = "k8s"
    redirect_hosts = ("*.pkg.dev", "*.amazonaws.com")


class Mcr(Standard):
    """Microsoft's own images: no tokens at all; blobs come from regional hosts."""

    kind = "mcr"
    redirect_hosts = ("*.data.mcr.microsoft.com",)


class Quay(Standard):
    """
    Quay: an OAuth token is a password, robots have a user name of their own.

    C{token_file} holds an OAuth 2 access token, which goes with the user name C{$oauthtoken}; a robot's token is the
    password of C{organisation+robot}. Redirect hosts as OpenShift's firewall documentation lists them.
    """

    kind = "quay"
    redirect_hosts = ("cdn.quay.io", *(f"cdn0{number}.quay.io" for number in range(1, 7)))
    token_username = "$oauthtoken"
