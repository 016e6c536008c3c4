"""
Publishing references: all of an import, or none.

What is to become of every repository is written to a journal first. From then on it is decided: the repositories are
changed in one turn of the reactor, so that no reader sees some of it, then saved one by one, the receipt is kept, and
the journal is emptied. Whatever ends that half way, L{Publication.recover} carries it to its end at the next start.

::

    state/.../publication/journal.json    what was decided and is not yet all saved; an empty one when it is
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from appliance.bundle.archivecontents import NamedManifest
from appliance.bundle.journal import NOTHING, Journal, OnExistingTag, Published, apply, decide, decode, portions
from appliance.bundle.receipt import Change, Receipt, Receipts
from appliance.flow.singleflight import shielded
from appliance.index.documents import read_document
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from appliance.interfaces import IDocuments

T = TypeVar("T")

_JOURNAL = ("publication", "journal.json")


class Publication:
    """The one place where imports change repositories; one at a time."""

    _log = Logger()

    def __init__(
        self,
        repositories: Repositories,
        documents: IDocuments,
        receipts: Receipts,
        published: Callable[[Sequence[Change]], None] = lambda _: None,
    ) -> None:
        """
        @param documents: of the appliance's state, not of its repositories.
        @param published: told what changed, in the same turn of the reactor.
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
        # Not ours to cut: with the journal half written nobody could say whether it was decided.
        work = Deferred.fromCoroutine(self._publish(bundle, content, on_existing_tag, now, receipt))
        work.addBoth(self._unlocked)
        return await shielded(work)

    async def amend(self, receipt: Receipt) -> None:
        """Replace the kept receipt of that id. Raises L{OSError} and L{VersionConflict}."""
        await self._receipts.amend(receipt)

    async def recover(self) -> int:
        """
        Finish what was decided and cut; to be awaited at start, before anybody reads.

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
        roots = [published.root for published in content]
        repositories = await self._loaded(roots)
        receipt = await self._receipts.named(receipt)
        changes = decide(roots, repositories, on_existing_tag)
        receipt = msgspec.structs.replace(receipt, refs=changes)
        journal = Journal(bundle, now, portions(content, changes), receipt)
        await self._decided(journal)
        try:
            return await self._carry_out(journal, repositories)
        except Exception:
            self._log.failure("an import is published, and will be saved at the next start or import")
            note = "it is published; saving it is not complete and is taken up at the next start or import"
            return msgspec.structs.replace(receipt, notes=[*receipt.notes, note])

    async def _decided(self, journal: Journal) -> None:
        """Write the journal; whether it was decided is known when this returns or raises."""
        _, version = await self._read()
        try:
            await self._documents.write(_JOURNAL, msgspec.json.encode(journal), version)
        except Exception:
            # It may be there all the same: the rename went well and the folder's sync did not.
            await self._withdraw()
            raise

    async def _withdraw(self) -> None:
        try:
            await self._clear()
        except Exception:
            self._log.failure("the journal of an import that was given up may be finished at the next start")

    async def _carry_out(self, journal: Journal, repositories: dict[tuple[str, str], Repository]) -> Receipt:
        """Change the repositories at once, then save them."""
        assert journal.receipt is not None
        for portion in journal.portions:
            apply(repositories[portion.upstream, portion.repository], portion, journal)
        self._published(journal.receipt.refs)
        for portion in journal.portions:
            await self._repositories.save(repositories[portion.upstream, portion.repository])
        await self._receipts.keep(journal.receipt)
        await self._clear()
        return journal.receipt

    async def _finish(self) -> int:
        """Carry out what the journal holds."""
        journal, _ = await self._read()
        if journal.receipt is None:
            return 0
        repositories = {
            (portion.upstream, portion.repository): await self._repositories.get(portion.upstream, portion.repository)
            for portion in journal.portions
        }
        await self._carry_out(journal, repositories)
        return len(journal.portions)

    async def _read(self) -> tuple[Journal, int]:
        found, version = await read_document(
            self._documents, _JOURNAL, decode, "; it is of an import: import the bundle again"
        )
        return found or NOTHING, version

    async def _clear(self) -> None:
        found = await self._documents.read(_JOURNAL)
        if found is not None:
            await self._documents.write(_JOURNAL, msgspec.json.encode(NOTHING), found[1])

    async def _loaded(self, roots: Iterable[NamedManifest]) -> dict[tuple[str, str], Repository]:
        places = dict.fromkeys((root.upstream, root.repository) for root in roots)
        return {place: await self._repositories.get(*place) for place in places}
