"""
What an import is to change, decided before anything is changed: a value that can be written down and applied twice.

Everything here is a function of values; L{appliance.bundle.publication} writes, applies and saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from appliance.bundle.archivecontents import NamedManifest
from appliance.bundle.receipt import Change, Outcome, Receipt
from appliance.errors import BundleConflict
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.reference import parse_repository

OnExistingTag = Literal["move", "keep", "refuse"]

_SHOWN = 5


class HeldManifest(msgspec.Struct, frozen=True):
    """A manifest that a repository is to hold."""

    digest: str
    media_type: str
    size: int


class MovedTag(msgspec.Struct, frozen=True):
    """A tag, what it is to mean, and what it meant when that was decided."""

    name: str
    digest: str
    previous: str | None


class RepositoryChange(msgspec.Struct, frozen=True):
    """What is to become of one repository; C{pinned} are manifests without a tag."""

    upstream: str
    repository: str
    manifests: list[HeldManifest]
    tags: list[MovedTag]
    pinned: list[str]


class Journal(msgspec.Struct, frozen=True):
    """
    What was decided at C{now}, seconds since the epoch; without a receipt nothing is.

    No field has a default: a journal of which one name was damaged is not to be taken for one with nothing in it.
    """

    bundle: str
    now: float
    portions: list[RepositoryChange]
    receipt: Receipt | None


NOTHING = Journal("", 0.0, [], None)
"""What stands there when everything was carried out."""


@dataclass(frozen=True)
class Published:
    """A root with every manifest beneath it, itself too; they are held."""

    root: NamedManifest
    manifests: tuple[HeldManifest, ...]


def decide(
    roots: Sequence[NamedManifest], repositories: dict[tuple[str, str], Repository], on_existing_tag: OnExistingTag
) -> list[Change]:
    """What becomes of every name. Raises L{BundleConflict}."""
    changes = [_change(root, repositories[root.upstream, root.repository], on_existing_tag) for root in roots]
    moved = [change for change in changes if change.outcome == "moved"]
    if moved and on_existing_tag == "refuse":
        shown = "; ".join(f"{change.name} is {change.previous}, not {change.digest}" for change in moved[:_SHOWN])
        more = f"; and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        raise BundleConflict(
            f"{len(moved)} tags mean something else here: {shown}{more}; import with --on-existing-tag move or keep"
        )
    return changes


def _change(root: NamedManifest, repository: Repository, on_existing_tag: OnExistingTag) -> Change:
    before = None if root.tag is None else repository.tags.get(root.tag)
    previous = None if before is None or before.digest == root.digest else str(before.digest)
    outcome: Outcome
    if previous is not None:
        outcome = "kept" if on_existing_tag == "keep" else "moved"
    elif before is not None or (root.tag is None and root.digest in repository.manifests):
        outcome = "unchanged"
    else:
        outcome = "new"
    return Change(
        name=root.name,
        upstream=root.upstream,
        repository=root.repository,
        tag=root.tag,
        digest=str(root.digest),
        previous=previous,
        outcome=outcome,
        rebuilt=root.rebuilt,
        refers=root.refers,
        renamed_from=root.original_name,
    )


def decode(data: bytes) -> Journal:
    """
    Read a journal as it was written down.

    @raise ValueError: it is not whole, or none of ours; L{RecursionError} and L{PullcacheError} likewise.
    """
    journal = msgspec.json.decode(data, type=Journal)
    for portion in journal.portions:
        parse_repository(portion.repository)
        digests = [*(each.digest for each in portion.manifests), *(each.digest for each in portion.tags)]
        for digest in (*digests, *portion.pinned):
            Digest.parse(digest)
    return journal


def portions(content: Sequence[Published], changes: Sequence[Change]) -> list[RepositoryChange]:
    """What is to become of each repository."""
    found: dict[tuple[str, str], RepositoryChange] = {}
    seen: set[tuple[str, str, str]] = set()
    for published, change in zip(content, changes, strict=True):
        place = (change.upstream, change.repository)
        portion = found.setdefault(place, RepositoryChange(*place, [], [], []))
        for manifest in published.manifests:
            if (*place, manifest.digest) not in seen:
                seen.add((*place, manifest.digest))
                portion.manifests.append(manifest)
        if change.tag is None or change.outcome == "kept":
            portion.pinned.append(change.digest)
        else:
            portion.tags.append(MovedTag(change.tag, change.digest, change.previous))
    return list(found.values())


def apply(repository: Repository, portion: RepositoryChange, journal: Journal) -> None:
    """Change the repository; doing it again changes nothing, and what was changed since stays."""
    for manifest in portion.manifests:
        repository.hold(Digest.parse(manifest.digest), manifest.media_type, manifest.size)
    for tag in portion.tags:
        digest = Digest.parse(tag.digest)
        current = repository.tags.get(tag.name)
        if current is None or str(current.digest) in (tag.digest, tag.previous):
            repository.tag(tag.name, digest, journal.now, journal.bundle)
        else:
            repository.pinned[digest] = journal.bundle
    for text in portion.pinned:
        repository.pinned[Digest.parse(text)] = journal.bundle
