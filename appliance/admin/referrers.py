"""
What refers to an image, as C{pullcache show} tells it: what is known, and whether it is here.

Known is what the cache would list without asking anybody: what the upstream said last, and what is held. What is known
and not held can be verified as little as what is only held in part, and is shown all the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from appliance.api import Referrer, Verifiable
from appliance.bundle.closure import Closure
from appliance.cache.referrers import ReferrersAnswer
from appliance.index.graph import tagged_about
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.referrer import fallback_tag

Known = Callable[[str, str, Digest], Awaitable[ReferrersAnswer | None]]
"""
What is known to refer to a manifest of (upstream, repository), whether the upstream is configured or not; nobody is
asked. C{None} when its upstream was never heard and nothing is held.
"""

ClosureOf = Callable[[Repository, Digest], Awaitable[Closure]]
"""Everything beneath a manifest that the repository holds."""


@dataclass(frozen=True)
class Shown:
    """
    All that refers to one image.

    @ivar verifiable: C{"yes"}: all that is known to refer to it is held; C{"incomplete"}: some of that is not;
        C{"nothing"}: nothing refers to it, its upstream said; C{"unknown"}: nobody said, and nothing is held.
    @ivar warning: why it may not be all.
    """

    referrers: list[Referrer]
    verifiable: Verifiable
    warning: str | None


class ReferrersShown:
    """Collects what refers to images."""

    def __init__(self, known: Known, closure_of: ClosureOf) -> None:
        self._known = known
        self._closure_of = closure_of

    async def of(self, repository: Repository, found: Closure) -> Shown:
        """What refers to the image or to anything beneath it, what refers to that, and so on."""
        answer = await self._known(repository.upstream, repository.name, found.root)
        referrers = [each async for each in self._all(repository, found)]
        warning = None if answer is None else answer.warning
        return Shown(referrers, _verifiable(answer is not None, referrers), warning)

    async def _all(self, repository: Repository, found: Closure) -> AsyncIterator[Referrer]:
        subjects = dict.fromkeys(found.manifests)
        queue = list(subjects)
        for subject in queue:
            async for shown, beneath in self._about(repository, subject):
                yield shown
                new = [digest for digest in beneath if digest not in subjects]
                subjects.update(dict.fromkeys(new))
                queue += new

    async def _about(
        self, repository: Repository, subject: Digest
    ) -> AsyncIterator[tuple[Referrer, tuple[Digest, ...]]]:
        """What refers to C{subject} itself, each with the manifests held of it."""
        answer = await self._known(repository.upstream, repository.name, subject)
        for each in [] if answer is None else answer.referrers:
            shown = Referrer(
                str(each.digest), each.media_type, each.artifact_type or "", str(subject), size=_size(each.raw)
            )
            yield await self._looked_at(repository, each.digest, shown)
        for tag, digest in tagged_about(repository, subject):
            # What the fallback tag names is among them already.
            if tag != fallback_tag(subject):
                held = repository.manifests[digest]
                shown = Referrer(str(digest), held.media_type, "", str(subject), tag, held.size)
                yield await self._looked_at(repository, digest, shown)

    async def _looked_at(
        self, repository: Repository, digest: Digest, shown: Referrer
    ) -> tuple[Referrer, tuple[Digest, ...]]:
        """C{shown} with what the store says of it."""
        if digest not in repository.manifests:
            return shown, ()
        found = await self._closure_of(repository, digest)
        if digest not in found.manifests:
            return shown, ()
        made = msgspec.structs.replace(
            shown,
            artifact_type=shown.artifact_type or found.manifests[digest].artifact_type or "",
            size=sum(piece.size for piece in found.held),
            state="incomplete" if found.missing else "held",
            missing=len(found.missing),
        )
        return made, tuple(found.manifests)


def _verifiable(known: bool, referrers: list[Referrer]) -> Verifiable:
    if not referrers:
        return "nothing" if known else "unknown"
    return "yes" if all(each.state == "held" for each in referrers) else "incomplete"


class _Sized(msgspec.Struct):
    size: int = 0


def _size(descriptor: bytes) -> int:
    """The size in bytes that a descriptor says, 0 when it says none."""
    with suppress(msgspec.MsgspecError, ValueError):
        return max(0, msgspec.json.decode(descriptor, type=_Sized).size)
    return 0
