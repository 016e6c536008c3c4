"""
References: the name of an image, C{docker.io/library/nginx:1.27} or C{ghcr.io/a/b@sha256:...}.

An upstream, a repository there, and a tag or a digest. Grammar: OCI distribution specification, "Pulling manifests". A
name is checked component by component, so that no input makes the check take more than linear time; it is the decoded
path that is checked. Docker's short names are read as docker reads them (distribution/reference, C{normalize.go}):
without a host, one of Docker Hub is meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.errors import NameInvalid, TagInvalid
from appliance.oci.digest import Digest

MAX_REPOSITORY = 255
"""The longest repository name, in characters."""

DOCKER_HUB = "docker.io"
"""The canonical name of Docker Hub."""

DEFAULT_TAG = "latest"
"""What a name without tag and digest means to docker."""

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
# As the configuration allows for an upstream's name; and IPv6 addresses, which may be our own.
_UPSTREAM = re.compile(r"(?:[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_MAX_UPSTREAM = 255
_HUB_HOSTS = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})

ReferenceKey = tuple[str, str, str]
"""
Upstream, repository, and a tag or a digest as text, as tables are keyed by; the last is empty for the repository
itself.
"""

# How much of a wrong text an error repeats, in characters.
_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Reference:
    """
    One name, every part of it of its grammar when it was parsed. With neither tag nor digest it names a repository.

    @ivar upstream: the registry's host, or the configured name of an upstream.
    @ivar repository: as in C{library/nginx}.
    @ivar tag: C{None} when none is given.
    @ivar digest: C{None} when none is given. Where both are, the digest says what is meant.
    """

    upstream: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """
        Read a full name, whose first component is the upstream: the inverse of C{str}.

        @raise NameInvalid: it does not begin with an upstream, or a repository's name does not follow.
        @raise TagInvalid: what stands behind the last colon is no tag.
        @raise DigestInvalid: what stands behind the C{@} is no digest.
        """
        rest, at, digest = text.partition("@")
        head, colon, tag = rest.rpartition(":")
        # A colon before the last slash is that of a port.
        tagged = bool(colon) and "/" not in tag
        upstream, slash, repository = (head if tagged else rest).partition("/")
        _check_upstream(upstream if slash else "", text, "docker.io/library/nginx:1.27")
        return cls(
            upstream,
            parse_repository(repository),
            parse_tag(tag) if tagged else None,
            Digest.parse(digest) if at else None,
        )

    @classmethod
    def parse_familiar(cls, text: str) -> Reference:
        """Read a name as docker does: C{nginx} is C{docker.io/library/nginx}. Raises as L{parse} does."""
        first, slash, rest = text.partition("/")
        if not slash or not ("." in first or ":" in first or first == "localhost"):
            first, rest = DOCKER_HUB, text
        if first in _HUB_HOSTS:
            first = DOCKER_HUB
        return cls.parse(f"{first}/{official(first, rest)}")

    @property
    def place(self) -> str:
        """Upstream and repository, as in C{docker.io/library/nginx}."""
        return f"{self.upstream}/{self.repository}"

    @property
    def identifier(self) -> str:
        """
        The digest, or else the tag, as text: what stands behind C{/manifests/} in a request. Empty for a repository.
        """
        return str(self.digest) if self.digest is not None else self.tag or ""

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return f"{self.place}{tag}" if self.digest is None else f"{self.place}{tag}@{self.digest}"


def full_name(upstream: str, repository: str, identifier: str | Digest) -> str:
    """
    The text of a L{Reference} of which the parts are at hand.

    @param identifier: a tag or a digest, which is the one that has a colon; empty for the repository itself.
    """
    text = str(identifier)
    return f"{upstream}/{repository}{'@' if ':' in text else ':' if text else ''}{text}"


# -- the parts ------------------------------------------------------------------------------------------------------


def parse_repository(text: str) -> str:
    """C{text}, when it is a repository name: components joined by slashes. Raises L{NameInvalid}."""
    if len(text) > MAX_REPOSITORY:
        raise NameInvalid(f"repository name of {len(text)} characters: {MAX_REPOSITORY} are allowed")
    for component in text.split("/"):
        if _COMPONENT.fullmatch(component) is None:
            raise NameInvalid(f"{text!r} is no repository name: {component!r} cannot be a part of one")
    return text


def parse_prefix(text: str) -> str:
    """
    C{text}, when it is an upstream, alone or with the beginning of a repository's name behind it. Raises
    L{NameInvalid}.
    """
    upstream, slash, repository = text.partition("/")
    _check_upstream(upstream, text, "docker.io or registry.corp:5000/team")
    if slash:
        parse_repository(repository)
    return text


def is_tag(text: str) -> bool:
    """Whether C{text} is a tag."""
    return _TAG.fullmatch(text) is not None


def parse_tag(text: str) -> str:
    """C{text}, when it is a tag. Raises L{TagInvalid}."""
    if not is_tag(text):
        raise TagInvalid(f"{text[:_SHOWN]!r} is no tag: 1 to 128 of letters, digits, '_', '.' and '-'")
    return text


def parse_identifier(text: str) -> str | Digest:
    """
    What stands behind C{/manifests/}: a L{Digest} when it holds a colon, which no tag can, else a tag.

    @raise DigestInvalid: it holds a colon and is no digest.
    @raise TagInvalid: it holds none and is no tag.
    """
    return Digest.parse(text) if ":" in text else parse_tag(text)


def official(upstream: str, repository: str) -> str:
    """
    The repository's full name there: Docker Hub's own images stand below C{library/}.

    @param repository: a tag or a digest may stand behind it.
    """
    return f"library/{repository}" if upstream == DOCKER_HUB and "/" not in repository.partition("@")[0] else repository


def _check_upstream(upstream: str, text: str, example: str) -> None:
    if len(upstream) > _MAX_UPSTREAM or _UPSTREAM.fullmatch(upstream) is None:
        raise NameInvalid(f"{text[:_SHOWN]!r} does not begin with an upstream, as in {example}")
