"""Google's Container Registry and Artifact Registry."""

from __future__ import annotations

from appliance.upstream.adapters.standard import Standard


class Gcr(Standard):
    """
    See L{appliance.interfaces.IAdapter}.

    C{token_file} holds an OAuth 2 access token of at most an hour, as C{gcloud auth print-access-token} prints it:
    whoever renews it replaces the file. A service account's key is the password of C{_json_key}, or in base64 of
    C{_json_key_base64} (Google Cloud, "Configure authentication to Artifact Registry for Docker"). What is said of its
    referrers API differs.
    """

    kind = "gcr"
    redirect_hosts = ("storage.googleapis.com", "*.pkg.dev")
    token_username = "oauth2accesstoken"
