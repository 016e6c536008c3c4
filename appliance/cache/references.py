"""
What refers to which blobs, in so little memory that all of a store can be looked at: some ten bytes a reference.

A blob is known by a number here, the first eight bytes of its digest. Two blobs that have the same are counted as one,
which keeps both as long as one of them is referred to.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import NamedTuple

from appliance.cache.departure import HeldName, kept_by
from appliance.cache.usage import Usage
from appliance.index.graph import Kept, Relations
from appliance.index.repository import Repository
from appliance.interfaces import Stored
from appliance.oci.digest import Digest, number_of
from appliance.oci.pattern import ReferencePattern

TAG, KEPT, UNDATED = 1, 2, 4
"""What is noted of a root: it is a tag, no rule may take it, nothing says when it was last used."""

_SHELVES = 256


class Stamp(NamedTuple):
    """
    Of which state something was learnt.

    @ivar changes: of the repository, C{uses}: of what is known of its pulls, C{generation}: of the patterns to keep.
    """

    changes: int = -1
    uses: int = -1
    generation: int = -1


@dataclass(eq=False, slots=True)
class RepositoryRoots:
    """
    The roots of one repository (L{Relations.roots}), in the order of L{roots_of}.

    @ivar upstream: its configured name; C{name}: the repository's there.
    @ivar stamp: of what this was made.
    @ivar last: when each root was last used, seconds since the epoch.
    @ivar marks: C{TAG}, C{KEPT} and C{UNDATED} of each.
    @ivar blobs: numbers of all that a root refers to, its own manifest first, then of the next root.
    @ivar ends: where in C{blobs} each root ends.
    @ivar always: numbers that stay although no root is known to refer to them.
    @ivar unknown: manifests, by their full names, of which nothing says what they name: it may be any blob.
    """

    upstream: str
    name: str
    stamp: Stamp = Stamp()
    last: array[float] = field(default_factory=lambda: array("d"))
    marks: bytearray = field(default_factory=bytearray)
    blobs: array[int] = field(default_factory=lambda: array("Q"))
    ends: array[int] = field(default_factory=lambda: array("L"))
    always: array[int] = field(default_factory=lambda: array("Q"))
    unknown: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ends)

    def of(self, root: int) -> array[int]:
        """The numbers of what one root refers to."""
        return self.blobs[self.ends[root - 1] if root else 0 : self.ends[root]]

    def add(self, last: float, marks: int, blobs: Iterable[int]) -> None:
        """One root more."""
        self.last.append(last)
        self.marks.append(marks)
        self.blobs.extend(blobs)
        self.ends.append(len(self.blobs))


def look_at(
    found: RepositoryRoots,
    repository: Repository,
    relations: Relations,
    roots: Iterable[HeldName],
    usage: Usage,
    keep: Sequence[ReferencePattern] = (),
) -> Iterator[None]:
    """
    Add the roots of a repository to C{found}, one at each step, so that others get their turn between two.

    @param roots: all, in the order of L{roots_of}; some may have gone since.
    @param keep: patterns of what no rule may take.
    """
    place = "/".join(repository.place)
    for name in roots:
        keeps = kept_by(repository, relations, name)
        tag, digest = name
        last, marks = last_use(repository, relations, usage, tag, digest), 0
        if tag is not None:
            marks |= TAG
        if last is None:
            marks |= UNDATED
        is_named = any(pattern.covers(place, tag, str(digest)) for pattern in keep)
        if is_named or is_pinned(repository, keeps):
            marks |= KEPT
        first = number_of(digest)
        found.add(last or 0.0, marks, [first, *({number_of(each) for each in keeps.blobs} - {first})])
        yield


def last_use(
    repository: Repository, relations: Relations, usage: Usage, tag: str | None, digest: Digest
) -> float | None:
    """
    When a root was last pulled, seconds since the epoch: by its tag, its digest or a digest of one of its children, or
    what refers to one of these, such as a signature. Where no pull is known, when the upstream last spoke of the tag;
    C{None} for a manifest without one.
    """
    names = [] if tag is None else [tag]
    for each in (digest, *relations.children.get(digest, ())):
        names += [str(each), *(name or str(referrer) for referrer, name in relations.about(repository, each))]
    use = usage.of(*repository.place, *names)
    if use is not None:
        return use.last
    record = None if tag is None else repository.tags.get(tag)
    return None if record is None else max(record.tagged_at, record.checked_at)


def is_pinned(repository: Repository, kept: Kept) -> bool:
    """Whether anything of what a root keeps is: an image does not go from below its pinned signature."""
    return any(repository.tags[tag].pinned is not None for tag in kept.tags) or any(
        digest in repository.pinned for digest in kept.manifests
    )


class BlobTable:
    """
    How often each blob is referred to, and what is known of its file. First L{refer}, then L{settle}, then the rest.

    Numbers lie sorted on L{_SHELVES} shelves, by their first byte: each is sorted in about a millisecond.
    """

    def __init__(self) -> None:
        self._numbers = [array("Q") for _ in range(_SHELVES)]
        self._counts: list[array[int]] = [array("L")] * _SHELVES
        self._sizes: list[array[int]] = [array("Q")] * _SHELVES
        self._modified: list[array[float]] = [array("d")] * _SHELVES

    def refer(self, blobs: Iterable[int]) -> None:
        """Each of these is referred to once more."""
        shelves = self._numbers
        for number in blobs:
            shelves[number >> 56].append(number)

    def settle(self) -> Iterator[None]:
        """Put in order what was referred to; each step of the iteration takes about a millisecond."""
        for shelf, numbers in enumerate(self._numbers):
            counted = [(number, sum(1 for _ in same)) for number, same in groupby(sorted(numbers))]
            self._numbers[shelf] = array("Q", (number for number, _ in counted))
            self._counts[shelf] = array("L", (count for _, count in counted))
            self._sizes[shelf] = array("Q", bytes(8 * len(counted)))
            self._modified[shelf] = array("d", bytes(8 * len(counted)))
            yield

    def found(self, stored: Stored) -> bool:
        """Note the file of a blob; C{False} when nothing refers to it."""
        shelf, at = self._place(number_of(stored.digest))
        if at < 0:
            return False
        self._sizes[shelf][at] = stored.size
        self._modified[shelf][at] = stored.modified
        return True

    def size(self, number: int) -> int:
        """Bytes of its file, 0 when there is none."""
        shelf, at = self._place(number)
        return self._sizes[shelf][at] if at >= 0 else 0

    def modified(self, number: int) -> float:
        """When its file was written, seconds since the epoch; 0 when there is none."""
        shelf, at = self._place(number)
        return self._modified[shelf][at] if at >= 0 else 0.0

    def count(self, number: int) -> int:
        """How often it is referred to."""
        shelf, at = self._place(number)
        return self._counts[shelf][at] if at >= 0 else 0

    def release(self, number: int) -> int:
        """It is referred to once less; how often still."""
        shelf, at = self._place(number)
        self._counts[shelf][at] -= 1
        return self._counts[shelf][at]

    def restore(self, number: int) -> None:
        """Take a L{release} back."""
        shelf, at = self._place(number)
        self._counts[shelf][at] += 1

    def numbers(self) -> Iterator[int]:
        """All that were referred to, each once."""
        return chain.from_iterable(self._numbers)

    def _place(self, number: int) -> tuple[int, int]:
        """The shelf, and where on it the number is; -1 when it is not."""
        shelf = number >> 56
        numbers = self._numbers[shelf]
        at = bisect_left(numbers, number)
        return shelf, at if at < len(numbers) and numbers[at] == number else -1
