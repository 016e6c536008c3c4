"""Blobs of a scripted upstream, pulled through a cache."""

from __future__ import annotations

from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from tests.doubles.manifests import CONFIG, image
from tests.doubles.upstream import ScriptedUpstream

LAYER = bytes(range(256)) * 20
LAYER_DIGEST = Digest.of(LAYER)
HUB, OTHER = "docker.io", "ghcr.io"


def stocked(name: str = HUB, *repositories: str) -> ScriptedUpstream:
    upstream = ScriptedUpstream(name)
    for repository in repositories or ("app",):
        upstream.add_manifest(repository, image(LAYER), OCI_MANIFEST, "latest")
        upstream.add_blob(repository, CONFIG)
        upstream.add_blob(repository, LAYER)
    return upstream
