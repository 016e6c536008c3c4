"""
Patterns of references, as operators write them.

::

    nginx                        every tag of docker.io/library/nginx, and what is held of it by digest alone
    grafana/*:1*                 of docker.io, as with docker: no upstream is named
    ghcr.io/**                   everything of an upstream
    **                           everything
    quay.io/a/b@sha256:...       one manifest

C{*} and C{?} stand for characters within one component, C{**} for any number of components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from appliance.errors import NameInvalid
from appliance.oci.reference import DOCKER_HUB, official

UpstreamFor = Callable[[str], str | None]
"""The canonical name of the upstream that a name or an alias means, C{None} for one that is not configured."""

P = TypeVar("P", bound="ReferencePattern")

_WILD = frozenset("*?[")


@dataclass(frozen=True)
class ReferencePattern:
    """
    One name or pattern as the user wrote it.

    @ivar place: of upstream and repository.
    @ivar tag: C{None} when any will do.
    @ivar digest: C{None} when any will do.
    """

    text: str
    place: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls: type[P], text: str, upstream_for: UpstreamFor) -> P:
        """
        Read a name or a pattern as docker reads names: without an upstream it is one of Docker Hub.

        @raise NameInvalid: it is neither.
        """
        rest, at, digest = text.strip().partition("@")
        head, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            head, tag = rest, ""
        if not head or not all(head.split("/")) or any(blank in head for blank in " \t") or (at and not digest):
            example = "docker.io/library/nginx:1.27"
            raise NameInvalid(f"{text[:160]!r} is no reference and no pattern: write it as in {example}")
        first, slash, repository = head.partition("/")
        upstream = upstream_for(first) if slash else None
        if upstream is None and slash and (first == "localhost" or {".", ":", *_WILD} & set(first)):
            upstream = first
        if upstream is None:
            upstream, repository = DOCKER_HUB, head
        place = f"{upstream}/{repository if repository == '**' else official(upstream, repository)}"
        return cls(text.strip(), "**" if head == "**" else place, tag or None, digest or None)

    def covers(self, place: str, tag: str | None, digest: str) -> bool:
        """
        Whether it means the manifest C{digest} under that tag.

        @param place: upstream and repository.
        @param tag: C{None} for a manifest by its digest alone.
        """
        if not matches(self.place, place):
            return False
        if self.tag is not None and not fnmatchcase(tag or "", self.tag):
            return False
        return self.digest in (None, digest)


def matches(pattern: str, repository: str) -> bool:
    """
    Whether the pattern covers the whole repository name.

    C{*} and C{?} stand for any characters and for one character within a path component, C{**} for any number of whole
    components, none included. Takes time proportional to the lengths of both, whatever the pattern.
    """
    parts = repository.split("/")
    reached = {0}
    for piece in pattern.split("/"):
        if piece == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], piece)}
    return len(parts) in reached
