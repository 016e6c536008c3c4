"""
Retention: which images go, why, and in which order. Pure.

An image is a root of a repository. What no rule may take (C{KEPT}: pinned, brought by an import, named by a pattern)
stays. Then, in this order:

1. C{keep_for} and C{keep_last}: an image goes when each of them that is given does not keep it.
2. C{max_size} of an upstream: what its repositories refer to, each blob once, is more; the least recently pulled go.
3. C{max_size} of all: the same, of all blobs that are held.
4. C{reserve}: less of the disk is free; the same.

The last three end as soon as the limit holds. They pass over an image of which a blob came a moment ago: its going
would free nothing now. An image whose manifest is in use stays this time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from math import inf

from appliance.cache.references import KEPT, TAG, BlobTable, RepositoryRoots

KEEP_FOR, KEEP_LAST, MAX_SIZE, RESERVE, UNREFERENCED = "keep_for", "keep_last", "max_size", "reserve", "unreferenced"


@dataclass(frozen=True)
class Rules:
    """
    What holds for the repositories of one upstream; C{inf}: that rule takes nothing.

    @ivar keep_for: seconds since the last pull.
    @ivar keep_last: so many tags of a repository.
    @ivar max_size: bytes of all that its repositories refer to.
    """

    keep_for: float = inf
    keep_last: float = inf
    max_size: float = inf


@dataclass(frozen=True)
class Limits:
    """
    What holds for all.

    @ivar rules: by upstream.
    @ivar max_size: bytes of all blobs.
    @ivar held: bytes of all blobs that are held; C{spare}: of those of them that go though no image does.
    @ivar lacking: bytes that are to become free on the disk.
    @ivar young: numbers of blobs that came a moment ago; C{leased}: of those that are in use. Neither is removed now.
    """

    rules: Mapping[str, Rules]
    max_size: float = inf
    held: int = 0
    lacking: int = 0
    young: frozenset[int] = frozenset()
    leased: frozenset[int] = frozenset()
    spare: int = 0


@dataclass(frozen=True)
class Removal:
    """
    One image that goes.

    @ivar repository: its place in the list, C{root}: which of its roots.
    @ivar why: one of the words of this module.
    @ivar blobs: numbers of the blobs that nothing refers to any more when it has gone; C{freed}: their bytes, without
        those that are not removed now.
    """

    repository: int
    root: int
    why: str
    blobs: tuple[int, ...]
    freed: int


@dataclass
class Plan:
    """
    @ivar removals: in their order.
    @ivar notes: which limits are exceeded still, in words for the operator.
    """

    removals: list[Removal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Shown = Callable[[int], str]
"""A number of bytes in words."""


def is_exceeded(repositories: Sequence[RepositoryRoots], blobs: BlobTable, limits: Limits) -> bool:
    """Whether there is more than a C{max_size}, or less free than is to be."""
    if limits.lacking > 0 or limits.held > limits.max_size:
        return True
    return any(
        sum(map(blobs.size, _referred(each for each in repositories if each.upstream == upstream).numbers()))
        > rules.max_size
        for upstream, rules in limits.rules.items()
        if rules.max_size != inf
    )


def plan(
    repositories: Sequence[RepositoryRoots], blobs: BlobTable, limits: Limits, now: float, shown: Shown = str
) -> Plan:
    """
    What goes.

    @param blobs: counts what all of C{repositories} refer to; on return, without what goes.
    @param now: seconds since the epoch.
    """
    return _Planner(repositories, blobs, limits, now, shown).run()


class _Planner:
    def __init__(
        self, repositories: Sequence[RepositoryRoots], blobs: BlobTable, limits: Limits, now: float, shown: Shown
    ) -> None:
        self._repositories = repositories
        self._blobs = blobs
        self._limits = limits
        self._now = now
        self._shown = shown
        self._plan = Plan()
        self._gone: set[tuple[int, int]] = set()
        # Now; and as soon as what is in use is in use no more.
        self._freed = self._leaving = 0

    def run(self) -> Plan:
        for at, repository in enumerate(self._repositories):
            rules = self._limits.rules.get(repository.upstream, Rules())
            for root in _outlived(repository, rules, self._now):
                if self._is_busy(at, root):
                    continue
                self._remove(at, root, KEEP_FOR if rules.keep_for != inf else KEEP_LAST)
        for upstream, rules in self._limits.rules.items():
            if rules.max_size != inf:
                self._fit(upstream, rules.max_size)
        if self._limits.max_size != inf:
            held = self._limits.held - self._limits.spare
            self._free(MAX_SIZE, lambda: held - self._leaving <= self._limits.max_size)
            if held - self._leaving > self._limits.max_size:
                self._note(f"max_size of {self._shown(int(self._limits.max_size))}", held - self._leaving)
        if (wanted := self._limits.lacking - self._limits.spare) > 0:
            self._free(RESERVE, lambda: self._freed >= wanted)
            if (lacking := wanted - self._freed) > 0:
                self._note(f"the reserve, of which {self._shown(lacking)} are not free,", 0)
        return self._plan

    def _fit(self, upstream: str, most: float) -> None:
        """Bring what the upstream's repositories refer to down to C{most} bytes."""
        places = [at for at, each in enumerate(self._repositories) if each.upstream == upstream]
        own = _referred(self._repositories[at] for at in places)
        for at, root in self._gone:
            if self._repositories[at].upstream == upstream:
                for each in self._repositories[at].of(root):
                    own.release(each)
        size = sum(self._blobs.size(each) for each in own.numbers() if own.count(each))
        for at, root in self._oldest(places):
            if size <= most:
                break
            self._remove(at, root, MAX_SIZE)
            size -= sum(self._blobs.size(each) for each in self._repositories[at].of(root) if not own.release(each))
        if size > most:
            self._note(f"max_size of {self._shown(int(most))} of {upstream}", size)

    def _free(self, why: str, is_enough: Callable[[], bool]) -> None:
        if is_enough():
            return
        for at, root in self._oldest(range(len(self._repositories))):
            self._remove(at, root, why)
            if is_enough():
                return

    def _oldest(self, places: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The roots that may go, the least recently pulled first."""
        for _, at, root in merge(*(sorted(self._candidates(at)) for at in places)):
            yield at, root

    def _candidates(self, at: int) -> list[tuple[float, int, int]]:
        repository, young = self._repositories[at], self._limits.young
        return [
            (repository.last[root], at, root)
            for root in range(len(repository))
            if not repository.marks[root] & KEPT
            and (at, root) not in self._gone
            and not self._is_busy(at, root)
            and (not young or young.isdisjoint(repository.of(root)))
        ]

    def _is_busy(self, at: int, root: int) -> bool:
        """Whether a client, or an import, is at it right now."""
        leased = self._limits.leased
        return bool(leased) and self._repositories[at].of(root)[0] in leased

    def _remove(self, at: int, root: int, why: str) -> None:
        limits = self._limits
        dying = tuple(each for each in self._repositories[at].of(root) if not self._blobs.release(each))
        old = [each for each in dying if each not in limits.young]
        freed = sum(self._blobs.size(each) for each in old if each not in limits.leased)
        self._leaving += sum(map(self._blobs.size, old))
        self._plan.removals.append(Removal(at, root, why, dying, freed))
        self._gone.add((at, root))
        self._freed += freed

    def _note(self, what: str, left: int) -> None:
        kept: set[int] = set()
        for repository in self._repositories:
            for root in range(len(repository)):
                if repository.marks[root] & KEPT:
                    kept.update(repository.of(root))
        octets = sum(map(self._blobs.size, kept))
        remain = f": {self._shown(left)} remain" if left else ""
        more = f", {self._shown(octets)} are pinned, imported or named by keep" if octets else ""
        late = ", and what came a moment ago is not removed yet" if self._limits.young else ""
        self._plan.notes.append(f"{what} cannot be reached{remain}{more}{late}")


def _referred(repositories: Iterable[RepositoryRoots]) -> BlobTable:
    """How often these refer to each blob."""
    found = BlobTable()
    for each in repositories:
        found.refer(each.blobs)
        found.refer(each.always)
    for _ in found.settle():
        pass
    return found


def _outlived(repository: RepositoryRoots, rules: Rules, now: float) -> list[int]:
    """The roots that neither C{keep_for} nor C{keep_last} keeps."""
    if rules.keep_for == inf and rules.keep_last == inf:
        return []
    tags = [root for root in range(len(repository)) if repository.marks[root] & TAG]
    latest: frozenset[int] = frozenset()
    if rules.keep_last != inf:
        latest = frozenset(sorted(tags, key=lambda root: (-repository.last[root], root))[: int(rules.keep_last)])
    return [
        root
        for root in (range(len(repository)) if rules.keep_for != inf else tags)
        if not repository.marks[root] & KEPT
        and root not in latest
        and (rules.keep_for == inf or now - repository.last[root] > rules.keep_for)
    ]
