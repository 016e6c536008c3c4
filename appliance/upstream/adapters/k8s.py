"""registry.k8s.io: leads everything elsewhere, manifests too."""

from __future__ import annotations

from appliance.upstream.adapters.standard import Standard


class K8s(Standard):
    """
    See L{appliance.interfaces.IAdapter}.

    Manifests are redirected to an Artifact Registry of the region, blobs to that or to S3 by the client's address
    (registry.k8s.io, "Request Handling"). Artifact Registry wants an anonymous token of its own.
    """

    kind = "k8s"
    redirect_hosts = ("*.pkg.dev", "*.amazonaws.com")
