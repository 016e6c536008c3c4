"""
Full names of images: C{docker.io/library/nginx:1.27}, C{ghcr.io/a/b@sha256:...}.

A name is upstream, repository and a tag or a digest. Docker's short names are read as docker reads them (reference,
C{normalize.go}): without a host one of Docker Hub is meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.errors import NameInvalid
from appliance.oci.digest import Digest
from appliance.oci.names import is_tag, parse_repository, parse_tag
from appliance.settings import DOCKER_HUB

#: As the configuration allows for an upstream's name; and IPv6 addresses, which may be our own.
_UPSTREAM = re.compile(r"(?:[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_MAX_UPSTREAM = 255

_HUB_HOSTS = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_SHOWN = 160

#: What a name without tag and digest means.
DEFAULT_TAG = "latest"


@dataclass(frozen=True, order=True)
class Reference:
    """
    One name, every part of it of its grammar.

    @ivar tag: C{None} when a digest is meant, or nothing said.
    """

    upstream: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None


def parse_full(text: str) -> Reference:
    """Read a name whose first component is the upstream. Raises L{NameInvalid}, and the other errors of names."""
    rest, at, encoded = text.partition("@")
    place, tag = _split_tag(rest)
    upstream, slash, repository = place.partition("/")
    if not slash or len(upstream) > _MAX_UPSTREAM or _UPSTREAM.fullmatch(upstream) is None:
        raise NameInvalid(f"{text[:_SHOWN]!r} does not begin with an upstream, as in docker.io/library/nginx:1.27")
    return Reference(
        upstream,
        parse_repository(repository),
        None if tag is None else parse_tag(tag),
        Digest.parse(encoded) if at else None,
    )


def parse_familiar(text: str) -> Reference:
    """Read a name as docker does: C{nginx} is C{docker.io/library/nginx}. Raises as L{parse_full}."""
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = DOCKER_HUB, text
    if first in _HUB_HOSTS:
        first = DOCKER_HUB
    return parse_full(f"{first}/{official(first, rest)}")


def official(upstream: str, repository: str) -> str:
    """C{repository}, of Docker Hub's own images with C{library/} before it; a tag or digest may stand behind."""
    return f"library/{repository}" if upstream == DOCKER_HUB and "/" not in repository.partition("@")[0] else repository


def parse_prefix(text: str) -> str:
    """An upstream, alone or with the beginning of a repository's name behind it. Raises L{NameInvalid}."""
    upstream, slash, repository = text.partition("/")
    if len(upstream) > _MAX_UPSTREAM or _UPSTREAM.fullmatch(upstream) is None:
        raise NameInvalid(
            f"{text[:_SHOWN]!r} does not begin with an upstream, as in docker.io or registry.corp:5000/team"
        )
    if slash:
        parse_repository(repository)
    return text


def is_plain_tag(text: str) -> bool:
    """Whether C{text} can only be a tag, so that the repository is not known."""
    return is_tag(text)


def _split_tag(text: str) -> tuple[str, str | None]:
    head, colon, tag = text.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (text, None)
