"""
Wants: what clients requested and did not get, so that the next bundle brings it.

Kept as C{wants.json}::

    [{"upstream": "docker.io", "repository": "library/nginx", "reference": "1.27", "platform": "linux/arm64",
      "reason": "offline", "first": 1800000000.0, "last": 1800000420.0, "count": 3, "held": true}, ...]

C{reference} is a tag, or the digest of a manifest or a blob. Longest unasked first.

What was requested while less than half of the room was taken stays. The rest competes for the other half: the largest
group loses the want whose last request is the oldest. A repository of which something is held is a group; so are, for
each upstream, all its other repositories together. Each of these is two groups, of what was requested once and of what
was requested again; and what the upstream says that it does not have (404) is never in one group with what it could not
give. So a client that makes up names of repositories or tags drives out what was made up before, and neither what was
wanted before the flood, nor what is wanted of other repositories that are held, nor what clients keep requesting.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

import msgspec
from twisted.internet.interfaces import IReactorTime

from appliance.errors import NotHeld, Offline, UpstreamError, UpstreamMissing
from appliance.flow.clock import wall
from appliance.index.documents import EpochSeconds, StateFile
from appliance.index.graph import ManifestGraph
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IBlobStore, IDocuments
from appliance.oci.digest import Digest
from appliance.oci.reference import ReferenceKey

LIMIT = 10_000
"""The most wants kept: a client that makes names up cannot fill the disk with them."""

NAME = "wants.json"

DAMAGED = "damaged"
"""Why something is wanted that was held, and was found damaged; it stays the reason until it is here again."""

# What looking for one reference costs, in descriptors that are looked at.
_WORK = 20

Group = tuple[str, str | None, bool, bool]
"""
Upstream, a repository that is held or C{None} for all others, whether it was requested more than once, and whether the
upstream said that it has no such thing.
"""


class Want(msgspec.Struct, kw_only=True):
    """
    Something a client was refused.

    @ivar reference: a tag, or a digest as text.
    @ivar platform: what the client runs on, as in C{linux/arm64}; C{None} when it did not say.
    @ivar reason: why it was refused, the last time: see L{reason_for}; or L{DAMAGED}.
    @ivar first: when it was requested first, seconds since the epoch; C{last}: and last.
    @ivar count: how often.
    @ivar held: whether something of the repository was held then.
    """

    upstream: str
    repository: str
    reference: str
    platform: str | None = None
    reason: str
    first: EpochSeconds
    last: EpochSeconds
    count: int = 1
    held: bool = False

    @property
    def key(self) -> ReferenceKey:
        """What tells wants apart."""
        return self.upstream, self.repository, self.reference

    def is_damaged(self, digest: Digest) -> bool:
        """Whether it is that digest, and wanted because it was found damaged."""
        return self.reason == DAMAGED and self.reference == str(digest)

    @property
    def group(self) -> Group:
        """What it competes with for room."""
        return (
            self.upstream,
            self.repository if self.held else None,
            self.count > 1,
            self.reason == UpstreamMissing.kind,
        )


class Wants:
    """The wants of one appliance, each once."""

    def __init__(
        self,
        documents: IDocuments,
        clock: IReactorTime,
        is_held: Callable[[str, str], bool] = lambda upstream, repository: False,
    ) -> None:
        """
        @param is_held: whether anything of (upstream, repository), which a client has just requested, is held.
        """
        self._document = StateFile(documents, NAME, list[Want], self._take_up)
        self._clock = clock
        self._is_held = is_held
        self._groups: dict[Group, OrderedDict[ReferenceKey, None]] = {}
        self._wants: OrderedDict[ReferenceKey, Want] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wants)

    async def load(self) -> None:
        """Take up what an earlier process noted; what was noted since the start comes on top."""
        await self._document.load()

    def note(self, upstream: str, repository: str, reference: str, platform: str | None, reason: str) -> None:
        """Something could not be served, just now."""
        now = wall(self._clock)
        self._add(
            Want(
                upstream=upstream,
                repository=repository,
                reference=reference,
                platform=platform,
                reason=reason,
                first=now,
                last=now,
                held=self._is_held(upstream, repository),
            )
        )
        self._document.changed = True

    def get(self, key: ReferenceKey) -> Want | None:
        """The want, if there is one."""
        return self._wants.get(key)

    def forget(self, keys: Iterable[ReferenceKey]) -> int:
        """These are here now; how many of them were wanted."""
        met = [key for key in keys if self._remove(key) is not None]
        self._document.changed = self._document.changed or bool(met)
        return len(met)

    async def review(self, holds: Callable[[str, str, str], Awaitable[bool]]) -> int:
        """
        Forget what is held by now; how many that were.

        @param holds: whether (upstream, repository, reference) can be served.
        """
        # Those of one repository follow each other.
        return self.forget([key for key in sorted(self._wants) if await holds(*key)])

    def snapshot(self) -> list[Want]:
        """Every want, longest unasked first."""
        return list(self._wants.values())

    async def flush(self) -> None:
        """Write what changed, if anything did. One call at a time."""
        await self._document.flush(lambda: msgspec.json.encode(self.snapshot()))

    def _take_up(self, kept: list[Want]) -> None:
        since = self.snapshot()
        self._wants.clear()
        self._groups.clear()
        for want in (*kept, *since):
            self._add(want)

    def _add(self, want: Want) -> None:
        before = self._wants.get(want.key)
        stays = len(self._wants) < LIMIT // 2
        if before is not None:
            stays = want.key not in self._groups.get(before.group, ())
            self._remove(want.key)
            want.first = before.first
            want.count += before.count
            want.platform = want.platform or before.platform
            want.held = want.held or before.held
            want.reason = DAMAGED if before.reason == DAMAGED else want.reason
        self._wants[want.key] = want
        if not stays:
            self._groups.setdefault(want.group, OrderedDict())[want.key] = None
        while len(self._wants) > LIMIT:
            largest = max(self._groups.values(), key=lambda group: len(group))
            self._remove(next(iter(largest)))

    def _remove(self, key: ReferenceKey) -> Want | None:
        want = self._wants.pop(key, None)
        group = self._groups.get(want.group) if want is not None else None
        if want is not None and group is not None:
            group.pop(key, None)
            if not group:
                del self._groups[want.group]
        return want


class HeldReferences:
    """What the repositories of one store hold, asked for one reference at a time."""

    def __init__(
        self, store: IBlobStore, repositories: Repositories, graph: ManifestGraph, asks: Callable[[str], bool]
    ) -> None:
        """
        @param asks: whether that upstream is asked for what came through another repository.
        """
        self._asks = asks
        self._store = store
        self._repositories = repositories
        self._graph = graph
        # The one that was asked for last: it is not read again for the next reference.
        self._last: Repository | None = None

    async def holds(self, upstream: str, repository: str, reference: str) -> bool:
        """
        Whether the repository can serve C{reference} by itself: a tag, or the digest of a manifest or a blob.

        What a manifest names may be lacking all the same.
        """
        # There may be ten thousand wants: clients are served between them.
        await self._graph.manifests.walked(_WORK)
        known = self._last = await self._repositories.read(upstream, repository)
        if ":" not in reference:
            tag = known.tags.get(reference)
            return tag is not None and self._store.size(tag.digest) is not None
        digest = Digest.parse(reference)
        if self._store.size(digest) is None:
            return False
        named = await self._graph.named(known, digest, thorough=True)
        return named is not None and (named.linked or not self._asks(upstream))


def reason_for(error: Exception) -> str | None:
    """
    In one word why something was not served: C{offline}, C{not-held}, or the L{UpstreamError}'s kind; C{None} when it
    is nothing that a bundle could mend.
    """
    if isinstance(error, Offline):
        return "offline"
    if isinstance(error, NotHeld):
        return "not-held"
    return error.kind.replace("_", "-") if isinstance(error, UpstreamError) else None
