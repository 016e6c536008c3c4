"""
Publishing references: all of an import, or none.

What is to become of every repository is decided before anything is changed, and written to a journal: a value that can
be applied twice. Then the repositories are changed in one turn of the reactor, so that no reader sees some of it, and
saved one by one, the receipt is kept, and the journal is emptied. Whatever ends that half way, L{Publication.recover}
carries it to its end at the next start.

::

    state/.../publication/journal.json    what was decided and is not yet all saved; an empty one when it is
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from appliance.bundle.archivecontents import NamedManifest
from appliance.bundle.receipt import Change, Outcome, Receipt, Receipts
from appliance.errors import BundleConflict
from appliance.flow.singleflight import shielded
from appliance.index.documents import read_document
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IDocuments
from appliance.oci.digest import Digest
from appliance.oci.reference import parse_repository

T = TypeVar("T")

Observer = Callable[[str, float, Sequence[Change]], None]
"""Called with the id of a bundle, when its publication was decided (epoch), and what that has changed."""

_JOURNAL = ("publication", "journal.json")

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
    changes: list[RepositoryChange] = msgspec.field(name="portions")
    receipt: Receipt | None


NOTHING = Journal("", 0.0, [], None)
"""What stands there when everything was carried out."""


@dataclass(frozen=True)
class Published:
    """A root with every manifest beneath it, itself too; they are held."""

    root: NamedManifest
    manifests: tuple[HeldManifest, ...]


class Publication:
    """The one place where imports change repositories; one at a time."""

    _log = Logger()

    def __init__(
        self,
        repositories: Repositories,
        documents: IDocuments,
        receipts: Receipts,
        published: Observer = lambda bundle, now, changes: None,
    ) -> None:
        """
        @param documents: of the appliance's state, not of its repositories.
        @param published: called in the turn of the reactor in which repositories change. Where a publication that was
            cut is carried out again, those of its tags that had moved before are not among the changes.
        """
        self._repositories = repositories
        self._documents = documents
        self._receipts = receipts
        self._published = published
        self._lock = DeferredLock()

    async def preview(self, roots: Sequence[NamedManifest], on_existing_tag: OnExistingTag) -> list[Change]:
        """
        What publishing would change.

        @raise BundleConflict: a tag means something else, and that is to be refused.
        """
        return decide(roots, await self._loaded(roots), on_existing_tag)

    async def publish(
        self, bundle: str, content: Sequence[Published], on_existing_tag: OnExistingTag, now: float, receipt: Receipt
    ) -> Receipt:
        """
        Publish everything, or fail and publish nothing.

        Once decided it is not undone: cancelling then ends the waiting, not the publication, and a disk that cannot
        take a repository's document now is only noted, for the journal has it.

        @param receipt: what is known; the changes and its id are added.
        @return: the receipt, kept.
        @raise BundleConflict: see L{preview}.
        @raise OSError: the journal cannot be written.
        """
        await self._lock.acquire()
        # A cancelled wait does not cut it: with a half-written journal it is not known whether it was decided.
        work = Deferred.fromCoroutine(self._publish(bundle, content, on_existing_tag, now, receipt))
        work.addBoth(self._unlocked)
        return await shielded(work)

    async def amend(self, receipt: Receipt) -> None:
        """Replace the kept receipt of that id. Raises L{OSError} and L{VersionConflict}."""
        await self._receipts.amend(receipt)

    async def recover(self) -> int:
        """
        Finish what was decided and cut; to be awaited at start, before anything is served.

        @return: how many repositories there were to finish.
        """
        await self._lock.acquire()
        try:
            return await self._finish()
        finally:
            self._lock.release()

    def _unlocked(self, result: T) -> T:
        self._lock.release()
        return result

    async def _publish(
        self, bundle: str, content: Sequence[Published], on_existing_tag: OnExistingTag, now: float, receipt: Receipt
    ) -> Receipt:
        await self._finish()
        repositories = await self._loaded(published.root for published in content)
        receipt = await self._receipts.named(receipt)
        changes = decide([published.root for published in content], repositories, on_existing_tag)
        receipt = msgspec.structs.replace(receipt, refs=changes, notes=[*receipt.notes, *notes_of(changes)])
        journal = Journal(bundle, now, repository_changes(content, changes), receipt)
        _, version = await self._read()
        try:
            await self._documents.write(_JOURNAL, msgspec.json.encode(journal), version)
        except Exception:
            # It may be there all the same: the rename went well and the folder's sync did not.
            try:
                await self._clear()
            except Exception:
                self._log.failure("the journal of an import that was given up may be finished at the next start")
            raise
        # From here on it is decided.
        try:
            return await self._carry_out(journal, repositories)
        except Exception:
            self._log.failure("an import is published, and will be saved at the next start or import")
            note = "it is published; saving it is not complete and is taken up at the next start or import"
            return msgspec.structs.replace(receipt, notes=[*receipt.notes, note])

    async def _carry_out(self, journal: Journal, repositories: dict[tuple[str, str], Repository]) -> Receipt:
        """Change the repositories at once, then save them."""
        assert journal.receipt is not None
        moved: set[tuple[str, str, str]] = set()
        for change in journal.changes:
            place = (change.upstream, change.repository)
            moved.update((*place, tag) for tag in apply(repositories[place], change, journal))
        refs = journal.receipt.refs
        self._published(
            journal.bundle,
            journal.now,
            [each for each in refs if each.outcome != "moved" or (each.upstream, each.repository, each.tag) in moved],
        )
        for change in journal.changes:
            await self._repositories.save(repositories[change.upstream, change.repository])
        await self._receipts.keep(journal.receipt)
        await self._clear()
        return journal.receipt

    async def _finish(self) -> int:
        """Carry out what the journal holds."""
        journal, _ = await self._read()
        if journal.receipt is None:
            return 0
        await self._carry_out(journal, await self._loaded(journal.changes))
        return len(journal.changes)

    async def _read(self) -> tuple[Journal, int]:
        found, version = await read_document(
            self._documents, _JOURNAL, decode, "; it is of an import: import the bundle again"
        )
        return found or NOTHING, version

    async def _clear(self) -> None:
        found = await self._documents.read(_JOURNAL)
        if found is not None:
            await self._documents.write(_JOURNAL, msgspec.json.encode(NOTHING), found[1])

    async def _loaded(self, concerned: Iterable[NamedManifest | RepositoryChange]) -> dict[tuple[str, str], Repository]:
        """The repositories of what C{concerned} holds, by upstream and name."""
        places = dict.fromkeys((each.upstream, each.repository) for each in concerned)
        return {place: await self._repositories.get(*place) for place in places}


# -- what is decided: values and functions of values ------------------------------------------------------------------


def notes_of(changes: Sequence[Change]) -> list[str]:
    """What the user should know of them beside their outcomes."""
    locked = [change.name for change in changes if change.locked]
    if not locked:
        return []
    shown = ", ".join(locked[:_SHOWN]) + (f" and {len(locked) - _SHOWN} more" if len(locked) > _SHOWN else "")
    return [f"locked here, and left as it was: {shown}; what the archive has of it is held by digest (pullcache unpin)"]


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
    # What is to be refused is refused whatever else would keep it.
    is_locked = previous is not None and before is not None and before.locked and on_existing_tag != "refuse"
    outcome: Outcome
    if previous is not None:
        outcome = "kept" if on_existing_tag == "keep" or is_locked else "moved"
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
        locked=is_locked,
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
    for change in journal.changes:
        parse_repository(change.repository)
        digests = [*(each.digest for each in change.manifests), *(each.digest for each in change.tags)]
        for digest in (*digests, *change.pinned):
            Digest.parse(digest)
    return journal


def repository_changes(content: Sequence[Published], changes: Sequence[Change]) -> list[RepositoryChange]:
    """What is to become of each repository."""
    found: dict[tuple[str, str], RepositoryChange] = {}
    seen: set[tuple[str, str, str]] = set()
    for published, change in zip(content, changes, strict=True):
        place = (change.upstream, change.repository)
        what = found.setdefault(place, RepositoryChange(*place, [], [], []))
        for manifest in published.manifests:
            if (*place, manifest.digest) not in seen:
                seen.add((*place, manifest.digest))
                what.manifests.append(manifest)
        if change.tag is None or change.outcome == "kept":
            what.pinned.append(change.digest)
        else:
            what.tags.append(MovedTag(change.tag, change.digest, change.previous))
    return list(found.values())


def apply(repository: Repository, change: RepositoryChange, journal: Journal) -> list[str]:
    """
    Change the repository; doing it again changes nothing, and what was changed or locked since stays.

    @return: the tags that mean something else now.
    """
    moved = []
    for manifest in change.manifests:
        repository.hold(Digest.parse(manifest.digest), manifest.media_type, manifest.size)
    for tag in change.tags:
        digest = Digest.parse(tag.digest)
        current = repository.tags.get(tag.name)
        is_as_decided = current is None or str(current.digest) in (tag.digest, tag.previous)
        if is_as_decided and repository.tag(tag.name, digest, journal.now, journal.bundle):
            moved.append(tag.name)
        if repository.tags[tag.name].digest != digest:
            repository.pin(digest, journal.bundle)
    for text in change.pinned:
        repository.pin(Digest.parse(text), journal.bundle)
    return moved
