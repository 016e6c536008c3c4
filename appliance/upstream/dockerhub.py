"""Docker Hub, as far as it differs: official images live under C{library/}, tokens come from another host."""

from __future__ import annotations

from appliance.upstream.kind import Kind


def full_name(name: str) -> str:
    """C{nginx} is C{library/nginx}; a name with a slash is whole."""
    return name if "/" in name else f"library/{name}"


DOCKERHUB = Kind(repository=full_name, auth_hosts=("auth.docker.io",))
